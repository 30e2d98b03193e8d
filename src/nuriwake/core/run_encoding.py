"""Pixels to run lengths: the numba kernels that find where values change down the columns of row-major arrays."""

import numpy as np

from nuriwake.core.run_kernels import exact
from nuriwake.core.vector_bits import LANES, count_ones, fetch_ahead, nonzero_bits, trailing_zeros

_ONE, _LANES, _AHEAD = np.uint64(1), np.uint64(LANES), np.uint64(4096)


@exact
def changes(array: np.ndarray) -> np.ndarray:
    """Positions x * H + y, ascending int64, at which `array` (H, W) differs from the pixel before it in column-major order.

    The pixel before the first is taken to be 0. Rows are compared with the row above, as memory lies; the few changes are
    then put into the order of columns by counting.
    """
    height, width = array.shape
    found, many = np.empty((2048 + width, 2), np.int32), 0
    first, top = np.zeros(width + 1, np.int64), np.empty(width, np.bool_)
    for y in range(1, height):
        if many + width > found.shape[0]:
            found = _longer(found)
        for begin in range(0, width, 64):
            here, above = array[y, begin : begin + 64], array[y - 1, begin : begin + 64]
            differ = 0
            for k in range(here.size):
                differ |= here[k] ^ above[k]
            if differ:
                for k in range(here.size):
                    if here[k] != above[k]:
                        found[many, 0], found[many, 1] = begin + k, y
                        first[begin + k + 1] += 1
                        many += 1
    for x in range(width):
        top[x] = array[0, x] != (array[height - 1, x - 1] if x > 0 else 0)
        first[x + 1] += first[x] + top[x]
    out = np.empty(first[width], np.int64)
    _positions(found[:many], top, first, height, out)
    return out


@exact
def _positions(found: np.ndarray, top: np.ndarray, first: np.ndarray, height: int, out: np.ndarray) -> None:
    """Writes the changes in the order of columns; `first[x]` says where those of column x begin, and x's top is the first."""
    place = first[:-1].copy()
    for x in range(top.size):
        if top[x]:
            out[place[x]] = x * height
            place[x] += 1
    for k in range(found.shape[0]):
        x = np.int64(found[k, 0])
        out[place[x]] = x * height + found[k, 1]
        place[x] += 1


@exact
def _longer(values: np.ndarray) -> np.ndarray:
    """`values` with room for as many again."""
    return np.concatenate((values, np.empty_like(values)))


@exact
def dense_runs(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The runs of one mask, uint32.

    The rows are packed to bits, 64 pixels a word, and compared with the row above as they come from memory, which is what
    takes the time: each byte is read once, in order. The changes are then put into the order of columns by counting.

    Args:
        pixels: uint8 (height * width,), contiguous, row after row; what is not 0 belongs to the mask.
        width: at least 64.
    """
    words, places = _row_changes(pixels, height, width)
    first, many = np.zeros(width + 1, np.int64), 0
    for k in range(words.size):
        many += np.int64(count_ones(words[k]))
    columns, rows, pieces, k = np.empty(many, np.int32), np.empty(many, np.int32), (width + 63) // 64, np.uint64(0)
    for index in range(words.size):
        word, y, x = words[index], places[index] // pieces, places[index] % pieces * 64
        while word:
            column = x + np.int64(trailing_zeros(word))
            columns[k], rows[k] = column, y
            first[np.uint64(column + 1)] += 1
            word &= word - _ONE
            k += _ONE
    for x in range(width):
        first[x + 1] += first[x]
    positions = np.empty(many, np.int64)
    for k in range(many):
        x = np.uint64(columns[k])
        positions[np.uint64(first[x])] = np.int64(x) * height + rows[k]
        first[x] += 1
    return _differences(positions, height * width)


@exact
def _row_changes(pixels: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels differ from the one above, or at the top from the bottom of the column before: words of 64 columns that are not 0.

    Returns:
        uint64 (N,) with bit i for column 64 c + i, and int32 (N,), y * ceil(width / 64) + c, ascending.
    """
    whole, pieces, rest = width // 64, (width + 63) // 64, np.uint64(-width % 64)
    above, top = np.zeros(pieces, np.uint64), np.zeros(pieces, np.uint64)
    words, places = np.empty(2048 + 2 * pieces, np.uint64), np.empty(2048 + 2 * pieces, np.int32)
    used, at = np.uint64(pieces), np.uint64(0)  # the top row is known when the bottom row is
    for y in range(height):
        if np.int64(used) + pieces > words.size:
            words, places = _longer(words), _longer(places)
        place = np.int32(y * pieces)
        for c in range(whole):
            here = nonzero_bits(pixels, at)
            fetch_ahead(pixels, at + _AHEAD)
            at += _LANES
            # Without a branch, which a processor would guess wrongly at every edge: what is not wanted is written over.
            differ = here ^ above[c]
            words[used], places[used] = differ, place + c
            used += np.uint64(differ != 0)
            above[c] = here
        if rest:  # the last 64 pixels of the row, without those seen already
            here = nonzero_bits(pixels, at - rest) >> rest
            differ = here ^ above[whole]
            words[used], places[used] = differ, place + whole
            used += np.uint64(differ != 0)
            above[whole] = here
            at += _LANES - rest
        if y == 0:
            top[:], used = above, np.uint64(pieces)
    before = np.uint64(0)
    for c in range(pieces):
        words[c], places[c] = top[c] ^ (above[c] << _ONE | before), c
        before = above[c] >> np.uint64(63)
    if rest:
        words[pieces - 1] &= ~np.uint64(0) >> rest
    return words[: np.int64(used)], places[: np.int64(used)]


@exact
def _differences(positions: np.ndarray, total: int) -> np.ndarray:
    """Positions of changes to run lengths, uint32, with the last one behind them."""
    out, before = np.empty(positions.size + 1, np.uint32), np.int64(0)
    for k in range(positions.size):
        out[k] = positions[k] - before
        before = positions[k]
    out[positions.size] = total - before
    return out


@exact
def label_runs(ids: np.ndarray, values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masks `ids == values[n]` of a map (H, W) as runs, all in one pass.

    Args:
        values: int64 (N,), distinct, ascending.
        order: int64 (N,), the place of each of `values` in the answer.
    """
    height, width = ids.shape
    total, starts = height * width, changes(ids)
    size = starts.size
    owner = np.full(size, -1, np.int64)
    offsets, last = np.zeros(values.size + 1, np.int64), np.zeros(values.size, np.int64)
    for k in range(size):
        value = np.int64(ids[starts[k] % height, starts[k] // height])
        place = np.searchsorted(values, value)
        if place < values.size and values[place] == value:
            owner[k] = order[place]
            offsets[owner[k] + 1] += 2
            last[owner[k]] = starts[k + 1] if k + 1 < size else total
    zero = np.searchsorted(values, 0)
    leading = starts[0] if size else total  # before the first change all is 0
    owns_zero = zero < values.size and values[zero] == 0 and leading > 0
    if owns_zero:
        offsets[order[zero] + 1] += 2
        last[order[zero]] = max(last[order[zero]], leading)
    for n in range(values.size):
        offsets[n + 1] += offsets[n] + (last[n] < total)
    counts, used = np.empty(offsets[-1], np.uint32), offsets[:-1].copy()
    last[:] = 0
    if owns_zero:
        n = order[zero]
        counts[used[n]], counts[used[n] + 1] = 0, leading
        used[n], last[n] = used[n] + 2, leading
    for k in range(size):
        n = owner[k]
        if n >= 0:
            stop = starts[k + 1] if k + 1 < size else total
            counts[used[n]], counts[used[n] + 1] = starts[k] - last[n], stop - starts[k]
            used[n], last[n] = used[n] + 2, stop
    for n in range(values.size):
        if last[n] < total:
            counts[used[n]] = total - last[n]
    return counts, offsets
