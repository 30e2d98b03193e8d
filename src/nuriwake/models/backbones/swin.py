"""The Swin transformer (Liu et al. 2021, arXiv:2103.14030) with a map per level, as segmentation takes it.

Inside, tensors are (B, h, w, C). Any size works: maps are padded to whole windows and to even sides, as published.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.backbones.swin_names import convert_swin

PATCH = 4
EXPANSION = 4
"""What all published sizes share: pixels per patch side, hidden / outer channels."""

SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin_large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
"""Name -> channels of the first level, blocks and heads per level, side of a window: section 3.3 of the paper. The windows
are those of Mask2Former, whose base and large begin from ImageNet at 384x384."""


class WindowAttention(nn.Module):
    """(B, h, w, C) -> the same: attention inside windows, with a learnt bias per relative position (equation 4).

    Args:
        window: side of a window.
        shift: how far the windows are moved up and left, in cells; what this brings together from opposite borders does
            not see each other (figure 4).
    """

    positions: Tensor

    def __init__(self, channels: int, *, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("positions", _relative_positions(window), persistent=False)
        nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # The cells that pad the last windows take part as keys: published weights were trained so.
        x = functional.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        rows, columns = x.shape[1] // self.window, x.shape[2] // self.window
        split = x.unflatten(2, (columns, self.window)).unflatten(1, (rows, self.window)).transpose(2, 3)
        tokens = split.flatten(3, 4).flatten(0, 2)
        answer = self._attend(tokens, rows, columns).view(split.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            answer = answer.roll((self.shift, self.shift), dims=(1, 2))
        return answer[:, :height, :width]

    def _attend(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """(B * rows * columns, window^2, C) -> the same."""
        area = self.window**2
        bias = self.position_bias[self.positions].view(1, area, area, self.heads).permute(0, 3, 1, 2)
        if self.shift:
            apart = self._apart(rows, columns, tokens.device)
            bias = bias.masked_fill(apart[:, None], -100.0)
            bias = bias.repeat(len(tokens) // len(bias), 1, 1, 1)
        query, key, value = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.output(answer.transpose(1, 2).flatten(2))

    def _apart(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Which pairs of cells of each shifted window come from opposite borders: bool (rows * columns, area, area)."""
        wrapped = [self._wrapped(count, device) for count in (rows, columns)]
        parts = (2 * wrapped[0][:, None, :, None] + wrapped[1][None, :, None, :]).flatten(2).flatten(0, 1)
        return parts[:, :, None] != parts[:, None, :]

    def _wrapped(self, count: int, device: torch.device) -> Tensor:
        """Along one axis, int64 (count, window): 1 for the cells of the last window that came around from the first."""
        cells = torch.arange(count * self.window, device=device).view(count, self.window)
        return (cells >= count * self.window - self.shift).long()


class Block(nn.Module):
    """(B, h, w, C) -> the same: attention and feed-forward, each behind a layer norm and beside a shortcut."""

    def __init__(self, channels: int, *, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads=heads, window=window, shift=shift)
        self.feed_norm = nn.LayerNorm(channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels), nn.GELU(), nn.Linear(EXPANSION * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x)))
        return x + self._dropped(self.feed(self.feed_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): zero for some samples, the others raised to match."""
        if not self.training or self.drop_path == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * (kept / (1 - self.drop_path))


class Merge(nn.Module):
    """(B, h, w, C) -> (B, ceil(h/2), ceil(w/2), 2C): two by two neighbours become one ("patch merging")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.linear = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # Published order of the four: down the first column, then down the second.
        neighbours = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.linear(self.norm(neighbours.flatten(3)))


class Embedding(nn.Module):
    """(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), channels): a linear map of each patch of 4x4 pixels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = functional.pad(images, (0, -width % PATCH, 0, -height % PATCH))
        return self.norm(self.convolution(images).permute(0, 2, 3, 1))


class Level(nn.Module):
    """(B, h, w, C) -> (B, h', w', C'): one resolution; `entry` is the way down to it."""

    def __init__(
        self, entry: nn.Module, channels: int, *, heads: int, window: int, drop_paths: Sequence[float]
    ) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.Sequential(
            *(
                Block(channels, heads=heads, window=window, shift=index % 2 * (window // 2), drop_path=share)
                for index, share in enumerate(drop_paths)
            )
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.entry(x))


class Swin(Backbone):
    """Feature maps at strides 4, 8, 16 and 32, each behind a layer norm of its own; sides are rounded up.

    Args:
        name: a key of `SIZES`.
        window: side of a window in cells; None takes that of the name.
        drop_path: the share of samples that skip the last block while training; rises linearly from 0 at the first.
            Mask2Former takes 0.3 for every size.
        output_stride: 32; windows leave nothing to dilate.

    Raises:
        UserError: another output stride.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        in_channels: int,
        *,
        name: str,
        window: int | None = None,
        drop_path: float = 0.3,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if output_stride != 32:
            raise UserError(f"The output stride of '{name}' is 32, found {output_stride}.")
        first, depths, heads, usual = SIZES[name]
        self.channels = tuple(first << level for level in range(len(depths)))
        shares = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.levels = nn.ModuleList(
            Level(
                Merge(channels // 2) if level else Embedding(in_channels, channels),
                channels,
                heads=heads[level],
                window=window or usual,
                drop_paths=shares[level].tolist(),
            )
            for level, channels in enumerate(self.channels)
        )
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> four maps, see the class."""
        maps: list[Tensor] = []
        x = images
        for level in self.levels:
            x = level(x)
            maps.append(level.norm(x).permute(0, 3, 1, 2))  # pyright: ignore[reportCallIssue]
        return maps

    def cut(self, maps: int) -> None:
        self.levels = self.levels[:maps]
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def stages(self) -> Sequence[nn.Module]:
        return list(self.levels)

    def published(self) -> Published:
        """Under our own names: `convert` brings the files of all sources to them."""
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        cut = (f"levels.{index}." for index in range(len(self.levels), 4))
        beyond = ("head.", "norm.", "layernorm.", "classifier.", *cut)
        return Published({key: key for key in shapes}, shapes, beyond, ("levels.0.entry.convolution.weight",))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state` under our names. Files of classifiers lack the norms of the maps, which then stay as they are."""
        converted = convert_swin(state)
        own = {key: item for key, item in self.state_dict().items() if key.endswith(MAP_NORMS)}
        return {**own, **converted} if converted.keys().isdisjoint(own) else converted


MAP_NORMS = tuple(f"levels.{level}.norm.{kind}" for level in range(4) for kind in ("weight", "bias"))


def _relative_positions(window: int) -> Tensor:
    """For each pair of cells of a window, row by row, where in the bias' table their difference stands: int64 (window^4,)."""
    cells = torch.arange(window)
    difference = cells[:, None] - cells + window - 1
    rows, columns = difference[:, None, :, None], difference[None, :, None, :]
    return (rows * (2 * window - 1) + columns).flatten()
