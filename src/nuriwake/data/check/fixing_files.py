"""The corrected copy of formats whose own reader reads them: which files of the data set it has."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nuriwake.core.files import atomic_path, write_text
from nuriwake.data.check.entry import Entry
from nuriwake.data.check.fixing_shapes import without_twice
from nuriwake.data.check.survey import Survey

FORMATS = ("yolo", "labelme", "ade20k", "cityscapes", "cvat", "label_studio", "geotiff", "nifti")
SHAPED = ("cvat", "label_studio")
"""Formats of which one file holds the shapes of many images."""

_LISTED = ("yolo", "labelme", "geotiff")


def copy_file(path: Path, to: Path) -> None:
    """`path` as it is, to `to`; atomic."""
    with atomic_path(to) as temporary:
        shutil.copyfile(path, temporary)


def copy_rest(survey: Survey, left_out: Mapping[str, str], folder: Callable[[Path], Path], done: Counter[str]) -> None:
    """Every file of the data set but its images, which are there already, and the truth of samples that are `left_out`; without
    what stands twice in lists of shapes. `folder` says where the copy of a file lies."""
    truth = {path.resolve() for entry in survey.listing.entries for path in _truth(entry)}
    sources = {path.resolve() for path in survey.listing.sources} if survey.listing.format in SHAPED else set[Path]()
    images = {entry.image.resolve() for entry in survey.listing.entries}
    gone = [entry for entry in survey.listing.entries if entry.name in left_out]
    kept = {path.resolve() for entry in survey.listing.entries if entry.name not in left_out for path in _truth(entry)}
    skipped = {path.resolve() for entry in gone for path in _truth(entry)} - kept
    begins = tuple(
        entry.image.stem.removesuffix("leftImg8bit") for entry in gone if entry.image.stem.endswith("leftImg8bit")
    )
    beside = {entry.name for entry in gone} if survey.listing.format == "geotiff" else set[str]()
    for path in sorted(survey.listing.root.rglob("*")):
        if not path.is_file() or _name(path.relative_to(survey.listing.root)) in beside:
            continue  # masks beside polygons, and the reverse
        if path.resolve() in images | skipped | sources:
            continue
        if begins and path.name.startswith(begins):
            continue
        listed = (
            survey.listing.format in _LISTED
            and path.resolve() in truth
            and path.suffix in (".txt", ".json", ".geojson")
        )
        text = without_twice(path, done) if listed else None
        if text is None:
            copy_file(path, folder(path))
        else:
            write_text(folder(path), text)
    done["[file|files] of truth left out with [its sample|their samples]"] += len(skipped)


def _name(path: Path) -> str:
    """As samples are called: without the first folder and the suffix."""
    return Path(*path.parts[1:]).with_suffix("").as_posix() if len(path.parts) > 1 else ""


def _truth(entry: Entry) -> Iterator[Path]:
    target = entry.record.target if entry.record is not None else None
    yield from (path for path in (target if isinstance(target, tuple) else (target,)) if isinstance(path, Path))
