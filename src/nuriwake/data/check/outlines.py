"""Polygons looked at as lines: do they cross themselves, how large are they, how far do they leave the image."""

import numpy as np

from nuriwake.core.size import Size

_MOST_POINTS = 1000


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of the closed outline `points` (P, 2) that are no neighbours cross in their insides.

    Edges that touch, or lie on each other, do not count: tools write those where a hole is bridged. Outlines of more than
    1,000 points are looked at with every n-th one.
    """
    points = points[:: -(-len(points) // _MOST_POINTS)]
    keep = np.any(points != np.roll(points, 1, axis=0), axis=1)
    points = points[keep]
    count = len(points)
    if count < 4:
        return False
    begin, end = points, np.roll(points, -1, axis=0)
    step = end - begin
    # sides[i, j]: on which side of edge i point j lies.
    delta = points[None] - begin[:, None]
    sides = np.sign(step[:, None, 0] * delta[..., 1] - step[:, None, 1] * delta[..., 0])
    splits = sides * np.roll(sides, -1, axis=1) < 0
    crossing = splits & splits.T
    index = np.arange(count)
    near = (index[None] - index[:, None]) % count
    return bool((crossing & (near > 1) & (near < count - 1)).any())


def outline_area(points: np.ndarray) -> float:
    """The area within `points` (P, 2), by Gauss's formula, in square pixels."""
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def beyond(points: np.ndarray, size: Size) -> float:
    """How many pixels `points` (P, 2) xy reach beyond the image of `size`; 0 or less when they do not."""
    height, width = size
    return float(max(-points.min(), (points[:, 0] - width).max(), (points[:, 1] - height).max()))
