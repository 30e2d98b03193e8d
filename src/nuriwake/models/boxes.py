"""Boxes as tensors, xyxy in pixels: how they are compared, cut to the image, and written as offsets from other boxes."""

import math

import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""

LARGEST_GROWTH = math.log(1000 / 16)
"""A decoded side is at most 62.5 times the side it starts from, so that `exp` cannot overflow (Faster R-CNN's code)."""

Scale = tuple[float, float, float, float]
"""What offsets (x, y, width, height) are multiplied by, so that a loss sees numbers of one size."""


def box_areas(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...); 0 where a box is turned inside out."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def box_intersections(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> the common area of each pair, (N, M)."""
    top_left = torch.maximum(first[:, None, :2], second[:, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[:, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def box_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> intersection over union of each pair, (N, M); 0 where both are empty."""
    common = box_intersections(first, second)
    union = box_areas(first)[:, None] + box_areas(second) - common
    return torch.where(union > 0, common / union, 0.0)


def covered_shares(boxes: Tensor, regions: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> how much of each box the region that covers most of it covers, (N,), 0..1; 0 without regions."""
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    return box_intersections(boxes, regions).amax(dim=1) / box_areas(boxes).clamp(min=1e-6)


def clip_boxes(boxes: Tensor, size: Size) -> Tensor:
    """(..., 4) cut to an image of `size`."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def at_least(boxes: Tensor, side: float) -> Tensor:
    """Which boxes (N, 4) have both sides `side` long, (N,); with 0, longer than nothing."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return ((sides >= side) if side > 0 else (sides > 0)).all(dim=1)


def encode_boxes(boxes: Tensor, anchors: Tensor, scale: Scale) -> Tensor:
    """`boxes` (N, 4) as offsets from `anchors` (N, 4): R-CNN's parametrisation (Girshick et al. 2014, appendix C)."""
    centres, sides = _centres(boxes)
    origins, lengths = _centres(anchors)
    offsets = torch.cat(((centres - origins) / lengths, (sides / lengths).log()), dim=1)
    return offsets * offsets.new_tensor(scale)


def decode_boxes(offsets: Tensor, anchors: Tensor, scale: Scale) -> Tensor:
    """The inverse of `encode_boxes`: `offsets` (..., 4) and `anchors` that broadcast with them -> boxes (..., 4)."""
    offsets = offsets / offsets.new_tensor(scale)
    origins, lengths = _centres(anchors)
    centres = offsets[..., :2] * lengths + origins
    sides = offsets[..., 2:].clamp(max=LARGEST_GROWTH).exp() * lengths
    return torch.cat((centres - 0.5 * sides, centres + 0.5 * sides), dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides
