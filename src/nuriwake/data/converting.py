"""A data set from one format to another: everything that can be refused is, before the first file is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_folder
from nuriwake.core.lookup import lookup
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.dataset import DataSet, listed
from nuriwake.data.description import Format
from nuriwake.data.formats import FORMATS, recognise
from nuriwake.data.nifti_address import slice_address
from nuriwake.data.texts import counted
from nuriwake.data.writing import refuse_unwritable, write_data
from nuriwake.data.written import WriteSettings, Written, refuse_existing

Names = Mapping[str, Sequence[str]]
"""Split -> the name of every record, without the split."""


def convert_data(
    data: DataSet,
    target: Path,
    *,
    format: str,  # noqa: A002 (the contract's word)
    settings: WriteSettings,
    say: Callable[[str], None] = print,
) -> tuple[str, ...]:
    """Write every split of `data` to the folder `target`; where that is new or empty, it appears when all of it is written.

    Args:
        format: a format that is written.
        settings: the split in it is of no account.
        say: receives a line for each split.

    Returns:
        What the format could not carry, or what was changed, as sentences.

    Raises:
        UserError: there is no such format; `target` is the data set itself or one of another format; a split or a name is there
            already, or stands for two samples; regions are asked for where there is nothing to make of them; the format cannot
            hold a sample.
    """
    refuse_unwritable(format)
    entry: Format = lookup(format, FORMATS, "format")
    _refuse_place(data, target, format)
    if settings.regions:
        _refuse_regions(data, format, entry)
    names, changed = names_to_write(data, entry)
    _refuse_taken(data, names, target, entry)
    notes: dict[str, list[str]] = {}
    with atomic_folder(target.absolute()) as folder:
        for split, records in data.splits.items():
            written = _write_split(data, split, names[split], folder, target, format, settings)
            texts = ("{:,} [image|images]", len(records)), ("{:,} [file|files]", len(written.files))
            say(f"{split}: {', '.join(counted(text.format(count), count) for text, count in texts)} -> {target}")
            for note in written.notes:
                notes.setdefault(note, []).append(split)
    told = (note if len(of) == len(data.splits) else f"{', '.join(of)}: {note}" for note, of in notes.items())
    return (*changed, *told)


def _write_split(
    data: DataSet,
    split: str,
    names: Sequence[str],
    folder: Path,
    target: Path,
    format: str,  # noqa: A002
    settings: WriteSettings,
) -> Written:
    """Writes to `folder`, which the user knows as `target`."""
    try:
        return write_data(
            _samples(data, split, names),
            folder,
            format=format,
            space=data.space,
            settings=replace(settings, split=split),
        )
    except UserError as error:
        raise UserError(str(error).replace(str(folder), str(target))) from error


def names_to_write(data: DataSet, entry: Format) -> tuple[Names, list[str]]:
    """The names of all samples in the format, and notes: where splits share a folder in which names would be one, the split goes
    before every name.

    Raises:
        UserError: two samples would be written as one nevertheless.
    """
    names = {
        split: [record.name.removeprefix(f"{split}/") for record in records] for split, records in data.splits.items()
    }
    repeated = _repeated(data, names, entry)
    if not repeated:
        return names, []
    prefixed = {split: [f"{split}_{name}" for name in part] for split, part in names.items()}
    first = _repeated(data, prefixed, entry)
    if first:
        raise UserError(
            f"{data.root}: {listed(first[0])} would be written as one file of this format; rename one of them, or choose another "
            "format."
        )
    count = len(repeated)
    text = counted("[name stands|names stand]", count)
    example = ", ".join(f"{name} becomes {name.replace('/', '_', 1)}" for name in repeated[0][:2])
    return prefixed, [
        f"{count:,} {text} for images of different splits, which this format keeps in one folder; the split goes before every name "
        f"({example})."
    ]


def _repeated(data: DataSet, names: Names, entry: Format) -> list[list[str]]:
    """The samples, as split/name, that would be written as one; slices of a volume are, rightly."""
    found: dict[str, dict[object, str]] = {}
    for split, records in data.splits.items():
        for number, (record, name) in enumerate(zip(records, names[split], strict=True)):
            address = slice_address(record.image)
            owner = (split, number) if address is None else (split, address.file)
            same = found.setdefault(entry.truth_file(name, record.image, split), {})
            same[owner] = f"{split}/{record.name.removeprefix(f'{split}/')}"
    return [list(owners.values()) for owners in found.values() if len(owners) > 1]


def _refuse_place(data: DataSet, target: Path, format: str) -> None:  # noqa: A002
    """Raises UserError where `target` is the data set that is read, lies in it, or is one of another format."""
    home, there = data.root.resolve(), target.resolve()
    if there == home or there.is_relative_to(home):
        raise UserError(f"{target}: this is the data set that is converted, or lies in it; choose another folder.")
    if target.is_file():
        raise UserError(f"{target}: this is a file; a data set is written to a folder.")
    fitting = recognise(target) if target.is_dir() else {}
    if fitting and format not in fitting:
        reasons = "; ".join(f"'{name}' because {reason}" for name, reason in fitting.items())
        raise UserError(
            f"{target}: this is a data set already ({reasons}), and two formats in one folder cannot be told apart; choose another "
            "folder."
        )


def _refuse_regions(data: DataSet, format: str, entry: Format) -> None:  # noqa: A002
    if entry.holds not in ("objects", "segments"):
        entries: dict[str, Format] = {name: lookup(name, FORMATS, "format") for name in sorted(FORMATS)}
        fitting = ", ".join(name for name, other in entries.items() if other.holds in ("objects", "segments"))
        raise UserError(
            f"The format '{format}' holds a map of classes as it is; leave --regions out, which is for {fitting}."
        )
    records = next((part for part in data.splits.values() if part), ())
    if records and not isinstance(data.read_target(records[0]), SemanticMap):
        raise UserError(
            f"{data.root}: --regions is for maps of classes, but the objects here are told apart already; leave it out."
        )


def _refuse_taken(data: DataSet, names: Names, target: Path, entry: Format) -> None:
    """Raises UserError where something is there that a split, or one of its samples, would be written over."""
    for split in data.splits:
        refuse_existing(*(entry.taken(target, split) if entry.taken is not None else ()))
    places = {
        entry.truth_file(name, record.image, split)
        for split, records in data.splits.items()
        for record, name in zip(records, names[split], strict=True)
    }
    refuse_existing(*(target / place for place in sorted(places)))


def _samples(data: DataSet, split: str, names: Sequence[str]) -> Iterator[Sample]:
    for record, name in zip(data.splits[split], names, strict=True):
        yield replace(data.read(record), name=f"{split}/{name}")
