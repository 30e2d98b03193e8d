"""Runs photometric stages over an image in as few passes as possible.

An 8-bit image: tones compose into one table per channel, colour matrices into one matrix after it, and the
normalisation of the model input into the same pass. Rounding to whole values happens only where a blur, noise or a
second table after a matrix needs pixels again, and at the end when an image is asked for. 16-bit and float images run
stage by stage in float32.

Values are clipped where the dtype forces it and nowhere else: `maximum` is a unit. A model sees values beyond it when it
predicts, so it must see them when it learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from nuriwake.core.pixels import MAXIMA, kernel, scale_rows
from nuriwake.transforms.photometric import Grain, Mix, Smooth, Stage, Tone

_HIGHEST = np.float32(255)


@dataclass(frozen=True, eq=False)
class Scale:
    """The last step to a model input: value * `scale` + `offset`, both (C,) float32, value in the image's own units."""

    scale: np.ndarray
    offset: np.ndarray


class Units(NamedTuple):
    """What the numbers of the photometric operations are shares of, per channel (C,), in the image's own units.

    Bands of one image may lie orders of magnitude apart: reflectances from 0 to 1 beside metres above the sea.

    Attributes:
        full: full brightness, which gamma leaves where it is; above 0.
        step: the unit of brightness and noise; above 0.
    """

    full: tuple[float, ...]
    step: tuple[float, ...]


def tone_image(image: np.ndarray, stages: Sequence[Stage], *, maximum: float | Units | None = None) -> np.ndarray:
    """`image` (H, W, C) through `stages` -> the same shape and dtype.

    `maximum`: full brightness and unit of all channels, or `Units` of each; None for the dtype's.
    """
    if not stages:
        return image
    if image.dtype == np.uint8:
        pending = _Pending(image, _scales(image, maximum))
        for stage in stages:
            pending.add(stage)
        return pending.pixels()
    values = _run_float(image, stages, _scales(image, maximum))
    return values if image.dtype == np.float32 else np.rint(values).astype(image.dtype)


def tone_input(
    image: np.ndarray, stages: Sequence[Stage], last: Scale, *, maximum: float | Units | None = None
) -> np.ndarray:
    """`image` (H, W, C) through `stages`, scaled -> float32 (C, H, W). Values are not rounded in between. See `tone_image`."""
    out = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    if image.dtype == np.uint8:
        pending = _Pending(image, _scales(image, maximum))
        for stage in stages:
            pending.add(stage)
        pending.scaled(last, out)
    else:
        values = _run_float(image, stages, _scales(image, maximum)) if stages else image
        scale_rows(values, last.scale, last.offset, out)
    return out


class _Scales(NamedTuple):
    """`Units` as float32 arrays (C,)."""

    full: np.ndarray
    step: np.ndarray


class _Pending:
    """An 8-bit image with what has yet to happen to it: a table per channel, then a matrix."""

    def __init__(self, image: np.ndarray, scales: _Scales) -> None:
        self.image, self.scales = image, scales
        self.table: np.ndarray | None = None
        self.line: np.ndarray | None = None  # (C, 2), slope and shift: the table where it is one bounded straight line
        self.matrix: np.ndarray | None = None

    def add(self, stage: Stage) -> None:
        """Adds one stage; brings the pixels up to date first where it cannot be composed."""
        if isinstance(stage, Mix):
            self.matrix = stage.matrix if self.matrix is None else stage.matrix @ self.matrix
            return
        if self.matrix is not None or not isinstance(stage, Tone):
            self.image, self.table, self.line, self.matrix = self.pixels(), None, None, None
        if isinstance(stage, Tone):
            self._tone(stage)
        elif isinstance(stage, Smooth):
            self.image = _blurred(self.image, stage.sigma)
        else:
            self.image = _with_grain(self.image, stage, self.scales.step)

    def pixels(self) -> np.ndarray:
        """(H, W, C) uint8, everything done, rounded to nearest."""
        if self.table is None and self.matrix is None:
            return self.image
        out = np.empty_like(self.image)
        if self.matrix is None:
            _look_up(self.image, np.rint(self._table()).astype(np.uint8), out)
        else:
            _mix_pixels(self.image, self._table(), self.matrix.astype(np.float32), _HIGHEST, out)
        return out

    def scaled(self, last: Scale, out: np.ndarray) -> None:
        """Writes the finished, scaled values to `out` (C, H, W)."""
        if self.matrix is not None:
            table = self.line if self.line is not None else self._table()
            _mix_rows(self.image, table, self.matrix.astype(np.float32), _HIGHEST, last.scale, last.offset, out)
        elif self.table is not None:
            _look_up_rows(self.image, self.table * last.scale[:, None] + last.offset[:, None], out)
        else:
            scale_rows(self.image, last.scale, last.offset, out)

    def _table(self) -> np.ndarray:
        if self.table is not None:
            return self.table
        return np.tile(np.arange(256, dtype=np.float32), (self.image.shape[2], 1))

    def _tone(self, stage: Tone) -> None:
        pivots = _channel_means(self.image)
        if self.table is not None:
            # The mean after earlier tables: the table at the mean, good enough for a pivot and free.
            pivots = np.array([np.interp(x, np.arange(256), row) for x, row in zip(pivots, self.table, strict=True)])
        slope, shift = _slope_shift(stage, pivots, self.scales.step)
        self.line = np.stack([slope, shift], axis=1) if self.table is None and stage.gamma == 1 else None
        toned = np.clip(self._table() * slope[:, None] + shift[:, None], 0, _HIGHEST)
        if stage.gamma != 1:
            full = self.scales.full[:, None]
            toned = np.minimum((toned / full) ** np.float32(stage.gamma) * full, _HIGHEST)
        self.table = toned.astype(np.float32)


def _run_float(image: np.ndarray, stages: Sequence[Stage], scales: _Scales) -> np.ndarray:
    values, bounded = image.astype(np.float32), image.dtype != np.float32
    highest = MAXIMA[image.dtype]
    for stage in stages:
        if isinstance(stage, Tone):
            slope, shift = _slope_shift(stage, _channel_means(values), scales.step)
            values = values * slope + shift
            if stage.gamma != 1:
                values = _gamma(np.maximum(values, 0) if bounded else values, stage.gamma, scales.full)
        elif isinstance(stage, Mix):
            values = cv2.transform(values, stage.matrix)
        elif isinstance(stage, Smooth):
            values = _blurred(values, stage.sigma)
        else:
            values = _with_grain(values, stage, scales.step)
        if bounded:
            np.clip(values, 0, highest, out=values)
    return values


def _gamma(values: np.ndarray, exponent: float, full: np.ndarray) -> np.ndarray:
    # The sign stays outside the power: Hounsfield units lie on both sides of 0, and a curve through 0 keeps their order.
    return np.sign(values) * (np.abs(values) / full) ** np.float32(exponent) * full


def _slope_shift(stage: Tone, means: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shift = means * (1 - stage.contrast) + stage.brightness * step.astype(np.float64)
    return stage.contrast.astype(np.float32), shift.astype(np.float32)


def _channel_means(image: np.ndarray) -> np.ndarray:
    if image.shape[2] <= 4:
        return np.array(cv2.mean(image)[: image.shape[2]])
    return image.reshape(-1, image.shape[2]).mean(axis=0, dtype=np.float64)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    out = cv2.GaussianBlur(image, (0, 0), sigma)
    return out if out.ndim == 3 else out[..., None]


def _with_grain(image: np.ndarray, stage: Grain, step: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(image)
    out = np.empty_like(image)
    limit = float(_HIGHEST) if image.dtype == np.uint8 else np.inf
    low = 0.0 if image.dtype == np.uint8 else -np.inf
    half = 0.5 if image.dtype == np.uint8 else 0.0
    strength = (stage.deviation * step.astype(np.float64)).astype(np.float32)
    flat = (-1, image.shape[2])
    _add_grain(image.reshape(flat), np.uint64(stage.seed), strength, (low, limit, half), out.reshape(flat))
    return out


def _scales(image: np.ndarray, maximum: float | Units | None) -> _Scales:
    if isinstance(maximum, Units):
        return _Scales(np.array(maximum.full, np.float32), np.array(maximum.step, np.float32))
    full = np.full(image.shape[2], MAXIMA[image.dtype] if maximum is None else maximum, np.float32)
    return _Scales(full, full)


@kernel
def _add_grain(
    image: np.ndarray, seed: np.uint64, strength: np.ndarray, bounds: tuple[float, float, float], out: np.ndarray
) -> None:
    # image, out (N, C); strength (C,). One 64-bit hash per value (splitmix64 of a counter); the sum of its eight bytes is
    # Gaussian to within 0.4 % of its distribution function (Irwin-Hall), mean 1020, variance 8 * (256 ** 2 - 1) / 12.
    low, high, half = np.float32(bounds[0]), np.float32(bounds[1]), np.float32(bounds[2])
    factors = strength / np.float32(np.sqrt(8 * 65535 / 12))
    pairs, ones = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)
    pixels, channels = image.shape
    for pixel in range(pixels):
        for c in range(channels):
            z = seed + np.uint64(pixel * channels + c + 1) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            total = (((z & pairs) + ((z >> np.uint64(8)) & pairs)) * ones) >> np.uint64(48)
            value = np.float32(image[pixel, c]) + (np.float32(np.int64(total)) - np.float32(1020)) * factors[c]
            value = low if value < low else value
            value = high if value > high else value
            out[pixel, c] = image.dtype.type(value + half)


@kernel
def _look_up_rows(image: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    height, width, channels = image.shape
    for y in range(height):
        for c in range(channels):
            for x in range(width):
                out[c, y, x] = table[c, image[y, x, c]]


@kernel
def _look_up(image: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                out[y, x, c] = table[c, image[y, x, c]]


@kernel
def _mix_rows(
    image: np.ndarray,
    table: np.ndarray,
    matrix: np.ndarray,
    maximum: np.float32,
    scale: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    # Tones first, as rows into `out`: look-ups are scalar, what follows is then vectorised over the row. A table of two
    # columns is a straight line, slope and shift, cheaper to compute than to look up.
    height, width = image.shape[0], image.shape[1]
    zero = np.float32(0)
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    s0, s1, s2, o0, o1, o2 = scale[0], scale[1], scale[2], offset[0], offset[1], offset[2]
    for y in range(height):
        for c in range(3):
            if table.shape[1] == 2:
                slope, shift = table[c, 0], table[c, 1]
                for x in range(width):
                    value = np.float32(image[y, x, c]) * slope + shift
                    value = zero if value < zero else value
                    out[c, y, x] = maximum if value > maximum else value
            else:
                for x in range(width):
                    out[c, y, x] = table[c, image[y, x, c]]
        for x in range(width):
            red, green, blue = out[0, y, x], out[1, y, x], out[2, y, x]
            p = m00 * red + m01 * green + m02 * blue
            q = m10 * red + m11 * green + m12 * blue
            r = m20 * red + m21 * green + m22 * blue
            p = zero if p < zero else p
            q = zero if q < zero else q
            r = zero if r < zero else r
            p = maximum if p > maximum else p
            q = maximum if q > maximum else q
            r = maximum if r > maximum else r
            out[0, y, x], out[1, y, x], out[2, y, x] = p * s0 + o0, q * s1 + o1, r * s2 + o2


@kernel
def _mix_pixels(image: np.ndarray, table: np.ndarray, matrix: np.ndarray, maximum: np.float32, out: np.ndarray) -> None:
    half, zero = np.float32(0.5), np.float32(0)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = table[0, image[y, x, 0]], table[1, image[y, x, 1]], table[2, image[y, x, 2]]
            for c in range(3):
                value = matrix[c, 0] * red + matrix[c, 1] * green + matrix[c, 2] * blue
                out[y, x, c] = np.uint8(min(max(value, zero), maximum) + half)
