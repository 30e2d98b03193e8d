"""How an image of any dtype and any number of channels is shown on a screen."""

import numpy as np
from PIL import Image, ImageOps

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError

Picture = np.ndarray | Image.Image
"""An array (H, W) or (H, W, C), or a Pillow image: what a predictor takes, too."""

LOW, HIGH = 1.0, 99.0
"""Percentiles that become black and white where an image is stretched."""

_SAMPLED = 1_000_000  # pixels that percentiles are taken from: exact on small images, quick on huge ones
_BAND = 512  # rows converted at a time, so that float copies of huge images never exist as a whole


def drawable(image: Picture) -> np.ndarray:
    """`image` as an array (H, W, C), upright; an array of that shape itself.

    Raises:
        UserError: it is neither an array of numbers with two or three axes nor a Pillow image.
    """
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        whole = upright.mode in ("L", "RGB", "F") or upright.mode.startswith("I")
        image = np.asarray(upright if whole else upright.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.dtype.kind not in "uif":
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"The image to draw on: expected an array of numbers (H, W) or (H, W, C) or a Pillow image, found {found}."
        )
    image = image if image.dtype.name in ("uint8", "uint16") else image.astype(np.float32, copy=False)
    return image if image.ndim == 3 else image[..., None]


def display_image(image: np.ndarray) -> np.ndarray:
    """`image` (H, W, C) uint8, uint16 or float32 -> a new uint8 RGB array (H, W, 3).

    Channels: 1 is grey; 2 are red and green; of 3 and more the first three are red, green, blue.
    Values: uint8 as it is; uint16 and float32 are stretched, each channel by itself, so that its 1st percentile is black
    and its 99th white. Values that are not finite are black; a constant channel is black.
    """
    image = image[..., :3]
    shown = image if image.dtype == np.uint8 else _stretch(image)
    if shown.shape[2] == 2:
        return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=2)
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown.copy()


def label_pixels(labels: np.ndarray) -> np.ndarray:
    """How often each value stands in `labels` (uint8, any shape): int64 (256,)."""
    return value_counts(labels)


def _stretch(image_hwc: np.ndarray) -> np.ndarray:
    low, high = _limits(image_hwc)
    span = np.where(high > low, high - low, np.inf)  # a constant channel becomes 0
    scale = (255 / span).astype(np.float32)
    out = np.empty(image_hwc.shape, np.uint8)
    for top in range(0, len(image_hwc), _BAND):
        band = image_hwc[top : top + _BAND].astype(np.float32)
        np.copyto(band, low, where=~np.isfinite(band))
        out[top : top + _BAND] = np.clip((band - low) * scale, 0, 255).round()
    return out


def _limits(image_hwc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width, channels = image_hwc.shape
    step = max(1, int(np.sqrt(height * width / _SAMPLED)))
    low, high = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    for channel in range(channels):
        values = image_hwc[::step, ::step, channel]
        values = values[np.isfinite(values)]
        if values.size:
            low[channel], high[channel] = np.percentile(values, (LOW, HIGH))
    return low, high
