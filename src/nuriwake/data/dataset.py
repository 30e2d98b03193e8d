"""DataSet: records in splits, and how to read one. What every format gives and the rest of the house takes."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import did_you_mean
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_image


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set, not read yet.

    Args:
        name: unique in the data set: the path relative to the image folder without its suffix, with `/`.
        image: the image file.
        target: where the truth lies, in whatever small picklable form the format's `TargetReader` understands: the path
            of a mask, paths per class, an index into arrays that the reader holds. None: there is no truth.
    """

    name: str
    image: Path
    target: Any = None


TargetReader = Callable[[Record], Target | None]
"""A format's reader: record -> target. A frozen dataclass with `__call__`, so that it can be sent to workers."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """An opened data set.

    Args:
        root: its folder.
        format: the name in `FORMATS`.
        space: the classes.
        splits: split name -> records, sorted by name. Canonical names are "train", "val" and "test".
        reader: record -> target.
        notes: what was recognised or assumed, as sentences to print.
        channels: of every image, as `read` gives it.
        dtype: of every image: "uint8", "uint16" or "float32".
        spacing: of every sample, (height, width).
    """

    root: Path
    format: str
    space: LabelSpace
    splits: Mapping[str, tuple[Record, ...]]
    reader: TargetReader = field(kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    channels: int = field(default=3, kw_only=True)
    dtype: str = field(default="uint8", kw_only=True)
    spacing: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)

    def records(self, split: str) -> tuple[Record, ...]:
        """The records of `split`. Raises UserError with the splits there are."""
        if split not in self.splits:
            found = ", ".join(f"{name} ({len(records)})" for name, records in self.splits.items())
            raise UserError(
                f"{self.root}: there is no split '{split}'; found {found}.{did_you_mean(split, self.splits)}"
            )
        return self.splits[split]

    def read(self, record: Record) -> Sample:
        """The sample of `record`: its image with `channels` channels of `dtype`, and its target.

        Grey images of a data set of 3 channels are repeated to 3 (the notes say so).

        Raises:
            UserError: the file is named; also when its channels or type differ from the rest, or sizes do not agree.
        """
        image = read_image(record.image)
        if image.shape[2] == 1 and self.channels == 3:
            image = np.repeat(image, 3, axis=2)
        if image.shape[2] != self.channels or image.dtype != np.dtype(self.dtype):
            raise UserError(
                f"{record.image}: {image.shape[2]} channels of {image.dtype}, but the other images have {self.channels} "
                f"of {self.dtype}; convert it or take it out."
            )
        target = self.reader(record)
        try:
            return Sample(image, target, name=record.name, source=record.image, spacing=self.spacing)
        except UserError as error:
            raise UserError(f"{error}{_turned_hint(record, image, target)}") from error

    def read_target(self, record: Record) -> Target | None:
        """The target alone, without decoding the image."""
        return self.reader(record)

    def fingerprint(self) -> str:
        """32 hex digits over splits, names, classes, file sizes and the last bytes of files (no times): the same data give the same digits."""
        digest = blake2b(repr((self.format, self.space, self.channels, self.dtype)).encode(), digest_size=16)
        for split in sorted(self.splits):
            for record in self.splits[split]:
                line = (split, record.name, _identity(record.image, self.root), _identity(record.target, self.root))
                digest.update(repr(line).encode())
        return digest.hexdigest()

    def with_splits(self, splits: Mapping[str, tuple[Record, ...]], *notes: str) -> "DataSet":
        """The same data with other splits; `notes` are added."""
        return replace(self, splits=dict(splits), notes=(*self.notes, *notes))


def check_trainable(data: DataSet, *, train: str = "train", val: str = "val") -> None:
    """Refuse what cannot be trained on.

    Raises:
        UserError: fewer than two exclusive classes, or an empty or missing split.
    """
    if data.space.exclusive and len(data.space) < 2:
        raise UserError(
            f"{data.root}: there is one class only ('{data.space.names[0]}'), and training needs at least two (background "
            "and foreground); are the masks empty, or is a class missing in the class list?"
        )
    for split in (train, val):
        if not data.records(split):
            raise UserError(f"{data.root}: the split '{split}' is empty.")


def listed(names: Sequence[str], *, most: int = 10) -> str:
    """Up to `most` of `names`, then how many more."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def _identity(value: Any, root: Path) -> Any:
    """Paths as (relative path, size in bytes, last bytes), sequences item by item, everything else as it is."""
    if isinstance(value, Path):
        relative = value.relative_to(root).as_posix() if value.is_relative_to(root) else value.name
        return (relative, *_size_and_end(value))
    if isinstance(value, tuple | list):
        return tuple(_identity(item, root) for item in value)
    return value


def _size_and_end(path: Path) -> tuple[int, bytes]:
    """Masks of a few classes often have the same size; the end of a PNG holds checksums over all its pixels."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 64, 0))
            return size, file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _turned_hint(record: Record, image: np.ndarray, target: Target | None) -> str:
    turned = target is not None and target.size == (image.shape[1], image.shape[0])
    if turned and image_header(record.image).orientation != 1:
        return " The image carries an EXIF orientation, which is applied; the mask was drawn on the unturned image."
    return ""
