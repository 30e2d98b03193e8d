"""Targets: what is true, or predicted, of an image. The same type for truth and for prediction."""

from dataclasses import dataclass, field

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """A class for every pixel.

    Args:
        labels: uint8. Exclusive space: (H, W), values 0..len(space)-1 or `IGNORE`.
            Multi-label space: (H, W, len(space)), values 0, 1 or `IGNORE` in each layer.
        space: what the numbers mean.
        scores: how sure the model was, float32 in 0..1: (H, W) of the chosen class, or (H, W, len(space)) when
            multi-label; None for truth.

    Raises:
        UserError: wrong dtype, shape or values; the message says what was expected and found.
    """

    labels: np.ndarray
    space: LabelSpace
    scores: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        labels, space = self.labels, self.space
        if labels.dtype != np.uint8:
            raise UserError(f"A label map is uint8, found {labels.dtype}.")
        expected = "(H, W)" if space.exclusive else f"(H, W, {len(space)})"
        if labels.ndim != (2 if space.exclusive else 3) or (not space.exclusive and labels.shape[2] != len(space)):
            raise UserError(f"A label map of this label space has the shape {expected}, found {labels.shape}.")
        highest = len(space) - 1 if space.exclusive else 1
        bad = unknown_labels(labels, highest)
        if bad:
            raise UserError(
                f"Labels go from 0 to {highest} ({len(space)} classes) or are {IGNORE} (ignore); found {_some(bad)}."
            )
        if self.scores is not None and (self.scores.dtype != np.float32 or self.scores.shape != labels.shape):
            raise UserError(
                f"Scores are float32 of the labels' shape {labels.shape}, found {self.scores.dtype} {self.scores.shape}."
            )

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.labels.shape[0], self.labels.shape[1]


def unknown_labels(labels: np.ndarray, highest: int) -> list[int]:
    """The values in `labels` (uint8, any shape) that are neither 0..highest nor `IGNORE`, ascending."""
    if labels.size == 0:
        return []
    counts = np.bincount(labels.ravel(), minlength=256)
    return [value for value in np.flatnonzero(counts).tolist() if value > highest and value != IGNORE]


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


Target = SemanticMap
"""Instances and Panoptic join here."""
