"""The names that published plain vision transformers give their arrays, and ours for them.

Read are timm's names, those of DINOv2's authors, and transformers' (DINOv2 with registers, EoMT).
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = r"(?:blocks|layers|encoder\.layer)\.(\d+)\."
_NAMES: dict[str, str] = {
    r"(?:embeddings\.)?cls_token": "embedding.class_token",
    r"(?:reg_token|register_tokens|embeddings\.register_tokens)": "embedding.registers",
    r"(?:pos_embed|embeddings\.position_embeddings(?:\.weight)?)": "embedding.positions",
    r"(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.(\w+)": r"embedding.projection.\1",
    _BLOCK + r"norm1\.(\w+)": r"blocks.\1.attention_norm.\2",
    _BLOCK + r"norm2\.(\w+)": r"blocks.\1.feed_norm.\2",
    _BLOCK + r"(?:attn|attention)\.qkv\.(\w+)": r"blocks.\1.attention.query_key_value.\2",
    _BLOCK + r"(?:attn\.proj|attention\.out_proj|attention\.output\.dense)\.(\w+)": r"blocks.\1.attention.output.\2",
    _BLOCK + r"(?:ls1\.gamma|layer_scale1\.lambda1)": r"blocks.\1.attention_scale",
    _BLOCK + r"(?:ls2\.gamma|layer_scale2\.lambda1)": r"blocks.\1.feed_scale",
    _BLOCK + r"mlp\.(?:fc1|w12|weights_in)\.(\w+)": r"blocks.\1.feed.widen.\2",
    _BLOCK + r"mlp\.(?:fc2|w3|weights_out)\.(\w+)": r"blocks.\1.feed.narrow.\2",
    r"(?:norm|layernorm)\.(\w+)": r"norm.\1",
}
_PROJECTION = re.compile(
    rf"({_BLOCK})(?:attention\.attention\.(query|key|value)|attention\.([qkv])_proj)\.(weight|bias)"
)


def vit_name(key: str) -> str | None:
    """Our name in a `VisionTransformer` for a published one; None for what is no part of it."""
    for pattern, ours in _NAMES.items():
        if found := re.fullmatch(pattern, key):
            return found.expand(ours)
    return None


def join_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with query, key and value of every block in one array, as timm and DINOv2's authors have them."""
    found = {key: item for key, item in state.items() if not _PROJECTION.fullmatch(key)}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, item in state.items():
        if match := _PROJECTION.fullmatch(key):
            which = (match[3] or match[4])[0]
            parts.setdefault(f"{match[1]}attention.qkv.{match[5]}", {})[which] = item
    return found | {key: torch.cat([item["q"], item["k"], item["v"]]) for key, item in parts.items()}


def convert_vit(state: Mapping[str, Tensor], *, patch: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """A published file's arrays under our names, for patches of another size and another grid of positions.

    Args:
        patch: side of the patches that the model takes.
        grid: (rows, columns) of its positions.
    """
    named = {vit_name(key) or key: item for key, item in join_projections(state).items()}
    if "embedding.positions" in named:
        rest = named.pop("embedding.positions")
        rest = rest.reshape(-1, rest.shape[-1])
        if math.isqrt(len(rest)) ** 2 != len(rest):
            # A position for the class token comes first; it is always added to that token.
            named["embedding.class_token"] = named["embedding.class_token"] + rest[0]
            rest = rest[1:]
        named["embedding.positions"] = fit_positions(as_grid(rest), grid)
    kernel = named.get("embedding.projection.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.shape[-1] != patch:
        named["embedding.projection.weight"] = fit_kernel(kernel, patch)
    return named


def as_grid(positions: Tensor) -> Tensor:
    """Positions in a row (n * n, C) -> (n, n, C)."""
    side = math.isqrt(len(positions))
    return positions.reshape(side, side, positions.shape[-1])


def fit_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions (rows, columns, C) -> (*grid, C): bicubic, averaging when they become fewer."""
    if tuple(positions.shape[:2]) == tuple(grid):
        return positions
    image = positions.float().permute(2, 0, 1)[None]
    image = functional.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return image[0].permute(1, 2, 0).contiguous()


def fit_kernel(kernel: Tensor, patch: int) -> Tensor:
    """A patch embedding (O, I, p, p) -> (O, I, patch, patch) that answers for an enlarged patch as `kernel` for the patch.

    The least-squares solution of <w', resize(x)> = <w, x> for all patches x (FlexiViT, Beyer 2023, arXiv:2212.08013, eq. 4).
    """
    before = kernel.shape[-1]
    basis = torch.eye(before * before, dtype=torch.float64).reshape(-1, 1, before, before)
    resized = functional.interpolate(
        basis, size=(patch, patch), mode="bicubic", antialias=True, align_corners=False
    ).flatten(1)
    solved = kernel.double().cpu().flatten(2) @ torch.linalg.pinv(resized).T
    return solved.reshape(*kernel.shape[:2], patch, patch).to(kernel.dtype)
