"""Detections are matched with objects as COCO does it, for all area ranges and thresholds at once.

Whether a detection matches is one bit for each of the 4 area ranges and 10 thresholds: bit `range * 10 + threshold` of an
integer. The rule (pycocotools `evaluateImg`), per class, range and threshold: detections come in order of falling score; each takes
the free object of highest IoU, the last of equal ones, and looks at objects that do not count (crowd, or of an area outside
the range) only when no other is left; a crowd region is never used up. What matches an object that does not count, or matches
nothing and has an area outside the range, does not count either.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nuriwake.metrics.average_precision import FIGURES, write_figures
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


class Counted(NamedTuple):
    """What of an image counts.

    Attributes:
        chosen: int64 (D,), the detections that count, by falling score.
        scores, labels: theirs, float32 and int32 (D,).
        ranks: uint8 (D,), their places by score within their class.
        ignored: int64 (N,), the bits under which an object does not count.
        objects: int64 (K, 4), objects that count per class and area range.
    """

    chosen: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


def counted(
    scores: np.ndarray,
    labels: np.ndarray,
    target_labels: np.ndarray,
    areas: np.ndarray,
    crowd: np.ndarray,
    classes: int,
) -> Counted:
    """The `LIMIT` detections of highest score of each class, and which objects count.

    Args:
        scores: float32 (M,); equal ones keep their order.
        labels: int32 (M,), 0..classes-1.
        target_labels, areas, crowd: int32, float64, bool (N,) of the objects.
    """
    order, count = (-scores).argsort(kind="stable"), len(scores)
    # Arrays are made here: one that a kernel returns costs several times as much, and every image needs these.
    chosen, ranks = np.empty(count, np.int64), np.empty(count, np.uint8)
    rows = np.empty(count, np.float32), np.empty(count, np.int32)
    ignored, objects = np.empty(len(areas), np.int64), np.zeros((classes, 4), np.int64)
    found = _counted(order, scores, labels, target_labels, areas, crowd, chosen, ranks, *rows, ignored, objects)
    if found == count:
        return Counted(chosen, *rows, ranks, ignored, objects)
    return Counted(chosen[:found], rows[0][:found], rows[1][:found], ranks[:found], ignored, objects)


@njit(cache=True, nogil=True)
def _counted(
    order: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    target_labels: np.ndarray,
    areas: np.ndarray,
    crowd: np.ndarray,
    chosen: np.ndarray,
    ranks: np.ndarray,
    chosen_scores: np.ndarray,
    chosen_labels: np.ndarray,
    ignored: np.ndarray,
    objects: np.ndarray,
) -> int:
    """Writes what `Counted` has and returns how many detections count; `objects` holds zeros."""
    seen, found = np.zeros(objects.shape[0], np.int64), 0
    for index in order:
        label = labels[index]
        if seen[label] < LIMIT:
            chosen[found], ranks[found] = index, seen[label]
            chosen_scores[found], chosen_labels[found] = scores[index], label
            found += 1
        seen[label] += 1
    for g in range(areas.size):
        ignored[g] = _ALL if crowd[g] else _outside(areas[g])
        for span in range(4):
            objects[target_labels[g], span] += 1 - (ignored[g] >> (span * 10) & 1)
    return found


def match(pairs: Pairs, part: Counted, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true, false, figures): int64 (D,) twice, the bits of what a detection is, neither where it does not count; and the image's `FIGURES`.

    Args:
        pairs: of the detections of `part`, of an IoU of at least the lowest threshold.
        crowd: bool (N,) of the objects.
    """
    count = len(part.chosen)
    true, false, figures = np.zeros(count, np.int64), np.empty(count, np.int64), np.empty(len(FIGURES), np.float64)
    _judge(*pairs, part.ignored, crowd, part.labels, part.ranks, part.objects, true, false, figures)
    return true, false, figures


@njit(cache=True, nogil=True)
def _judge(
    first: np.ndarray,
    truth: np.ndarray,
    iou: np.ndarray,
    areas: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
    labels: np.ndarray,
    ranks: np.ndarray,
    objects: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
    figures: np.ndarray,
) -> None:
    _match(first, truth, iou, areas, ignored, crowd, true, false)
    write_figures(labels, ranks, true, false, objects, figures)


@njit(cache=True, nogil=True)
def _outside(area: float) -> Any:
    """The bits of the ranges that do not hold `area`."""
    bits = np.int64(0)
    for span in range(4):
        if area < AREAS[span, 0] or area > AREAS[span, 1]:
            bits |= np.int64(1023) << np.int64(span * 10)
    return bits


@njit(cache=True, nogil=True)
def _match(
    first: np.ndarray,
    truth: np.ndarray,
    iou: np.ndarray,
    areas: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
) -> None:
    taken = np.zeros(ignored.size, np.int64)
    for d in range(areas.size):
        _prefer(truth, iou, first[d], first[d + 1])
        open_bits = np.int64(_ALL)
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
                    true[d] |= bits
        false[d] = open_bits & ~_outside(areas[d])


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
