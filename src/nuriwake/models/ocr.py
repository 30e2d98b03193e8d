"""HRNet with object-contextual representations: each pixel is described anew by the class regions that it resembles.

Yuan, Chen and Wang 2020, "Object-Contextual Representations for Semantic Segmentation", arXiv:1909.11065, section 3.2.
Shape letters: B images, C channels, K regions (classes), N pixels at stride 4.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.models.backbones import Backbone
from nuriwake.models.backbones.hrnet import HRNetLayout, resize
from nuriwake.models.base import Model
from nuriwake.models.hrnet import branch_head, hrnet_encoder, side_by_side
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits

DROPOUT = 0.05
"""Share of the last layer's channels that the authors drop while training."""


class ObjectContext(nn.Module):
    """features (B, C, h, w) and region_logits (B, K, h, w) -> features with their context (B, C, h, w).

    Args:
        channels: C.
        key_channels: of the space in which pixels and regions are compared.
        dropout: share of the result's channels dropped while training.
        background_region: as `region_representations` has it.
    """

    def __init__(self, channels: int, *, key_channels: int, dropout: float, background_region: bool = True) -> None:
        super().__init__()
        self.background_region = background_region
        self.pixel_query = nn.Sequential(_unit(channels, key_channels), _unit(key_channels, key_channels))
        self.region_key = nn.Sequential(_unit(channels, key_channels), _unit(key_channels, key_channels))
        self.region_value = _unit(channels, key_channels)
        self.context = _unit(key_channels, channels)
        self.merge = _unit(2 * channels, channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor, region_logits: Tensor) -> Tensor:
        regions = region_representations(features, region_logits, background_region=self.background_region)[..., None]
        query = self.pixel_query(features).flatten(2).transpose(1, 2)  # B N C
        key = self.region_key(regions).flatten(2).transpose(1, 2)  # B K C
        value = self.region_value(regions).flatten(2).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, key, value)
        context = self.context(attended.transpose(1, 2).unflatten(2, features.shape[-2:]))
        return self.dropout(self.merge(torch.cat([context, features], dim=1)))


class HRNetOCR(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H, W) or, without `align_corners`, (B, classes, H/4, W/4).

    The auxiliary logits, of the same size, are those that draw the regions; they need a loss of their own (the authors
    weigh it 0.4). Any size is taken; sides at stride 4 are rounded up.

    Args:
        backbone, backbone_weights, layout, head_bias, enlarge_twice: as in `HRNet`.
        align_corners: as in `HRNet`; the authors train OCR with True, mmsegmentation with False.
        channels: of the pixel representations; pixels and regions are compared in half as many.
        background_region: with one class, the background is a second region; False as in the published implementations, which
            have the one region of the class, so that files that they trained need it.

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
        align_corners: bool = True,
        head_bias: bool = True,
        channels: int = 512,
        background_region: bool = True,
        enlarge_twice: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.encoder = hrnet_encoder(
            backbone,
            in_channels=in_channels,
            weights=backbone_weights,
            layout=layout,
            align_corners=align_corners,
            enlarge_twice=enlarge_twice,
        )
        self.notes = self.encoder.notes
        width = sum(self.encoder.channels)
        self.auxiliary_head = branch_head(width, classes, bias=head_bias)
        self.representation = _unit(width, channels, kernel=3, bias=head_bias)
        self.object_context = ObjectContext(
            channels, key_channels=channels // 2, dropout=DROPOUT, background_region=background_region
        )
        self.head = nn.Conv2d(channels, classes, 1)
        initialise(self.representation)
        initialise(self.object_context)
        initialise_head(self.head)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits, see the class."""
        scores = self.scores(images)
        if not self.training:
            scores = scores[:1]
        if self.align_corners:
            scores = tuple(resize(item, images.shape[-2:], align_corners=True) for item in scores)
        return PixelLogits(scores[0], scores[1:])

    def scores(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> logits and region logits, each (B, classes, H/4, W/4), before they are enlarged."""
        branches = side_by_side(self.encoder(images), align_corners=self.align_corners)
        region_logits = self.auxiliary_head(branches)
        features = self.object_context(self.representation(branches), region_logits)
        return self.head(features), region_logits

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.auxiliary_head, self.representation, self.object_context, self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def region_representations(features: Tensor, region_logits: Tensor, *, background_region: bool = True) -> Tensor:
    """features (B, C, h, w) and region_logits (B, K, h, w) -> (B, C, K): the mean pixel of each region, its pixels
    weighted by the softmax over the image (the paper's equation 2).

    A single logit is that of the foreground; with `background_region` the background, its opposite, is then the second
    region. With the foreground alone every pixel attends to the same thing.
    """
    if region_logits.shape[1] == 1 and background_region:
        region_logits = torch.cat([-region_logits, region_logits], dim=1)
    shares = region_logits.flatten(2).softmax(dim=2)
    return features.flatten(2) @ shares.transpose(1, 2)


def _unit(inputs: int, outputs: int, *, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
