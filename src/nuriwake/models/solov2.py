"""SOLOv2 (Wang et al. 2020, arXiv:2003.10152): every cell of a grid says what object has its centre there, and with which
1x1 convolution over shared features its mask is made. In the variant of mmdetection, whose weights it reads."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.fpn import FeaturePyramid, first_level
from nuriwake.models.outputs import KernelOutput
from nuriwake.models.semantic_fpn import GROUPS, ScaleHead

STRIDES = (4, 8, 16, 32)
"""Of the backbone's maps."""

GRIDS = (40, 36, 24, 16, 12)
"""Cells along each side per level, small objects first (section 4.1)."""

PRIOR = 0.01
"""The probability that a fresh model gives every class in every cell (Lin et al. 2017, arXiv:1708.02002, section 4.1)."""


class GridHead(nn.Module):
    """Five maps (B, inputs, h_i, w_i) at strides 4 to 64 -> class logits and kernels per level (section 3.2).

    Each map is brought to S x S cells; the branch of the kernels also sees where a cell lies. The levels share all weights.

    Args:
        channels: of the convolutions; a multiple of 32.
        convolutions: in each of the two branches.
        kernels: channels of the mask features, so numbers in a kernel.
        grids: S per level.
    """

    def __init__(
        self, inputs: int, classes: int, *, channels: int, convolutions: int, kernels: int, grids: Sequence[int]
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.category = _units(inputs, channels, convolutions)
        self.kernel = _units(inputs + 2, channels, convolutions)
        self.classify = nn.Conv2d(channels, classes, 3, padding=1)
        self.predict = nn.Conv2d(channels, kernels, 3, padding=1)
        _initialise(self)
        nn.init.constant_(self.classify.bias, math.log(PRIOR / (1 - PRIOR)))  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Class logits, per level (B, classes, S, S), and kernels, per level (B, kernels, S, S)."""
        logits: list[Tensor] = []
        kernels: list[Tensor] = []
        for x, grid in zip(_even(maps), self.grids, strict=True):
            cells = _resize(add_coordinates(x), (grid, grid))
            kernels.append(self.predict(self.kernel(cells)))
            logits.append(self.classify(self.category(cells[:, :-2])))
        return tuple(logits), tuple(kernels)


class MaskBranch(nn.Module):
    """Four maps (B, inputs, h_i, w_i) at strides 4 to 32 -> mask features (B, outputs, h_0, w_0), 0 or more (figure 3).

    The levels are brought to stride 4 and added; the deepest also sees where it is.
    """

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        deepest = len(STRIDES) - 1
        self.levels = nn.ModuleList(
            ScaleHead(inputs + 2 * (level == deepest), channels, level, norm="group", align_corners=False)
            for level in range(len(STRIDES))
        )
        self.merge = _unit(channels, outputs, 1)
        _initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        finest, *deeper = [*maps[:-1], add_coordinates(maps[-1])]
        merged = self.levels[0](finest)
        for level, x in zip(self.levels[1:], deeper, strict=True):
            merged = merged + level(x)
        return self.merge(merged)


class SOLOv2(Model):
    """(B, in_channels, H, W) -> `KernelOutput`; both sides are multiples of 32.

    Args:
        backbone: a key of `BACKBONES` or any timm model with maps at the strides 4, 8, 16 and 32.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        pyramid_channels: of the feature pyramid.
        channels: of the convolutions over the grids (the light variant: 256).
        convolutions: in each branch over the grids (light: 2).
        mask_channels: of the convolutions that make the mask features.
        kernel_channels: of the mask features and the kernels (light: 128).
        grids: cells along each side, one number for each of the strides 4, 8, 16, 32, 64.

    Raises:
        UserError: the backbone lacks one of the strides, channels have no 32 groups, or there are not five grids.
    """

    # The cells are shares of the input: in a larger one an object of the same size touches fewer of them, and what the
    # convolutions over the cells see of it is another picture.
    largest_stretch = 1.0

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        pyramid_channels: int = 256,
        channels: int = 512,
        convolutions: int = 4,
        mask_channels: int = 128,
        kernel_channels: int = 256,
        grids: tuple[int, ...] = GRIDS,
    ) -> None:
        super().__init__()
        _check(channels=channels, mask_channels=mask_channels, kernel_channels=kernel_channels)
        if len(grids) != len(STRIDES) + 1 or min(grids) < 1 or convolutions < 1:
            raise UserError(
                f"SOLOv2 has five grids of at least one cell and at least one convolution, found {grids} and {convolutions}."
            )
        self.encoder: Backbone = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.notes = self.encoder.notes
        self.first = first_level(backbone, self.encoder.strides, "SOLOv2")
        if len(self.encoder.strides) < self.first + len(STRIDES):
            raise UserError(f"SOLOv2 needs maps at the strides {STRIDES}; '{backbone}' has {self.encoder.strides}.")
        if len(self.encoder.strides) > self.first + len(STRIDES):
            self.encoder.cut(self.first + len(STRIDES))
        self.input_multiple = self.input_minimum = STRIDES[-1]
        self.pyramid = FeaturePyramid(self.encoder.channels[self.first :], pyramid_channels, coarsest=True)
        self.head = GridHead(
            pyramid_channels,
            classes,
            channels=channels,
            convolutions=convolutions,
            kernels=kernel_channels,
            grids=grids,
        )
        self.mask_branch = MaskBranch(pyramid_channels, mask_channels, kernel_channels)

    def forward(self, images: Tensor) -> KernelOutput:
        """(B, in_channels, H, W) -> class logits and kernels per level, mask features (B, kernel_channels, H/4, W/4)."""
        self.require_size(images)
        maps = self.pyramid(self.encoder(images)[self.first :])
        logits, kernels = self.head(maps)
        return KernelOutput(logits, kernels, self.mask_branch(maps[:-1]))

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.pyramid, self.mask_branch, self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def add_coordinates(x: Tensor) -> Tensor:
    """x (B, C, h, w) -> (B, C + 2, h, w): at the end x and y of every pixel, -1..1 (Liu et al. 2018, arXiv:1807.03247)."""
    batch, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    down = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None]
    return torch.cat([x, *(axis.expand(batch, 1, height, width) for axis in (across, down))], dim=1)


def _even(maps: Sequence[Tensor]) -> list[Tensor]:
    """The finest map as small as the second and the coarsest as large as the one before it: strides 8, 8, 16, 32, 32."""
    first, last = _resize(maps[0], maps[1].shape[-2:]), _resize(maps[-1], maps[-2].shape[-2:])
    return [first, *maps[1:-1], last]


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _units(inputs: int, channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_unit(channels if index else inputs, channels, 3) for index in range(count)))


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    )


def _initialise(module: nn.Module) -> None:
    """Convolutions normal of deviation 0.01, bias 0, as published."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _check(**channels: int) -> None:
    for name, found in channels.items():
        if found < GROUPS or found % GROUPS:
            raise UserError(f"'{name}' of SOLOv2 is a multiple of {GROUPS} (group norm), found {found}.")
