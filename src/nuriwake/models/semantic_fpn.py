"""Semantic FPN (Kirillov et al. 2019, Panoptic feature pyramid networks, arXiv:1901.02446, section 3 and figure 3)."""

import itertools
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.fpn import FeaturePyramid, first_level
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

Normalisation = Literal["group", "batch"]

GROUPS = 32
"""Of the group norm (Wu and He 2018)."""


class ScaleHead(nn.Module):
    """One level of the pyramid brought to stride 4: x (B, inputs, h, w) -> (B, channels, h * 2**doublings, ...).

    A 3x3 convolution, norm and ReLU before each bilinear doubling; one without a doubling for the level at stride 4.
    """

    def __init__(self, inputs: int, channels: int, doublings: int, *, norm: Normalisation, align_corners: bool) -> None:
        super().__init__()
        widths = (inputs, *(channels,) * max(doublings, 1))
        self.units = nn.ModuleList(_unit(low, high, norm) for low, high in itertools.pairwise(widths))
        self.doubles, self.align_corners = doublings > 0, align_corners

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
            if self.doubles:
                x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.align_corners)
        return x


class SemanticHead(nn.Module):
    """Maps at strides 4, 8, 16, ... (B, inputs, h_i, w_i) -> logits (B, classes, h_0, w_0).

    Args:
        levels: how many maps.
        merge: the levels are added (the paper) or put side by side.

    Others: see `SemanticFPN`.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        levels: int = 4,
        channels: int = 128,
        norm: Normalisation = "group",
        merge: Literal["add", "cat"] = "add",
        align_corners: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            ScaleHead(inputs, channels, level, norm=norm, align_corners=align_corners) for level in range(levels)
        )
        self.adds = merge == "add"
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels * (1 if self.adds else levels), classes, 1)
        initialise(self.levels)
        initialise_head(self.classify)

    def forward(self, maps: list[Tensor]) -> Tensor:
        scaled = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        # The deepest level comes first in a file of segmentation_models_pytorch that puts them side by side.
        merged = torch.stack(scaled).sum(0) if self.adds else torch.cat(scaled[::-1], dim=1)
        return self.classify(self.dropout(merged))


class SemanticFPN(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/4, W/4), or at full resolution with `align_corners`.

    Both sides are multiples of the backbone's deepest stride (32 for most).

    Args:
        backbone: a key of `BACKBONES` or any timm model whose maps from stride 4 on halve in resolution.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        pyramid_channels: of the feature pyramid.
        channels: of the head's convolutions.
        norm: of the head: "group" (32 groups; the paper, detectron2, segmentation_models_pytorch) works with small
            batches; "batch" is mmsegmentation's.
        smooth: with the pyramid's 3x3 convolutions; segmentation_models_pytorch leaves them out.
        merge: levels added (the paper), or "cat", side by side.
        align_corners: bilinear interpolation with aligned corners, the last one, by 4, inside the model, as
            segmentation_models_pytorch does; otherwise half-pixel centres and logits at stride 4.
        dropout: share of the merged channels dropped while training (detectron2: 0, mmsegmentation: 0.1, smp: 0.2).

    Raises:
        UserError: the backbone has no map at stride 4, its deeper maps do not halve, or `channels` has no 32 groups.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        pyramid_channels: int = 256,
        channels: int = 128,
        norm: Normalisation = "group",
        smooth: bool = True,
        merge: Literal["add", "cat"] = "add",
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if norm == "group" and channels % GROUPS:
            raise UserError(
                f"'channels' of a Semantic FPN with group norm is a multiple of {GROUPS}, found {channels}."
            )
        self.encoder: Backbone = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.notes = self.encoder.notes
        self.first = first_level(backbone, self.encoder.strides, "Semantic FPN")
        self.input_multiple = self.input_minimum = self.encoder.strides[-1]
        self.pyramid = FeaturePyramid(self.encoder.channels[self.first :], pyramid_channels, smooth=smooth)
        self.head = SemanticHead(
            pyramid_channels,
            classes,
            levels=len(self.encoder.channels) - self.first,
            channels=channels,
            norm=norm,
            merge=merge,
            align_corners=align_corners,
            dropout=dropout,
        )
        self.align_corners = align_corners

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits (B, classes, H/4, W/4), or (B, classes, H, W) with `align_corners`."""
        self.require_size(images)
        logits = self.head(self.pyramid(self.encoder(images)[self.first :]))
        if self.align_corners:
            logits = functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=True)
        return PixelLogits(logits)

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.pyramid, self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def _unit(inputs: int, outputs: int, norm: Normalisation) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs) if norm == "group" else nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
