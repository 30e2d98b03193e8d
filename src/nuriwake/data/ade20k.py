"""ADE20K scene parsing (Zhou et al. 2017): images/ and annotations/ beside objectInfo150.txt; 0 is unlabelled, class i is i + 1."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import write_palette_png
from nuriwake.core.views import semantic_view
from nuriwake.data.assembly import assemble
from nuriwake.data.coding import from_mapping
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.layout import find_layout, image_files, pair, refuse_unpaired
from nuriwake.data.mask_folder import MaskReader
from nuriwake.data.seen import target_of
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

CLASS_FILE = "objectInfo150.txt"
_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def recognise(root: Path) -> str | None:
    """Because objectInfo150.txt lies in the folder, or in the one above."""
    home = _home(root)
    if home is None:
        return None
    above = "" if (root / CLASS_FILE).is_file() else " in the folder above"
    return f"it has {(home / 'annotations').relative_to(root).as_posix()}/, and {CLASS_FILE}{above}"


def open_ade20k(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`; with training/ and validation/ in images/ and annotations/, or without splits.

    Raises:
        UserError: no class file, images without annotation or the reverse.
    """
    refuse_fields(description, "ade20k")
    home = _home(root)
    layout = None if home is None else find_layout(home, "images", "annotations")
    if layout is None:
        raise UserError(f"{root}: ADE20K has {CLASS_FILE}, images/ and annotations/; they are not there.")
    names = _names(next(path for path in (root / CLASS_FILE, root.parent / CLASS_FILE) if path.is_file()))
    space = LabelSpace(names)
    splits: dict[str, list[Record]] = {}
    for split, (images, masks) in layout.parts.items():
        found, truth = image_files(images), image_files(masks)
        pairing = pair(found, truth, "")
        refuse_unpaired(images.parent, pairing)
        splits[split] = [
            Record(f"{split}/{key}" if split else key, found[key], truth[mask])
            for key, mask in sorted(pairing.pairs.items())
        ]
    coding = from_mapping({0: IGNORE, **{label + 1: label for label in range(len(names))}})
    notes = (f"{len(names)} classes from {CLASS_FILE}; 0 is unlabelled and ignored.",)
    return assemble(
        root, "ade20k", space, splits, reader=MaskReader(space, coding), description=description, notes=notes
    )


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / "annotations" / _FOLDERS.get(split, split),)


def write_ade20k(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes images/<split>/, annotations/<split>/ and objectInfo150.txt, which counts as many classes as there are.

    Raises:
        UserError: the split is there already, more than 254 or multi-label classes, or a sample without a target.
    """
    word = _FOLDERS.get(settings.split, settings.split)
    (masks,) = taken(folder, settings.split)
    refuse_existing(masks)
    writer = ImageWriter(folder / "images" / word, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    classes, listing = space, folder / CLASS_FILE
    for sample in samples:
        target = target_of(sample)
        seen = semantic_view(target)
        classes = seen.space
        if not classes.exclusive or len(classes) > IGNORE - 1:
            raise UserError(f"{folder}: ADE20K has one of at most {IGNORE - 1} classes per pixel.")
        if not files:
            refuse_other_classes(listing, _names(listing) if listing.exists() else None, _first_names(classes.names))
        if seen is not target:
            count_note(notes, "[image|images]: the map of classes does not tell objects apart, which is left behind")
        name = writer.name(sample)
        writer.write(sample, name)
        files.append(masks / f"{name}.png")
        # 255 (ignore) wraps to 0, which is what unlabelled is here.
        write_palette_png(files[-1], seen.labels + np.uint8(1), ((0, 0, 0), *classes.colours))
    write_text(listing, _table(classes))
    texts = tuple(counted_notes(notes))
    return Written((*files, listing, *writer.files), (*texts, *writer.notes))


FORMAT = Format(recognise, open_ade20k, write_ade20k, holds="classes", taken=taken)


def _table(classes: LabelSpace) -> str:
    rows = [f"{i + 1}\t0\t0\t0\t{name}\n" for i, name in enumerate(classes.names)]
    return "Idx\tRatio\tTrain\tVal\tName\n" + "".join(rows)


def _home(root: Path) -> Path | None:
    if not any((folder / CLASS_FILE).is_file() for folder in (root, root.parent)):
        return None
    homes = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
    return next((home for home in homes if (home / "images").is_dir() and (home / "annotations").is_dir()), None)


def _names(path: Path) -> tuple[str, ...]:
    """Of the classes in the table at `path`."""
    try:
        rows = [row for row in csv.reader(read_text(path).splitlines(), delimiter="\t") if row]
    except csv.Error as error:
        raise UserError(f"{path}: this is no table ({error}).") from error
    if len(rows) < 2 or any(len(row) < 5 for row in rows):
        raise UserError(f"{path}: expected tab-separated columns Idx, Ratio, Train, Val, Name.")
    return _first_names([row[4] for row in rows[1:]])


def _first_names(whole: Sequence[str]) -> tuple[str, ...]:
    """The first of the names of every class, as the scene parsing challenge does; all where the first stands twice."""
    firsts = [name.split(",")[0].strip() for name in whole]
    return tuple(name if firsts.count(first) > 1 else first for name, first in zip(whole, firsts, strict=True))
