"""Instances: the objects of an image, one mask each; they may overlap."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import import_object
from nuriwake.core.run_kernels import exact
from nuriwake.core.runs import Index, RunMasks, as_places
from nuriwake.core.size import Size

_DERIVED = cast(np.ndarray, None)
"""Stands for an array that is made from the masks when it is not given; afterwards the field always holds an array."""

_BOOL, _INT32, _INT64, _FLOAT32, _FLOAT64 = (np.dtype(kind) for kind in ("?", "i4", "i8", "f4", "f8"))

_NO_SCORES = np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class Instances:
    """N objects, true or predicted.

    Args:
        masks: one per object.
        labels: int32 (N,), 0..len(space)-1.
        space: the classes of the objects; there is no background among them.
        scores: float32 (N,), 0..1; None for truth.
        boxes: float32 (N, 4), xyxy half-open; None takes those of the masks.
        crowd: bool (N,), True for a region of many objects that nobody told apart; None means no such region.
        areas: float64 (N,), as the data set states them (COCO's figures count areas by these); None takes those of the masks.
        ids: int64 (N,), the numbers of the annotations; None where there are none.

    Raises:
        UserError: wrong dtype, shape or values; the message says what was expected and found.
    """

    masks: RunMasks
    labels: np.ndarray
    space: LabelSpace
    scores: np.ndarray | None = field(default=None, kw_only=True)
    boxes: np.ndarray = field(default=_DERIVED, kw_only=True)
    crowd: np.ndarray = field(default=_DERIVED, kw_only=True)
    areas: np.ndarray = field(default=_DERIVED, kw_only=True)
    ids: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        count = len(self.masks)
        check_column(self.labels, "labels", "masks", _INT32, (count,))
        check_column(self.scores, "scores", "masks", _FLOAT32, (count,))
        check_column(self.boxes, "boxes", "masks", _FLOAT32, (count, 4))
        check_column(self.crowd, "crowd", "masks", _BOOL, (count,))
        check_column(self.areas, "areas", "masks", _FLOAT64, (count,))
        check_column(self.ids, "ids", "masks", _INT64, (count,))
        if getattr(self, "boxes") is None:  # noqa: B009
            object.__setattr__(self, "boxes", self.masks.boxes())
        if getattr(self, "crowd") is None:  # noqa: B009
            object.__setattr__(self, "crowd", np.zeros(count, bool))
        if getattr(self, "areas") is None:  # noqa: B009
            object.__setattr__(self, "areas", self.masks.areas().astype(np.float64))
        else:
            check_areas(self.areas)
        if not _sound(self.labels, len(self.space), _NO_SCORES if self.scores is None else self.scores, self.boxes):
            self._check_values()
        if self.space.has_background:
            raise UserError(
                f"The classes of objects hold no background, found '{self.space.names[0]}' as class 0; leave it out "
                "and count the labels from 0."
            )

    def _check_values(self) -> None:
        """Names what `_sound` found."""
        check_labels(self.labels, self.space)
        check_scores(self.scores)
        if not np.isfinite(self.boxes).all():
            raise UserError("Boxes are finite numbers of pixels, found NaN or Inf.")
        inverted = (self.boxes[:, 2:] < self.boxes[:, :2]).any(axis=1)
        raise UserError(
            f"Boxes are (left, top, right, bottom), found one that is inside out: {self.boxes[inverted][0].tolist()}."
        )

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.masks.size

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: Index) -> "Instances":
        """Objects by number, slice, list of numbers or bool (N,); one number gives `Instances` of one."""
        places = as_places(index, len(self))
        return Instances(
            self.masks[places],
            self.labels[places],
            self.space,
            scores=None if self.scores is None else self.scores[places],
            boxes=self.boxes[places],
            crowd=self.crowd[places],
            areas=self.areas[places],
            ids=None if self.ids is None else self.ids[places],
        )

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write a 16-bit label PNG, atomically: 0 where there is nothing, n + 1 on object n. Classes and scores are not in it.

        Where predicted objects overlap the surer one is seen.

        Returns:
            The file written.

        Raises:
            UserError: true objects overlap, or there are more than 65535: such objects need COCO's JSON.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: instances are saved as a 16-bit label PNG; give a name that ends with .png.")
        count = len(self)
        if count > np.iinfo(np.uint16).max:
            raise UserError(f"{path}: a 16-bit label PNG holds 65535 objects, found {count}; write COCO JSON instead.")
        canvas = self.label_map()
        hidden = int(self.masks.areas().sum()) - int(np.count_nonzero(canvas))
        if hidden and self.scores is None:
            raise UserError(
                f"{path}: objects overlap ({hidden} pixels belong to more than one), which a label PNG cannot hold; "
                "write COCO JSON instead."
            )
        with atomic_path(path) as temporary:
            Image.fromarray(canvas).save(temporary, format="PNG")
        return (path,)

    def label_map(self) -> np.ndarray:
        """uint16 (H, W): 0 where there is nothing, n + 1 on object n; where several are, the surest of them, without scores the last.

        At most 65535 objects.
        """
        order = np.arange(len(self)) if self.scores is None else np.argsort(self.scores, kind="stable")
        canvas = np.zeros(self.size, np.uint16)
        self.masks[order].paint(canvas, (order + 1).astype(np.uint16))
        return canvas

    def overlay(self, image: np.ndarray | Image.Image, *, opacity: float = 0.5, legend: bool = True) -> np.ndarray:
        """`image`, an array (H, W) or (H, W, C) or a Pillow image, with the objects drawn over it: uint8 RGB (H, W, 3). See `nuriwake.viz.objects`."""
        return import_object("nuriwake.viz.objects:overlay_instances")(image, self, opacity=opacity, legend=legend)


@exact
def _sound(labels: np.ndarray, classes: int, scores: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether all labels are classes, all scores lie in 0..1 and all boxes are boxes: one call, as scoring makes many `Instances`."""
    for label in labels:
        if label < 0 or label >= classes:
            return False
    for score in scores:
        if not 0 <= score <= 1:
            return False
    for row in range(boxes.shape[0]):
        for side in range(4):
            if not np.isfinite(boxes[row, side]):
                return False
        if boxes[row, 2] < boxes[row, 0] or boxes[row, 3] < boxes[row, 1]:
            return False
    return True


def check_column(array: np.ndarray | None, name: str, of: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Raises UserError unless `array` is None or has `dtype` and `shape`; `of` names what it belongs to."""
    if array is None:
        return
    if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance] (users pass lists)
        raise UserError(
            f"{name} is a NumPy array of {np.dtype(dtype)} of the shape {shape}, found {type(array).__name__}."
        )
    if array.dtype != dtype or array.shape != shape:
        raise UserError(
            f"{name} is {np.dtype(dtype)} of the shape {shape} for {shape[0]} {of}, found {array.dtype} {array.shape}."
        )


def check_areas(areas: np.ndarray) -> None:
    """Raises UserError unless all areas are finite and none is negative: a NaN would lie in every range of areas."""
    if not np.all((areas >= 0) & np.isfinite(areas)):
        raise UserError(f"Areas are finite numbers of pixels, found {areas[~((areas >= 0) & np.isfinite(areas))][0]}.")


def check_labels(labels: np.ndarray, space: LabelSpace) -> None:
    """Raises UserError unless all labels are classes of `space`."""
    bad = labels[(labels < 0) | (labels >= len(space))]
    if bad.size:
        raise UserError(f"Labels go from 0 to {len(space) - 1} ({len(space)} classes), found {bad[0]}.")


def check_scores(scores: np.ndarray | None) -> None:
    """Raises UserError unless all scores lie in 0..1."""
    if scores is not None and not np.all((scores >= 0) & (scores <= 1)):
        raise UserError(f"Scores go from 0 to 1, found {scores[~((scores >= 0) & (scores <= 1))][0]}.")
