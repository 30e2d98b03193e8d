"""Boxes of many images in one table, and all of them judged in one compiled call: for detections that never were `Instances`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances, check_areas, check_column, check_labels, check_scores
from nuriwake.core.labels import LabelSpace
from nuriwake.metrics.average_precision import group_by
from nuriwake.metrics.detections import by_falling_score
from nuriwake.metrics.matching import LOWEST, choose, match
from nuriwake.metrics.overlap import box_pairs


@dataclass(frozen=True, eq=False)
class BoxTable:
    """N boxes of many images, true or predicted, in any order.

    Args:
        images: int64 (N,), the number of each box's image, from 0.
        boxes: float32 (N, 4), xyxy half-open, in pixels.
        labels: int32 (N,), 0..classes-1.
        scores: float32 (N,), 0..1; None for truth.
        crowd: bool (N,), True for a region of many objects that nobody told apart; None means no such region.
        areas: float64 (N,), as the data set states them, by which objects are small or large; None takes those of the boxes.

    Raises:
        UserError: wrong dtype, shape or values; the message says what was expected and found.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = field(default=None, kw_only=True)
    crowd: np.ndarray | None = field(default=None, kw_only=True)
    areas: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        count = len(self.images)
        check_column(self.images, "images", "boxes", np.int64, (count,))
        check_column(self.boxes, "boxes", "boxes", np.float32, (count, 4))
        check_column(self.labels, "labels", "boxes", np.int32, (count,))
        check_column(self.scores, "scores", "boxes", np.float32, (count,))
        check_column(self.crowd, "crowd", "boxes", np.bool_, (count,))
        check_column(self.areas, "areas", "boxes", np.float64, (count,))
        check_scores(self.scores)
        if self.areas is not None:
            check_areas(self.areas)
        row = _first_unsound(self.boxes)
        if row < count:
            raise UserError(
                f"Boxes are (left, top, right, bottom), finite and right side out; row {row} is {self.boxes[row].tolist()}."
            )

    @classmethod
    def of(cls, instances: Sequence[Instances]) -> "BoxTable":
        """The boxes of `instances`, image after image. Without scores where one of them has none."""
        scores = [item.scores for item in instances if item.scores is not None]
        return cls(
            np.repeat(np.arange(len(instances)), [len(item) for item in instances]),
            np.concatenate([np.empty((0, 4), np.float32), *(item.boxes for item in instances)]),
            np.concatenate([np.empty(0, np.int32), *(item.labels for item in instances)]),
            scores=np.concatenate([np.empty(0, np.float32), *scores]) if len(scores) == len(instances) else None,
            crowd=np.concatenate([np.empty(0, bool), *(item.crowd for item in instances)]),
            areas=np.concatenate([np.empty(0), *(item.areas for item in instances)]),
        )

    def check(self, space: LabelSpace, images: int) -> None:
        """Raises UserError unless all boxes are of classes of `space` and of images 0..images-1."""
        check_labels(self.labels, space)
        wrong = self.images[(self.images < 0) | (self.images >= images)]
        if wrong.size:
            raise UserError(f"There are {images} images, numbered from 0; found a box of image {wrong[0]}.")

    def stated(self) -> tuple[np.ndarray, np.ndarray]:
        """`areas` and `crowd`, with what None stands for."""
        left, top, right, bottom = self.boxes.T.astype(np.float64)
        areas = (right - left) * (bottom - top) if self.areas is None else self.areas
        return areas, np.zeros(len(areas), bool) if self.crowd is None else self.crowd


def judge_tables(
    found: BoxTable, objects: BoxTable, images: int, classes: int, rows: dict[str, np.ndarray], kind: str
) -> int:
    """What all boxes `found` turn out to be, image after image: all columns of `rows`, as of `Detections`. Returns how many rows were
    written: the detections that count."""
    scores = np.ones(len(found.images), np.float32) if found.scores is None else found.scores
    first, order = group_by(by_falling_score(scores), found.images, images)
    truth_first, truth = group_by(np.arange(len(objects.images)), objects.images, images)
    areas, crowd = objects.stated()
    table = (rows[name] for name in ("scores", "labels", "ranks", "images", f"{kind}_true", f"{kind}_false"))
    return _judge(
        first, order, scores, found.boxes, found.labels,
        truth_first, objects.boxes[truth], objects.labels[truth], areas[truth], crowd[truth], classes, *table,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _first_unsound(boxes: np.ndarray) -> int:
    """The first of `boxes` (N, 4) that is inside out or no numbers; N where none is."""
    for row in range(boxes.shape[0]):
        left, top, right, bottom = boxes[row]
        # Of numbers that are in order, the outermost say whether all are finite.
        if not (right >= left and bottom >= top and min(left, top) > -np.inf and max(right, bottom) < np.inf):
            return row
    return boxes.shape[0]


@njit(cache=True, nogil=True)
def _judge(
    first: np.ndarray,
    order: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    truth_first: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    classes: int,
    table_scores: np.ndarray,
    table_labels: np.ndarray,
    table_ranks: np.ndarray,
    table_images: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
) -> int:
    row = 0
    for image in range(first.size - 1):
        mine = order[first[image] : first[image + 1]]
        here = slice(truth_first[image], truth_first[image + 1])
        count = choose(mine, scores, labels, classes, table_scores[row:], table_labels[row:], table_ranks[row:])
        chosen = mine[:count]
        pairs = box_pairs(boxes, labels, chosen, truth_boxes[here], truth_labels[here], crowd[here], LOWEST)
        match(pairs, truth_areas[here], crowd[here], true[row:], false[row:])
        table_images[row : row + count] = image
        row += count
    return row
