"""Mask2Former's pixel decoder: a transformer of deformable attention over three resolutions, and a step up to the fourth.

Zhu et al. 2021 (arXiv:2010.04159) within Cheng et al. 2022 (arXiv:2112.01527, section 3.2.2 and its code).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.models.deformable_attention import DeformableAttention, Sizes

LEVELS = 3
"""How many resolutions the transformer sees: strides 32, 16 and 8."""


def sine_positions(size: tuple[int, int], channels: int, device: torch.device) -> Tensor:
    """Waves that tell the cells of a map apart, float32 (height * width, channels); rows in the first half, columns next.

    Vaswani et al. 2017 (arXiv:1706.03762, section 3.5) with positions as shares of 2 pi, as DETR has it.
    """
    pairs = torch.arange(channels // 4, device=device, dtype=torch.float32)
    frequencies = 10000.0 ** (-4 * pairs / channels)
    halves = list[Tensor]()
    for side in size:
        angles = torch.arange(1, side + 1, device=device, dtype=torch.float32) * (2 * math.pi / (side + 1e-6))
        waves = angles[:, None] * frequencies
        halves.append(torch.stack([waves.sin(), waves.cos()], dim=-1).flatten(1))
    height, width = size
    rows, columns = halves[0][:, None].expand(-1, width, -1), halves[1][None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class FeedForward(nn.Module):
    """(B, N, C) -> the same: two linear maps, the shortcut, and a layer norm behind it."""

    def __init__(self, channels: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, hidden)
        self.narrow = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        for part in (self.widen, self.narrow):
            nn.init.xavier_uniform_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(functional.relu(self.widen(x)))
        return self.norm(x + self.dropout(self.narrow(hidden)))


class DeformableLayer(nn.Module):
    """x (B, S, C), the cells of all levels -> the same."""

    def __init__(self, channels: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads=heads, levels=LEVELS)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.feed = FeedForward(channels, hidden, dropout=dropout)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """positions (S, C) are added to what asks; centres (S, 2) say where each cell stands, see `DeformableAttention`."""
        found = self.attention(x + positions.to(x.dtype), centres, x, sizes)
        return self.feed(self.norm(x + self.dropout(found)))


class PixelDecoder(nn.Module):
    """Maps (B, channels[i], H/s, W/s) at the strides s = 4, 8, 16, 32 -> ((B, C, H/4, W/4), three maps (B, C, h, w)).

    The first is what masks are read from, the three are what queries look at: strides 32, 16 and 8, in this order.

    Args:
        inputs: channels of the backbone's four maps, from high to low resolution.
        channels: C; divides by 32.
        layers: of the transformer.
    """

    def __init__(
        self, inputs: Sequence[int], channels: int, *, heads: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(_convolution(width, channels, 1) for width in reversed(inputs[1:]))
        self.level_positions = nn.Parameter(torch.empty(LEVELS, channels))
        self.layers = nn.ModuleList(
            DeformableLayer(channels, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.lateral = _convolution(inputs[0], channels, 1, bias=False)
        self.smooth = nn.Sequential(*_convolution(channels, channels, 3, bias=False), nn.ReLU())
        self.masks = nn.Conv2d(channels, channels, 1)
        nn.init.normal_(self.level_positions)
        self._initialise()

    def _initialise(self) -> None:
        """As published: Xavier where the transformer begins, variance 1 / fan-in (Detectron2) elsewhere, biases 0."""
        for part in self.projections:
            nn.init.xavier_uniform_(part[0].weight)  # pyright: ignore[reportIndexIssue, reportArgumentType]
            nn.init.zeros_(part[0].bias)  # pyright: ignore[reportIndexIssue, reportArgumentType]
        for part in (self.lateral[0], self.smooth[0], self.masks):
            nn.init.kaiming_uniform_(part.weight, a=1)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.masks.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`maps` from high to low resolution; see the class."""
        levels = [project(x) for project, x in zip(self.projections, reversed(maps[1:]), strict=True)]
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in levels]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        waves = [sine_positions(size, x.shape[-1], x.device) for size in sizes]
        positions = torch.cat([wave + own for wave, own in zip(waves, self.level_positions, strict=True)])
        centres = torch.cat([_centres(size, x.device) for size in sizes])
        for layer in self.layers:
            x = layer(x, positions, centres, sizes)
        parts = x.split([height * width for height, width in sizes], dim=1)
        seen = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.lateral(maps[0])
        fine = fine + functional.interpolate(seen[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.masks(self.smooth(fine)), seen


def _convolution(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Sequential:
    """A convolution and a group norm of 32 groups."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias), nn.GroupNorm(32, outputs))


def _centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """(x, y) of every cell of a map as shares of its width and height, row by row: float32 (height * width, 2)."""
    height, width = size
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
