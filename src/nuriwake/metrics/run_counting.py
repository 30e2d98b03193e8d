"""The numba kernels behind the confusion matrix: pairs of labels counted along runs.

Label maps of real scenes are mostly long runs, so 64 pixels of both maps at once are compared with the pixels before them, and a
run is counted with one addition when it ends. Where most pixels differ (noise), they are counted one by one, into four
private histograms so that equal neighbours do not wait for each other's store.

The kernels work on *slots*: label + 1 modulo 256, so that ignore (255) is slot 0, class k is slot k + 1, and every
unknown label falls into the last slot, `classes + 1`.
"""

from typing import Any

import numpy as np
from numba import njit

from nuriwake.core.vector_bits import LANES, change_bits, count_ones, trailing_zeros

BLOCK = LANES
"""Pixels that are looked at together."""

_MOST_RUNS = np.uint64(16)
"""More runs than these in a block cost more than its pixels one by one."""

_ONE = np.uint64(1)


@njit(cache=True, nogil=True)
def count_runs(truth: np.ndarray, prediction: np.ndarray, last: int, shift: int, histogram: np.ndarray) -> None:
    """Add the pairs of `truth` and `prediction` to `histogram`.

    Args:
        truth, prediction: (N,) uint8, contiguous, N a multiple of BLOCK; labels, 255 is ignore.
        last: the slot of unknown labels, at most 255.
        shift: bits of a prediction slot; the cell of a pair is `truth slot << shift | prediction slot`.
        histogram: (4 * R,) uint32, four histograms one after the other; the count of a cell is the sum of the four.
    """
    # One long function on purpose: handing arrays to helpers costs a reference count per call, many times the counting.
    codes = np.empty(BLOCK, np.uint16)
    lane = histogram.size // 4
    lane_0, lane_1 = histogram[:lane], histogram[lane : 2 * lane]
    lane_2, lane_3 = histogram[2 * lane : 3 * lane], histogram[3 * lane :]
    begin, code = np.uint64(0), np.uint64(0)
    for block in range(truth.size // BLOCK):
        at = np.uint64(block * BLOCK)
        # Nothing stands before the first pixel: its block is counted pixel by pixel.
        changes = change_bits(truth, at) | change_bits(prediction, at) if block else ~np.uint64(0)
        if count_ones(changes) <= _MOST_RUNS:
            while changes:
                here = at + trailing_zeros(changes)
                lane_0[code] += np.uint32(here - begin)
                begin, code = here, np.uint64(_code(truth[here], prediction[here], last, shift))
                changes &= changes - _ONE
            continue
        lane_0[code] += np.uint32(at - begin)
        # Two loops, because the first becomes vector instructions only when it stands alone.
        for i in range(BLOCK):
            pixel = at + np.uint64(i)
            codes[i] = _code(truth[pixel], prediction[pixel], last, shift)
        for i in range(0, BLOCK, 4):
            lane_0[codes[np.uint64(i)]] += np.uint32(1)
            lane_1[codes[np.uint64(i + 1)]] += np.uint32(1)
            lane_2[codes[np.uint64(i + 2)]] += np.uint32(1)
            lane_3[codes[np.uint64(i + 3)]] += np.uint32(1)
        begin, code = at + np.uint64(BLOCK), np.uint64(codes[BLOCK - 1])
    lane_0[code] += np.uint32(np.uint64(truth.size) - begin)


@njit(cache=True, nogil=True)
def narrow(labels: np.ndarray, out: np.ndarray, classes: int, ignore: int) -> bool:
    """Write `labels` (N,) of any integer type to `out` (N,) uint8, `ignore` as 255. False where a label is unknown."""
    unknown = 0
    for i in range(labels.size):
        label = np.int64(labels[i])
        ignored = label == ignore
        unknown |= (not ignored) & ((label < 0) | (label >= classes))
        out[i] = np.uint8(255) if ignored else np.uint8(label)
    return unknown == 0


@njit(cache=True, nogil=True, inline="always")
def _code(truth: Any, prediction: Any, last: Any, shift: Any) -> Any:
    row = np.uint16(min(np.uint8(truth + np.uint8(1)), np.uint8(last)))
    column = np.uint16(min(np.uint8(prediction + np.uint8(1)), np.uint8(last)))
    return np.uint16((row << np.uint16(shift)) | column)
