"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021)."""

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.metrics.confusion import count_pixels
from nuriwake.metrics.scores import ClassCounts, ratio

DILATION_RATIO = 0.02
"""Width of the boundary as a share of the image's diagonal; the paper's value."""


class BoundaryIoU:
    """Per class, the IoU of the inner boundaries of truth and prediction: pixels of the class at most d from its edge.

    d is `dilation_ratio` of the image's diagonal, rounded, at least 1 pixel, in chessboard distance, and the border of the
    image is an edge, as in the authors' code. Pixels whose truth is ignore do not count, and an edge towards them is no
    edge, because nobody knows what lies there. A prediction of ignore is another class than all.

    Counts are pixels over the whole data set, so that `iou()` is the data-set boundary IoU; `update` returns the image's own.

    Args:
        classes: K; maps hold 0..K-1 or ignore (255).
        dilation_ratio: above 0.
    """

    def __init__(self, classes: int, *, dilation_ratio: float = DILATION_RATIO) -> None:
        if dilation_ratio <= 0:
            raise UserError(f"The dilation ratio of boundary IoU must be above 0, found {dilation_ratio}.")
        self.classes = classes
        self.dilation_ratio = dilation_ratio
        self._counts = np.zeros((3, classes), np.int64)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Count one image, both maps (H, W) uint8; returns its boundary IoU per class, (K,), nan where absent."""
        found = boundary_counts(prediction, target, self.classes, dilation_ratio=self.dilation_ratio)
        new = np.stack([found.true_positive, found.predicted, found.actual])
        self._counts += new
        return _iou(new)

    def iou(self) -> np.ndarray:
        """(K,) float64, nan for classes in neither truth nor prediction."""
        return _iou(self._counts)

    def merge(self, other: "BoundaryIoU") -> None:
        """Add what `other` has counted."""
        if (other.classes, other.dilation_ratio) != (self.classes, self.dilation_ratio):
            raise UserError("Boundary IoUs merge only with the same classes and the same dilation ratio.")
        self._counts += other.counts()["boundary"]

    def counts(self) -> dict[str, np.ndarray]:
        """The state: (3, K) int64, boundary pixels in both, in the prediction, in the truth."""
        return {"boundary": self._counts.copy()}

    def load(self, counts: dict[str, np.ndarray]) -> None:
        """Take the state that `counts()` gave."""
        self._counts = np.array(counts["boundary"], np.int64).reshape(3, self.classes)


def boundary_counts(
    prediction: np.ndarray, target: np.ndarray, classes: int, *, dilation_ratio: float = DILATION_RATIO
) -> ClassCounts:
    """Boundary pixels per class of one image; both maps (H, W) uint8."""
    if prediction.shape != target.shape or target.ndim != 2:
        raise UserError(f"Boundary IoU needs two maps (H, W) of one size, found {prediction.shape} and {target.shape}.")
    ignored = target == IGNORE
    distance = boundary_distance(target.shape, dilation_ratio)
    # One label more: everything that is no boundary. uint16, because 255 classes leave no room for it in 8 bits.
    truth, predicted = target.astype(np.uint16), prediction.astype(np.uint16)
    predicted[prediction == IGNORE] = classes
    for labels in (truth, predicted):
        labels[~_near_edge(labels, ignored, distance)] = classes
        labels[ignored] = classes + 1
    counts = count_pixels(predicted, truth, classes=classes + 1, ignore=classes + 1)
    matrix = counts.matrix
    return ClassCounts(np.diagonal(matrix)[:classes], matrix.sum(0)[:classes], matrix.sum(1)[:classes])


def boundary_distance(size: tuple[int, ...], dilation_ratio: float) -> int:
    """d in pixels for an image of `size` (height, width)."""
    return max(1, round(dilation_ratio * float(np.hypot(size[0], size[1]))))


def _near_edge(labels: np.ndarray, ignored: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: within `distance` (chessboard) of another label than the own, or of the outside of the image.

    A window that holds two labels has a minimum below its maximum, so one erosion and one dilation serve all classes.
    """
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    highest = np.where(ignored, np.uint16(0), labels)
    lowest = np.where(ignored, np.uint16(0xFFFF), labels)
    near = cv2.dilate(highest, window) != cv2.erode(lowest, window)
    near[:distance], near[-distance:] = True, True
    near[:, :distance], near[:, -distance:] = True, True
    return near


def _iou(counts: np.ndarray) -> np.ndarray:
    both, predicted, actual = counts
    return ratio(both, predicted + actual - both)
