"""Maps of tiles -> the map of the image: classes per pixel by the tile in which the pixel lies deepest, segments by objects."""

import numpy as np

from nuriwake.core.id_maps import id_areas
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import instance_space
from nuriwake.inference.joining.layout import Layout
from nuriwake.inference.joining.objects import ObjectJoiner


class MapJoiner:
    """Puts the `SemanticMap`s of tiles together: every pixel as the tile says in whose cell it lies."""

    def __init__(self, layout: Layout, space: LabelSpace) -> None:
        shape = layout.size if space.exclusive else (*layout.size, len(space))
        self._layout, self._space, self._done = layout, space, 0
        self._labels, self._scores = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        self._scored = True

    def add(self, answer: SemanticMap) -> None:
        """The answer of the next tile."""
        image, tile = cell_of(self._layout, self._done)
        self._labels[image] = answer.labels[tile]
        self._scored &= answer.scores is not None
        if answer.scores is not None:
            self._scores[image] = answer.scores[tile]
        self._done += 1

    def result(self) -> SemanticMap:
        """The map of the image."""
        return SemanticMap(self._labels, self._space, scores=self._scores if self._scored else None)


class SegmentJoiner:
    """Puts the `Panoptic`s of tiles together: things as objects are, stuff by its class.

    A pixel is the stuff that the tile says in whose cell it lies; where that tile knows none (void, or a thing that is not
    kept), what another tile says that shows it. Things lie over stuff, and the surer over the less sure.
    """

    def __init__(self, layout: Layout, space: LabelSpace) -> None:
        self._layout, self._space, self._done = layout, space, 0
        self._things = np.array(space.things, bool)
        self._objects = ObjectJoiner(layout, instance_space(space)) if self._things.any() else None
        self._stuff = np.full(layout.size, IGNORE, np.uint8)
        self._sums, self._pixels = np.zeros(len(space)), np.zeros(len(space), np.int64)
        self._scored = True

    def add(self, answer: Panoptic) -> None:
        """The answer of the next tile."""
        if self._objects is not None:
            self._objects.add(answer.instances())
        labels = _stuff_of(answer)
        left, top, right, bottom = self._layout.windows[self._done].tolist()
        around = self._stuff[top:bottom, left:right]
        np.copyto(around, labels, where=around == IGNORE)
        image, tile = cell_of(self._layout, self._done)
        mine = labels[tile]
        np.copyto(self._stuff[image], mine, where=mine != IGNORE)
        self._add_scores(answer, mine)
        self._done += 1

    def _add_scores(self, answer: Panoptic, cell: np.ndarray) -> None:
        """The score of a class of stuff is the mean over its pixels of what the tiles gave it."""
        self._scored &= answer.scores is not None
        if answer.scores is None:
            return
        pixels = np.bincount(cell.reshape(-1), minlength=IGNORE + 1)[: len(self._space)]
        scores = np.zeros(len(self._space))
        scores[answer.labels] = answer.scores
        self._sums += pixels * scores
        self._pixels += pixels

    def result(self) -> Panoptic:
        """The segments of the image, things first, numbered from 1."""
        objects = None if self._objects is None else self._objects.result()
        count = 0 if objects is None else len(objects)
        names = np.arange(count + 1, count + 2 + IGNORE, dtype=np.int32)
        names[IGNORE] = 0
        ids = names[self._stuff]
        if objects is not None:
            _paint(ids, objects)
        numbers = np.arange(1, count + 1 + len(self._space), dtype=np.int32)
        kept = np.flatnonzero(id_areas(ids, numbers)[0])
        names = np.zeros(len(numbers) + 1, np.int32)
        names[numbers[kept]] = np.arange(1, len(kept) + 1)
        for row in ids:  # row by row: a second map would be the largest thing in memory
            row[:] = names[row]
        means = self._sums / np.maximum(self._pixels, 1)
        labels, scores = np.arange(len(self._space), dtype=np.int32), means
        if objects is not None:
            labels = np.concatenate([np.flatnonzero(self._things).astype(np.int32)[objects.labels], labels])
            given = np.zeros(count) if objects.scores is None else objects.scores
            scores = np.concatenate([given, means])
        return Panoptic(
            ids,
            np.arange(1, len(kept) + 1, dtype=np.int32),
            labels[kept],
            self._space,
            scores=scores[kept].astype(np.float32).clip(0, 1) if self._scored else None,
        )


def without_small_stuff(answer: Panoptic, least: int) -> Panoptic:
    """`answer`, whose ids are 1, 2, .., with void in place of classes of stuff of fewer than `least` pixels."""
    things = np.array(answer.space.things, bool)[answer.labels]
    kept = things | (answer.areas() >= least)
    if kept.all():
        return answer
    names = np.append(0, np.where(kept, np.cumsum(kept), 0)).astype(np.int32)
    return Panoptic(
        names[answer.ids],
        np.arange(1, int(kept.sum()) + 1, dtype=np.int32),
        answer.labels[kept],
        answer.space,
        scores=None if answer.scores is None else answer.scores[kept],
    )


def cell_of(layout: Layout, tile: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the cell of `tile` in the image, and in the tile."""
    left, top, right, bottom = layout.cells[tile].tolist()
    x, y = layout.windows[tile, :2].tolist()
    return (slice(top, bottom), slice(left, right)), (slice(top - y, bottom - y), slice(left - x, right - x))


def _stuff_of(answer: Panoptic) -> np.ndarray:
    """The class of stuff of every pixel, uint8; `IGNORE` where there is none."""
    labels = answer.semantic().labels
    table = np.arange(256, dtype=np.uint8)
    table[np.flatnonzero(answer.space.things)] = IGNORE
    return table[labels]


def _paint(ids: np.ndarray, objects: Instances) -> None:
    """The objects, from high to low score, onto `ids`, numbered from 1; the surest is painted last."""
    order = np.arange(len(objects))[::-1]
    masks: RunMasks = objects.masks[order]
    masks.paint(ids, (order + 1).astype(np.int32))
