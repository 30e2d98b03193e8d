"""Objects of tiles -> objects of the image. The rule, from what the tiles say:

1. Parts that are one object are found by their agreement where tiles overlap (`matching`).
2. Where a tile shows the object whole, its answer is taken as it is, from the tile in which it lies deepest: a network sees
   least where its input ends. Otherwise the object is the union of its parts, its score the mean of theirs by area.
3. A tile that shows a place better has the last word on it: what no other tile agrees with is left out where one shows all of
   it, and the part is cut or its centre lies in the other's cell. So each place is answered by one tile, as without tiles.
4. Two objects of a class taken from different tiles, whose masks share more than half of their union, are one: the surer stays
   (`doubles`). Where one tile gives both, they are the model's own answer and stay apart.

With tiles that answer with the truth, the result is the truth, for objects that hang together and share at most half of their
union; pieces of one object with nothing between them in any tile's overlap cannot be known to be one.
"""

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.inference.joining.doubles import without_doubles
from nuriwake.inference.joining.layout import Layout
from nuriwake.inference.joining.matching import Group, Parts, group_parts


class ObjectJoiner:
    """Collects the `Instances` of tiles, whose size is that of what the tile shows."""

    def __init__(self, layout: Layout, space: LabelSpace) -> None:
        self._layout, self._space = layout, space
        self._found: list[Instances] = []

    def add(self, answer: Instances) -> None:
        """The answer of the next tile."""
        answer = answer[answer.masks.areas() > 0]
        left, top = self._layout.windows[len(self._found), :2].tolist()
        masks = answer.masks.window(-top, -left, self._layout.size)
        boxes = answer.boxes + np.array([left, top, left, top], np.float32)
        self._found.append(Instances(masks, answer.labels, self._space, scores=answer.scores, boxes=boxes))

    def result(self) -> Instances:
        """The objects of the image, from high to low score."""
        found = _together(self._found, self._layout.size, self._space)
        tile = np.repeat(np.arange(len(self._found)), [len(item) for item in self._found])
        parts = Parts(found.masks, found.masks.boxes().astype(np.int64), found.labels, tile)
        which = group_parts(parts, self._layout)
        order = np.argsort(which, kind="stable")
        groups = [
            _group(members, parts, self._layout)
            for members in np.split(order, np.searchsorted(which[order], np.arange(1, which.max(initial=-1) + 1)))
            if len(members)
        ]
        groups = [group for group in groups if not _better_known(group, parts, self._layout)]
        joined = without_doubles(_united(found, groups), groups, parts, self._layout)
        return joined if joined.scores is None else joined[np.argsort(-joined.scores, kind="stable")]


def _together(items: list[Instances], size: tuple[int, int], space: LabelSpace) -> Instances:
    scores = [item.scores for item in items if item.scores is not None]
    return Instances(
        RunMasks.concatenate([RunMasks.empty(size), *(item.masks for item in items)]),
        np.concatenate([np.empty(0, np.int32), *(item.labels for item in items)]),
        space,
        scores=np.concatenate(scores) if len(scores) == len(items) else None,
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(item.boxes for item in items)]),
    )


def _group(members: np.ndarray, parts: Parts, layout: Layout) -> Group:
    frames = parts.frames[members]
    frame = np.concatenate([frames[:, :2].min(0), frames[:, 2:].max(0)])
    shown = layout.whole(frame)[parts.tile[members]]
    if not shown.any():
        return Group(members, frame, None)
    depths = [layout.depth(int(parts.tile[part]), parts.frames[part]) for part in members[shown]]
    return Group(members, frame, int(members[shown][int(np.argmax(depths))]))


def _better_known(group: Group, parts: Parts, layout: Layout) -> bool:
    """Does another tile show all of `group`, and better, without having found it?"""
    others = layout.whole(group.frame)
    others[parts.tile[group.members]] = False
    if not others.any() or group.whole is None:
        return bool(others.any())
    return bool(others[layout.owner(group.frame)])


def _united(found: Instances, groups: list[Group]) -> Instances:
    """One object per group."""
    chosen = [group.chosen for group in groups]
    masks = [found.masks[members] if len(members) == 1 else found.masks[members].merge() for members in chosen]
    boxes = [found.boxes[members] for members in chosen]
    areas = found.masks.areas()
    scores: np.ndarray | None = None
    if found.scores is not None:
        means = [np.average(found.scores[members], weights=areas[members]) for members in chosen]
        scores = np.array(means, np.float32)
    return Instances(
        RunMasks.concatenate([RunMasks.empty(found.size), *masks]),
        found.labels[[members[0] for members in chosen]].astype(np.int32),
        found.space,
        scores=scores,
        boxes=np.array([[*box[:, :2].min(0), *box[:, 2:].max(0)] for box in boxes], np.float32).reshape(-1, 4),
    )
