"""Pascal VOC: JPEGImages/, SegmentationClass/ (palette PNG, 255 = void), ImageSets/Segmentation/*.txt where present.

With SegmentationObject/ beside, which numbers the objects, the truth is panoptic: nothing of the two masks is lost.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, IGNORE_COLOUR, LabelSpace, palette
from nuriwake.core.panoptic import Panoptic
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.classes import ClassList, find_classes
from nuriwake.data.coding import MaskCoding
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.deciding import decide
from nuriwake.data.description import DataDescription, Format
from nuriwake.data.images import read_mask
from nuriwake.data.layout import image_files
from nuriwake.data.mask_folder import MaskReader
from nuriwake.data.observing import Observed, observe, unpack
from nuriwake.data.texts import composed, counted, read_text
from nuriwake.data.voc_write import taken, truth_file, write_voc

BACKGROUND_ID = 256
"""The segment of the background: objects have the numbers 1 to 254."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of the challenge (Everingham et al. 2010), in the order of its palette."""


@dataclass(frozen=True)
class VocReader:
    """record.target is the pair of masks, of classes and of objects."""

    space: LabelSpace
    coding: MaskCoding

    def __call__(self, record: Record) -> Panoptic:
        """Objects by their number, all background as one segment, the rim (255) void.

        Raises:
            UserError: the two masks disagree: sizes, objects without a class or the reverse, or of several classes.
        """
        classes, objects = record.target
        labels, numbers = self.coding(read_mask(classes), classes), read_mask(objects)
        if numbers.shape != labels.shape:
            raise UserError(
                f"{objects}: the mask of objects is {numbers.shape}, that of classes {labels.shape} (height, width)."
            )
        numbers = numbers.astype(np.int32)
        numbers[numbers == IGNORE] = 0
        odd = int(((numbers > 0) != ((labels > 0) & (labels != IGNORE))).sum())
        if odd:
            raise UserError(
                f"{objects}: {odd:,} pixels have an object but no class in SegmentationClass/, or the reverse; the two masks of "
                "an image cover the same pixels. Without SegmentationObject/ the classes alone are read."
            )
        pairs = np.unique(numbers * 256 + labels)
        found = pairs[pairs >= 256]
        ids = found >> 8
        several = np.flatnonzero(ids[1:] == ids[:-1])
        if len(several):
            names = [self.space.names[label & 255] for label in found[several[0] : several[0] + 2].tolist()]
            raise UserError(f"{objects}: the object {ids[several[0]]} has several classes: {', '.join(names)}.")
        kept = (found & 255).astype(np.int32)
        if (labels == 0).any():
            numbers[labels == 0] = BACKGROUND_ID
            ids, kept = np.append(ids, BACKGROUND_ID), np.append(kept, 0)
        return Panoptic(numbers, ids.astype(np.int32), kept.astype(np.int32), self.space)


def recognise(root: Path) -> str | None:
    """Because JPEGImages/ and SegmentationClass/ lie in the folder, or in its VOCdevkit/VOC20xx."""
    home = _home(root)
    return None if home is None else "it has JPEGImages/ and SegmentationClass/"


def open_voc(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`; the records are the masks of SegmentationClass/.

    Raises:
        UserError: masks without an image, names in ImageSets/ that do not exist, values beyond the classes.
    """
    home = _home(root)
    if home is None:
        raise UserError(f"{root}: Pascal VOC has JPEGImages/ and SegmentationClass/; they are not there.")
    images, masks = image_files(home / "JPEGImages"), image_files(home / "SegmentationClass")
    if not masks:
        raise UserError(f"{home / 'SegmentationClass'}: the folder holds no masks.")
    alone = [name for name in masks if name not in images]
    if alone:
        raise UserError(f"{home}: {len(alone)} masks have no image in JPEGImages/: {listed(alone)}.")
    classes = find_classes(home, description)
    notes: list[str] = []
    if not classes.names:
        classes = ClassList(VOC_CLASSES, source="the Pascal VOC challenge")
    if len(images) > len(masks):
        count = len(images) - len(masks)
        text = counted("[image|images] of JPEGImages/ [has no mask and is|have no mask and are] left out.", count)
        notes.append(f"{count} {text}")
    seen = observe([(images[name], masks[name]) for name in sorted(masks)])
    if seen.colours and not classes.colours:
        space, coding = _palette_coding(home, seen, classes)
        notes.append("Masks are RGB pictures of the VOC palette; colours are read as classes.")
    else:
        space, decided, more = decide(home, seen, classes, threshold=description.threshold, things=description.things)
        coding = decided or MaskCoding(threshold=1)
        notes.extend(more)
    objects = _objects(home, masks, space, notes)
    truth = {name: (path, objects[name]) if objects else path for name, path in masks.items()}
    splits = _splits(home, {name: Record(name, images[name], truth[name]) for name in sorted(masks)}, notes)
    if objects:
        space = replace(space, things=(False, *(True,) * (len(space) - 1)))
    reader = VocReader(space, coding) if objects else MaskReader(space, coding)
    return assemble(root, "voc", space, splits, reader=reader, description=description, notes=tuple(notes))


FORMAT = Format(recognise, open_voc, write_voc, taken=taken, truth_file=truth_file)


def _home(root: Path) -> Path | None:
    candidates = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    fitting = [c for c in candidates if (c / "JPEGImages").is_dir() and (c / "SegmentationClass").is_dir()]
    return fitting[-1] if fitting else None  # the newest year holds the older ones


def _objects(home: Path, masks: dict[str, Path], space: LabelSpace, notes: list[str]) -> dict[str, Path]:
    """The masks of objects, by name; empty where they are not there for all, or where class 0 is no background."""
    folder = home / "SegmentationObject"
    if not folder.is_dir() or not space.has_background:
        return {}
    objects = image_files(folder)
    without = [name for name in masks if name not in objects]
    if without:
        notes.append(
            f"{len(without)} of {len(masks)} masks have no mask of objects in SegmentationObject/ ({listed(without)}); objects are "
            "not told apart."
        )
        return {}
    notes.append("Objects are told apart by SegmentationObject/: every class but the background is a thing.")
    return objects


def _splits(home: Path, records: dict[str, Record], notes: list[str]) -> dict[str, list[Record]]:
    """Of ImageSets/Segmentation; "trainval" only where train and val are not there."""
    lists = {
        name: path
        for path in sorted((home / "ImageSets" / "Segmentation").glob("*.txt"))
        if (name := split_name(path.stem)) is not None
    }
    if "train" in lists and "val" in lists:
        lists.pop("trainval", None)
    splits: dict[str, list[Record]] = {}
    for split, path in lists.items():
        names = [composed(line.split()[0]) for line in read_text(path).splitlines() if line.strip()]
        without = [name for name in names if name not in records]
        if without and split == "test":
            text = f"[image|images] of {path.name} [has no mask and is|have no mask and are] left out."
            notes.append(f"{len(without)} {counted(text, len(without))}")
        elif without:
            raise UserError(f"{path}: {len(without)} names have no mask in SegmentationClass/: {listed(without)}.")
        if part := [records[name] for name in names if name in records]:
            splits[split] = part
    left = len(records) - len({record.name for part in splits.values() for record in part})
    if splits and left:
        notes.append(f"{left} masks are in no list of ImageSets/Segmentation/ and are left out.")
    return splits or {"": list(records.values())}


def _palette_coding(home: Path, seen: Observed, classes: ClassList) -> tuple[LabelSpace, MaskCoding]:
    colours = palette(len(classes.names))
    known = {**{colour: label for label, colour in enumerate(colours)}, IGNORE_COLOUR: IGNORE}
    unknown = [unpack(value) for value in seen.colours if unpack(value) not in known]
    if unknown:
        raise UserError(
            f"{home}: masks are RGB pictures with colours that are not in the VOC palette of {len(colours)} classes: "
            f"{listed([str(colour) for colour in unknown])}; name the colours in the field 'colours' of a YAML description."
        )
    return LabelSpace(classes.names, (), colours), MaskCoding(colours=tuple(known.items()))
