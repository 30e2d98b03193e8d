"""Which detections overlap which objects of their class: the pairs that matching may choose from, with their IoU.

No mask is ever decoded: two lists of runs are walked together. A pair whose areas and boxes already show that its IoU stays
below the lowest threshold is never walked, which spares almost all of them and changes nothing: such pairs cannot match.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

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


class Runs(NamedTuple):
    """What kernels see of the masks of an image: `RunMasks.counts`, `.offsets` and `.areas()`."""

    counts: np.ndarray
    offsets: np.ndarray
    areas: np.ndarray


@njit(cache=True, nogil=True)
def mask_pairs(
    masks: Runs,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_masks: Runs,
    truth_labels: np.ndarray,
    crowd: np.ndarray,
    height: int,
    lowest: float,
) -> Pairs:
    """The pairs of masks; the IoU is that of pycocotools to the last bit.

    Args:
        masks, labels: of the prediction.
        chosen: int64 (D,), indices of the detections that count, in their order in the result.
        truth_masks, truth_labels, crowd: of the objects.
        height: of the image.
        lowest: IoU, above 0.
    """
    counts, offsets, sizes = masks
    truth_counts, truth_offsets, truth_sizes = truth_masks
    objects = truth_labels.size
    candidates = np.empty(objects, np.int64)
    # One flat array: a row of a two-dimensional one costs a reference count. An area of -1 is a box not measured yet.
    truth_boxes, box = np.full(objects * 5, np.int64(-1)), np.empty(5, np.int64)
    first, areas = np.zeros(chosen.size + 1, np.int64), np.empty(chosen.size, np.float64)
    truth, iou = np.empty(max(16, chosen.size), np.int64), np.empty(max(16, chosen.size), np.float64)
    found = 0
    for d in range(chosen.size):
        index = chosen[d]
        size, start, stop = sizes[index], offsets[index], offsets[index + 1]
        areas[d] = size
        count = 0
        for g in range(objects):
            if truth_labels[g] == labels[index]:
                most = min(size, truth_sizes[g])
                if _ratio(most, size, truth_sizes[g], crowd[g]) >= lowest:
                    candidates[count] = g
                    count += 1
        # To measure a mask costs as much as to walk a pair: that pays only where it may spare several.
        if count > 1:
            measure(counts, start, stop, height, box, 0)
        for g in candidates[:count]:
            truth_start, truth_stop = truth_offsets[g], truth_offsets[g + 1]
            if count > 1:
                if truth_boxes[g * 5] < 0:
                    measure(truth_counts, truth_start, truth_stop, height, truth_boxes, g * 5)
                if _ratio(_common(box, truth_boxes, g * 5), size, truth_sizes[g], crowd[g]) < lowest:
                    continue
            both = intersection(counts, start, stop, truth_counts, truth_start, truth_stop)
            value = _ratio(both, size, truth_sizes[g], crowd[g])
            if value >= lowest:
                if found == truth.size:
                    truth, iou = _doubled(truth), _doubled(iou)
                truth[found], iou[found] = g, value
                found += 1
        first[d + 1] = found
    return Pairs(first, truth[:found], iou[:found], areas)


@njit(cache=True, nogil=True)
def box_pairs(
    boxes: np.ndarray,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    crowd: np.ndarray,
    lowest: float,
) -> Pairs:
    """The pairs of boxes (N, 4), else as `mask_pairs`. The area is that of the box."""
    first, areas = np.zeros(chosen.size + 1, np.int64), np.empty(chosen.size, np.float64)
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
    return Pairs(first, truth[:found], iou[:found], areas)


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
