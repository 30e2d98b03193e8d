"""What is asked of a region: the maps inside it (RoIAlign), its class and box, its mask (Mask R-CNN, arXiv:1703.06870)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from nuriwake.models.boxes import Scale, box_areas

REGION_SCALE: Scale = (10.0, 10.0, 5.0, 5.0)
"""Faster R-CNN's, so that the offsets of proposals near an object have a deviation of about 1."""

_CANONICAL_SIDE, _CANONICAL_LEVEL, _FIRST_LEVEL = 224, 4, 2
"""A box of ImageNet's 224 pixels is read from the map of stride 2**4 (FPN, equation 1); the first map has stride 2**2."""


def region_levels(boxes: Tensor, levels: int, margin: float) -> Tensor:
    """From which of `levels` maps each box (N, 4) is read: int64 (N,), 0 for the map of stride 4."""
    side = box_areas(boxes).sqrt()
    level = (_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_SIDE + 1e-8) + margin).floor()
    return level.clamp(_FIRST_LEVEL, _FIRST_LEVEL + levels - 1).long() - _FIRST_LEVEL


class RegionPool(nn.Module):
    """RoIAlign over a pyramid (Mask R-CNN, section 3; FPN, section 4.2).

    Args:
        resolution: cells per side of what comes out.
        aligned, sampling, level_margin: see `Style`.
    """

    def __init__(self, resolution: int, *, aligned: bool, sampling: int, level_margin: float) -> None:
        super().__init__()
        self.resolution, self.aligned, self.sampling = resolution, aligned, sampling
        self.level_margin = level_margin

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Maps (B, C, h_i, w_i) at strides 4, 8, ..., boxes (N, 4) and their rows in the batch (N,) -> float32 (N, C, r, r)."""
        regions = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)
        levels = region_levels(boxes, len(maps), self.level_margin)
        parts: list[Tensor] = []
        order: list[Tensor] = []
        for level, x in enumerate(maps):
            (index,) = (levels == level).nonzero(as_tuple=True)
            # In float32: in half precision the coordinates of large images are off by pixels.
            part = roi_align(
                x.float(), regions[index], self.resolution, 1 / (4 << level), self.sampling, aligned=self.aligned
            )
            parts.append(part)
            order.append(index)
        return torch.cat(parts)[torch.cat(order).argsort()]


class BoxHead(nn.Module):
    """Regions (N, inputs, r, r) -> class logits (N, outputs) and box offsets (N, classes, 4).

    Args:
        classes: real classes, each with a box of its own.
        outputs: class logits: the real classes first, background last, and between them what a published file has
            besides.
        resolution: r.
        convolutions: 3x3 with batch norm before the dense layers.
        layers: dense ones.
        width: of the dense layers.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        outputs: int,
        *,
        resolution: int = 7,
        convolutions: int = 0,
        layers: int = 2,
        width: int = 1024,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_unit(inputs, inputs, norm=True) for _ in range(convolutions))
        widths = (inputs * resolution**2, *(width,) * layers)
        self.dense = nn.ModuleList(_dense(low, high) for low, high in itertools.pairwise(widths))
        self.classify = nn.Linear(width, outputs)
        self.offsets = nn.Linear(width, classes * 4)
        for answer, deviation in ((self.classify, 0.01), (self.offsets, 0.001)):
            nn.init.normal_(answer.weight, std=deviation)
            nn.init.zeros_(answer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convolutions:
            regions = convolution(regions)
        x = regions.flatten(1)
        for dense in self.dense:
            x = dense(x).relu()
        return self.classify(x), self.offsets(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """Regions (N, inputs, r, r) -> mask logits (N, classes, 2 r, 2 r): four 3x3 convolutions, doubling, one 1x1."""

    def __init__(self, inputs: int, classes: int, *, channels: int = 256, norm: bool = False) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            _unit(inputs if index == 0 else channels, channels, norm=norm) for index in range(4)
        )
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.classify = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.enlarge.weight, std=(2.0 / channels) ** 0.5)
        nn.init.normal_(self.classify.weight, std=0.001)
        for bias in (self.enlarge.bias, self.classify.bias):
            assert bias is not None
            nn.init.zeros_(bias)

    def forward(self, regions: Tensor) -> Tensor:
        for convolution in self.convolutions:
            regions = convolution(regions)
        return self.classify(functional.relu(self.enlarge(regions)))


def _dense(inputs: int, outputs: int) -> nn.Linear:
    dense = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(dense.weight, a=1)
    nn.init.zeros_(dense.bias)
    return dense


def _unit(inputs: int, outputs: int, *, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    middle = [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(convolution, *middle, nn.ReLU(inplace=True))
