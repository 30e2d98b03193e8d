"""DeepLabV3 (Chen et al. 2017, Rethinking atrous convolution, arXiv:1706.05587): the deepest map of a dilated backbone
seen through filters of several dilations at once, and on average."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.layers import AuxiliaryHead, initialise, initialise_head
from nuriwake.models.outputs import PixelLogits


@dataclass(frozen=True)
class Details:
    """What the published implementations do differently, and a trained file cannot do otherwise.

    Attributes:
        align_corners: bilinear interpolation with aligned corners, the last one inside the model, to the input's size;
            otherwise half-pixel centres, and logits at the stride of the last convolution.
        join: side of the kernel of the convolution that joins the pyramid's branches.
        refine: one more 3x3 convolution behind it.
        bare: a separable convolution has batch norm and ReLU only behind its second half.
        decoder_depth: how many 3x3 convolutions the decoder of DeepLabV3+ has.
    """

    align_corners: bool = False
    join: int = 1
    refine: bool = False
    bare: bool = False
    decoder_depth: int = 2


Convention = Literal["torchvision", "smp", "mmseg"]

CONVENTIONS: dict[Convention, Details] = {
    "torchvision": Details(refine=True),
    "smp": Details(refine=True, bare=True, align_corners=True),
    "mmseg": Details(join=3),
}


class ImagePooling(nn.Module):
    """x (B, inputs, h, w) -> (B, channels, h, w): the mean over the image through a 1x1 convolution.

    A batch of one image has one value per channel here, whose variance is no statistic: while training on such a batch
    the batch norm uses its running statistics and leaves them alone.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        norm, mean = self.norm, self.convolution(x.mean((2, 3), keepdim=True))
        if self.training and len(x) == 1:
            mean = functional.batch_norm(
                mean, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        else:
            mean = norm(mean)
        return functional.relu(mean).expand(-1, -1, *x.shape[-2:])


class AtrousPyramid(nn.Module):
    """x (B, inputs, h, w) -> (B, channels, h, w): a 1x1 convolution, one 3x3 per rate and the mean, joined ("ASPP").

    Args:
        rates: dilations.
        separable: the 3x3 convolutions filter each channel by itself, then mix (Chen et al. 2018, arXiv:1802.02611).
    """

    def __init__(
        self, inputs: int, channels: int, *, rates: tuple[int, ...], separable: bool, details: Details, dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_unit(inputs, channels, 1)])
        self.branches.extend(
            filter_unit(inputs, channels, dilation=rate, separable=separable, bare=details.bare) for rate in rates
        )
        self.pooling = ImagePooling(inputs, channels)
        self.join = _unit((len(rates) + 2) * channels, channels, details.join)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        seen = [*(branch(x) for branch in self.branches), self.pooling(x)]
        return self.dropout(self.join(torch.cat(seen, dim=1)))


class DeepLabV3(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/s, W/s), s = `output_stride`; (B, classes, H, W) in the
    convention "smp". While training, `auxiliary` holds those of the auxiliary head.

    Sides that are multiples of s give logits that lie exactly on the image. Others work too: the logits, their number
    rounded up, are then taken to span the image, as the published implementations do.

    Args:
        backbone: a key of `BACKBONES` that can be dilated, or any timm model that can.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        output_stride: of the map that the pyramid sees: 8 (finer, costs more), 16 or 32.
        channels: of each of the pyramid's branches, and behind it.
        rates: dilations of the pyramid; None for 96/s, 192/s and 288/s (section 4.1: 12, 24, 36 at stride 8).
        separable: the pyramid's 3x3 convolutions filter each channel by itself, then mix.
        auxiliary_channels: of the auxiliary head, which only training runs; 0 for none.
        auxiliary_map: which of the backbone's maps it sees.
        dropout: share of the values behind the pyramid dropped while training.
        convention: whose details, see `CONVENTIONS`.

    Raises:
        UserError: the backbone cannot be dilated to this output stride.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str,
        backbone_weights: str | Path | None = None,
        output_stride: int = 8,
        channels: int = 256,
        rates: tuple[int, ...] | None = None,
        separable: bool = False,
        auxiliary_channels: int = 256,
        auxiliary_map: int = -2,
        dropout: float = 0.5,
        convention: Convention = "torchvision",
    ) -> None:
        super().__init__()
        details = CONVENTIONS[convention]
        self.align_corners = details.align_corners
        self.encoder: Backbone = build_backbone(
            backbone, in_channels=in_channels, weights=backbone_weights, output_stride=output_stride
        )
        self.notes = self.encoder.notes
        self.input_multiple = self.input_minimum = output_stride
        self.pyramid = AtrousPyramid(
            self.encoder.channels[-1],
            channels,
            rates=rates or default_rates(output_stride),
            separable=separable,
            details=details,
            dropout=dropout,
        )
        self.refine = _unit(channels, channels, 3) if details.refine else nn.Identity()
        self.classify = nn.Conv2d(channels, classes, 1)
        self.auxiliary_map = auxiliary_map
        self.auxiliary = None
        if auxiliary_channels:
            self.auxiliary = AuxiliaryHead(self.encoder.channels[auxiliary_map], classes, auxiliary_channels)
        initialise(self.pyramid)
        initialise(self.refine)
        initialise_head(self.classify)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits, see the class."""
        maps = self.encoder(images)
        logits = self.classify(self.refine(self.pyramid(maps[-1])))
        if self.align_corners:
            logits = spread_corners(logits, images)
        if self.auxiliary is None or not self.training:
            return PixelLogits(logits)
        return PixelLogits(logits, (self.auxiliary(maps[self.auxiliary_map]),))

    def stages(self) -> list[nn.Module]:
        heads = [self.classify] if self.auxiliary is None else [self.classify, self.auxiliary]
        # The heads learn at one rate, the auxiliary one with the others.
        return [*self.encoder.stages(), self.pyramid, self.refine, nn.ModuleList(heads)]

    def backbone(self) -> Backbone:
        return self.encoder


def default_rates(output_stride: int) -> tuple[int, int, int]:
    """The paper's dilations for a map of `output_stride`: 12, 24, 36 at 8 and 6, 12, 18 at 16, the same reach in pixels."""
    first = max(1, 96 // output_stride)
    return first, 2 * first, 3 * first


def spread_corners(x: Tensor, like: Tensor) -> Tensor:
    """`x` (B, C, h, w) at the size of `like`, bilinear with aligned corners."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def filter_unit(
    inputs: int, outputs: int, *, dilation: int = 1, separable: bool = False, bare: bool = False
) -> nn.Sequential:
    """A 3x3 convolution, batch norm, ReLU; `separable` into one per channel and a 1x1, each with batch norm and ReLU, or
    `bare`, only the second."""
    if not separable:
        return _unit(inputs, outputs, 3, dilation=dilation)
    single = _unit(inputs, inputs, 3, dilation=dilation, groups=inputs)
    return nn.Sequential(*(single[:1] if bare else single), *_unit(inputs, outputs, 1))


def _unit(inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU at the same resolution."""
    padding = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
