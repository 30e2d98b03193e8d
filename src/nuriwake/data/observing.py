"""What values the masks of a folder hold: read once, when a data set is opened, to decide how they code classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.targets import Size
from nuriwake.data.dataset import listed
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_mask
from nuriwake.data.parallel import each, spread

MOST_MASKS = 5000
"""Of larger folders this many masks, evenly spaced, are looked at; reading checks every mask against what was decided."""

MOST_COLOURS = 4096
"""Masks of more colours than this are photographs or smoothed drawings, no code."""


@dataclass(frozen=True)
class Observed:
    """Of all masks looked at.

    Args:
        values: grey value -> a file that holds it, ascending. Empty when the masks are RGB-coded.
        colours: RGB packed as r << 16 | g << 8 | b -> a file that holds it. Empty when no mask has colours.
        files: how many masks were looked at; total: how many there are.
        sixteen_bit: some mask is of 16 bits.
        stored_as_rgb: masks have three channels, all equal: grey in disguise.
        lossy: some mask is a JPEG, whose values are not exact.
        extremes: share of pixels at most 16 from 0 or 255, for lossy masks.
        highest_each: the highest value of every mask looked at.
    """

    values: dict[int, Path]
    colours: dict[int, Path]
    files: int
    total: int
    sixteen_bit: bool
    stored_as_rgb: bool
    lossy: bool
    extremes: float
    highest_each: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Seen:
    path: Path
    values: np.ndarray
    three_channels: bool
    sixteen_bit: bool
    extremes: tuple[int, int]
    highest: int


def observe(masks: Sequence[tuple[Path, Path]]) -> Observed:
    """Look at (image, mask) files: the values of the masks, and that every mask has its image's size.

    Raises:
        UserError: sizes that differ (up to ten are listed), unreadable files, grey and colour-coded masks mixed.
    """
    chosen = spread(masks, MOST_MASKS)
    looked = each(_look, chosen)
    seen = [item for item, _ in looked]
    refuse_other_sizes([difference for _, difference in looked if difference])
    coloured = [item for item in seen if item.three_channels and _has_colour(item.values)]
    three = [item for item in seen if item.three_channels]
    if coloured and len(three) < len(seen):
        other = next(item for item in seen if not item.three_channels)
        raise UserError(f"{coloured[0].path} codes classes by colour but {other.path} by grey value; use one of them.")
    firsts: dict[int, Path] = {}
    for item in seen:
        for value in item.values.tolist():
            firsts.setdefault(value if coloured or not item.three_channels else value & 0xFF, item.path)
    lossy = [item for item in seen if item.path.suffix.lower() in (".jpg", ".jpeg")]
    if lossy and len(lossy) < len(seen):
        other = next(item for item in seen if item not in lossy)
        raise UserError(
            f"{lossy[0].path} is a JPEG but {other.path} is not; JPEG changes values, save all masks as PNG."
        )
    near, all_pixels = (sum(item.extremes[i] for item in lossy) for i in (0, 1))
    return Observed(
        {} if coloured else dict(sorted(firsts.items())),
        dict(sorted(firsts.items())) if coloured else {},
        len(chosen),
        len(masks),
        any(item.sixteen_bit for item in seen),
        bool(three) and not coloured,
        bool(lossy),
        near / all_pixels if lossy else 1.0,
        tuple(item.highest for item in seen),
    )


def refuse_other_sizes(differences: Sequence[tuple[Path, Size, Path, Size]]) -> None:
    """Raises UserError for (mask, its size, image, its size) that are given."""
    if differences:
        texts = [f"{mask} is {_size(a)} but {image.name} is {_size(b)}" for mask, a, image, b in differences]
        raise UserError(
            f"{len(differences)} masks have another size (height x width) than their image: {listed(texts)}. "
            "Was one of them resized or rotated?"
        )


def distinct(raw: np.ndarray) -> np.ndarray:
    """The values in `raw` (H, W), or the packed colours of (H, W, 3) uint8, ascending, int64."""
    if raw.ndim == 2:
        return np.flatnonzero(np.bincount(raw.ravel()))
    packed = pack(raw).ravel()
    # Masks come in runs: only their starts need sorting.
    starts = np.flatnonzero(packed[1:] != packed[:-1]) + 1
    return np.unique(packed[np.concatenate([[0], starts])]).astype(np.int64)


def pack(colours: np.ndarray) -> np.ndarray:
    """RGB (..., 3) uint8 -> r << 16 | g << 8 | b, int32 (...)."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpack(value: int) -> tuple[int, int, int]:
    """r << 16 | g << 8 | b -> (r, g, b)."""
    return value >> 16, value >> 8 & 0xFF, value & 0xFF


def _look(files: tuple[Path, Path]) -> tuple[_Seen, tuple[Path, Size, Path, Size] | None]:
    image, path = files
    raw = read_mask(path)
    values = distinct(raw)
    if raw.ndim == 3 and len(values) > MOST_COLOURS and path.suffix.lower() not in (".jpg", ".jpeg"):
        raise UserError(
            f"{path}: the mask has {len(values)} colours; a colour-coded mask has one per class. Is it a photograph, or "
            "was it smoothed when it was resized or drawn?"
        )
    size, wanted = (raw.shape[0], raw.shape[1]), image_header(image).size
    grey = raw if raw.ndim == 2 else raw[..., 0]
    extremes = int(((grey <= 16) | (grey >= 239)).sum()) if path.suffix.lower() in (".jpg", ".jpeg") else 0
    seen = _Seen(
        path,
        values,
        raw.ndim == 3,
        raw.dtype == np.uint16,
        (extremes, grey.size),
        int(values[-1]) if len(values) else 0,
    )
    return seen, None if size == wanted else (path, size, image, wanted)


def _has_colour(packed: np.ndarray) -> bool:
    return bool(((packed >> 16 != (packed >> 8 & 0xFF)) | (packed & 0xFF != packed >> 16)).any())


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
