"""Boundary IoU over a data set of label maps, per class and as one number."""

from collections.abc import Sequence

import numpy as np

from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.boundary import DILATION_RATIO, BoundaryIoU
from nuriwake.metrics.metric import (
    Counts,
    MetricReport,
    MetricSettings,
    Spacing,
    check_pair,
    check_shapes,
    layers,
    summed,
    without_nan,
)
from nuriwake.metrics.scores import mean_of_present


class BoundaryMetric:
    """Data-set boundary IoU; costs about ten times the confusion matrix.

    Scores: `mean_boundary_iou`, the mean over the present classes; binary spaces also `boundary_iou`, the foreground's.

    Args:
        space: the label space of all maps.
        dilation_ratio: width of the boundary as a share of the image's diagonal.
    """

    def __init__(self, space: LabelSpace, *, dilation_ratio: float = DILATION_RATIO) -> None:
        self.space = space
        classes, count = (len(space), 1) if space.exclusive else (2, len(space))
        self._layers = [BoundaryIoU(classes, dilation_ratio=dilation_ratio) for _ in range(count)]

    @classmethod
    def build(cls, space: LabelSpace, settings: MetricSettings) -> "BoundaryMetric":
        """As the table of metrics builds it; nothing in `settings` concerns it."""
        return cls(space)

    def update(
        self, prediction: SemanticMap, target: SemanticMap, *, spacing: Spacing = (1.0, 1.0)
    ) -> dict[str, float]:
        """Count one image; returns its own scores, nan where absent. The boundary is in pixels: `spacing` is not used.

        Raises:
            UserError: the maps differ in size, or in the number or the kind of classes.
        """
        check_pair(prediction, target, self.space)
        maps = zip(self._layers, layers(prediction), layers(target), strict=True)
        return self._headline(self._classes([layer.update(*pair) for layer, *pair in maps]))

    def iou(self) -> np.ndarray:
        """(K,) float64 per class of the space, nan where absent."""
        return self._classes([layer.iou() for layer in self._layers])

    def report(self) -> MetricReport:
        """The headline, and `boundary_iou` per class."""
        iou = self.iou()
        rows = {name: without_nan({"boundary_iou": value}) for name, value in zip(self.space.names, iou, strict=True)}
        return MetricReport(without_nan(self._headline(iou)), rows)

    def merge(self, other: "BoundaryMetric") -> None:
        """Add what `other` has counted; it must have the same space and dilation ratio."""
        for layer, theirs in zip(self._layers, other._layers, strict=True):
            layer.merge(theirs)

    def counts(self) -> dict[str, np.ndarray]:
        """The state: `boundary` (L, 3, C) int64, with L = 1 and C = K, or L = K and C = 2 when multi-label."""
        return {"boundary": np.stack([layer.counts()["boundary"] for layer in self._layers])}

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take the sum of several states, as gathered from all processes."""
        total = summed(states)
        check_shapes(total, self.counts())
        for layer, counts in zip(self._layers, total["boundary"], strict=True):
            layer.load({"boundary": counts})

    def _classes(self, found: list[np.ndarray]) -> np.ndarray:
        return found[0] if self.space.exclusive else np.array([layer[1] for layer in found])

    def _headline(self, iou: np.ndarray) -> dict[str, float]:
        foreground = {"boundary_iou": float(iou[1])} if self.space.binary else {}
        return {"mean_boundary_iou": mean_of_present(iou)} | foreground
