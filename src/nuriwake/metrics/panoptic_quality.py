"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), equal to panopticapi's."""

import math
from collections.abc import Sequence

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.metrics.metric import Counts, MetricReport, Spacing, check_shapes, summed, without_nan
from nuriwake.metrics.segment_overlap import class_qualities, count_overlaps, match_segments, mean_qualities

PANOPTIC_FIGURES = tuple(f"{name}{group}" for group in ("", "_things", "_stuff") for name in ("pq", "sq", "rq"))
"""The headline: panoptic, segmentation and recognition quality, over all classes, things, stuff."""

_COUNTS = ("segments_matched", "segments_false", "segments_missed")


class PanopticMetric:
    """PQ, SQ and RQ over a data set, and of each of its images.

    A predicted and a true segment of one class match when their IoU is above 0.5; pixels of the prediction that are void in the
    truth count in no union. PQ of a class is the sum of the IoU of its matches over TP + FP/2 + FN/2, which is SQ * RQ with SQ the mean IoU
    of the matches and RQ the rest. A class with no segment in truth and prediction is left out of the means; one without a
    match has SQ 0 there, as in panopticapi. A predicted segment that is for more than half on void or on the crowd region
    of its class is no false positive, and a crowd region is never missed; that a predicted segment is crowd says nothing. Of
    several crowd regions of one class in an image the one that is listed last counts there, as in panopticapi.

    Args:
        space: the label space of all maps; its `things` divide the classes.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self._things = np.array(space.things)
        self._counts = np.zeros((len(space), 3), np.int64)
        self._iou = np.zeros(len(space), np.float64)

    def update(self, prediction: Panoptic, target: Panoptic, *, spacing: Spacing = (1.0, 1.0)) -> dict[str, float]:
        """Count one image; returns its own figures under the same names, nan where no class is present. `spacing` changes none.

        Raises:
            UserError: the maps differ in size, or have another number of classes than the metric.
        """
        _check(prediction, target, self.space)
        truth, found = (np.ascontiguousarray(part.ids).reshape(-1) for part in (target, prediction))
        overlaps = count_overlaps(truth, found, target.segment_ids, prediction.segment_ids)
        counts, iou = match_segments(overlaps, target.labels, target.crowd, prediction.labels, len(self.space))
        self._counts += counts
        self._iou += iou
        return _figures(counts, iou, self._things)

    def compute(self) -> dict[str, float]:
        """`PANOPTIC_FIGURES`, 0..1; nan when no class of the group was seen."""
        return _figures(self._counts, self._iou, self._things)

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name -> pq, sq, rq and the counts behind them: matched, false and missed segments, and the sum of the IoU of
        the matches. What is no count is nan when the class was never seen."""
        rows = zip(class_qualities(self._counts, self._iou), self._counts, self._iou, strict=True)
        return {
            name: dict(zip(("pq", "sq", "rq"), qualities.tolist(), strict=True))
            | dict(zip(_COUNTS, counts.tolist(), strict=True))
            | {"matched_iou_sum": float(iou) if counts.any() else math.nan}
            for name, (qualities, counts, iou) in zip(self.space.names, rows, strict=True)
        }

    def report(self) -> MetricReport:
        """`compute()` and `per_class()`; the details are the counts over all classes."""
        totals = dict(zip(_COUNTS, self._counts.sum(0).tolist(), strict=True))
        rows = {name: without_nan(row) for name, row in self.per_class().items()}
        return MetricReport(without_nan(self.compute()), rows, {"panoptic_counts": totals})

    def merge(self, other: "PanopticMetric") -> None:
        """Add what `other` has counted (another process, another shard); it must have the same space."""
        self.load_sum([self.counts(), other.counts()])

    def counts(self) -> dict[str, np.ndarray]:
        """The state: segments (K, 3) int64, matched, false, missed; matched_iou (K,) float64."""
        return {"segments": self._counts.copy(), "matched_iou": self._iou.copy()}

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take the sum of several states, as gathered from all processes."""
        total = summed(states)
        check_shapes(total, self.counts())
        self._counts, self._iou = total["segments"], total["matched_iou"]


def _figures(counts: np.ndarray, iou: np.ndarray, things: np.ndarray) -> dict[str, float]:
    return dict(zip(PANOPTIC_FIGURES, mean_qualities(counts, iou, things).tolist(), strict=True))


def _check(prediction: Panoptic, target: Panoptic, space: LabelSpace) -> None:
    for what, found in (("prediction", prediction), ("target", target)):
        if len(found.space) != len(space):
            raise UserError(f"The {what} has {len(found.space)} classes, this metric counts {len(space)}.")
    if prediction.ids.shape != target.ids.shape:
        sizes = f"{prediction.ids.shape} and {target.ids.shape}"
        raise UserError(f"Prediction and target must have the same size, found {sizes}.")
