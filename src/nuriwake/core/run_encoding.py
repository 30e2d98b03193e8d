"""Pixels to run lengths: the numba kernels that find where values change down the columns of row-major arrays."""

import numpy as np

from nuriwake.core.run_kernels import exact


@exact
def changes(array: np.ndarray) -> np.ndarray:
    """Positions x * H + y, ascending int64, at which `array` (H, W) differs from the pixel before it in column-major order.

    The pixel before the first is taken to be 0. Rows are compared with the row above, as memory lies; the few changes are
    then put into the order of columns by counting.
    """
    height, width = array.shape
    found, many = np.empty((2048, 2), np.int32), 0
    first, top = np.zeros(width + 1, np.int64), np.empty(width, np.bool_)
    for y in range(1, height):
        if many + width > found.shape[0]:
            found = _longer(found, many, 2 * many + width)
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
def _longer(found: np.ndarray, used: int, size: int) -> np.ndarray:
    out = np.empty((size, 2), np.int32)
    out[:used] = found[:used]
    return out


@exact
def dense_runs(words: np.ndarray, width: int, out: np.ndarray, used: int) -> int:
    """Appends the runs of one mask to `out`; returns the new `used`, or where there is no room minus how much is needed.

    Args:
        words: uint64 (H, ceil(width / 8)), the rows of the mask, eight pixels each in the order of memory (little end
            first); what is not 0 belongs to the mask. Beyond the width all is 0.
    """
    height = words.shape[0]
    first = np.zeros(width + 1, np.int64)
    found = _changed_bytes(words, _changed_pieces(words), first)
    top = _top_changes(words, width)
    for x in range(width):
        first[x + 1] += first[x] + top[x]
    if used + first[width] + 1 > out.size:
        return -(used + first[width] + 1)
    _positions(found, top, first, height, out[used:])
    return _differences(out, used, used + first[width], height * width)


@exact
def _changed_pieces(words: np.ndarray) -> np.ndarray:
    """Not 0 at (y, c), uint64, where any of the 32 words from words[y, 32 c] on differs from the one above."""
    out = np.zeros((words.shape[0], (words.shape[1] + 31) // 32), np.uint64)
    for y in range(1, words.shape[0]):
        here, above, row = words[y], words[y - 1], out[y]
        for c in range(row.size):
            # Slices, and a loop over their size from 0 with nothing else in it, are what becomes vector instructions.
            a, b = here[32 * c : 32 * c + 32], above[32 * c : 32 * c + 32]
            differ = np.uint64(0)
            for k in range(a.size):
                differ |= a[k] ^ b[k]
            row[c] = differ
    return out


@exact
def _changed_bytes(words: np.ndarray, pieces: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(x, y), int32, ordered by y, of bytes of which one is 0 and the one above is not, or the reverse; counts them in `first[x + 1]`."""
    out, used, low = np.empty((2048, 2), np.int32), 0, np.uint64(255)
    for y in range(1, words.shape[0]):
        here, above, row = words[y], words[y - 1], pieces[y]
        for c in range(row.size):
            if row[c] == 0:
                continue
            if used + 256 > out.shape[0]:
                out = _longer(out, used, 2 * used + 256)
            for k in range(32 * c, min(32 * c + 32, here.size)):
                a, b, x = here[k], above[k], 8 * k
                if a == b:
                    continue
                if (a ^ b) & np.uint64(0xFFFFFFFF) == 0:
                    a, b, x = a >> np.uint64(32), b >> np.uint64(32), x + 4
                while a != b:
                    if ((a & low) != 0) != ((b & low) != 0):
                        out[used, 0], out[used, 1] = x, y
                        first[x + 1] += 1
                        used += 1
                    a, b, x = a >> np.uint64(8), b >> np.uint64(8), x + 1
    return out[:used]


@exact
def _top_changes(words: np.ndarray, width: int) -> np.ndarray:
    """Whether the top of each column differs from the bottom of the one before, bool (W,)."""
    out, before, bottom = np.empty(width, np.bool_), False, words.shape[0] - 1
    for x in range(width):
        shift = np.uint64(8 * (x & 7))
        out[x] = ((words[0, x >> 3] >> shift & np.uint64(255)) != 0) != before
        before = (words[bottom, x >> 3] >> shift & np.uint64(255)) != 0
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
def _differences(out: np.ndarray, begin: int, end: int, total: int) -> int:
    """Positions `out[begin:end]` to run lengths, with the last one behind them; returns where they end."""
    last = np.int64(0)
    for k in range(begin, end):
        position = np.int64(out[k])
        out[k] = position - last
        last = position
    out[end] = total - last
    return end + 1


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
