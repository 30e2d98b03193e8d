"""Cityscapes (Cordts et al. 2016): leftImg8bit/<split>/<city>/ beside gtFine/ with instanceIds, labelIds or labelTrainIds.

With instanceIds the truth is panoptic. The classes are the 19 that are evaluated; the other label ids are void, as in the
benchmark. Source of the table: cityscapesscripts/helpers/labels.py (the published numbers and colours).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.labels import IGNORE, Colour, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.coding import MaskCoding, from_mapping
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.images import read_mask
from nuriwake.data.layout import image_files
from nuriwake.data.mask_folder import MaskReader
from nuriwake.data.seen import target_of
from nuriwake.data.written import ImageWriter, WriteSettings, Written, count_note, refuse_existing


class CityClass(NamedTuple):
    """One evaluated class: its label id in the files, whether objects are told apart, its colour."""

    name: str
    label_id: int
    thing: bool
    colour: Colour


CLASSES = (
    CityClass("road", 7, False, (128, 64, 128)),
    CityClass("sidewalk", 8, False, (244, 35, 232)),
    CityClass("building", 11, False, (70, 70, 70)),
    CityClass("wall", 12, False, (102, 102, 156)),
    CityClass("fence", 13, False, (190, 153, 153)),
    CityClass("pole", 17, False, (153, 153, 153)),
    CityClass("traffic light", 19, False, (250, 170, 30)),
    CityClass("traffic sign", 20, False, (220, 220, 0)),
    CityClass("vegetation", 21, False, (107, 142, 35)),
    CityClass("terrain", 22, False, (152, 251, 152)),
    CityClass("sky", 23, False, (70, 130, 180)),
    CityClass("person", 24, True, (220, 20, 60)),
    CityClass("rider", 25, True, (255, 0, 0)),
    CityClass("car", 26, True, (0, 0, 142)),
    CityClass("truck", 27, True, (0, 0, 70)),
    CityClass("bus", 28, True, (0, 60, 100)),
    CityClass("train", 31, True, (0, 80, 100)),
    CityClass("motorcycle", 32, True, (0, 0, 230)),
    CityClass("bicycle", 33, True, (119, 11, 32)),
)
SPACE = LabelSpace(
    tuple(item.name for item in CLASSES),
    tuple(item.thing for item in CLASSES),
    tuple(item.colour for item in CLASSES),
)
_MOST_LABEL_ID = 33
_PER_CLASS = 1000
"""An object is label id * 1000 + its number; a group of objects, and stuff, is the label id alone."""
_IMAGE, _INSTANCES, _TRAIN_IDS, _LABEL_IDS = "_leftImg8bit", "_instanceIds", "_labelTrainIds", "_labelIds"


@dataclass(frozen=True)
class CityscapesReader:
    """record.target is the PNG of instanceIds."""

    space: LabelSpace

    def __call__(self, record: Record) -> Panoptic:
        """Objects one by one, groups as crowd, stuff once. Raises UserError for ids that no label has."""
        raw = read_mask(record.target)
        if raw.ndim != 2:
            raise UserError(f"{record.target}: instanceIds are grey of 16 bits, found a PNG with colours.")
        found = np.flatnonzero(np.bincount(raw.ravel()))
        label_ids = np.where(found >= _PER_CLASS, found // _PER_CLASS, found)
        unknown = found[label_ids > _MOST_LABEL_ID]
        if len(unknown):
            raise UserError(
                f"{record.target}: ids {listed([str(i) for i in unknown.tolist()])} belong to no label (0 to 33)."
            )
        labels = _label_table()[label_ids]
        kept = labels >= 0
        # Ids begin at 7, so that they are segment ids as they stand.
        table = np.zeros(int(found[-1]) + 1, np.int32)
        table[found[kept]] = found[kept]
        things = np.array(self.space.things)[labels[kept]]
        crowd = things & (found[kept] < _PER_CLASS)
        return Panoptic(
            table[raw], found[kept].astype(np.int32), labels[kept].astype(np.int32), self.space, crowd=crowd
        )


def recognise(root: Path) -> str | None:
    """Because leftImg8bit/ and gtFine/ (or gtCoarse/) lie in the folder."""
    truth = _truth(root)
    return f"it has leftImg8bit/ and {truth.name}/" if truth is not None else None


def open_cityscapes(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`, of the richest truth that all images of a split have.

    Raises:
        UserError: folders or truth that are not there.
    """
    refuse_fields(description, "cityscapes")
    truth = _truth(root)
    if truth is None:
        raise UserError(f"{root}: Cityscapes has leftImg8bit/ and gtFine/; they are not there.")
    images = {key: path for key, path in image_files(root / "leftImg8bit").items() if key.endswith(_IMAGE)}
    masks = image_files(truth)
    kind = next(
        (kind for kind in (_INSTANCES, _TRAIN_IDS, _LABEL_IDS) if any(key.endswith(kind) for key in masks)), None
    )
    if kind is None:
        raise UserError(f"{truth}: there are no files that end with {_INSTANCES}, {_TRAIN_IDS} or {_LABEL_IDS}.")
    splits: dict[str, list[Record]] = {}
    without: list[str] = []
    for key, image in images.items():
        bare = key.removesuffix(_IMAGE)
        mask = masks.get(f"{bare}_{truth.name}{kind}")
        if mask is None:
            without.append(key)
            continue
        folder = key.partition("/")[0]
        splits.setdefault(split_name(folder) or folder, []).append(Record(bare, image, mask))
    notes = [f"The 19 evaluated classes of Cityscapes, from the files *{kind}.png; other labels are ignored."]
    if without and all(split_name(key.partition("/")[0]) == "test" for key in without):
        notes.append(f"{len(without)} images of 'test' have no truth and are left out.")
    elif without and description.unpaired == "refuse":
        raise UserError(
            f"{root}: {len(without)} images have no {truth.name}{kind}.png: {listed(without)}; complete them, or write "
            "'unpaired: skip' in a YAML description to leave them out."
        )
    elif without:
        notes.append(f"{len(without)} images have no truth and are left out, as described: {listed(without)}.")
    reader = CityscapesReader(SPACE) if kind == _INSTANCES else MaskReader(SPACE, _coding(kind))
    return assemble(root, "cityscapes", SPACE, splits, reader=reader, description=description, notes=notes)


def write_cityscapes(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes leftImg8bit/<split>/ and gtFine/<split>/ with labelIds and labelTrainIds, and instanceIds where there are segments.

    Raises:
        UserError: the split is there already, classes beyond the 19, or more than 999 objects of a class in an image.
    """
    truth = folder / "gtFine" / settings.split
    refuse_existing(truth)
    unknown = [name for name in space.names if name not in SPACE.names]
    if unknown:
        raise UserError(
            f"{folder}: Cityscapes has {len(SPACE)} classes of its own; {listed(unknown)} are none of them."
        )
    writer = ImageWriter(folder / "leftImg8bit" / settings.split, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    label_ids = np.array([*(item.label_id for item in CLASSES), *[0] * (256 - len(CLASSES))], np.uint8)
    for sample in samples:
        target = target_of(sample)
        name = writer.name(sample).removesuffix(_IMAGE)
        name = name if "/" in name else f"city/{name}"  # images lie in folders of cities
        writer.write(sample, name + _IMAGE)
        if not isinstance(target, SemanticMap | Panoptic):
            raise UserError(f"{name}: Cityscapes has a class for every pixel; objects alone leave the rest open.")
        labels = semantic_view(target, SPACE).labels
        found = [(_TRAIN_IDS, labels), (_LABEL_IDS, label_ids[labels])]
        if isinstance(target, Panoptic):
            found.append((_INSTANCES, _instance_ids(target, name)))
        else:
            count_note(notes, "images: a map of classes does not tell objects apart; instanceIds are not written")
        for kind, array in found:
            files.append(truth / f"{name}_gtFine{kind}.png")
            with atomic_path(files[-1]) as temporary:
                Image.fromarray(array).save(temporary, format="PNG")
    texts = tuple(f"{number} {text}." for text, number in notes.items())
    return Written((*files, *writer.files), (*texts, *writer.notes))


FORMAT = Format(recognise, open_cityscapes, write_cityscapes)


def _instance_ids(target: Panoptic, name: str) -> np.ndarray:
    numbers = np.zeros(len(target), np.int64)
    counts: dict[int, int] = {}
    for i, (segment, label) in enumerate(zip(target.segment_ids.tolist(), target.labels.tolist(), strict=True)):
        item = CLASSES[SPACE.index(target.space.names[label])]
        if not item.thing or target.crowd[i]:
            numbers[i] = item.label_id
        elif segment // _PER_CLASS == item.label_id:  # as Cityscapes numbers them
            numbers[i] = segment
        else:
            counts[item.label_id] = counts.get(item.label_id, 0) + 1
            numbers[i] = item.label_id * _PER_CLASS + counts[item.label_id] - 1
            if counts[item.label_id] > _PER_CLASS:
                raise UserError(
                    f"{name}: Cityscapes tells {_PER_CLASS} objects of a class apart, found more of '{item.name}'."
                )
    canvas = np.zeros(target.size, np.uint16)
    target.masks().paint(canvas, numbers)
    return canvas


def _label_table() -> np.ndarray:
    table = np.full(_MOST_LABEL_ID + 1, -1, np.int64)
    for label, item in enumerate(CLASSES):
        table[item.label_id] = label
    return table


def _coding(kind: str) -> MaskCoding:
    if kind == _TRAIN_IDS:
        return from_mapping({**{label: label for label in range(len(CLASSES))}, 255: IGNORE})
    void = dict.fromkeys(range(_MOST_LABEL_ID + 1), IGNORE)
    return from_mapping({**void, 255: IGNORE, **{item.label_id: label for label, item in enumerate(CLASSES)}})


def _truth(root: Path) -> Path | None:
    if not (root / "leftImg8bit").is_dir():
        return None
    return next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)
