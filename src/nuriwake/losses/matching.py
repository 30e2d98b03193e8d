"""Which query answers for which segment: the cheapest assignment, from costs at random points (Cheng 2022, section 3.2)."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from nuriwake.core.labels import IGNORE
from nuriwake.core.limits import say_cut
from nuriwake.models.truth import ObjectTruth, PanopticTruth, object_masks, sample_masks

QueryTruth = Tensor | tuple[ObjectTruth, ...] | PanopticTruth
"""Semantic: int64 (B, H, W) of classes and IGNORE. Instance: objects per image. Panoptic."""


class Segments(NamedTuple):
    """The truth of one image, whatever the task: what is to be found, and where nothing is right or wrong.

    Attributes:
        objects: all of them, crowds too.
        wanted: int64 (N,), the indices of those that are to be found.
        void: bool (H, W), pixels that do not count, those of crowds among them; None when all do.
    """

    objects: ObjectTruth
    wanted: Tensor
    void: Tensor | None

    @property
    def labels(self) -> Tensor:
        """int64 (N,), the classes of the wanted."""
        return self.objects.labels[self.wanted]

    def read(self, indices: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and counted places at points.

        Args:
            indices: int64 (n,), rows of `wanted`.
            points: float32 (n, P, 2), (x, y) as shares of the width and height.

        Returns:
            Coverage 0..1 (n, P), bilinear, and bool (n, P): does the point count.
        """
        height, width = self.objects.layers.shape[-2:]
        x, y = points[..., 0] * width, points[..., 1] * height
        return sample_masks(self.objects, self.wanted[indices], x, y), self._counts(x, y)

    def read_all(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As `read` for all N wanted at the same points (P, 2): coverage (N, P), counts (P,)."""
        height, width = self.objects.layers.shape[-2:]
        x, y = points[:, 0] * width, points[:, 1] * height
        shape = (len(self.wanted), len(points))
        return sample_masks(self.objects, self.wanted, x.expand(shape), y.expand(shape)), self._counts(x, y)

    def _counts(self, x: Tensor, y: Tensor) -> Tensor:
        if self.void is None:
            return torch.ones_like(x, dtype=torch.bool)
        height, width = self.void.shape
        return ~self.void[y.long().clamp(0, height - 1), x.long().clamp(0, width - 1)]


def segments_of(truth: QueryTruth) -> list[Segments]:
    """The truth of every image in one form. A class of a label map is one segment."""
    if isinstance(truth, Tensor):
        return [_of_labels(labels) for labels in truth]
    if isinstance(truth, PanopticTruth):
        pairs = zip(truth.segments, truth.labels, strict=True)
        return [_of_objects(objects, labels == IGNORE) for objects, labels in pairs]
    return [_of_objects(objects, None) for objects in truth]


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Maps (n, h, w) read at points (n, P, 2), shares of width and height: (n, P), bilinear, 0 beyond the border."""
    if len(logits) == 0:
        return logits.flatten(1)[:, :0].expand(0, points.shape[1])
    return functional.grid_sample(logits[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    segments: list[Segments],
    *,
    costs: tuple[float, float, float],
    points: int,
) -> list[tuple[Tensor, Tensor]]:
    """The cheapest one-to-one assignment of each image, by the Hungarian method.

    Args:
        class_logits: float32 (B, Q, classes + 1).
        mask_logits: float32 (B, Q, h, w).
        segments: of the B images.
        costs: factors of the class's probability, the masks' cross entropy and their dice.
        points: how many random places per image the masks are compared at, the same for all pairs.

    Returns:
        Per image (queries, rows of `wanted`), int64 (min(Q, N),) each, on the logits' device.
    """
    tables = [
        _costs(class_logits[image], mask_logits[image], item, costs, points) for image, item in enumerate(segments)
    ]
    queries = class_logits.shape[1]
    if max((len(item.wanted) for item in segments), default=0) > queries:
        lost = "of each image only as many as these are learnt from"
        say_cut("segments in a training image", "model.options.queries", queries, lost=lost)
    device = class_logits.device
    if device.type != "cpu":
        # One transfer for the batch.
        flat = torch.cat([table.flatten() for table in tables]).cpu()
        sizes = [table.numel() for table in tables]
        tables = [part.view(table.shape) for part, table in zip(flat.split(sizes), tables, strict=True)]
    found = [linear_sum_assignment(table.numpy()) for table in tables]
    return [(_index(queries, device), _index(rows, device)) for queries, rows in found]


def _costs(
    class_logits: Tensor, mask_logits: Tensor, segments: Segments, costs: tuple[float, float, float], points: int
) -> Tensor:
    """float32 (Q, N)"""
    places = torch.rand(points, 2, device=mask_logits.device)
    truth, counts = segments.read_all(places)
    logits = functional.grid_sample(mask_logits[None], 2 * places[None, None] - 1, align_corners=False)[0, :, 0]
    weight = counts.to(logits.dtype)
    covered, total = truth * weight, weight.sum().clamp_min(1)
    # -log p(x) = softplus(-x) = softplus(x) - x, so that both halves of the cross entropy take one pass.
    negative = functional.softplus(logits)
    mask = ((negative @ weight)[:, None] - logits @ covered.T) / total
    probability = logits.sigmoid() * weight
    dice = 1 - (2 * (probability @ covered.T) + 1) / (probability.sum(1)[:, None] + covered.sum(1)[None] + 1)
    label = -class_logits.softmax(-1)[:, segments.labels]
    table = costs[0] * label + costs[1] * mask + costs[2] * dice
    return table.nan_to_num(0.0, posinf=1e10, neginf=-1e10).clamp(-1e10, 1e10)


def _of_labels(labels: Tensor) -> Segments:
    """int64 (H, W) -> a segment per class."""
    void = labels == IGNORE
    present = labels.unique()
    present = present[present != IGNORE]
    numbers = torch.zeros(IGNORE + 1, dtype=torch.int16, device=labels.device)
    numbers[present] = torch.arange(1, len(present) + 1, dtype=torch.int16, device=labels.device)
    every = torch.zeros_like(present)
    boxes = torch.zeros(len(present), 4, device=labels.device)  # nobody asks for them
    objects = ObjectTruth(boxes, present, every.bool(), numbers[labels][None], every)
    return _of_objects(objects, void)


def _of_objects(objects: ObjectTruth, void: Tensor | None) -> Segments:
    crowds = objects.crowd.nonzero()[:, 0]
    for mask in object_masks(objects, crowds):
        void = mask if void is None else void | mask
    return Segments(objects, (~objects.crowd).nonzero()[:, 0], void)


def _index(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
