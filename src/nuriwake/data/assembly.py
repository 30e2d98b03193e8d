"""What every format does last: name the splits, make those that are missing, look at the image headers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import did_you_mean
from nuriwake.data.dataset import DataSet, Record, TargetReader, listed
from nuriwake.data.description import DataDescription
from nuriwake.data.headers import ImageHeader, image_header
from nuriwake.data.parallel import each, spread
from nuriwake.data.splitting import split_names
from nuriwake.data.texts import composed, read_text

MOST_HEADERS = 5000
"""Of larger data sets this many image headers, evenly spaced, are looked at when opening; reading checks every image."""

_SYNONYMS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "trainval": "trainval",
}  # fmt: skip

# What read_image makes of other types; it refuses the rest of what a TIFF may hold.
_READ_AS = {"float64": "float32", "float16": "float32", "bool": "uint8"}

DEFAULT_VAL_SHARE, DEFAULT_SEED = 0.2, 0

BY_HASH = "chosen by a hash of their names"
"""What the notes say where the split is made here and not given."""


def split_name(folder: str) -> str | None:
    """The canonical split a folder or list is called after ("Validation", "train2017"), or None when it is no split."""
    return _SYNONYMS.get(folder.lower().rstrip("0123456789_-"))


def assemble(
    root: Path,
    format: str,  # noqa: A002 (the contract's word)
    space: LabelSpace,
    splits: Mapping[str, Sequence[Record]],
    *,
    reader: TargetReader,
    description: DataDescription,
    notes: Sequence[str] = (),
    sources: Sequence[Path] = (),
) -> DataSet:
    """The data set of `splits` as found on disk (the key "" means that none are given).

    Splits of the description come first, then those found, then a deterministic one; the notes say which. `sources` are the
    annotation files, see `DataSet`.

    Raises:
        UserError: no records, repeated names, or images whose channels or types do not go together.
    """
    records = [record for part in splits.values() for record in part]
    if not records:
        raise UserError(f"{root}: no image with a mask was found.")
    repeated = [name for name, count in Counter(composed(record.name) for record in records).items() if count > 1]
    if repeated:
        raise UserError(f"{root}: {len(repeated)} names stand for more than one image: {listed(sorted(repeated))}.")
    final, split_notes = final_splits(root, splits, description)
    headers = each(lambda record: image_header(record.image), chosen := spread(records, MOST_HEADERS))
    channels, dtype, image_notes = _image_kind(root, chosen, headers)
    if len(chosen) < len(records):
        image_notes.append(f"{len(chosen)} of {len(records)} images were looked at; every one is checked when read.")
    return DataSet(
        root,
        format,
        space,
        final,
        reader=reader,
        notes=(*notes, *image_notes, *split_notes),
        channels=channels,
        dtype=dtype,
        spacing=description.spacing,
        sources=tuple(sources),
    )


def _image_kind(root: Path, records: Sequence[Record], headers: Sequence[ImageHeader]) -> tuple[int, str, list[str]]:
    """(channels, dtype, notes), when all images go together."""
    kind_of = [(header.channels, _READ_AS.get(header.dtype, header.dtype)) for header in headers]
    kinds = Counter(kind_of)
    notes: list[str] = []
    dtypes, channels = {dtype for _, dtype in kinds}, {count for count, _ in kinds}
    if len(dtypes) > 1 or (len(channels) > 1 and channels != {1, 3}):
        found = "; ".join(f"{number} of {count} channels {dtype}" for (count, dtype), number in kinds.most_common())
        rare = kinds.most_common()[-1][0]
        example = records[list(kind_of).index(rare)].image
        raise UserError(f"{root}: all images must have the same channels and type, found {found} (such as {example}).")
    if len(channels) > 1:
        grey = sum(number for (count, _), number in kinds.items() if count == 1)
        verb = "is grey and" if grey == 1 else "are grey and"
        notes.append(f"{grey} of {len(headers)} images {verb} read as RGB like the others.")
    elif channels != {3} or dtypes != {"uint8"}:
        notes.append(f"Images have {_count(next(iter(channels)), 'channel')} of {next(iter(dtypes))}.")
    turned = sum(header.orientation != 1 for header in headers)
    if turned:
        notes.append(f"{_count(turned, 'image')} carry an EXIF orientation; they are turned upright when read.")
    alpha = sum(header.alpha for header in headers)
    if alpha:
        notes.append(f"{_count(alpha, 'image')} have an alpha channel; it is dropped.")
    return max(channels), next(iter(dtypes)), notes


def final_splits(
    root: Path, splits: Mapping[str, Sequence[Record]], description: DataDescription, *, what: str = "images"
) -> tuple[dict[str, tuple[Record, ...]], list[str]]:
    """The splits of the description, else those found, else a deterministic one; and notes. `what` the records stand for.

    Raises:
        UserError: a share outside 0..1, or names in the description that there are not, or that are in two splits.
    """
    if description.splits:
        return _described(root, [record for part in splits.values() for record in part], description)
    found = {name: tuple(sorted(part, key=lambda record: record.name)) for name, part in splits.items()}
    share = DEFAULT_VAL_SHARE if description.val_share is None else description.val_share
    if not 0 <= share <= 1:
        raise UserError(f"{root}: val_share lies in 0..1, found {share}.")
    seed = DEFAULT_SEED if description.seed is None else description.seed
    source = next((name for name in ("", "train", "trainval") if found.get(name)), None)
    if "val" in found or source is None:
        return found, ["Splits as given: " + ", ".join(f"{name} {len(part)}" for name, part in found.items()) + "."]
    by_name = {record.name: record for record in found.pop(source)}
    train, val = split_names(by_name, val_share=share, seed=seed)
    parts = {"train": tuple(by_name[name] for name in train), "val": tuple(by_name[name] for name in val), **found}
    why = f"The split '{source}' has no val beside it" if source else "No splits are given"
    return parts, [
        f"{why}; {len(val)} of {len(by_name)} {what} are val, {BY_HASH} (val_share {share:g}, "
        f"seed {seed}), and {len(train)} are train."
    ]


def _described(
    root: Path, records: Sequence[Record], description: DataDescription
) -> tuple[dict[str, tuple[Record, ...]], list[str]]:
    by_name = {composed(record.name): record for record in records}
    parts: dict[str, tuple[Record, ...]] = {}
    taken: dict[str, str] = {}
    for split, given in description.splits.items():
        names = sorted(
            {name for entry in _entries(root, split, given) for name in _matching(composed(entry), by_name, split)}
        )
        for name in names:
            if taken.setdefault(name, split) != split:
                raise UserError(
                    f"splits: '{name}' is in '{taken[name]}' and in '{split}'; a name belongs to one split."
                )
        parts[split] = tuple(by_name[name] for name in names)
    counts = ", ".join(f"{split} {len(part)}" for split, part in parts.items())
    rest = len(records) - len(taken)
    left = f"; {_count(rest, 'image')} {'is' if rest == 1 else 'are'} in none" if rest else ""
    return parts, [f"Splits as described: {counts}{left}."]


def _entries(root: Path, split: str, given: Sequence[str] | str) -> list[str]:
    if not isinstance(given, str):
        return list(given)
    path = root / given
    if Path(given).suffix.lower() in (".txt", ".csv", ".lst"):
        if not path.is_file():
            raise UserError(f"splits.{split}: there is no file {path}.")
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return [given]


def _matching(pattern: str, by_name: Mapping[str, Record], split: str) -> list[str]:
    """Names for a composed `pattern`."""
    if pattern in by_name:
        return [pattern]
    names = [
        name
        for name, record in by_name.items()
        if pattern in (composed(record.image.name), composed(record.image.stem))
    ]
    if not names and any(sign in pattern for sign in "*?["):
        names = [name for name in by_name if fnmatchcase(name, pattern)]
    if len(names) != 1 and not any(sign in pattern for sign in "*?["):
        names = [name for name in by_name if name == str(Path(pattern).with_suffix(""))] or names
        if len(names) > 1:
            raise UserError(f"splits.{split}: '{pattern}' may mean {listed(names)}; give the whole name.")
    if not names:
        raise UserError(f"splits.{split}: there is no image '{pattern}'.{did_you_mean(pattern, list(by_name)[:1000])}")
    return names


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
