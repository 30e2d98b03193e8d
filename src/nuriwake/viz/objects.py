"""Objects and segments over their image: each in a colour of its own near that of its class, outlined, boxed and named."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from nuriwake.core.geometry import resize_array
from nuriwake.core.instances import Instances
from nuriwake.core.labels import Colour, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import Size
from nuriwake.core.views import larger_first
from nuriwake.viz.display import Picture, display_image, drawable
from nuriwake.viz.fonts import draw_text, line_height, shorten, text_width
from nuriwake.viz.legend import PAPER, Entry, draw_legend
from nuriwake.viz.overlay import hatching, paint

TURN = 0.381966
"""Of the circle of hues from one object to the next, the golden angle: neighbours in number look different."""

_SMALLEST, _LARGEST = 10, 28  # pixels of the text


def overlay_instances(
    image: Picture,
    target: Instances,
    *,
    opacity: float = 0.5,
    legend: bool = True,
    boxes: bool = True,
    captions: bool = True,
) -> np.ndarray:
    """`image` with the objects of `target` over it: tint, outline, box, and "class score" in the box's corner.

    Of one class only, objects have all hues, so that neighbours are told apart; of several, hues near that of their class.
    Larger objects are painted first. Crowd regions are hatched. Captions that find no room beside others are left out.

    Args:
        image: (H, W) or (H, W, C) uint8, uint16 or float32, or a Pillow image, shown as `display_image` says.
        target: of the image's size.
        opacity: of the tint, 0 (only outlines) to 1.
        legend: write the classes and how many objects each has into the upper left corner.

    Returns:
        uint8 RGB (H, W, 3), a new array.

    Raises:
        ValueError: `target` and `image` differ in size.
    """
    image = drawable(image)
    _check_size(image, target.size)
    canvas = display_image(image)
    order = larger_first(target)
    ids = np.zeros(target.size, np.int32)
    target.masks[order].paint(ids, order + 1)
    colours = object_colours(target.labels, target.space)
    paint_ids(canvas, ids, colours, opacity, hatched=target.crowd)
    if boxes:
        _draw_boxes(canvas, target.boxes, colours)
    if captions:
        _draw_captions(canvas, target.boxes, _captions(target.labels, target.scores, target.space), colours)
    if legend:
        draw_legend(canvas, object_entries(target.labels, target.masks.areas(), target.space))
    return canvas


def overlay_panoptic(
    image: Picture, target: Panoptic, *, opacity: float = 0.5, legend: bool = True, captions: bool = True
) -> np.ndarray:
    """`image` with the segments of `target` over it: stuff in its class's colour, things near theirs, void untouched.

    Args and errors: as `overlay_instances`; captions stand on things alone, the legend names all classes.
    """
    image = drawable(image)
    _check_size(image, target.size)
    canvas = display_image(image)
    colours = object_colours(target.labels, target.space)
    ids = np.zeros(target.size, np.int32)
    masks = target.masks()
    masks.paint(ids, np.arange(1, len(target) + 1))
    paint_ids(canvas, ids, colours, opacity, hatched=target.crowd)
    if captions:
        things = np.flatnonzero(np.array(target.space.things)[target.labels] & ~target.crowd)
        scores = None if target.scores is None else target.scores[things]
        words = _captions(target.labels[things], scores, target.space)
        _draw_captions(canvas, masks[things].boxes(), words, colours[things])
    if legend:
        draw_legend(canvas, object_entries(target.labels, target.areas(), target.space))
    return canvas


def draw_objects(shown: np.ndarray, target: Instances | Panoptic, *, opacity: float = 0.5) -> np.ndarray:
    """`target` over `shown`, uint8 RGB of any size: for small pictures of large images. No legend. A new array."""
    size = (shown.shape[0], shown.shape[1])
    if isinstance(target, Panoptic):
        return overlay_panoptic(shown, _small_panoptic(target, size), opacity=opacity, legend=False)
    if size == target.size:
        return overlay_instances(shown, target, opacity=opacity, legend=False)
    scale = np.array([size[1] / target.size[1], size[0] / target.size[0]] * 2, np.float32)
    boxes = target.boxes * scale
    small = replace(target, masks=target.masks.resize(size), boxes=boxes)
    return overlay_instances(shown, small, opacity=opacity, legend=False)


def _small_panoptic(target: Panoptic, size: Size) -> Panoptic:
    # By halves: float32, in which maps are resized, holds whole numbers up to 2 ** 24.
    halves = [
        resize_array(half.astype(np.float32), size, "nearest").astype(np.int32)
        for half in np.divmod(target.ids, 1 << 16)
    ]
    ids = (halves[0] << 16) + halves[1]
    there = np.isin(target.segment_ids, ids)
    return Panoptic(
        ids,
        target.segment_ids[there],
        target.labels[there],
        target.space,
        crowd=target.crowd[there],
        scores=None if target.scores is None else target.scores[there],
    )


def object_colours(labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """uint8 RGB (N, 3) for objects of the classes `labels` (N,); stuff has exactly its class's colour."""
    seen: dict[int, int] = {}
    out = np.zeros((len(labels), 3), np.uint8)
    several = sum(space.things) > 1
    for index, label in enumerate(labels.tolist()):
        number = seen[label] = seen.get(label, -1) + 1
        colour = space.colours[label]
        out[index] = _varied(colour, number, spread=0.12 if several else 1.0) if space.things[label] else colour
    return out


def object_entries(labels: np.ndarray, areas: np.ndarray, space: LabelSpace) -> list[Entry]:
    """Legend entries of the classes in `labels` (N,), things with their number; `areas` (N,) say which stay when room is short."""
    entries: list[Entry] = []
    for label in range(len(space)):
        where = labels == label
        if where.any():
            name = f"{space.names[label]} ({where.sum()})" if space.things[label] else space.names[label]
            entries.append(Entry(name, space.colours[label], int(areas[where].sum())))
    return entries


def paint_ids(
    canvas: np.ndarray, ids: np.ndarray, colours: np.ndarray, opacity: float, *, hatched: np.ndarray | None = None
) -> None:
    """Tint and outline `canvas` (H, W, 3) uint8 in place: `ids` (H, W) int32, 0 nothing, n the colour n - 1 of (N, 3)."""
    table = np.concatenate([np.zeros((1, 3), np.uint8), colours])
    paint(canvas, ids > 0, table[ids], opacity)
    if hatched is not None and hatched.any():
        where = np.concatenate([[False], hatched])[ids]
        paint(canvas, where, hatching(canvas.shape[:2], period=max(8, min(ids.shape) // 40)), max(opacity, 0.35))
    thickness = max(1, round(min(ids.shape) / 600))
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    exact = ids.astype(np.float32)  # OpenCV dilates no int32; 24 bits hold every id there is
    edges = (cv2.dilate(exact, kernel) != cv2.erode(exact, kernel)) & (ids > 0)
    paint(canvas, edges, (table[ids] * 0.5 + 127).astype(np.uint8), 1.0)


def _draw_boxes(canvas: np.ndarray, boxes: np.ndarray, colours: np.ndarray) -> None:
    thickness = max(1, round(min(canvas.shape[:2]) / 500))
    for (left, top, right, bottom), colour in zip(boxes.round().astype(int).tolist(), colours.tolist(), strict=True):
        cv2.rectangle(canvas, (left, top), (max(right - 1, left), max(bottom - 1, top)), colour, thickness)


def _captions(labels: np.ndarray, scores: np.ndarray | None, space: LabelSpace) -> list[str]:
    names = [space.names[label] for label in labels.tolist()]
    return names if scores is None else [f"{n} {s:.2f}" for n, s in zip(names, scores.tolist(), strict=True)]


def _draw_captions(canvas: np.ndarray, boxes: np.ndarray, words: Sequence[str], colours: np.ndarray) -> None:
    """Large objects first; a caption that would cover another one, or is wider than twice its object, is left out."""
    height, width = canvas.shape[:2]
    size = int(np.clip(min(height, width) / 32, _SMALLEST, _LARGEST))
    taken = np.zeros((height, width), bool)
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    for index in map(int, order):
        left, top, right, _ = boxes[index].round().astype(int).tolist()
        text = shorten(words[index], size, width)
        wide, high = text_width(text, size) + 4, line_height(size)
        if wide > 2 * (right - left):
            continue
        top = top - high if top >= high else top  # above the box where there is room
        left = int(np.clip(left, 0, max(width - wide, 0)))
        patch = (slice(top, top + high), slice(left, left + wide))
        if taken[patch].any():
            continue
        taken[patch] = True
        canvas[patch] = (canvas[patch] * 0.25 + colours[index] * 0.2).astype(np.uint8)
        draw_text(canvas, text, top=top, left=left + 2, size=size, colour=PAPER)


def _varied(colour: Colour, number: int, *, spread: float) -> tuple[int, int, int]:
    """`colour` with another hue, within `spread` of the circle, and another lightness."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    place = number * TURN % 1.0
    hue = (hue + spread * (place - (0.5 if spread < 1 else 0))) % 1.0
    lightness = min(max(lightness, 0.4), 0.65) + 0.12 * ((number * 0.618034) % 1.0 - 0.5)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, max(saturation, 0.6))
    return round(red * 255), round(green * 255), round(blue * 255)


def _check_size(image: np.ndarray, size: tuple[int, int]) -> None:
    if size != image.shape[:2]:
        raise ValueError(f"The target is {size} pixels (height, width) but the image is {image.shape[:2]}.")
