"""Decoding of priors and prototypes (YOLACT) into instances: fast suppression, masks assembled inside their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.enlarge import Axis, bilinear_axis, enlarge_masks
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.limits import say_cut
from nuriwake.core.runs import RunMasks
from nuriwake.inference.decoding import Pass, Request
from nuriwake.models.boxes import box_overlaps, decode_boxes
from nuriwake.models.priors import OFFSET_SCALE, corners

_TOGETHER = 64
"""Small masks held at once on their way to full size."""


@dataclass(frozen=True)
class PrototypeDecoder:
    """`PrototypeOutput` -> Instances at the size of the user's image, from the surest to the least sure.

    As the authors' code does it (Bolya et al. 2019, sections 3.2 and 3.3): boxes of each class suppress those of the same
    class that are less sure and overlap them, even where they are suppressed themselves ("fast NMS"); masks are the
    sigmoid of the weighted prototypes, set to 0 outside the box, a cell wider on every side, and enlarged bilinearly.

    Args:
        score_threshold: only classes of a higher probability are found.
        overlap_threshold: a box that overlaps a surer one by more than this (intersection over union) is left out.
        mask_threshold: pixels with a higher value belong to the mask.
        candidates: at most so many boxes of each class, the surest, take part in suppression (the authors: 200). More only
            adds less sure instances behind the others.
        detections: at most so many instances of an image, the surest. Where this or `candidates` cuts, a warning says so.
        across_classes: boxes suppress those of all classes, and a prior counts for its surest class only.

    Raises:
        UserError: a value out of range.
    """

    score_threshold: float = 0.05
    overlap_threshold: float = 0.5
    mask_threshold: float = 0.5
    candidates: int = 1000
    detections: int = 100
    across_classes: bool = False
    blends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("score_threshold", "overlap_threshold", "mask_threshold"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"settings.decoding.{name}: expected 0 to below 1, found {value}.")
        for name in ("candidates", "detections"):
            if getattr(self, name) < 1:
                raise UserError(f"settings.decoding.{name}: expected at least 1, found {getattr(self, name)}.")

    def __call__(self, passes: Sequence[Pass], request: Request) -> Instances:
        """See `Decoder`."""
        grid = passes[0].grid
        output, row = next(passes[0].outputs)
        found = self.detect(output, row)
        if output.class_logits.shape[2] != len(request.space) + 1:
            raise UserError(
                f"The model tells {output.class_logits.shape[2] - 1} classes apart, but the label space has "
                f"{len(request.space)}."
            )
        prototypes = output.prototypes[row].float().cpu().numpy()
        rows, columns = (_axis(prototypes.shape[1 + i], grid.input[i], grid.size[i], request.size[i]) for i in (0, 1))
        masks = assemble(found.coefficients, prototypes, found.boxes, rows, columns, threshold=self.mask_threshold)
        scale = [grid.input[i] / grid.size[i] * request.size[i] for i in (1, 0, 1, 0)]
        limits = [request.size[i] for i in (1, 0, 1, 0)]
        boxes = np.clip(np.sort((found.boxes * scale).reshape(-1, 2, 2), axis=1).reshape(-1, 4), 0, limits)
        return Instances(
            masks, found.labels.astype(np.int32), request.space, scores=found.scores, boxes=boxes.astype(np.float32)
        )

    def detect(self, output: Any, row: int) -> "Detections":
        """What is found in image `row` of a `PrototypeOutput`, before the masks are made."""
        scores = output.class_logits[row].float().softmax(dim=1)[:, 1:]
        if self.across_classes:
            scores = scores * (scores == scores.amax(dim=1, keepdim=True))
        prior, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        order = scores[prior, label].argsort(descending=True, stable=True)
        prior, label = prior[order], label[order]
        boxes = decode_boxes(output.deltas[row, prior].float(), corners(output.priors[prior].float()), OFFSET_SCALE)
        groups = torch.zeros_like(label) if self.across_classes else label
        kept = [self._kept((groups == group).nonzero()[:, 0], boxes) for group in groups.unique().tolist()]
        chosen = torch.cat([label.new_zeros(0), *kept]).sort().values
        if len(chosen) > self.detections:
            say_cut("instances in an image", "settings.decoding.detections", self.detections)
        chosen = chosen[: self.detections]
        prior, label = prior[chosen], label[chosen]
        fields = (boxes[chosen], label, scores[prior, label], output.coefficients[row, prior].float())
        return Detections(*(field.cpu().numpy() for field in fields))

    def _kept(self, candidates: Tensor, boxes: Tensor) -> Tensor:
        """Those of `candidates` (int64 (k,), from the surest on) that no surer one overlaps too much."""
        if len(candidates) > self.candidates:
            say_cut("boxes of a class in an image", "settings.decoding.candidates", self.candidates)
        candidates = candidates[: self.candidates]
        shared = box_overlaps(boxes[candidates], boxes[candidates]).triu(diagonal=1)
        return candidates[shared.amax(dim=0) <= self.overlap_threshold]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, from the surest to the least sure.

    Attributes:
        boxes: float32 (n, 4), xyxy as shares of the input, possibly beyond it.
        labels: int64 (n,).
        scores: float32 (n,).
        coefficients: float32 (n, P), of the prototypes.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    coefficients: np.ndarray


def assemble(
    coefficients: np.ndarray,
    prototypes: np.ndarray,
    boxes: np.ndarray,
    rows: Axis,
    columns: Axis,
    *,
    threshold: float,
) -> RunMasks:
    """The masks at full size; prototypes are combined inside the boxes only, and no full-size image is ever made.

    Args:
        coefficients: float32 (n, P).
        prototypes: float32 (P, h, w).
        boxes: float32 (n, 4), xyxy as shares of the prototypes' extent.
        rows, columns: how the h rows and the w columns become those of the image.
        threshold: a pixel above it belongs to the mask.
    """
    size = (len(rows.first), len(columns.first))
    parts = [RunMasks.empty(size)]
    for start in range(0, len(boxes), _TOGETHER):
        chunk = slice(start, start + _TOGETHER)
        small = small_masks(coefficients[chunk], prototypes, boxes[chunk])
        parts.append(enlarge_masks(small, rows, columns, threshold=threshold))
    return RunMasks.concatenate(parts)


def small_masks(coefficients: np.ndarray, prototypes: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """float32 (n, h, w), 0..1: the combined prototypes inside the boxes and 0 outside. Arguments as in `assemble`."""
    height, width = prototypes.shape[1:]
    small = np.zeros((len(boxes), height, width), np.float32)
    for mask, weights, (left, top, right, bottom) in zip(small, coefficients, boxes, strict=True):
        inside = (_cells(top, bottom, height), _cells(left, right, width))
        part = prototypes[:, *inside]
        values = weights @ part.reshape(len(part), -1)
        with np.errstate(over="ignore"):
            mask[inside] = (1 / (1 + np.exp(-values))).reshape(part.shape[1:])
    return small


def _cells(begin: float, end: float, count: int) -> slice:
    """The cells, of `count`, of a box's side in shares, one more on either end; a cell counts by its upper left corner."""
    first, last = sorted(min(max(side * count, -2.0), count + 2.0) for side in (begin, end))
    return slice(ceil(max(first - 1, 0)), max(ceil(min(last + 1, count)), 0))


def _axis(cells: int, given: int, seen: int, wanted: int) -> Axis:
    """From `cells` of a prototype, which cover the `given` pixels of the input, of which the first `seen` are the image, to
    the `wanted` pixels of the user's image."""
    if given == seen:
        return bilinear_axis(cells, wanted)
    return bilinear_axis(cells, given).head(seen).then(bilinear_axis(seen, wanted))
