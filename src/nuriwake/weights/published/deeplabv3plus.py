"""Published DeepLabV3+ files: segmentation_models_pytorch, mmsegmentation."""

from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import smp
from nuriwake.weights.published.base import Config, Published, Shapes, mmseg_notes, mmseg_preprocessing
from nuriwake.weights.published.deeplabv3 import (
    MMSEG,
    MMSEG_NOTE,
    mmseg_dilated_backbone,
    mmseg_options,
    pool_last,
    smp_dilated_backbone,
    smp_notes,
    smp_options,
    smp_pyramid,
    smp_separable_pyramid,
)
from nuriwake.weights.published.keys import (
    MMSEG_LICENCE,
    Rules,
    left_out_by,
    mmseg_in_channels,
    rewrite,
)

_SMP_HEAD: Rules = (
    (r"decoder\.aspp\.1\.([01])\.(\w+)", r"refine.\1.\2"),
    (r"decoder\.aspp\.2\.(\w+)", r"refine.2.\1"),
    (r"decoder\.block1\.([01])\.(\w+)", r"reduce.\1.\2"),
    (r"decoder\.block2\.0\.([01])\.(\w+)", r"decoder.0.\1.\2"),
    (r"decoder\.block2\.1\.(\w+)", r"decoder.0.2.\1"),
    (r"segmentation_head\.0\.(\w+)", r"classify.\1"),
)
_SMP: Rules = (*smp_pyramid(r"decoder\.aspp\.0"), *_SMP_HEAD)
_SMP_SEPARABLE: Rules = (*smp_separable_pyramid(r"decoder\.aspp\.0"), *_SMP_HEAD)
_MMSEG: Rules = (
    (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.conv\.(\w+)", r"pyramid.branches.\1.0.\2"),
    (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.bn\.(\w+)", r"pyramid.branches.\1.1.\2"),
    (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.conv\.(\w+)", r"pyramid.branches.\1.3.\2"),
    (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.bn\.(\w+)", r"pyramid.branches.\1.4.\2"),
    (r"decode_head\.c1_bottleneck\.conv\.(\w+)", r"reduce.0.\1"),
    (r"decode_head\.c1_bottleneck\.bn\.(\w+)", r"reduce.1.\1"),
    (r"decode_head\.sep_bottleneck\.(\d)\.depthwise_conv\.conv\.(\w+)", r"decoder.\1.0.\2"),
    (r"decode_head\.sep_bottleneck\.(\d)\.depthwise_conv\.bn\.(\w+)", r"decoder.\1.1.\2"),
    (r"decode_head\.sep_bottleneck\.(\d)\.pointwise_conv\.conv\.(\w+)", r"decoder.\1.3.\2"),
    (r"decode_head\.sep_bottleneck\.(\d)\.pointwise_conv\.bn\.(\w+)", r"decoder.\1.4.\2"),
    *MMSEG,
)


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    options = smp_options(shapes, config, output_stride=16, logits_stride=4)
    options |= {
        "channels": shapes["decoder.aspp.0.project.0.weight"][0],
        "separable": "all" if _separable(shapes) else "decoder",
        "fine_channels": shapes["decoder.block1.0.weight"][0],
    }
    name = f"deeplabv3plus_{smp_dilated_backbone(shapes, config)}"
    return ModelSpec(name, smp.in_channels(shapes, config), shapes["segmentation_head.0.weight"][0], options)


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    options = {**mmseg_options(shapes, config), "fine_channels": shapes["decode_head.c1_bottleneck.conv.weight"][0]}
    name = f"deeplabv3plus_{mmseg_dilated_backbone(shapes)}"
    return ModelSpec(name, mmseg_in_channels(shapes), shapes["decode_head.conv_seg.weight"][0], options)


def _separable(shapes: Shapes) -> bool:
    return "decoder.aspp.0.convs.1.0.0.weight" in shapes


def _is_smp(shapes: Shapes) -> bool:
    return {"decoder.aspp.0.project.0.weight", "decoder.block1.0.weight", "decoder.block2.1.weight"} <= shapes.keys()


def _is_mmseg(shapes: Shapes) -> bool:
    return {
        "decode_head.image_pool.1.conv.weight",
        "decode_head.c1_bottleneck.conv.weight",
        "decode_head.sep_bottleneck.0.pointwise_conv.conv.weight",
    } <= shapes.keys()


def _smp_source(*, separable: bool) -> Published:
    rules = _SMP_SEPARABLE if separable else _SMP
    return Published(
        "smp",
        "deeplabv3plus",
        lambda shapes: _is_smp(shapes) and _separable(shapes) == separable,
        _smp_spec,
        lambda key: None if left_out_by(smp.OUT, key) else smp.rename(key, rules),
        smp.OUT,
        preprocessing=smp.preprocessing,
        notes=smp_notes(output_stride=16, other=8),
    )


SOURCES: tuple[Published, ...] = (
    _smp_source(separable=False),
    _smp_source(separable=True),
    Published(
        "mmseg",
        "deeplabv3plus",
        _is_mmseg,
        _mmseg_spec,
        lambda key: rewrite(key, _MMSEG),
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=MMSEG_LICENCE,
        notes=mmseg_notes(stride=MMSEG_NOTE),
        transform=pool_last,
    ),
)
"""Every array of a segmentation is used, the auxiliary head's too: it serves further training."""
