"""The region proposal network (Ren et al. 2015, arXiv:1506.01497) over a feature pyramid (arXiv:1612.03144, section 4.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from nuriwake.core.limits import say_cut
from nuriwake.models.boxes import Scale, Size, at_least, clip_boxes, decode_boxes

PROPOSAL_SCALE: Scale = (1.0, 1.0, 1.0, 1.0)


class Proposed(NamedTuple):
    """What the proposal network says of every anchor of every image, A in all.

    Attributes:
        logits: float32 (B, A), high where there is an object.
        offsets: float32 (B, A, 4), from the anchor to the object's box.
        anchors: float32 (A, 4).
        counts: anchors per level; they follow each other level by level.
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class ProposalHead(nn.Module):
    """Maps (B, inputs, h_i, w_i) -> per map the logits (B, shapes, h_i, w_i) and offsets (B, 4 * shapes, h_i, w_i)."""

    def __init__(self, inputs: int, shapes: int, *, convolutions: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, inputs, 3, padding=1) for _ in range(convolutions))
        self.objectness = nn.Conv2d(inputs, shapes, 1)
        self.offsets = nn.Conv2d(inputs, shapes * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits: list[Tensor] = []
        offsets: list[Tensor] = []
        for x in maps:
            for convolution in self.convolutions:
                x = convolution(x).relu()
            logits.append(self.objectness(x))
            offsets.append(self.offsets(x))
        return logits, offsets


def flatten_levels(logits: Sequence[Tensor], offsets: Sequence[Tensor], anchors: Sequence[Tensor]) -> Proposed:
    """The head's answers in the order of `anchors` (per level (h * w * shapes, 4)), in float32 whatever autocast says."""
    flat = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    wide = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in offsets]
    counts = tuple(len(level) for level in anchors)
    return Proposed(torch.cat(flat, 1).float(), torch.cat(wide, 1).float(), torch.cat(list(anchors)), counts)


@torch.no_grad()
def choose_proposals(
    proposed: Proposed,
    size: Size,
    *,
    candidates: int,
    proposals: int,
    overlap: float,
    smallest: float,
    told_as: str = "",
) -> list[Tensor]:
    """Per image the best boxes, float32 (N, 4), N <= `proposals`, from likely to unlikely, inside an image of `size`.

    The best `candidates` of each level are cut to the image; those with a side below `smallest` go, and of two of one
    level that overlap by more than `overlap` the less likely. The rest are nearly always more than `proposals`; a warning says
    so where the limit, called `told_as`, leaves out one that is likelier an object than not; and one of `candidates` does.
    """
    chosen, levels = _best_of_levels(proposed, candidates)
    if told_as and _likely_beyond(proposed, candidates):
        say_cut("likely anchors in a level of the pyramid", told_as.replace("proposals", "candidates"), candidates)
    logits = proposed.logits.gather(1, chosen)
    offsets = proposed.offsets.gather(1, chosen[..., None].expand(-1, -1, 4))
    boxes = clip_boxes(decode_boxes(offsets, proposed.anchors[chosen], PROPOSAL_SCALE), size)
    found: list[Tensor] = []
    for image_boxes, image_logits in zip(boxes, logits, strict=True):
        keep = at_least(image_boxes, smallest) & image_logits.isfinite()
        kept_boxes = image_boxes[keep]
        kept_logits = image_logits[keep]
        best = batched_nms(kept_boxes, kept_logits, levels[keep], overlap)
        if told_as and len(best) > proposals and kept_logits[best[proposals]] > 0:
            say_cut("likely places of objects in an image", told_as, proposals)
        found.append(kept_boxes[best[:proposals]])
    return found


def _likely_beyond(proposed: Proposed, candidates: int) -> bool:
    """Whether a level of an image has more than `candidates` anchors that are likelier an object than not."""
    levels = proposed.logits.split(list(proposed.counts), dim=1)
    return any(bool(((level > 0).sum(1) > candidates).any()) for level in levels if level.shape[1] > candidates)


def _best_of_levels(proposed: Proposed, candidates: int) -> tuple[Tensor, Tensor]:
    """Indices of anchors (B, C), level by level, and the level of each, (C,)."""
    chosen: list[Tensor] = []
    levels: list[Tensor] = []
    start = 0
    for level, count in enumerate(proposed.counts):
        best = proposed.logits[:, start : start + count].topk(min(candidates, count), dim=1).indices
        chosen.append(best + start)
        levels.append(torch.full_like(best[0], level))
        start += count
    return torch.cat(chosen, dim=1), torch.cat(levels)
