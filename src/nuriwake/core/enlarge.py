"""Small maps of probability enlarged and thresholded straight into run-length masks, without the large maps in between.

A bilinear resize is a band of weights along each axis, and one after another is a band again. A weighted mean of numbers
that all lie above a threshold lies above it too, so arithmetic is needed only where the small map crosses the threshold:
the work grows with the outline of an object and not with its area.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from nuriwake.core.runs import RunMasks


@dataclass(frozen=True)
class Axis:
    """A linear map from `length` numbers to n: result i is the sum over k of `weights[i, k] * source[first[i] + k]`.

    Attributes:
        length: of the source.
        first: int64 (n,), never falling, `first + K <= length`.
        weights: float32 (n, K), each row sums to 1.
    """

    length: int
    first: np.ndarray
    weights: np.ndarray

    def head(self, count: int) -> "Axis":
        """The first `count` results."""
        return Axis(self.length, self.first[:count], self.weights[:count])

    def then(self, other: "Axis") -> "Axis":
        """This map and `other` after it, as one."""
        inner = np.minimum(other.first[:, None] + np.arange(other.weights.shape[1]), len(self.first) - 1)
        index = self.first[inner][..., None] + np.arange(self.weights.shape[1])
        weights = other.weights.astype(np.float64)[..., None] * self.weights[inner]
        return _banded(self.length, index.reshape(len(index), -1), weights.reshape(len(index), -1))


def bilinear_axis(source: int, target: int) -> Axis:
    """Along one axis what PyTorch's `interpolate` does from `source` to `target` pixels, bilinear with
    half-pixel centres and the border repeated."""
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, source - 1)
    share = place - below
    return _banded(source, np.stack([below, above], axis=1), np.stack([1 - share, share], axis=1))


def enlarge_masks(values: np.ndarray, rows: Axis, columns: Axis, *, threshold: float) -> RunMasks:
    """Where the enlarged `values` exceed `threshold`.

    Args:
        values: float32 (N, h, w), finite, h = `rows.length` and w = `columns.length`.
        rows, columns: how each axis becomes longer (or shorter).

    Returns:
        N masks of (number of results of `rows`, of `columns`); 1 strictly above the threshold.
    """
    size = (len(rows.first), len(columns.first))
    if len(values) == 0:
        return RunMasks.empty(size)
    # Runs go down the columns, so the columns of the small map lie in a row in memory.
    upright = np.ascontiguousarray(values.transpose(0, 2, 1), dtype=np.float32)
    tall = np.searchsorted(rows.first, np.arange(rows.length + 1))
    counts, offsets = _outline(
        upright, rows.first, rows.weights, tall, columns.first, columns.weights, np.float32(threshold)
    )
    return RunMasks(counts, offsets, size)


def _banded(length: int, index: np.ndarray, weights: np.ndarray) -> Axis:
    """The axis with `weights` (n, k) at the places `index` (n, k), a place possibly more than once."""
    used = weights > 0  # places without weight would only widen the band
    first, last = np.where(used, index, length).min(axis=1), np.where(used, index, 0).max(axis=1)
    band = int((last - first).max(initial=0)) + 1
    first = np.minimum(first, length - band)
    dense = np.zeros((len(index), band))
    row, _ = np.nonzero(used)
    np.add.at(dense, (row, index[used] - first[row]), weights[used])
    return Axis(length, first, dense.astype(np.float32))


@njit(cache=True, nogil=True)
def _outline(
    maps: np.ndarray,
    row_first: np.ndarray,
    row_weights: np.ndarray,
    tall: np.ndarray,
    column_first: np.ndarray,
    column_weights: np.ndarray,
    threshold: np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs (counts uint32, offsets int64) of maps (N, w, h); `tall[r]`: the first result whose band begins at row r or later."""
    height, total = len(row_first), len(row_first) * len(column_first)
    counts, offsets = np.empty(1024, np.uint32), np.zeros(len(maps) + 1, np.int64)
    mixed, ends = np.empty(maps.shape[2], np.float32), np.empty(maps.shape[2], np.int64)
    band, used = row_weights.shape[1], 0
    for item in range(len(maps)):
        left, right = _extent(maps[item], threshold)
        start = np.searchsorted(column_first, left - column_weights.shape[1] + 1)
        stop = max(np.searchsorted(column_first, right + 1), start)
        last, state = 0, False
        for x in range(start, stop):
            if used + height + 2 > len(counts):
                longer = np.empty(2 * len(counts) + height + 2, np.uint32)
                longer[:used] = counts[:used]
                counts = longer
            _mix(maps[item], column_first[x], column_weights[x], mixed)
            _run_ends(mixed, threshold, ends)
            y = 0
            while y < height:
                row, following = row_first[y], y + 1
                if ends[row] >= row + band:
                    # All that this result and those up to the end of the run read lies on one side of the threshold.
                    inside = mixed[row] > threshold
                    following = tall[ends[row] - band + 1]
                else:
                    inside = _dot(row_weights[y], mixed, row) > threshold
                if inside != state:
                    counts[used] = x * height + y - last
                    used, last, state = used + 1, x * height + y, inside
                y = following
        if state and stop * height < total:
            counts[used] = stop * height - last
            used, last = used + 1, stop * height
        counts[used] = total - last
        used += 1
        offsets[item + 1] = used
    return counts[:used].copy(), offsets


@njit(cache=True, nogil=True)
def _extent(small: np.ndarray, threshold: np.float32) -> tuple[int, int]:
    """The first and the last of the rows of `small` (w, h) with a number above the threshold; (w, -1) when there is none."""
    first, last = len(small), -1
    for column in range(len(small)):
        for value in small[column]:
            if value > threshold:
                first, last = min(first, column), column
                break
    return first, last


@njit(cache=True, nogil=True)
def _mix(small: np.ndarray, begin: int, weights: np.ndarray, mixed: np.ndarray) -> None:
    """mixed (h,) = weights (K,) times `small[begin : begin + K]` (K, h)."""
    for row in range(len(mixed)):
        mixed[row] = weights[0] * small[begin, row]
    for k in range(1, len(weights)):
        for row in range(len(mixed)):
            mixed[row] += weights[k] * small[begin + k, row]


@njit(cache=True, nogil=True)
def _run_ends(mixed: np.ndarray, threshold: np.float32, ends: np.ndarray) -> None:
    """ends[r]: where the run of numbers on the same side of the threshold as `mixed[r]` ends (exclusive)."""
    end = len(mixed)
    for row in range(len(mixed) - 1, -1, -1):
        if row + 1 < len(mixed) and (mixed[row] > threshold) != (mixed[row + 1] > threshold):
            end = row + 1
        ends[row] = end


@njit(cache=True, nogil=True)
def _dot(weights: np.ndarray, mixed: np.ndarray, begin: int) -> np.float32:
    total = np.float32(0)
    for k in range(len(weights)):
        total += weights[k] * mixed[begin + k]
    return total
