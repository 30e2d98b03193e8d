# pyright: reportConstantRedefinition=false
"""How the arrays of a Mix Transformer are called in the files of its publishers, and how they are laid out there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MitSource = Literal["original", "transformers", "transformers_5", "mmseg"]
"""`original` are the names of the authors' files, which timm-like libraries (smp among them) have kept; `transformers` those that
transformers publishes, `transformers_5` those of its modules since version 5 (transformers/conversion_mapping.py), which files
of other training programs have."""


@dataclass(frozen=True)
class _Names:
    """Regular expressions of whole keys; the first group is the level, the last the rest of the name."""

    first: int
    embedding: str
    norm: str
    block: str
    parts: Mapping[str, str]


_BLOCK = ("attention_norm", "attention.query", "attention.key_value", "attention.output", "attention.reduction")
_BLOCK += ("attention.reduction_norm", "feed_norm", "feed.widen", "feed.depthwise", "feed.narrow")
_ORIGINAL = ("norm1", "attn.q", "attn.kv", "attn.proj", "attn.sr", "attn.norm", "norm2")
_ORIGINAL += ("mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2")
_TRANSFORMERS = ("layer_norm_1", "attention.self.query", "attention.self.key_value", "attention.output.dense")
_TRANSFORMERS += ("attention.self.sr", "attention.self.layer_norm", "layer_norm_2")
_TRANSFORMERS += ("mlp.dense1", "mlp.dwconv.dwconv", "mlp.dense2")
_TRANSFORMERS_5 = ("layernorm_before", "attention.q_proj", "attention.key_value", "attention.o_proj")
_TRANSFORMERS_5 += ("attention.sequence_reduction.sequence_reduction", "attention.sequence_reduction.layer_norm")
_TRANSFORMERS_5 += ("layernorm_after", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2")
_MMSEG = ("norm1", "attn.attn.query", "attn.attn.key_value", "attn.attn.out_proj", "attn.sr", "attn.norm", "norm2")
_MMSEG += ("ffn.layers.0", "ffn.layers.1", "ffn.layers.4")

_SOURCES: dict[MitSource, _Names] = {
    "original": _Names(
        1,
        r"(?:encoder\.|backbone\.)?patch_embed(\d)\.(proj|norm)\.(weight|bias)",
        r"(?:encoder\.|backbone\.)?norm(\d)\.(weight|bias)",
        r"(?:encoder\.|backbone\.)?block(\d)\.(\d+)\.(.+)\.(weight|bias)",
        dict(zip(_ORIGINAL, _BLOCK, strict=True)),
    ),
    "transformers": _Names(
        0,
        r"(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.(proj|layer_norm)\.(weight|bias)",
        r"(?:segformer\.)?encoder\.layer_norm\.(\d)\.(weight|bias)",
        r"(?:segformer\.)?encoder\.block\.(\d)\.(\d+)\.(.+)\.(weight|bias)",
        dict(zip(_TRANSFORMERS, _BLOCK, strict=True)),
    ),
    "transformers_5": _Names(
        0,
        r"(?:segformer\.)?stages\.(\d)\.patch_embeddings\.(proj|layer_norm)\.(weight|bias)",
        r"(?:segformer\.)?stages\.(\d)\.layer_norm\.(weight|bias)",
        r"(?:segformer\.)?stages\.(\d)\.blocks\.(\d+)\.(.+)\.(weight|bias)",
        dict(zip(_TRANSFORMERS_5, _BLOCK, strict=True)),
    ),
    "mmseg": _Names(
        0,
        r"(?:backbone\.)?layers\.(\d)\.0\.(projection|norm)\.(weight|bias)",
        r"(?:backbone\.)?layers\.(\d)\.2\.(weight|bias)",
        r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.(.+)\.(weight|bias)",
        dict(zip(_MMSEG, _BLOCK, strict=True)),
    ),
}


_PAIRS = {name: pair for pair in (("key", "value"), ("k_proj", "v_proj")) for name in pair}
"""Keys and values as transformers names them, apart."""


def encoder_name(source: MitSource, key: str) -> str | None:
    """The published `key`, joined or split by `arrange_encoder`, in a `MixTransformer`'s state dict; None if foreign."""
    names = _SOURCES[source]
    if found := re.fullmatch(names.embedding, key):
        kind = "convolution" if found[2].startswith("proj") else "norm"
        return f"levels.{int(found[1]) - names.first}.embedding.{kind}.{found[3]}"
    if found := re.fullmatch(names.norm, key):
        return f"levels.{int(found[1]) - names.first}.norm.{found[2]}"
    found = re.fullmatch(names.block, key)
    if found is None or found[3] not in names.parts:
        return None
    return f"levels.{int(found[1]) - names.first}.blocks.{found[2]}.{names.parts[found[3]]}.{found[4]}"


def encoder_source(keys: Mapping[str, object]) -> MitSource | None:
    """Whose names `keys` are; None when nobody's."""
    for source, names in _SOURCES.items():
        if any(re.fullmatch(names.embedding, key) for key in keys):
            return source
    return None


def arrange_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with queries in an array of their own and keys and values in one, under names `encoder_name` knows.

    transformers keeps keys and values apart, mmsegmentation all three together; keys come before values.
    """
    arranged: dict[str, Tensor] = {}
    for key, array in state.items():
        if found := re.fullmatch(r"(.*\.attn\.attn)\.in_proj_(weight|bias)", key):
            third = len(array) // 3
            arranged[f"{found[1]}.query.{found[2]}"] = array[:third]
            arranged[f"{found[1]}.key_value.{found[2]}"] = array[third:]
        elif (
            found := re.fullmatch(r"(.*\.attention(?:\.self)?)\.(key|value|k_proj|v_proj)\.(weight|bias)", key)
        ) and all(f"{found[1]}.{other}.{found[3]}" in state for other in _PAIRS[found[2]]):
            if found[2] == _PAIRS[found[2]][0]:
                values = state[f"{found[1]}.{_PAIRS[found[2]][1]}.{found[3]}"]
                arranged[f"{found[1]}.key_value.{found[3]}"] = torch.cat([array, values])
        else:
            arranged[key] = array
    return arranged


def reshape_encoder(key: str, array: Tensor) -> Tensor:
    """The array of our name `key` as we keep it: mmsegmentation has 1x1 convolutions where we have linear maps."""
    return array.flatten(1) if re.search(r"\.feed\.(widen|narrow)\.weight$", key) else array


def convert_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published arrays under a `MixTransformer`'s names; those of other names, and a `state` of no source, as they are."""
    source = encoder_source(state)
    if source is None:
        return dict(state)
    converted: dict[str, Tensor] = {}
    for key, array in arrange_encoder(state).items():
        own = encoder_name(source, key)
        converted[own or key] = reshape_encoder(own, array) if own else array
    return converted
