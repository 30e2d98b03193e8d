"""The numba kernels on run lengths that `RunMasks` is made of.

Everywhere: `counts` (R,) uint32 are the run lengths of N masks one after the other, background first, in column-major order;
those of mask n are `counts[offsets[n] : offsets[n + 1]]`, `offsets` (N + 1,) int64. A position is x * height + y. A span is
a half-open range of positions that belong to a mask. Runs of length zero may stand anywhere.

Kernels that write runs get an `out` that may be too small: they return how many they need and fill what fits.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled without the interpreter lock and without any liberty in rounding, cached on disk where possible."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package nor the user's cache folder is writable: compile in every process
        return numba.njit(nogil=True)(function)


@exact
def put_span(out: np.ndarray, used: int, first: int, last: int, start: int, stop: int) -> int:
    """Appends the span to the runs of a mask that begin at `out[first]` and end at position `last`; returns the new `used`."""
    if start == last and used > first:
        if used <= out.size:
            out[used - 1] += np.uint32(stop - start)
        return used
    if used + 2 <= out.size:
        out[used] = start - last
        out[used + 1] = stop - start
    return used + 2


@exact
def close_mask(out: np.ndarray, used: int, first: int, last: int, total: int) -> int:
    """Ends a mask of `total` pixels whose spans end at `last`: the background that is left; returns the new `used`."""
    if last == total and used > first:
        return used
    if used < out.size:
        out[used] = total - last
    return used + 1


NO_FAULT, WRONG_OFFSETS = -1, -2

_ONE, _TWO = np.uint64(1), np.uint64(2)


@exact
def first_fault(counts: np.ndarray, offsets: np.ndarray, pixels: int, areas: np.ndarray) -> int:
    """The first mask whose runs do not sum to `pixels`, `WRONG_OFFSETS` where the offsets do not divide the runs, or `NO_FAULT`.

    Writes the pixels of each mask to `areas` (N,) int64: every run is read anyway.
    """
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != counts.size:
        return WRONG_OFFSETS
    for n in range(offsets.size - 1):
        if offsets[n + 1] < offsets[n]:
            return WRONG_OFFSETS
    for n in range(offsets.size - 1):
        outside, inside = np.int64(0), np.int64(0)
        first, runs = np.uint64(offsets[n]), np.uint64(offsets[n + 1] - offsets[n])
        # Two at a time, which become vector instructions; an odd number of runs ends with background.
        for k in range(runs // _TWO):
            outside += np.int64(counts[first + _TWO * k])
            inside += np.int64(counts[first + _TWO * k + _ONE])
        if runs % _TWO:
            outside += np.int64(counts[first + runs - _ONE])
        if outside + inside != pixels:
            return n
        areas[n] = inside
    return NO_FAULT


@exact
def bounds(counts: np.ndarray, offsets: np.ndarray, height: int) -> np.ndarray:
    """The box of each mask, int64 (N, 4), xyxy half-open; zeros for empty masks."""
    out = np.zeros((offsets.size - 1, 4), np.int64)
    for n in range(out.shape[0]):
        left, top, right, bottom, position = -1, height, 0, 0, np.int64(0)
        for k in range(offsets[n], offsets[n + 1]):
            length = np.int64(counts[k])
            if (k - offsets[n]) % 2 == 1 and length > 0:
                x, y = position // height, position % height
                if left < 0:
                    left = x
                end = y + length
                if end <= height:
                    right = x + 1
                    top, bottom = min(top, y), max(bottom, end)
                else:
                    right = (position + length - 1) // height + 1
                    top, bottom = 0, height
            position += length
        if left >= 0:
            out[n, 0], out[n, 1], out[n, 2], out[n, 3] = left, top, right, bottom
    return out


@exact
def spans(counts: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and stops (S,) int64 of the spans of all masks, and where each mask's begin (N + 1,) int64; none is empty."""
    first = np.zeros(offsets.size, np.int64)
    for n in range(offsets.size - 1):
        first[n + 1] = first[n]
        for k in range(offsets[n] + 1, offsets[n + 1], 2):
            if counts[k] > 0:
                first[n + 1] += 1
    starts, stops = np.empty(first[-1], np.int64), np.empty(first[-1], np.int64)
    used = 0
    for n in range(offsets.size - 1):
        position = np.int64(0)
        for k in range(offsets[n], offsets[n + 1]):
            length = np.int64(counts[k])
            if (k - offsets[n]) % 2 == 1 and length > 0:
                starts[used], stops[used] = position, position + length
                used += 1
            position += length
    return starts, stops, first


@exact
def overlap(
    starts_a: np.ndarray,
    stops_a: np.ndarray,
    range_a: tuple[int, int],
    starts_b: np.ndarray,
    stops_b: np.ndarray,
    range_b: tuple[int, int],
) -> Any:
    """Pixels common to the spans `range_a` of one set and `range_b` of another."""
    a, b, common = range_a[0], range_b[0], np.int64(0)
    while a < range_a[1] and b < range_b[1]:
        shared = min(stops_a[a], stops_b[b]) - max(starts_a[a], starts_b[b])
        if shared > 0:
            common += shared
        if stops_a[a] <= stops_b[b]:
            a += 1
        else:
            b += 1
    return common


@exact
def intersections(
    counts_a: np.ndarray, offsets_a: np.ndarray, counts_b: np.ndarray, offsets_b: np.ndarray, height: int
) -> np.ndarray:
    """Pixels common to each pair of masks, int64 (N, M). Pairs whose boxes do not touch are not looked at."""
    boxes_a, boxes_b = bounds(counts_a, offsets_a, height), bounds(counts_b, offsets_b, height)
    starts_a, stops_a, first_a = spans(counts_a, offsets_a)
    starts_b, stops_b, first_b = spans(counts_b, offsets_b)
    out = np.zeros((offsets_a.size - 1, offsets_b.size - 1), np.int64)
    for n in range(out.shape[0]):
        for m in range(out.shape[1]):
            wide = min(boxes_a[n, 2], boxes_b[m, 2]) - max(boxes_a[n, 0], boxes_b[m, 0])
            high = min(boxes_a[n, 3], boxes_b[m, 3]) - max(boxes_a[n, 1], boxes_b[m, 1])
            if wide > 0 and high > 0:
                range_a, range_b = (first_a[n], first_a[n + 1]), (first_b[m], first_b[m + 1])
                out[n, m] = overlap(starts_a, stops_a, range_a, starts_b, stops_b, range_b)
    return out


@exact
def write_dense(counts: np.ndarray, begin: int, end: int, left: int, top: int, height: int, out: np.ndarray) -> None:
    """Sets to 1 the pixels of the mask `counts[begin:end]` in `out` (h, w), whose corner lies at (left, top) of the image."""
    position, low, high = np.int64(0), left * height, (left + out.shape[1]) * height
    for k in range(begin, end):
        length = np.int64(counts[k])
        if (k - begin) % 2 == 1:
            start, stop = max(position, low), min(position + length, high)
            while start < stop:
                x = start // height
                column_end = min(stop, (x + 1) * height)
                for y in range(max(start - x * height, top), min(column_end - x * height, top + out.shape[0])):
                    out[y - top, x - left] = 1
                start = column_end
        position += length


@exact
def paint(counts: np.ndarray, offsets: np.ndarray, canvas: np.ndarray, values: np.ndarray) -> None:
    """Writes `values[n]` to the pixels of mask n on `canvas` (H, W), later masks over earlier ones."""
    height = canvas.shape[0]
    for n in range(offsets.size - 1):
        position, value = np.int64(0), values[n]
        for k in range(offsets[n], offsets[n + 1]):
            length = np.int64(counts[k])
            if (k - offsets[n]) % 2 == 1:
                x, y = position // height, position % height
                for _ in range(length):
                    canvas[y, x] = value
                    y += 1
                    if y == height:
                        x, y = x + 1, 0
            position += length


@exact
def unite(starts: np.ndarray, stops: np.ndarray, total: int, out: np.ndarray, used: int) -> int:
    """Appends to `out` one mask: the union of spans (S,) that are sorted by start. Returns the new `used`."""
    first, last, k = used, np.int64(0), 0
    while k < starts.size:
        start, stop = starts[k], stops[k]
        k += 1
        while k < starts.size and starts[k] <= stop:
            stop = max(stop, stops[k])
            k += 1
        used = put_span(out, used, first, last, start, stop)
        last = stop
    return close_mask(out, used, first, last, total)


@exact
def unite_groups(
    starts: np.ndarray,
    stops: np.ndarray,
    first: np.ndarray,
    groups: np.ndarray,
    total: int,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> int:
    """The union of the masks `groups[g] .. groups[g + 1]` for every g; spans of mask n are `first[n] .. first[n + 1]`."""
    used = 0
    for g in range(groups.size - 1):
        low, high = first[groups[g]], first[groups[g + 1]]
        order = np.argsort(starts[low:high], kind="mergesort")
        used = unite(starts[low:high][order], stops[low:high][order], total, out, used)
        out_offsets[g + 1] = used
    return used


@exact
def put_columns(
    buffer: np.ndarray,
    depth: int,
    begin: int,
    end: int,
    rows: np.ndarray,
    height: int,
    mirror: bool,
    out: np.ndarray,
    state: np.ndarray,
) -> None:
    """Appends the spans `buffer[:depth]` (rows of one source column) to the new columns begin..end. `state`: used, first, last."""
    for x in range(begin, end):
        for i in range(depth):
            a, b = buffer[depth - 1 - i if mirror else i]
            if mirror:
                start, stop = height - rows[b], height - rows[a]
            else:
                start, stop = rows[a], rows[b]
            if start < stop:
                start, stop = x * height + start, x * height + stop
                state[0] = put_span(out, state[0], state[1], state[2], start, stop)
                state[2] = stop


@exact
def remap(
    counts: np.ndarray,
    offsets: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    size: tuple[int, int],
    mirror: bool,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> int:
    """Every mask on another grid of `size`, whose columns and rows repeat, drop or keep those of the source in their order.

    Args:
        columns: int64 (W + 1,), ascending: source column x becomes the new columns columns[x] .. columns[x + 1].
        rows: int64 (H + 1,), ascending: source row y becomes the new rows rows[y] .. rows[y + 1].
        mirror: turn the new rows upside down.
    """
    height, new_height, total = rows.size - 1, size[0], size[0] * size[1]
    buffer, state = np.empty((height + 1, 2), np.int64), np.zeros(3, np.int64)
    for n in range(offsets.size - 1):
        state[1], state[2] = state[0], 0
        position, column, depth = np.int64(0), np.int64(-1), 0
        for k in range(offsets[n], offsets[n + 1]):
            length = np.int64(counts[k])
            start, stop = position, position + length
            position = stop
            if (k - offsets[n]) % 2 == 0:
                continue
            while start < stop:
                x = start // height
                end = min(stop, (x + 1) * height)
                if x != column:
                    if column >= 0:
                        put_columns(
                            buffer, depth, columns[column], columns[column + 1], rows, new_height, mirror, out, state
                        )
                    column, depth = x, 0
                buffer[depth, 0], buffer[depth, 1] = start - x * height, end - x * height
                depth += 1
                start = end
        if column >= 0:
            put_columns(buffer, depth, columns[column], columns[column + 1], rows, new_height, mirror, out, state)
        state[0] = close_mask(out, state[0], state[1], state[2], total)
        out_offsets[n + 1] = state[0]
    return state[0]
