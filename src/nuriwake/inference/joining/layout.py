"""Where the tiles of an image lie, what each of them shows, and for which pixels each is asked first."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nuriwake.core.targets import Size
from nuriwake.inference.tiling import Grid

TOUCH = 4
"""Pixels from an inner border of a tile within which an object counts as cut by it: masks come from grids of several pixels,
so that a cut object may end a little before the border."""


@dataclass(frozen=True)
class Layout:
    """The tiles of one image, T of them.

    Attributes:
        size: (height, width) of the image.
        windows: int64 (T, 4), xyxy half-open: what each tile shows of the image.
        cells: int64 (T, 4), xyxy half-open: the pixels that lie deeper in this tile than in any other along both axes. They
            cover the image without overlap.
        room: int64 (T, 4): how far an object may reach (xyxy) without being cut by a border that is not the image's.
    """

    size: Size
    windows: np.ndarray
    cells: np.ndarray
    room: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)

    def shape(self, tile: int) -> Size:
        """(height, width) of what `tile` shows."""
        left, top, right, bottom = self.windows[tile].tolist()
        return bottom - top, right - left

    def whole(self, box: np.ndarray) -> np.ndarray:
        """bool (T,): the tiles that show all of `box` (4,), and that it does not end at their borders."""
        return np.asarray((box[:2] >= self.room[:, :2]).all(1) & (box[2:] <= self.room[:, 2:]).all(1))

    def depth(self, tile: int, box: np.ndarray) -> float:
        """How far `box` (4,) keeps from the nearest inner border of `tile`; borders of the image do not count."""
        inner = self.windows[tile] != np.array([0, 0, *self.size[::-1]])
        distance = np.concatenate([box[:2] - self.windows[tile, :2], self.windows[tile, 2:] - box[2:]])
        return float(np.where(inner, distance, np.inf).min())

    def owner(self, box: np.ndarray) -> int:
        """The tile in whose cell the centre of `box` (4,) lies."""
        x, y = (box[:2] + box[2:]) / 2
        left, top, right, bottom = self.cells.T
        return int(np.flatnonzero((left <= x) & (x < right) & (top <= y) & (y < bottom))[0])

    def strips(self) -> list[tuple[int, int, np.ndarray]]:
        """(tile, later tile, int64 (4,) what both show) for all that share pixels."""
        found: list[tuple[int, int, np.ndarray]] = []
        for one, window in enumerate(self.windows):
            others = self.windows[one + 1 :]
            shared = np.concatenate(
                [np.maximum(window[:2], others[:, :2]), np.minimum(window[2:], others[:, 2:])], axis=1
            )
            there = (shared[:, 2] > shared[:, 0]) & (shared[:, 3] > shared[:, 1])
            found += [(one, one + 1 + int(other), shared[other]) for other in np.flatnonzero(there)]
        return found

    def beyond(self, tile: int, other: int) -> np.ndarray:
        """bool (4,): the sides (xyxy) of `tile` beyond which `other` shows more."""
        one, more = self.windows[tile], self.windows[other]
        return np.concatenate([more[:2] < one[:2], more[2:] > one[2:]])


def lay_out(grid: Grid) -> Layout:
    """The layout of `grid`, whose tiles have no margin."""
    rows, columns = (_axis(starts, grid.answer[i], grid.size[i]) for i, starts in ((0, grid.tops), (1, grid.lefts)))
    windows, cells = (
        np.array([(x[0], y[0], x[1], y[1]) for y in rows[kind] for x in columns[kind]], np.int64) for kind in (0, 1)
    )
    ends = np.array([0, 0, grid.size[1], grid.size[0]])
    inside = np.where(windows == ends, 0, TOUCH) * np.array([1, 1, -1, -1])
    return Layout(grid.size, windows, cells, windows + inside)


Spans = list[tuple[int, int]]


def _axis(starts: tuple[int, ...], tile: int, length: int) -> tuple[Spans, Spans]:
    """Per tile the pixels it shows, and those of its cell: neighbours meet in the middle of what they share."""
    shown = [(start, min(start + tile, length)) for start in starts]
    middles = [(after[0] + before[1]) // 2 for before, after in pairwise(shown)]
    return shown, list(zip([0, *middles], [*middles, length], strict=True))
