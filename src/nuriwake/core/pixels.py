"""Pixels to numbers: (H, W, C) of any image dtype to normalised float32 (C, H, W) in one pass over memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from nuriwake.core.errors import UserError

MAXIMA = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
"""What counts as full brightness of an image dtype where nobody says otherwise (a 12-bit camera in uint16 must say 4095)."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by numba without the interpreter lock, cached on disk where some folder is writable.

    Products and sums may be fused (one rounding instead of two); NaN and Inf keep their meaning.
    """
    try:
        return numba.njit(nogil=True, cache=True, fastmath={"contract"})(function)
    except RuntimeError:  # neither the package nor the user's cache folder is writable: compile in every process
        return numba.njit(nogil=True, fastmath={"contract"})(function)


def normalise(
    image: np.ndarray, mean: Sequence[float] | np.ndarray, deviation: Sequence[float] | np.ndarray, *, maximum: float
) -> np.ndarray:
    """(image / maximum - mean) / deviation.

    Args:
        image: (H, W, C), uint8, uint16 or float32.
        mean: (C,), in units of value / maximum (0.485, .. for ImageNet, whatever the bit depth).
        deviation: (C,), positive, in the same units.
        maximum: the value of full brightness: 255 for 8 bit, 65535 (or what the camera has) for 16 bit.

    Returns:
        float32 (C, H, W), contiguous.

    Raises:
        UserError: mean or deviation of another length than the image has channels, or not positive deviation or maximum.
    """
    scale, offset = scale_offset(mean, deviation, maximum=maximum, channels=image.shape[2])
    out = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    scale_rows(image, scale, offset, out)
    return out


def scale_offset(
    mean: Sequence[float] | np.ndarray, deviation: Sequence[float] | np.ndarray, *, maximum: float, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """`scale`, `offset` (C,) float32 with `value * scale + offset == (value / maximum - mean) / deviation`."""
    means, deviations = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    if means.shape != (channels,) or deviations.shape != (channels,):
        raise UserError(
            f"The image has {channels} channels, but the mean has {means.size} and the deviation {deviations.size} values; "
            "give one of each per channel."
        )
    if not (maximum > 0 and bool(np.all(deviations > 0))):
        raise UserError(f"maximum and deviation must be positive, found {maximum} and {deviations.tolist()}.")
    return (1 / (maximum * deviations)).astype(np.float32), (-means / deviations).astype(np.float32)


@kernel
def scale_rows(image: np.ndarray, scale: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    """Writes `image` (H, W, C) * `scale` + `offset`, both (C,) float32, to `out` (C, H, W) float32."""
    # Row by row: the interleaved row stays in the first-level cache while each channel is gathered from it.
    height, width, channels = image.shape
    for y in range(height):
        for c in range(channels):
            factor, shift = scale[c], offset[c]
            for x in range(width):
                out[c, y, x] = np.float32(image[y, x, c]) * factor + shift
