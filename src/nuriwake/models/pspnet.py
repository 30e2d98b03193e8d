"""PSPNet (Zhao et al. 2017, Pyramid scene parsing network, arXiv:1612.01105): the scene's context from averages over
1x1, 2x2, 3x3 and 6x6 parts of the deepest map, and an auxiliary head on the map before it while training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.layers import AuxiliaryHead, initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

Convention = Literal["mmseg", "semseg", "smp"]


@dataclass(frozen=True)
class Details:
    """What the published implementations do differently, and a trained file cannot do otherwise.

    Attributes:
        align_corners: bilinear interpolation with aligned corners, the last one inside the model, to the input's size;
            otherwise half-pixel centres, and logits at the output stride.
        one_more: acceptable sides are a multiple of the output stride and one more, so that corners do align.
        bottleneck: side of the kernel of the convolution behind the pyramid.
        classify: side of the kernel of the last convolution.
        bare_pool: the branch that averages everything has a bias and no batch norm.
    """

    align_corners: bool = False
    one_more: bool = False
    bottleneck: int = 3
    classify: int = 1
    bare_pool: bool = False


CONVENTIONS: dict[Convention, Details] = {
    "mmseg": Details(),
    "semseg": Details(align_corners=True, one_more=True),
    "smp": Details(align_corners=True, bottleneck=1, classify=3, bare_pool=True),
}
"""The authors' later code is "semseg"."""


class PyramidPooling(nn.Module):
    """x (B, inputs, h, w) -> (B, inputs + len(bins) * channels, h, w): x beside its averages over bins x bins parts.

    Figure 3 (c) of the paper. Each average goes through a 1x1 convolution, batch norm and ReLU and is spread out
    bilinearly.
    """

    def __init__(self, inputs: int, channels: int, bins: tuple[int, ...], details: Details) -> None:
        super().__init__()
        self.bins, self.details = bins, details
        self.branches = nn.ModuleList(
            _unit(inputs, channels, 1, bare=details.bare_pool and parts == 1) for parts in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        pools = [
            functional.interpolate(
                _branch(branch, functional.adaptive_avg_pool2d(x, parts)),
                size=x.shape[-2:],
                mode="bilinear",
                align_corners=self.details.align_corners,
            )
            for parts, branch in zip(self.bins, self.branches, strict=True)
        ]
        return torch.cat([x, *pools], dim=1)


class PSPNet(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/s, W/s), s = `output_stride`; (B, classes, H, W) in the
    conventions "semseg" and "smp". While training, `auxiliary` holds one more of the same size.

    Both sides are multiples of s; in the convention "semseg" multiples and one more (8k + 1).

    Args:
        backbone: a key of `BACKBONES` or any timm model with feature maps.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        output_stride: of the map that the pyramid sees: 8 (the paper), 16 or 32.
        dilate: the backbone's deeper stages are dilated so as to stay at `output_stride`; else they are left out (smp).
        bins: parts per side over which each branch averages.
        channels: behind the bottleneck.
        branch_channels: of each branch; None for an equal share of the backbone's channels (the paper).
        auxiliary_channels: of the auxiliary head (section 4 of the paper; its loss counts 0.4), which only training
            runs; 0 for none.
        dropout: share of the channels before the last convolution that is dropped while training.
        convention: whose details, see `CONVENTIONS`.

    Raises:
        UserError: the backbone cannot be dilated or has no map of the output stride.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        output_stride: int = 8,
        dilate: bool = True,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        channels: int = 512,
        branch_channels: int | None = None,
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
        convention: Convention = "mmseg",
    ) -> None:
        super().__init__()
        self.details = details = CONVENTIONS[convention]
        self.encoder: Backbone = build_backbone(
            backbone,
            in_channels=in_channels,
            weights=backbone_weights,
            output_stride=output_stride if dilate else 32,
        )
        if not dilate:
            _cut_at(self.encoder, backbone, output_stride)
        self.notes = self.encoder.notes
        self.input_multiple = self.encoder.strides[-1]
        self.input_minimum = self.input_multiple + details.one_more
        inputs = self.encoder.channels[-1]
        branch = branch_channels or inputs // len(bins)
        self.pyramid = PyramidPooling(inputs, branch, bins, details)
        self.bottleneck = _unit(inputs + len(bins) * branch, channels, details.bottleneck)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, classes, details.classify, padding=details.classify // 2)
        self.auxiliary = (
            AuxiliaryHead(self.encoder.channels[-2], classes, auxiliary_channels, dropout=dropout)
            if auxiliary_channels
            else None
        )
        initialise(self.pyramid)
        initialise(self.bottleneck)
        initialise_head(self.classify)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits, see the class."""
        self.require_size(images)
        maps = self.encoder(images)
        x = self.bottleneck(self.pyramid(maps[-1]))
        logits = self._spread(self.classify(self.dropout(x)), images)
        if self.auxiliary is None or not self.training:
            return PixelLogits(logits)
        return PixelLogits(logits, (self._spread(self.auxiliary(maps[-2]), images),))

    def _spread(self, logits: Tensor, images: Tensor) -> Tensor:
        if not self.details.align_corners:
            return logits
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=True)

    def stages(self) -> list[nn.Module]:
        # The heads learn at one rate, the auxiliary one with the others.
        heads = [self.classify] if self.auxiliary is None else [self.classify, self.auxiliary]
        return [*self.encoder.stages(), self.pyramid, self.bottleneck, nn.ModuleList(heads)]

    def backbone(self) -> Backbone:
        return self.encoder


def _branch(branch: nn.Module, pooled: Tensor) -> Tensor:
    """`branch` of `_unit` on averages (B, C, p, p).

    The average of everything in a batch of one image is one value per channel, whose variance is no statistic: while
    training on it the batch norm uses its running statistics and leaves them alone.
    """
    convolution, norm, activation = branch.children()
    if not (isinstance(norm, nn.BatchNorm2d) and norm.training and pooled[:, 0].numel() == 1):
        return branch(pooled)
    x = functional.batch_norm(
        convolution(pooled), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )
    return activation(x)


def _cut_at(encoder: Backbone, name: str, stride: int) -> None:
    """Leave out what lies behind the map at `stride`."""
    if stride not in encoder.strides:
        raise UserError(
            f"A PSPNet cut at stride {stride} needs a map there; '{name}' has the strides {encoder.strides}."
        )
    encoder.cut(len(encoder.strides) - encoder.strides[::-1].index(stride))


def _unit(inputs: int, outputs: int, kernel: int, *, bare: bool = False) -> nn.Sequential:
    """Convolution, batch norm, ReLU; `bare` has a bias instead of the batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bare),
        nn.Identity() if bare else nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
