"""Decoding of regions and a label map (Panoptic FPN) for the three tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import instance_space, semantic_space
from nuriwake.inference.decoders.regions import Paste, RegionDecoder, check_classes, check_shares, regions_of
from nuriwake.inference.decoding import Pass, Request
from nuriwake.inference.postprocess import postprocess
from nuriwake.inference.strips import resized_strips
from nuriwake.models.outputs import RegionPixelOutput, fit_logits


@dataclass(frozen=True)
class PanopticRegionDecoder:
    """`RegionPixelOutput` -> Panoptic: the merging rule of Panoptic FPN (Kirillov et al. 2019, arXiv:1901.02446, section 3,
    after arXiv:1801.00868, section 7), as Detectron2 has it.

    Things are laid down from the surest to the least sure; each takes what is still free of its mask, and is left out when
    too much of it is taken. What is left goes to the stuff, class by class; too small a class is left void. The score of
    a segment of stuff is the mean probability of its pixels.

    Args:
        score_threshold: things of a lower score are left out.
        overlap_threshold: a thing is left out when more than this share of its mask is taken.
        stuff_area: the least pixels of a segment of stuff, in the user's image; of one that is taken in tiles, in the
            joined map.
        mask_threshold, paste: see `RegionDecoder`.

    Raises:
        UserError: a value out of range.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.5
    overlap_threshold: float = 0.5
    stuff_area: int = 4096
    mask_threshold: float = 0.5
    paste: Paste = "aligned"

    def __post_init__(self) -> None:
        check_shares(
            score_threshold=self.score_threshold,
            overlap_threshold=self.overlap_threshold,
            mask_threshold=self.mask_threshold,
        )
        if self.stuff_area < 0:
            raise UserError(f"settings.decoding.stuff_area: expected 0 pixels or more, found {self.stuff_area}.")

    def __call__(self, passes: Sequence[Pass], request: Request) -> Panoptic:
        """See `Decoder`."""
        output, row = next(passes[0].outputs)
        ids, labels, scores = self._things(output, row, passes[0], request)
        stuff = stuff_map(output, row, passes[0], request, beyond=False)
        segments = self._add_stuff(ids, stuff, first=len(labels) + 1, space=request.space)
        labels += [label for label, _ in segments]
        scores += [score for _, score in segments]
        return Panoptic(
            ids,
            np.arange(1, len(labels) + 1, dtype=np.int32),
            np.array(labels, np.int32),
            request.space,
            scores=np.clip(np.array(scores, np.float32), 0, 1),
        )

    def _things(
        self, output: RegionPixelOutput, row: int, item: Pass, request: Request
    ) -> tuple[np.ndarray, list[int], list[float]]:
        """The map with the things, numbered from 1, int32 (H, W), and the label and the score of each."""
        regions = regions_of(output.regions, row, item.grid.size, request.size).best(self.score_threshold)
        check_classes(regions.labels, request.space)
        masks = regions.paste(request.size, self.mask_threshold, self.paste)
        ids, kept = lay_down(masks, request.size, self.overlap_threshold)
        return ids, regions.labels[kept].tolist(), regions.scores[kept].tolist()

    def _add_stuff(
        self, ids: np.ndarray, stuff: "StuffMap", *, first: int, space: LabelSpace
    ) -> list[tuple[int, float]]:
        """Number the classes of stuff on what is free in `ids`, in place, from `first`; (label, score) of each."""
        free = (ids == 0) & (stuff.labels != IGNORE)
        found = stuff.labels[free]
        areas = np.bincount(found, minlength=len(space))
        sums = np.bincount(found, weights=stuff.scores[free], minlength=len(space))
        chosen = np.flatnonzero(areas >= max(self.stuff_area, 1))
        numbers = np.zeros(IGNORE + 1, np.int32)
        numbers[chosen] = np.arange(first, first + len(chosen))
        ids[free] = numbers[found]
        return [(int(label), float(sums[label] / areas[label])) for label in chosen]


@dataclass(frozen=True)
class InstanceRegionDecoder:
    """`RegionPixelOutput` -> Instances of the things, in a space of the things. Options: see `RegionDecoder`."""

    blends: ClassVar[bool] = False

    score_threshold: float = 0.0
    mask_threshold: float = 0.5
    detections: int | None = None
    paste: Paste = "aligned"

    def __post_init__(self) -> None:
        self._decoder()

    def _decoder(self) -> RegionDecoder:
        return RegionDecoder(self.score_threshold, self.mask_threshold, self.detections, self.paste)

    def __call__(self, passes: Sequence[Pass], request: Request) -> Instances:
        """See `Decoder`."""
        output, row = next(passes[0].outputs)
        regions = regions_of(output.regions, row, passes[0].grid.size, request.size)
        check_classes(regions.labels, request.space)
        place = (np.cumsum(request.space.things) - 1).astype(np.int32)
        regions = replace(regions, labels=place[regions.labels])
        return self._decoder().instances(regions, request.size, instance_space(request.space))


@dataclass(frozen=True)
class SemanticRegionDecoder:
    """`RegionPixelOutput` -> SemanticMap: things as `PanopticRegionDecoder` lays them down, elsewhere the likeliest stuff.

    Every pixel gets a class; where all classes are things, what is none of them is background
    (`core.views.semantic_space`). Options: see `PanopticRegionDecoder`.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.5
    overlap_threshold: float = 0.5
    mask_threshold: float = 0.5
    paste: Paste = "aligned"

    def __post_init__(self) -> None:
        check_shares(
            score_threshold=self.score_threshold,
            overlap_threshold=self.overlap_threshold,
            mask_threshold=self.mask_threshold,
        )

    def __call__(self, passes: Sequence[Pass], request: Request) -> SemanticMap:
        """See `Decoder`."""
        output, row = next(passes[0].outputs)
        regions = regions_of(output.regions, row, passes[0].grid.size, request.size).best(self.score_threshold)
        check_classes(regions.labels, request.space)
        masks = regions.paste(request.size, self.mask_threshold, self.paste)
        ids, kept = lay_down(masks, request.size, self.overlap_threshold)
        stuff = stuff_map(output, row, passes[0], request, beyond=True)
        space = semantic_space(request.space)
        first = len(space) - len(request.space)
        labels = np.append(0, regions.labels[kept] + first)[ids].astype(np.uint8)
        scores = np.append(0, regions.scores[kept])[ids].astype(np.float32)
        free = ids == 0
        labels[free], scores[free] = 0 if first else stuff.labels[free], stuff.scores[free]
        return SemanticMap(postprocess(labels, space, request.settings.postprocessing), space, scores=scores)


class StuffMap(NamedTuple):
    """The stuff of an image.

    Attributes:
        labels: uint8 (H, W), a class of the label space; IGNORE where it is a thing.
        scores: float32 (H, W), the probability of that class.
    """

    labels: np.ndarray
    scores: np.ndarray


def lay_down(masks: RunMasks, size: tuple[int, int], overlap_threshold: float) -> tuple[np.ndarray, list[int]]:
    """`masks` one after the other onto an empty map: int32 (H, W) with 1, 2, ... for those that stayed, and their numbers.

    A mask takes what is free of it, unless more than `overlap_threshold` of it is taken or nothing is free. Only the boxes
    of the masks are looked at.
    """
    ids = np.zeros(size, np.int32)
    kept: list[int] = []
    boxes = masks.boxes().astype(np.int64)
    for index, area in enumerate(masks.areas().tolist()):
        if area == 0:
            continue
        left, top, right, bottom = boxes[index].tolist()
        window = ids[top:bottom, left:right]
        inside = masks.crop_dense(index, boxes[index]).astype(bool)
        free = inside & (window == 0)
        taken = area - int(np.count_nonzero(free))
        if taken / area > overlap_threshold or taken == area:
            continue
        kept.append(index)
        window[free] = len(kept)
    return ids, kept


def stuff_map(output: RegionPixelOutput, row: int, item: Pass, request: Request, *, beyond: bool) -> StuffMap:
    """The likeliest class of every pixel of the user's image, strip by strip.

    Args:
        beyond: things do not stand for choice, so that every pixel gets a class of stuff, as long as there is one.
    """
    stuff = [label for label, thing in enumerate(request.space.things) if not thing]
    channels = output.logits.shape[1]
    if channels != 1 + len(stuff):
        raise UserError(
            f"The model knows {channels - 1} classes of stuff, but the label space has {len(stuff)}; expected the things "
            "and stuff that it was trained with."
        )
    table = torch.tensor([IGNORE, *stuff], dtype=torch.uint8)
    labels, scores = np.full(request.size, IGNORE, np.uint8), np.zeros(request.size, np.float32)
    for top, strip in _strips(output.logits[row : row + 1], item, request):
        if beyond and stuff:
            strip = torch.cat((torch.full_like(strip[:1], -torch.inf), strip[1:]))
        best, channel = strip.max(dim=0)
        rows = slice(top, top + strip.shape[1])
        labels[rows] = table[channel.cpu()].numpy()
        scores[rows] = (best - strip.logsumexp(dim=0)).exp().cpu().numpy()
    return StuffMap(labels, scores)


def _strips(logits: Tensor, item: Pass, request: Request) -> Iterator[tuple[int, Tensor]]:
    grid = item.grid
    fitted = fit_logits(logits.float().contiguous(), grid.answer)[0, :, : grid.size[0], : grid.size[1]]
    return resized_strips(iter([fitted]), grid.size, request.size)
