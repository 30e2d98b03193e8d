"""U-Net as it is widely used: padded convolutions with batch norm (Ronneberger et al. 2015, arXiv:1505.04597, modified)."""

import re
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.models.base import Model
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits


class DoubleConvolution(nn.Module):
    """(B, inputs, h, w) -> (B, outputs, h, w): twice 3x3 convolution, batch norm, ReLU; `hidden` channels in between."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int | None = None, bias: bool = True) -> None:
        super().__init__()
        hidden = outputs if hidden is None else hidden
        self.first = nn.Conv2d(inputs, hidden, 3, padding=1, bias=bias)
        self.first_norm = nn.BatchNorm2d(hidden)
        self.second = nn.Conv2d(hidden, outputs, 3, padding=1, bias=bias)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first_norm(self.first(x)), inplace=True)
        return functional.relu(self.second_norm(self.second(x)), inplace=True)


class UNet(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H, W), for any size from 2 ** depth on.

    At 3 channels and 2 classes it has 31,043,586 parameters; 31,037,698 without bias; 17,263,042 without bias, bilinear.

    Args:
        width: channels of the first level; every level has twice those of the one above.
        depth: how often the resolution is halved.
        bias: convolutions with bias (of no use before a batch norm, but published files have it).
        upsampling: "transposed" (2x2, halves the channels), "bilinear" (no weights; the deepest level is as wide as the
            one above, and decoder blocks narrow in two steps) or "convolution" (bilinear with half-pixel centres, then a
            1x1 convolution with batch norm and ReLU that halves the channels: mmsegmentation's).
        refine_channels: of a 3x3 convolution with batch norm and ReLU before the last one; 0 for none.
        dropout: share of the deepest map's channels dropped while training.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 64,
        depth: int = 4,
        bias: bool = True,
        upsampling: Literal["transposed", "bilinear", "convolution"] = "transposed",
        refine_channels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_minimum = 2**depth
        bilinear = upsampling == "bilinear"
        widths = [width * 2**level for level in range(depth + 1)]
        if bilinear:
            widths[-1] //= 2
        self.encoder = nn.ModuleList(
            DoubleConvolution(inputs, outputs, bias=bias)
            for inputs, outputs in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        # From the deepest level up: `below` channels come from beneath, `skip` from the encoder.
        skips = widths[-2::-1]
        belows = skips if bilinear else [2 * skip for skip in skips]
        outputs = [*skips[1:], skips[-1]] if bilinear else skips
        self.upsamplings = nn.ModuleList(
            _upsampling(upsampling, below, skip) for below, skip in zip(belows, skips, strict=True)
        )
        self.decoder = nn.ModuleList(
            DoubleConvolution(2 * skip, output, hidden=skip, bias=bias)
            for skip, output in zip(skips, outputs, strict=True)
        )
        last = outputs[-1]
        self.refine = _unit(last, refine_channels, 3) if refine_channels else nn.Identity()
        self.head = nn.Conv2d(refine_channels or last, classes, 1)
        initialise(self)
        initialise_head(self.head)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits (B, classes, H, W)."""
        self.require_size(images)
        x = self.encoder[0](images)
        skips: list[Tensor] = []
        for level in list(self.encoder)[1:]:
            skips.append(x)
            x = level(functional.max_pool2d(x, 2))
        x = self.dropout(x)
        for upsampling, level in zip(self.upsamplings, self.decoder, strict=True):
            skip = skips.pop()
            x = level(torch.cat([skip, pad_to(upsampling(x), skip)], dim=1))
        return PixelLogits(self.head(self.refine(x)))

    def stages(self) -> list[nn.Module]:
        up = [module for pair in zip(self.upsamplings, self.decoder, strict=True) for module in pair]
        return [*self.encoder, *up, self.refine, self.head]


def _upsampling(kind: str, below: int, skip: int) -> nn.Module:
    """(B, below, h, w) -> (B, skip, 2h, 2w); "bilinear" leaves the channels as they are."""
    if kind == "transposed":
        return nn.ConvTranspose2d(below, skip, 2, stride=2)
    if kind == "bilinear":
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), *_unit(below, skip, 1))


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def pad_to(x: Tensor, like: Tensor) -> Tensor:
    """`x` (B, C, h, w) with zeros around it until it is as high and wide as `like`; an odd pixel goes to bottom and right.

    The published convention for odd sizes: pooling rounds down, so the upsampled map may lack a row or a column.
    """
    rows, columns = like.shape[-2] - x.shape[-2], like.shape[-1] - x.shape[-1]
    if isinstance(rows, int) and isinstance(columns, int) and rows == columns == 0:
        return x
    return functional.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


_LAYERS = {"0": "first", "1": "first_norm", "3": "second", "4": "second_norm"}
_PLACE = re.compile(r"(?:(inc)|down(\d+)\.maxpool_conv\.1|up(\d+)\.conv)\.double_conv\.([0134])\.(\w+)")
_UPSAMPLING = re.compile(r"up(\d+)\.up\.(\w+)")
_HEAD = re.compile(r"outc\.(?:conv\.)?(\w+)")


def textbook_name(published: str) -> str | None:
    """The name in `UNet`'s state dict of the array `published` of a widespread U-Net file (`inc`, `down1`, ..., `outc`).

    None for an array that such files do not have.
    """
    if place := _PLACE.fullmatch(published):
        first, down, up, layer, array = place.groups()
        block = f"decoder.{int(up) - 1}" if up else f"encoder.{0 if first else down}"
        return f"{block}.{_LAYERS[layer]}.{array}"
    if upsampling := _UPSAMPLING.fullmatch(published):
        return f"upsamplings.{int(upsampling[1]) - 1}.{upsampling[2]}"
    head = _HEAD.fullmatch(published)
    return f"head.{head[1]}" if head else None
