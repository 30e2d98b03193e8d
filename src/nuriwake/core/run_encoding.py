"""Pixels to run lengths: the numba kernels that find where values change down the columns of row-major arrays."""

import numpy as np

from nuriwake.core.run_kernels import exact


@exact
def changes(array: np.ndarray) -> np.ndarray:
    """Positions x * H + y, ascending int64, at which `array` (H, W) differs from the pixel before it in column-major order.

    The pixel before the first is taken to be 0. Rows are compared with the row above, as memory lies, and the few changes
    are put into the order of columns by counting.
    """
    height, width = array.shape
    first = np.zeros(width + 1, np.int64)
    for x in range(width):
        before = array[height - 1, x - 1] if x > 0 else array[0, 0] * 0
        first[x + 1] += array[0, x] != before
    for y in range(1, height):
        for x in range(width):
            first[x + 1] += array[y, x] != array[y - 1, x]
    for x in range(width):
        first[x + 1] += first[x]
    out = np.empty(first[width], np.int64)
    for x in range(width):
        before = array[height - 1, x - 1] if x > 0 else array[0, 0] * 0
        if array[0, x] != before:
            out[first[x]] = x * height
            first[x] += 1
    for y in range(1, height):
        for x in range(width):
            if array[y, x] != array[y - 1, x]:
                out[first[x]] = x * height + y
                first[x] += 1
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
