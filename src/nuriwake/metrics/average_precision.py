"""Average precision and recall from matched detections, as COCO defines them (pycocotools `accumulate` and `summarize`)."""

from typing import NamedTuple

import numpy as np
from numba import njit

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where the precision is read."""

LIMITS = np.array([1, 10, 100])
"""Detections per class and image of the recalls AR1, AR10, AR100."""

FIGURES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
"""COCO's twelve, in the order that its tool prints them."""


_ALL = 1023
"""The bits of all thresholds."""


class PrecisionTables(NamedTuple):
    """S is the number of classes that have objects.

    Attributes:
        classes: int64 (S,), their labels.
        precision: float64 (S, 4, 10): average precision per class, area range and threshold; nan where no object counts.
        recall: float64 (S, 6, 10): with 1, 10 and 100 detections over all areas, then small, medium and large ones.
    """

    classes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def figures(self) -> np.ndarray:
        """float64 (12,): the `FIGURES`, means over the classes that have objects; nan where none has."""
        out = np.empty(len(FIGURES), np.float64)
        _figures(self.precision, self.recall, out)
        return out


def precision_tables(
    order: np.ndarray, labels: np.ndarray, ranks: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray
) -> PrecisionTables:
    """Average precision and recall of detections.

    The precision at a recall is the highest at this or a larger one. Unlike pycocotools nothing is added to the
    denominator, so that a perfect result is exactly 1; that is a difference of 2e-16.

    Args:
        order: int64 (D,), the detections by falling score.
        labels: int32 (D,).
        ranks: uint8 (D,), place by score within class and image.
        true, false: int64 (D,), bits as `matching.match` gives them.
        objects: int64 (K, 4), objects that count, per class and area range.
    """
    return PrecisionTables(*_tables(order, labels, ranks, true, false, objects))


def image_figures(
    labels: np.ndarray, ranks: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """`precision_tables(..).figures()` of detections that stand in the order of falling score: asked of every single image."""
    out = np.empty(len(FIGURES), np.float64)
    _image_figures(labels, ranks, true, false, objects, out)
    return out


@njit(cache=True, nogil=True)
def _image_figures(
    labels: np.ndarray, ranks: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray, out: np.ndarray
) -> None:
    _, precision, recall = _tables(np.arange(labels.size), labels, ranks, true, false, objects)
    _figures(precision, recall, out)


@njit(cache=True, nogil=True)
def _tables(
    order: np.ndarray,
    labels: np.ndarray,
    ranks: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
    objects: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    classes = np.flatnonzero(objects[:, 0])
    first, grouped = group_by(order, labels, objects.shape[0])
    precision = np.full((classes.size, 4, 10), np.nan)
    recall = np.full((classes.size, 6, 10), np.nan)
    most = 0
    for label in classes:
        most = max(most, objects[label, 0])
    curves, steps = np.empty((10, most)), np.empty(most + 1, np.int64)
    for row in range(classes.size):
        mine = grouped[first[classes[row]] : first[classes[row] + 1]]
        for span in range(4):
            count = objects[classes[row], span]
            if count == 0:
                continue
            reached = _curves(mine, true, false, ranks, span * 10, curves)
            steps[0] = 0
            for hits in range(1, reached[2].max() + 1):
                steps[hits] = _reached(hits, count)
            for threshold in range(10):
                precision[row, span, threshold] = _area(curves[threshold], steps, reached[2, threshold])
                if span:
                    recall[row, span + 2, threshold] = reached[2, threshold] / count
                else:
                    for column in range(3):
                        recall[row, column, threshold] = reached[column, threshold] / count
    return classes, precision, recall


@njit(cache=True, nogil=True)
def group_by(order: np.ndarray, keys: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by their class or their image, in a given order within each.

    Args:
        order: int64 (D,), the rows.
        keys: int (D,), 0..groups-1, of each row.

    Returns:
        first int64 (groups + 1,) and grouped int64 (D,): the rows of key k are `grouped[first[k]:first[k + 1]]`.
    """
    first = np.zeros(groups + 1, np.int64)
    for key in keys:
        first[key + 1] += 1
    for group in range(groups):
        first[group + 1] += first[group]
    place, grouped = first.copy(), np.empty(keys.size, np.int64)
    for d in order:
        grouped[place[keys[d]]] = d
        place[keys[d]] += 1
    return first, grouped


@njit(cache=True, nogil=True)
def _curves(
    mine: np.ndarray, true: np.ndarray, false: np.ndarray, ranks: np.ndarray, shift: int, curves: np.ndarray
) -> np.ndarray:
    """Writes the precision at each true detection of `mine`, in their order, to `curves` (10, ..), a row per threshold.

    Returns int64 (3, 10): the true ones under each of the `LIMITS`.
    """
    reached, misses, everywhere = np.zeros((3, 10), np.int64), np.zeros(10, np.int64), 0
    hits = reached[2]
    for d in mine:
        right, wrong = true[d] >> shift & _ALL, false[d] >> shift & _ALL
        if right == 0 and (wrong == 0 or wrong == _ALL):
            # The same at every threshold, as most detections are: one count stands for ten.
            everywhere += wrong != 0
            continue
        for threshold in range(10):
            if right >> threshold & 1:
                hits[threshold] += 1
                seen = hits[threshold] + misses[threshold] + everywhere
                curves[threshold, hits[threshold] - 1] = hits[threshold] / seen
                for column in range(2):
                    reached[column, threshold] += ranks[d] < LIMITS[column]
            else:
                misses[threshold] += wrong >> threshold & 1
    return reached


@njit(cache=True, nogil=True)
def _area(curve: np.ndarray, steps: np.ndarray, found: int) -> float:
    """The mean over `RECALLS` of the highest precision at that recall or more; `steps[hits]` of them are reached with so many hits."""
    total, highest = 0.0, 0.0
    for hits in range(found, 0, -1):
        highest = max(highest, curve[hits - 1])
        total += highest * (steps[hits] - steps[hits - 1])
    return total / RECALLS.size


@njit(cache=True, nogil=True)
def _reached(hits: int, objects: int) -> int:
    """How many of `RECALLS`, which are evenly spaced, the recall `hits / objects` reaches."""
    recall = hits / objects
    count = hits * (RECALLS.size - 1) // objects + 1
    # One off at most: the recalls and the quotient are rounded.
    if count < RECALLS.size and RECALLS[count] <= recall:
        count += 1
    elif RECALLS[count - 1] > recall:
        count -= 1
    return count


@njit(cache=True, nogil=True)
def _figures(precision: np.ndarray, recall: np.ndarray, out: np.ndarray) -> None:
    out[0] = _mean(precision[:, 0, :])
    out[1], out[2] = _mean(precision[:, 0, 0:1]), _mean(precision[:, 0, 5:6])
    for column in range(3):
        out[3 + column] = _mean(precision[:, 1 + column, :])
    for column in range(6):
        out[6 + column] = _mean(recall[:, column, :])


@njit(cache=True, nogil=True)
def _mean(values: np.ndarray) -> float:
    """Over the numbers that are not nan; nan when none is."""
    total, count = 0.0, 0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            if not np.isnan(values[row, column]):
                total += values[row, column]
                count += 1
    return total / count if count else np.nan
