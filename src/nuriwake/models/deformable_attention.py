"""Multi-scale deformable attention (Zhu et al. 2021, arXiv:2010.04159, section 4.1) in plain PyTorch, no compiled operator."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = Sequence[tuple[int, int]]
"""(height, width) of each level's map."""


class DeformableAttention(nn.Module):
    """Every query looks at a few places of every level around its own, and says itself where and how much (equation 3).

    Args:
        channels: of queries, values and answers; divides by `heads`.
        heads, levels, points: each head has `points` places on each of `levels` maps.
    """

    def __init__(self, channels: int, *, heads: int = 8, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published (section A.4 and its code): heads look in directions of a ring, the n-th point n steps away; every
        place counts the same; offsets and weights do not depend on the query yet."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        ring = directions[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for part in (self.value, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, queries: Tensor, centres: Tensor, values: Tensor, sizes: Sizes) -> Tensor:
        """The answers, (B, Q, C).

        Args:
            queries: (B, Q, C), with their positions added.
            centres: float32 (Q, 2), where each query stands: (x, y) as shares of width and height.
            values: (B, S, C), the levels' maps one after the other, each row by row.
            sizes: of the levels; S is their total area.
        """
        split = (*queries.shape[:2], self.heads, self.levels)
        # Places in float32 whatever the autocast: bfloat16 tells no more than 256 positions apart.
        offsets = self.offsets(queries).float().view(*split, self.points, 2)
        weights = self.weights(queries).float().view(*split[:3], -1).softmax(dim=-1).view(*split, self.points)
        extents = torch.tensor([[width, height] for height, width in sizes], device=offsets.device, dtype=torch.float32)
        places = centres[:, None, None, None] + offsets / extents[:, None]
        heads = self.value(values).float().unflatten(-1, (self.heads, -1))
        # On a processor the bags keep about half the memory and answer twice as fast; exporters know the grids.
        bags = heads.device.type == "cpu" and not torch.compiler.is_compiling()
        found = (gather_bags if bags else gather_grids)(heads, sizes, places, weights)
        return self.output(found.to(queries.dtype))


def gather_grids(values: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of what lies at `places`, (B, Q, M * D), by `grid_sample`.

    Read bilinearly with half-pixel centres, 0 beyond the border.

    Args:
        values: (B, S, M, D), the levels one after the other; M heads of D channels.
        sizes: of the L levels.
        places: (B, Q, M, L, K, 2), (x, y) as shares of the level's width and height.
        weights: (B, Q, M, L, K).
    """
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in sizes], dim=2)
    grids = (2 * places - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    shares = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)
    parts = [
        (functional.grid_sample(x.unflatten(2, size), grid, align_corners=False) * share[:, None]).sum(dim=-1)
        for x, size, grid, share in zip(maps, sizes, grids, shares, strict=True)
    ]
    total = torch.stack(parts).sum(dim=0)
    return total.view(len(values), -1, total.shape[-1]).transpose(1, 2)


def gather_bags(values: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """As `gather_grids`, by `embedding_bag`: the four neighbours of every place are rows of a table, summed with weights.

    Nothing of the size of the places times the channels is ever stored.
    """
    batch, area, heads, channels = values.shape
    device = values.device
    width, height = (torch.tensor([size[axis] for size in sizes], device=device)[:, None] for axis in (1, 0))
    first = torch.tensor([sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))], device=device)[:, None]
    (left, right), across = _neighbours(places[..., 0], width)
    (top, bottom), down = _neighbours(places[..., 1], height)
    rows = torch.stack([top, top, bottom, bottom], dim=-1) * width[..., None]
    columns = torch.stack([left, right, left, right], dim=-1)
    image = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=device).view(-1, 1, 1, 1)
    indices = ((image * area + first[..., None] + rows + columns) * heads + head).flatten(3)
    shares = (weights[..., None, None] * down[..., :, None] * across[..., None, :]).flatten(3)
    found = functional.embedding_bag(
        indices.view(-1, indices.shape[-1]),
        values.reshape(-1, channels),
        per_sample_weights=shares.view(-1, shares.shape[-1]),
        mode="sum",
    )
    return found.view(batch, -1, heads * channels)


def _neighbours(places: Tensor, sides: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Along one axis: the two cells about each place, int64, and the share of each (..., 2), 0 for a cell beyond the border."""
    positions = places * sides - 0.5
    before = positions.detach().floor()
    second = positions - before
    inside = torch.stack([(before >= 0) & (before < sides), (before >= -1) & (before < sides - 1)], dim=-1)
    shares = torch.stack([1 - second, second], dim=-1) * inside
    cell = before.long()
    return (cell.clamp(min=0).minimum(sides - 1), (cell + 1).clamp(min=0).minimum(sides - 1)), shares
