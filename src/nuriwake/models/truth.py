"""What is true of an image as tensors, for losses and for the models that choose their regions by it."""

from typing import NamedTuple

import torch
from torch import Tensor

from nuriwake.core.layer_reading import read_layers

COMPILED_ON = "cpu"
"""The device on which `sample_masks` runs in one compiled pass, five times as fast as a dozen operations on tensors."""


class ObjectTruth(NamedTuple):
    """The N objects (or segments) of one image. A batch is a tuple of these, in the order of the images.

    Masks may overlap, and there may be hundreds: they lie in a few `layers`, in each of which no two overlap, so that memory
    grows with the depth of overlap and not with N.

    Attributes:
        boxes: float32 (N, 4), xyxy in pixels of the input, half-open.
        labels: int64 (N,), 0..classes-1.
        crowd: bool (N,): a region of many objects, which is neither right nor wrong to find.
        layers: int16, or int32 for more than 32,767 objects, (L, H, W): 0 where there is nothing, else 1 + the index of the
            object; L is 0 where N is.
        layer: int64 (N,): in which of `layers` the object lies.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    layers: Tensor
    layer: Tensor


class PanopticTruth(NamedTuple):
    """A batch of panoptic truth.

    Attributes:
        segments: per image, things one by one and each stuff class once; labels over all classes.
        labels: int64 (B, H, W), the class of every pixel over all classes, or IGNORE.
    """

    segments: tuple[ObjectTruth, ...]
    labels: Tensor


def object_masks(truth: ObjectTruth, indices: Tensor | None = None) -> Tensor:
    """Dense masks, bool (n, H, W), of the objects `indices` (int64 (n,); all when None). Mind the memory: n * H * W bytes."""
    if indices is None:
        indices = torch.arange(len(truth.labels), device=truth.labels.device)
    if len(indices) == 0:
        return torch.zeros((0, *truth.layers.shape[-2:]), dtype=torch.bool, device=truth.labels.device)
    return truth.layers[truth.layer[indices]] == (indices + 1).to(truth.layers.dtype)[:, None, None]


def sample_masks(truth: ObjectTruth, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The masks of `indices` read at points, bilinear, without ever being made: float32 of the shape of `x`.

    Four neighbours of the layer are compared with the object's number and weighted, which is exactly bilinear reading of
    its mask with half-pixel centres and 0 beyond the image.

    Args:
        indices: int64 (n,), objects.
        x, y: float32 (n, ...), points in pixels of the input, the centre of the first pixel at 0.5.
    """
    if truth.layers.device.type == COMPILED_ON and len(indices):
        return _sample_compiled(truth, indices, x, y)
    height, width = truth.layers.shape[-2:]
    shape = (-1, *(1,) * (x.ndim - 1))
    layer, number = truth.layer[indices].view(shape), (indices + 1).to(truth.layers.dtype).view(shape)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    total = torch.zeros_like(x, dtype=torch.float32)
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            weight = (1 - (x - 0.5 - column).abs()) * (1 - (y - 0.5 - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            value = truth.layers[layer, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()] == number
            total = total + weight * (value & inside)
    return total


def _sample_compiled(truth: ObjectTruth, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float32)
    flat = (len(indices), -1)
    read_layers(
        truth.layers.numpy(),
        truth.layer[indices].numpy(),
        (indices + 1).numpy(),
        x.float().reshape(flat).contiguous().numpy(),
        y.float().reshape(flat).contiguous().numpy(),
        out.view(flat).numpy(),
    )
    return out
