"""Regions of a label map: connected components as runs of pixels, in one scan, with union-find between rows.

A map of 4096 x 4096 pixels is scanned eight pixels at a time where nothing changes; after that, work grows with the number of runs,
not of pixels, and never with regions times pixels. The kernels are sequential: a server or loader runs several of them.
"""

from typing import NamedTuple

import numpy as np

from nuriwake.core.labels import IGNORE
from nuriwake.core.pixels import kernel
from nuriwake.core.size import Size

_ONES = np.uint64(0x0101010101010101)


class Regions(NamedTuple):
    """The regions of some labels in a map; number r is the r-th whose first pixel is met in reading order.

    Attributes:
        rows, starts, stops: int32 (R,): run i is the pixels starts[i]..stops[i]-1 of row rows[i]; in reading order.
        region: int32 (R,): the region that a run belongs to.
        areas: int64 (N,): pixels of each region.
        labels: uint8 (N,): the label of each region.
    """

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    region: np.ndarray
    areas: np.ndarray
    labels: np.ndarray


def find_regions(labels: np.ndarray, wanted: tuple[int, ...], *, connectivity: int) -> Regions:
    """The connected components of equal label in `labels` (H, W) uint8.

    Args:
        wanted: the labels that matter; others have no regions.
        connectivity: 8 (edges and corners) or 4 (edges).
    """
    table = np.zeros(256, np.bool_)
    table[list(wanted)] = True
    height, width = labels.shape
    padded = np.empty((height, -(-width // 8) * 8), np.uint8) if width % 8 else np.ascontiguousarray(labels)
    if width % 8:
        padded[:, :width] = labels
        padded[:, width:] = labels[:, -1:]
    firsts, starts, stops, values = _find_runs(padded, padded.view(np.uint64), width, table)
    region, areas, kinds = _join_runs(firsts, starts, stops, values, 1 if connectivity == 8 else 0)
    rows = np.repeat(np.arange(height, dtype=np.int32), np.diff(firsts))
    return Regions(rows, starts, stops, region, areas, kinds)


@kernel
def _grown(array: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.empty(capacity, array.dtype)
    larger[: array.size] = array
    return larger


@kernel
def _find_runs(pixels: np.ndarray, words: np.ndarray, width: int, wanted: np.ndarray) -> tuple:
    """Runs of wanted labels: (H + 1,) index of each row's first run, then starts, stops and labels of the runs."""
    height = pixels.shape[0]
    capacity = 1024 + pixels.size // 32
    starts, stops = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    values = np.empty(capacity, np.uint8)
    firsts = np.zeros(height + 1, np.int64)
    edges = np.empty(pixels.shape[1] + 1, np.int32)
    count = 0
    for y in range(height):
        if count + width >= capacity:
            capacity = 2 * capacity + width
            starts, stops, values = _grown(starts, capacity), _grown(stops, capacity), _grown(values, capacity)
        row = pixels[y]
        before, found = row[0], 1
        edges[0] = 0
        for word in range(words.shape[1]):
            if words[y, word] != np.uint64(before) * _ONES:
                # Written always, counted when true: on noise a branch here would be mispredicted at every other pixel.
                for x in range(8 * word, 8 * word + 8):
                    edges[found] = x
                    found += row[x] != before
                    before = row[x]
        edges[found] = width
        for edge in range(found):
            value = row[edges[edge]]
            starts[count], stops[count], values[count] = edges[edge], edges[edge + 1], value
            count += wanted[value]
        firsts[y + 1] = count
    return firsts, starts[:count].copy(), stops[:count].copy(), values[:count].copy()


@kernel
def _root(parents: np.ndarray, item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


@kernel
def _join_runs(firsts: np.ndarray, starts: np.ndarray, stops: np.ndarray, values: np.ndarray, reach: int) -> tuple:
    """The region of every run, and the area and the label of every region."""
    parents = np.arange(starts.size).astype(np.int32)
    for y in range(1, firsts.size - 1):
        above, end = firsts[y - 1], firsts[y]
        for run in range(firsts[y], firsts[y + 1]):
            while above < end and stops[above] + reach <= starts[run]:
                above += 1
            other, mine = above, run
            while other < end and starts[other] < stops[run] + reach:
                if values[other] == values[run]:
                    its = _root(parents, other)
                    # The smaller number wins, so that a parent always comes before its children.
                    if its < mine:
                        parents[mine] = its
                        mine = its
                    else:
                        parents[its] = mine
                other += 1
            parents[run] = mine
    count = 0
    areas, kinds = np.empty(starts.size, np.int64), np.empty(starts.size, np.uint8)
    for run in range(starts.size):
        if parents[run] == run:
            areas[count] = stops[run] - starts[run]
            kinds[count] = values[run]
            # From here on the array holds region numbers; a parent was already replaced when its child asks.
            parents[run] = count
            count += 1
        else:
            parents[run] = parents[parents[run]]
            areas[parents[run]] += stops[run] - starts[run]
    return parents, areas[:count].copy(), kinds[:count].copy()


@kernel
def paint(
    labels: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    region: np.ndarray,
    become: np.ndarray,
) -> None:
    """Write `become[r]` (int16 (N,)) into the pixels of region r of `labels` (H, W), in place; -1 leaves it."""
    for run in range(rows.size):
        value = become[region[run]]
        if value >= 0:
            for x in range(starts[run], stops[run]):
                labels[rows[run], x] = value


@kernel
def at_border(
    size: Size, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, region: np.ndarray, count: int
) -> np.ndarray:
    """bool (N,): whether each region has a pixel at the border of the image of `size`."""
    height, width = size
    found = np.zeros(count, np.bool_)
    for run in range(rows.size):
        if rows[run] == 0 or rows[run] == height - 1 or starts[run] == 0 or stops[run] == width:
            found[region[run]] = True
    return found


@kernel
def sole_neighbours(
    labels: np.ndarray, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, region: np.ndarray, count: int
) -> np.ndarray:
    """int16 (N,): the one label around each region (across pixel edges); -2 for several, or at the image's border."""
    height, width = labels.shape
    found = np.full(count, -1, np.int16)
    for run in range(rows.size):
        mine = region[run]
        if found[mine] == -2:
            continue
        y, start, stop = rows[run], starts[run], stops[run]
        if y == 0 or y == height - 1 or start == 0 or stop == width:
            found[mine] = -2
            continue
        own = labels[y, start]
        sole = found[mine]
        for side in range(4):
            if side < 2:
                low, high, line = start, stop, y - 1 + 2 * side
            else:
                low = start - 1 if side == 2 else stop
                high, line = low + 1, y
            for x in range(low, high):
                value = labels[line, x]
                if value != own and value != sole:
                    sole = np.int16(value) if sole == -1 else np.int16(-2)
            if sole == -2:
                break
        found[mine] = sole
    return found


def surrounding_labels(
    labels: np.ndarray, regions: Regions, removed: np.ndarray, *, exclude: int = IGNORE
) -> np.ndarray:
    """What regions become when they take the label around them.

    Args:
        labels: (H, W) uint8; in it the removed regions' pixels are overwritten: with their new label where one was found,
            else with `IGNORE`.
        removed: bool (N,), the regions in question.
        exclude: a label that has no vote, besides `IGNORE`.

    Returns:
        int16 (N,): for a removed region the label that shares most pixel edges with it, of equal ones the lowest; those
        that touch only others of the removed wait for these. -1 where nothing with a vote was around, and for the rest.
    """
    order, firsts = _runs_by_region(regions.region, removed)
    become = np.full(removed.size, -1, np.int16)
    runs = (regions.rows, regions.starts, regions.stops, regions.region)
    paint(labels, *runs, np.where(removed, np.int16(IGNORE), np.int16(-1)))
    waiting = np.flatnonzero(removed)
    while waiting.size:
        votes = _vote(labels, regions.rows, regions.starts, regions.stops, order, firsts, waiting, exclude)
        settled = waiting[votes >= 0]
        if settled.size == 0:
            break
        become[settled] = votes[votes >= 0]
        _paint_some(labels, regions.rows, regions.starts, regions.stops, order, firsts, settled, become)
        waiting = waiting[votes < 0]
    return become


@kernel
def _runs_by_region(region: np.ndarray, removed: np.ndarray) -> tuple:
    """Runs of removed regions, grouped: those of region r are order[firsts[r]:firsts[r + 1]]."""
    firsts = np.zeros(removed.size + 1, np.int64)
    for run in range(region.size):
        if removed[region[run]]:
            firsts[region[run] + 1] += 1
    for item in range(removed.size):
        firsts[item + 1] += firsts[item]
    order, place = np.empty(firsts[-1], np.int32), firsts.copy()
    for run in range(region.size):
        if removed[region[run]]:
            order[place[region[run]]] = run
            place[region[run]] += 1
    return order, firsts


@kernel
def _vote(
    labels: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    order: np.ndarray,
    firsts: np.ndarray,
    waiting: np.ndarray,
    exclude: int,
) -> np.ndarray:
    height, width = labels.shape
    votes = np.zeros(256, np.int64)
    result = np.full(waiting.size, -1, np.int16)
    for place in range(waiting.size):
        item = waiting[place]
        for index in range(firsts[item], firsts[item + 1]):
            run = order[index]
            y, start, stop = rows[run], starts[run], stops[run]
            if start > 0:
                votes[labels[y, start - 1]] += 1
            if stop < width:
                votes[labels[y, stop]] += 1
            if y > 0:
                for x in range(start, stop):
                    votes[labels[y - 1, x]] += 1
            if y < height - 1:
                for x in range(start, stop):
                    votes[labels[y + 1, x]] += 1
        best = 0
        for value in range(255):
            if votes[value] > best and value != exclude:
                best = votes[value]
                result[place] = value
            votes[value] = 0
        votes[255] = 0
    return result


@kernel
def _paint_some(
    labels: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    order: np.ndarray,
    firsts: np.ndarray,
    some: np.ndarray,
    become: np.ndarray,
) -> None:
    for item in some:
        for index in range(firsts[item], firsts[item + 1]):
            run = order[index]
            for x in range(starts[run], stops[run]):
                labels[rows[run], x] = become[item]
