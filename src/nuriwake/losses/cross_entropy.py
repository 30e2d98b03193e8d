"""Cross entropy, with label smoothing and hard-pixel mining."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.pixels import PixelBatch, ratio


@dataclass(frozen=True)
class CrossEntropy:
    """-log p(true class), averaged over the valid pixels with the weight of the true class, as torch's `cross_entropy`.

    Binary: the two-class cross entropy of the logits (0, z). Multilabel: that for every channel, weighted by the channel.

    Args:
        label_smoothing: e in 0..1: the truth is 1 - e of the label plus e shared evenly by all classes (Szegedy 2016, eq. 3).
        hard_threshold: None counts every pixel. A probability in 0..1: only pixels whose true class has less than this
            count (online hard example mining, Shrivastava 2016; 0.7 is usual for road scenes).
        hard_minimum: with `hard_threshold`, at least this many pixels per image, on average over the batch, count: the
            hardest of the batch (all, where there are fewer; all of equal difficulty to the last).
    """

    label_smoothing: float = 0.0
    hard_threshold: float | None = None
    hard_minimum: int = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise UserError(f"label_smoothing is 0 to 1, found {self.label_smoothing}.")
        if self.hard_threshold is not None and not 0 < self.hard_threshold <= 1:
            raise UserError(f"hard_threshold is a probability above 0 and at most 1, found {self.hard_threshold}.")
        if self.hard_minimum < 1:
            raise UserError(f"hard_minimum is at least 1 pixel per image, found {self.hard_minimum}.")

    def __call__(self, pixels: PixelBatch) -> Tensor:
        losses, weights = -pixels.true_log_probability, pixels.label_weights
        weighted = losses * weights
        if self.label_smoothing:
            weighted = (1 - self.label_smoothing) * weighted + self.label_smoothing * _all_classes(pixels)
        if self.hard_threshold is not None:
            kept = self._hard(losses.detach(), pixels.valid)
            weighted, weights = weighted * kept, weights * kept
        return ratio(weighted.sum(), weights.sum())

    def _hard(self, losses: Tensor, valid: Tensor) -> Tensor:
        """Bool, of the shape of `losses`: the pixels that count."""
        assert self.hard_threshold is not None
        hard = (losses > -log(self.hard_threshold)) & valid
        minimum = self.hard_minimum * losses.shape[0]
        if int(hard.sum()) >= minimum:
            return hard
        if int(valid.sum()) <= minimum:
            return valid
        ranked = losses.masked_fill(~valid, -torch.inf).flatten()
        least = ranked.kthvalue(ranked.numel() - minimum + 1).values
        return (losses >= least) & valid


def _all_classes(pixels: PixelBatch) -> Tensor:
    """Of the labels' shape: the weighted -log p averaged over all classes, 0 where ignored; what smoothing mixes in."""
    if pixels.mode == "multiclass":
        shares = pixels.channel_weights / pixels.channel_weights.numel()
        return -torch.matmul(shares, pixels.log_probabilities) * pixels.valid
    negative, positive = functional.softplus(pixels.logits), functional.softplus(-pixels.logits)
    if pixels.mode == "binary" and pixels.class_weights is not None:
        background, foreground = pixels.class_weights
        return (background * negative + foreground * positive) / 2 * pixels.valid
    return (negative + positive) / 2 * pixels.label_weights
