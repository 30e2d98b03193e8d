"""Geometry: a chain of resize, pad and crop as a value that knows its own undo.

The predictor builds one from the size of an image, applies it before the model and undoes it after; boxes and maps come
back in the pixels of the image the user gave.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from nuriwake.core.size import Size

Interpolation = Literal["nearest", "linear", "area", "antialiased"]
"""The last is linear with a triangle that widens when shrinking, so that every pixel counts: PIL's bilinear and PyTorch's with
`antialias`. "linear" is OpenCV's, which looks at four pixels whatever the factor."""

_FLAGS = {"nearest": cv2.INTER_NEAREST_EXACT, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


def resize_array(array: np.ndarray, size: Size, interpolation: Interpolation) -> np.ndarray:
    """`array` (H, W) or (H, W, C) at `size`, half-pixel centres; any number of channels."""
    if array.shape[:2] == size:
        return array
    if interpolation == "antialiased":
        return _resize_antialiased(array, size)
    if interpolation == "area" and array.ndim == 3 and array.shape[2] > 4:
        # OpenCV averages areas of at most four channels at a time.
        parts = [array[..., first : first + 4] for first in range(0, array.shape[2], 4)]
        return np.concatenate([resize_array(part, size, "area") for part in parts], axis=2)
    out = cv2.resize(array, (size[1], size[0]), interpolation=_FLAGS[interpolation])
    return out[..., None] if array.ndim == 3 and out.ndim == 2 else out


def _resize_antialiased(array: np.ndarray, size: Size) -> np.ndarray:
    width_height = (size[1], size[0])
    if array.dtype == np.uint8 and array.shape[2:] == (3,):
        return np.array(Image.fromarray(array).resize(width_height, Image.Resampling.BILINEAR))
    if array.ndim == 3:
        # One at a time: PIL has no image of any number of channels, and takes the last of two or four for transparency.
        return np.stack([_resize_antialiased(array[..., channel], size) for channel in range(array.shape[2])], axis=2)
    plane = Image.fromarray(array if array.dtype == np.uint8 else array.astype(np.float32))
    out = np.array(plane.resize(width_height, Image.Resampling.BILINEAR))
    return out if out.dtype == array.dtype else np.rint(out).astype(array.dtype)


@dataclass(frozen=True)
class Resize:
    """To `after` (height, width) from `before`."""

    before: Size
    after: Size


@dataclass(frozen=True)
class Window:
    """The rectangle of `after` (height, width) whose top left corner lies at (top, left) of `before`.

    Negative `top` or `left`, or a window that reaches beyond `before`, is padding; inside, it is a crop.
    """

    before: Size
    after: Size
    top: int
    left: int


@dataclass(frozen=True)
class Geometry:
    """From an image of size `source`, step by step, to `size`.

    Args:
        source: (height, width) of the untouched image.
        steps: in the order of application.
    """

    source: Size
    steps: tuple[Resize | Window, ...] = field(default=())

    @property
    def size(self) -> Size:
        """(height, width) after all steps."""
        return self.steps[-1].after if self.steps else self.source

    def resize(self, size: Size) -> "Geometry":
        """Followed by a resize to `size`."""
        return self if size == self.size else replace(self, steps=(*self.steps, Resize(self.size, size)))

    def window(self, top: int, left: int, size: Size) -> "Geometry":
        """Followed by the window of `size` at (top, left); beyond the image it is padding."""
        same = (top, left) == (0, 0) and size == self.size
        return self if same else replace(self, steps=(*self.steps, Window(self.size, size, top, left)))

    def apply(self, array: np.ndarray, *, interpolation: Interpolation, fill: float | None = 0) -> np.ndarray:
        """`array` (H, W) or (H, W, C) of size `source` -> size `size`. `fill` None reflects the border instead."""
        for step in self.steps:
            if isinstance(step, Resize):
                array = resize_array(array, step.after, interpolation)
            else:
                array = take_window(array, step.top, step.left, step.after, fill)
        return array

    def undo(self, array: np.ndarray, *, interpolation: Interpolation, fill: float = 0) -> np.ndarray:
        """`array` of size `size` -> size `source`. What a crop cut away comes back as `fill`."""
        for step in reversed(self.steps):
            if isinstance(step, Resize):
                array = resize_array(array, step.before, interpolation)
            else:
                array = take_window(array, -step.top, -step.left, step.before, fill)
        return array

    def undo_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """`boxes` (N, 4), float32, xyxy in pixels of `size` -> pixels of `source`, clipped to it."""
        boxes = boxes.astype(np.float32, copy=True)
        for step in reversed(self.steps):
            if isinstance(step, Resize):
                scale = np.array([step.before[1] / step.after[1], step.before[0] / step.after[0]], np.float32)
                boxes *= np.tile(scale, 2)
            else:
                boxes += np.array([step.left, step.top] * 2, np.float32)
        height, width = self.source
        return np.clip(boxes, 0, np.array([width, height] * 2, np.float32))


def take_window(array: np.ndarray, top: int, left: int, size: Size, fill: float | None) -> np.ndarray:
    """The window of `size` at (top, left) of `array` (H, W, ...); beyond it `fill`, or the reflected border for None."""
    height, width = array.shape[:2]
    bottom, right = top + size[0], left + size[1]
    inside = array[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.shape[:2] == size:
        return inside
    before = (min(max(-top, 0), size[0]), min(max(-left, 0), size[1]))
    margins = [(before[i], size[i] - before[i] - inside.shape[i]) for i in (0, 1)] + [(0, 0)] * (array.ndim - 2)
    if fill is None:
        # NumPy reflects as often as needed, so that a border wider than the image works too; one pixel cannot reflect.
        return np.pad(inside, margins, mode="edge" if 1 in (height, width) else "reflect")
    return np.pad(inside, margins, constant_values=fill)
