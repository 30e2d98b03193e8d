"""Data out: samples, with truth or with predictions, in any of the formats that have a writer."""

from collections.abc import Iterable
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import lookup
from nuriwake.core.sample import Sample
from nuriwake.data.description import Format
from nuriwake.data.formats import FORMATS
from nuriwake.data.regions import region_space, with_regions
from nuriwake.data.written import Writer, WriteSettings, Written

_REGIONS = "Each connected region of a class is written as one object; objects that touch are one."


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
    if not chosen.regions or not lookup(format, FORMATS, "format").objects:
        return write(samples, Path(folder), space, chosen)
    seen = region_space(space)
    written = write(with_regions(samples, seen), Path(folder), seen, chosen)
    return written._replace(notes=(*written.notes, _REGIONS))


def refuse_unwritable(format: str) -> Writer:  # noqa: A002
    """The writer of the format called so. Raises UserError when there is no such format, or it is only read."""
    entry: Format = lookup(format, FORMATS, "format")
    if entry.write is None:
        known = ", ".join(sorted(writable()))
        raise UserError(f"The format '{format}' is only read; formats that are written: {known}.")
    return entry.write


def writable() -> dict[str, Writer]:
    """The formats that are written."""
    entries: dict[str, Format] = {name: lookup(name, FORMATS, "format") for name in FORMATS}
    return {name: entry.write for name, entry in entries.items() if entry.write is not None}
