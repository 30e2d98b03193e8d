"""The loss of query models: a class and a mask per query, each segment of the truth answered by one query.

Cheng 2022, "Masked-attention Mask Transformer for Universal Image Segmentation" (arXiv:2112.01527), sections 3.2.3 and 3.3;
the points of the masks as PointRend chooses them (Kirillov 2020, arXiv:1912.08193, section 4.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.matching import QueryTruth, Segments, match, sample_logits, segments_of
from nuriwake.losses.terms import check_weights
from nuriwake.models.outputs import QueryOutput

WEIGHTS: Mapping[str, float] = MappingProxyType({"class": 2.0, "mask": 5.0, "dice": 5.0})
"""Published weights of the terms; the matching uses the same."""


@dataclass(frozen=True)
class QueryLoss:
    """Settings of `QueryCriterion`; the defaults are the published ones.

    Args:
        weights: of the terms "class", "mask" and "dice", in place of those in `WEIGHTS`; 0 takes a term out.
        no_object_weight: what a query without a segment counts in the cross entropy of the classes.
        auxiliary_weight: of every earlier answer.
        points: places per mask at which masks are compared.
        oversample: so many times `points` are drawn at random, from which the least certain are taken.
        importance: share of `points` that is taken so; the rest is drawn at random.

    Raises:
        UserError: an unknown term (with the nearest), or a number out of range.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    no_object_weight: float = 0.1
    auxiliary_weight: float = 1.0
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75

    def __post_init__(self) -> None:
        check_weights(self.weights, WEIGHTS, "queries")
        if self.no_object_weight <= 0:
            raise UserError(f"no_object_weight is above 0, found {self.no_object_weight}.")
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise UserError(
                "The points of the masks' loss are at least 1, oversampled at least once, with an importance of 0 to 1; "
                f"found {self.points}, {self.oversample} and {self.importance}."
            )


class QueryCriterion(nn.Module):
    """Cross entropy of the classes, binary cross entropy and dice of the masks, for the last and all earlier answers.

    Pixels of IGNORE (semantic, panoptic) and of crowds count nowhere: points there are left out of the masks' costs and
    losses. Random numbers come from PyTorch's global generator alone.

    Args:
        settings: None takes the published ones.
        class_weights: (classes,), of the classes in their cross entropy; None: 1 each.
    """

    class_weights: Tensor | None

    def __init__(self, settings: QueryLoss | None = None, *, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.settings = settings or QueryLoss()
        self.weights = {**WEIGHTS, **self.settings.weights}
        # Not persistent: the weights belong to the configuration, and a model's checkpoint must not depend on its loss.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, output: QueryOutput, truth: QueryTruth) -> dict[str, Tensor]:
        """Named terms, already weighted: their sum is the loss. Scalars, float32; "auxiliary" sums all earlier answers.

        Args:
            output: of any dtype; computed in float32 whatever autocast says.
            truth: int64 (B, H, W) of classes and IGNORE; or B `ObjectTruth`; or `PanopticTruth`. Of any resolution.
        """
        with torch.autocast(output.class_logits.device.type, enabled=False):
            segments = segments_of(truth)
            named = self._terms(output.class_logits.float(), output.mask_logits.float(), segments)
            if output.auxiliary:
                earlier = [self._terms(classes.float(), masks.float(), segments) for classes, masks in output.auxiliary]
                total = torch.stack([torch.stack(list(terms.values())).sum() for terms in earlier]).sum()
                named["auxiliary"] = self.settings.auxiliary_weight * total
        return named

    def _terms(self, class_logits: Tensor, mask_logits: Tensor, segments: list[Segments]) -> dict[str, Tensor]:
        weights = self.weights
        costs = (weights["class"], weights["mask"], weights["dice"])
        pairs = match(class_logits, mask_logits, segments, costs=costs, points=self.settings.points)
        mask, dice = self._masks(mask_logits, segments, pairs)
        return {
            "class": weights["class"] * self._classes(class_logits, segments, pairs),
            "mask": weights["mask"] * mask,
            "dice": weights["dice"] * dice,
        }

    def _classes(self, logits: Tensor, segments: list[Segments], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The mean of -log p(class) over all queries, weighted by class."""
        nothing = logits.shape[-1] - 1
        labels = torch.full(logits.shape[:2], nothing, dtype=torch.int64, device=logits.device)
        for image, (item, (queries, rows)) in enumerate(zip(segments, pairs, strict=True)):
            labels[image, queries] = item.labels[rows]
        weight = logits.new_ones(nothing + 1)
        if self.class_weights is not None:
            weight[:nothing] = self.class_weights
        weight[nothing] = self.settings.no_object_weight
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)

    def _masks(
        self, logits: Tensor, segments: list[Segments], pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and dice, each the mean over the segments of the batch; 0 without any."""
        chosen = torch.cat([logits[image, queries] for image, (queries, _) in enumerate(pairs)])
        if len(chosen) == 0:
            return chosen.sum(), chosen.sum()
        rows = [rows for _, rows in pairs]
        with torch.no_grad():
            places = choose_points(chosen, segments, rows, self.settings)
            truth, counts = read_segments(segments, rows, places)
        found = sample_logits(chosen, places)
        wanted = sum(len(item.wanted) for item in segments)
        return cross_entropy(found, truth, counts) / wanted, dice(found, truth, counts) / wanted

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())


def cross_entropy(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """The sum over masks of the mean over points that count, all (n, P): binary cross entropy."""
    losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * counts
    return (losses.sum(1) / counts.sum(1).clamp_min(1)).sum()


def dice(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """The sum over masks (n, P) of 1 - (2 |x y| + 1) / (|x| + |y| + 1) over the points that count."""
    found, truth = logits.sigmoid() * counts, truth * counts
    return (1 - (2 * (found * truth).sum(1) + 1) / (found.sum(1) + truth.sum(1) + 1)).sum()


def choose_points(logits: Tensor, segments: list[Segments], rows: list[Tensor], settings: QueryLoss) -> Tensor:
    """Places (n, points, 2) for the masks `logits` (n, h, w): the least certain of many, and some at random."""
    many, certain = int(settings.points * settings.oversample), int(settings.importance * settings.points)
    places = torch.rand(len(logits), many, 2, device=logits.device)
    doubt = -sample_logits(logits, places).abs()
    if any(item.void is not None for item in segments):
        # Points that do not count come last.
        doubt = doubt.masked_fill(~read_segments(segments, rows, places)[1], -torch.inf)
    best = doubt.topk(certain, dim=1).indices
    best_places = places.gather(1, best[:, :, None].expand(-1, -1, 2))
    others = torch.rand(len(logits), settings.points - certain, 2, device=logits.device)
    return torch.cat([best_places, others], dim=1)


def read_segments(segments: list[Segments], rows: list[Tensor], places: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage and counts (n, P) of the matched segments of all images at `places` (n, P, 2), in their order."""
    parts = places.split([len(row) for row in rows])
    read = [item.read(row, part) for item, row, part in zip(segments, rows, parts, strict=True)]
    return torch.cat([coverage for coverage, _ in read]), torch.cat([counts for _, counts in read])
