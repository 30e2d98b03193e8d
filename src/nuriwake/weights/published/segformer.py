"""SegFormer's checkpoints: transformers, segmentation_models_pytorch, mmsegmentation and the authors' own files."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.segformer import EXPANSION, HEADS, REDUCTIONS, SIZES
from nuriwake.models.segformer_names import MitSource, arrange_encoder, encoder_name, encoder_source, reshape_encoder
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import smp
from nuriwake.weights.published.base import (
    ZERO_PADDED,
    ClassList,
    Config,
    Published,
    Shapes,
    mmseg_config,
    mmseg_notes,
    mmseg_size,
)
from nuriwake.weights.published.keys import left_out_by

LICENCE = "NVIDIA Source Code License for SegFormer: research and evaluation only, no commercial use"
NOTES = (
    "NVIDIA's SegFormer weights, the ImageNet encoders included, and what others trained from them, must not be used "
    "commercially; files trained from other weights have the licence of whoever trained them.",
)

_TRANSFORMERS = {
    r"decode_head\.linear_c\.(\d)\.proj\.(\w+)": r"decoder.projections.\1.\2",
    r"decode_head\.linear_fuse\.(weight)": r"decoder.fuse.\1",
    r"decode_head\.batch_norm\.(\w+)": r"decoder.norm.\1",
    r"decode_head\.classifier\.(\w+)": r"head.\1",
}
_TRANSFORMERS_5 = {pattern.replace("linear_c", "linear_projections"): ours for pattern, ours in _TRANSFORMERS.items()}
# smp counts from the coarsest map.
_SMP = {
    **{rf"decoder\.mlp_stage\.{3 - level}\.linear\.(\w+)": rf"decoder.projections.{level}.\1" for level in range(4)},
    r"decoder\.fuse_stage\.0\.(weight)": r"decoder.fuse.\1",
    r"decoder\.fuse_stage\.1\.(\w+)": r"decoder.norm.\1",
    r"segmentation_head\.0\.(\w+)": r"head.\1",
}
_MMSEG = {
    r"decode_head\.convs\.(\d)\.conv\.(\w+)": r"decoder.projections.\1.\2",
    r"decode_head\.convs\.(\d)\.bn\.(\w+)": r"decoder.projection_norms.\1.\2",
    r"decode_head\.fusion_conv\.conv\.(\w+)": r"decoder.fuse.\1",
    r"decode_head\.fusion_conv\.bn\.(\w+)": r"decoder.norm.\1",
    r"decode_head\.conv_seg\.(\w+)": r"head.\1",
}
_AUTHORS = {
    **{rf"decode_head\.linear_c{level + 1}\.proj\.(\w+)": rf"decoder.projections.{level}.\1" for level in range(4)},
    r"decode_head\.linear_fuse\.conv\.(\w+)": r"decoder.fuse.\1",
    r"decode_head\.linear_fuse\.bn\.(\w+)": r"decoder.norm.\1",
    r"decode_head\.linear_pred\.(\w+)": r"head.\1",
}


def _rename(encoder: MitSource, head: dict[str, str], left_out: dict[str, str]) -> Callable[[str], str | None]:
    def rename(key: str) -> str | None:
        if any(re.fullmatch(pattern, key) for pattern in left_out):
            return None
        for pattern, ours in head.items():
            if found := re.fullmatch(pattern, key):
                return found.expand(ours)
        own = encoder_name(encoder, key)
        return f"encoder.{own}" if own else key

    return rename


def _recognise(encoder: MitSource, head: dict[str, str]) -> Callable[[Shapes], bool]:
    """The encoder's names are this source's and every array of the head is there."""

    def recognise(shapes: Shapes) -> bool:
        return encoder_source(shapes) == encoder and all(
            any(re.fullmatch(pattern, key) for key in shapes) for pattern in head
        )

    return recognise


def _transform(key: str, array: Tensor) -> Tensor:
    """Linear projections as 1x1 convolutions; the fused maps from fine to coarse, where the paper's code begins coarse."""
    if re.fullmatch(r"decoder\.projections\.\d\.weight", key) and array.ndim == 2:
        return array[:, :, None, None]
    if key == "decoder.fuse.weight":
        return torch.cat(array.chunk(len(HEADS), dim=1)[::-1], dim=1)
    return array


def _spec(encoder: MitSource, head: dict[str, str], options: dict[str, Any]) -> Callable[[Shapes, Config], ModelSpec]:
    rename = _rename(encoder, head, {})

    def spec(shapes: Shapes, config: Config) -> ModelSpec:
        own = {rename(key): shape for key, shape in shapes.items()}
        size, extra = _size(own, config)
        channels, classes = own["decoder.fuse.weight"][0], own["head.weight"][0]
        return ModelSpec(
            f"segformer_{size.removeprefix('mit_')}",
            _array(own, 0, "embedding.convolution.weight")[1],
            classes,
            {"channels": channels, **options, "encoder": {**options["encoder"], **extra}},
        )

    return spec


def _size(own: dict[str | None, tuple[int, ...]], config: Config) -> tuple[str, dict[str, Any]]:
    """The name in `SIZES`, and the widths and depths when they are nobody's; refuses what our encoder is not."""
    _check_encoder(own, config)
    widths = tuple(_array(own, level, "embedding.convolution.weight")[0] for level in range(4))
    depths = tuple(
        1
        + max(
            int(found[1])
            for key in own
            if (found := re.match(rf"encoder\.levels\.{level}\.blocks\.(\d+)\.", key or ""))
        )
        for level in range(4)
    )
    for name, size in SIZES.items():
        if size == (widths, depths):
            return name, {}
    return "mit_b0", {"widths": widths, "depths": depths}


# What transformers builds otherwise. It reads no `layer_norm_eps`, and `reshape_last_stage` changes no answer.
_FIELDS: dict[str, Any] = {
    "num_encoder_blocks": len(HEADS),
    "num_attention_heads": list(HEADS),
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "sr_ratios": list(REDUCTIONS),
    "mlp_ratios": [EXPANSION] * len(HEADS),
    "hidden_act": "gelu",
}


def _check_encoder(own: dict[str | None, tuple[int, ...]], config: Config) -> None:
    for level, reduction in enumerate(REDUCTIONS):
        width = _array(own, level, "embedding.convolution.weight")[0]
        hidden = _array(own, level, "blocks.0.feed.depthwise.weight")[0]
        # A level whose reductions are all missing is left to the fitting, which names them.
        pattern = rf"encoder\.levels\.{level}\.blocks\.\d+\.attention\.reduction\.weight"
        kernel = next((shape[-1] for key, shape in own.items() if re.fullmatch(pattern, key or "")), reduction)
        if (kernel, hidden) != (reduction, EXPANSION * width):
            raise UserError(
                f"Level {level + 1} of this SegFormer has the reduction {kernel} and {hidden} hidden channels for {width}; "
                f"supported are the published {reduction} and {EXPANSION * width}."
            )
    for field, expected in _FIELDS.items():
        if config.get(field, expected) != expected:
            raise UserError(f"config.json: {field} of a SegFormer is {expected}, found {config[field]}.")


def _array(own: dict[str | None, tuple[int, ...]], level: int, name: str) -> tuple[int, ...]:
    return own[f"encoder.levels.{level}.{name}"]


_SQUARE = ResizeRule(exact=(512, 512), interpolation="antialiased")


def _squashed(shapes: Shapes, config: Config) -> Preprocessing:
    """transformers' processor squashes ADE20K's images to 512x512; without a processor others keep their size. The weights are
    the authors', who train in mmsegmentation."""
    classes = shapes["decode_head.classifier.weight"][0]
    return replace(ZERO_PADDED, resize=_SQUARE if classes == 150 else None)


def _mmseg_sized(head: str) -> Callable[[Shapes, Config], Preprocessing]:
    """As `mmseg_preprocessing`, but that B5 was trained on ADE20K's images with a shorter side of 640."""

    def preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
        largest = any(re.search(r"\.(block3|layers\.2\.1)\.39\.", key) for key in shapes)
        assumed = replace(ZERO_PADDED, resize=mmseg_size(shapes[head][0], 640 if largest else 512))
        return mmseg_config(config).prepare(assumed)

    return preprocessing


_SPACE: dict[int, ClassList] = {150: "ade20k", 19: "cityscapes"}
_AUXILIARY = {r"auxiliary_head\..+": "auxiliary head: only for training"}
_UNUSED = {r"decode_head\.conv_seg\.\w+": "second classifier that the authors' head never uses", **_AUXILIARY}
_ORIGINAL_EPSILON = {"epsilon": 1e-6, "embedding_epsilon": 1e-5}


def _transformers(names: MitSource, head: dict[str, str]) -> Published:
    return Published(
        "transformers",
        "segformer",
        _recognise(names, head),
        _spec(names, head, {"encoder": {"epsilon": 1e-5, "embedding_epsilon": 1e-5}}),
        _rename(names, head, {}),
        preprocessing=_squashed,
        space=_SPACE,
        licence=LICENCE,
        notes=NOTES,
        transform=_transform,
        arrange=arrange_encoder,
    )


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    smp.check(config, {"encoder_depth": 5}, what="smp Segformer")
    name = smp.backbone(shapes, config)
    if "decoder.mlp_stage.4.linear.weight" in shapes:
        raise UserError(
            f"This smp Segformer joins 5 maps of its encoder '{name}', among them one at stride 2; those over encoders "
            "that begin at stride 4 (mit_b..., and timm's transformers) can be read."
        )
    options = {"aligned_upsampling": int(config.get("upsampling", 4))}
    if smp.is_mix_transformer(shapes):
        return _spec("original", _SMP, {**options, "encoder": _ORIGINAL_EPSILON})(shapes, config)
    channels, classes = shapes["decoder.fuse_stage.0.weight"][0], shapes["segmentation_head.0.weight"][0]
    return ModelSpec(f"segformer_{name}", smp.in_channels(shapes, config), classes, {"channels": channels, **options})


def _smp(*, mix_transformer: bool) -> Published:
    """smp's files, recognised by their head; NVIDIA's licence is for Mix Transformers."""
    noted = smp.notes(upsampling=smp.Assumed(4, "aligned_upsampling", 1))
    return Published(
        "smp",
        "segformer",
        lambda shapes: (
            any(key.startswith("decoder.mlp_stage.") for key in shapes)
            and smp.is_mix_transformer(shapes) == mix_transformer
        ),
        _smp_spec,
        lambda key: None if left_out_by(smp.OUT, key) else smp.rename(key, tuple(_SMP.items())),
        smp.OUT,
        preprocessing=smp.preprocessing,
        space=_SPACE,
        licence=LICENCE if mix_transformer else "",
        notes=(lambda config, options: (*NOTES, *noted(config, options))) if mix_transformer else noted,
        transform=_transform,
    )


SOURCES: tuple[Published, ...] = (
    _transformers("transformers", _TRANSFORMERS),
    _transformers("transformers_5", _TRANSFORMERS_5),
    _smp(mix_transformer=True),
    _smp(mix_transformer=False),
    Published(
        "mmseg",
        "segformer",
        _recognise("mmseg", _MMSEG),
        _spec("mmseg", _MMSEG, {"map_norm": True, "encoder": {"epsilon": 1e-6, "embedding_epsilon": 1e-6}}),
        _rename("mmseg", _MMSEG, _AUXILIARY),
        _AUXILIARY,
        preprocessing=_mmseg_sized("decode_head.conv_seg.weight"),
        space=_SPACE,
        licence=LICENCE,
        notes=mmseg_notes(*NOTES),
        transform=reshape_encoder,
        arrange=arrange_encoder,
    ),
    # The authors' program is built on an early mmsegmentation, in whose format its files are.
    Published(
        "mmseg",
        "segformer",
        _recognise("original", _AUTHORS),
        _spec("original", _AUTHORS, {"encoder": _ORIGINAL_EPSILON}),
        _rename("original", _AUTHORS, _UNUSED),
        _UNUSED,
        preprocessing=_mmseg_sized("decode_head.linear_pred.weight"),
        space=_SPACE,
        licence=LICENCE,
        notes=mmseg_notes(*NOTES),
        transform=_transform,
    ),
)
