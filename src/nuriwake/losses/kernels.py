"""The loss of SOLOv2 (Wang et al. 2020, arXiv:2003.10152, section 3.3; SOLO, arXiv:1912.04488, section 3.3.1, for which
cells are whose), with the numbers of mmdetection.

Shape letters: B images, L layers of truth, N objects, G cells of all levels, C classes, E numbers in a kernel.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nuriwake.core.errors import UserError
from nuriwake.losses.terms import check_weights
from nuriwake.models.outputs import KernelOutput
from nuriwake.models.truth import ObjectTruth

WEIGHTS: dict[str, float] = {"class": 1.0, "mask": 3.0}
"""The terms and what they weigh."""

RANGES = ((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048.0))
"""Sizes of the objects that each level finds, for images whose shorter side is about 800."""

LIGHT_RANGES = ((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0))
"""For the light variant, which sees images whose shorter side is about 448."""

NOBODY, NEUTRAL = -1, -2
"""Whose a cell is that has no object: it learns that there is nothing, or it does not learn."""

BUDGET = 1 << 22
"""Numbers of mask logits that are held at once (16 MiB); further ones are made again on the way back."""

_EPSILON = 1e-3


@dataclass(frozen=True)
class KernelLoss:
    """Settings of `KernelCriterion`; the defaults are the published ones.

    Args:
        weights: term -> weight in place of that in `WEIGHTS`.
        ranges: per level the least and the largest size, sqrt(width * height) of the box in pixels, of its objects; an
            object may lie in several. Smaller ones belong to the first level, larger ones to the last.
        centre: share of an object's box around its centre of mass whose cells are the object's.
        gamma: of the focal loss.
        alpha: of the focal loss: what cells with an object count, beside 1 - alpha for the others.

    Raises:
        UserError: an unknown term (with the nearest), or a value out of range.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    ranges: tuple[tuple[float, float], ...] = RANGES
    centre: float = 0.2
    gamma: float = 2.0
    alpha: float = 0.25

    def __post_init__(self) -> None:
        check_weights(self.weights, WEIGHTS, "SOLOv2")
        if not self.ranges or any(not 0 <= low <= high for low, high in self.ranges):
            raise UserError(f"ranges are pairs of sizes, the smaller first; found {self.ranges}.")
        if not 0 < self.centre <= 1 or self.gamma < 0 or not 0 <= self.alpha <= 1:
            raise UserError(
                "centre lies above 0 and at most at 1, gamma from 0 on, alpha in 0 to 1; found "
                f"{self.centre}, {self.gamma} and {self.alpha}."
            )


class KernelCriterion(nn.Module):
    """The loss of SOLOv2: "class" (focal, over all cells and classes, divided by one more than the cells of objects) and
    "mask" (dice at stride 4, the mean over the cells of objects).

    Published code gives a cell that two objects claim the class of one and the masks of both; here it is the smaller one's.
    Cells in a crowd region that belong to no object do not count.
    """

    def __init__(self, settings: KernelLoss | None = None) -> None:
        super().__init__()
        self.settings = settings or KernelLoss()
        self.weights = WEIGHTS | dict(self.settings.weights)

    def forward(self, output: KernelOutput, truth: Sequence[ObjectTruth]) -> dict[str, Tensor]:
        """Named terms, already weighted: their sum is the loss. Scalars, float32, finite without any object.

        Args:
            output: of B images.
            truth: of these, in pixels of the model's input, which is 4 times as large as the mask features.
        """
        grids = [level.shape[-1] for level in output.kernels]
        if len(grids) != len(self.settings.ranges):
            raise UserError(
                f"The model has {len(grids)} levels, but the loss {len(self.settings.ranges)} ranges of sizes."
            )
        owners = [assign_cells(item, grids, self.settings) for item in truth]
        positive = sum(int((owner >= 0).sum()) for owner in owners)
        with torch.autocast(output.mask_features.device.type, enabled=False):
            # Cells in the order of the levels, and in each row by row.
            logits = torch.cat([level.float().flatten(2) for level in output.class_logits], dim=2).transpose(1, 2)
            kernels = torch.cat([level.float().flatten(2) for level in output.kernels], dim=2).transpose(1, 2)
            features = output.mask_features.float()
            found = [
                focal(logits[row], owner, item.labels, gamma=self.settings.gamma, alpha=self.settings.alpha)
                for row, (item, owner) in enumerate(zip(truth, owners, strict=True))
            ]
            # Without objects the masks have no say, but a gradient all the same.
            masks = 0 * features.sum() + 0 * kernels.sum()
            for row, (item, owner) in enumerate(zip(truth, owners, strict=True)):
                cells = (owner >= 0).nonzero()[:, 0]
                masks = masks + dice_sum(kernels[row, cells], features[row], item, owner[cells])
            return {
                "class": self.weights["class"] * torch.stack(found).sum() / (positive + 1),
                "mask": self.weights["mask"] * masks / max(positive, 1),
            }


def assign_cells(truth: ObjectTruth, grids: Sequence[int], settings: KernelLoss) -> Tensor:
    """Whose each cell is: int64 (G,), the index of an object, `NOBODY` or `NEUTRAL`.

    An object has the cells, at most 3x3 per level of its size, that its box, shrunk to the share `centre` around its centre
    of mass, touches. Of two objects that claim a cell the one with the smaller box has it; where that leaves one without any, a
    warning says so.
    """
    areas, centres = mass_centres(truth)
    boxes = truth.boxes.double().cpu().numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.sqrt(sides.prod(axis=1))
    order = np.argsort(-size, kind="stable")
    order = order[((areas > 0) & ~truth.crowd.cpu().numpy())[order]]
    frame = np.array([truth.layers.shape[-1], truth.layers.shape[-2]])
    last = len(grids) - 1
    owners: list[np.ndarray] = []
    for level, (grid, (low, high)) in enumerate(zip(grids, settings.ranges, strict=True)):
        owner = np.full((grid, grid), NOBODY)
        first, final = _cells(centres, settings.centre / 2 * sides, frame, grid)
        fits = ((size >= low) | (level == 0)) & ((size <= high) | (level == last))
        for index in order[fits[order]]:
            (left, top), (right, bottom) = first[index], final[index]
            owner[top : bottom + 1, left : right + 1] = index
        owners.append(owner.ravel())
    flat = np.concatenate(owners)
    if len(np.setdiff1d(order, flat)):
        warnings.warn(
            "In a training image an object has all its cells of model.options.grids in common with smaller ones, so that it is "
            "not learnt there. More cells, or images or crops that show less, keep them apart.",
            stacklevel=1,
        )
    owner = torch.from_numpy(flat).to(truth.labels.device)
    if bool(truth.crowd.any()):
        crowded = torch.cat([_crowded(truth, grid).flatten() for grid in grids])
        owner[crowded & (owner == NOBODY)] = NEUTRAL
    return owner


def mass_centres(truth: ObjectTruth) -> tuple[np.ndarray, np.ndarray]:
    """The areas int64 (N,) in pixels and the centres of mass float64 (N, 2) as (x, y), the first pixel's centre at 0."""
    count, (height, width) = len(truth.labels), truth.layers.shape[-2:]
    numbers = truth.layers.flatten().long()
    along = [torch.arange(side, device=numbers.device, dtype=torch.float64) for side in (width, height)]
    maps = (along[0].expand(truth.layers.shape), along[1][:, None].expand(truth.layers.shape))
    areas = torch.bincount(numbers, minlength=count + 1)[1:]
    sums = [torch.bincount(numbers, each.flatten(), minlength=count + 1)[1:] for each in maps]
    centres = torch.stack(sums, dim=1).double() / areas.clamp_min(1)[:, None]
    return areas.cpu().numpy(), centres.cpu().numpy()


def focal(logits: Tensor, owner: Tensor, labels: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """The focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5), summed over cells and classes; a scalar.

    Args:
        logits: (G, C), before the sigmoid.
        owner: as `assign_cells` makes it.
        labels: int64 (N,), of the objects.
    """
    target = torch.zeros_like(logits)
    cells = (owner >= 0).nonzero()[:, 0]
    target[cells, labels[owner[cells]]] = 1
    # Of each answer the logit with the sign that makes it right: the probability of the truth is its sigmoid.
    signed = logits * (2 * target - 1)
    weight = (1 - alpha + (2 * alpha - 1) * target) * (owner != NEUTRAL)[:, None]
    return (weight * (-gamma * functional.softplus(signed)).exp() * functional.softplus(-signed)).sum()


def dice_sum(kernels: Tensor, features: Tensor, truth: ObjectTruth, owner: Tensor) -> Tensor:
    """The dice losses of the masks of `kernels` (n, E) over `features` (E, h, w), summed; a scalar, 0 for none.

    Args:
        owner: int64 (n,), the object whose mask each should be.
    """
    area = features.shape[1] * features.shape[2]
    step = max(1, BUDGET // area)
    flat = features.flatten(1)

    def part(few: Tensor, flat: Tensor, indices: Tensor) -> Tensor:
        return dice(few @ flat, quarter_masks(truth, indices).flatten(1)).sum()

    total = flat.new_zeros(())
    for few, indices in zip(kernels.split(step), owner.split(step), strict=True):
        if len(few) == 0:
            continue
        if len(kernels) <= step:
            total = total + part(few, flat, indices)
        else:
            made = checkpoint(part, few, flat, indices, use_reentrant=False, preserve_rng_state=False)
            total = total + made
    return total


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) of each row (n, P): the loss of V-Net (Milletari 2016, arXiv:1606.04797)."""
    probability, target = logits.sigmoid(), masks.to(logits.dtype)
    common = (probability * target).sum(1)
    return 1 - 2 * common / (probability.square().sum(1) + target.sum(1) + 2 * _EPSILON)


def quarter_masks(truth: ObjectTruth, indices: Tensor) -> Tensor:
    """The masks of `indices` (n,) at a quarter of the size, bool (n, H / 4, W / 4), without making the large ones.

    True where half or more of the four pixels in the middle of a 4x4 block are the object's: what OpenCV's bilinear resize
    makes of a mask. An object that would vanish has every block that it touches.
    """
    layer, number = truth.layer[indices], (indices + 1).to(truth.layers.dtype)[:, None, None]
    count = torch.zeros((), dtype=torch.uint8, device=indices.device)
    for down in (1, 2):
        for right in (1, 2):
            count = count + (truth.layers[:, down::4, right::4][layer] == number).to(torch.uint8)
    masks = count >= 2
    for row in (~masks.flatten(1).any(1)).nonzero()[:, 0].tolist():
        whole = truth.layers[truth.layer[indices[row]]] == number[row]
        masks[row] = functional.max_pool2d(whole[None].float(), 4)[0] > 0
    return masks


def _cells(centres: np.ndarray, reach: np.ndarray, frame: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last cell, int64 (N, 2) as (column, row), within `reach` (N, 2) of `centres`, and one from it."""
    # Cut towards zero, as published.
    own, low, high = (
        np.trunc(place / frame * grid).astype(np.int64) for place in (centres, centres - reach, centres + reach)
    )
    return np.maximum(np.maximum(low, 0), own - 1), np.minimum(np.minimum(high, grid - 1), own + 1)


def _crowded(truth: ObjectTruth, grid: int) -> Tensor:
    """Whether the centre of each cell lies in a crowd: bool (grid, grid)."""
    places = (torch.arange(grid, device=truth.layers.device) + 0.5) / grid
    rows, columns = ((places * side).long() for side in truth.layers.shape[-2:])
    crowd = torch.cat([truth.crowd.new_zeros(1), truth.crowd])
    return crowd[truth.layers[:, rows][:, :, columns].long()].any(0)
