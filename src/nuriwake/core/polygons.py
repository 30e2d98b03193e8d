"""Polygons to run lengths, bit for bit as COCO's `frPyObjects` fills them, in time that grows with the columns crossed.

COCO (maskApi.c, rleFrPoly) walks the outline on a grid five times finer and keeps the steps between the third and the fourth
fine column of a pixel: those where the outline crosses the middle of a column of pixels. Here each edge is asked for
these crossings alone. Between them the inside alternates: the even-odd rule for outlines that cross themselves.
"""

from typing import Any

import numpy as np

from nuriwake.core.run_kernels import exact


@exact
def outline_crossings(xy: np.ndarray, height: int, width: int) -> np.ndarray:
    """Positions x * height + y (int64, unsorted) where the outline `xy` (P, 2) float64 crosses columns of pixels."""
    points = np.empty((xy.shape[0] + 1, 2), np.int64)
    for i in range(xy.shape[0]):
        points[i, 0], points[i, 1] = np.int64(5 * xy[i, 0] + 0.5), np.int64(5 * xy[i, 1] + 0.5)
    points[-1] = points[0]
    room = 0
    for i in range(xy.shape[0]):
        room += min(abs(points[i + 1, 0] - points[i, 0]) // 5 + 1, width)
    out, used = np.empty(room, np.int64), 0
    for i in range(xy.shape[0]):
        used = _edge(points[i], points[i + 1], height, width, out, used)
    return out[:used]


@exact
def _edge(begin: np.ndarray, end: np.ndarray, height: int, width: int, out: np.ndarray, used: int) -> int:
    """Appends the crossings of one edge, given on the fine grid; returns the new `used`."""
    dx, dy = abs(end[0] - begin[0]), abs(end[1] - begin[1])
    if dx == 0:
        return used
    if (dx >= dy and begin[0] > end[0]) or (dx < dy and begin[1] > end[1]):
        begin, end = end, begin
    xs, ys = begin[0], begin[1]
    low, high = min(begin[0], end[0]), max(begin[0], end[0])
    # The pixel columns x with low <= 5x + 2 and 5x + 3 <= high: the edge steps from one fine column to the next there.
    for x in range(max((low + 2) // 5, 0), min((high - 3) // 5 + 1, width)):
        if dx >= dy:
            slope, t = (end[1] - ys) / dx, 5 * x + 2 - xs
            fine = min(np.int64(ys + slope * t + 0.5), np.int64(ys + slope * (t + 1) + 0.5))
        else:
            fine = ys + _step(xs, (end[0] - xs) / dy, dy, 5 * x + 2)
        row = (fine + 0.5) / 5 - 0.5
        row = np.ceil(min(max(row, 0.0), np.float64(height)))
        out[used] = x * height + np.int64(row)
        used += 1
    return used


@exact
def _step(xs: int, slope: float, dy: int, column: int) -> Any:
    """The t in 0..dy - 1 at which int(xs + slope * t + 0.5) is on one side of `column` | `column + 1` and at t + 1 on the other."""
    t = min(max(np.int64((column + 0.5 - xs) / slope), 0), dy - 1)
    if slope > 0:
        while t > 0 and np.int64(xs + slope * t + 0.5) > column:
            t -= 1
        while t < dy - 1 and np.int64(xs + slope * (t + 1) + 0.5) <= column:
            t += 1
    else:
        while t > 0 and np.int64(xs + slope * t + 0.5) <= column:
            t -= 1
        while t < dy - 1 and np.int64(xs + slope * (t + 1) + 0.5) > column:
            t += 1
    return t


@exact
def fill_outlines(xy: np.ndarray, first: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one mask per outline: `xy[first[i] : first[i + 1]]` are the corners of outline i."""
    offsets = np.zeros(first.size, np.int64)
    counts = np.empty(0, np.uint32)
    for i in range(first.size - 1):
        crossings = outline_crossings(xy[first[i] : first[i + 1]], height, width)
        crossings.sort()
        needed = offsets[i] + crossings.size + 1
        if needed > counts.size:
            larger = np.empty(max(needed, 2 * counts.size), np.uint32)
            larger[: offsets[i]] = counts[: offsets[i]]
            counts = larger
        offsets[i + 1] = _runs(crossings, height * width, counts, offsets[i])
    return counts[: offsets[-1]].copy(), offsets


@exact
def _runs(crossings: np.ndarray, total: int, out: np.ndarray, used: int) -> int:
    """Appends the runs between `crossings` (ascending) to `out`, two equal ones undoing each other; returns the new `used`."""
    size = crossings.size
    out[used] = crossings[0] if size else total
    used, k = used + 1, 1
    while k <= size:
        here = crossings[k] if k < size else total
        gap = here - crossings[k - 1]
        if gap > 0:
            out[used] = gap
            used += 1
        else:
            k += 1
            if k <= size:
                out[used - 1] += np.uint32((crossings[k] if k < size else total) - crossings[k - 1])
        k += 1
    return used
