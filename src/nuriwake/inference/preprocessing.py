"""Preprocessing: what a model expects of an image, kept in its bundle and applied in one place."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.geometry import Geometry, Interpolation, take_window
from nuriwake.core.pixels import normalise
from nuriwake.core.targets import Size

Depth = Literal["uint8", "uint16", "float32"]


@dataclass(frozen=True)
class ResizeRule:
    """The size at which the model sees an image. Training with crops needs none; published models often have one.

    Args:
        shortest: the shorter side becomes this many pixels, the aspect ratio stays.
        longest: with `shortest`, the longer side is at most this; alone, the longer side becomes this.
        exact: (height, width) whatever the aspect ratio; excludes the other two.
        interpolation: "linear" looks at four pixels whatever the factor (OpenCV, mm*, semseg); "antialiased" is linear too, and
            averages when shrinking (PIL, Detectron2, transformers, torchvision's semantic segmentation); "area" averages.
        rounding: of the sides that come out: "nearest" (a half to the even number), "down" (torchvision) or "half_up"
            (Detectron2).
        multiple: both sides are then raised to multiples of this, by stretching (transformers' `size_divisor`).

    Raises:
        UserError: none given, `exact` with another, or a size below 1.
    """

    shortest: int | None = None
    longest: int | None = None
    exact: tuple[int, int] | None = None
    interpolation: Literal["linear", "area", "antialiased"] = "linear"
    rounding: Literal["nearest", "down", "half_up"] = "nearest"
    multiple: int = 1

    def __post_init__(self) -> None:
        sides = [side for side in (self.shortest, self.longest, *(self.exact or ())) if side is not None]
        if not sides or (self.exact is not None and len(sides) > 2):
            raise UserError("A resize rule needs either `exact`, or `shortest` or `longest` or these two together.")
        if min(*sides, self.multiple) < 1:
            raise UserError(f"A resize rule wants sides of at least 1 pixel, found {min(*sides, self.multiple)}.")

    def size(self, source: Size) -> Size:
        """(height, width) for an image of size `source`."""
        if self.exact is not None:
            return self.exact
        scales: list[float] = []
        if self.shortest is not None:
            scales.append(self.shortest / min(source))
        if self.longest is not None:
            scales.append(self.longest / max(source))
        scale = min(scales)
        height, width = (_rounded(side * scale, self.rounding) for side in source)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple


def _rounded(side: float, how: str) -> int:
    whole = round(side) if how == "nearest" else int(side) if how == "down" else int(side + 0.5)
    return max(1, whole)


LEAST_SPAN = 0.02
"""Of the maximum: an image of nearly one value is not blown up to noise."""


def image_levels(image: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The values below which the two `percentiles` of all values of `image` (uint8, uint16 or float32) lie."""
    if image.dtype == np.float32:
        low, high = np.percentile(image, percentiles)
        return float(low), float(high)
    # A histogram is several times faster than sorting, and this runs for every training image.
    counts = np.cumsum(value_counts(image))
    low, high = (int(np.searchsorted(counts, max(counts[-1] * percentile / 100, 1))) for percentile in percentiles)
    return float(low), float(high)


@dataclass(frozen=True)
class Preprocessing:
    """How an image array becomes the tensor that a model was trained on.

    Args:
        channels: of the image.
        mean: one per channel, in units of value / `maximum`, in the order of the *model's* channels.
        deviation: likewise, above 0.
        maximum: the value that counts as 1: 255 for 8 bit, 65535 (or 4095 for 12 bit in 16) for uint16, 1 for float32.
        depth: the dtype of the images the model was trained on; another is refused, because its values mean something else.
        order: "bgr" when the model wants red and blue swapped (images in memory are RGB).
        resize: the size at which the model sees an image; None for the size it has.
        levels: percentiles of the image's own values that count as 0 and 1, instead of 0 and `maximum`; nothing is clipped to
            them. For images of one kind taken at very different exposures, such as fluorescence micrographs.
        padding: what the model sees beyond the border where its input must be larger than the image: the image mirrored,
            or zero after normalisation, as most published models were trained (torchvision, transformers, Detectron2), or
            black, which is zero before it (EoMT).

    Raises:
        UserError: lengths that disagree, a deviation or a maximum that is not positive.
    """

    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)
    maximum: float = 255.0
    depth: Depth = "uint8"
    order: Literal["rgb", "bgr"] = "rgb"
    resize: ResizeRule | None = None
    padding: Literal["mirror", "zero", "black"] = "mirror"
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) != self.channels:
                raise UserError(
                    f"Preprocessing of {self.channels} channels needs as many {name}s, found {len(values)}."
                )
        if min(self.deviation, default=0) <= 0 or self.maximum <= 0:
            raise UserError("Preprocessing needs at least one channel, and a deviation and a maximum above 0.")
        if self.levels is not None and not 0 <= self.levels[0] < self.levels[1] <= 100:
            raise UserError(
                f"The levels of preprocessing are two percentiles from 0 to 100, the lower first, found {self.levels}."
            )

    def for_image(self, image: np.ndarray) -> "Preprocessing":
        """What `image` (H, W, channels), the whole of it, is to be treated with: itself, but for `levels`.

        With them, mean, deviation and maximum are made such that the percentiles of all its channels together become 0 and 1:
        ((value - low) / (high - low) - mean) / deviation, in one pass like any other.
        """
        if self.levels is None:
            return self
        low, high = image_levels(image, self.levels)
        span = max(high - low, self.maximum * LEAST_SPAN)
        return replace(self, levels=None, maximum=span, mean=tuple(mean + low / span for mean in self.mean))

    def geometry(self, source: Size) -> Geometry:
        """From an image of size `source` to the size the model sees."""
        geometry = Geometry(source)
        return geometry if self.resize is None else geometry.resize(self.resize.size(source))

    @property
    def interpolation(self) -> Interpolation:
        """How `geometry` resizes an image."""
        return "linear" if self.resize is None else self.resize.interpolation

    def checked(self, image: np.ndarray, where: str = "The image") -> np.ndarray:
        """`image` (H, W) or (H, W, C) -> (H, W, channels), unchanged values.

        A grey image is given to a three-channel model as three equal channels: that is what a grey photograph is in
        RGB, so nothing is guessed. The reverse, or any other count, is refused.

        Raises:
            UserError: another number of channels, another dtype, no pixels, or values that are not finite.
        """
        found = image[..., None] if image.ndim == 2 else image
        if found.ndim != 3 or 0 in found.shape:
            raise UserError(f"{where}: expected an array (H, W, {self.channels}) with pixels, found {image.shape}.")
        if found.dtype != np.dtype(self.depth):
            raise UserError(
                f"{where} is {found.dtype}, but this model wants {self.depth} images with values up to {self.maximum:g}; "
                "convert it first."
            )
        if found.shape[2] == 1 and self.channels == 3:
            found = np.broadcast_to(found, (*found.shape[:2], 3))
        if found.shape[2] != self.channels:
            raise UserError(
                f"{where} has {found.shape[2]} channel{'s' if found.shape[2] > 1 else ''}, "
                f"but this model wants {self.channels}."
            )
        if found.dtype == np.float32 and not np.isfinite(found).all():
            raise UserError(f"{where} has values that are not finite (NaN or infinite).")
        return found

    def tensor(self, image: np.ndarray) -> np.ndarray:
        """`image` (H, W, channels) of dtype `depth` -> float32 (channels, H, W), what the model takes; no resizing."""
        if self.order == "bgr":
            image = image[..., ::-1]
        return normalise(
            np.ascontiguousarray(image),
            np.array(self.mean, np.float32),
            np.array(self.deviation, np.float32),
            maximum=self.maximum,
        )

    def window(self, image: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
        """`tensor` of the window of `size` at (top, left) of `image`, float32 (channels, *size); padded beyond `image`."""
        if self.padding == "mirror":
            return self.tensor(take_window(image, top, left, size, None))
        rows = slice(max(top, 0), min(top + size[0], image.shape[0]))
        columns = slice(max(left, 0), min(left + size[1], image.shape[1]))
        padded = np.zeros((self.channels, *size), np.float32)
        if self.padding == "black":
            padded[:] = self.tensor(np.zeros((1, 1, self.channels), self.depth))
        inside = padded[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        inside[...] = self.tensor(image[rows, columns])
        return padded
