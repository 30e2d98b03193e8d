"""The scores of semantic segmentation over a data set, and of each of its images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.confusion import ConfusionMatrix, PixelCounts
from nuriwake.metrics.metric import (
    Counts,
    MetricReport,
    Spacing,
    check_pair,
    check_shapes,
    layers,
    summed,
    without_nan,
)
from nuriwake.metrics.scores import SemanticScores, layer_scores, semantic_scores


@dataclass(frozen=True)
class Score:
    """A headline number: higher is better, 0..1 or nan.

    Attributes:
        summary: what it is.
        value: the number, from the scores of the data set or of one image.
        binary: only binary spaces have it.
        per_image: over a data set it is the mean of the images' own numbers, not the number of all their pixels together.
    """

    summary: str
    value: Callable[[SemanticScores], float]
    binary: bool = False
    per_image: bool = False


@dataclass(frozen=True)
class Foreground:
    """The value of class 1 in a column of `SemanticScores`."""

    column: str

    def __call__(self, scores: SemanticScores) -> float:
        return float(getattr(scores, self.column)[1])


METRICS: dict[str, Score] = {
    "mean_iou": Score(
        "data-set mIoU: IoU per class over all pixels of the data set, then the mean over the present classes",
        attrgetter("mean_iou"),
    ),
    "mean_dice": Score("the same with Dice", attrgetter("mean_dice")),
    "image_mean_iou": Score(
        "the mean over images of the mIoU of each image alone (not the data-set mIoU)",
        attrgetter("mean_iou"),
        per_image=True,
    ),
    "image_mean_dice": Score("the same with Dice", attrgetter("mean_dice"), per_image=True),
    "mean_accuracy": Score("the mean recall over the classes of the truth", attrgetter("mean_accuracy")),
    "frequency_weighted_iou": Score(
        "IoU per class weighted by its share of true pixels", attrgetter("frequency_weighted_iou")
    ),
    "pixel_accuracy": Score(
        "the share of right pixels; when multi-label, of right (pixel, class) answers", attrgetter("pixel_accuracy")
    ),
    "iou": Score("data-set IoU of the foreground, class 1", Foreground("iou"), binary=True),
    "dice": Score("data-set Dice of the foreground", Foreground("dice"), binary=True),
    "precision": Score("data-set precision of the foreground", Foreground("precision"), binary=True),
    "recall": Score("data-set recall of the foreground", Foreground("recall"), binary=True),
    "image_iou": Score("the mean over images of the foreground IoU", Foreground("iou"), binary=True, per_image=True),
    "image_dice": Score("the mean over images of the foreground Dice", Foreground("dice"), binary=True, per_image=True),
}
"""Every headline number by name. A new one is a row here."""

COLUMNS = ("iou", "dice", "precision", "recall", "pixels")
"""What `per_class` says of a class: columns of `SemanticScores`."""


def metric_names(space: LabelSpace) -> tuple[str, ...]:
    """The names of `METRICS` that `SemanticMetric(space).compute()` has."""
    return tuple(name for name, score in METRICS.items() if space.binary or not score.binary)


class SemanticMetric:
    """The scores of label maps of one label space that follow from counting pixels.

    Exclusive spaces count one confusion matrix (K, K). Multi-label spaces count 2 x 2 per class; a class's IoU is that of
    its "yes" pixels. Ignore in the truth counts nowhere; ignore in a prediction is a wrong answer (`PixelCounts`).

    Image means go over the images in which the number exists: an image that is all ignore has none, and an image
    without foreground in truth and prediction has no foreground IoU. `counts()` says how many images went into each.

    Args:
        space: the label space of all maps.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        classes, count = (len(space), 1) if space.exclusive else (2, len(space))
        self._layers = [ConfusionMatrix(classes) for _ in range(count)]
        self._table = {name: METRICS[name] for name in metric_names(space)}
        self._images = {name: _Mean() for name, score in self._table.items() if score.per_image}

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix, int64, rows are the truth: (K, K), or (K, 2, 2) when multi-label."""
        matrices = [layer.matrix for layer in self._layers]
        return matrices[0] if self.space.exclusive else np.stack(matrices)

    def update(
        self, prediction: SemanticMap, target: SemanticMap, *, spacing: Spacing = (1.0, 1.0)
    ) -> dict[str, float]:
        """Count one image; returns its own scores under the same names, nan where absent. `spacing` changes none of them.

        Raises:
            UserError: the maps differ in size, or in the number or the kind of classes.
        """
        check_pair(prediction, target, self.space)
        pairs = zip(self._layers, layers(prediction), layers(target), strict=True)
        found = self._scores([layer.update(*pair) for layer, *pair in pairs])
        scores = {name: score.value(found) for name, score in self._table.items()}
        for name, mean in self._images.items():
            mean.add(scores[name])
        return scores

    def compute(self) -> dict[str, float]:
        """The headline numbers, in the order of `METRICS`; nan where nothing was counted."""
        found, means = self.scores(), {name: mean.value() for name, mean in self._images.items()}
        return {name: means[name] if score.per_image else score.value(found) for name, score in self._table.items()}

    def scores(self) -> SemanticScores:
        """Everything per class, and the means, over the data set."""
        return self._scores([layer.total for layer in self._layers])

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name -> the `COLUMNS`; nan where absent."""
        scores = self.scores()
        return {
            name: {column: getattr(scores, column)[index].item() for column in COLUMNS}
            for index, name in enumerate(self.space.names)
        }

    def report(self) -> MetricReport:
        """`compute()` and `per_class()`; the details are the confusion matrix and the pixels that were left out."""
        return MetricReport(
            without_nan(self.compute()),
            {name: without_nan(row) for name, row in self.per_class().items()},
            {
                "confusion": self.matrix.tolist(),
                "ignored_pixels": sum(layer.total.ignored for layer in self._layers),
                "unanswered_pixels": sum(int(layer.total.unanswered.sum()) for layer in self._layers),
            },
        )

    def merge(self, other: "SemanticMetric") -> None:
        """Add what `other` has counted (another process, another shard); it must have the same space."""
        self.load_sum([self.counts(), other.counts()])

    def counts(self) -> dict[str, np.ndarray]:
        """The state.

        matrix (L, C, C), unanswered (L, C), ignored (L, 1) int64, with L = 1 and C = K, or L = K and C = 2 when multi-label;
        per image mean `<name>`: (2,) float64, the sum and the number of images.
        """
        states = [layer.counts() for layer in self._layers]
        out = {name: np.stack([state[name] for state in states]) for name in states[0]}
        return out | {name: mean.state() for name, mean in self._images.items()}

    def load(self, counts: Counts) -> None:
        """Take the state that `counts()` gave. Raises UserError when it is the state of another label space."""
        check_shapes(counts, self.counts())
        for index, layer in enumerate(self._layers):
            layer.load({name: counts[name][index] for name in ("matrix", "unanswered", "ignored")})
        for name, mean in self._images.items():
            mean.load(counts[name])

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take the sum of several states, as gathered from all processes."""
        self.load(summed(states))

    def _scores(self, counts: list[PixelCounts]) -> SemanticScores:
        return semantic_scores(counts[0].matrix, counts[0].unanswered) if self.space.exclusive else layer_scores(counts)


class _Mean:
    """A sum and how many values went in; nan is no value."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0.0

    def add(self, value: float) -> None:
        if not math.isnan(value):
            self.sum, self.count = self.sum + value, self.count + 1

    def value(self) -> float:
        return self.sum / self.count if self.count else float("nan")

    def state(self) -> np.ndarray:
        return np.array([self.sum, self.count])

    def load(self, state: np.ndarray) -> None:
        self.sum, self.count = (float(value) for value in state)
