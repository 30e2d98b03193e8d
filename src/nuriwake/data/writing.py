"""Data out: samples, with truth or with predictions, in any of the formats that have a writer."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import lookup
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.description import Format
from nuriwake.data.formats import FORMATS
from nuriwake.data.left_behind import space_losses, target_losses
from nuriwake.data.regions import region_space, with_regions
from nuriwake.data.written import Writer, WriteSettings, Written, count_note, counted_notes

_REGIONS = "Each connected region of a class is written as one object; objects that touch are one."
_PATCH = 8
"""Pixels of a side of what stands for a class where a format is tried."""


def write_data(
    samples: Iterable[Sample],
    folder: Path | str,
    *,
    format: str,  # noqa: A002 (the contract's word)
    space: LabelSpace,
    settings: WriteSettings | None = None,
) -> Written:
    """Write `samples` to `folder`, one at a time, as one split.

    Targets are seen as the format sees them: objects are painted into a map where it holds maps, a panoptic target gives its
    things where it holds objects, and a label map its connected regions where `settings.regions` says so. The notes say what
    was left behind.

    Args:
        format: a name in `FORMATS`.
        space: the classes of the targets.
        settings: split, images and the like.

    Raises:
        UserError: a format that is only read, a split that is there already, a sample without a target, or one that
            cannot be seen that way.
    """
    write, chosen = refuse_unwritable(format), settings or WriteSettings()
    entry: Format = lookup(format, FORMATS, "format")
    notes: dict[str, int] = {}
    samples = _counted(samples, entry, notes)
    if not chosen.regions or entry.holds != "objects":
        written = write(samples, Path(folder), space, chosen)
        left = space_losses(space, entry)
    else:
        seen = region_space(space)
        written = write(with_regions(samples, seen), Path(folder), seen, chosen)
        left = [_REGIONS, *space_losses(seen, entry)]
    return written._replace(notes=(*written.notes, *counted_notes(notes), *left))


def _counted(samples: Iterable[Sample], entry: Format, notes: dict[str, int]) -> Iterator[Sample]:
    """The same samples; what each loses is counted in `notes`."""
    for sample in samples:
        for text in target_losses(sample.target, entry) if sample.target is not None else ():
            count_note(notes, text)
        yield sample


def refuse_unsuitable(
    format: str,  # noqa: A002
    kind: type[Target],
    space: LabelSpace,
    *,
    channels: int = 3,
    settings: WriteSettings | None = None,
) -> None:
    """Raises UserError where targets of `kind` with the classes `space` cannot be written in the format: before the work is done.

    The writer itself says so, of a small sample in which every class occurs once, in a folder that is thrown away.

    Args:
        channels: of the images.
        settings: as in `write_data`.
    """
    refuse_unwritable(format)
    target = _example(kind, space)
    sample = Sample(np.zeros((*target.size, channels), np.uint8), target, name="example")
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_data([sample], Path(folder) / format, format=format, space=space, settings=settings)
        except UserError as error:
            text = str(error).replace(folder, "").lstrip("/").removeprefix("example: ").removeprefix(f"{format}: ")
            raise UserError(f"Predictions cannot be written as '{format}': {text}") from error


def _example(kind: type[Target], space: LabelSpace) -> Target:
    """Every class once, side by side."""
    count = len(space)
    classes = np.repeat(np.arange(count, dtype=np.int32), _PATCH)[None].repeat(_PATCH, axis=0)
    labels, numbers = np.arange(count, dtype=np.int32), np.arange(1, count + 1, dtype=np.int32)
    if kind is Instances:
        return Instances(
            RunMasks.from_labels(classes + 1, numbers), labels, space, scores=np.full(count, 0.5, np.float32)
        )
    if kind is Panoptic:
        return Panoptic(classes + 1, numbers, labels, space, scores=np.full(count, 0.5, np.float32))
    if space.exclusive:
        return SemanticMap(classes.astype(np.uint8), space)
    return SemanticMap((classes[..., None] == labels).astype(np.uint8), space)


def refuse_unwritable(format: str) -> Writer:  # noqa: A002
    """The writer of the format called so. Raises UserError when there is no such format, or it is only read."""
    if format.lower() == "geojson":
        raise UserError("GeoJSON is written by the format 'geotiff', as polygons beside the masks: --to geotiff.")
    entry: Format = lookup(format, FORMATS, "format")
    if entry.write is None:
        known = ", ".join(sorted(writable()))
        raise UserError(f"The format '{format}' is only read; formats that are written: {known}.")
    return entry.write


def writable() -> dict[str, Writer]:
    """The formats that are written."""
    entries: dict[str, Format] = {name: lookup(name, FORMATS, "format") for name in FORMATS}
    return {name: entry.write for name, entry in entries.items() if entry.write is not None}
