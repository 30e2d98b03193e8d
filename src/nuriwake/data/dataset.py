"""DataSet: records in splits, and how to read one. What every format gives and the rest of the house takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import did_you_mean
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target
from nuriwake.data.headers import image_header
from nuriwake.data.identity import fingerprint
from nuriwake.data.images import read_image


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set, not read yet.

    Args:
        name: unique in the data set: the path relative to the image folder without its suffix, with `/`.
        image: the image file.
        target: where the truth lies, in whatever small picklable form the format's `TargetReader` understands: the path
            of a mask, paths per class, an index into arrays that the reader holds. None: there is no truth.
        spacing: of this image, (height, width), where the images of a data set differ; None takes that of the data set.
    """

    name: str
    image: Path
    target: Any = None
    spacing: tuple[float, float] | None = None


TargetReader = Callable[[Record], Target | None]
"""A format's reader: record -> target. A frozen dataclass with `__call__`, so that it can be sent to workers."""

TargetKeeper = Callable[[Record, TargetReader], Target | None]
"""What a reader gives for a record, read now or kept from before; picklable. See `data.mask_cache`."""


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
        spacing: of every sample, (height, width), unless its record says another.
        sources: annotation files that hold the truth of many images (a COCO JSON); their contents are in the fingerprint.
        keeper: asked for every target in place of the reader; it changes nothing of what is read.
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
    sources: tuple[Path, ...] = field(default=(), kw_only=True)
    keeper: TargetKeeper | None = field(default=None, kw_only=True)

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
            UserError: the file is named; also when its channels or type differ from the rest, when values are not finite
                (NaN, infinite), or sizes do not agree.
        """
        image = read_image(record.image)
        if image.shape[2] == 1 and self.channels == 3:
            image = np.repeat(image, 3, axis=2)
        if image.shape[2] != self.channels or image.dtype != np.dtype(self.dtype):
            raise UserError(
                f"{record.image}: {image.shape[2]} channels of {image.dtype}, but the other images have {self.channels} "
                f"of {self.dtype}; convert it or take it out."
            )
        if image.dtype == np.float32 and not np.isfinite(image).all():
            bad = int(image.size - np.isfinite(image).sum())
            raise UserError(
                f"{record.image}: {bad:,} of {image.size:,} values are not finite (NaN or infinite), which would make the loss "
                "nan; replace them by a number, and give their pixels the mask value that is ignored."
            )
        target = self.read_target(record)
        try:
            return Sample(image, target, name=record.name, source=record.image, spacing=record.spacing or self.spacing)
        except UserError as error:
            raise UserError(f"{error}{_turned_hint(record, image, target)}") from error

    def read_target(self, record: Record) -> Target | None:
        """The target alone, without decoding the image."""
        return self.reader(record) if self.keeper is None else self.keeper(record, self.reader)

    def fingerprint(self) -> str:
        """32 hex digits: the same data, decoded in the same way, give the same ones, wherever they lie; see `data.identity`."""
        return fingerprint(self)

    def with_splits(self, splits: Mapping[str, tuple[Record, ...]], *notes: str) -> "DataSet":
        """The same data with other splits; `notes` are added."""
        return replace(self, splits=dict(splits), notes=(*self.notes, *notes))


def listed(names: Sequence[str], *, most: int = 10) -> str:
    """Up to `most` of `names`, then how many more."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def _turned_hint(record: Record, image: np.ndarray, target: Target | None) -> str:
    turned = target is not None and target.size == (image.shape[1], image.shape[0])
    if turned and image_header(record.image).orientation != 1:
        return " The image carries an EXIF orientation, which is applied; the mask was drawn on the unturned image."
    return ""
