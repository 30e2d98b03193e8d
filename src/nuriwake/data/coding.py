"""MaskCoding: raw mask values -> labels, decided once when a data set is opened and checked on every mask read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, Colour
from nuriwake.core.targets import unknown_labels
from nuriwake.data.dataset import listed
from nuriwake.data.observing import LEAST_TINTED, distinct, pack, tint_of, unpack


@dataclass(frozen=True)
class MaskCoding:
    """How raw values code labels: exactly one of the first three is set.

    Args:
        values: (raw value, label) pairs; every other value is an error that names the file.
        colours: (RGB, label) pairs, likewise.
        threshold: from this raw value on it is label 1, below label 0 (masks that are grey pictures; 1 for
            instance ids).
    """

    values: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[Colour, int], ...] = ()
    threshold: int | None = None

    def __post_init__(self) -> None:
        beyond = [value for value, _ in self.values if not 0 <= value <= 65535]
        if beyond:
            raise UserError(f"Mask values lie in 0..65535, found {beyond[0]} among 'values' or 'ignore'; correct it.")

    def __call__(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """`raw` (H, W) or (H, W, 3) as `read_mask` gives it -> labels (H, W) uint8.

        Raises:
            UserError: values beyond the classes; with the file and what was found.
        """
        if self.colours:
            return self._from_colours(raw, path)
        if raw.ndim == 3:
            if self._has_colour(raw, path):
                raise UserError(f"{path}: the mask has colours, but the other masks code classes by grey value.")
            raw = np.ascontiguousarray(raw[..., 0])
        if self.threshold is not None:
            return (raw >= self.threshold).astype(np.uint8)
        return self._from_values(raw, path)

    def _has_colour(self, raw: np.ndarray, path: Path) -> bool:
        if np.array_equal(raw[..., 0], raw[..., 1]) and np.array_equal(raw[..., 0], raw[..., 2]):
            return False
        # JPEG leaves small differences between the channels of a grey picture.
        lossy = self.threshold is not None and path.suffix.lower() in (".jpg", ".jpeg")
        return not lossy or tint_of(raw) >= LEAST_TINTED

    def _from_values(self, raw: np.ndarray, path: Path) -> np.ndarray:
        quick, free = _byte_table(self.values)
        if raw.dtype == np.uint8 and free < IGNORE:
            labels = cv2.LUT(raw, quick)
            if not unknown_labels(labels, free - 1):
                return labels
        table, known = _value_table(self.values)
        if raw.dtype == np.uint8:
            counts = cv2.calcHist([raw], [0], None, [256], [0, 256])
            found = np.flatnonzero(counts.ravel())
        else:
            found = distinct(raw)
        beyond = found[~known[found]]
        if len(beyond):
            expected = _ranges([value for value, _ in self.values])
            raise UserError(
                f"{path}: mask values beyond the classes: expected {expected}, found "
                f"{listed([str(value) for value in beyond.tolist()])}; correct the mask, or the class list or ignore value."
            )
        return cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table[raw]

    def _from_colours(self, raw: np.ndarray, path: Path) -> np.ndarray:
        if raw.ndim == 2:
            raise UserError(f"{path}: the mask is grey, but the other masks code classes by colour.")
        packed = pack(raw)
        labels, known = _colour_table(self.colours)
        result = labels[packed]
        # A colour that is not listed has the label 0 in the table; only these pixels need a closer look.
        if not known[packed].all():
            colours = [str(unpack(value)) for value in distinct(raw).tolist() if not known[value]]
            raise UserError(
                f"{path}: {len(colours)} colours that stand for no class: {listed(colours)}; add them to the colours of "
                "the class list (a class, or 'ignore'), or correct the mask."
            )
        return result


def identity(classes: int, ignore: tuple[int, ...]) -> MaskCoding:
    """Label i for the raw value i, `IGNORE` for every value in `ignore`."""
    return MaskCoding(values=(*((i, i) for i in range(classes) if i not in ignore), *((v, IGNORE) for v in ignore)))


def from_mapping(labels: Mapping[int, int]) -> MaskCoding:
    """Raw value -> label."""
    return MaskCoding(values=tuple(sorted(labels.items())))


@lru_cache(maxsize=8)
def _byte_table(values: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, int]:
    """(256,) label of each 8-bit value, and the label after the highest, which values have that stand for no class."""
    # One maximum then finds them, on the path of every training sample; a histogram takes three times as long.
    free = max((label for _, label in values if label != IGNORE), default=-1) + 1
    table, known = _value_table(values)
    return np.where(known[:256], table[:256], free).astype(np.uint8), free


@lru_cache(maxsize=8)
def _value_table(values: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    table, known = np.zeros(65536, np.uint8), np.zeros(65536, np.bool_)
    for value, label in values:
        table[value], known[value] = label, True
    return table, known


@lru_cache(maxsize=2)
def _colour_table(colours: tuple[tuple[Colour, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    # 32 MB per process buys one gather per pixel instead of a search.
    table, known = np.zeros(1 << 24, np.uint8), np.zeros(1 << 24, np.bool_)
    for (red, green, blue), label in colours:
        table[red << 16 | green << 8 | blue] = label
        known[red << 16 | green << 8 | blue] = True
    return table, known


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] -> "0..2, 255"."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in parts)
