"""How the arrays of a Swin transformer are called in the files of its publishers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BLOCK = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.output",
    "norm2": "feed_norm",
    "mlp.fc1": "feed.0",
    "mlp.fc2": "feed.2",
    # torchvision
    "mlp.0": "feed.0",
    "mlp.3": "feed.2",
    # transformers
    "layernorm_before": "attention_norm",
    "attention.self.query_key_value": "attention.query_key_value",
    "attention.output.dense": "attention.output",
    "layernorm_after": "feed_norm",
    "intermediate.dense": "feed.0",
    "output.dense": "feed.2",
}
_PREFIX = r"(?:swin\.|backbone\.|encoder\.)*"
_RULES = {
    rf"{_PREFIX}(?:patch_embed|embeddings\.patch_embeddings|features\.0)\.(?:proj|projection|0)\.(\w+)": (
        r"levels.0.entry.convolution.\1"
    ),
    rf"{_PREFIX}(?:patch_embed|embeddings|features\.0)\.(?:norm|2)\.(\w+)": r"levels.0.entry.norm.\1",
    # The norms of the maps: the authors' detectors, and transformers, which counts from 1.
    rf"{_PREFIX}norm(\d)\.(\w+)": r"levels.\1.norm.\2",
    **{rf"{_PREFIX}hidden_states_norms\.stage{level + 1}\.(\w+)": rf"levels.{level}.norm.\1" for level in range(4)},
    # Behind the last map.
    rf"{_PREFIX}(norm|layernorm|head|classifier)\.(.+)": r"\1.\2",
}
BUFFERS = r".*\.(relative_position_index|attn_mask)"
"""What follows from the side of the windows, which older files hold."""


def swin_name(key: str, *, merge_first: bool = False) -> str | None:
    """The published `key`, arranged by `arrange_swin`, in a `Swin`'s state dict; None if foreign.

    Args:
        merge_first: the merging before a level is counted with that level, as in timm's files; elsewhere with the one
            before it.
    """
    for pattern, ours in _RULES.items():
        if found := re.fullmatch(pattern, key):
            return found.expand(ours)
    if found := re.fullmatch(rf"{_PREFIX}layers\.(\d)\.downsample\.(norm|reduction)\.(\w+)", key):
        return _merge(int(found[1]) + (0 if merge_first else 1), found[2], found[3])
    if found := re.fullmatch(rf"{_PREFIX}layers\.(\d)\.blocks\.(\d+)\.(.+)", key):
        return _block(int(found[1]), found[2], found[3])
    # torchvision counts embedding, level, merging, level, ... in one sequence.
    if found := re.fullmatch(r"features\.([246])\.(norm|reduction)\.(\w+)", key):
        return _merge(int(found[1]) // 2, found[2], found[3])
    if found := re.fullmatch(r"features\.([1357])\.(\d+)\.(.+)", key):
        return _block(int(found[1]) // 2, found[2], found[3])
    return None


def _merge(level: int, part: str, kind: str) -> str:
    return f"levels.{level}.entry.{'linear' if part == 'reduction' else part}.{kind}"


def _block(level: int, block: str, rest: str) -> str | None:
    if rest.endswith("relative_position_bias_table"):
        return f"levels.{level}.blocks.{block}.attention.position_bias"
    part, _, kind = rest.rpartition(".")
    return f"levels.{level}.blocks.{block}.{_BLOCK[part]}.{kind}" if part in _BLOCK else None


def arrange_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with queries, keys and values in one array, which transformers keeps apart."""
    arranged: dict[str, Tensor] = {}
    for key, array in state.items():
        found = re.fullmatch(r"(.*\.attention\.self)\.(query|key|value)\.(weight|bias)", key)
        names = [f"{found[1]}.{part}.{found[3]}" for part in ("query", "key", "value")] if found else []
        if found is None or not all(name in state for name in names):
            arranged[key] = array
        elif found[2] == "query":
            arranged[f"{found[1]}.query_key_value.{found[3]}"] = torch.cat([state[name] for name in names])
    return arranged


def convert_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published arrays under a `Swin`'s names, without `BUFFERS`; those of other names as they are."""
    merge_first = not any(re.search(r"layers\.0\.downsample\.", key) for key in state)
    return {
        swin_name(key, merge_first=merge_first) or key: array
        for key, array in arrange_swin(state).items()
        if not re.fullmatch(BUFFERS, key)
    }
