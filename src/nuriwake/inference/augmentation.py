"""Test-time augmentation: mirrored copies of an input, and the way back for the answers."""

from typing import Literal

import numpy as np
from torch import Tensor

from nuriwake.inference.settings import Flips

Flip = Literal["none", "horizontal", "vertical", "both"]

FLIPS: dict[Flips, tuple[Flip, ...]] = {
    "none": ("none",),
    "horizontal": ("none", "horizontal"),
    "all": ("none", "horizontal", "vertical", "both"),
}
"""What each setting asks for. Every flip is its own inverse."""

_AXES: dict[Flip, tuple[int, ...]] = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


def flip_array(array: np.ndarray, flip: Flip) -> np.ndarray:
    """`array` (..., H, W) mirrored; a view."""
    return np.flip(array, _AXES[flip])


def flip_tensor(tensor: Tensor, flip: Flip) -> Tensor:
    """`tensor` (..., H, W) mirrored."""
    return tensor.flip(_AXES[flip]) if _AXES[flip] else tensor
