"""Thresholds: the best cut per class from histograms of the probability, counted in one pass over the validation data."""

import numpy as np
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.pixels import kernel

BINS = 1024
"""A power of two, so that `probability * BINS` is exact and a cut at j / BINS counts exactly the bins from j on."""


class ThresholdHistogram:
    """How often each probability was given to pixels that are, and that are not, of a class.

    For a binary space class 1 is counted, for a multi-label space every class. Exclusive spaces of more classes are
    decided by the largest probability and have no histogram here.

    Args:
        space: binary or multi-label.

    Raises:
        UserError: any other space.
    """

    def __init__(self, space: LabelSpace) -> None:
        if space.exclusive and not space.binary:
            raise UserError(
                f"Thresholds are for binary and multi-label spaces; this one has {len(space)} exclusive classes."
            )
        self.space = space
        self._counts = np.zeros((space.channels, 2, BINS), np.int64)

    def update(self, probabilities: Tensor | np.ndarray, labels: np.ndarray) -> None:
        """Count the pixels of one image or strip.

        Args:
            probabilities: float32 (C, H, W), C the channels of a model of `space` (two for a binary softmax model).
            labels: the truth, uint8 (H, W), or (H, W, classes) multi-label; `IGNORE` pixels do not count.
        """
        found = probabilities.cpu().numpy() if isinstance(probabilities, Tensor) else probabilities
        if self.space.binary:
            found, labels = found[-1:], labels[:, :, None]
        if found.shape != (labels.shape[2], *labels.shape[:2]):
            raise UserError(f"Probabilities (C, H, W) {found.shape} do not fit labels (H, W, C) {labels.shape}.")
        for channel in range(len(self._counts)):
            _count(
                np.ascontiguousarray(found[channel]), np.ascontiguousarray(labels[:, :, channel]), self._counts[channel]
            )

    def merge(self, other: "ThresholdHistogram") -> None:
        """Add the counts of another process."""
        self._counts += other._counts

    def dice(self) -> np.ndarray:
        """float64 (C, BINS - 1): the Dice score at the thresholds 1 / BINS, 2 / BINS, ...; nan for 0/0."""
        above = self._counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:].astype(np.float64)
        wrong, right = above[:, 0], above[:, 1]
        with np.errstate(invalid="ignore"):
            return 2 * right / (right + wrong + self._counts[:, 1].sum(axis=1, keepdims=True))

    def best(self) -> tuple[float, ...]:
        """The threshold of every class with the best Dice and so the best IoU, in steps of 1 / BINS.

        Of equal ones it is the nearest to 0.5. A class that has no pixel of its own, or none of any other, keeps 0.5:
        nothing can be learnt about it.
        """
        thresholds = np.arange(1, BINS) / BINS
        result: list[float] = []
        for scores, seen in zip(np.nan_to_num(self.dice(), nan=-1), self._counts.sum(axis=2), strict=True):
            ties = thresholds[scores >= scores.max()]
            result.append(float(ties[np.abs(ties - 0.5).argmin()]) if seen.all() else 0.5)
        return tuple(result)


@kernel
def _count(probabilities: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
    """Add the pixels of (H, W) arrays to `counts` (2, BINS)."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label != IGNORE:
                place = int(probabilities[y, x] * np.float32(BINS))
                counts[1 if label == 1 else 0, min(max(place, 0), BINS - 1)] += 1
