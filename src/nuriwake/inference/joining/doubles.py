"""Doubles that the joining makes: of two objects from different tiles that are more than half the same, the surer one stays.

Where one tile finds two objects, another may find one of them with pixels of both. Each object is then taken from the tile in
which it lies deepest, and two masks, taken from different tiles, may be almost the same. This is non-maximum suppression by
masks for such pairs only: objects that overlap as much in the answer of one tile are the model's own, and stay.
"""

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.inference.joining.layout import Layout
from nuriwake.inference.joining.matching import Group, Parts, reaching

DOUBLE = 0.5
"""Of the union of two masks of one class; those that share more are one object."""


def without_doubles(joined: Instances, groups: list[Group], parts: Parts, layout: Layout) -> Instances:
    """`joined`, one object per group, without the less sure (without scores: the smaller) of each double."""
    surety = joined.masks.areas() if joined.scores is None else joined.scores
    rank = np.argsort(np.argsort(-surety, kind="stable"))
    pairs = _doubles(joined, [np.unique(parts.tile[group.chosen]) for group in groups], layout)
    pairs = [(a, b) if rank[a] < rank[b] else (b, a) for a, b in pairs]
    lost = np.zeros(len(joined), bool)
    for better, worse in sorted(pairs, key=lambda pair: int(rank[pair[0]])):
        lost[worse] |= not lost[better]
    return joined[~lost]


def _doubles(joined: Instances, tiles: list[np.ndarray], layout: Layout) -> list[tuple[int, int]]:
    """The pairs of objects of one class, made of parts of different `tiles`, that share more than half of their union."""
    frames = joined.masks.boxes().astype(np.int64)
    owners = np.repeat(np.arange(len(tiles)), [len(item) for item in tiles])
    flat = np.concatenate([np.empty(0, np.int64), *tiles])
    found: list[tuple[int, int]] = []
    for one, other, strip in layout.strips():
        both = (owners[flat == tile] for tile in (one, other))
        first, second = (those[reaching(frames[those], strip)] for those in both)
        if len(first) and len(second):
            shared = joined.masks[first].iou(joined.masks[second])
            alike = (shared > DOUBLE) & (joined.labels[first][:, None] == joined.labels[second])
            pairs = [(int(first[a]), int(second[b])) for a, b in np.argwhere(alike)]
            found += [(a, b) for a, b in pairs if not np.isin(tiles[a], tiles[b]).any()]
    return found
