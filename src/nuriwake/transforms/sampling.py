"""Reading arrays at warped points: OpenCV for the bilinear images, exact numba kernels for coordinates and label maps."""

from dataclasses import dataclass
from math import floor
from typing import Literal

import cv2
import numpy as np

from nuriwake.core.pixels import kernel
from nuriwake.core.targets import Size

Border = Literal["reflect", "edge", "constant"]
"""What an image shows beyond its border: its mirror image, its last pixel, or one value."""

LONGEST = 32_766
"""The longest side of an image that OpenCV warps: it counts pixels in 16 bits."""

_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "edge": cv2.BORDER_REPLICATE, "constant": cv2.BORDER_CONSTANT}


@dataclass(frozen=True)
class Beyond:
    """What lies beyond an image; `fill` is the value for the constant border."""

    border: Border = "reflect"
    fill: float = 0.0

    @property
    def cv2(self) -> tuple[int, tuple[float, float, float, float]]:
        """OpenCV's border type and border value."""
        return _BORDERS[self.border], (self.fill, self.fill, self.fill, self.fill)


def axis_aligned(matrix: np.ndarray) -> bool:
    """`matrix` (3, 3) only moves, stretches, flips and turns by multiples of 90 degrees."""
    return not (matrix[0, 1] or matrix[1, 0]) or not (matrix[0, 0] or matrix[1, 1])


def reduction(matrix: np.ndarray) -> int:
    """By what whole factor the source may be averaged before a warp by `matrix` without losing detail; 1 for none."""
    return max(1, int(np.linalg.svd(matrix[:2, :2], compute_uv=False)[-1] + 1e-6))


def sample_window(image: np.ndarray, matrix: np.ndarray, size: Size, beyond: Beyond) -> np.ndarray:
    """`image` (H, W, C) through an axis-aligned `matrix` -> (h, w, C): a slice, a resize, a turn.

    Falls back to the general warp when the window does not start and end between two pixels of the source.
    """
    corners = matrix @ np.array([[0.0, size[1]], [0.0, size[0]], [1.0, 1.0]])
    whole = np.rint(corners[:2])
    if np.abs(corners[:2] - whole).max() > 1e-6 or (whole[:, 0] == whole[:, 1]).any():
        return sample_affine(image, matrix, size, beyond)
    (left, right), (top, bottom) = whole.astype(int).tolist()
    window = _padded(image, min(top, bottom), min(left, right), (abs(bottom - top), abs(right - left)), beyond)
    turned = matrix[0, 0] == 0
    window = resized(window, (size[1], size[0]) if turned else size)
    # A turn swaps the axes, and what ran backwards along a source axis runs backwards along the other output axis.
    window = window.transpose(1, 0, 2) if turned else window
    flip_x, flip_y = (bottom < top, right < left) if turned else (right < left, bottom < top)
    return _flipped(window, flip_x=flip_x, flip_y=flip_y)


def sample_affine(image: np.ndarray, matrix: np.ndarray, size: Size, beyond: Beyond) -> np.ndarray:
    """`image` (H, W, C) through any affine `matrix` (output point -> source point) -> (h, w, C), bilinear."""
    corners = matrix @ np.array([[0, size[1], 0, size[1]], [0, 0, size[0], size[0]], [1, 1, 1, 1.0]])
    part, left, top = _part(image, corners[0], corners[1], beyond)
    part, scale_x, scale_y = _reduced(part, reduction(matrix))
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    to_part = np.diag([scale_x, scale_y, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    centred = np.linalg.inv(centre) @ to_part @ matrix @ centre
    mode, value = beyond.cv2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    chunks = [
        cv2.warpAffine(chunk, centred[:2], (size[1], size[0]), flags=flags, borderMode=mode, borderValue=value)
        for chunk in _chunks(part)
    ]
    return _joined(chunks)


def sample_grid(image: np.ndarray, x: np.ndarray, y: np.ndarray, factor: int, beyond: Beyond) -> np.ndarray:
    """`image` (H, W, C) at the points `x`, `y` (h, w), float32 -> (h, w, C), bilinear; averaged by `factor` before."""
    part, left, top = _part(image, x, y, beyond)
    part, scale_x, scale_y = _reduced(part, factor)
    map_x = (x - np.float32(left)) * np.float32(scale_x) - np.float32(0.5)
    map_y = (y - np.float32(top)) * np.float32(scale_y) - np.float32(0.5)
    mode, value = beyond.cv2
    chunks = [
        cv2.remap(chunk, map_x, map_y, cv2.INTER_LINEAR, borderMode=mode, borderValue=value) for chunk in _chunks(part)
    ]
    return _joined(chunks)


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """`image` (H, W, C) at `size`: bilinear, or averaged over pixels when it becomes two or more times smaller."""
    if image.shape[:2] == size:
        return image
    shrinks = min(image.shape[0] / size[0], image.shape[1] / size[1]) >= 2
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return _joined([cv2.resize(chunk, (size[1], size[0]), interpolation=mode) for chunk in _chunks(image)])


def _part(image: np.ndarray, x: np.ndarray, y: np.ndarray, beyond: Beyond) -> tuple[np.ndarray, int, int]:
    """The part of `image` that the points touch, with its left and top: large images cost only what is looked at."""
    height, width = image.shape[:2]
    left, right, top, bottom = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    if beyond.border == "reflect" and (left < 0 or top < 0 or right > width or bottom > height):
        if max(height, width) <= LONGEST:
            return image, 0, 0  # what is mirrored may lie anywhere
        rows, columns = _reached(top, bottom, height), _reached(left, right, width)
        return image[_mirrored(rows, height)[:, None], _mirrored(columns, width)], columns.start, rows.start
    first_x, first_y = (min(max(int(value) - 2, 0), side - 1) for value, side in ((left, width), (top, height)))
    last_x, last_y = (max(int(value) + 3, 0) for value in (right, bottom))
    return image[first_y : max(last_y, first_y + 1), first_x : max(last_x, first_x + 1)], first_x, first_y


def _reached(first: float, last: float, side: int) -> range:
    """The places on an axis of `side` pixels that points from `first` to `last` touch; those beyond it show mirrored pixels."""
    reached = range(floor(first) - 2, floor(last) + 3)
    return reached if len(reached) < side else range(side)  # OpenCV mirrors the whole axis as well


def _mirrored(places: range, side: int) -> np.ndarray:
    """The pixel that each of `places` shows on an axis of `side` pixels, as OpenCV's BORDER_REFLECT_101 has it."""
    period = max(2 * (side - 1), 1)
    folded = np.arange(places.start, places.stop) % period
    return np.minimum(folded, period - folded) if side > 1 else np.zeros_like(folded)


def _reduced(image: np.ndarray, factor: int) -> tuple[np.ndarray, float, float]:
    """`image` averaged by `factor`, and by more along a side that would still be too long for OpenCV; and its scales."""
    height, width = image.shape[:2]
    if factor == 1 and max(height, width) <= LONGEST:
        return image, 1.0, 1.0
    size = (min(max(1, round(height / factor)), LONGEST), min(max(1, round(width / factor)), LONGEST))
    return resized(image, size), size[1] / width, size[0] / height


def _padded(image: np.ndarray, top: int, left: int, size: Size, beyond: Beyond) -> np.ndarray:
    height, width = image.shape[:2]
    bottom, right = top + size[0], left + size[1]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return image[top:bottom, left:right]
    # Only the part inside is padded by OpenCV; a window that misses the image wholly keeps one row or column of it.
    first_y, first_x = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    last_y, last_x = max(min(bottom, height), first_y + 1), max(min(right, width), first_x + 1)
    if beyond.border == "reflect":
        # As much more of it as is mirrored: of a huge image, padding all of it would be a copy for every window at its border.
        (first_y, last_y), (first_x, last_x) = _mirrored_from(top, bottom, height), _mirrored_from(left, right, width)
    inside = image[first_y:last_y, first_x:last_x]
    margins = [max(first_y - top, 0), max(bottom - last_y, 0), max(first_x - left, 0), max(right - last_x, 0)]
    mode, value = beyond.cv2
    out = _joined([cv2.copyMakeBorder(chunk, *margins, borderType=mode, value=value) for chunk in _chunks(inside)])
    y, x = top - (first_y - margins[0]), left - (first_x - margins[2])
    return out[y : y + size[0], x : x + size[1]]


def _mirrored_from(first: int, last: int, side: int) -> tuple[int, int]:
    """The pixels that places `first` to `last` on an axis of `side` pixels show, with those beyond it mirrored; at an end that
    is passed all up to it."""
    lowest = 0 if first < 0 else max(min(first, 2 * side - 1 - last), 0)
    highest = side if last > side else min(max(last, 1 - first), side)
    return lowest, highest


def _flipped(image: np.ndarray, *, flip_x: bool, flip_y: bool) -> np.ndarray:
    if flip_x and not flip_y and image.shape[2] <= 4:
        flipped = cv2.flip(np.ascontiguousarray(image), 1)
        return flipped if flipped.ndim == 3 else flipped[..., None]
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _chunks(image: np.ndarray) -> list[np.ndarray]:
    # OpenCV warps, averages and fills at most 4 channels at once.
    channels = image.shape[2]
    if channels <= 4:
        return [image]
    return [np.ascontiguousarray(image[..., start : start + 4]) for start in range(0, channels, 4)]


def _joined(chunks: list[np.ndarray]) -> np.ndarray:
    layers = [chunk if chunk.ndim == 3 else chunk[..., None] for chunk in chunks]
    return layers[0] if len(layers) == 1 else np.concatenate(layers, axis=2)


@kernel
def affine_grid(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Writes to `x`, `y` (h, w), float32, where `matrix` leads the centre of each pixel."""
    height, width = x.shape
    for row in range(height):
        across, down = matrix[0, 1] * (row + 0.5) + matrix[0, 2], matrix[1, 1] * (row + 0.5) + matrix[1, 2]
        for column in range(width):
            x[row, column] = matrix[0, 0] * (column + 0.5) + across
            y[row, column] = matrix[1, 0] * (column + 0.5) + down


@kernel
def displace(
    x: np.ndarray, y: np.ndarray, nodes: np.ndarray, canvas_height: int, canvas_width: int, matrix: np.ndarray
) -> None:
    """Adds to the points `x`, `y` (h, w) the displacement of `nodes` (rows, columns, 2), then applies `matrix`."""
    rows, columns = nodes.shape[0], nodes.shape[1]
    scale_x, scale_y = np.float32((columns - 1) / canvas_width), np.float32((rows - 1) / canvas_height)
    limit_x, limit_y = np.float32(columns - 1), np.float32(rows - 1)
    zero = np.float32(0)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            here_x, here_y = x[row, column], y[row, column]
            u = min(max(here_x * scale_x, zero), limit_x)
            v = min(max(here_y * scale_y, zero), limit_y)
            left, top = min(int(u), columns - 2), min(int(v), rows - 2)
            a, b = u - np.float32(left), v - np.float32(top)
            upper_x = nodes[top, left, 0] + a * (nodes[top, left + 1, 0] - nodes[top, left, 0])
            upper_y = nodes[top, left, 1] + a * (nodes[top, left + 1, 1] - nodes[top, left, 1])
            lower_x = nodes[top + 1, left, 0] + a * (nodes[top + 1, left + 1, 0] - nodes[top + 1, left, 0])
            lower_y = nodes[top + 1, left, 1] + a * (nodes[top + 1, left + 1, 1] - nodes[top + 1, left, 1])
            moved_x = here_x + upper_x + b * (lower_x - upper_x)
            moved_y = here_y + upper_y + b * (lower_y - upper_y)
            x[row, column] = matrix[0, 0] * moved_x + matrix[0, 1] * moved_y + matrix[0, 2]
            y[row, column] = matrix[1, 0] * moved_x + matrix[1, 1] * moved_y + matrix[1, 2]


def nearest_axes(labels: np.ndarray, matrix: np.ndarray, fill: int, out: np.ndarray) -> None:
    """`out` (h, w, K) from `labels` (H, W, K) through an axis-aligned `matrix`; `fill` beyond the source."""
    if matrix[0, 0] == 0:  # turned: the source's rows run along the output's columns
        labels, matrix = labels.transpose(1, 0, 2), matrix[[1, 0, 2]]
    rows, columns = (
        np.floor(matrix[axis, axis] * (np.arange(side) + 0.5) + matrix[axis, 2]).astype(np.int64)
        for axis, side in ((1, out.shape[0]), (0, out.shape[1]))
    )
    if labels.shape[2] == 1:
        _pick_lines(labels[..., 0], rows, columns, fill, out[..., 0])
    else:
        _pick_pixels(labels, rows, columns, fill, out)


@kernel
def _pick_lines(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, fill: int, out: np.ndarray) -> None:
    first, last = 0, columns.size
    while first < last and not 0 <= columns[first] < labels.shape[1]:
        first += 1
    while last > first and not 0 <= columns[last - 1] < labels.shape[1]:
        last -= 1
    for y in range(rows.size):
        line = rows[y]
        if not 0 <= line < labels.shape[0]:
            out[y] = fill
            continue
        out[y, :first] = fill
        out[y, last:] = fill
        # Enlarged, a row often shows the line of the row before it.
        if y > 0 and rows[y - 1] == line:
            out[y, first:last] = out[y - 1, first:last]
            continue
        for x in range(first, last):
            out[y, x] = labels[line, columns[x]]


@kernel
def _pick_pixels(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, fill: int, out: np.ndarray) -> None:
    height, width, layers = labels.shape
    for y in range(rows.size):
        for x in range(columns.size):
            inside = 0 <= rows[y] < height and 0 <= columns[x] < width
            for layer in range(layers):
                out[y, x, layer] = labels[rows[y], columns[x], layer] if inside else fill


@kernel
def nearest_grid(labels: np.ndarray, x: np.ndarray, y: np.ndarray, fill: int, out: np.ndarray) -> None:
    """`out` (h, w, K): the pixel of `labels` (H, W, K) that contains each point; `fill` beyond the source."""
    height, width, layers = labels.shape
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            across, down = int(np.floor(x[row, column])), int(np.floor(y[row, column]))
            inside = 0 <= across < width and 0 <= down < height
            for layer in range(layers):
                out[row, column, layer] = labels[down, across, layer] if inside else fill
