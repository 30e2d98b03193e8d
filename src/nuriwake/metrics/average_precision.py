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
    labels: np.ndarray, ranks: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray
) -> PrecisionTables:
    """Average precision and recall of detections in the order of falling score.

    The precision at a recall is the highest at this or a larger one. Unlike pycocotools nothing is added to the
    denominator, so that a perfect result is exactly 1; that is a difference of 2e-16.

    Args:
        labels: int32 (D,).
        ranks: uint8 (D,), place by score within class and image.
        true, false: int64 (D,), bits as `matching.match` gives them.
        objects: int64 (K, 4), objects that count, per class and area range.
    """
    return PrecisionTables(*_tables(labels, ranks, true, false, objects))


@njit(cache=True, nogil=True)
def write_figures(
    labels: np.ndarray, ranks: np.ndarray, true: np.ndarray, false: np.ndarray, objects: np.ndarray, out: np.ndarray
) -> None:
    """Writes `precision_tables(..).figures()` to `out` (12,) float64: what is asked of every single image, for kernels to call."""
    _, precision, recall = _tables(labels, ranks, true, false, objects)
    _figures(precision, recall, out)


@njit(cache=True, nogil=True)
def _tables(
    labels: np.ndarray,
    ranks: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
    objects: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    classes = np.flatnonzero(objects[:, 0])
    first, order = _by_class(labels, objects.shape[0])
    precision = np.full((classes.size, 4, 10), np.nan)
    recall = np.full((classes.size, 6, 10), np.nan)
    curve, reached = np.empty(max(1, objects[:, 0].max()), np.float64), np.zeros(3, np.int64)
    right, wrong, places = np.empty((3, max(1, np.diff(first).max())), np.int64)
    for row in range(classes.size):
        mine = order[first[classes[row]] : first[classes[row] + 1]]
        for span in range(4):
            count = objects[classes[row], span]
            if count == 0:
                continue
            # Of an area range only some detections count, at any threshold: the others are looked at once.
            kept, differ = 0, np.int64(0)
            for d in mine:
                hit, miss = true[d] >> (span * 10) & 1023, false[d] >> (span * 10) & 1023
                if hit | miss:
                    right[kept], wrong[kept], places[kept] = hit, miss, ranks[d]
                    kept += 1
                    differ |= (hit ^ hit << 1) | (miss ^ miss << 1)
            columns = range(span + 2, span + 3) if span else range(3)
            for threshold in range(10):
                # Nothing else than at the threshold before: usual for single images.
                if threshold and not differ >> threshold & 1:
                    precision[row, span, threshold] = precision[row, span, threshold - 1]
                    for column in columns:
                        recall[row, column, threshold] = recall[row, column, threshold - 1]
                    continue
                found = _curve(right, wrong, places, kept, threshold, curve, reached)
                precision[row, span, threshold] = _area(curve, found, count)
                for column in columns:
                    recall[row, column, threshold] = reached[min(column, 2)] / count
    return classes, precision, recall


@njit(cache=True, nogil=True)
def _by_class(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """`first` (classes + 1,) and `order` (D,): the detections of class k are `order[first[k]:first[k + 1]]`, in their order."""
    first = np.zeros(classes + 1, np.int64)
    for label in labels:
        first[label + 1] += 1
    for label in range(classes):
        first[label + 1] += first[label]
    place, order = first.copy(), np.empty(labels.size, np.int64)
    for d in range(labels.size):
        order[place[labels[d]]] = d
        place[labels[d]] += 1
    return first, order


@njit(cache=True, nogil=True)
def _curve(
    right: np.ndarray,
    wrong: np.ndarray,
    places: np.ndarray,
    count: int,
    bit: int,
    curve: np.ndarray,
    reached: np.ndarray,
) -> int:
    """Write the precision at each true detection to `curve`, the number of true ones under each limit to `reached`."""
    hits, misses = 0, 0
    reached[:] = 0
    for d in range(count):
        if right[d] >> bit & 1:
            hits += 1
            curve[hits - 1] = hits / (hits + misses)
            for column in range(3):
                reached[column] += places[d] < LIMITS[column]
        else:
            misses += wrong[d] >> bit & 1
    return hits


@njit(cache=True, nogil=True)
def _area(curve: np.ndarray, found: int, objects: int) -> float:
    """The mean over `RECALLS` of the highest precision at that recall or more."""
    total, highest, above = 0.0, 0.0, _reached(found, objects)
    for hits in range(found, 0, -1):
        highest = max(highest, curve[hits - 1])
        below = _reached(hits - 1, objects) if hits > 1 else 0
        total += highest * (above - below)
        above = below
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
