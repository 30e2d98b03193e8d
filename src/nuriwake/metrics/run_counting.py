"""The numba kernels behind the confusion matrix: pairs of labels counted along runs.

Label maps of real scenes are mostly long runs, so 64 pixels of both maps are compared as eight 64-bit words with their
first pixel; where all agree, one addition counts them. Else each word of 8 pixels is tried the same way, and only mixed
words are counted pixel by pixel, into four private histograms so that equal neighbours do not wait for each other's
store. Maps without runs (noise) skip the second trial for as long as it keeps failing.

The kernels work on *slots*: label + 1 modulo 256, so that ignore (255) is slot 0, class k is slot k + 1, and every
unknown label falls into the last slot, `classes + 1`.
"""

import numpy as np
from numba import njit

BLOCK = 64
"""Pixels that are tried as one run."""

_BYTES = 0x0101010101010101
_RETRY = 31


@njit(cache=True, nogil=True)
def count_runs(truth: np.ndarray, prediction: np.ndarray, last: int, shift: int, histograms: np.ndarray) -> None:
    """Add the pairs of `truth` and `prediction` to `histograms`.

    Args:
        truth, prediction: (N,) uint8, contiguous, aligned to 8 bytes, N a multiple of 8; labels, 255 is ignore.
        last: the slot of unknown labels, at most 255.
        shift: bits of a prediction slot.
        histograms: (4, R) uint32; cell `truth slot << shift | prediction slot`; the count is the sum over the first axis.
    """
    truth_words, prediction_words = truth.view(np.uint64), prediction.view(np.uint64)
    codes = np.empty(BLOCK, np.uint16)
    noisy = False
    blocks = truth.size // BLOCK
    for block in range(blocks):
        word = np.uint64(block * 8)
        if _is_run(truth_words, prediction_words, word):
            code = _code(truth_words[word], prediction_words[word], last, shift)
            histograms[block & 3, code] += np.uint32(BLOCK)
        elif noisy:
            _count_pixels(truth, prediction, np.uint64(block * BLOCK), BLOCK, last, shift, histograms, codes)
            noisy = (block & _RETRY) != 0
        else:
            noisy = _count_words(truth, prediction, word, 8, last, shift, histograms, codes) >= 7
    rest = truth_words.size - blocks * 8
    _count_words(truth, prediction, np.uint64(blocks * 8), rest, last, shift, histograms, codes)


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
def _is_run(truth_words: np.ndarray, prediction_words: np.ndarray, word: int) -> bool:
    truth, prediction = _repeat(truth_words[word]), _repeat(prediction_words[word])
    different = np.uint64(0)
    for i in range(8):
        at = word + np.uint64(i)
        different |= (truth_words[at] ^ truth) | (prediction_words[at] ^ prediction)
    return different == 0


@njit(cache=True, nogil=True, inline="always")
def _repeat(word: int) -> int:
    return (word & np.uint64(255)) * np.uint64(_BYTES)


@njit(cache=True, nogil=True, inline="always")
def _slot(label: int, last: int) -> int:
    return min(np.uint8(label + np.uint8(1)), np.uint8(last))


@njit(cache=True, nogil=True, inline="always")
def _code(truth_word: int, prediction_word: int, last: int, shift: int) -> int:
    truth = _slot(np.uint8(truth_word & np.uint64(255)), last)
    prediction = _slot(np.uint8(prediction_word & np.uint64(255)), last)
    return (np.uint64(truth) << np.uint64(shift)) | np.uint64(prediction)


@njit(cache=True, nogil=True)
def _count_words(
    truth: np.ndarray,
    prediction: np.ndarray,
    first: int,
    words: int,
    last: int,
    shift: int,
    histograms: np.ndarray,
    codes: np.ndarray,
) -> int:
    """Count `words` words of 8 pixels from word `first` on; returns how many of them were mixed."""
    truth_words, prediction_words = truth.view(np.uint64), prediction.view(np.uint64)
    mixed = 0
    for i in range(words):
        word = first + np.uint64(i)
        left, right = truth_words[word], prediction_words[word]
        if (left ^ _repeat(left)) | (right ^ _repeat(right)) == 0:
            histograms[i & 3, _code(left, right, last, shift)] += np.uint32(8)
        else:
            mixed += 1
            _count_pixels(truth, prediction, word * np.uint64(8), 8, last, shift, histograms, codes)
    return mixed


@njit(cache=True, nogil=True, inline="always")
def _count_pixels(
    truth: np.ndarray,
    prediction: np.ndarray,
    first: int,
    pixels: int,
    last: int,
    shift: int,
    histograms: np.ndarray,
    codes: np.ndarray,
) -> None:
    # Two loops, because the first one becomes vector instructions only when it is alone.
    for i in range(pixels):
        at = first + np.uint64(i)
        row = np.uint16(_slot(truth[at], last))
        codes[i] = np.uint16((row << np.uint16(shift)) | np.uint16(_slot(prediction[at], last)))
    for i in range(0, pixels, 4):
        for lane in range(4):
            histograms[lane, codes[np.uint64(i + lane)]] += np.uint32(1)
