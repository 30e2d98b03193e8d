"""Masks that lie in layers, read at points on the processor; `models.truth.sample_masks` reads them elsewhere."""

from math import floor

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def read_layers(
    layers: np.ndarray, layer: np.ndarray, number: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray
) -> None:
    """Bilinear values of n masks at P points each, 0 beyond the image, with the centre of the first pixel at 0.5.

    Args:
        layers: integers (L, H, W), see `layered`.
        layer, number: int64 (n,), the layer of each mask and its number there.
        x, y: float32 (n, P).
        out: float32 (n, P), is filled.
    """
    height, width = layers.shape[1:]
    for index in range(x.shape[0]):
        here, wanted = layers[layer[index]], number[index]
        for point in range(x.shape[1]):
            across, down = x[index, point] - np.float32(0.5), y[index, point] - np.float32(0.5)
            left, top = floor(across), floor(down)
            right_share, lower_share = across - np.float32(left), down - np.float32(top)
            total = np.float32(0)
            for row in range(max(top, 0), min(top + 2, height)):
                tall = lower_share if row > top else np.float32(1) - lower_share
                for column in range(max(left, 0), min(left + 2, width)):
                    if here[row, column] == wanted:
                        total += tall * (right_share if column > left else np.float32(1) - right_share)
            out[index, point] = total
