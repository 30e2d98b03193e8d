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
    found, used = np.empty((1024, 2), np.int64), 0
    first = np.zeros(width + 1, np.int64)
    for x in range(width):
        before = array[height - 1, x - 1] if x > 0 else array[0, 0] * 0
        first[x + 1] = array[0, x] != before
    for y in range(1, height):
        if used + width > found.shape[0]:
            found = _longer(found, used, 2 * used + width)
        for begin in range(0, width, 64):
            end = min(begin + 64, width)
            differ = 0
            for x in range(begin, end):
                differ += array[y, x] != array[y - 1, x]
            if differ:
                for x in range(begin, end):
                    if array[y, x] != array[y - 1, x]:
                        found[used, 0], found[used, 1] = x, y
                        first[x + 1] += 1
                        used += 1
    return _by_column(array, found[:used], first)


@exact
def _longer(found: np.ndarray, used: int, size: int) -> np.ndarray:
    out = np.empty((size, 2), np.int64)
    out[:used] = found[:used]
    return out


@exact
def _by_column(array: np.ndarray, found: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`found` (x, y), ordered by y, as positions in the order of columns; `first[x + 1]` counts those of column x and its top."""
    height, width = array.shape
    for x in range(width):
        first[x + 1] += first[x]
    out = np.empty(first[width], np.int64)
    for x in range(width):
        before = array[height - 1, x - 1] if x > 0 else array[0, 0] * 0
        if array[0, x] != before:
            out[first[x]] = x * height
            first[x] += 1
    for k in range(found.shape[0]):
        x = found[k, 0]
        out[first[x]] = x * height + found[k, 1]
        first[x] += 1
    return out


@exact
def dense_runs(words: np.ndarray, width: int, out: np.ndarray, used: int) -> int:
    """Appends the runs of one mask to `out`; returns the new `used`, or where there is no room minus how much is needed.

    Args:
        words: uint64 (H, ceil(width / 8)), the rows of the mask, eight pixels each in the order of memory (little end
            first); what is not 0 belongs to the mask. Beyond the width all is 0.
    """
    height, count = words.shape
    found, many = np.empty((1024, 2), np.int64), 0
    first = np.zeros(width + 1, np.int64)
    for y in range(1, height):
        if many + width > found.shape[0]:
            found = _longer(found, many, 2 * many + width)
        for begin in range(0, count, 16):
            end = min(begin + 16, count)
            differ = np.uint64(0)
            for k in range(begin, end):
                differ |= words[y, k] ^ words[y - 1, k]
            if differ != 0:
                for k in range(begin, end):
                    if words[y, k] != words[y - 1, k]:
                        many = _note(words[y, k], words[y - 1, k], 8 * k, y, found, many, first)
    before = False
    for x in range(width):
        first[x + 1] += _pixel(words, 0, x) != before
        before = _pixel(words, height - 1, x)
    for x in range(width):
        first[x + 1] += first[x]
    if used + first[width] + 1 > out.size:
        return -(used + first[width] + 1)
    return _write_runs(words, found[:many], first, width, out, used)


@exact
def _note(here: int, above: int, x: int, y: int, found: np.ndarray, many: int, first: np.ndarray) -> int:
    """Appends (x + i, y) for every byte i of which one of the two words is 0 and the other not; returns the new `many`."""
    while here != above:
        if ((here & np.uint64(255)) != 0) != ((above & np.uint64(255)) != 0):
            found[many, 0], found[many, 1] = x, y
            first[x + 1] += 1
            many += 1
        here, above, x = here >> np.uint64(8), above >> np.uint64(8), x + 1
    return many


@exact
def _pixel(words: np.ndarray, y: int, x: int) -> bool:
    return ((words[y, x >> 3] >> np.uint64(8 * (x & 7))) & np.uint64(255)) != 0


@exact
def _write_runs(words: np.ndarray, found: np.ndarray, first: np.ndarray, width: int, out: np.ndarray, used: int) -> int:
    """Positions in the order of columns, then their differences; `first` as `_by_column` has it, summed."""
    height, end = words.shape[0], used + first[width]
    before = False
    for x in range(width):
        if _pixel(words, 0, x) != before:
            out[used + first[x]] = x * height
            first[x] += 1
        before = _pixel(words, height - 1, x)
    for k in range(found.shape[0]):
        x = found[k, 0]
        out[used + first[x]] = x * height + found[k, 1]
        first[x] += 1
    last = np.int64(0)
    for k in range(used, end):
        position = np.int64(out[k])
        out[k] = position - last
        last = position
    out[end] = height * width - last
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
