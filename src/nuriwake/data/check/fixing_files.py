"""The corrected copy of formats that keep the truth of every image in files of its own: YOLO, LabelMe, ADE20K, Cityscapes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from nuriwake.data.check.entry import Entry
from nuriwake.data.check.fixing import copy_file, place
from nuriwake.data.check.survey import Survey

FORMATS = ("yolo", "labelme", "ade20k", "cityscapes")


def copy_rest(survey: Survey, left_out: Mapping[str, str], folder: Path, done: Counter[str]) -> None:
    """Every file of the data set but its images, which are there already, and the truth of samples that are `left_out`."""
    images = {entry.image.resolve() for entry in survey.listing.entries}
    gone = [entry for entry in survey.listing.entries if entry.name in left_out]
    skipped = {path.resolve() for entry in gone for path in _truth(entry)}
    begins = tuple(
        entry.image.stem.removesuffix("leftImg8bit") for entry in gone if entry.image.stem.endswith("leftImg8bit")
    )
    for path in sorted(survey.listing.root.rglob("*")):
        if not path.is_file() or path.resolve() in images or path.resolve() in skipped:
            continue
        if begins and path.name.startswith(begins):
            continue
        copy_file(path, place(survey.listing, path, folder))
    done["[file|files] of truth left out with [its sample|their samples]"] += len(skipped)


def _truth(entry: Entry) -> Iterator[Path]:
    target = entry.record.target if entry.record is not None else None
    yield from (path for path in (target if isinstance(target, tuple) else (target,)) if isinstance(path, Path))
