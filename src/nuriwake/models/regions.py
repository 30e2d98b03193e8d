"""RegionBranch: everything behind the pyramid that Mask R-CNN and Panoptic FPN share. Proposals, then what each shows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from nuriwake.core.limits import say_cut
from nuriwake.models.anchors import Anchors
from nuriwake.models.boxes import Size, at_least, clip_boxes, decode_boxes, encode_boxes
from nuriwake.models.matching import FOUND, Match, match_boxes, sample_candidates, spare_crowds
from nuriwake.models.outputs import RegionOutput, RegionTraining
from nuriwake.models.proposals import PROPOSAL_SCALE, ProposalHead, Proposed, choose_proposals, flatten_levels
from nuriwake.models.region_heads import REGION_SCALE, BoxHead, MaskHead, RegionPool
from nuriwake.models.region_settings import RegionSettings, Style
from nuriwake.models.truth import ObjectTruth, sample_masks

STRIDES = (4, 8, 16, 32, 64)
"""Of the maps that the branch takes."""

BOX_CELLS, MASK_CELLS = 7, 14
"""Cells per side that RoIAlign reads for a box and for a mask, which is then doubled."""

_POINTS = 2
"""Points per side of a cell of the true mask."""


class Objects(NamedTuple):
    """Of the truth of one image, what regions are taught by.

    Attributes:
        boxes: float32 (M, 4), of objects that are no crowd and have an area.
        labels: int64 (M,), as the branch counts classes.
        number: int64 (M,), in the truth.
        crowds: float32 (C, 4), boxes of the crowd regions.
        truth: where the masks are.
    """

    boxes: Tensor
    labels: Tensor
    number: Tensor
    crowds: Tensor
    truth: ObjectTruth


class RegionBranch(nn.Module):
    """Maps (B, inputs, h_i, w_i) at strides 4 to 64 -> boxes with a class, a score and a mask each.

    Args:
        classes: real classes.
        style: as published; see `STYLES`.
        settings: numbers that can be chosen.
        unused_classes: further logits that take part in the softmax and are never answered.
    """

    def __init__(
        self, inputs: int, classes: int, *, style: Style, settings: RegionSettings, unused_classes: int = 0
    ) -> None:
        super().__init__()
        self.classes, self.style, self.settings = classes, style, settings
        self.anchors = Anchors(
            settings.anchor_sizes, settings.anchor_ratios, style.rounded_anchors, style.fitted_anchors
        )
        self.proposal_head = ProposalHead(inputs, len(settings.anchor_ratios), convolutions=style.proposal_convolutions)
        self.box_pool, self.mask_pool = _pool(BOX_CELLS, style), _pool(MASK_CELLS, style)
        self.box_head = BoxHead(
            inputs,
            classes,
            classes + unused_classes + 1,
            resolution=BOX_CELLS,
            convolutions=style.box_convolutions,
            layers=style.box_layers,
            width=settings.box_width,
        )
        self.mask_head = MaskHead(inputs, classes, channels=settings.mask_channels, norm=style.mask_norm)

    def forward(self, maps: Sequence[Tensor], image: Size, padded: Size) -> RegionOutput:
        """What is found in each image.

        Args:
            maps: of the padded images.
            image: (height, width) of the images without the padding at the bottom and to the right; boxes end there.
            padded: (height, width) with it.
        """
        settings = self.settings
        proposed = self.propose(maps, padded)
        proposals = choose_proposals(
            proposed,
            image,
            candidates=settings.candidates,
            proposals=settings.proposals,
            overlap=settings.proposal_overlap,
            smallest=self.style.smallest_proposal,
            told_as="regions.proposals",
        )
        boxes, rows = _joined(proposals)
        class_logits, offsets = self.box_head(self.box_pool(maps[:4], boxes, rows))
        scores = class_logits.float().softmax(dim=1)[:, : self.classes]
        found = clip_boxes(decode_boxes(offsets.float(), boxes[:, None], REGION_SCALE), image)
        kept = [self._detect(found[rows == row], scores[rows == row]) for row in range(len(proposals))]
        boxes, rows = _joined([item[0] for item in kept])
        scores, labels = torch.cat([item[1] for item in kept]), torch.cat([item[2] for item in kept])
        logits = self.mask_head(self.mask_pool(maps[:4], boxes, rows))
        masks = logits[torch.arange(len(labels), device=labels.device), labels].float().sigmoid()
        return RegionOutput(boxes, scores, labels, masks, rows)

    def propose(self, maps: Sequence[Tensor], padded: Size) -> Proposed:
        """What the proposal network says of every anchor."""
        logits, offsets = self.proposal_head(maps)
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        return flatten_levels(logits, offsets, self.anchors(shapes, STRIDES, padded, maps[0].device))

    def _detect(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, classes, 4) and scores (N, classes) of one image -> the kept boxes (D, 4), scores and labels, best first."""
        rows, labels = (scores > self.settings.score_threshold).nonzero(as_tuple=True)
        boxes, scores = boxes[rows, labels], scores[rows, labels]
        if self.style.smallest_detection is not None:
            large = at_least(boxes, self.style.smallest_detection)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        keep = batched_nms(boxes, scores, labels, self.settings.nms_threshold)
        if len(keep) > self.settings.detections:
            remedy = "A larger one (of the model's options, when it is trained or imported) keeps more."
            say_cut("detections in an image", "regions.detections", self.settings.detections, remedy=remedy)
        keep = keep[: self.settings.detections]
        keep = keep[at_least(boxes[keep], 0)]
        return boxes[keep], scores[keep], labels[keep]

    def forward_training(
        self, maps: Sequence[Tensor], padded: Size, truth: Sequence[ObjectTruth], labels: Tensor | None = None
    ) -> RegionTraining:
        """What the loss compares, for anchors and regions drawn at random (PyTorch's global generator).

        Args:
            truth: of each image, in pixels of the input.
            labels: int64, from the truth's classes to those of the branch, -1 for the classes it does not have; None
                where they are the same.
        """
        settings, image = self.settings, (truth[0].layers.shape[-2], truth[0].layers.shape[-1])
        objects = [_objects(item, labels) for item in truth]
        proposed = self.propose(maps, padded)
        anchors = self._sample_anchors(proposed, objects)
        proposals = choose_proposals(
            proposed,
            image,
            candidates=settings.training_candidates,
            proposals=settings.training_proposals,
            overlap=settings.proposal_overlap,
            smallest=self.style.smallest_proposal,
        )
        regions, matches = self._sample_regions(proposals, objects)
        return self._answers(maps, anchors, regions, matches, objects)

    def _sample_anchors(self, proposed: Proposed, objects: Sequence[Objects]) -> tuple[Tensor, ...]:
        """(objectness logits, their truth, offsets of the anchors that stand for objects, their truth) for the chosen ones."""
        parts: list[tuple[Tensor, ...]] = []
        for row, item in enumerate(objects):
            match = match_boxes(proposed.anchors, item.boxes, low=0.3, high=0.7, best_too=True)
            match = spare_crowds(match, proposed.anchors, item.crowds)
            found, nothing = sample_candidates(match.kind, self.settings.sampled_anchors, 0.5)
            chosen = torch.cat((found, nothing))
            wanted = _wanted(item, match, found, proposed.anchors[found])
            parts.append(
                (
                    proposed.logits[row, chosen],
                    match.kind[chosen].float(),
                    proposed.offsets[row, found],
                    encode_boxes(wanted, proposed.anchors[found], PROPOSAL_SCALE),
                )
            )
        return tuple(torch.cat(items) for items in zip(*parts, strict=True))

    @torch.no_grad()
    def _sample_regions(
        self, proposals: Sequence[Tensor], objects: Sequence[Objects]
    ) -> tuple[list[Tensor], list[Match]]:
        """Per image the boxes that are learnt from, those that show objects first, and what they show."""
        regions: list[Tensor] = []
        matches: list[Match] = []
        for boxes, item in zip(proposals, objects, strict=True):
            boxes = torch.cat((boxes, item.boxes))
            match = spare_crowds(match_boxes(boxes, item.boxes, low=0.5, high=0.5), boxes, item.crowds)
            chosen = torch.cat(sample_candidates(match.kind, self.settings.sampled_regions, 0.25))
            regions.append(boxes[chosen])
            matches.append(Match(match.kind[chosen], match.object[chosen]))
        return regions, matches

    def _answers(
        self,
        maps: Sequence[Tensor],
        anchors: tuple[Tensor, ...],
        regions: list[Tensor],
        matches: list[Match],
        objects: list[Objects],
    ) -> RegionTraining:
        boxes, rows = _joined(regions)
        (found,) = (torch.cat([match.kind for match in matches]) == FOUND).nonzero(as_tuple=True)
        shown = [
            (regions[row][match.kind == FOUND], match.object[match.kind == FOUND]) for row, match in enumerate(matches)
        ]
        labels = torch.cat([item.labels[index] for item, (_, index) in zip(objects, shown, strict=True)])
        truth = torch.full_like(rows, self._background)
        truth[found] = labels
        wanted = torch.cat([item.boxes[index] for item, (_, index) in zip(objects, shown, strict=True)])
        class_logits, offsets = self.box_head(self.box_pool(maps[:4], boxes, rows))
        # A mask head that saw no region would have no gradients, and a batch norm of nothing has no mean: it is shown one
        # that does not count.
        seen = found if len(found) else torch.arange(min(1, len(rows)), device=rows.device)
        masks = self.mask_head(self.mask_pool(maps[:4], boxes[seen], rows[seen]))[: len(found)]
        places = torch.arange(len(found), device=rows.device)
        return RegionTraining(
            *anchors,
            class_logits=class_logits.float(),
            class_truth=truth,
            offsets=offsets[found, labels].float(),
            offset_truth=encode_boxes(wanted, boxes[found], REGION_SCALE),
            mask_logits=masks[places, labels].float(),
            mask_truth=torch.cat(
                [
                    true_masks(item.truth, item.number[index], inside, 2 * MASK_CELLS)
                    for item, (inside, index) in zip(objects, shown, strict=True)
                ]
            ),
        )

    @property
    def _background(self) -> int:
        return self.box_head.classify.out_features - 1


@torch.no_grad()
def true_masks(truth: ObjectTruth, index: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """The masks of objects `index` (n,) as RoIAlign sees them in `boxes` (n, 4): float32 (n, cells, cells) of 0 and 1.

    A cell is 1 where the mean of the mask at 2x2 points in it is at least a half.
    """
    count = cells * _POINTS
    steps = (torch.arange(count, device=boxes.device) + 0.5) / count
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    shape = (len(boxes), count, count)
    if len(boxes) == 0:
        return boxes.new_zeros((0, cells, cells))
    values = sample_masks(truth, index, x[:, None, :].expand(shape), y[:, :, None].expand(shape))
    return (functional.avg_pool2d(values[:, None], _POINTS)[:, 0] >= 0.5).float()


def _pool(cells: int, style: Style) -> RegionPool:
    return RegionPool(cells, aligned=style.aligned, sampling=style.sampling, level_margin=style.level_margin)


def _joined(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes per image -> all boxes (N, 4) and the image of each, int64 (N,)."""
    rows = [torch.full((len(item),), row, dtype=torch.int64, device=item.device) for row, item in enumerate(boxes)]
    return torch.cat(list(boxes)), torch.cat(rows)


def _objects(truth: ObjectTruth, labels: Tensor | None) -> Objects:
    known = truth.labels if labels is None else labels[truth.labels]
    (index,) = ((known >= 0) & ~truth.crowd & at_least(truth.boxes, 0)).nonzero(as_tuple=True)
    crowds = truth.boxes[truth.crowd & (known >= 0)]
    return Objects(truth.boxes[index], known[index], index, crowds, truth)


def _wanted(objects: Objects, match: Match, found: Tensor, instead: Tensor) -> Tensor:
    """The boxes of the objects that the candidates `found` stand for; none of either without objects."""
    return objects.boxes[match.object[found]] if len(objects.boxes) else instead
