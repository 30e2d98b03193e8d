"""What every backbone promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Published:
    """How the published file of a backbone's weights relates to the backbone.

    Attributes:
        names: published array name -> name in the backbone's state dict.
        shapes: published array name -> shape that the backbone needs.
        beyond: beginnings of the names of published arrays that lie behind the last feature map (classifier): left out.
        first_convolutions: published names of the kernels that see the image, whose input channels may be adapted.
    """

    names: Mapping[str, str]
    shapes: Mapping[str, torch.Size]
    beyond: tuple[str, ...]
    first_convolutions: tuple[str, ...]


class Backbone(nn.Module):
    """Images to feature maps: `forward(images (B, C, H, W))` -> list of (B, channels[i], H/strides[i], W/strides[i]).

    Attributes:
        channels: of the feature maps, from high to low resolution.
        strides: input pixels per feature pixel, in the same order, never falling.
        notes: sentences on which weights were used and which left out.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def cut(self, maps: int) -> None:
        """Keep the first `maps` feature maps and leave out what lies behind them, in place; at least one map stays."""
        raise NotImplementedError

    def published(self) -> Published:
        """How a published file for this architecture fills this backbone."""
        raise NotImplementedError

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state` under the published names, where the architecture's authors used a layout of their own."""
        return state

    def early(self) -> Sequence[nn.Module]:
        """Those of `stages` that end at stride 4 or before; empty where they do not stand apart.

        They see edges and colours, and cost most of the time on large maps: the first to freeze when time is short.
        """
        return []

    def stages(self) -> Sequence[nn.Module]:
        """The modules from the input to the output, every parameter in exactly one."""
        return list(self.children())
