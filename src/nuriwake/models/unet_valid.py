"""U-Net exactly as published in 2015 (Ronneberger, Fischer, Brox, arXiv:1505.04597, figure 1): unpadded convolutions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.models.base import Model
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits


class UnpaddedConvolutions(nn.Module):
    """(B, inputs, h, w) -> (B, outputs, h - 4, w - 4): twice 3x3 convolution without padding, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3)
        self.second = nn.Conv2d(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x), inplace=True)), inplace=True)


class UNetValid(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H - 2 * margin, W - 2 * margin); 572 -> 388 at depth 4.

    Every output pixel saw only real pixels. No batch norm; weights drawn with variance 2 / fan-in (section 3).
    Acceptable sides at depth 4: 188, 204, ..., 572, ... (`fit_size`); the margin is 92.

    Args:
        width: channels of the first level (64 in the paper); doubled per level.
        depth: how often the resolution is halved (4 in the paper).
        dropout: share of values dropped, while training, at the end of the contracting path: after its two deepest
            levels, as in the authors' published network definition.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, depth: int = 4, dropout: float = 0.5
    ) -> None:
        super().__init__()
        factor = 2**depth
        # On the way down every level loses 4 pixels at its own scale, on the way up again; the deepest loses them once.
        self.margin = 6 * factor - 4
        self.input_multiple = factor
        # Sides are factor * b + 4 * (factor - 1), with b the side of the deepest map; this is the first with an output.
        self.input_minimum = next(
            side for b in range(5, 13) if (side := factor * b + 4 * (factor - 1)) > 2 * self.margin
        )
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            UnpaddedConvolutions(inputs, outputs)
            for inputs, outputs in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        skips = widths[-2::-1]
        self.upsamplings = nn.ModuleList(nn.ConvTranspose2d(2 * skip, skip, 2, stride=2) for skip in skips)
        self.decoder = nn.ModuleList(UnpaddedConvolutions(2 * skip, skip) for skip in skips)
        self.head = nn.Conv2d(width, classes, 1)
        initialise(self)
        initialise_head(self.head)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits (B, classes, H - 2 * margin, W - 2 * margin)."""
        self.require_size(images)
        x = self.encoder[0](images)
        skips: list[Tensor] = []
        deepest = len(self.encoder) - 1
        for index, level in enumerate(list(self.encoder)[1:], start=1):
            skips.append(x)
            x = level(functional.max_pool2d(x, 2))
            if index >= deepest - 1:
                x = self.dropout(x)
        for upsampling, level in zip(self.upsamplings, self.decoder, strict=True):
            x = upsampling(x)
            x = level(torch.cat([crop_to(skips.pop(), x), x], dim=1))
        return PixelLogits(self.head(x))

    def stages(self) -> list[nn.Module]:
        up = [module for pair in zip(self.upsamplings, self.decoder, strict=True) for module in pair]
        return [*self.encoder, *up, self.head]


def crop_to(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x` (B, C, H, W) of the height and width of `like`."""
    height, width = like.shape[-2:]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
