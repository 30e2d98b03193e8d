"""`preprocessor_config.json`: how a program of transformers prepares images for a model, as our `Preprocessing`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule

PROCESSOR = "preprocessor_config.json"

_RESAMPLING = {0: "nearest", 1: "Lanczos", 3: "bicubic", 4: "box", 5: "Hamming"}
"""PIL's numbers, which the file holds; 2 is linear and averages when shrinking, as our "antialiased"."""


def read_processor(
    base: Preprocessing, processor: Mapping[str, Any], file: Path
) -> tuple[Preprocessing, tuple[str, ...]]:
    """What `processor` asks for, and notes on what of it is not done here.

    transformers/image_processing_backends: value * rescale_factor (1/255) unless `do_rescale` is false, then (value - mean) /
    deviation unless `do_normalize` is false; size and crop likewise.

    Args:
        base: what holds where the file says nothing.
        file: the processor's, for messages.

    Raises:
        UserError: the fields cannot be understood.
    """
    try:
        mean, deviation = processor.get("image_mean", base.mean), processor.get("image_std", base.deviation)
        if not processor.get("do_normalize", True):
            mean, deviation = (0.0,) * len(mean), (1.0,) * len(mean)
        size = processor.get("size", 512) if processor.get("do_resize", True) else None
        return replace(
            base,
            channels=len(mean),
            mean=tuple(map(float, mean)),
            deviation=tuple(map(float, deviation)),
            maximum=_maximum(processor),
            order="bgr" if processor.get("do_flip_channel_order", False) else base.order,
            resize=None if size is None else _size(size, int(processor.get("size_divisor") or 1)),
        ), tuple(_notes(processor))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be understood ({error}).") from error


def _maximum(processor: Mapping[str, Any]) -> float:
    """The value that becomes 1."""
    if not processor.get("do_rescale", True):
        return 1.0
    factor = float(processor.get("rescale_factor", 1 / 255))
    if not 0 < factor < float("inf"):
        raise ValueError(f"rescale_factor is {factor:g}")
    return round(1 / factor, 6) or 1 / factor  # 1/255 in decimal is not quite 1/255


def _size(size: Any, multiple: int) -> ResizeRule:
    if isinstance(size, int):
        return ResizeRule(exact=(size, size), interpolation="antialiased")
    if "shortest_edge" in size:
        return ResizeRule(
            shortest=int(size["shortest_edge"]),
            longest=size.get("longest_edge"),
            interpolation="antialiased",
            multiple=multiple,
        )
    return ResizeRule(exact=(int(size["height"]), int(size["width"])), interpolation="antialiased")


def _notes(processor: Mapping[str, Any]) -> list[str]:
    notes: list[str] = []
    resampling = _RESAMPLING.get(processor.get("resample", 2))
    if resampling is not None and processor.get("do_resize", True):
        notes.append(f"{PROCESSOR} resizes images by {resampling} interpolation; here it is linear.")
    if processor.get("do_center_crop", False):
        notes.append(f"{PROCESSOR} cuts out the middle of an image; here the whole image is answered.")
    return notes
