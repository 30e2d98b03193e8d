"""Pascal VOC, written: JPEGImages/, SegmentationClass/, SegmentationObject/, ImageSets/Segmentation/<split>.txt."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace, palette
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target, write_palette_png
from nuriwake.core.views import instance_view, semantic_space, semantic_view
from nuriwake.data.seen import object_numbers, paint_objects, target_of
from nuriwake.data.texts import read_text
from nuriwake.data.written import (
    ImageWriter,
    WriteSettings,
    Written,
    count_note,
    counted_notes,
    refuse_existing,
    refuse_other_classes,
)

MOST_OBJECTS = 254


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / "ImageSets" / "Segmentation" / f"{split}.txt",)


def truth_file(name: str, image: Path, split: str) -> str:
    """The mask of a sample: all splits share one folder."""
    del image, split
    return f"SegmentationClass/{name}.png"


def write_voc(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one list of ImageSets/Segmentation. Objects are numbered from 1; overlaps go to the smaller one.

    Raises:
        UserError: the list is there already, classes are multi-label or without a background, a sample without a target or
            with more than 254 objects.
    """
    (index,) = taken(folder, settings.split)
    refuse_existing(index)
    classes = semantic_space(space) if space.exclusive else space
    if not classes.exclusive or not classes.has_background:
        raise UserError(
            f"{folder}: Pascal VOC has one class per pixel, the first of them the background; found {', '.join(space.names[:5])}."
        )
    listing, text = folder / "class_names.txt", "".join(f"{name}\n" for name in classes.names)
    refuse_other_classes(listing, read_text(listing).splitlines() if listing.exists() else None, text.splitlines())
    colours = palette(256)
    writer = ImageWriter(folder / "JPEGImages", settings)
    files: list[Path] = []
    names: list[str] = []
    notes: dict[str, int] = {}
    for sample in samples:
        target = target_of(sample)
        name = writer.name(sample)
        refuse_existing(*(folder / f"Segmentation{kind}" / f"{name}.png" for kind in ("Class", "Object")))
        writer.write(sample, name)
        names.append(name)
        labels = semantic_view(target).labels
        if not isinstance(target, SemanticMap):
            objects = _objects(name, target, labels, notes)
            files.append(write_palette_png(folder / "SegmentationObject" / f"{name}.png", objects, colours))
        files.append(write_palette_png(folder / "SegmentationClass" / f"{name}.png", labels, colours))
    write_text(index, "".join(f"{name}\n" for name in names))
    write_text(listing, text)
    texts = tuple(counted_notes(notes))
    return Written((*files, index, listing, *writer.files), (*texts, *writer.notes))


def _objects(name: str, target: Target, labels: np.ndarray, notes: dict[str, int]) -> np.ndarray:
    found: Instances = instance_view(target)
    if len(found) > MOST_OBJECTS:
        raise UserError(
            f"{name}: Pascal VOC tells {MOST_OBJECTS} objects apart, found {len(found)}; write COCO instances."
        )
    numbers = object_numbers(found, MOST_OBJECTS)
    if numbers is None:
        numbers = np.arange(1, len(found) + 1)
        if found.ids is not None:
            count_note(
                notes, f"[image|images]: ids of objects are beyond 1 to {MOST_OBJECTS}; they are numbered from 1"
            )
    canvas, hidden = paint_objects(found, numbers.astype(np.uint8))
    canvas[labels == IGNORE] = IGNORE
    if hidden:
        count_note(notes, "[image|images]: objects overlap, which a label map cannot hold; the smaller one is on top")
    if found.crowd.any():
        count_note(notes, "[image|images]: crowd regions are written like objects")
    return canvas
