"""The confusion matrix of label maps: counts of (true class, predicted class)."""

from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.metrics.run_counting import BLOCK, count_runs, narrow

if TYPE_CHECKING:
    import torch

LabelArray = Union[np.ndarray, "torch.Tensor"]
"""Integer labels of any shape; NumPy, or a torch tensor on any device."""

_FAST_CLASSES = 255
_CHUNK = 1 << 30


class PixelCounts(NamedTuple):
    """What one or more pairs of label maps amount to.

    Pixels whose truth is ignore count in `ignored` and nowhere else, whatever was predicted there. Pixels with a true
    class but the prediction ignore ("no answer") count in `unanswered` of the true class: they are wrong, and lower the
    recall, IoU and Dice of that class and the pixel accuracy, without charging another class.
    """

    matrix: np.ndarray
    """(K, K) int64, rows are the truth, columns the prediction."""
    unanswered: np.ndarray
    """(K,) int64, by true class."""
    ignored: int

    def plus(self, other: "PixelCounts") -> "PixelCounts":
        """The counts of both."""
        return PixelCounts(self.matrix + other.matrix, self.unanswered + other.unanswered, self.ignored + other.ignored)


def no_pixels(classes: int) -> PixelCounts:
    """The counts of nothing."""
    return PixelCounts(np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64), 0)


class ConfusionMatrix:
    """Counts pairs of labels over any number of maps; merges across processes.

    Args:
        classes: K; labels are 0..K-1.
        ignore: the label of pixels that do not count, outside 0..K-1; None when there is none.

    Raises:
        UserError: no class, or `ignore` is itself a class.
    """

    def __init__(self, classes: int, *, ignore: int | None = IGNORE) -> None:
        if classes < 1:
            raise UserError(f"A confusion matrix needs at least one class, found {classes}.")
        if ignore is not None and 0 <= ignore < classes:
            raise UserError(
                f"The ignore label {ignore} is one of the {classes} classes; choose one outside 0..{classes - 1}."
            )
        self.classes = classes
        self.ignore = ignore
        self._total = no_pixels(classes)

    @property
    def matrix(self) -> np.ndarray:
        """(K, K) int64: pixels of true class (row) that were given a class (column)."""
        return self._total.matrix

    @property
    def total(self) -> PixelCounts:
        """All counts so far."""
        return self._total

    def update(self, prediction: LabelArray, target: LabelArray) -> PixelCounts:
        """Count one pair of maps (or batches) of equal shape and any integer type; returns the counts of this pair alone.

        uint8 NumPy maps with ignore 255 are fastest. Tensors on a GPU are counted there.

        Raises:
            UserError: different shapes, no integers, or a label that is neither a class nor ignore. Nothing is counted then.
        """
        found = count_pixels(prediction, target, classes=self.classes, ignore=self.ignore)
        self._total = self._total.plus(found)
        return found

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add what `other` has counted (another process, another shard)."""
        if (other.classes, other.ignore) != (self.classes, self.ignore):
            raise UserError(f"A confusion matrix of {self.classes} classes cannot take one of {other.classes}.")
        self._total = self._total.plus(other.total)

    def counts(self) -> dict[str, np.ndarray]:
        """The state as int64 arrays; the sum of two states is the state of both."""
        return {
            "matrix": self._total.matrix.copy(),
            "unanswered": self._total.unanswered.copy(),
            "ignored": np.array([self._total.ignored], np.int64),
        }

    def load(self, counts: dict[str, np.ndarray]) -> None:
        """Take the state that `counts()` gave."""
        matrix = np.asarray(counts["matrix"], np.int64)
        if matrix.shape != (self.classes, self.classes):
            raise UserError(
                f"A state of {self.classes} classes has a {self.classes} x {self.classes} matrix, found {matrix.shape}."
            )
        self._total = PixelCounts(matrix.copy(), np.array(counts["unanswered"], np.int64), int(counts["ignored"][0]))


def count_pixels(
    prediction: LabelArray, target: LabelArray, *, classes: int, ignore: int | None = IGNORE
) -> PixelCounts:
    """The counts of one pair of maps of equal shape; `ConfusionMatrix.update` says the rest."""
    if tuple(prediction.shape) != tuple(target.shape):
        raise UserError(
            f"Prediction and target must have the same shape, found {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    if not isinstance(prediction, np.ndarray) or not isinstance(target, np.ndarray):
        from nuriwake.metrics.tensors import as_arrays, count_on_device

        pair = as_arrays(prediction, target)
        if pair is None:
            return count_on_device(prediction, target, classes, ignore)
        prediction, target = pair
    for what, labels in (("prediction", prediction), ("target", target)):
        if labels.dtype.kind not in "bui":
            raise UserError(f"The {what} must hold integer labels, found {labels.dtype}. Take the argmax first?")
    table = _table_fast(prediction, target, classes, ignore) if classes <= _FAST_CLASSES else None
    if table is None:
        table = _table_any(prediction, target, classes, ignore)
    return from_table(table, prediction, target, ignore)


def from_table(table: np.ndarray, prediction: LabelArray, target: LabelArray, ignore: int | None) -> PixelCounts:
    """Counts from a table (K + 2, K + 2) of slots: ignore, the classes, unknown.

    Raises:
        UserError: something fell into the slot of unknown labels; names the labels.
    """
    classes = len(table) - 2
    for what, labels, unknown in (("target", target, table[-1]), ("prediction", prediction, table[:, -1])):
        if unknown.any():
            raise UserError(_unknown_labels(what, labels, classes, ignore))
    inside = slice(1, classes + 1)
    return PixelCounts(table[inside, inside], table[inside, 0], int(table[0].sum()))


def _table_fast(prediction: np.ndarray, target: np.ndarray, classes: int, ignore: int | None) -> np.ndarray | None:
    """(K + 2, K + 2) int64 by the kernel, or None when a label of a wide type is unknown (the slow path names it)."""
    maps: list[np.ndarray] = []
    for labels in (target, prediction):
        narrowed = _as_bytes(labels, classes, ignore)
        if narrowed is None:
            return None
        maps.append(narrowed)
    last = min(classes + 1, 255)
    shift = int(last).bit_length()
    table = np.zeros(((last + 1) << shift), np.int64)
    truth, predicted = maps
    whole = truth.size // BLOCK * BLOCK
    for start in range(0, whole, _CHUNK):  # the histograms have 32 bits
        part = slice(start, min(start + _CHUNK, whole))
        _add_counts(table, truth[part], predicted[part], last, shift)
    if whole < truth.size:
        _add_counts(table, _filled(truth[whole:]), _filled(predicted[whole:]), last, shift)
        table[0] -= BLOCK - (truth.size - whole)
    out = np.zeros((classes + 2, classes + 2), np.int64)
    out[: last + 1, : last + 1] = table.reshape(last + 1, -1)[:, : last + 1]
    return out


def _as_bytes(labels: np.ndarray, classes: int, ignore: int | None) -> np.ndarray | None:
    """(N,) contiguous uint8 in which 255 means ignore; None when a label has no place there."""
    flat = np.ascontiguousarray(labels).reshape(-1)
    if flat.dtype == np.bool_:
        flat = flat.view(np.uint8)
    if flat.dtype == np.uint8 and (ignore == IGNORE or classes == _FAST_CLASSES):
        return flat if ignore == IGNORE or not (flat == IGNORE).any() else None
    if flat.dtype == np.uint64 and flat.size and flat.max() > np.iinfo(np.int64).max:
        return None
    out = np.empty(flat.size, np.uint8)
    # Without an ignore label none may match: the smallest integer is nobody's label.
    known = narrow(flat, out, classes, np.iinfo(np.int64).min if ignore is None else ignore)
    return out if known else None


def _add_counts(table: np.ndarray, truth: np.ndarray, predicted: np.ndarray, last: int, shift: int) -> None:
    histogram = np.zeros(4 * table.size, np.uint32)
    count_runs(truth, predicted, last, shift, histogram)
    table += histogram.reshape(4, -1).sum(0, dtype=np.int64)


def _filled(labels: np.ndarray) -> np.ndarray:
    """The last pixels, fewer than a block, filled up to one with ignore."""
    out = np.full(BLOCK, IGNORE, np.uint8)
    out[: labels.size] = labels
    return out


def _table_any(prediction: np.ndarray, target: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    """(K + 2, K + 2) int64, for any number of classes; slow."""
    rows, columns = (_slots(labels, classes, ignore) for labels in (target, prediction))
    size = classes + 2
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def _slots(labels: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    flat = labels.reshape(-1)
    known = (flat >= 0) & (flat < classes)
    slots = np.where(known, flat, classes).astype(np.int64) + 1
    if ignore is not None:
        slots[flat == ignore] = 0
    return slots


def _unknown_labels(what: str, labels: LabelArray, classes: int, ignore: int | None) -> str:
    values = np.unique(labels if isinstance(labels, np.ndarray) else labels.cpu().numpy())
    bad = [value for value in values.tolist() if not 0 <= value < classes and value != ignore]
    more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
    allowed = f"0..{classes - 1}" + ("" if ignore is None else f" or {ignore} (ignore)")
    return f"Labels of the {what} must be {allowed}, found {', '.join(map(str, bad[:8]))}{more}."
