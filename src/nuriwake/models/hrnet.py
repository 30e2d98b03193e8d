"""HRNet for segmentation: the four branches of HRNetV2 side by side at stride 4, one hidden 1x1 layer, a score per class.

Wang et al. 2019, arXiv:1908.07919, section 3.3 (HRNetV2). mmsegmentation calls it FCN over HRNet.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.backbones.hrnet import LAYOUTS, ExchangeModule, HRNetLayout, resize
from nuriwake.models.base import Model
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

DEEPEST_STRIDE = 32
"""Of the coarsest of the four branches."""


class HRNet(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/4, W/4) or, with `align_corners`, (B, classes, H, W).

    Any size is taken; sides at stride 4 are rounded up, and the logits are then taken to span the image.

    Args:
        backbone: a key of `LAYOUTS`.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        layout: width and depth where they are not those of `backbone`.
        align_corners: how maps and logits are enlarged: False (half-pixel centres) as in the authors' first code and in
            mmsegmentation, where the consumer enlarges the logits; True as in their later code, where the corners of the
            logits lie on those of the image and the model enlarges them itself.
        head_bias: of the hidden convolution, before its batch norm: the authors have one, mmsegmentation has not.
        enlarge_twice: where branches exchange what they know, coarser ones are first enlarged by the ratio of their strides,
            then to the finer one's size, as in mmsegmentation; at once as in the authors' code. It makes a difference for
            sides that are no multiples of 32.

    Raises:
        UserError: no such backbone (did you mean), or weights that do not fit.
        RunError: weights by name, and no network.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "hrnetv2_w48",
        backbone_weights: str | Path | None = None,
        layout: HRNetLayout | None = None,
        align_corners: bool = False,
        head_bias: bool = True,
        enlarge_twice: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        if not align_corners:  # the consumer enlarges, so the logits of crops and tiles must cover them exactly
            self.input_multiple = self.input_minimum = DEEPEST_STRIDE
            self.any_size = True
        self.encoder = hrnet_encoder(
            backbone,
            in_channels=in_channels,
            weights=backbone_weights,
            layout=layout,
            align_corners=align_corners,
            enlarge_twice=enlarge_twice,
        )
        self.notes = self.encoder.notes
        self.head = branch_head(sum(self.encoder.channels), classes, bias=head_bias)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits, see the class."""
        logits = self.scores(images)
        return PixelLogits(resize(logits, images.shape[-2:], align_corners=True) if self.align_corners else logits)

    def scores(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, classes, H/4, W/4): the logits before they are enlarged."""
        return self.head(side_by_side(self.encoder(images), align_corners=self.align_corners))

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def hrnet_encoder(
    name: str,
    *,
    in_channels: int,
    weights: str | Path | None,
    layout: HRNetLayout | None,
    align_corners: bool,
    enlarge_twice: bool,
) -> Backbone:
    """The HRNetV2 `name`, a key of `LAYOUTS`, with the options of `HRNet`. Raises as `HRNet`."""
    if name not in LAYOUTS:
        raise UserError(f"HRNet has no backbone '{name}'.{did_you_mean(name, LAYOUTS)}")
    options = {"layout": layout, "align_corners": align_corners}
    encoder = build_backbone(name, in_channels=in_channels, weights=weights, options=options)
    if enlarge_twice:
        for part in encoder.modules():
            if isinstance(part, ExchangeModule):
                _enlarge_first(part, align_corners=align_corners)
    return encoder


def _enlarge_first(exchange: ExchangeModule, *, align_corners: bool) -> None:
    """Let every path from a coarser branch end with an enlarging by the ratio of the strides, which holds no arrays."""
    for target, paths in enumerate(exchange.fuse_layers):
        assert isinstance(paths, nn.ModuleList)
        for source, path in enumerate(paths):
            if source > target:
                assert isinstance(path, nn.Sequential)
                ratio = 2 ** (source - target)
                path.append(nn.Upsample(scale_factor=ratio, mode="bilinear", align_corners=align_corners))


def side_by_side(maps: Sequence[Tensor], *, align_corners: bool) -> Tensor:
    """Maps (B, C_i, h_i, w_i), finest first -> (B, sum C_i, h_0, w_0)."""
    size = maps[0].shape[-2:]
    return torch.cat([resize(x, size, align_corners=align_corners) for x in maps], dim=1)


def branch_head(channels: int, classes: int, *, bias: bool) -> nn.Sequential:
    """(B, channels, h, w) -> (B, classes, h, w): one hidden layer of as many channels, then a score per class."""
    score = nn.Conv2d(channels, classes, 1)
    head = nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=bias), nn.BatchNorm2d(channels), nn.ReLU(inplace=True), score
    )
    initialise(head)
    initialise_head(score)
    return head
