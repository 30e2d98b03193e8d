"""The numba kernels behind panoptic quality: pairs of segments counted along runs of pixels, then matched.

64 pixels of both maps at once are compared with the pixels before them, so that an id is looked up only where a run begins.
"""

from typing import Any

import numpy as np
from numba import njit

from nuriwake.core.vector_bits import LANES, change_bits, fetch_ahead, trailing_zeros

_LINE = 16
"""Ids in 64 bytes, which is what a processor fetches."""

_ONE, _LANES, _AHEAD = np.uint64(1), np.uint64(LANES), np.uint64(512)


@njit(cache=True, nogil=True)
def count_overlaps(
    truth: np.ndarray, prediction: np.ndarray, truth_ids: np.ndarray, prediction_ids: np.ndarray
) -> np.ndarray:
    """Pixels of every pair of segments.

    Args:
        truth, prediction: (P,) int32, contiguous, P at least 1: the id of every pixel, 0 is void.
        truth_ids (N,), prediction_ids (M,): int32, above 0, each once; all ids of the maps are among them.

    Returns:
        int64 (N + 1, M + 1): row and column 0 are void, row i + 1 is `truth_ids[i]`.
    """
    keys, rows, mask = _hashed(truth_ids)
    other_keys, columns, other_mask = _hashed(prediction_ids)
    width = prediction_ids.size + 1
    counts = np.zeros((truth_ids.size + 1) * width, np.int64)
    cell = rows[_place(truth[0], keys, mask)] * width + columns[_place(prediction[0], other_keys, other_mask)]
    begin, at, size = np.uint64(0), _ONE, np.uint64(truth.size)
    while at < size:
        if at + _LANES <= size:
            for line in range(LANES // _LINE):
                fetch_ahead(truth, at + _AHEAD + np.uint64(line * _LINE))
                fetch_ahead(prediction, at + _AHEAD + np.uint64(line * _LINE))
            changes = change_bits(truth, at) | change_bits(prediction, at)
        else:
            changes = np.uint64(0)
            for i in range(np.int64(size - at)):
                here = at + np.uint64(i)
                differ = truth[here] != truth[here - _ONE] or prediction[here] != prediction[here - _ONE]
                changes |= np.uint64(differ) << np.uint64(i)
        while changes:
            here = at + trailing_zeros(changes)
            counts[cell] += np.int64(here - begin)
            begin = here
            cell = rows[_place(truth[here], keys, mask)] * width
            cell += columns[_place(prediction[here], other_keys, other_mask)]
            changes &= changes - _ONE
        at += _LANES
    counts[cell] += np.int64(size - begin)
    return counts.reshape(truth_ids.size + 1, width)


@njit(cache=True, nogil=True)
def match_segments(
    overlaps: np.ndarray, truth_labels: np.ndarray, crowd: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The segments of one image that match, and those that do not (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4).

    Args:
        overlaps: as `count_overlaps` gives them.
        truth_labels (N,), crowd bool (N,), labels (M,) of the prediction: 0..classes-1.

    Returns:
        int64 (classes, 3): true positives, false positives, false negatives; float64 (classes,): sum of the IoU of the matches.
    """
    counts, total = np.zeros((classes, 3), np.int64), np.zeros(classes, np.float64)
    areas, truth_areas = overlaps.sum(0), overlaps.sum(1)
    found = np.zeros(labels.size, np.bool_)
    # Of several crowd regions of a class panopticapi knows the one that is listed last.
    crowds = np.zeros(classes, np.int64)
    for i in range(truth_labels.size):
        label = truth_labels[i]
        if crowd[i]:
            crowds[label] = i + 1
            continue
        matched = False
        for j in range(labels.size):
            both = overlaps[i + 1, j + 1]
            if both == 0 or labels[j] != label:
                continue
            union = truth_areas[i + 1] + areas[j + 1] - both - overlaps[0, j + 1]
            if 2 * both > union:
                matched = True
                found[j] = True
                counts[label, 0] += 1
                total[label] += both / union
        if not matched:
            counts[label, 2] += 1
    for j in range(labels.size):
        region = crowds[labels[j]]
        unjudged = overlaps[0, j + 1] + (overlaps[region, j + 1] if region else 0)
        if not found[j] and 2 * unjudged <= areas[j + 1]:
            counts[labels[j], 1] += 1
    return counts, total


@njit(cache=True, nogil=True)
def class_qualities(counts: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """(K, 3) float64: PQ, SQ, RQ of each class from what `match_segments` gives; nan for a class that is not there.

    SQ without any match is 0, as in panopticapi.
    """
    out = np.full((iou.size, 3), np.nan)
    for label in range(iou.size):
        matched = counts[label, 0]
        weight = matched + (counts[label, 1] + counts[label, 2]) / 2
        if weight > 0:
            out[label, 0] = iou[label] / weight
            out[label, 1] = iou[label] / matched if matched else 0.0
            out[label, 2] = matched / weight
    return out


@njit(cache=True, nogil=True)
def mean_qualities(counts: np.ndarray, iou: np.ndarray, things: np.ndarray) -> np.ndarray:
    """(9,) float64: means of PQ, SQ, RQ over the classes that are there: all, then the `things` bool (K,), then stuff; or nan."""
    qualities, out = class_qualities(counts, iou), np.full(9, np.nan)
    for group in range(3):
        total, seen = np.zeros(3), 0
        for label in range(iou.size):
            if not np.isnan(qualities[label, 0]) and (group == 0 or things[label] == (group == 1)):
                total += qualities[label]
                seen += 1
        if seen:
            out[3 * group : 3 * group + 3] = total / seen
    return out


@njit(cache=True, nogil=True)
def _hashed(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.uint64]:
    """Void and `ids` as keys of a table of a power of two of places, -1 where free; 1 + their index beside them; the mask of a place."""
    size = 64
    while size < 4 * (ids.size + 1):
        size *= 2
    mask = np.uint64(size - 1)
    keys, values = np.full(size, -1, np.int32), np.zeros(size, np.int64)
    keys[0] = 0
    for i in range(ids.size):
        place = _place(ids[i], keys, mask)
        keys[place], values[place] = ids[i], i + 1
    return keys, values, mask


@njit(cache=True, nogil=True, inline="always")
def _place(value: Any, keys: Any, mask: Any) -> Any:
    """Where `value` stands in a table, or the free place where it would; void stands at 0."""
    # Knuth's multiplier spreads ids that are colours or multiples of a thousand.
    place = (np.uint64(value) * np.uint64(2654435761) >> np.uint64(16)) & mask
    while keys[place] != value and keys[place] != -1:
        place = (place + np.uint64(1)) & mask
    return place
