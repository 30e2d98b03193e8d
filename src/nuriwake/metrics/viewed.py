"""A metric of one kind of target for predictions of another: mIoU and AP of panoptic predictions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nuriwake.metrics.metric import Counts, Metric, MetricReport, Spacing


class ViewedMetric:
    """`metric`, given prediction and truth as `view` shows them.

    Its confusion matrix is left out of the details: it would stand for the whole evaluation.
    """

    def __init__(self, metric: Metric, view: Callable[[Any], Any]) -> None:
        self.metric, self.view = metric, view

    def update(self, prediction: Any, target: Any, *, spacing: Spacing = (1.0, 1.0)) -> dict[str, float]:
        """See `Metric`."""
        return self.metric.update(self.view(prediction), self.view(target), spacing=spacing)

    def counts(self) -> dict[str, np.ndarray]:
        """See `Metric`."""
        return self.metric.counts()

    def load_sum(self, states: Sequence[Counts]) -> None:
        """See `Metric`."""
        self.metric.load_sum(states)

    def report(self) -> MetricReport:
        """See `Metric`."""
        found = self.metric.report()
        return MetricReport(
            found.headline,
            found.per_class,
            {name: value for name, value in found.details.items() if name != "confusion"},
        )
