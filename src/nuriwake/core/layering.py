"""Masks that may overlap as few label maps: what a warp, a paste or a loss can work on without a map per object."""

import numpy as np

from nuriwake.core.runs import RunMasks


def layered(masks: RunMasks) -> tuple[np.ndarray, np.ndarray]:
    """`masks` (N of them) spread over L maps so that in none of them two overlap; L is the depth of overlap, mostly 1 or 2.

    Returns:
        int32 (L, H, W): 0 where there is nothing, else 1 + the index of the mask; and int64 (N,): the map of each mask.
    """
    layer = _colours(masks)
    count = int(layer.max()) + 1 if len(masks) else 0
    maps = np.zeros((count, *masks.size), np.int32)
    for index in range(count):
        members = np.flatnonzero(layer == index)
        masks[members].paint(maps[index], (members + 1).astype(np.int32))
    return maps, layer


def unlayered(maps: np.ndarray, layer: np.ndarray) -> RunMasks:
    """The masks of `layered`, possibly empty after what was done to the maps: `maps` (L, H, W), `layer` (N,)."""
    if not len(layer):
        return RunMasks.empty(maps.shape[1:])
    parts, order = [], []
    for index in range(len(maps)):
        members = np.flatnonzero(layer == index)
        parts.append(RunMasks.from_labels(maps[index], (members + 1).astype(np.int32)))
        order.append(members)
    return RunMasks.concatenate(parts)[np.argsort(np.concatenate(order))]


def _colours(masks: RunMasks) -> np.ndarray:
    """Greedy colouring of the graph of overlaps: int64 (N,), neighbours differ, and early masks get low numbers."""
    count = len(masks)
    colours = np.zeros(count, np.int64)
    touching = _overlaps(masks)
    for index in range(count):
        taken = set(colours[touching[index][:index].nonzero()[0]].tolist())
        while int(colours[index]) in taken:
            colours[index] += 1
    return colours


def _overlaps(masks: RunMasks) -> np.ndarray:
    """bool (N, N): which masks share a pixel. The areas say at once when none do, which is the usual case."""
    count = len(masks)
    if count < 2 or int(masks.areas().sum()) == int(masks.merge().areas()[0]):
        return np.zeros((count, count), bool)
    return masks.intersections(masks) > 0
