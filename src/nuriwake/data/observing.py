"""What values the masks of a folder hold: read once, when a data set is opened, to decide how they code classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from nuriwake.core.counting import value_counts
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

NEAR = 16
"""Values at most this far from 0 or 255 are near an end: JPEG of usual quality moves black and white no further."""

MOST_TINT = 32
"""Channels of a grey JPEG differ by less than this, whatever its chroma went through."""

LEAST_TINTED = 0.001
"""Of a mask with colours at least this share of the pixels has channels that differ by more than `MOST_TINT`."""

_MOST_ALONE = 0.001
_BAND = 256  # rows whose colours are packed at a time: that takes several times the memory of the mask


class Ends(NamedTuple):
    """How the pixels of a grey mask of 8 bits lie between black and white.

    Args:
        pixels: all of them.
        near: at most `NEAR` from 0 or 255.
        middle: the others.
        edges: those of the others that lie along an edge: between a lower and a higher neighbour, as smoothing leaves them, or
            with both ends at most 4 pixels away, as JPEG does.
        alone: near the ends but not 0 or 255, in a mask without a middle: the numbers of classes, not what smoothing leaves.
    """

    pixels: int
    near: int
    middle: int = 0
    edges: int = 0
    alone: int = 0


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
        extremes: share of pixels at most `NEAR` from 0 or 255, in grey masks of 8 bits.
        highest_each: the highest value of every mask looked at.
        blended: of the other pixels the share that lies along edges; 0 where masks hold small numbers of classes as well.
        tinted: a JPEG with colours, and the share of its pixels that have one.
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
    blended: float = 0.0
    tinted: tuple[Path, float] | None = None


@dataclass(frozen=True, eq=False)
class _Seen:
    path: Path
    values: np.ndarray
    three_channels: bool
    sixteen_bit: bool
    ends: Ends
    highest: int
    lossy: bool
    tint: float

    @property
    def coloured(self) -> bool:
        if self.lossy:
            return self.tint >= LEAST_TINTED
        return self.three_channels and _has_colour(self.values)


def observe(masks: Sequence[tuple[Path, Path]]) -> Observed:
    """Look at (image, mask) files: the values of the masks, and that every mask has its image's size.

    Raises:
        UserError: sizes that differ (up to ten are listed), unreadable files, grey and colour-coded masks mixed.
    """
    chosen = spread(masks, MOST_MASKS)
    looked = each(_look, chosen)
    seen = [item for item, _ in looked]
    refuse_other_sizes([difference for _, difference in looked if difference])
    coloured = [item for item in seen if item.coloured]
    three = [item for item in seen if item.three_channels]
    if coloured and len(three) < len(seen):
        other = next(item for item in seen if not item.three_channels)
        raise UserError(f"{coloured[0].path} codes classes by colour but {other.path} by grey value; use one of them.")
    firsts: dict[int, Path] = {}
    for item in seen:
        for value in item.values.tolist():
            firsts.setdefault(value if coloured or not item.three_channels else value & 0xFF, item.path)
    lossy = [item for item in seen if item.lossy]
    if lossy and len(lossy) < len(seen):
        other = next(item for item in seen if not item.lossy)
        raise UserError(
            f"{lossy[0].path} is a JPEG but {other.path} is not; JPEG changes values, save all masks as PNG."
        )
    extremes, blended = share_of_ends([item.ends for item in seen])
    return Observed(
        {} if coloured else dict(sorted(firsts.items())),
        dict(sorted(firsts.items())) if coloured else {},
        len(chosen),
        len(masks),
        any(item.sixteen_bit for item in seen),
        bool(three) and not coloured,
        bool(lossy),
        extremes,
        tuple(item.highest for item in seen),
        blended,
        next(((item.path, item.tint) for item in seen if item.tint >= LEAST_TINTED), None),
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
        return np.flatnonzero(value_counts(raw))
    bands = [_distinct_colours(raw[top : top + _BAND]) for top in range(0, len(raw), _BAND)]
    return np.unique(np.concatenate(bands)).astype(np.int64)


def stand_between(grey: np.ndarray) -> np.ndarray:
    """bool (H, W): the pixels of `grey` (H, W) uint8 that have both a lower and a higher one among their eight neighbours."""
    kernel = np.ones((3, 3), np.uint8)
    return (cv2.erode(grey, kernel) < grey) & (grey < cv2.dilate(grey, kernel))


def ends_of(grey: np.ndarray) -> Ends:
    """The ends of a mask (H, W); nothing is counted of 16 bits."""
    if grey.dtype != np.uint8:
        return Ends(0, 0)
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    middle = int(counts[NEAR + 1 : 255 - NEAR].sum())
    near = int(counts.sum()) - middle
    if not middle:
        return Ends(near, near, alone=near - int(counts[0] + counts[255]))
    far = (grey > NEAR) & (grey < 255 - NEAR)
    window = np.ones((9, 9), np.uint8)
    torn = (cv2.erode(grey, window) <= NEAR) & (cv2.dilate(grey, window) >= 255 - NEAR)
    return Ends(near + middle, near, middle, int((far & (torn | stand_between(grey))).sum()))


def share_of_ends(masks: Sequence[Ends]) -> tuple[float, float]:
    """(`extremes`, `blended`) of `Observed`."""
    pixels, near, middle, edges, alone = (sum(part) for part in zip(Ends(0, 0), *masks, strict=True))
    codes = alone > _MOST_ALONE * pixels
    return near / pixels if pixels else 1.0, edges / middle if middle and not codes else 0.0


def tint(values: np.ndarray, counts: np.ndarray) -> float:
    """The share of pixels, `counts` (V,) of each packed colour in `values` (V,), with a colour that JPEG does not make of grey."""
    channels = np.stack([values >> 16, values >> 8 & 0xFF, values & 0xFF])
    coloured = np.ptp(channels, axis=0) > MOST_TINT
    return float(counts[coloured].sum() / max(1, counts.sum()))


def tint_of(raw: np.ndarray) -> float:
    """Likewise of `raw` (H, W, 3) uint8."""
    low, high = (f(f(raw[..., 0], raw[..., 1]), raw[..., 2]) for f in (np.minimum, np.maximum))
    return float((high - low > MOST_TINT).mean())


def pack(colours: np.ndarray) -> np.ndarray:
    """RGB (..., 3) uint8 -> r << 16 | g << 8 | b, int32 (...)."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpack(value: int) -> tuple[int, int, int]:
    """r << 16 | g << 8 | b -> (r, g, b)."""
    return value >> 16, value >> 8 & 0xFF, value & 0xFF


def _distinct_colours(raw: np.ndarray) -> np.ndarray:
    """The packed colours of (H, W, 3) uint8, ascending."""
    packed = pack(raw).ravel()
    # Masks come in runs: only their starts need sorting.
    starts = np.flatnonzero(packed[1:] != packed[:-1]) + 1
    return np.unique(packed[np.concatenate([[0], starts])])


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
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    seen = _Seen(
        path,
        values,
        raw.ndim == 3,
        raw.dtype == np.uint16,
        _ends(raw, values, lossy=lossy),
        int(values[-1]) if len(values) else 0,
        lossy,
        tint_of(raw) if lossy and raw.ndim == 3 else 0.0,
    )
    return seen, None if size == wanted else (path, size, image, wanted)


def _ends(raw: np.ndarray, values: np.ndarray, *, lossy: bool) -> Ends:
    if raw.ndim == 3 and not lossy and _has_colour(values):
        return Ends(0, 0)
    return ends_of(raw if raw.ndim == 2 else np.ascontiguousarray(raw[..., 0]))


def _has_colour(packed: np.ndarray) -> bool:
    return bool(((packed >> 16 != (packed >> 8 & 0xFF)) | (packed & 0xFF != packed >> 16)).any())


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
