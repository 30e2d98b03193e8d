"""What leaves a model: one NamedTuple of tensors per kind of answer. Loss and decoding are chosen by its type."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class PixelLogits(NamedTuple):
    """A score per class for every pixel: the output of every semantic architecture.

    Attributes:
        logits: (B, C, h, w), before softmax or sigmoid. They cover the input's extent less the model's `margin` on every
            side, at any resolution; consumers bring them to the wanted size with `fit_logits`.
        auxiliary: further logits of the same meaning from auxiliary heads, each (B, C, h', w'); empty in eval mode.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def fit_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`logits` (B, C, h, w) -> (B, C, *size), bilinear with half-pixel centres; untouched where the size is right."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
