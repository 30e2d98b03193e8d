"""Floor 2: a model's output and the truth as tensors -> named terms of the loss."""

from nuriwake.losses.criterion import PixelCriterion, sum_terms
from nuriwake.losses.pixels import Mode, PixelBatch, prepare_pixels
from nuriwake.losses.terms import LOSSES, PixelLoss, build_loss, parse_terms

__all__ = [
    "LOSSES",
    "Mode",
    "PixelBatch",
    "PixelCriterion",
    "PixelLoss",
    "build_loss",
    "parse_terms",
    "prepare_pixels",
    "sum_terms",
]
