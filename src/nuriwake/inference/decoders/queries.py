"""Decoding of queries (Mask2Former, EoMT) for the three tasks, from the same output.

Mask logits go bilinear to the model's input, lose its padding, and go bilinear to the size of the user's image, as the
published programs do it; here strip by strip, or straight into run lengths.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.enlarge import Axis, bilinear_axis, enlarge_masks
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.limits import say_cut
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Size
from nuriwake.core.views import instance_space, semantic_space
from nuriwake.inference.augmentation import flip_tensor
from nuriwake.inference.decoding import Pass, Request, decode_pixels
from nuriwake.inference.likeliest import likeliest
from nuriwake.inference.postprocess import postprocess
from nuriwake.inference.strips import resized_strips
from nuriwake.inference.tiling import Grid, blend
from nuriwake.models.outputs import QueryOutput

TOGETHER = 16
"""Masks of queries that are enlarged at once."""

IN_CACHE = 2**21
"""Values of masks that are turned into scores at once (8 MB): several times faster than what leaves the cache."""

SURE = 0.5
"""From this probability on a query says that there is an object: all classes together have the rest."""

NEGLIGIBLE = 1e-6
"""What the queries that are left out may add to the score of a class, all together."""


@dataclass(frozen=True)
class SemanticQueryDecoder:
    """`QueryOutput` -> SemanticMap at the size of the user's image, strip by strip, then post-processed.

    The score of a class at a pixel is the sum over all queries of the class's probability times the mask's (Cheng 2021,
    arXiv:2107.06278, section 3.4), averaged over tiles, mirrored copies and scales. In an exclusive space the scores are
    divided by their sum, so that thresholds mean what they mean for probabilities (`decode_pixels`; a binary space goes by
    the share of the foreground, two or more classes without thresholds by the largest score); in a multi-label space they
    are cut off at 1. Where all classes are things, what the scores lack of 1 is that of a background before them. Thresholds
    and rules stand in the settings; the decoder has no options of its own.
    """

    blends: ClassVar[bool] = True

    def __call__(self, passes: Sequence[Pass], request: Request) -> SemanticMap:
        """See `Decoder`."""
        space = semantic_space(request.space) if request.space.exclusive else request.space
        request.settings.check(space)
        shape = request.size if space.exclusive else (*request.size, len(space))
        labels, scores = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        for top, part in self._strips(passes, request, space):
            rows = slice(top, top + part[0].shape[0])
            labels[rows], scores[rows] = part
        return SemanticMap(postprocess(labels, space, request.settings.postprocessing), space, scores=scores)

    def _strips(
        self, passes: Sequence[Pass], request: Request, space: LabelSpace
    ) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """(first row, (labels, scores)) from top to bottom, as `decode_pixels` gives them."""
        given, thresholds = request.space, request.settings.thresholds
        if len(passes) == 1 and request.watch is None and len(space) > 2 and space.exclusive:
            bands = (band.cpu() for band in _bands(passes[0], given))
            found = likeliest(
                bands, passes[0].grid.size, request.size, background=len(space) > len(given), thresholds=thresholds
            )
            yield from ((part.top, (part.labels, part.scores)) for part in found)
            return
        streams = [resized_strips(_bands(item, given), item.grid.size, request.size) for item in passes]
        for strips in zip(*streams, strict=True):
            top, strip = strips[0]
            for _, other in strips[1:]:
                strip = strip + other
            strip = _as_probabilities(strip / len(passes), given, space)
            if request.watch is not None:
                # One channel where there are two classes, as models of pixels have it.
                request.watch(top, strip[1:] if space.binary else strip)
            yield top, decode_pixels(strip, space, thresholds)


@dataclass(frozen=True)
class InstanceQueryDecoder:
    """`QueryOutput` -> Instances at the size of the user's image, from high to low score.

    The surest pairs of query and class become objects, so that a query may answer twice (Cheng 2022, arXiv:2112.01527,
    appendix). The score is the class's probability times the mean probability inside the mask, taken at the size at
    which the model saw the image. Of a space of things and stuff, the things are answered, in a space of the things
    (`core.views.instance_space`).

    Args:
        score_threshold: of that score; what has less is left out. Published is 0, for average precision.
        mask_threshold: a pixel belongs to the mask above this probability.
        detections: how many pairs at most are looked at. Where one is left out whose class is surer than not, and than
            `score_threshold`, a warning says so; another does where every query holds something, since there may be more.

    Raises:
        UserError: a value out of range.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.0
    mask_threshold: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        _check_share("score_threshold", self.score_threshold, zero=True)
        _check_share("mask_threshold", self.mask_threshold, zero=False)
        if self.detections < 1:
            raise UserError(f"settings.decoding.detections: expected at least 1, found {self.detections}.")

    def __call__(self, passes: Sequence[Pass], request: Request) -> Instances:
        """See `Decoder`."""
        grid, (output, row) = passes[0].grid, next(passes[0].outputs)
        _check_classes(output, request.space)
        space = instance_space(request.space)
        kept = [label for label, thing in enumerate(request.space.things) if thing]
        _tell_if_full(output.class_logits[row].float())
        queries, labels, scores = self._surest(output.class_logits[row].float(), kept)
        unique, which = queries.unique(return_inverse=True)
        logits = output.mask_logits[row][unique].float()
        cut = math.log(self.mask_threshold / (1 - self.mask_threshold))
        scores = scores * certainty(logits, grid, cut)[which]
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] >= self.score_threshold]
        used, place = which[order].unique(return_inverse=True)
        masks = full_masks(logits[used], grid, request.size, cut)[place.cpu().numpy()]
        there = masks.areas() > 0
        labels, scores = labels[order].cpu().numpy()[there], scores[order].cpu().numpy()[there]
        return Instances(masks[there], labels.astype(np.int32), space, scores=scores.clip(0, 1))

    def _surest(self, logits: Tensor, kept: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, labels (of the classes `kept`) and probabilities of the surest pairs; `logits` (Q, classes + 1)."""
        probabilities = logits.softmax(-1)[:, kept]
        scores, pairs = probabilities.flatten().topk(min(self.detections + 1, probabilities.numel()))
        if len(scores) > self.detections and scores[-1] > max(SURE, self.score_threshold):
            say_cut("objects in an image", "settings.decoding.detections", self.detections)
        scores, pairs = scores[: self.detections], pairs[: self.detections]
        return pairs // len(kept), pairs % len(kept), scores


@dataclass(frozen=True)
class PanopticQueryDecoder:
    """`QueryOutput` -> Panoptic at the size of the user's image, in one pass over its strips.

    Every query that is sure of a class competes for the pixels with its probability times its mask's; it keeps those that
    it wins and that lie inside its mask, unless it has lost too much of the mask. Segments of one class of stuff become
    one, with the score of the first (Cheng 2021, arXiv:2107.06278, section 3.4).

    Args:
        score_threshold: a query takes part if its class is surer than this.
        mask_threshold: a pixel lies inside a mask from this probability on.
        overlap_threshold: a query is left out unless the pixels it wins are more than this share of its mask.

    Raises:
        UserError: a value out of range.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.8
    mask_threshold: float = 0.5
    overlap_threshold: float = 0.8

    def __post_init__(self) -> None:
        _check_share("score_threshold", self.score_threshold, zero=True)
        _check_share("mask_threshold", self.mask_threshold, zero=False)
        _check_share("overlap_threshold", self.overlap_threshold, zero=True)

    def __call__(self, passes: Sequence[Pass], request: Request) -> Panoptic:
        """See `Decoder`."""
        grid, (output, row) = passes[0].grid, next(passes[0].outputs)
        _check_classes(output, request.space)
        _tell_if_full(output.class_logits[row].float())
        scores, labels = output.class_logits[row].float().softmax(-1).max(-1)
        sure = (labels < len(request.space)) & (scores > self.score_threshold)
        queries = sure.nonzero()[:, 0]
        logits = output.mask_logits[row][queries].float()
        contest = self._contest(logits, scores[queries], grid, request.size)
        return self._segments(contest, labels[queries].tolist(), scores[queries].cpu().numpy(), request.space)

    def _contest(self, logits: Tensor, scores: Tensor, grid: Grid, size: Size) -> "Contest":
        count = len(logits)
        owner = np.full(size, -1, np.int16)
        won, held, inside = (torch.zeros(count, dtype=torch.int64, device=logits.device) for _ in range(3))
        for top, strip in strips_of(logits, grid, size) if count else ():
            probabilities = strip.sigmoid()
            within = probabilities >= self.mask_threshold
            inside += within.sum((1, 2))
            winner = (probabilities * scores[:, None, None]).argmax(0)
            own = within.gather(0, winner[None])[0]
            won += winner.flatten().bincount(minlength=count)
            held += winner[own].bincount(minlength=count)
            owner[top : top + strip.shape[1]] = winner.masked_fill(~own, -1).to(torch.int16).cpu().numpy()
        return Contest(owner, won.cpu().numpy(), held.cpu().numpy(), inside.cpu().numpy())

    def _segments(self, contest: "Contest", labels: list[int], scores: np.ndarray, space: LabelSpace) -> Panoptic:
        kept = (contest.held > 0) & (contest.won > self.overlap_threshold * contest.inside)
        # The last entry answers for -1: void.
        ids = np.zeros(len(labels) + 1, np.int32)
        first: list[int] = []
        stuff: dict[int, int] = {}
        for query in np.flatnonzero(kept).tolist():
            label = labels[query]
            known = None if space.things[label] else stuff.get(label)
            if known is None:
                first.append(query)
                known = len(first)
                stuff[label] = known
            ids[query] = known
        return Panoptic(
            ids[contest.owner],
            np.arange(1, len(first) + 1, dtype=np.int32),
            np.array([labels[query] for query in first], np.int32),
            space,
            scores=scores[first].astype(np.float32),
        )


class Contest(NamedTuple):
    """How K queries divided the pixels.

    Attributes:
        owner: int16 (H, W), the query that won the pixel inside its own mask; -1 for none.
        won: int64 (K,), pixels won, also outside of the own mask.
        held: int64 (K,), pixels won inside of it.
        inside: int64 (K,), pixels of the mask.
    """

    owner: np.ndarray
    won: np.ndarray
    held: np.ndarray
    inside: np.ndarray


def _tell_if_full(logits: Tensor) -> None:
    """Say so where every query, `logits` (Q, classes + 1), is sure of something: none is left for what else there may be."""
    if len(logits) and logits.softmax(-1)[:, :-1].amax(-1).amin() > SURE:
        warnings.warn(
            f"All {len(logits)} queries of the model (model.options.queries) found something in an image, so that there may be "
            "more to find; a model trained with more queries finds more.",
            stacklevel=1,
        )


def strips_of(logits: Tensor, grid: Grid, size: Size) -> Iterator[tuple[int, Tensor]]:
    """Strips (first row, (n, rows, W)) at `size` of mask logits (n, h, w) that cover the padded input of `grid`."""
    yield from resized_strips(_without_padding(logits, grid), grid.size, size)


def certainty(logits: Tensor, grid: Grid, cut: float) -> Tensor:
    """The mean probability inside each mask (logits (n, h, w) above `cut`), float32 (n,); 0 for an empty one."""
    areas, sums = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    for band in _without_padding(logits, grid) if len(logits) else ():
        inside = band > cut
        areas += inside.sum((1, 2))
        sums += (band.sigmoid() * inside).sum((1, 2))
    return sums / (areas + 1e-6)


def full_masks(logits: Tensor, grid: Grid, size: Size, cut: float) -> RunMasks:
    """Where the mask logits (n, h, w), enlarged to the user's image, are above `cut`."""
    rows, columns = (_axis(logits.shape[1 + i], grid.input[i], grid.size[i], size[i]) for i in (0, 1))
    parts = [RunMasks.empty(size)]
    for few in logits.split(TOGETHER) if len(logits) else ():
        parts.append(enlarge_masks(few.cpu().numpy(), rows, columns, threshold=cut))
    return RunMasks.concatenate(parts)


def _axis(low: int, padded: int, seen: int, size: int) -> Axis:
    return bilinear_axis(low, padded).head(seen).then(bilinear_axis(seen, size))


def _without_padding(logits: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Bands (n, rows, width) at the size at which the model saw the image."""
    height, width = grid.size
    for top, band in resized_strips([logits], (logits.shape[1], logits.shape[2]), grid.input):
        if top < height:
            yield band[:, : height - top, :width]


def _bands(item: Pass, space: LabelSpace) -> Iterator[Tensor]:
    """Bands (classes, rows, width) at the scale of `item`: the scores of the classes, blended."""

    def answers() -> Iterator[Iterator[Tensor]]:
        for output, row in item.outputs:
            _check_classes(output, space)
            yield score_bands(output.class_logits[row].float(), output.mask_logits[row].float(), item.grid.input)

    grid = item.grid
    if len(grid.tops) == len(grid.lefts) == len(item.flips) == 1:
        # Nothing to blend: the scores of all classes are never held for the whole of a large image.
        top = 0
        for band in next(answers()):
            if top < grid.size[0]:
                yield band[:, : grid.size[0] - top, : grid.size[1]]
            top += band.shape[1]
        return
    whole = (
        flip_tensor(torch.cat(list(bands), dim=1), item.flips[index % len(item.flips)])
        for index, bands in enumerate(answers())
    )
    yield from blend(whole, grid, repeats=len(item.flips))


def score_bands(class_logits: Tensor, mask_logits: Tensor, size: Size) -> Iterator[Tensor]:
    """(Q, classes + 1) and (Q, h, w) -> the sum over queries of class times mask probability, in bands float32 (classes, rows,
    width) that together have `size`."""
    weights = class_logits.softmax(-1)[:, :-1].T
    if not len(mask_logits):
        yield mask_logits.new_zeros(len(weights), *size)
        return
    chosen = _telling(weights, mask_logits)
    weights, mask_logits = weights[:, chosen], mask_logits[chosen]
    before = (mask_logits.shape[1], mask_logits.shape[2])
    for _, band in resized_strips(
        [mask_logits], before, size, values=IN_CACHE if mask_logits.device.type == "cpu" else None
    ):
        yield (weights @ band.sigmoid().flatten(1)).view(-1, *band.shape[1:])


def _telling(weights: Tensor, mask_logits: Tensor) -> Tensor:
    """The queries that matter, ascending, at least one: those left out cannot add more than `NEGLIGIBLE` to any score."""
    most = weights.amax(0) * mask_logits.amax((1, 2)).sigmoid()
    ascending = most.sort()
    out = int((ascending.values.double().cumsum(0) <= NEGLIGIBLE).sum())
    return ascending.indices[min(out, len(most) - 1) :].sort().values


def _as_probabilities(scores: Tensor, given: LabelSpace, space: LabelSpace) -> Tensor:
    """Scores (classes of `given`, h, w) -> probabilities (classes of `space`, h, w)."""
    if not space.exclusive:
        return scores.clamp(max=1)
    if len(space) > len(given):
        scores = torch.cat([(1 - scores.sum(0, keepdim=True)).clamp_min(0), scores])
    return scores / scores.sum(0).clamp_min(1e-12)


def _check_classes(output: QueryOutput, space: LabelSpace) -> None:
    classes = output.class_logits.shape[-1] - 1
    if classes != len(space):
        raise UserError(f"The model tells {classes} classes apart, but the label space has {len(space)}.")


def _check_share(name: str, value: float, *, zero: bool) -> None:
    if not (0 <= value < 1 and (zero or value > 0)):
        least = "0 to below 1" if zero else "above 0 and below 1"
        raise UserError(f"settings.decoding.{name}: expected {least}, found {value}.")
