"""Anchors: boxes of a few shapes at every place of every map, from which proposals start (Faster R-CNN, Ren et al. 2015,
arXiv:1506.01497, section 3.1.1; one size per level as in FPN, arXiv:1612.03144, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuriwake.models.boxes import Size


@dataclass(frozen=True)
class Anchors:
    """Where the anchors lie.

    Args:
        sizes: the side of the square anchor, in pixels of the input, one per level from high to low resolution.
        ratios: height / width; the area stays.
        rounded: the corners of an anchor about its centre are whole numbers (torchvision).
        fitted: the distance of anchors is the input's side divided by the map's, rounded down (torchvision), instead of the
            level's stride; the two differ at the coarsest level when the input's side is no multiple of its stride.
    """

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False
    fitted: bool = False

    def __call__(
        self, shapes: Sequence[Size], strides: Sequence[int], image: Size, device: torch.device
    ) -> list[Tensor]:
        """Per level float32 (h * w * ratios, 4): row by row, and at each place the ratios in their order.

        Args:
            shapes: of the maps.
            strides: of the maps.
            image: (height, width) of the input that the maps are of.
        """
        return [
            self._level(
                size, shape, (image[0] // shape[0], image[1] // shape[1]) if self.fitted else (stride, stride), device
            )
            for size, shape, stride in zip(self.sizes, shapes, strides, strict=True)
        ]

    def _level(self, size: float, shape: Size, steps: Size, device: torch.device) -> Tensor:
        rows = torch.arange(shape[0], device=device, dtype=torch.float32) * steps[0]
        columns = torch.arange(shape[1], device=device, dtype=torch.float32) * steps[1]
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        places = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)
        return (places + self.shapes(size).to(device)).view(-1, 4)

    def shapes(self, size: float) -> Tensor:
        """The anchors of a level about the origin, float32 (ratios, 4)."""
        stretch = torch.tensor(self.ratios).sqrt()
        halves = torch.stack((size / stretch, size * stretch), dim=1) / 2
        shapes = torch.cat((-halves, halves), dim=1)
        return shapes.round() if self.rounded else shapes
