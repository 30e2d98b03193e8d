"""Polygons of many features painted into one map, in time that grows with their edges and the pixels they fill."""

import numpy as np

from nuriwake.core.pixels import kernel


@kernel
def fill_rings(points: np.ndarray, after: np.ndarray, owners: np.ndarray, canvas: np.ndarray) -> None:
    """Paints `canvas` int32 (H, W) in place: a pixel gets the number of the feature that holds its middle, the last of several.

    A middle is held where a walk to it from the left crosses the feature's rings an odd number of times.

    Args:
        points: (P, 2) float64, columns and rows of the corners of rings, those of a feature one after another.
        after: (P,) int64, the next corner of the same ring.
        owners: (P,) int64, the number of the feature of each corner, rising.
    """
    height, width = canvas.shape
    first = 0
    counts = np.zeros(height + 1, np.int64)
    while first < len(points):
        last = first
        low, high = height, 0
        while last < len(points) and owners[last] == owners[first]:
            row = points[last, 1]
            low, high = min(low, max(0, int(np.floor(row)) - 1)), max(high, min(height, int(np.ceil(row)) + 1))
            last += 1
        # How often each row of middles is crossed, and where: counted, then put row by row.
        for i in range(first, last):
            top, bottom = _rows(points[i, 1], points[after[i], 1], height)
            for row in range(top, bottom):
                counts[row] += 1
        total = 0
        for row in range(low, high):
            counts[row], total = total, total + counts[row]
        crossings = np.empty(total, np.float64)
        for i in range(first, last):
            x0, y0, x1, y1 = points[i, 0], points[i, 1], points[after[i], 0], points[after[i], 1]
            top, bottom = _rows(y0, y1, height)
            for row in range(top, bottom):
                crossings[counts[row]] = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
                counts[row] += 1
        start = 0
        for row in range(low, high):
            end = counts[row]
            line = np.sort(crossings[start:end])
            for k in range(0, end - start - 1, 2):
                left, right = max(0, int(np.ceil(line[k] - 0.5))), min(width, int(np.ceil(line[k + 1] - 0.5)))
                for x in range(left, right):
                    canvas[row, x] = owners[first]
            start, counts[row] = end, 0
        first = last


@kernel
def _rows(y0: float, y1: float, height: int) -> tuple[int, int]:
    """The rows (half-open) whose middles lie between `y0` and `y1`."""
    low, high = min(y0, y1), max(y0, y1)
    return max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
