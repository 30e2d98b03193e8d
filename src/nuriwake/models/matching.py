"""Which candidate box stands for which object, and a random choice among the candidates: how regions are taught."""

from typing import NamedTuple

import torch
from torch import Tensor

from nuriwake.models.boxes import box_overlaps, covered_shares

FOUND, NOTHING, UNDECIDED = 1, 0, -1
"""A candidate stands for an object, for background, or for neither and is not learnt from."""

_AT_ONCE = 64
"""Objects compared with all candidates at a time: 268,000 anchors and 1,000 objects would be a table of 1 GB."""

CROWD_SHARE = 0.7
"""A candidate with more than this share of its area in a crowd region is no background (Detectron's TRAIN.CROWD_FILTER_THRESH)."""


class Match(NamedTuple):
    """What each of N candidates stands for.

    Attributes:
        kind: int64 (N,): FOUND, NOTHING or UNDECIDED.
        object: int64 (N,): that it overlaps most; 0 where there is none.
    """

    kind: Tensor
    object: Tensor


@torch.no_grad()
def match_boxes(candidates: Tensor, objects: Tensor, *, low: float, high: float, best_too: bool = False) -> Match:
    """Candidates (N, 4) against objects (M, 4) by intersection over union (Faster R-CNN, section 3.1.2).

    Args:
        low: below it a candidate is background.
        high: from it on a candidate stands for the object it overlaps most; between the two it is undecided.
        best_too: the candidates that overlap an object as much as any does stand for something whatever the overlap, as
            long as there is some.
    """
    overlap = candidates.new_zeros(len(candidates))
    index = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
    best = torch.zeros(len(candidates), dtype=torch.bool, device=candidates.device)
    for start in range(0, len(objects), _AT_ONCE):
        table = box_overlaps(objects[start : start + _AT_ONCE], candidates)
        values, rows = table.max(dim=0)
        index = torch.where(values > overlap, rows + start, index)
        overlap = torch.maximum(values, overlap)
        if best_too and len(candidates):
            most = table.amax(dim=1, keepdim=True)
            best |= ((table == most) & (most > 0)).any(dim=0)
    kind = torch.full_like(index, UNDECIDED)
    kind[overlap < low] = NOTHING
    kind[(overlap >= high) | best] = FOUND
    return Match(kind, index)


def spare_crowds(match: Match, candidates: Tensor, crowds: Tensor) -> Match:
    """Background inside crowd regions (C, 4) is undecided: there are objects in it that nobody drew."""
    inside = covered_shares(candidates, crowds) > CROWD_SHARE
    return match._replace(kind=match.kind.masked_fill((match.kind == NOTHING) & inside, UNDECIDED))


def sample_candidates(kind: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """A random choice of at most `count` candidates, from PyTorch's global generator: indices (found, background), int64.

    Args:
        kind: as in `Match`.
        share: at most this share of `count` stands for objects; background fills the rest.
    """
    found, nothing = (kind == FOUND).nonzero()[:, 0], (kind == NOTHING).nonzero()[:, 0]
    found = _choose(found, min(len(found), int(count * share)))
    return found, _choose(nothing, min(len(nothing), count - len(found)))


def _choose(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
