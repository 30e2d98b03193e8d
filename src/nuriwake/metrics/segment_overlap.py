"""The numba kernels behind panoptic quality: pairs of segments counted along runs of pixels, then matched.

Two neighbouring ids are one 64-bit word, and 32 pixels of both maps are compared with the pair of ids of the run that they would continue,
so that an id is looked up only where a run begins.
"""

from typing import Any

import numpy as np
from numba import njit

_BLOCK = 32


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
    truth_table, prediction_table = _hashed(truth_ids), _hashed(prediction_ids)
    width = prediction_ids.size + 1
    counts = np.zeros((truth_ids.size + 1) * width, np.int64)
    even = truth.size // 2 * 2
    # An empty slice has no view of wider words.
    truth_words = truth[:even].view(np.uint64) if even else np.empty(0, np.uint64)
    prediction_words = prediction[:even].view(np.uint64) if even else np.empty(0, np.uint64)
    left, right = truth[0], prediction[0]
    cell = _index(left, truth_ids, truth_table) * width + _index(right, prediction_ids, prediction_table)
    left_word, right_word = _twice(left), _twice(right)
    begin, at, size = np.uint64(0), np.uint64(0), np.uint64(truth.size)
    while at < size:
        stop = at + np.uint64(_BLOCK)
        if stop <= size:
            first, different = at >> np.uint64(1), np.uint64(0)
            for i in range(_BLOCK // 2):
                word = first + np.uint64(i)
                different |= (truth_words[word] ^ left_word) | (prediction_words[word] ^ right_word)
            if different == 0:
                at = stop
                continue
        else:
            stop = size
        while at < stop:
            if truth[at] != left or prediction[at] != right:
                counts[cell] += np.int64(at - begin)
                left, right, begin = truth[at], prediction[at], at
                cell = _index(left, truth_ids, truth_table) * width + _index(right, prediction_ids, prediction_table)
                left_word, right_word = _twice(left), _twice(right)
            at += np.uint64(1)
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
    unjudged = overlaps[0].copy()
    for i in range(truth_labels.size):
        label = truth_labels[i]
        if crowd[i]:
            for j in range(labels.size):
                if labels[j] == label:
                    unjudged[j + 1] += overlaps[i + 1, j + 1]
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
        if not found[j] and 2 * unjudged[j + 1] <= areas[j + 1]:
            counts[labels[j], 1] += 1
    return counts, total


@njit(cache=True, nogil=True)
def _hashed(ids: np.ndarray) -> np.ndarray:
    """A table of indices in `ids`, -1 where free, of a power of two of places, at most half full."""
    size = 16
    while size < 2 * ids.size:
        size *= 2
    table = np.full(size, -1, np.int32)
    for i in range(ids.size):
        place = _place(ids[i], size)
        while table[place] >= 0:
            place = (place + 1) & (size - 1)
        table[place] = i
    return table


@njit(cache=True, nogil=True)
def _index(value: int, ids: np.ndarray, table: np.ndarray) -> int:
    """1 + the index of `value` in `ids`; 0 for void."""
    if value == 0:
        return np.int64(0)
    place = _place(value, table.size)
    while table[place] >= 0:
        if ids[table[place]] == value:
            return np.int64(table[place]) + 1
        place = (place + 1) & (table.size - 1)
    return np.int64(0)


@njit(cache=True, nogil=True, inline="always")
def _place(value: Any, size: Any) -> Any:
    # Knuth's multiplier spreads ids that are colours or multiples of a thousand.
    return (np.int64(value) * np.int64(2654435761) >> np.int64(12)) & np.int64(size - 1)


@njit(cache=True, nogil=True, inline="always")
def _twice(value: Any) -> Any:
    return np.uint64(value) << np.uint64(32) | np.uint64(value)
