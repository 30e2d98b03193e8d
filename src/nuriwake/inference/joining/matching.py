"""Which parts of objects, found in several tiles, are one object: those that agree where both tiles look.

Two tiles share a strip. An object that lies in it was found twice, and what each tile says of the strip is the same object
when both masks agree there: intersection over union of at least one half, at which no mask has two partners where masks do
not overlap (Kirillov et al. 2019, arXiv:1801.00868, section 4.1); where they do, the best pairs go first. Comparing inside
the strip only, and not whole boxes as slicing tools do (SAHI, Akyon et al. 2022, arXiv:2202.06934, section 3.2), also joins
objects much larger than a tile, and keeps neighbours apart however long they are.

A part that is cut by the border of its tile and has no partner belongs to the part that holds most of it in the tile
that goes on behind the border: an object may fall into pieces in a tile that does not see what connects them.
"""

from dataclasses import dataclass

import numpy as np

from nuriwake.core.runs import RunMasks
from nuriwake.inference.joining.layout import TOUCH, Layout

AGREE = 0.5
"""Of the union in the strip, or of the cut part."""


@dataclass(frozen=True)
class Parts:
    """What all tiles found, P parts of objects.

    Attributes:
        masks: in the whole image; none is empty.
        frames: int64 (P, 4), the boxes of the masks, xyxy half-open.
        labels: int32 (P,).
        tile: int64 (P,), the tile that found it, ascending.
    """

    masks: RunMasks
    frames: np.ndarray
    labels: np.ndarray
    tile: np.ndarray


@dataclass(frozen=True)
class Group:
    """The parts of one object.

    Attributes:
        members: int64 (n,), numbers of parts.
        frame: int64 (4,), xyxy half-open, around all of them.
        whole: the part that shows all of it; None where it is larger than what a tile shows.
    """

    members: np.ndarray
    frame: np.ndarray
    whole: int | None

    @property
    def chosen(self) -> np.ndarray:
        """int64 (n,), the parts whose union the object is."""
        return self.members if self.whole is None else np.array([self.whole])


def group_parts(parts: Parts, layout: Layout) -> np.ndarray:
    """The object that each part belongs to, int64 (P,), numbered from 0 in the order of their first parts."""
    parent = list(range(len(parts.labels)))
    bounds = np.searchsorted(parts.tile, np.arange(len(layout) + 1))
    for one, other, strip in layout.strips():
        ranges = (np.arange(*bounds[tile : tile + 2].tolist()) for tile in (one, other))
        first, second = (those[reaching(parts.frames[those], strip)] for those in ranges)
        if len(first) and len(second):
            for a, b in _pairs(parts, (first, second), strip, layout):
                parent[_root(parent, b)] = _root(parent, a)
    roots = np.array([_root(parent, part) for part in range(len(parent))], np.int64)
    _, places, which = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(places))[which] if len(roots) else roots


def reaching(frames: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """bool (n,): which of the boxes `frames` (n, 4) reach into `strip` (4,)."""
    return np.asarray((frames[:, :2] < strip[2:]).all(1) & (frames[:, 2:] > strip[:2]).all(1))


def _pairs(
    parts: Parts, members: tuple[np.ndarray, np.ndarray], strip: np.ndarray, layout: Layout
) -> list[tuple[int, int]]:
    """The pairs of parts of two tiles (`members` of each) that are one object."""
    left, top, right, bottom = strip.tolist()
    first, second = members
    one, other = (parts.masks[index].window(top, left, (bottom - top, right - left)) for index in members)
    same = parts.labels[first][:, None] == parts.labels[second]
    common = np.where(same, one.intersections(other), 0)
    areas = one.areas(), other.areas()
    agreement = common / np.maximum(areas[0][:, None] + areas[1] - common, 1)
    pairs = _best(agreement)
    for side in (0, 1):
        shared = common if side == 0 else common.T
        taken = {pair[side] for pair in pairs}
        mine, theirs = members[side], members[1 - side]
        cut = _cut(parts, mine, layout, int(parts.tile[theirs[0]]))
        for index in np.flatnonzero(cut & (areas[side] > 0)).tolist():
            holder = int(shared[index].argmax())
            if index not in taken and shared[index, holder] >= AGREE * areas[side][index]:
                pairs.append((index, holder) if side == 0 else (holder, index))
    return [(int(first[a]), int(second[b])) for a, b in pairs]


def _best(agreement: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows and columns, the best first, each row and column once, that agree enough."""
    rows, columns = np.nonzero(agreement >= AGREE)
    found: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for place in np.argsort(-agreement[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in used[0] and column not in used[1]:
            used[0].add(row)
            used[1].add(column)
            found.append((row, column))
    return found


def _cut(parts: Parts, members: np.ndarray, layout: Layout, other: int) -> np.ndarray:
    """bool: which of `members`, all of one tile, end at a border of it behind which the tile `other` goes on."""
    tile = int(parts.tile[members[0]])
    window, frames = layout.windows[tile], parts.frames[members]
    ends = np.concatenate([frames[:, :2] < window[:2] + TOUCH, frames[:, 2:] > window[2:] - TOUCH], axis=1)
    return np.asarray((ends & layout.beyond(tile, other)).any(1))


def _root(parent: list[int], part: int) -> int:
    while parent[part] != part:
        parent[part] = parent[parent[part]]
        part = parent[part]
    return part
