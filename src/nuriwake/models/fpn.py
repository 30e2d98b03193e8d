"""The feature pyramid network (Lin et al. 2017, arXiv:1612.03144): a backbone's maps made equally wide, the deep ones
added to the shallow ones. Shared by every architecture that reads several resolutions."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError

FINEST = 4
"""The stride at which a pyramid begins."""


class FeaturePyramid(nn.Module):
    """Maps (B, channels[i], h_i, w_i), each half as large as the one before -> as many maps (B, width, h_i, w_i).

    Section 3 of the paper: each map goes through a 1x1 convolution, then takes the sum with the next deeper one, doubled
    by repetition; a 3x3 convolution without activation against the aliasing of the doubling ends each.

    Args:
        channels: of the maps, from high to low resolution.
        width: channels of every map that comes out.
        smooth: with the final 3x3 convolutions (detectron2, mmsegmentation); segmentation_models_pytorch has none.
        norm: a batch norm instead of the bias after each convolution (torchvision's Mask R-CNN of version 2).
        coarsest: one map more, of every second pixel of the last one: the level P6 of Mask R-CNN (section 4.1).
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        smooth: bool = True,
        norm: bool = False,
        coarsest: bool = False,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(inputs, width, 1, norm) for inputs in channels)
        self.smooth = nn.ModuleList(_convolution(width, width, 3, norm) for _ in channels if smooth)
        self.coarsest = coarsest
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 4:
                nn.init.kaiming_uniform_(parameter, a=1)  # variance 1 / fan-in, since no activation follows

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From high to low resolution, as they went in; with `coarsest`, one more."""
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(sides) - 2, -1, -1):
            sides[index] = sides[index] + functional.interpolate(sides[index + 1], scale_factor=2.0, mode="nearest")
        maps = [smooth(x) for smooth, x in zip(self.smooth, sides, strict=True)] if len(self.smooth) else sides
        return [*maps, functional.max_pool2d(maps[-1], 1, stride=2)] if self.coarsest else maps


def first_level(backbone: str, strides: Sequence[int], architecture: str) -> int:
    """The index of the map at stride 4 among those of `backbone`.

    Raises:
        UserError: there is none, or the deeper maps do not halve.
    """
    first = strides.index(FINEST) if FINEST in strides else None
    if first is None or any(high != 2 * low for low, high in itertools.pairwise(strides[first:])):
        raise UserError(
            f"A {architecture} needs a backbone with maps at the strides 4, 8, 16, ...; '{backbone}' has {strides}."
        )
    return first


def _convolution(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs)) if norm else convolution
