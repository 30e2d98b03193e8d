"""Prior boxes (Liu et al. 2016, SSD, arXiv:1512.02325, section 2.2): one of each shape in every cell of every map.

A prior is (centre x, centre y, width, height), in shares of the input's width and height.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from nuriwake.models.boxes import Scale

OFFSET_SCALE: Scale = (10.0, 10.0, 5.0, 5.0)
"""For `boxes.encode_boxes`: one over what SSD's code calls variances, 0.1 of the centre and 0.2 of the size."""


def make_priors(
    maps: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    scales: Sequence[float] = (1.0,),
    cells: Sequence[tuple[float, float]] | None = None,
    square: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """float32 (N, 4): for every cell of every map, row by row, a prior of each scale and ratio, centred in the cell.

    Args:
        maps: (height, width) of the feature maps.
        sizes: for each map the side of its square priors, as a share of the input's.
        ratios: width / height; the area stays.
        scales: times the size of the map; all ratios of the first come before those of the second.
        cells: for each map the (height, width) of a cell, as a share of the input's; by default the map covers the input exactly.
        square: the height is the width, size * sqrt(ratio), whatever the ratio says: the priors of YOLACT's published
            weights, by a mistake that its authors kept.
    """
    parts: list[Tensor] = []
    cells = [(1 / height, 1 / width) for height, width in maps] if cells is None else cells
    for (height, width), size, (tall, wide) in zip(maps, sizes, cells, strict=True):
        widths = [size * scale * sqrt(ratio) for scale in scales for ratio in ratios]
        heights = widths if square else [size * scale / sqrt(ratio) for scale in scales for ratio in ratios]
        extent = torch.tensor([widths, heights], dtype=torch.float32, device=device).t()
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * tall
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * wide
        shape = (height, width, len(widths))
        fields = (x[None, :, None].expand(shape), y[:, None, None].expand(shape), *(
            side.expand(shape) for side in extent.unbind(1)
        ))  # fmt: skip
        parts.append(torch.stack(fields, dim=-1).reshape(-1, 4))
    return torch.cat(parts)


def corners(priors: Tensor) -> Tensor:
    """Priors (N, 4) -> the same as boxes (N, 4)."""
    centre, extent = priors.split(2, dim=-1)
    return torch.cat((centre - extent / 2, centre + extent / 2), dim=-1)
