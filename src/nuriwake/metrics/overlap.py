"""Which detections overlap which objects of their class: the pairs that matching may choose from, with their IoU.

No mask is ever decoded: two lists of runs are walked together. A pair whose areas and boxes already show that its IoU stays
below the lowest threshold is never walked, which spares almost all of them and changes nothing: such pairs cannot match.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nuriwake.core.instances import Instances

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


class Pairs(NamedTuple):
    """Detections and objects of one class with an IoU of at least the threshold that was asked for.

    Attributes:
        first: int64 (D + 1,): the pairs of detection d are `first[d]:first[d + 1]`.
        truth: int64 (P,), index of the object, ascending within a detection.
        iou: float64 (P,); with a crowd region, the share of the detection that lies in it.
        areas: float64 (D,), of the detections.
    """

    first: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    areas: np.ndarray


def mask_pairs(prediction: Instances, target: Instances, chosen: np.ndarray, lowest: float) -> Pairs:
    """The pairs of masks; the IoU is that of pycocotools to the last bit.

    Args:
        chosen: int64 (D,), indices of the detections that count, in their order in the result.
        lowest: IoU, above 0.
    """
    return Pairs(
        *_mask_pairs(
            prediction.masks.counts,
            prediction.masks.offsets,
            prediction.labels,
            chosen,
            target.masks.counts,
            target.masks.offsets,
            target.labels,
            target.crowd,
            target.size[0],
            lowest,
        )
    )


def box_pairs(prediction: Instances, target: Instances, chosen: np.ndarray, lowest: float) -> Pairs:
    """The pairs of boxes, else as `mask_pairs`. The area is that of the box."""
    arrays = prediction.boxes, prediction.labels, chosen, target.boxes, target.labels, target.crowd
    # Made here: an array that a kernel returns costs several times as much.
    first, areas = np.empty(len(chosen) + 1, np.int64), np.empty(len(chosen), np.float64)
    truth, iou = _box_pairs(*arrays, lowest, first, areas)
    return Pairs(first, truth, iou, areas)


@njit(cache=True, nogil=True)
def _mask_pairs(
    counts: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_counts: np.ndarray,
    truth_offsets: np.ndarray,
    truth_labels: np.ndarray,
    crowd: np.ndarray,
    height: int,
    lowest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    objects = truth_labels.size
    # One flat array each: a row of a two-dimensional one costs a reference count.
    truth_boxes, box = np.empty(objects * 5, np.int64), np.empty(5, np.int64)
    for g in range(objects):
        measure(truth_counts, truth_offsets[g], truth_offsets[g + 1], height, truth_boxes, g * 5)
    first, areas = np.zeros(chosen.size + 1, np.int64), np.zeros(chosen.size, np.float64)
    truth, iou = np.empty(max(16, chosen.size), np.int64), np.empty(max(16, chosen.size), np.float64)
    found = 0
    for d in range(chosen.size):
        index = chosen[d]
        start, stop = offsets[index], offsets[index + 1]
        size = area(counts, start, stop)
        areas[d] = size
        measured = False
        for g in range(objects):
            if (
                truth_labels[g] != labels[index]
                or _ratio(min(size, truth_boxes[g * 5]), size, truth_boxes[g * 5], crowd[g]) < lowest
            ):
                continue
            if not measured:
                measure(counts, start, stop, height, box, 0)
                measured = True
            if _ratio(_common(box, truth_boxes, g * 5), size, truth_boxes[g * 5], crowd[g]) < lowest:
                continue
            both = intersection(counts, start, stop, truth_counts, truth_offsets[g], truth_offsets[g + 1])
            value = _ratio(both, size, truth_boxes[g * 5], crowd[g])
            if value >= lowest:
                if found == truth.size:
                    truth, iou = _doubled(truth), _doubled(iou)
                truth[found], iou[found] = g, value
                found += 1
        first[d + 1] = found
    return first, truth[:found], iou[:found], areas


@njit(cache=True, nogil=True)
def _box_pairs(
    boxes: np.ndarray,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    crowd: np.ndarray,
    lowest: float,
    first: np.ndarray,
    areas: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    first[0] = 0
    truth, iou = np.empty(max(16, chosen.size), np.int64), np.empty(max(16, chosen.size), np.float64)
    found = 0
    for d in range(chosen.size):
        index = chosen[d]
        left, top = np.float64(boxes[index, 0]), np.float64(boxes[index, 1])
        right, bottom = np.float64(boxes[index, 2]), np.float64(boxes[index, 3])
        areas[d] = (right - left) * (bottom - top)
        for g in range(truth_labels.size):
            if truth_labels[g] != labels[index]:
                continue
            truth_left, truth_top = np.float64(truth_boxes[g, 0]), np.float64(truth_boxes[g, 1])
            truth_right, truth_bottom = np.float64(truth_boxes[g, 2]), np.float64(truth_boxes[g, 3])
            width = min(right, truth_right) - max(left, truth_left)
            height = min(bottom, truth_bottom) - max(top, truth_top)
            if width <= 0 or height <= 0:
                continue
            both = width * height
            area = (truth_right - truth_left) * (truth_bottom - truth_top)
            value = both / areas[d] if crowd[g] else both / (areas[d] + area - both)
            if value >= lowest:
                if found == truth.size:
                    truth, iou = _doubled(truth), _doubled(iou)
                truth[found], iou[found] = g, value
                found += 1
        first[d + 1] = found
    return truth[:found], iou[:found]


@njit(cache=True, nogil=True)
def measure(counts: np.ndarray, start: Any, stop: Any, height: int, out: np.ndarray, at: int) -> None:
    """Write area, left, top, right, bottom of the mask `counts[start:stop]` to `out[at:at + 5]` (int64); zeros when empty."""
    area, position = np.int64(0), np.int64(0)
    left, right, top, bottom = np.int64(-1), np.int64(0), np.int64(height), np.int64(0)
    column, below = np.int64(0), np.int64(height)
    for j in range(start, stop - 1, 2):
        position += np.int64(counts[j])
        length = np.int64(counts[j + 1])
        if length == 0:
            continue
        if position >= below:
            # Almost always the next column; a division only for a jump.
            step = np.int64(1) if position < below + height else (position - below) // height + 1
            column += step
            below += step * height
        row = position - below + height
        if left < 0:
            left = column
        if row + length > height:
            top, bottom = np.int64(0), np.int64(height)
        else:
            top, bottom = min(top, row), max(bottom, row + length)
        area += length
        position += length
        right = column + (row + length - 1) // height + 1 if row + length > height else column + 1
    out[at] = area
    out[at + 1], out[at + 2] = (left, top) if area else (np.int64(0), np.int64(0))
    out[at + 3], out[at + 4] = (right, bottom) if area else (np.int64(0), np.int64(0))


@njit(cache=True, nogil=True)
def intersection(
    one: np.ndarray, one_start: Any, one_stop: Any, other: np.ndarray, other_start: Any, other_stop: Any
) -> Any:
    """Pixels in both of the masks `one[one_start:one_stop]` and `other[other_start:other_stop]`."""
    both = np.int64(0)
    if one_stop - one_start < 2 or other_stop - other_start < 2:
        return both
    # Unsigned: numba asks of every signed index whether it counts from the end.
    i, j, last, other_last = np.uint64(one_start), np.uint64(other_start), np.uint64(one_stop), np.uint64(other_stop)
    one_from = np.int64(one[i])
    one_to = one_from + np.int64(one[i + _ONE])
    other_from = np.int64(other[j])
    other_to = other_from + np.int64(other[j + _ONE])
    # Similar masks have one run each in a column: where neither run meets the next of the other mask, both go on at once, which
    # a processor foresees, unlike which of the two ends first.
    while i + _THREE < last and j + _THREE < other_last:
        both += max(min(one_to, other_to) - max(one_from, other_from), np.int64(0))
        reach = max(one_to, other_to)
        next_one, next_other = one_to + np.int64(one[i + _TWO]), other_to + np.int64(other[j + _TWO])
        if min(next_one, next_other) >= reach:
            i += _TWO
            j += _TWO
            one_from, other_from = next_one, next_other
            one_to = next_one + np.int64(one[i + _ONE])
            other_to = next_other + np.int64(other[j + _ONE])
        elif one_to <= other_to:
            i += _TWO
            one_from, one_to = next_one, next_one + np.int64(one[i + _ONE])
        else:
            j += _TWO
            other_from, other_to = next_other, next_other + np.int64(other[j + _ONE])
    while True:
        both += max(min(one_to, other_to) - max(one_from, other_from), np.int64(0))
        if one_to <= other_to:
            i += _TWO
            if i + _ONE >= last:
                return both
            one_from = one_to + np.int64(one[i])
            one_to = one_from + np.int64(one[i + _ONE])
        else:
            j += _TWO
            if j + _ONE >= other_last:
                return both
            other_from = other_to + np.int64(other[j])
            other_to = other_from + np.int64(other[j + _ONE])


@njit(cache=True, nogil=True)
def area(counts: np.ndarray, start: Any, stop: Any) -> Any:
    """Pixels of the mask `counts[start:stop]`."""
    total, first = np.int64(0), np.uint64(start + 1)
    for j in range((stop - start) // 2):
        total += np.int64(counts[first + np.uint64(2 * j)])
    return total


@njit(cache=True, nogil=True, inline="always")
def _common(box: Any, boxes: Any, at: Any) -> Any:
    """The most pixels that two masks in these boxes, with these areas, may share."""
    width = min(box[3], boxes[at + 3]) - max(box[1], boxes[at + 1])
    height = min(box[4], boxes[at + 4]) - max(box[2], boxes[at + 2])
    inside = max(width, np.int64(0)) * max(height, np.int64(0))
    return min(inside, min(box[0], boxes[at]))


@njit(cache=True, nogil=True, inline="always")
def _ratio(both: Any, area: Any, truth_area: Any, crowd: Any) -> Any:
    union = area if crowd else area + truth_area - both
    return both / union if both > 0 else 0.0


@njit(cache=True, nogil=True)
def _doubled(values: np.ndarray) -> np.ndarray:
    out = np.empty(values.size * 2, values.dtype)
    out[: values.size] = values
    return out
