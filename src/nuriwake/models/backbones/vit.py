"""A plain vision transformer as DINOv2 has it: layer scale, register tokens, in the large sizes gated feed-forward.

Dosovitskiy 2021 (arXiv:2010.11929), Oquab 2024 (arXiv:2304.07193), Darcet 2024 (registers, arXiv:2309.16588).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.backbones.vit_names import convert_vit

EPSILON = 1e-6
"""Of every layer norm."""


class VisionTransformerSize(NamedTuple):
    """Channels of a token, heads of its attention, number of blocks, and whether the feed-forward is gated."""

    width: int
    heads: int
    depth: int
    gated: bool = False


SIZES: dict[str, VisionTransformerSize] = {
    "dinov2_small": VisionTransformerSize(384, 6, 12),
    "dinov2_base": VisionTransformerSize(768, 12, 12),
    "dinov2_large": VisionTransformerSize(1024, 16, 24),
    "dinov2_giant": VisionTransformerSize(1536, 24, 40, gated=True),
}
"""Name -> size: table 17 of DINOv2's paper."""


class Attention(nn.Module):
    """(B, T, C) -> the same: every token asks all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """
        Args:
            allowed: bool (B, Q, T): which tokens the first Q tokens may ask; all others ask all. None: no limits.
        """
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if allowed is None:
            answer = functional.scaled_dot_product_attention(query, key, value)
        else:
            # In two parts: only the first needs a mask, which would bar the second from the fast kernels.
            first = allowed.shape[1]
            limited = functional.scaled_dot_product_attention(
                query[:, :, :first], key, value, attn_mask=allowed[:, None]
            )
            free = functional.scaled_dot_product_attention(query[:, :, first:], key, value)
            answer = torch.cat([limited, free], dim=2)
        return self.output(answer.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """(B, T, C) -> the same, through four times the channels and GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(functional.gelu(self.widen(x)))


class GatedFeedForward(nn.Module):
    """(B, T, C) -> the same: SwiGLU (Shazeer 2020, arXiv:2002.05202), two thirds as wide, up to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.widen = nn.Linear(width, 2 * hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.widen(x).chunk(2, dim=-1)
        return self.narrow(functional.silu(gate) * value)


class Block(nn.Module):
    """(B, T, C) -> the same: attention and feed-forward, each behind a layer norm, scaled, and beside a shortcut."""

    def __init__(self, size: VisionTransformerSize, layer_scale: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width, EPSILON)
        self.attention = Attention(size.width, size.heads)
        self.attention_scale = nn.Parameter(torch.full((size.width,), layer_scale))
        self.feed_norm = nn.LayerNorm(size.width, EPSILON)
        self.feed = GatedFeedForward(size.width) if size.gated else FeedForward(size.width)
        self.feed_scale = nn.Parameter(torch.full((size.width,), layer_scale))

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`allowed` as in `Attention`."""
        x = x + self.attention_scale * self.attention(self.attention_norm(x), allowed)
        return x + self.feed_scale * self.feed(self.feed_norm(x))


class Embedding(nn.Module):
    """(B, C, H, W) -> tokens (B, 1 + registers + H/patch * W/patch, width): class token, registers, patches in rows."""

    def __init__(self, in_channels: int, width: int, *, patch: int, grid: tuple[int, int], registers: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.registers = nn.Parameter(torch.zeros(1, registers, width))
        self.positions = nn.Parameter(torch.zeros(*grid, width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.projection(images)
        x = (x + self._positions((x.shape[-2], x.shape[-1]))).flatten(2).transpose(1, 2)
        prefix = torch.cat([self.class_token, self.registers], dim=1).expand(len(x), -1, -1)
        return torch.cat([prefix.to(x.dtype), x], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, width, *grid): those that were learnt, bicubic in between on other grids."""
        positions = self.positions.permute(2, 0, 1)[None]
        if tuple(positions.shape[-2:]) == grid:
            return positions
        return functional.interpolate(positions, size=grid, mode="bicubic", align_corners=False)


class VisionTransformer(Backbone):
    """One feature map, at the stride of the patches. Both sides of the images are multiples of it.

    Args:
        name: a key of `SIZES`.
        patch: side of a patch in pixels. Published weights have 14; a file's kernel is resized to `patch`.
        grid: (rows, columns) of patches for which positions are learnt; a file's are interpolated to it, and its own to
            those of an image of another size.
        registers: tokens without a place, 0 for the first published weights.
        layer_scale: first value of the factors on the branches of a block; a file has its own.
        output_stride: that of the patches, or 32 (no wish): there is nothing to dilate.

    Raises:
        UserError: another output stride.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        name: str,
        patch: int = 16,
        grid: tuple[int, int] = (40, 40),
        registers: int = 4,
        layer_scale: float = 1.0,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if output_stride not in (32, patch):
            raise UserError(f"The output stride of '{name}' is that of its patches, {patch}; found {output_stride}.")
        size = SIZES[name]
        self.channels, self.strides = (size.width,), (patch,)
        self.prefix = 1 + registers
        self.embedding = Embedding(in_channels, size.width, patch=patch, grid=grid, registers=registers)
        self.blocks = nn.ModuleList(Block(size, layer_scale) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, EPSILON)
        self._initialise()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, width, H/patch, W/patch)]."""
        patch = self.strides[0]
        tokens = self.embedding(images)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)[:, self.prefix :]
        return [tokens.transpose(1, 2).unflatten(-1, (images.shape[-2] // patch, images.shape[-1] // patch))]

    def cut(self, maps: int) -> None:
        """There is one map, which stays."""

    def stages(self) -> Sequence[nn.Module]:
        """A block each; what lies before the first belongs to it, what lies behind the last to that."""
        blocks = list(self.blocks)
        return [
            nn.ModuleList([self.embedding, blocks[0]]),
            *blocks[1:-1],
            nn.ModuleList([blocks[-1], self.norm]),
        ]

    def published(self) -> Published:
        """Under our own names: `convert` brings the files of all sources to them."""
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        beyond = ("mask_token", "embeddings.mask_token", "head.", "classifier.")
        return Published({key: key for key in shapes}, shapes, beyond, ("embedding.projection.weight",))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        rows, columns = self.embedding.positions.shape[:2]
        return convert_vit(state, patch=self.strides[0], grid=(rows, columns))

    def _initialise(self) -> None:
        """Fresh weights: linear maps, positions and the class token 0.02 normal, biases 0."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        nn.init.trunc_normal_(self.embedding.positions, std=0.02)
        nn.init.trunc_normal_(self.embedding.class_token, std=0.02)
