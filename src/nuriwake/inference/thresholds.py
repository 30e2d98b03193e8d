"""Thresholds: the best cut per class from histograms of the probability, counted in one pass over the validation data."""

from typing import Literal

import numpy as np
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.pixels import kernel

BINS = 1024
"""A power of two, so that `probability * BINS` is exact and a cut at j / BINS counts exactly the bins from j on."""

Aim = Literal["dice", "iou", "recall_at_precision"]


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

    def counts(self) -> dict[str, np.ndarray]:
        """{"histogram": int64 (C, 2, BINS)}: per class, pixels not of it then of it, by probability."""
        return {"histogram": self._counts}

    def load(self, counts: dict[str, np.ndarray]) -> None:
        """Replace the counts by what `counts()` gave (summed over processes)."""
        self._counts = counts["histogram"].astype(np.int64).reshape(self._counts.shape)

    def curves(self) -> dict[str, np.ndarray]:
        """ "threshold" (BINS - 1,) and, float64 (C, BINS - 1), "dice", "iou", "precision", "recall" at each; nan for 0/0."""
        above = self._counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:].astype(np.float64)
        wrong, right = above[:, 0], above[:, 1]
        missed = self._counts[:, 1].sum(axis=1, keepdims=True) - right
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "threshold": np.arange(1, BINS) / BINS,
                "dice": 2 * right / (2 * right + wrong + missed),
                "iou": right / (right + wrong + missed),
                "precision": right / (right + wrong),
                "recall": right / (right + missed),
            }

    def best(self, aim: Aim = "dice", *, precision: float = 0.9) -> tuple[float, ...]:
        """The best threshold of every class, in steps of 1 / BINS; of equal ones the nearest to 0.5.

        Args:
            aim: "dice" or "iou" (the same cut is best for both); or "recall_at_precision", the largest recall among the
                cuts whose precision is at least `precision`, and where none is, the cut of the largest precision.

        A class that has no pixel of its own, or none of any other, keeps 0.5: nothing can be learnt about it.
        """
        curves = self.curves()
        result: list[float] = []
        for channel, seen in enumerate(self._counts.sum(axis=2)):
            if not seen.all():
                result.append(0.5)
                continue
            goal = _goal({name: curve[channel] for name, curve in curves.items() if curve.ndim == 2}, aim, precision)
            ties = curves["threshold"][goal >= goal.max()]
            result.append(float(ties[np.abs(ties - 0.5).argmin()]))
        return tuple(result)


def _goal(curves: dict[str, np.ndarray], aim: Aim, precision: float) -> np.ndarray:
    """float64 (BINS - 1,), to be maximised; -1 where it is not defined."""
    if aim != "recall_at_precision":
        return np.nan_to_num(curves[aim], nan=-1)
    reached = np.nan_to_num(curves["precision"], nan=-1)
    enough = reached >= precision
    return np.where(enough, curves["recall"], -1) if enough.any() else reached


@kernel
def _count(probabilities: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
    """Add the pixels of (H, W) arrays to `counts` (2, BINS)."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label != IGNORE:
                place = int(probabilities[y, x] * np.float32(BINS))
                counts[1 if label == 1 else 0, min(max(place, 0), BINS - 1)] += 1
