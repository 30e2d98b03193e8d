"""The loss of YOLACT (Bolya et al. 2019, arXiv:1904.02689, section 3; SSD's, Liu et al. 2016, for boxes and classes).

Shape letters: B images, N priors, n positive priors, M objects, P prototypes of h x w cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.terms import check_weights
from nuriwake.models.boxes import box_overlaps, covered_shares, encode_boxes
from nuriwake.models.outputs import PrototypeOutput
from nuriwake.models.priors import OFFSET_SCALE, corners
from nuriwake.models.truth import ObjectTruth, sample_masks

WEIGHTS: dict[str, float] = {"class": 1.0, "box": 1.5, "mask": 6.125, "semantic": 1.0}
"""The terms and what they weigh (the authors' configuration)."""

_TOGETHER = 64
"""Objects whose masks are read at once for the semantic term: bounds memory in crowded images."""


@dataclass(frozen=True)
class PrototypeLoss:
    """Settings of `PrototypeCriterion`; the defaults are the authors' (dbolya/yolact, data/config.py).

    Args:
        weights: term -> weight in place of that in `WEIGHTS`.
        positive_overlap: a prior belongs to the object that it overlaps most, from this intersection over union on.
        negative_overlap: below this with every object it is background; between the two it counts nowhere.
        crowd_overlap: a prior that is not positive and of which more than this share lies in one crowd counts nowhere.
        negatives: so many background priors count for every positive one of the image, the hardest.
        masks: at most so many positive priors of an image, drawn at random, take part in the mask term and stand for all.
        smallest: objects with a side of at most this share of the input's are no objects here: the masks' grid hardly shows
            them, and slivers at the edge of a crop are many. 4 pixels of 550 are what the authors' configuration says; their
            code compares the share with pixels, so that it leaves out next to nothing.

    Raises:
        UserError: an unknown term (with the nearest), or a value out of range.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    positive_overlap: float = 0.5
    negative_overlap: float = 0.4
    crowd_overlap: float = 0.7
    negatives: int = 3
    masks: int = 100
    smallest: float = 4 / 550

    def __post_init__(self) -> None:
        check_weights(self.weights, WEIGHTS, "YOLACT")
        if not 0 < self.negative_overlap <= self.positive_overlap <= 1:
            raise UserError(
                "negative_overlap and positive_overlap lie above 0 and at most at 1, the first not above the second; found "
                f"{self.negative_overlap} and {self.positive_overlap}."
            )
        if not 0 <= self.smallest < 1:
            raise UserError(f"smallest is a share of the input's side, 0 to below 1, found {self.smallest}.")
        if not 0 <= self.crowd_overlap <= 1:
            raise UserError(f"crowd_overlap is 0 to 1, found {self.crowd_overlap}.")
        if self.negatives < 1 or self.masks < 1:
            raise UserError(f"negatives and masks are at least 1, found {self.negatives} and {self.masks}.")


class Matching(NamedTuple):
    """What the priors of one image should say.

    Attributes:
        labels: int64 (N,): 1 + the class, 0 for background, -1 where it does not matter.
        objects: int64 (N,): the object that a positive prior belongs to; of no meaning elsewhere.
    """

    labels: Tensor
    objects: Tensor


class PrototypeCriterion(nn.Module):
    """The loss of YOLACT: "class" (cross entropy with hard negatives), "box" (smooth L1), "mask" (binary cross entropy of
    the assembled masks inside the true boxes) and "semantic" (per pixel and class, while training).

    Class, box and mask are sums over priors divided by the number of positive priors in the batch; semantic is the mean
    over images and cells of the sum over classes. An image without objects counts as if it had one positive prior: its
    `negatives` hardest priors learn that there is nothing (the published code leaves such images out).

    Args:
        settings: weights of the terms, overlaps, limits.
    """

    def __init__(self, settings: PrototypeLoss | None = None) -> None:
        super().__init__()
        self.settings = settings or PrototypeLoss()
        self.weights = {**WEIGHTS, **self.settings.weights}

    def forward(self, output: PrototypeOutput, truth: Sequence[ObjectTruth]) -> dict[str, Tensor]:
        """Named terms, already weighted: their sum is the loss. Scalars, computed in float32 whatever autocast says.

        Args:
            output: of a model in training mode; without the semantic logits (eval mode) that term is left out.
            truth: one per image.
        """
        with torch.autocast(output.class_logits.device.type, enabled=False):
            output = PrototypeOutput(*(part if part.dtype == torch.float64 else part.float() for part in output))
            matchings = [match(output.priors, objects, self.settings) for objects in truth]
            labels = torch.stack([matching.labels for matching in matchings])
            count = (labels > 0).sum().clamp(min=1)
            terms = {
                "class": class_term(output.class_logits, labels, negatives=self.settings.negatives) / count,
                "box": self._boxes(output, truth, matchings) / count,
                "mask": self._masks(output, truth, matchings) / count,
            }
            if output.semantic.shape[1] > 0:
                terms["semantic"] = semantic_term(output.semantic, truth)
            return {name: self.weights[name] * term for name, term in terms.items()}

    def _boxes(self, output: PrototypeOutput, truth: Sequence[ObjectTruth], matchings: Sequence[Matching]) -> Tensor:
        found, wanted, places = list[Tensor](), list[Tensor](), corners(output.priors)
        for deltas, objects, matching in zip(output.deltas, truth, matchings, strict=True):
            positive = matching.labels > 0
            found.append(deltas[positive])
            boxes = _shares(objects)[matching.objects[positive]]
            wanted.append(encode_boxes(boxes, places[positive], OFFSET_SCALE))
        return functional.smooth_l1_loss(torch.cat(found), torch.cat(wanted).to(output.deltas.dtype), reduction="sum")

    def _masks(self, output: PrototypeOutput, truth: Sequence[ObjectTruth], matchings: Sequence[Matching]) -> Tensor:
        total = output.prototypes.new_zeros(())
        for row, (objects, matching) in enumerate(zip(truth, matchings, strict=True)):
            chosen = (matching.labels > 0).nonzero()[:, 0]
            stands_for = max(len(chosen) / self.settings.masks, 1.0)
            if len(chosen) > self.settings.masks:
                # Drawn on the CPU: the same on every device.
                chosen = chosen[torch.randperm(len(chosen))[: self.settings.masks].to(chosen.device)]
            coefficients = output.coefficients[row, chosen]
            term = mask_term(output.prototypes[row], coefficients, objects, matching.objects[chosen])
            total = total + stands_for * term
        return total

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())


def match(priors: Tensor, truth: ObjectTruth, settings: PrototypeLoss) -> Matching:
    """Which object each prior belongs to.

    First by overlap, then every object gets one prior whatever the overlap is: the largest overlap of all first, each
    prior and each object once. Crowds and boxes too small (`PrototypeLoss.smallest`) are no objects here.

    Args:
        priors: (N, 4), (centre x, centre y, width, height) as shares of the input.
    """
    boxes, places = _shares(truth).to(priors.dtype), corners(priors)
    large = ((boxes[:, 2:] - boxes[:, :2]) > settings.smallest).all(dim=1)
    usable = (~truth.crowd & large).nonzero()[:, 0]
    labels = torch.zeros(len(priors), dtype=torch.long, device=priors.device)
    objects = torch.zeros_like(labels)
    if len(usable):
        shared = box_overlaps(boxes[usable], places)
        best, nearest = shared.max(dim=0)
        forced, taken = best_pairs(shared)
        best[taken], nearest[taken] = 2.0, forced
        objects = usable[nearest]
        labels = truth.labels[objects] + 1
        labels[best < settings.positive_overlap] = -1
        labels[best < settings.negative_overlap] = 0
    if bool(truth.crowd.any()):
        share = covered_shares(places, boxes[truth.crowd])
        labels[(labels <= 0) & (share > settings.crowd_overlap)] = -1
    return Matching(labels, objects)


def best_pairs(shared: Tensor) -> tuple[Tensor, Tensor]:
    """Objects and priors, int64 (k,) each, paired off from the largest value of `shared` (M, N) down to above 0; every row
    and column takes part at most once.

    A value that is the largest of its row and of its column would be taken before anything else in either: all such are
    taken at once, so that a few rounds do instead of one for every object.
    """
    left = torch.arange(len(shared), device=shared.device)
    objects, priors = list[Tensor](), list[Tensor]()
    while len(left):
        prior = shared.argmax(dim=1)
        value = shared.gather(1, prior[:, None])[:, 0]
        rival = shared[:, prior].argmax(dim=0)
        taken = (rival == torch.arange(len(left), device=left.device)) & (value > 0)
        if not bool(taken.any()):
            break
        objects.append(left[taken])
        priors.append(prior[taken])
        shared, left = shared[~taken], left[~taken]
        shared[:, prior[taken]] = -1.0
    empty = left.new_zeros(0)
    return torch.cat([empty, *objects]), torch.cat([empty, *priors])


def class_term(logits: Tensor, labels: Tensor, *, negatives: int) -> Tensor:
    """The sum of the cross entropy over the positive priors and the hardest negative ones (SSD, section 2.2).

    Args:
        logits: (B, N, classes + 1), background first.
        labels: int64 (B, N): 1 + the class, 0 for background, -1 where it does not matter.
        negatives: per positive prior of the image; the hardest are those that are least sure to be background.
    """
    positive = labels > 0
    with torch.no_grad():
        doubt = logits.logsumexp(dim=2) - logits[..., 0]
        doubt = doubt.masked_fill(labels != 0, -torch.inf)
        rank = doubt.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        wanted = negatives * positive.sum(dim=1, keepdim=True).clamp(min=1)
        counted = positive | ((rank < wanted) & (labels == 0))
    return functional.cross_entropy(logits[counted], labels[counted], reduction="sum")


def mask_term(prototypes: Tensor, coefficients: Tensor, truth: ObjectTruth, objects: Tensor) -> Tensor:
    """The sum over n masks of the binary cross entropy inside the true box, a cell wider on every side, divided by the
    box's area in cells, each side of which counts as one at least: of a box of a tenth of a cell, the cells around it
    would outweigh all other objects (at the published size no object is that small).

    Args:
        prototypes: (P, h, w).
        coefficients: (n, P).
        objects: int64 (n,), the object of each mask.
    """
    height, width = prototypes.shape[-2:]
    logits = (coefficients @ prototypes.flatten(1)).view(-1, height, width)
    if len(objects) == 0:
        return logits.sum()
    which, place = objects.unique(return_inverse=True)
    masks = small_masks(truth, which, (height, width)).to(logits.dtype)[place]
    boxes = (_shares(truth)[objects] * _four(width, height, prototypes)).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    inside = crop(boxes, (height, width))
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(dim=1)
    return ((losses * inside).sum(dim=(1, 2)) / areas).sum()


def crop(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (n, h, w): the cells of `boxes` (n, 4), in cells, and one more on every side; as published, a cell counts by its
    upper left corner."""
    y = torch.arange(size[0], device=boxes.device)[None, :, None]
    x = torch.arange(size[1], device=boxes.device)[None, None, :]
    left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(1))
    return (x >= left - 1) & (x < right + 1) & (y >= top - 1) & (y < bottom + 1)


def semantic_term(logits: Tensor, truth: Sequence[ObjectTruth]) -> Tensor:
    """The binary cross entropy of "an object of this class is here": mean over images and cells, sum over classes.

    Args:
        logits: (B, classes, h, w).
    """
    size = (logits.shape[2], logits.shape[3])
    wanted = torch.stack([_class_maps(objects, logits.shape[1], size) for objects in truth]).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return losses / (logits.shape[0] * size[0] * size[1])


def small_masks(truth: ObjectTruth, objects: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (n, *size): the masks of `objects` at low resolution, read bilinearly at the centres of the cells, above 0.5."""
    height, width = truth.layers.shape[-2:]
    y = (torch.arange(size[0], device=objects.device) + 0.5) * (height / size[0])
    x = (torch.arange(size[1], device=objects.device) + 0.5) * (width / size[1])
    shape = (len(objects), *size)
    return sample_masks(truth, objects, x.expand(shape), y[:, None].expand(shape)) > 0.5


def _class_maps(truth: ObjectTruth, classes: int, size: tuple[int, int]) -> Tensor:
    """bool (classes, *size): where the objects of each class are; crowds are no objects."""
    shown = torch.zeros((classes, *size), dtype=torch.int32, device=truth.labels.device)
    for objects in (~truth.crowd).nonzero()[:, 0].split(_TOGETHER):
        if len(objects):
            shown.index_add_(0, truth.labels[objects], small_masks(truth, objects, size).int())
    return shown > 0


def _shares(truth: ObjectTruth) -> Tensor:
    """The boxes (M, 4) as shares of the input's width and height."""
    height, width = truth.layers.shape[-2:]
    return truth.boxes / _four(width, height, truth.boxes)


def _four(width: int, height: int, like: Tensor) -> Tensor:
    return like.new_tensor([width, height, width, height])
