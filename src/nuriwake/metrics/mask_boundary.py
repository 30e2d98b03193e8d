"""Boundary IoU of run-length masks (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021).

The boundary of a mask is what an erosion by a square of 2d + 1 pixels takes away, the outside of the image being background.
Each mask is worked on inside its box only, and only where its mask IoU is high enough to matter.
"""

from typing import Any

import numpy as np
from numba import njit

from nuriwake.metrics.overlap import Pairs, Runs, area, intersection, measure


@njit(cache=True, nogil=True)
def boundary_pairs(
    pairs: Pairs,
    masks: Runs,
    chosen: np.ndarray,
    truth_masks: Runs,
    crowd: np.ndarray,
    height: int,
    distance: int,
    lowest: float,
) -> Pairs:
    """`pairs` of `mask_pairs` with the smaller of mask IoU and boundary IoU, as the authors' tool counts boundary AP.

    With a crowd region the boundary IoU too is a share of the detection's. Arguments as of `mask_pairs`;
    distance: the width of a boundary, in pixels.
    """
    first, truth, iou, areas = pairs
    wanted = np.zeros(crowd.size, np.bool_)
    for g in truth:
        wanted[g] = True
    edges = [np.empty(0, np.uint32) for _ in range(crowd.size)]
    for g in range(crowd.size):
        if wanted[g]:
            span = truth_masks.offsets[g], truth_masks.offsets[g + 1]
            edges[g] = inner_boundary(truth_masks.counts, span[0], span[1], height, distance)
    kept, new_first = 0, np.zeros_like(first)
    for d in range(areas.size):
        if first[d + 1] > first[d]:
            span = masks.offsets[chosen[d]], masks.offsets[chosen[d] + 1]
            edge = inner_boundary(masks.counts, span[0], span[1], height, distance)
            size = area(edge, 0, edge.size)
            for pair in range(first[d], first[d + 1]):
                g = truth[pair]
                both = intersection(edge, 0, edge.size, edges[g], 0, edges[g].size)
                union = size if crowd[g] else size + area(edges[g], 0, edges[g].size) - both
                value = min(iou[pair], both / union if both else 0.0)
                if value >= lowest:
                    truth[kept], iou[kept] = g, value
                    kept += 1
        new_first[d + 1] = kept
    return Pairs(new_first, truth[:kept], iou[:kept], areas)


@njit(cache=True, nogil=True)
def inner_boundary(counts: np.ndarray, start: Any, stop: Any, height: int, distance: int) -> np.ndarray:
    """The boundary of one mask as runs of its own.

    Args:
        counts: uint32 (R,), column-major runs, background first; the mask is `counts[start:stop]`.
        height: of the image.
        distance: d, at least 1.
    """
    box = np.empty(5, np.int64)
    measure(counts, start, stop, height, box, 0)
    left, top, right, bottom = box[1], box[2], box[3], box[4]
    if box[0] == 0:
        return np.empty(0, np.uint32)
    rows, columns = bottom - top, right - left
    pixels = _decoded(counts, start, stop, height, left, top, rows, columns)
    _erase_inside(pixels, rows, columns, distance)
    return _runs(pixels, height, left, top, rows, columns)


@njit(cache=True, nogil=True)
def _decoded(
    counts: np.ndarray, start: int, stop: int, height: int, left: int, top: int, rows: int, columns: int
) -> np.ndarray:
    """uint8 (columns * rows,), column-major: the window of the mask."""
    pixels, position = np.zeros(columns * rows, np.uint8), np.int64(0)
    for j in range(start, stop - 1, 2):
        position += np.int64(counts[j])
        end = position + np.int64(counts[j + 1])
        while position < end:
            column = position // height
            upto = min(end, (column + 1) * height)
            base = (column - left) * rows - column * height - top
            pixels[base + position : base + upto] = 1
            position = upto
    return pixels


@njit(cache=True, nogil=True)
def _erase_inside(pixels: np.ndarray, rows: int, columns: int, distance: int) -> None:
    """Set to 0 every pixel whose square of 2 * distance + 1 pixels is all 1; beyond the window is 0."""
    width = 2 * distance + 1
    # How many columns in a row, up to here, have the vertical bar around this row in the mask.
    streak = np.zeros(rows, np.int64)
    for column in range(columns):
        length = 0
        for row in range(rows + distance):
            length = length + 1 if row < rows and pixels[column * rows + row] else 0
            middle = row - distance
            if middle < 0:
                continue
            streak[middle] = streak[middle] + 1 if length >= width else 0
            if streak[middle] >= width:
                # That column has been read: erasing there disturbs nothing.
                pixels[(column - distance) * rows + middle] = 0


@njit(cache=True, nogil=True)
def _runs(pixels: np.ndarray, height: int, left: int, top: int, rows: int, columns: int) -> np.ndarray:
    """Runs of the image from the window `pixels`, background first; the last background is left out."""
    count, before = 0, np.uint8(0)
    for column in range(columns):
        before = np.uint8(0)
        for value in pixels[column * rows : (column + 1) * rows]:
            count += value > before
            before = value
    out, run, end = np.empty(2 * count, np.uint32), 0, np.int64(0)
    for column in range(columns):
        row = 0
        base = (left + column) * height + top
        while row < rows:
            if not pixels[column * rows + row]:
                row += 1
                continue
            begin = row
            while row < rows and pixels[column * rows + row]:
                row += 1
            out[run], out[run + 1] = base + begin - end, row - begin
            end = base + row
            run += 2
    return out
