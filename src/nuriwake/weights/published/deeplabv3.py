"""Published DeepLabV3 files: torchvision, segmentation_models_pytorch, mmsegmentation."""

import re
from dataclasses import replace
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import ResizeRule
from nuriwake.models.backbones import BACKBONES
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import smp
from nuriwake.weights.published.base import (
    BLACK_PADDED,
    Config,
    Notes,
    Published,
    Shapes,
    mmseg_config,
    mmseg_notes,
    mmseg_preprocessing,
)
from nuriwake.weights.published.keys import (
    MMSEG_LICENCE,
    Rules,
    left_out_by,
    mmseg_backbone,
    mmseg_in_channels,
    or_of_others,
    require_resnet,
    rewrite,
)

MMSEG_NOTE = (
    "The file does not say its output stride; 8 is taken (mmsegmentation's D8), which is wrong for its D16 files: read these with "
    "--options '{\"output_stride\": 16}'."
)

_LICENCE = "BSD-3-Clause (torchvision); trained on COCO, whose images have terms of their own"
_FINE_TUNED = (
    "unknown, that of whoever trained it (torchvision publishes 21 classes of 3 channels); perhaps it began from torchvision's "
    "weights (BSD-3-Clause)"
)

_TORCHVISION: Rules = (
    (r"backbone\.(\d+\..+)", r"encoder.features.\1"),  # MobileNetV3
    (r"backbone\.(.+)", r"encoder.\1"),
    (r"classifier\.0\.convs\.([0-3])\.([01])\.(\w+)", r"pyramid.branches.\1.\2.\3"),
    (r"classifier\.0\.convs\.4\.1\.(\w+)", r"pyramid.pooling.convolution.\1"),
    (r"classifier\.0\.convs\.4\.2\.(\w+)", r"pyramid.pooling.norm.\1"),
    (r"classifier\.0\.project\.([01])\.(\w+)", r"pyramid.join.\1.\2"),
    (r"classifier\.1\.(\w+)", r"refine.0.\1"),
    (r"classifier\.2\.(\w+)", r"refine.1.\1"),
    (r"classifier\.4\.(\w+)", r"classify.\1"),
    (r"aux_classifier\.([01])\.(\w+)", r"auxiliary.unit.\1.\2"),
    (r"aux_classifier\.4\.(\w+)", r"auxiliary.classify.\1"),
)

_STALE_OUT = {r"aux_classifier\..+": "auxiliary head of another number of classes; only training runs it"}


def smp_pyramid(prefix: str) -> Rules:
    """smp's arrays of the pyramid behind `prefix` (a regular expression), plain or separable -> ours."""
    return (
        (rf"{prefix}\.convs\.([0-3])\.([01])\.(\w+)", r"pyramid.branches.\1.\2.\3"),
        (rf"{prefix}\.convs\.4\.1\.(\w+)", r"pyramid.pooling.convolution.\1"),
        (rf"{prefix}\.convs\.4\.2\.(\w+)", r"pyramid.pooling.norm.\1"),
        (rf"{prefix}\.project\.([01])\.(\w+)", r"pyramid.join.\1.\2"),
    )


def smp_separable_pyramid(prefix: str) -> Rules:
    """As `smp_pyramid`, where the convolutions at the rates are separable: one place of a sequence holds both halves."""
    return (
        (rf"{prefix}\.convs\.([1-3])\.0\.([01])\.(\w+)", r"pyramid.branches.\1.\2.\3"),
        (rf"{prefix}\.convs\.([1-3])\.1\.(\w+)", r"pyramid.branches.\1.2.\2"),
        *smp_pyramid(prefix),
    )


_SMP_RATES = (12, 24, 36)

_SMP_HEAD: Rules = (
    (r"decoder\.(?:conv|1)\.(\w+)", r"refine.0.\1"),  # numbers in files of smp before 0.5
    (r"decoder\.(?:bn|2)\.(\w+)", r"refine.1.\1"),
    (r"segmentation_head\.0\.(\w+)", r"classify.\1"),
)
_SMP: Rules = (*smp_pyramid(r"decoder\.(?:aspp|0)"), *_SMP_HEAD)
_SMP_SEPARABLE: Rules = (*smp_separable_pyramid(r"decoder\.(?:aspp|0)"), *_SMP_HEAD)

MMSEG: Rules = (
    (r"decode_head\.aspp_modules\.(\d)\.conv\.(\w+)", r"pyramid.branches.\1.0.\2"),
    (r"decode_head\.aspp_modules\.(\d)\.bn\.(\w+)", r"pyramid.branches.\1.1.\2"),
    (r"decode_head\.image_pool\.1\.conv\.(\w+)", r"pyramid.pooling.convolution.\1"),
    (r"decode_head\.image_pool\.1\.bn\.(\w+)", r"pyramid.pooling.norm.\1"),
    (r"decode_head\.bottleneck\.conv\.(\w+)", r"pyramid.join.0.\1"),
    (r"decode_head\.bottleneck\.bn\.(\w+)", r"pyramid.join.1.\1"),
    (r"decode_head\.conv_seg\.(\w+)", r"classify.\1"),
    (r"auxiliary_head\.convs\.0\.conv\.(\w+)", r"auxiliary.unit.0.\1"),
    (r"auxiliary_head\.convs\.0\.bn\.(\w+)", r"auxiliary.unit.1.\1"),
    (r"auxiliary_head\.conv_seg\.(\w+)", r"auxiliary.classify.\1"),
    (r"backbone\.(.+)", r"encoder.\1"),
)


def pool_last(key: str, array: Any) -> Any:
    """mmsegmentation's pyramid joins the image's mean before the other branches, ours behind them."""
    return array.roll(-array.shape[0], 1) if key == "pyramid.join.0.weight" else array


def mmseg_options(shapes: Shapes, config: Config) -> dict[str, Any]:
    """What DeepLabV3 and DeepLabV3+ files of mmsegmentation say in common."""
    auxiliary, said = shapes.get("auxiliary_head.convs.0.conv.weight", (0,)), mmseg_config(config)
    return {
        **({"rates": said.rates} if said.rates else {}),
        "output_stride": said.output_stride or 8,
        "channels": shapes["decode_head.bottleneck.conv.weight"][0],
        "auxiliary_channels": auxiliary[0],
        "dropout": 0.1,
        "convention": "mmseg",
    }


def mmseg_dilated_backbone(shapes: Shapes) -> str:
    """The backbone of an mmsegmentation file with mmsegmentation's dilation."""
    name = mmseg_backbone(shapes)
    return "resnet18_v1b" if name == "resnet18" else name


def smp_options(shapes: Shapes, config: Config, *, output_stride: int, logits_stride: int | None) -> dict[str, Any]:
    """What DeepLabV3 and DeepLabV3+ files of smp say in common.

    Args:
        output_stride: smp's default.
        logits_stride: of the last convolution; None for the output stride.

    Raises:
        UserError: an encoder cut short, or another factor of the last resize.
    """
    stride = int(config.get("encoder_output_stride", output_stride))
    depth, factor, expected = config.get("encoder_depth", 5), config.get("upsampling"), logits_stride or stride
    if depth != 5 or factor not in (None, expected):
        raise UserError(
            f"Of smp's DeepLab files those with encoder_depth 5 and upsampling {expected} can be read; config.json has "
            f"{depth} and {factor}."
        )
    return {
        "output_stride": stride,
        "rates": tuple(config.get("decoder_atrous_rates", _SMP_RATES)),
        "dropout": float(config.get("decoder_aspp_dropout", 0.5)),
        "auxiliary_channels": 0,
        "convention": "smp",
    }


def smp_notes(*, output_stride: int, other: int) -> Notes:
    """The notes of smp's DeepLab files, whose default is `output_stride`."""
    return smp.notes(
        encoder_output_stride=smp.Assumed(output_stride, "output_stride", other),
        decoder_atrous_rates=smp.Assumed(_SMP_RATES, "rates", (6, 12, 18)),
    )


def smp_dilated_backbone(shapes: Shapes, config: Config) -> str:
    """The backbone of an smp file with smp's dilation."""
    name = smp.backbone(shapes, config)
    if smp.is_mix_transformer(shapes):
        raise UserError(
            f"The encoder of this smp DeepLab file is '{name}', which smp dilates and our Mix Transformer does not; over it, "
            "smp's other models can be read."
        )
    return f"{name}_smp" if f"{name}_smp" in BACKBONES else name


def _torchvision_spec(shapes: Shapes, config: Config) -> ModelSpec:
    classes, auxiliary = shapes["classifier.4.weight"][0], shapes.get("aux_classifier.0.weight", (0,))[0]
    if _stale_auxiliary(shapes):
        auxiliary = 0
    if any(key.startswith("backbone.0.") for key in shapes):
        channels = shapes["backbone.0.0.weight"][1]
        return ModelSpec("deeplabv3_mobilenet_v3_large", channels, classes, {"auxiliary_channels": auxiliary})
    name = require_resnet(shapes, "backbone.", source="torchvision")
    options = {"auxiliary_channels": auxiliary, "channels": shapes["classifier.0.project.0.weight"][0]}
    return ModelSpec(f"deeplabv3_{name}", shapes["backbone.conv1.weight"][1], classes, options)


def _stale_auxiliary(shapes: Shapes) -> bool:
    """Whether the auxiliary head is whole but of another number of classes: torchvision's own, beside a classifier that was
    replaced for fine-tuning."""
    rows, *rest = shapes.get("aux_classifier.4.weight", (0,))
    return (
        rows not in (0, shapes["classifier.4.weight"][0])
        and tuple(rest) == (shapes.get("aux_classifier.0.weight", (0,))[0], 1, 1)
        and shapes.get("aux_classifier.4.bias") == (rows,)
    )


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    options = smp_options(shapes, config, output_stride=8, logits_stride=None)
    options |= {"channels": shapes[_smp_join(shapes)][0], "separable": _separable(shapes)}
    name = f"deeplabv3_{smp_dilated_backbone(shapes, config)}"
    return ModelSpec(name, smp.in_channels(shapes, config), shapes["segmentation_head.0.weight"][0], options)


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    name = f"deeplabv3_{mmseg_dilated_backbone(shapes)}"
    options = mmseg_options(shapes, config)
    return ModelSpec(name, mmseg_in_channels(shapes), shapes["decode_head.conv_seg.weight"][0], options)


def _smp_join(shapes: Shapes) -> str:
    """The key of the pyramid's last convolution; smp before 0.5 counted the decoder's parts."""
    return next((key for key in _SMP_JOINS if key in shapes), "")


_SMP_JOINS = ("decoder.aspp.project.0.weight", "decoder.0.project.0.weight")


def _separable(shapes: Shapes) -> bool:
    return bool({"decoder.aspp.convs.1.0.0.weight", "decoder.0.convs.1.0.0.weight"} & shapes.keys())


def _is_torchvision(shapes: Shapes) -> bool:
    return {"classifier.0.project.0.weight", "classifier.0.convs.4.1.weight", "classifier.4.weight"} <= shapes.keys()


def _is_smp(shapes: Shapes) -> bool:
    return bool(_smp_join(shapes)) and "segmentation_head.0.weight" in shapes


def _is_mmseg(shapes: Shapes) -> bool:
    return "decode_head.image_pool.1.conv.weight" in shapes and not any(
        re.match(r"decode_head\.sep_bottleneck\.", key) for key in shapes
    )


def _smp_source(*, separable: bool) -> Published:
    rules = _SMP_SEPARABLE if separable else _SMP
    return Published(
        "smp",
        "deeplabv3",
        lambda shapes: _is_smp(shapes) and _separable(shapes) == separable,
        _smp_spec,
        lambda key: None if left_out_by(smp.OUT, key) else smp.rename(key, rules),
        smp.OUT,
        preprocessing=smp.preprocessing,
        notes=smp_notes(output_stride=8, other=16),
    )


def _is_torchvisions_own(shapes: Shapes) -> bool:
    """Whether torchvision itself publishes files with this number of classes and channels."""
    first = next((shapes[key] for key in ("backbone.conv1.weight", "backbone.0.0.weight") if key in shapes), (0, 0))
    return not _stale_auxiliary(shapes) and shapes["classifier.4.weight"][0] == 21 and first[1] == 3


def _torchvision_source(*, own: bool, stale_auxiliary: bool = False) -> Published:
    left_out = _STALE_OUT if stale_auxiliary else {}
    return Published(
        "torchvision",
        "deeplabv3",
        lambda shapes: (
            _is_torchvision(shapes)
            and _stale_auxiliary(shapes) == stale_auxiliary
            and _is_torchvisions_own(shapes) == own
        ),
        _torchvision_spec,
        lambda key: None if left_out_by(left_out, key) else rewrite(key, _TORCHVISION),
        left_out,
        preprocessing=replace(
            BLACK_PADDED, resize=ResizeRule(shortest=520, interpolation="antialiased", rounding="down")
        ),
        space={21: "voc"},
        licence=or_of_others(_LICENCE) if own else _FINE_TUNED,
    )


SOURCES: tuple[Published, ...] = (
    _torchvision_source(own=True),
    _torchvision_source(own=False),
    _torchvision_source(own=False, stale_auxiliary=True),
    _smp_source(separable=False),
    _smp_source(separable=True),
    Published(
        "mmseg",
        "deeplabv3",
        _is_mmseg,
        _mmseg_spec,
        lambda key: rewrite(key, MMSEG),
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=MMSEG_LICENCE,
        notes=mmseg_notes(stride=MMSEG_NOTE),
        transform=pool_last,
    ),
)
"""Every array of a segmentation is used, the auxiliary head's too where it has the model's classes: it serves further training."""
