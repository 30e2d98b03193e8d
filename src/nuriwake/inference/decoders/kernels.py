"""Cells of grids and their kernels -> instances: SOLOv2 (Wang et al. 2020, arXiv:2003.10152, sections 3.2 to 3.4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nuriwake.core.enlarge import bilinear_axis, enlarge_masks
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.limits import say_cut
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import Size
from nuriwake.inference.decoding import Pass, Request
from nuriwake.inference.tiling import Grid
from nuriwake.models.outputs import KernelOutput

Decay = Literal["gaussian", "linear"]

BUDGET = 1 << 24
"""Numbers of mask probability that are held at once (64 MiB): masks are made block by block, and made again when needed."""


class Found(NamedTuple):
    """Objects at the resolution of the mask features.

    Attributes:
        kernels: float32 (n, E).
        labels: int64 (n,).
        scores: float32 (n,), from high to low.
    """

    kernels: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class KernelDecoder:
    """`KernelOutput` -> Instances at the size of the user's image, from high to low score. Defaults as published.

    Args:
        score_threshold: of the final score: the class's probability, times the mean probability inside the mask, less what
            a better mask of the same class at the same place takes away.
        candidate_threshold: of the class's probability in a cell; what is below is not looked at.
        mask_threshold: of a pixel's probability.
        candidates: how many masks at most are compared with each other, the surest.
        detections: how many objects at most are answered, the surest. Where one of the two cuts, a warning says so.
        decay: how overlap lowers a score (matrix NMS): "gaussian" or "linear".
        sigma: of the Gaussian; larger lowers more.
        strides: per level; a mask of no more pixels (of the mask features) than the stride of its level is dropped.

    Raises:
        UserError: a value out of range.
    """

    blends: ClassVar[bool] = False

    score_threshold: float = 0.05
    candidate_threshold: float = 0.1
    mask_threshold: float = 0.5
    candidates: int = 500
    detections: int = 100
    decay: Decay = "gaussian"
    sigma: float = 2.0
    strides: tuple[int, ...] = (8, 8, 16, 32, 32)

    def __post_init__(self) -> None:
        for name in ("score_threshold", "candidate_threshold", "mask_threshold"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"settings.decoding.{name}: expected 0 to below 1, found {value}.")
        for name in ("candidates", "detections"):
            if getattr(self, name) < 1:
                raise UserError(f"settings.decoding.{name}: expected at least 1, found {getattr(self, name)}.")
        if self.sigma <= 0:
            raise UserError(f"settings.decoding.sigma: expected a number above 0, found {self.sigma}.")

    def __call__(self, passes: Sequence[Pass], request: Request) -> Instances:
        """See `Decoder`."""
        grid = passes[0].grid
        output, row = next(passes[0].outputs)
        classes = output.class_logits[0].shape[1]
        if classes != len(request.space):
            raise UserError(f"The model tells {classes} classes apart, but the label space has {len(request.space)}.")
        features = output.mask_features[row].float()
        found = self.find(output, row)
        masks = full_masks(found.kernels, features, grid, request.size, threshold=self.mask_threshold)
        labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
        return Instances(masks, labels.astype(np.int32), request.space, scores=scores)

    def find(self, output: KernelOutput, row: int) -> Found:
        """The objects of image `row`, overlapping ones of a class thinned out by matrix NMS."""
        features = output.mask_features[row].float().flatten(1)
        found, areas = self._candidates(output, row, features)
        groups = same_labels(found.labels)
        shared = intersections(found.kernels, features, groups, threshold=self.mask_threshold)
        factor = torch.ones_like(found.scores)
        for group, common in zip(groups, shared, strict=True):
            factor[group] = decay(common, areas[group], kind=self.decay, sigma=self.sigma)
        scores = found.scores * factor
        best = scores.argsort(descending=True, stable=True)
        best = best[scores[best] >= self.score_threshold]
        if len(best) > self.detections:
            say_cut("objects in an image", "settings.decoding.detections", self.detections)
        best = best[: self.detections]
        return Found(found.kernels[best], found.labels[best], scores[best])

    def _candidates(self, output: KernelOutput, row: int, features: Tensor) -> tuple[Found, Tensor]:
        """The most certain candidates, best first, and the areas of their masks, float32 (n,)."""
        scores = torch.cat([peaks(logits[row].float().sigmoid()) for logits in output.class_logits])
        kernels = torch.cat([level[row].float().flatten(1).T for level in output.kernels])
        if len(output.kernels) != len(self.strides):
            raise UserError(
                f"settings.decoding.strides: expected one for each of the {len(output.kernels)} levels, found {self.strides}."
            )
        sizes = torch.tensor([level[row, 0].numel() for level in output.kernels], device=scores.device)
        strides = torch.tensor(self.strides, device=scores.device).repeat_interleave(sizes)
        cells, labels = (scores > self.candidate_threshold).nonzero(as_tuple=True)
        # A cell that may be several classes has one mask.
        unique, which = cells.unique(return_inverse=True)
        areas, certainty = measure(kernels[unique], features, threshold=self.mask_threshold)
        large = areas > strides[unique]
        chosen = large[which].nonzero()[:, 0]
        values = scores[cells[chosen], labels[chosen]] * certainty[which[chosen]]
        if len(values) > self.candidates:
            say_cut("objects in an image", "settings.decoding.candidates", self.candidates)
        order = values.argsort(descending=True, stable=True)[: self.candidates]
        best = chosen[order]
        return Found(kernels[cells[best]], labels[best], values[order]), areas[which[best]]


def peaks(scores: Tensor) -> Tensor:
    """Scores (C, S, S) -> (S * S, C), 0 where the neighbour above, to the left or both has a higher one of the class."""
    highest = functional.max_pool2d(scores[None], 2, stride=1, padding=1)[0, :, :-1, :-1]
    return (scores * (highest == scores)).flatten(1).T


def measure(kernels: Tensor, features: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    """Of each mask of `kernels` (n, E) over `features` (E, P): its area and its mean probability, float32 (n,)."""
    areas, sums = kernels.new_zeros(len(kernels)), kernels.new_zeros(len(kernels))
    for block in _blocks(kernels, features):
        inside = block > threshold
        areas += inside.sum(1)
        sums += (block * inside).sum(1)
    return areas, sums / areas.clamp_min(1)


def same_labels(labels: Tensor) -> list[Tensor]:
    """The indices, ascending, of every label of `labels` (n,) that stands there more than once."""
    groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    return [group for group in groups if len(group) > 1]


def intersections(kernels: Tensor, features: Tensor, groups: Sequence[Tensor], *, threshold: float) -> list[Tensor]:
    """For each of `groups` (g,) of masks how many pixels each pair shares, float32 (g, g)."""
    shared = [kernels.new_zeros(len(group), len(group)) for group in groups]
    for block in _blocks(kernels, features) if groups else ():
        inside = (block > threshold).float()
        for common, group in zip(shared, groups, strict=True):
            masks = inside[group]
            common += masks @ masks.T
    return shared


def decay(intersections: Tensor, areas: Tensor, *, kind: Decay, sigma: float) -> Tensor:
    """Matrix NMS (section 3.4, equations 3 to 5): the factor of each score, 0..1.

    A mask's score falls by its overlap with each better one, less what that one itself has lost to still better ones.

    Args:
        intersections: float32 (n, n), shared pixels of masks of one class in the order of their scores, best first.
        areas: (n,).
    """
    overlap = (intersections / (areas[:, None] + areas[None, :] - intersections)).triu(1)
    lost = overlap.amax(0)[:, None]
    if kind == "gaussian":
        factor = (-sigma * (overlap**2 - lost**2)).exp()
    else:
        # Two equal masks ahead: the later one has lost all, and has no say.
        factor = (1 - overlap) / (1 - lost).clamp_min(1e-6)
    return factor.amin(0)


def full_masks(kernels: Tensor, features: Tensor, grid: Grid, size: Size, *, threshold: float) -> RunMasks:
    """Masks of `kernels` (n, E) over `features` (E, h, w) in pixels of the user's image.

    Probabilities go bilinear to the padded input, lose the padding, and go bilinear to `size`, as published.
    """
    height, width = features.shape[1:]
    rows = bilinear_axis(height, grid.input[0]).head(grid.size[0]).then(bilinear_axis(grid.size[0], size[0]))
    columns = bilinear_axis(width, grid.input[1]).head(grid.size[1]).then(bilinear_axis(grid.size[1], size[1]))
    parts = [RunMasks.empty(size)]
    for few in kernels.split(max(1, BUDGET // (height * width))) if len(kernels) else ():
        values = (few @ features.flatten(1)).sigmoid().view(-1, height, width).cpu().numpy()
        parts.append(enlarge_masks(values, rows, columns, threshold=threshold))
    return RunMasks.concatenate(parts)


def _blocks(kernels: Tensor, features: Tensor) -> Iterator[Tensor]:
    """Probabilities (n, up to P) of all masks, block by block of pixels."""
    for block in features.split(max(1, BUDGET // max(len(kernels), 1)), dim=1):
        yield (kernels @ block).sigmoid()
