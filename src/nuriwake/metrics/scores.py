"""From counts to ratios. Every ratio whose denominator is 0 is nan: absent, neither 0 nor 1."""

from dataclasses import dataclass

import numpy as np

from nuriwake.metrics.confusion import PixelCounts


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Pixels per class, each (K,) int64.

    `true_positive`: truth and prediction are the class; `predicted` and `actual`: all pixels that were given the class, that
    truly have it.
    """

    true_positive: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray


@dataclass(frozen=True, eq=False)
class SemanticScores:
    """Scores of a set of pixels (a data set or one image).

    Per class, (K,) float64, nan where absent:
        iou = TP / (TP + FP + FN) and dice = 2 TP / (2 TP + FP + FN): nan when the class is neither in the truth nor in the
        prediction; 0 when it is in one of them only.
        precision = TP / (TP + FP): nan when never predicted. recall = TP / (TP + FN): nan when not in the truth.
        pixels: how many pixels truly have the class (int64).
    Means over the classes that are not nan; nan when all are:
        mean_iou, mean_dice, and mean_accuracy (the mean recall).
        frequency_weighted_iou: the IoU weighted by the share of true pixels.
        pixel_accuracy: the share of right pixels among all that count.
    """

    iou: np.ndarray
    dice: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    pixels: np.ndarray
    mean_iou: float
    mean_dice: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`numerator / denominator` in float64, nan where the denominator is 0."""
    out = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
    return out


def mean_of_present(values: np.ndarray) -> float:
    """The mean of what is not nan; nan when nothing is left."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def semantic_scores(matrix: np.ndarray, unanswered: np.ndarray | None = None) -> SemanticScores:
    """The scores of a confusion matrix.

    Args:
        matrix: (K, K), rows are the truth.
        unanswered: (K,), pixels of a true class whose prediction was ignore; None means none.
    """
    missed = np.zeros(len(matrix), np.int64) if unanswered is None else unanswered
    classes = ClassCounts(np.diagonal(matrix), matrix.sum(0), matrix.sum(1) + missed)
    return scores_of(classes, int(classes.true_positive.sum()), int(classes.actual.sum()))


def layer_scores(layers: list[PixelCounts]) -> SemanticScores:
    """The scores of a multi-label space: layer k holds the 2 x 2 counts of class k (row and column 1: the class is there).

    Pixel accuracy is the share of right answers among all (pixel, class) questions.
    """
    matrix = np.stack([layer.matrix for layer in layers])
    unanswered = np.stack([layer.unanswered for layer in layers])
    classes = ClassCounts(matrix[:, 1, 1], matrix[:, :, 1].sum(1), matrix[:, 1].sum(1) + unanswered[:, 1])
    right = int(matrix[:, 0, 0].sum() + matrix[:, 1, 1].sum())
    return scores_of(classes, right, int(matrix.sum() + unanswered.sum()))


def scores_of(classes: ClassCounts, right: int, pixels: int) -> SemanticScores:
    """The scores of counts per class, with `right` of `pixels` pixels predicted correctly."""
    both = classes.predicted + classes.actual
    iou = ratio(classes.true_positive, both - classes.true_positive)
    dice = ratio(2 * classes.true_positive, both)
    recall = ratio(classes.true_positive, classes.actual)
    total = classes.actual.sum()
    weighted = float((classes.actual * np.nan_to_num(iou)).sum() / total) if total else float("nan")
    return SemanticScores(
        iou=iou,
        dice=dice,
        precision=ratio(classes.true_positive, classes.predicted),
        recall=recall,
        pixels=np.asarray(classes.actual, np.int64),
        mean_iou=mean_of_present(iou),
        mean_dice=mean_of_present(dice),
        mean_accuracy=mean_of_present(recall),
        frequency_weighted_iou=weighted,
        pixel_accuracy=right / pixels if pixels else float("nan"),
    )
