"""The numba kernels behind the confusion matrix: pairs of labels counted along runs.

Label maps of real scenes are mostly long runs, so 64 pixels of both maps are compared as eight 64-bit words with their
first pixel; where all agree, one addition counts them. Else each word of 8 pixels is tried the same way, and only mixed
words are counted pixel by pixel, into four private histograms so that equal neighbours do not wait for each other's
store. Maps without runs (noise) skip the second trial for as long as it keeps failing.

The kernels work on *slots*: label + 1 modulo 256, so that ignore (255) is slot 0, class k is slot k + 1, and every
unknown label falls into the last slot, `classes + 1`.
"""

from typing import Any

import numpy as np
from numba import njit

BLOCK = 64
"""Pixels that are tried as one run."""

_BYTES = 0x0101010101010101
_RETRY = 31


@njit(cache=True, nogil=True)
def count_runs(truth: np.ndarray, prediction: np.ndarray, last: int, shift: int, histogram: np.ndarray) -> None:
    """Add the pairs of `truth` and `prediction` to `histogram`.

    Args:
        truth, prediction: (N,) uint8, contiguous, aligned to 8 bytes, N a multiple of BLOCK; labels, 255 is ignore.
        last: the slot of unknown labels, at most 255.
        shift: bits of a prediction slot; the cell of a pair is `truth slot << shift | prediction slot`.
        histogram: (4 * R,) uint32, four histograms one after the other; the count of a cell is the sum of the four.
    """
    # One long function on purpose: handing arrays to helpers costs a reference count per call, many times the counting.
    truth_words, prediction_words = truth.view(np.uint64), prediction.view(np.uint64)
    codes = np.empty(BLOCK, np.uint16)
    lane = histogram.size // 4
    lane_0, lane_1 = histogram[:lane], histogram[lane : 2 * lane]
    lane_2, lane_3 = histogram[2 * lane : 3 * lane], histogram[3 * lane :]
    noisy = False
    for block in range(truth.size // BLOCK):
        first = np.uint64(block * 8)
        left, right = truth_words[first], prediction_words[first]
        left_run, right_run = _repeat(left), _repeat(right)
        different = np.uint64(0)
        for i in range(8):
            at = first + np.uint64(i)
            different |= (truth_words[at] ^ left_run) | (prediction_words[at] ^ right_run)
        if different == 0:
            lane_0[_word_code(left, right, last, shift)] += np.uint32(BLOCK)
            continue
        if noisy:
            # Two loops, because the first becomes vector instructions only when it stands alone.
            pixel = np.uint64(block * BLOCK)
            for i in range(BLOCK):
                at = pixel + np.uint64(i)
                codes[i] = _code(truth[at], prediction[at], last, shift)
            for i in range(0, BLOCK, 4):
                lane_0[codes[np.uint64(i)]] += np.uint32(1)
                lane_1[codes[np.uint64(i + 1)]] += np.uint32(1)
                lane_2[codes[np.uint64(i + 2)]] += np.uint32(1)
                lane_3[codes[np.uint64(i + 3)]] += np.uint32(1)
            noisy = (block & _RETRY) != 0
            continue
        mixed = 0
        for i in range(8):
            word = first + np.uint64(i)
            left, right = truth_words[word], prediction_words[word]
            if (left ^ _repeat(left)) | (right ^ _repeat(right)) == 0:
                lane_1[_word_code(left, right, last, shift)] += np.uint32(8)
                continue
            mixed += 1
            for j in range(8):
                at = word * np.uint64(8) + np.uint64(j)
                codes[j] = _code(truth[at], prediction[at], last, shift)
            for j in range(0, 8, 4):
                lane_0[codes[np.uint64(j)]] += np.uint32(1)
                lane_1[codes[np.uint64(j + 1)]] += np.uint32(1)
                lane_2[codes[np.uint64(j + 2)]] += np.uint32(1)
                lane_3[codes[np.uint64(j + 3)]] += np.uint32(1)
        noisy = mixed >= 7


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
def _repeat(word: Any) -> Any:
    """The first byte of `word` in all its bytes."""
    return (word & np.uint64(255)) * np.uint64(_BYTES)


@njit(cache=True, nogil=True, inline="always")
def _word_code(left: Any, right: Any, last: Any, shift: Any) -> Any:
    return np.uint64(_code(np.uint8(left & np.uint64(255)), np.uint8(right & np.uint64(255)), last, shift))


@njit(cache=True, nogil=True, inline="always")
def _code(truth: Any, prediction: Any, last: Any, shift: Any) -> Any:
    row = np.uint16(min(np.uint8(truth + np.uint8(1)), np.uint8(last)))
    column = np.uint16(min(np.uint8(prediction + np.uint8(1)), np.uint8(last)))
    return np.uint16((row << np.uint16(shift)) | column)
