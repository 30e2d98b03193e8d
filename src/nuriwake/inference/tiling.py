"""Overlapping tiles with smooth blending, in memory bounded by one row of tiles.

Tiles are placed in pixels of the *answer*. A model with a margin (unpadded convolutions, Ronneberger 2015, fig. 2) is
given the surrounding pixels, padded beyond the border, so that its answers tile the image all the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.targets import Size


@dataclass(frozen=True)
class Grid:
    """Where the tiles of one image lie, in row-major order.

    Args:
        size: (height, width) of the image.
        input: (height, width) of what the model is given for a tile.
        margin: pixels of the input that the answer lacks on every side.
        tops: the rows at which answers begin, ascending; `lefts` the columns.
    """

    size: Size
    input: Size
    margin: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def answer(self) -> Size:
        """(height, width) of a tile's answer."""
        return self.input[0] - 2 * self.margin, self.input[1] - 2 * self.margin

    @property
    def corners(self) -> Iterator[tuple[int, int]]:
        """(top, left) of every answer, row by row."""
        return ((top, left) for top in self.tops for left in self.lefts)


def plan_grid(
    size: Size,
    *,
    tile: int | None,
    overlap: float,
    margin: int,
    fit: Callable[[int, int], tuple[int, int]],
    whole: Callable[[int, int], tuple[int, int]] | None = None,
    align: int = 1,
) -> Grid:
    """The grid for an image of `size`: one tile when both sides are at most `tile` (or it is None).

    Args:
        overlap: the least share of a tile that neighbours have in common, 0..0.5.
        align: tiles begin at multiples of it, where the pooling of the network falls on the same pixels as in the whole
            image.
        fit: (height, width) -> the smallest input size of the model that is no smaller.
        whole: the same for an image that is one tile; None for `fit`.
    """
    if tile is None or max(size) <= tile:
        wanted, fit = size, whole or fit
    else:
        wanted = (min(size[0], tile), min(size[1], tile))
    given = fit(wanted[0] + 2 * margin, wanted[1] + 2 * margin)
    tops, lefts = (_starts(size[i], given[i] - 2 * margin, overlap, align) for i in (0, 1))
    return Grid(size, (given[0], given[1]), margin, tops, lefts)


def plan_tiles(
    size: Size, *, tile: int, overlap: float, fit: Callable[[int, int], tuple[int, int]] | None, align: int
) -> Grid:
    """The grid of tiles that are each seen like an image of its own, cut from an image of `size` as the user has it.

    Args:
        overlap, align: as for `plan_grid`; tiles that cannot begin at multiples of `align` and overlap as much begin anywhere.
        fit: the model's, where it sees a tile at the size it has; None where a tile is resized for it.
    """
    aligned = fit is not None and align <= tile * overlap
    return plan_grid(size, tile=tile, overlap=overlap, margin=0, fit=fit or _any_size, align=align if aligned else 1)


def _any_size(height: int, width: int) -> tuple[int, int]:
    return height, width


def _starts(length: int, tile: int, overlap: float, align: int) -> tuple[int, ...]:
    """Evenly spaced beginnings of tiles that cover `length`; a tile longer than that begins at 0."""
    if tile >= length:
        return (0,)
    align = align if align <= tile else 1
    step = max((tile - int(tile * overlap)) // align, 1)
    span = -(-(length - tile) // align)
    count = -(-span // step)
    return tuple(round(i * span / count) * align for i in range(count + 1))


def axis_weights(starts: tuple[int, ...], tile: int, length: int) -> list[np.ndarray]:
    """For each tile its weights (tile,), float32, along one axis: raised-cosine ramps over the overlaps.

    At every pixel of the axis the weights of all tiles sum to 1; pixels beyond `length` weigh nothing.
    """
    total = np.zeros(max(length, starts[-1] + tile), np.float64)
    weights: list[np.ndarray] = []
    for index, start in enumerate(starts):
        weight = np.ones(tile)
        if index > 0:
            weight *= _ramp(starts[index - 1] + tile - start, tile)
        if index + 1 < len(starts):
            weight *= _ramp(start + tile - starts[index + 1], tile)[::-1]
        total[start : start + tile] += weight
        weights.append(weight)
    total[length:] = np.inf
    return [
        (weight / total[start : start + tile]).astype(np.float32) for start, weight in zip(starts, weights, strict=True)
    ]


def _ramp(overlap: int, tile: int) -> np.ndarray:
    """(tile,), rising from near 0 to 1 over `overlap` pixels as sin^2, so that it and its mirror sum to 1."""
    position = (np.arange(tile) + 0.5) / max(overlap, 1)
    return np.sin(np.clip(position, 0, 1) * np.pi / 2) ** 2


def blend(answers: Iterable[Tensor], grid: Grid, *, repeats: int) -> Iterator[Tensor]:
    """Average overlapping answers into the whole image, from top to bottom.

    Args:
        answers: float32 (C, *grid.answer), in the order of `grid.corners`, `repeats` in a row for every tile.
        repeats: how many answers each tile has (mirrored copies); they weigh the same.

    Yields:
        Bands (C, rows, W) that follow each other and together have `grid.size`. One row of tiles is held, and a band is a
        view of it: what it shows is gone when the next is asked for.
    """
    height, width = grid.size
    answer = grid.answer
    stream = iter(answers)
    row_weights = axis_weights(grid.tops, answer[0], height)
    column_weights = axis_weights(grid.lefts, answer[1], width)
    if len(grid.tops) == len(grid.lefts) == repeats == 1:
        yield next(stream)[:, :height, :width]
        return
    band: Tensor | None = None
    ends = (*grid.tops[1:], height)
    for top, end, row_weight in zip(grid.tops, ends, row_weights, strict=True):
        for left, column_weight in zip(grid.lefts, column_weights, strict=True):
            weight = torch.from_numpy(np.outer(row_weight, column_weight) / repeats)
            for _ in range(repeats):
                found = next(stream)
                if band is None:
                    band = found.new_zeros(found.shape[0], answer[0], max(width, answer[1]))
                place = band[:, :, left : left + answer[1]]
                place.addcmul_(found[:, :, : place.shape[2]], weight[:, : place.shape[2]].to(found.device))
        assert band is not None
        yield band[:, : end - top, :width]
        kept = band[:, end - top :]
        # Tiles overlap by less than half as a rule, so that the rows moved up do not overwrite themselves.
        band[:, : kept.shape[1]] = kept if kept.shape[1] <= end - top else kept.clone()
        band[:, kept.shape[1] :] = 0
