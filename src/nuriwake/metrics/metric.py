"""What every metric is, whatever it measures: counts of a prediction against its truth, which add up, and a report of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap

Counts = Mapping[str, np.ndarray]
"""The state of a metric as arrays. Of most they have fixed shapes and add up; where each detection must be kept, they are the
columns of a table, and several states put together are one longer table."""

Spacing = tuple[float, float]
"""Size of a pixel, (height, width), in the unit that distances come out in."""


class MetricSettings(NamedTuple):
    """What a metric may be told. It takes what it needs.

    Attributes:
        tolerance: of the normalised surface Dice, in the unit of the samples' spacing; pixels where the data give none.
    """

    tolerance: float = 1.0


@dataclass(frozen=True)
class MetricReport:
    """The scores of a data set as plain values for JSON; None is a score that is not defined.

    Attributes:
        headline: name of the score -> value. The name says which definition it is.
        per_class: class name -> name of the score -> value.
        details: anything else worth keeping, such as the confusion matrix.
    """

    headline: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    details: dict[str, Any] = field(default_factory=dict[str, Any])


class Metric(Protocol):
    """One kind of scores over a data set. A new one is a file here and a row of its task's table `metrics`."""

    def update(self, prediction: Any, target: Any, *, spacing: Spacing = (1.0, 1.0)) -> dict[str, float]:
        """Count one image, both of the kind of target that this metric is for; returns its own scores under the headline's
        names, nan where not defined."""
        ...

    def counts(self) -> dict[str, np.ndarray]:
        """The whole state."""
        ...

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take several states together, as gathered from all processes in the order of their ranks; image i was counted by
        process i modulo their number."""
        ...

    def report(self) -> MetricReport:
        """The scores of all that was counted."""
        ...


def joined(reports: Sequence[MetricReport]) -> MetricReport:
    """Several reports as one, in their order. Their scores must have different names."""
    headline: dict[str, float | None] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    details: dict[str, Any] = {}
    for report in reports:
        headline |= report.headline
        details |= report.details
        for name, row in report.per_class.items():
            per_class[name] = per_class.get(name, {}) | row
    return MetricReport(headline, per_class, details)


def summed(states: Sequence[Counts]) -> dict[str, np.ndarray]:
    """The sum of `states`, at least one. Raises UserError when they are states of different metrics."""
    shapes = [{name: np.shape(array) for name, array in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("Counts of different metrics, or of one metric over different classes, do not merge.")
    return {name: np.sum([state[name] for state in states], axis=0) for name in states[0]}


def check_shapes(counts: Counts, expected: Counts) -> None:
    """Raises UserError when `counts` is no state of the metric whose state is `expected`."""
    known, found = ({name: np.shape(array) for name, array in state.items()} for state in (expected, counts))
    if known != found:
        raise UserError(f"These counts belong to another metric: expected {known}, found {found}.")


def check_pair(prediction: SemanticMap, target: SemanticMap, space: LabelSpace) -> None:
    """Raises UserError when the maps differ in size, or are not of the classes of `space`."""
    for what, found in (("prediction", prediction), ("target", target)):
        if len(found.space) != len(space) or found.space.exclusive != space.exclusive:
            raise UserError(f"The {what} has {_kind(found.space)}, this metric counts {_kind(space)}.")
    if prediction.size != target.size:
        raise UserError(f"Prediction and target must have the same size, found {prediction.size} and {target.size}.")


def layers(labels: SemanticMap) -> list[np.ndarray]:
    """The label maps (H, W) that are counted one by one: one, or one per class when multi-label."""
    return [labels.labels] if labels.space.exclusive else list(np.moveaxis(labels.labels, -1, 0))


def without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """`scores` with None for nan, which JSON cannot hold; counts stay whole numbers."""
    plain = {name: value if isinstance(value, int) else float(value) for name, value in scores.items()}
    return {name: None if math.isnan(value) else value for name, value in plain.items()}


def is_seen(row: Mapping[str, float | None]) -> bool:
    """Whether a class of `MetricReport.per_class` is in the truth or predicted: a score is defined, or a count is not 0."""
    return any(value if isinstance(value, int) else value is not None for value in row.values())


def _kind(space: LabelSpace) -> str:
    return f"{len(space)} {'exclusive' if space.exclusive else 'multi-label'} classes"
