"""Decoding of regions (Mask R-CNN) into instances: the small masks go to full resolution inside their boxes only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.limits import say_cut
from nuriwake.core.paste import paste_masks
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import Size
from nuriwake.inference.decoding import Pass, Request
from nuriwake.models.outputs import RegionOutput

Paste = Literal["aligned", "torchvision"]


@dataclass(frozen=True)
class RegionDecoder:
    """`RegionOutput` -> Instances at the size of the user's image, from high to low score.

    Args:
        score_threshold: what has a lower score is left out. The model has one of its own (option
            `regions.score_threshold`), below which it does not look for a mask.
        mask_threshold: a pixel belongs to the mask from this probability on.
        detections: at most so many objects of an image, the surest; None for all that the model gives. Where it cuts, a
            warning says so.
        paste: how a small mask is laid into its box: "aligned" as Detectron2 does it, "torchvision" as it does.

    Raises:
        UserError: a value out of range.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.0
    mask_threshold: float = 0.5
    detections: int | None = None
    paste: Paste = "aligned"

    def __post_init__(self) -> None:
        check_shares(score_threshold=self.score_threshold, mask_threshold=self.mask_threshold)
        if self.detections is not None and self.detections < 1:
            raise UserError(f"settings.decoding.detections: expected at least 1 or null, found {self.detections}.")

    def __call__(self, passes: Sequence[Pass], request: Request) -> Instances:
        """See `Decoder`."""
        output, row = next(passes[0].outputs)
        regions = regions_of(output, row, passes[0].grid.size, request.size)
        check_classes(regions.labels, request.space)
        return self.instances(regions, request.size, request.space)

    def instances(self, regions: "Regions", size: Size, space: LabelSpace) -> Instances:
        """`regions` in pixels of an image of `size`, pasted."""
        regions = regions.best(self.score_threshold, self.detections)
        return Instances(
            regions.paste(size, self.mask_threshold, self.paste),
            regions.labels,
            space,
            scores=regions.scores,
            boxes=regions.boxes,
        )


@dataclass(frozen=True)
class Regions:
    """What a `RegionOutput` says of one image, as arrays, from high to low score.

    Attributes:
        boxes: float32 (N, 4), xyxy in pixels of the user's image, inside it, none empty.
        labels: int32 (N,).
        scores: float32 (N,).
        masks: float32 (N, m, m).
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def take(self, index: np.ndarray) -> "Regions":
        """Those of `index` (numbers or bool)."""
        return Regions(self.boxes[index], self.labels[index], self.scores[index], self.masks[index])

    def best(self, score: float, count: int | None = None) -> "Regions":
        """At most `count` with at least this score."""
        chosen = np.flatnonzero(self.scores >= score)
        if count is not None and len(chosen) > count:
            say_cut("objects in an image", "settings.decoding.detections", count)
        return self.take(chosen[:count])

    def paste(self, size: Size, threshold: float, rule: Paste) -> RunMasks:
        """The masks at full size."""
        return paste_masks(self.masks, self.boxes, size, threshold, rule=rule)


def regions_of(output: RegionOutput, row: int, seen: Size, size: Size) -> Regions:
    """What `output` says of the image in `row`, which the model saw at the size `seen`, in pixels of `size`."""
    (chosen,) = (output.image == row).nonzero(as_tuple=True)
    height, width = size[0] / seen[0], size[1] / seen[1]
    boxes = _array(output.boxes[chosen]) * np.array([width, height, width, height], np.float32)
    boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
    labels = output.labels[chosen].cpu().numpy().astype(np.int32)
    scores = np.clip(_array(output.scores[chosen]), 0, 1)
    regions = Regions(boxes, labels, scores, _array(output.masks[chosen]))
    return regions.take(np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])))


def check_classes(labels: np.ndarray, space: LabelSpace) -> None:
    """Raises UserError unless every label is a class of `space`."""
    if labels.size and labels.max() >= len(space):
        raise UserError(
            f"The model answered with class {labels.max()}, but the label space has {len(space)} classes (0 to "
            f"{len(space) - 1})."
        )


def check_shares(**values: float) -> None:
    """Raises UserError unless every value lies in 0..1; the names are those of the options."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"settings.decoding.{name}: expected 0 to 1, found {value}.")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
