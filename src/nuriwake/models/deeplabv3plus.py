"""DeepLabV3+ (Chen et al. 2018, Encoder-decoder with atrous separable convolution, arXiv:1802.02611): DeepLabV3's pyramid,
and a small decoder that joins it with the backbone's map at stride 4."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.deeplabv3 import AtrousPyramid, Details, default_rates, filter_unit, spread_corners
from nuriwake.models.layers import AuxiliaryHead, initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

Convention = Literal["paper", "smp", "mmseg"]

CONVENTIONS: dict[Convention, Details] = {
    "paper": Details(),
    "smp": Details(refine=True, bare=True, decoder_depth=1, align_corners=True),
    "mmseg": Details(join=3),
}

Separable = Literal["all", "decoder", "none"]

FINE = 4
"""The stride of the map that the decoder joins, and of the logits."""


class DeepLabV3Plus(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/4, W/4); (B, classes, H, W) in the convention "smp". While
    training, `auxiliary` holds those of the auxiliary head, where there is one.

    Sides that are multiples of `output_stride` give logits that lie exactly on the image. Others work too: the logits,
    their number rounded up, are then taken to span the image, as the published implementations do.

    Args:
        backbone: a key of `BACKBONES` that can be dilated, or any timm model that can; with a map at stride 4.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        output_stride: of the map that the pyramid sees: 16 (the paper's choice), 8 (finer, costs more) or 32.
        channels: of each of the pyramid's branches, behind it and in the decoder.
        fine_channels: to which the map at stride 4 is reduced (table 1 of the paper).
        rates: dilations of the pyramid; None for 96/s, 192/s and 288/s at the output stride s.
        separable: which 3x3 convolutions filter each channel by itself, then mix: the pyramid's and the decoder's, only
            the decoder's, or none.
        auxiliary_channels: of an auxiliary head on the last map but one, which only training runs (mmsegmentation: 256);
            0 for none.
        dropout: share of the values behind the pyramid dropped while training.
        convention: whose details, see `CONVENTIONS`.

    Raises:
        UserError: the backbone cannot be dilated to this output stride, or has no map at stride 4.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str,
        backbone_weights: str | Path | None = None,
        output_stride: int = 16,
        channels: int = 256,
        fine_channels: int = 48,
        rates: tuple[int, ...] | None = None,
        separable: Separable = "all",
        auxiliary_channels: int = 0,
        dropout: float = 0.1,
        convention: Convention = "paper",
    ) -> None:
        super().__init__()
        details = CONVENTIONS[convention]
        self.align_corners = details.align_corners
        self.encoder: Backbone = build_backbone(
            backbone, in_channels=in_channels, weights=backbone_weights, output_stride=output_stride
        )
        if FINE not in self.encoder.strides[:-1]:
            raise UserError(
                f"DeepLabV3+ needs a backbone with a map at stride {FINE}; '{backbone}' has {self.encoder.strides}."
            )
        self.fine_map = self.encoder.strides.index(FINE)
        self.notes = self.encoder.notes
        self.input_multiple = self.input_minimum = output_stride
        self.pyramid = AtrousPyramid(
            self.encoder.channels[-1],
            channels,
            rates=rates or default_rates(output_stride),
            separable=separable == "all",
            details=details,
            dropout=dropout,
        )

        def unit(inputs: int) -> nn.Sequential:
            return filter_unit(inputs, channels, separable=separable != "none", bare=details.bare)

        self.refine = unit(channels) if details.refine else nn.Identity()
        self.reduce = nn.Sequential(
            nn.Conv2d(self.encoder.channels[self.fine_map], fine_channels, 1, bias=False),
            nn.BatchNorm2d(fine_channels),
            nn.ReLU(inplace=True),
        )
        widths = [channels + fine_channels, *[channels] * (details.decoder_depth - 1)]
        self.decoder = nn.Sequential(*(unit(width) for width in widths))
        self.classify = nn.Conv2d(channels, classes, 1)
        self.auxiliary = None
        if auxiliary_channels:
            self.auxiliary = AuxiliaryHead(self.encoder.channels[-2], classes, auxiliary_channels)
        for part in (self.pyramid, self.refine, self.reduce, self.decoder):
            initialise(part)
        initialise_head(self.classify)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits, see the class."""
        maps = self.encoder(images)
        fine = self.reduce(maps[self.fine_map])
        deep = self.refine(self.pyramid(maps[-1]))
        deep = functional.interpolate(deep, size=fine.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        logits = self.classify(self.decoder(torch.cat([deep, fine], dim=1)))
        if self.align_corners:
            logits = spread_corners(logits, images)
        if self.auxiliary is None or not self.training:
            return PixelLogits(logits)
        return PixelLogits(logits, (self.auxiliary(maps[-2]),))

    def stages(self) -> list[nn.Module]:
        heads = [self.classify] if self.auxiliary is None else [self.classify, self.auxiliary]
        pyramid = nn.ModuleList([self.pyramid, self.refine])
        return [*self.encoder.stages(), pyramid, self.reduce, self.decoder, nn.ModuleList(heads)]

    def backbone(self) -> Backbone:
        return self.encoder
