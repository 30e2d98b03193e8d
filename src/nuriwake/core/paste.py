"""Small masks to the size of the image, straight to run lengths, bit for bit as the published programs enlarge them.

Between four neighbouring cells the interpolated value is never outside theirs. So a column of the image is walked cell by
cell: where both ends are clearly above or clearly below the threshold the whole stretch is decided; only what lies between is
computed, exactly as PyTorch's kernels do on processors with fused multiply-add.
"""

from typing import Literal

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.run_kernels import close_mask, exact, put_span
from nuriwake.core.runs import RunMasks, filled
from nuriwake.core.size import Size

Rule = Literal["aligned", "torchvision"]

_GRID, _RESIZE, _SMALL_RESIZE = 0, 1, 2
_FARTHEST = 1e8


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: Size, threshold: float = 0.5, *, rule: Rule = "aligned"
) -> RunMasks:
    """Masks given inside boxes, at the size of the image.

    Args:
        masks: float32 (N, m, m), values at the centres of the m x m cells of each box.
        boxes: float32 (N, 4), xyxy in pixels of the image; they may reach beyond it. A box turned inside out holds nothing.
        size: (height, width) of the image.
        threshold: pixels of this value or more belong to the mask; above 0.
        rule: "aligned" as Detectron2's `paste_masks_in_image` on the CPU (grid_sample, zeros around); "torchvision" as
            torchvision's of that name: the cell around the mask is zero, the box grows with it and is cut to whole pixels.

    Raises:
        UserError: wrong shapes or dtypes, boxes that are not finite, a threshold that is not positive.
    """
    masks, boxes = np.ascontiguousarray(masks), np.ascontiguousarray(boxes)
    count = len(masks)
    if masks.dtype != np.float32 or masks.ndim != 3 or masks.shape[1] != masks.shape[2]:
        raise UserError(f"Masks in boxes are float32 of the shape (N, m, m), found {masks.dtype} {masks.shape}.")
    if boxes.dtype != np.float32 or boxes.shape != (count, 4):
        raise UserError(f"Boxes of {count} masks are float32 ({count}, 4), found {boxes.dtype} {boxes.shape}.")
    if not np.all(np.abs(boxes) < _FARTHEST):
        raise UserError("Boxes are finite numbers of pixels, found NaN, Inf or more than 1e8.")
    if not threshold > 0:
        raise UserError(f"The mask threshold is positive, found {threshold}: beyond its box a mask is 0.")
    if count == 0:
        return RunMasks.empty(size)
    # Two cells of nothing on every side, columns first: whatever is read beyond the mask is 0.
    cells = np.ascontiguousarray(np.pad(masks, ((0, 0), (2, 2), (2, 2))).transpose(0, 2, 1))
    frames = boxes if rule == "aligned" else _whole_boxes(boxes, masks.shape[2])
    return _pasted(cells, frames, size, threshold, aligned=rule == "aligned")


def _whole_boxes(boxes: np.ndarray, cells: int) -> np.ndarray:
    """torchvision's boxes around masks with one cell more on every side, int64 (N, 4), the last pixel included."""
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5)
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half *= np.float32((cells + 2) / cells)
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.int64)


def _pasted(cells: np.ndarray, frames: np.ndarray, size: Size, threshold: float, *, aligned: bool) -> RunMasks:
    low, high = frames[:, 0].clip(0, size[1]), frames[:, 2].clip(0, size[1])
    guess = int(8 * (high - low + 3).clip(0).sum()) + 2 * len(cells)  # a column rarely has more than four spans

    def write(out: np.ndarray, offsets: np.ndarray) -> int:
        return _paste(cells, frames, size, np.float32(threshold), aligned, out, offsets)

    return filled(write, len(cells), size, guess=guess)


@exact
def _paste(
    cells: np.ndarray,
    frames: np.ndarray,
    size: tuple[int, int],
    threshold: float,
    aligned: bool,
    out: np.ndarray,
    offsets: np.ndarray,
) -> int:
    """All masks; `cells` (N, w, h) with two cells of zeros on every side, `frames` (N, 4)."""
    height, width = size
    state = np.zeros(3, np.int64)
    for n in range(cells.shape[0]):
        state[1], state[2] = state[0], 0
        x0, y0, x1, y1 = frames[n, 0], frames[n, 1], frames[n, 2], frames[n, 3]
        if aligned and x1 > x0 and y1 > y0:
            left, right = max(np.int64(np.floor(x0)) - 1, 0), min(np.int64(np.ceil(x1)) + 1, width)
            top, bottom = max(np.int64(np.floor(y0)) - 1, 0), min(np.int64(np.ceil(y1)) + 1, height)
            if left < right and top < bottom:
                columns = _grid_axis(left, right, np.float32(x0), np.float32(x1), cells.shape[1] - 4)
                rows = _grid_axis(top, bottom, np.float32(y0), np.float32(y1), cells.shape[2] - 4)
                _paste_one(cells[n], columns, rows, (left, top), height, threshold, _GRID, out, state)
        elif not aligned and x1 >= x0 and y1 >= y0:
            left, right, top, bottom = max(x0, 0), min(x1 + 1, width), max(y0, 0), min(y1 + 1, height)
            if left < right and top < bottom:
                wide, high = np.int64(x1 - x0 + 1), np.int64(y1 - y0 + 1)
                small = wide + high <= 128  # PyTorch has another kernel for small results
                across, down = (
                    cells.shape[1] - 2,
                    cells.shape[2] - 2,
                )  # torchvision's mask has one zero cell on every side
                columns = _resize_axis(np.int64(left - x0), np.int64(right - x0), wide, across, small)
                rows = _resize_axis(np.int64(top - y0), np.int64(bottom - y0), high, down, small)
                mode = _SMALL_RESIZE if small else _RESIZE
                _paste_one(
                    cells[n], columns, rows, (np.int64(left), np.int64(top)), height, threshold, mode, out, state
                )
        state[0] = close_mask(out, state[0], state[1], state[2], height * width)
        offsets[n + 1] = state[0]
    return state[0]


@exact
def _grid_axis(begin: int, end: int, low: float, high: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For the pixels begin..end of an axis the first of two neighbouring cells, counted with the border, and their weights."""
    index, weights = np.empty(end - begin, np.int64), np.empty((end - begin, 2), np.float32)
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    for i in range(end - begin):
        place = (np.float32(begin + i) + half - low) / (high - low) * two - one
        place = _fused(place + one, np.float32(cells) / two, -half)
        below = np.floor(place)
        index[i] = np.int64(min(max(below, np.float32(-2)), np.float32(cells))) + 2
        weights[i, 1] = place - below
        weights[i, 0] = one - weights[i, 1]
    return index, weights


@exact
def _resize_axis(begin: int, end: int, after: int, before: int, small: bool) -> tuple[np.ndarray, np.ndarray]:
    """As `_grid_axis` for the pixels begin..end of `after` that are made of `before` cells by interpolation."""
    index, weights = np.empty(end - begin, np.int64), np.empty((end - begin, 2), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(before) / np.float32(after)
    for i in range(end - begin):
        if after == before:
            index[i], weights[i, 0], weights[i, 1] = begin + i + 1, one, np.float32(0)
            continue
        centre = np.float32(begin + i) + half
        place = _fused(centre, scale, -half) if small else centre * scale - half
        place = max(place, np.float32(0))
        below = min(np.int64(place), before - 1)
        index[i] = below + 1
        weights[i, 1] = min(max(place - np.float32(below), np.float32(0)), one)
        weights[i, 0] = one - weights[i, 1]
    return index, weights


@exact
def _fused(a: float, b: float, c: float) -> np.float32:
    """a * b + c, rounded once: products of two float32 are exact in float64."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


@exact
def _value(cells: np.ndarray, column: int, row: int, across: np.ndarray, down: np.ndarray, mode: int) -> np.float32:
    """The interpolated value between columns `column`, + 1 and rows `row`, + 1 with the roundings of PyTorch's kernel `mode`."""
    a, b, c, d = cells[column, row], cells[column + 1, row], cells[column, row + 1], cells[column + 1, row + 1]
    if mode == _RESIZE:
        upper, lower = _fused(a, across[0], b * across[1]), _fused(c, across[0], d * across[1])
        return _fused(upper, down[0], lower * down[1])
    p, q, r, s = down[0] * across[0], down[0] * across[1], down[1] * across[0], down[1] * across[1]
    top = _fused(b, q, a * p) if mode == _GRID else _fused(a, p, b * q)
    return _fused(d, s, _fused(c, r, top))


@exact
def _paste_one(
    cells: np.ndarray,
    columns: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray],
    corner: tuple[int, int],
    height: int,
    threshold: float,
    mode: int,
    out: np.ndarray,
    state: np.ndarray,
) -> None:
    """Appends the spans of one mask, `cells` (w, h). `state`: used, first, last."""
    margin = np.float32(4e-6) * np.max(np.abs(cells))
    sure, hopeless = threshold + margin, threshold - margin
    profile, begins = np.empty(cells.shape[1], np.float32), _stretches(rows[0])
    for i in range(columns[0].size):
        column, across = columns[0][i], columns[1][i]
        for k in range(profile.size):
            profile[k] = cells[column, k] * across[0] + cells[column + 1, k] * across[1]
        base = (corner[0] + i) * height + corner[1]
        for g in range(begins.size - 1):
            row = rows[0][begins[g]]
            if profile[row] < hopeless and profile[row + 1] < hopeless:
                continue
            if profile[row] >= sure and profile[row + 1] >= sure:
                state[0] = put_span(out, state[0], state[1], state[2], base + begins[g], base + begins[g + 1])
                state[2] = base + begins[g + 1]
                continue
            for y in range(begins[g], begins[g + 1]):
                if _value(cells, column, row, across, rows[1][y], mode) >= threshold:
                    state[0] = put_span(out, state[0], state[1], state[2], base + y, base + y + 1)
                    state[2] = base + y + 1


@exact
def _stretches(index: np.ndarray) -> np.ndarray:
    """Where the value of `index` (ascending) changes, from 0 to its length, int64."""
    out, used = np.empty(index.size + 1, np.int64), 0
    for i in range(index.size):
        if i == 0 or index[i] != index[i - 1]:
            out[used] = i
            used += 1
    out[used] = index.size
    return out[: used + 1]
