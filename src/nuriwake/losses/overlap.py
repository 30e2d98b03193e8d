"""Dice, Jaccard, Tversky and focal Tversky: one minus a soft overlap of prediction and truth, class by class.

With p the probability and y the truth (0 or 1) at the valid pixels: TP = sum(p y), P = sum(p), T = sum(y). The sums run over
the batch or over each image (`reduction`); the loss is the mean over the classes, or over the (image, class) pairs, that count,
weighted by the class weights. Binary models have the one class foreground, and class weights do not change anything.

Absent classes (T = 0 over the sum) follow one rule, `absent`. "skip": they do not count. "count": they do, with the loss
P / (P + smoothing) or its like, which pushes the class away; it needs `smoothing` above 0 for a gradient.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.losses.pixels import PixelBatch, weighted_mean

Reduction = Literal["batch", "image"]
Absent = Literal["skip", "count"]


class Overlap(NamedTuple):
    """TP, P and T of every class: (1, C) over the batch or (B, C) over each image."""

    true_positive: Tensor
    predicted: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Dice:
    """1 - (2 TP + s) / (P + T + s).

    Args:
        squared: P = sum(p^2) instead of sum(p) (Milletari 2016, V-Net, eq. 2).
        smoothing: s, in pixels.
        reduction: "batch" or "image", see above.
        absent: "skip" or "count", see above.
    """

    squared: bool = False
    smoothing: float = 0.0
    reduction: Reduction = "batch"
    absent: Absent = "skip"

    def __post_init__(self) -> None:
        _check(self.smoothing, self.absent)

    def __call__(self, pixels: PixelBatch) -> Tensor:
        overlap = measure_overlap(pixels, self.reduction, squared=self.squared)
        denominator = overlap.predicted + overlap.truth
        scores = _score(2 * overlap.true_positive, denominator, self.smoothing)
        return _mean_over_classes(1 - scores, overlap, pixels, self.absent)


@dataclass(frozen=True)
class Jaccard:
    """1 - (TP + s) / (P + T - TP + s): soft intersection over union. Arguments as of `Dice`."""

    squared: bool = False
    smoothing: float = 0.0
    reduction: Reduction = "batch"
    absent: Absent = "skip"

    def __post_init__(self) -> None:
        _check(self.smoothing, self.absent)

    def __call__(self, pixels: PixelBatch) -> Tensor:
        overlap = measure_overlap(pixels, self.reduction, squared=self.squared)
        denominator = overlap.predicted + overlap.truth - overlap.true_positive
        scores = _score(overlap.true_positive, denominator, self.smoothing)
        return _mean_over_classes(1 - scores, overlap, pixels, self.absent)


@dataclass(frozen=True)
class Tversky:
    """1 - (TP + s) / (TP + a FP + b FN + s), FP = P - TP, FN = T - TP (Salehi 2017, eq. 3; a = b = 0.5 is Dice).

    Args:
        false_positive_weight: a.
        false_negative_weight: b; above a it favours recall. The defaults are the paper's best for small lesions.
    """

    false_positive_weight: float = 0.3
    false_negative_weight: float = 0.7
    smoothing: float = 0.0
    reduction: Reduction = "batch"
    absent: Absent = "skip"

    def __post_init__(self) -> None:
        _check(self.smoothing, self.absent)
        _check_tversky(self.false_positive_weight, self.false_negative_weight)

    def __call__(self, pixels: PixelBatch) -> Tensor:
        overlap = measure_overlap(pixels, self.reduction, squared=False)
        scores = _tversky(overlap, self.false_positive_weight, self.false_negative_weight, self.smoothing)
        return _mean_over_classes(1 - scores, overlap, pixels, self.absent)


@dataclass(frozen=True)
class FocalTversky:
    """(Tversky loss of a class) ^ (1 / gamma), then the mean over classes (Abraham and Khan 2019, eq. 4, which sums).

    Args:
        gamma: above 1 it favours classes that overlap badly; the paper uses 4/3 in 1..3.
    """

    gamma: float = 4 / 3
    false_positive_weight: float = 0.3
    false_negative_weight: float = 0.7
    smoothing: float = 0.0
    reduction: Reduction = "batch"
    absent: Absent = "skip"

    def __post_init__(self) -> None:
        _check(self.smoothing, self.absent)
        _check_tversky(self.false_positive_weight, self.false_negative_weight)
        if self.gamma <= 0:
            raise UserError(f"The gamma of focal Tversky is above 0, found {self.gamma}.")

    def __call__(self, pixels: PixelBatch) -> Tensor:
        overlap = measure_overlap(pixels, self.reduction, squared=False)
        scores = _tversky(overlap, self.false_positive_weight, self.false_negative_weight, self.smoothing)
        # A root has an infinite slope at 0; below this loss the class is done and gets no gradient.
        losses = (1 - scores).clamp_min(1e-6) ** (1 / self.gamma)
        return _mean_over_classes(losses, overlap, pixels, self.absent)


def measure_overlap(pixels: PixelBatch, reduction: Reduction, *, squared: bool) -> Overlap:
    """TP, P (of p, or of p squared) and T of every class over the valid pixels."""
    if pixels.mode == "multiclass":
        true_positive = _sum_by_label(pixels.true_log_probability.exp() * pixels.valid, pixels)
        truth = _sum_by_label(pixels.valid.to(pixels.logits.dtype), pixels)
        valid = pixels.valid[:, None]
    else:
        true_positive = (pixels.probabilities * pixels.labels).sum(2)
        truth, valid = pixels.labels.sum(2), pixels.valid
    predicted = (pixels.probabilities.square() * valid).sum(2) if squared else pixels.volume
    overlap = Overlap(true_positive, predicted, truth)
    return overlap if reduction == "image" else Overlap(*(part.sum(0, keepdim=True) for part in overlap))


def _sum_by_label(values: Tensor, pixels: PixelBatch) -> Tensor:
    """(B, N) -> (B, C): the sum of `values` over the pixels of each label.

    One running sum takes a million small numbers here, which float32 gets wrong in the third digit.
    """
    batch, channels, _ = pixels.logits.shape
    wide = values if values.device.type == "mps" else values.double()
    sums = wide.new_zeros(batch, channels).scatter_add(1, pixels.labels, wide)
    return sums.to(pixels.logits.dtype)


def _tversky(overlap: Overlap, false_positive_weight: float, false_negative_weight: float, smoothing: float) -> Tensor:
    true_positive, predicted, truth = overlap
    false_positive, false_negative = predicted - true_positive, truth - true_positive
    denominator = true_positive + false_positive_weight * false_positive + false_negative_weight * false_negative
    return _score(true_positive, denominator, smoothing)


def _score(numerator: Tensor, denominator: Tensor, smoothing: float) -> Tensor:
    denominator = denominator + smoothing
    safe = torch.where(denominator > 0, denominator, torch.ones_like(denominator))
    return (numerator + smoothing) / safe


def _mean_over_classes(losses: Tensor, overlap: Overlap, pixels: PixelBatch, absent: Absent) -> Tensor:
    weights = pixels.channel_weights.expand_as(losses)
    if absent == "skip":
        weights = weights * (overlap.truth > 0)
    return weighted_mean(losses, weights)


def _check(smoothing: float, absent: Absent) -> None:
    if smoothing < 0:
        raise UserError(f"smoothing is 0 or more, found {smoothing}.")
    if absent == "count" and smoothing == 0:
        raise UserError("Absent classes can only count with smoothing above 0 (1.0 is usual), found smoothing 0.")


def _check_tversky(false_positive_weight: float, false_negative_weight: float) -> None:
    if min(false_positive_weight, false_negative_weight) < 0 or false_positive_weight + false_negative_weight == 0:
        raise UserError(
            "The Tversky weights of false positives and false negatives are 0 or more and not both 0, "
            f"found {false_positive_weight} and {false_negative_weight}."
        )
