"""The likeliest of many classes at every pixel of an enlarged map, without enlarging the maps of all of them.

Between two neighbours of a small map a bilinear value never leaves the range of the two. So of all classes only those matter
there whose larger neighbour is no less than the best smaller one: one or two nearly everywhere. The answer is that of
enlarging all and taking the largest, at a cost that hardly depends on how many classes there are.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from nuriwake.core.pixels import kernel
from nuriwake.core.targets import Size
from nuriwake.inference.strips import Rows, taps

ROWS_AT_ONCE = 64
"""Of the large map."""


class Likeliest(NamedTuple):
    """Some rows of the answer.

    Attributes:
        top: the first row.
        labels: uint8 (rows, W).
        scores: float32 (rows, W), of the class, divided by the sum of those of all classes.
    """

    top: int
    labels: np.ndarray
    scores: np.ndarray


def likeliest(
    bands: Iterable[Tensor], before: Size, after: Size, *, background: bool, thresholds: tuple[float, ...] = ()
) -> Iterator[Likeliest]:
    """The class of the largest score / threshold at every pixel of a map of size `before` enlarged bilinearly to `after`.

    Args:
        bands: float32 (K, rows, width) on the CPU, of scores from 0, that follow each other and together have `before`.
        background: a class 0 before the others, whose score is what theirs lack of 1.
        thresholds: one per class, with the background; empty where all are equal.
    """
    source = Rows(iter(bands))
    first = int(background)
    cuts = np.array(thresholds or (1.0,) * (source.channels + first), np.float32)
    across = taps(0, after[1], before[1], after[1])
    for top in range(0, after[0], ROWS_AT_ONCE):
        end = min(top + ROWS_AT_ONCE, after[0])
        low, high, share = taps(top, end, before[0], after[0])
        start = int(low[0])
        small = source.take(start, int(high[-1]) + 1).permute(1, 2, 0).contiguous().numpy()
        labels, scores = np.empty((end - top, after[1]), np.uint8), np.empty((end - top, after[1]), np.float32)
        _choose(small, low - start, high - start, share, *across, 1 / cuts, first, labels, scores)
        yield Likeliest(top, labels, scores)


@kernel
def _choose(
    small: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    share: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    across: np.ndarray,
    weights: np.ndarray,
    first: int,
    labels: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Fills `labels` and `scores` (R, W) from `small` (h, w, K); `weights` (first + K,) multiply the scores in the comparison."""
    width, classes = small.shape[1], small.shape[2]
    mixed, sums = np.empty((width, classes), np.float32), np.empty(width, np.float32)
    rivals = np.empty(classes, np.int64)
    factors = weights[first:]
    for row in range(labels.shape[0]):
        part = share[row]
        for x in range(width):
            upper, lower, line = small[low[row], x], small[high[row], x], mixed[x]
            total = np.float32(0)
            for k in range(classes):
                line[k] = upper[k] + part * (lower[k] - upper[k])
                total += line[k]
            sums[x] = total
        seen, count = -1, 0
        for x in range(labels.shape[1]):
            one, other, part_across = mixed[left[x]], mixed[right[x]], across[x]
            if left[x] != seen:
                seen, count = left[x], _rivals(one, other, factors, rivals)
            best, chosen, value = np.float32(-1), 0, np.float32(0)
            total = sums[left[x]] + part_across * (sums[right[x]] - sums[left[x]])
            if first == 1:
                value = max(np.float32(1) - total, np.float32(0))
                best, total = value * weights[0], total + value
            for place in range(count):
                k = rivals[place]
                score = one[k] + part_across * (other[k] - one[k])
                if score * factors[k] > best:
                    best, chosen, value = score * factors[k], k + first, score
            labels[row, x] = chosen
            scores[row, x] = value / max(total, np.float32(1e-12))


@kernel
def _rivals(one: np.ndarray, other: np.ndarray, factors: np.ndarray, rivals: np.ndarray) -> int:
    """Writes the classes to `rivals` that can be the largest between `one` and `other` (K,), ascending; returns how many."""
    least = np.float32(0)
    for k in range(one.size):
        least = max(least, min(one[k], other[k]) * factors[k])
    # Rounding between the two may take a value a little beyond them.
    least *= np.float32(1 - 1e-5)
    count = 0
    for k in range(one.size):
        if max(one[k], other[k]) * factors[k] >= least:
            rivals[count] = k
            count += 1
    return count
