"""U-Net whose contracting path is a backbone: skip connections from its feature maps, a decoder of plain convolutions."""

import itertools
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

FAST_DECODER = (96, 64, 48, 32)
"""Ends at stride 2: the last doubling, half of the decoder's cost, is left to the consumer's bilinear resize."""

SMP_DECODER = (256, 128, 64, 32, 16)
"""segmentation_models_pytorch's default: ends at full resolution, its last block without a skip connection."""


SHARPENED_CHANNELS = 128
"""Of the head: it brings its logits to full resolution where that takes no more."""


class DecoderBlock(nn.Module):
    """x (B, inputs, h, w) and, where there is one, skip (B, skip, 2h, 2w) -> (B, outputs, 2h, 2w)."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.first = _unit(inputs + skip, outputs)
        self.second = _unit(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.second(self.first(x))


class UNetBackbone(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/s, W/s), s = deepest stride / 2 ** len(decoder_channels) / `sharpen`.

    Both sides are multiples of the backbone's deepest stride (32 for most).

    Args:
        backbone: a key of `BACKBONES` or any timm model with feature maps.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        decoder_channels: of the decoder's blocks, deepest first; each doubles the resolution, and takes the backbone's
            map of that resolution where it has one. Default `FAST_DECODER`: logits at stride 2; `SMP_DECODER` is
            segmentation_models_pytorch's, with logits at full resolution.
        sharpen: the head gives each of its pixels `sharpen` x `sharpen` logits (sub-pixel convolution, Shi et al. 2016,
            arXiv:1609.05158), which costs next to nothing beside a further block. None: up to full resolution where
            that takes at most `SHARPENED_CHANNELS` channels, else 1.
        dropout: share of the last block's channels dropped while training.
        finest: stride of the finest map that is joined; segmentation_models_pytorch leaves one of full resolution, which a
            VGG has, alone (2).

    Raises:
        UserError: the backbone's strides are not distinct powers of two, or the decoder would go beyond the image.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str,
        backbone_weights: str | Path | None = None,
        decoder_channels: tuple[int, ...] = FAST_DECODER,
        sharpen: int | None = None,
        dropout: float = 0.0,
        finest: int = 1,
    ) -> None:
        super().__init__()
        self.encoder: Backbone = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.notes = self.encoder.notes
        strides = self.encoder.strides
        _check_strides(backbone, strides, decoder_channels)
        self.input_multiple = self.input_minimum = strides[-1]
        channels = dict(zip(strides[:-1], self.encoder.channels[:-1], strict=True))
        skips = {stride: width for stride, width in channels.items() if stride >= finest}
        targets = [strides[-1] >> step for step in range(1, len(decoder_channels) + 1)]
        # Which of the backbone's maps each block joins; None where the backbone has none of that resolution.
        self.joins = tuple(strides.index(stride) if stride in skips else None for stride in targets)
        inputs = (self.encoder.channels[-1], *decoder_channels[:-1])
        self.decoder = nn.ModuleList(
            DecoderBlock(channels, skips.get(stride, 0), outputs)
            for channels, stride, outputs in zip(inputs, targets, decoder_channels, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        if sharpen is None:
            sharpen = targets[-1] if classes * targets[-1] ** 2 <= SHARPENED_CHANNELS else 1
        if sharpen < 1:
            raise UserError(f"'sharpen' is a whole number from 1 on, found {sharpen}.")
        self.head = nn.Conv2d(decoder_channels[-1], classes * sharpen**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(sharpen)
        initialise(self.decoder)
        initialise_head(self.head)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits (B, classes, H/s, W/s)."""
        self.require_size(images)
        maps = self.encoder(images)
        x = maps[-1]
        for block, join in zip(self.decoder, self.joins, strict=True):
            x = block(x, None if join is None else maps[join])
        return PixelLogits(self.shuffle(self.head(self.dropout(x))))

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), *self.decoder, self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def smp_name(published: str) -> str | None:
    """The name in our state dict of the array `published` of a segmentation_models_pytorch U-Net over a ResNet, ResNeXt or
    MobileNetV2 (`mobilenet_v2_1280`), built with `SMP_DECODER`; None for an array that such files do not have."""
    encoder = re.fullmatch(r"encoder\.(.+)", published)
    if encoder:
        return published  # these backbones have torchvision's names, there as here
    block = re.fullmatch(r"decoder\.blocks\.(\d+)\.conv([12])\.(.+)", published)
    if block:
        return f"decoder.{block[1]}.{'first' if block[2] == '1' else 'second'}.{block[3]}"
    head = re.fullmatch(r"segmentation_head\.0\.(\w+)", published)
    return f"head.{head[1]}" if head else None


def _unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _check_strides(backbone: str, strides: tuple[int, ...], decoder_channels: tuple[int, ...]) -> None:
    rising = all(low < high for low, high in itertools.pairwise(strides))
    if not rising or any(stride & (stride - 1) for stride in strides):
        raise UserError(
            f"A U-Net needs a backbone whose feature maps halve in resolution; '{backbone}' has the strides {strides}."
        )
    if not 1 <= len(decoder_channels) <= strides[-1].bit_length() - 1:
        raise UserError(
            f"'decoder_channels' over '{backbone}' has 1 to {strides[-1].bit_length() - 1} entries, one per doubling of "
            f"the resolution, found {len(decoder_channels)}."
        )
