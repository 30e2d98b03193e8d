"""The losses of Mask R-CNN and Panoptic FPN, from the regions that the model drew to learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses.terms import check_weights
from nuriwake.models.outputs import RegionPixelTraining, RegionTraining, fit_logits
from nuriwake.models.truth import ObjectTruth, PanopticTruth

WEIGHTS: Mapping[str, float] = {
    "objectness": 1.0,
    "proposal_box": 1.0,
    "class": 1.0,
    "box": 1.0,
    "mask": 1.0,
    "semantic": 0.5,
}
"""Detectron2's (Base-RCNN-FPN.yaml, Base-Panoptic-FPN.yaml); "semantic" counts for Panoptic FPN alone."""


@dataclass(frozen=True)
class RegionLoss:
    """What can be chosen of the loss.

    Args:
        weights: term -> weight, in place of some of `WEIGHTS`.
        smoothness: below this error the box terms are quadratic: 0 (L1) in Detectron2, 1/9 in torchvision.

    Raises:
        UserError: an unknown term, or a number below 0.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        check_weights(self.weights, WEIGHTS, "regions")
        if not self.smoothness >= 0:
            raise UserError(f"smoothness is a number from 0 on, found {self.smoothness}.")


class RegionCriterion(nn.Module):
    """The loss of Mask R-CNN (He et al. 2017, section 3; Ren et al. 2015, equation 1), term by term:

    - objectness: mean binary cross entropy over the drawn anchors.
    - proposal_box: smooth L1 over the offsets of those that stand for an object, per drawn anchor.
    - class: mean cross entropy over the drawn regions, background among them.
    - box: smooth L1 over the offsets of those that show an object, per drawn region.
    - mask: mean binary cross entropy over the masks of the objects' classes; 0 without an object.
    """

    def __init__(self, settings: RegionLoss | None = None) -> None:
        super().__init__()
        self.settings = settings or RegionLoss()
        self.weights = {**WEIGHTS, **self.settings.weights}

    def forward(self, output: RegionTraining, truth: Sequence[ObjectTruth]) -> dict[str, Tensor]:
        """Named terms, already weighted: their sum is the loss. Scalars, float32 whatever autocast says.

        Args:
            output: of `forward_training`, which has taken all it needs from the truth.
            truth: not looked at.
        """
        with torch.autocast(output.class_logits.device.type, enabled=False):
            terms = {
                "objectness": _mean(
                    functional.binary_cross_entropy_with_logits(
                        output.objectness, output.objectness_truth, reduction="sum"
                    ),
                    output.objectness.numel(),
                ),
                "proposal_box": _mean(
                    self._distance(output.proposal_offsets, output.proposal_offset_truth), output.objectness.numel()
                ),
                "class": _mean(
                    functional.cross_entropy(output.class_logits, output.class_truth, reduction="sum"),
                    len(output.class_truth),
                ),
                "box": _mean(self._distance(output.offsets, output.offset_truth), len(output.class_truth)),
                "mask": _mean(
                    functional.binary_cross_entropy_with_logits(output.mask_logits, output.mask_truth, reduction="sum"),
                    output.mask_logits.numel(),
                ),
            }
            return {name: self.weights[name] * term for name, term in terms.items()}

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        return functional.smooth_l1_loss(found, wanted, beta=self.settings.smoothness, reduction="sum")

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())


class RegionPixelCriterion(nn.Module):
    """The loss of Panoptic FPN (Kirillov et al. 2019, section 3): that of `RegionCriterion` for the things, and

    - semantic: mean cross entropy over the pixels, of the stuff classes and one class for all things.

    Args:
        things: per class of the label space, whether it is a thing.
    """

    def __init__(self, things: Sequence[bool], settings: RegionLoss | None = None) -> None:
        super().__init__()
        self.regions = RegionCriterion(settings)
        self.channels: Tensor
        # Not persistent: a model's checkpoint must not depend on its loss.
        self.register_buffer("channels", semantic_channels(things), persistent=False)

    def forward(self, output: RegionPixelTraining, truth: PanopticTruth) -> dict[str, Tensor]:
        """See `RegionCriterion.forward`; pixels with the label `IGNORE` do not count."""
        with torch.autocast(output.logits.device.type, enabled=False):
            labels = self.channels[truth.labels]
            logits = fit_logits(output.logits.float(), (labels.shape[-2], labels.shape[-1]))
            total = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
            semantic = total / (labels != IGNORE).sum().clamp(min=1)
        return {
            **self.regions(output.regions, truth.segments),
            "semantic": self.regions.weights["semantic"] * semantic,
        }


def semantic_channels(things: Sequence[bool]) -> Tensor:
    """Label (0 to 255) -> channel of the semantic head, int64 (256,): things 0, stuff 1, 2, ...; `IGNORE` stays."""
    channels = torch.full((IGNORE + 1,), IGNORE, dtype=torch.int64)
    stuff = 0
    for label, thing in enumerate(things):
        stuff += not thing
        channels[label] = 0 if thing else stuff
    return channels


def _mean(total: Tensor, count: int) -> Tensor:
    return total / max(count, 1)
