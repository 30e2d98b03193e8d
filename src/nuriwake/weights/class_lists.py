"""Names of the classes of well-known data sets, in the order of the labels that published weights were trained on."""

import json
from dataclasses import replace
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.data.texts import read_text

_VOC = """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor"""

_CITYSCAPES = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person,
rider, car, truck, bus, train, motorcycle, bicycle"""

_ADE20K = """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island,
computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster,
stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent,
bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen,
blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board,
shower, radiator, glass, clock, flag"""

_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"""

_COCO_STUFF = """things, banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel,
house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs,
tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged, fence-merged,
ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged,
grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged,
rug-merged"""


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


_ADE20K_STUFF = """0 1 2 3 4 5 6 9 11 13 16 17 21 25 26 28 29 34 40 46 48 51 52 54 59 60 61 63 68 77 79 84 91 94 96 99 100
101 105 106 109 113 114 117 122 128 131 140 141 145"""
"""ADE20K's 50 kinds of stuff among its 150 classes (Mask2Former's register_ade20k_panoptic.py, field "isthing")."""

THINGS: dict[int, tuple[bool, ...]] = {
    133: tuple(label < 80 for label in range(133)),
    150: tuple(str(label) not in _ADE20K_STUFF.split() for label in range(150)),
    19: tuple(label >= 11 for label in range(19)),
}
"""Number of classes of a panoptic list -> which are things: 80 in COCO, 100 in ADE20K, 8 in Cityscapes (from person on)."""


def _things(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name, thing in zip(names, THINGS[len(names)], strict=True) if thing)


CLASS_LISTS: dict[tuple[str, int], tuple[str, ...]] = {
    ("voc", 21): tuple(_VOC.split()),
    ("voc", 20): tuple(_VOC.split())[1:],
    ("cityscapes", 19): _split(_CITYSCAPES),
    ("cityscapes", 8): _things(_split(_CITYSCAPES)),
    ("ade20k", 150): _split(_ADE20K),
    ("ade20k", 100): _things(_split(_ADE20K)),
    ("coco", 80): _split(_COCO),
    ("coco", 54): _split(_COCO_STUFF),
    ("coco", 133): (*_split(_COCO), *_split(_COCO_STUFF)[1:]),
}
"""(data set, number of classes) -> names. COCO's 54 are its 53 kinds of stuff behind one class for all things; its 133 are
the 80 things and this stuff, as its panoptic task has them. The 100 and 8 are the things of the other two, in their order."""

_COCO_LEFT_OUT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
_COCO_STUFF_IDS = """92 93 95 100 107 109 112 118 119 122 125 128 130 133 138 141 144 145 147 148 149 151 154 155 156 159 161 166
168 171 175 176 177 178 180 181 184 185 186 187 188 189 190 191 192 193 194 195 196 197 198 199 200"""

COCO_IDS = (
    *(number for number in range(1, 91) if number not in _COCO_LEFT_OUT),
    *(int(number) for number in _COCO_STUFF_IDS.split()),
)
"""The category ids of COCO's 133 panoptic classes, the first 80 those of its objects: its numbers have gaps."""


def with_ids(space: LabelSpace) -> LabelSpace:
    """`space` with COCO's category ids where its classes are COCO's 80 or 133; else as it is."""
    if CLASS_LISTS.get(("coco", len(space))) != space.names or len(space) not in (80, 133):
        return space
    return replace(space, ids=COCO_IDS[: len(space)])


TITLES = {"voc": "Pascal VOC", "cityscapes": "Cityscapes", "ade20k": "ADE20K", "coco": "COCO"}
"""What the data sets are called."""


BACKGROUND = "background"
"""What everything is called that the class of a single output is not."""


def unnamed(channels: int) -> LabelSpace:
    """The space of a model with `channels` outputs whose classes nobody named."""
    if channels == 1:
        return LabelSpace((BACKGROUND, "foreground"))
    return numbered(channels)


def numbered(classes: int) -> LabelSpace:
    """The space of `classes` classes that nobody named."""
    return LabelSpace(tuple(f"class_{label}" for label in range(classes)))


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """The class names in a text file (one a line, the first is label 0) or a JSON list.

    Raises:
        UserError: no such file, or no list of names.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: the class list is no JSON ({error}).") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: a class list in JSON is a list of names, found {type(names).__name__}.")
    return tuple(names)
