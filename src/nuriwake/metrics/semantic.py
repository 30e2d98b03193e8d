"""The scores of semantic segmentation over a data set, and of each of its images."""

import math
from collections.abc import Mapping

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.boundary import BoundaryIoU
from nuriwake.metrics.confusion import ConfusionMatrix, PixelCounts
from nuriwake.metrics.scores import SemanticScores, layer_scores, mean_of_present, semantic_scores

METRICS: dict[str, str] = {
    "mean_iou": "data-set mIoU: IoU per class over all pixels of the data set, then the mean over the present classes",
    "mean_dice": "the same with Dice",
    "image_mean_iou": "the mean over images of the mIoU of each image alone (not the data-set mIoU)",
    "image_mean_dice": "the same with Dice",
    "mean_accuracy": "the mean recall over the classes of the truth",
    "frequency_weighted_iou": "IoU per class weighted by its share of true pixels",
    "pixel_accuracy": "the share of right pixels; when multi-label, of right (pixel, class) answers",
    "iou": "binary only: data-set IoU of the foreground, class 1",
    "dice": "binary only: data-set Dice of the foreground",
    "precision": "binary only: data-set precision of the foreground",
    "recall": "binary only: data-set recall of the foreground",
    "image_iou": "binary only: the mean over images of the foreground IoU",
    "image_dice": "binary only: the mean over images of the foreground Dice",
    "mean_boundary_iou": "with boundary: data-set boundary IoU, the mean over the present classes",
    "boundary_iou": "binary only, with boundary: data-set boundary IoU of the foreground",
}
"""Every headline number: name -> what it is. Higher is better for all of them; all are in 0..1 or nan."""

_FOREGROUND = ("iou", "dice", "precision", "recall")
_PER_IMAGE = {"image_mean_iou": "mean_iou", "image_mean_dice": "mean_dice", "image_iou": "iou", "image_dice": "dice"}


def metric_names(space: LabelSpace, *, boundary: bool = False) -> tuple[str, ...]:
    """The names of `METRICS` that `SemanticMetric(space, boundary=boundary).compute()` has."""
    binary_only = {*_FOREGROUND, "image_iou", "image_dice", "boundary_iou"}
    return tuple(
        name
        for name in METRICS
        if (space.binary or name not in binary_only) and (boundary or not name.endswith("boundary_iou"))
    )


class SemanticMetric:
    """All the scores of label maps of one label space, as counts.

    Exclusive spaces count one confusion matrix (K, K). Multi-label spaces count 2 x 2 per class; a class's IoU is that of
    its "yes" pixels. Ignore in the truth counts nowhere; ignore in a prediction is a wrong answer (`PixelCounts`).

    Image means go over the images in which the number exists: an image that is all ignore has none, and an image
    without foreground in truth and prediction has no foreground IoU. `counts()` says how many images went into each.

    Args:
        space: the label space of all maps.
        boundary: also boundary IoU, which costs about ten times the rest.
    """

    def __init__(self, space: LabelSpace, *, boundary: bool = False) -> None:
        self.space = space
        layers = 1 if space.exclusive else len(space)
        classes = len(space) if space.exclusive else 2
        self._layers = [ConfusionMatrix(classes) for _ in range(layers)]
        self._boundaries = [BoundaryIoU(classes) for _ in range(layers)] if boundary else []
        self._images = {name: _Mean() for name in metric_names(space) if name in _PER_IMAGE}

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix, int64, rows are the truth: (K, K), or (K, 2, 2) when multi-label."""
        matrices = [layer.matrix for layer in self._layers]
        return matrices[0] if self.space.exclusive else np.stack(matrices)

    def update(self, prediction: SemanticMap, target: SemanticMap) -> dict[str, float]:
        """Count one image; returns its own scores under the same names, nan where absent.

        Raises:
            UserError: the maps differ in size, or in the number or the kind of classes.
        """
        self._check(prediction, target)
        pairs = list(zip(_layers(prediction), _layers(target), strict=True))
        counts = [layer.update(*pair) for layer, pair in zip(self._layers, pairs, strict=True)]
        borders = (
            [layer.update(*pair) for layer, pair in zip(self._boundaries, pairs, strict=True)]
            if self._boundaries
            else []
        )
        scores = self._headline(self._scores(counts), self._per_class_boundary(borders))
        for name, mean in self._images.items():
            scores[name] = scores[_PER_IMAGE[name]]
            mean.add(scores[name])
        return {name: scores[name] for name in metric_names(self.space, boundary=bool(self._boundaries))}

    def compute(self) -> dict[str, float]:
        """The headline numbers, in the order of `METRICS`; nan where nothing was counted."""
        scores = self._headline(self.scores(), self._per_class_boundary([layer.iou() for layer in self._boundaries]))
        scores |= {name: mean.value() for name, mean in self._images.items()}
        return {name: scores[name] for name in metric_names(self.space, boundary=bool(self._boundaries))}

    def scores(self) -> SemanticScores:
        """Everything per class, and the means, over the data set."""
        return self._scores([layer.total for layer in self._layers])

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name -> iou, dice, precision, recall, pixels (and boundary_iou); nan where absent."""
        scores = self.scores()
        columns = {"iou": scores.iou, "dice": scores.dice, "precision": scores.precision, "recall": scores.recall}
        columns["pixels"] = scores.pixels
        if self._boundaries:
            columns["boundary_iou"] = self._per_class_boundary([layer.iou() for layer in self._boundaries])
        return {
            name: {column: float(values[index]) for column, values in columns.items()}
            for index, name in enumerate(self.space.names)
        }

    def report(self) -> dict[str, object]:
        """`compute()`, `per_class()` and the confusion matrix as plain values for JSON: nan is None."""
        return {
            "headline": without_nan(self.compute()),
            "per_class": {name: without_nan(row) for name, row in self.per_class().items()},
            "confusion": self.matrix.tolist(),
            "ignored_pixels": sum(layer.total.ignored for layer in self._layers),
            "unanswered_pixels": sum(int(layer.total.unanswered.sum()) for layer in self._layers),
        }

    def merge(self, other: "SemanticMetric") -> None:
        """Add what `other` has counted (another process, another shard); it must have the same space and parts."""
        self.load_sum([self.counts(), other.counts()])

    def counts(self) -> dict[str, np.ndarray]:
        """The whole state as arrays of fixed shapes. The sum, entry by entry, of two states is the state of both.

        matrix (L, C, C), unanswered (L, C), ignored (L, 1) int64, with L = 1 and C = K, or L = K and C = 2 when multi-label;
        boundary (L, 3, C) int64 when asked for; per image mean `<name>`: (2,) float64, the sum and the number of images.
        """
        states = [layer.counts() for layer in self._layers]
        out = {name: np.stack([state[name] for state in states]) for name in states[0]}
        if self._boundaries:
            out["boundary"] = np.stack([layer.counts()["boundary"] for layer in self._boundaries])
        return out | {name: mean.state() for name, mean in self._images.items()}

    def load(self, counts: Mapping[str, np.ndarray]) -> None:
        """Take the state that `counts()` gave.

        Raises:
            UserError: it is the state of another label space, or with other parts.
        """
        expected = {name: array.shape for name, array in self.counts().items()}
        found = {name: np.shape(array) for name, array in counts.items()}
        if expected != found:
            raise UserError(f"These counts belong to another metric: expected {expected}, found {found}.")
        for index, layer in enumerate(self._layers):
            layer.load({name: counts[name][index] for name in ("matrix", "unanswered", "ignored")})
        for index, layer in enumerate(self._boundaries):
            layer.load({"boundary": counts["boundary"][index]})
        for name, mean in self._images.items():
            mean.load(counts[name])

    def load_sum(self, states: list[dict[str, np.ndarray]]) -> None:
        """Take the sum of several states, as gathered from all processes."""
        shapes = [{name: array.shape for name, array in state.items()} for state in states]
        if any(shape != shapes[0] for shape in shapes):
            raise UserError(
                "Counts of different metrics (other label space, or with and without boundary) do not merge."
            )
        self.load({name: sum((state[name] for state in states[1:]), states[0][name]) for name in states[0]})

    def _scores(self, counts: list[PixelCounts]) -> SemanticScores:
        return semantic_scores(counts[0].matrix, counts[0].unanswered) if self.space.exclusive else layer_scores(counts)

    def _per_class_boundary(self, layers: list[np.ndarray]) -> np.ndarray:
        if not layers:
            return np.empty(0)
        return layers[0] if self.space.exclusive else np.array([layer[1] for layer in layers])

    def _headline(self, scores: SemanticScores, boundary: np.ndarray) -> dict[str, float]:
        values = {
            "mean_iou": scores.mean_iou,
            "mean_dice": scores.mean_dice,
            "mean_accuracy": scores.mean_accuracy,
            "frequency_weighted_iou": scores.frequency_weighted_iou,
            "pixel_accuracy": scores.pixel_accuracy,
        }
        if boundary.size:
            values["mean_boundary_iou"] = mean_of_present(boundary)
        if self.space.binary:
            columns = (scores.iou, scores.dice, scores.precision, scores.recall)
            values |= {name: float(column[1]) for name, column in zip(_FOREGROUND, columns, strict=True)}
            if boundary.size:
                values["boundary_iou"] = float(boundary[1])
        return values

    def _check(self, prediction: SemanticMap, target: SemanticMap) -> None:
        for what, found in (("prediction", prediction), ("target", target)):
            if len(found.space) != len(self.space) or found.space.exclusive != self.space.exclusive:
                raise UserError(f"The {what} has {_kind(found.space)}, this metric counts {_kind(self.space)}.")
        if prediction.size != target.size:
            raise UserError(
                f"Prediction and target must have the same size, found {prediction.size} and {target.size}."
            )


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


def without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """`scores` with None for nan, which JSON cannot hold."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _layers(labels: SemanticMap) -> list[np.ndarray]:
    """The label maps (H, W) that are counted one by one."""
    return [labels.labels] if labels.space.exclusive else list(np.moveaxis(labels.labels, -1, 0))


def _kind(space: LabelSpace) -> str:
    return f"{len(space)} {'exclusive' if space.exclusive else 'multi-label'} classes"
