"""Detections are matched with objects as COCO does it, for all area ranges and thresholds at once.

Whether a detection matches is one bit for each of the 4 area ranges and 10 thresholds: bit `range * 10 + threshold` of an
integer. The rule (pycocotools `evaluateImg`), per class, range and threshold: detections come in order of falling score; each takes
the free object of highest IoU, the last of equal ones, and looks at objects that do not count (crowd, or of an area outside
the range) only when no other is left; a crowd region is never used up. What matches an object that does not count, or matches
nothing and has an area outside the range, does not count either.
"""

from typing import Any

import numpy as np
from numba import njit

from nuriwake.metrics.overlap import Pairs

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection may match."""

LOWEST = float(THRESHOLDS[0])
"""Pairs below it matter to none."""

AREAS = np.array([[0, 1e10], [0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]])
"""Ranges of the stated area of an object, ends included: all, small, medium, large."""

LIMIT = 100
"""Detections of one class in one image that count: those of highest score."""

_ALL = (1 << 40) - 1
_REPEAT = 1 | 1 << 10 | 1 << 20 | 1 << 30


@njit(cache=True, nogil=True)
def choose(
    order: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    classes: int,
    table_scores: np.ndarray,
    table_labels: np.ndarray,
    table_ranks: np.ndarray,
) -> int:
    """Which detections count: the `LIMIT` of highest score of each class. Returns how many; they are moved to the front of `order`.

    Args:
        order: int64 (M,), the detections by falling score.
        scores, labels: float32 and int32 (M,), labels 0..classes-1.
        table_scores, table_labels, table_ranks: float32, int32, uint8 (M,), written in the order of what counts: scores,
            labels and places by score within the class.
    """
    seen, found = np.zeros(classes, np.int64), 0
    for index in order:
        label = labels[index]
        if seen[label] < LIMIT:
            table_scores[found], table_labels[found], table_ranks[found] = scores[index], label, seen[label]
            order[found] = index
            found += 1
        seen[label] += 1
    return found


@njit(cache=True, nogil=True)
def count_objects(labels: np.ndarray, areas: np.ndarray, crowd: np.ndarray, objects: np.ndarray) -> None:
    """Adds the objects that count to `objects` int64 (K, 4), per class and area range; arguments (N,) as of `Instances`."""
    for g in range(areas.size):
        for span in range(4):
            objects[labels[g], span] += 1 - (_ignored(areas[g], crowd[g]) >> (span * 10) & 1)


@njit(cache=True, nogil=True)
def match(pairs: Pairs, stated_areas: np.ndarray, crowd: np.ndarray, true: np.ndarray, false: np.ndarray) -> None:
    """Writes the bits of what each detection is to `true` and `false`, int64 (D,): neither where it does not count.

    Args:
        pairs: of the detections that count, of an IoU of at least the lowest threshold; their order is changed.
        stated_areas, crowd: float64 and bool (N,), of the objects.
    """
    first, truth, iou, areas = pairs
    taken, ignored = np.zeros(crowd.size, np.int64), np.empty(crowd.size, np.int64)
    for g in range(crowd.size):
        ignored[g] = _ignored(stated_areas[g], crowd[g])
    for d in range(areas.size):
        _prefer(truth, iou, first[d], first[d + 1])
        hits, open_bits = np.int64(0), np.int64(_ALL)
        # All choices of one detection at once: a bit that finds its object leaves `open_bits`.
        for counting in (True, False):
            for pair in range(first[d], first[d + 1]):
                g = truth[pair]
                wanted = ~ignored[g] if counting else ignored[g]
                free = np.int64(_ALL) if crowd[g] else ~taken[g]
                bits = open_bits & wanted & free & _reached(iou[pair])
                taken[g] |= bits
                open_bits &= ~bits
                if counting:
                    hits |= bits
        true[d], false[d] = hits, open_bits & ~_outside(areas[d])


@njit(cache=True, nogil=True)
def _ignored(area: float, crowd: bool) -> Any:
    """The bits under which an object does not count."""
    return np.int64(_ALL) if crowd else _outside(area)


@njit(cache=True, nogil=True)
def _outside(area: float) -> Any:
    """The bits of the ranges that do not hold `area`."""
    bits = np.int64(0)
    for span in range(4):
        if area < AREAS[span, 0] or area > AREAS[span, 1]:
            bits |= np.int64(1023) << np.int64(span * 10)
    return bits


@njit(cache=True, nogil=True)
def _reached(iou: float) -> Any:
    """The bits of the thresholds that `iou` reaches."""
    count = np.int64(0)
    while count < THRESHOLDS.size and iou >= THRESHOLDS[count]:
        count += 1
    return ((np.int64(1) << count) - 1) * np.int64(_REPEAT)


@njit(cache=True, nogil=True)
def _prefer(truth: np.ndarray, iou: np.ndarray, start: int, stop: int) -> None:
    """Order the pairs of one detection, ascending by object, by falling IoU, the last object first among equals."""
    for i in range(start + 1, stop):
        value, index = iou[i], truth[i]
        j = i
        while j > start and iou[j - 1] <= value:
            iou[j], truth[j] = iou[j - 1], truth[j - 1]
            j -= 1
        iou[j], truth[j] = value, index
