"""Backbones: images to feature maps from high to low resolution. `BACKBONES` are ours; any other name is timm's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean, import_object
from nuriwake.models.backbones.base import Backbone


@dataclass(frozen=True)
class BackboneEntry:
    """One of our own backbones.

    Attributes:
        build: "module:name" of `(in_channels, *, output_stride, options...) -> Backbone`.
        summary: one line for `nuriwake models`.
        published: https address or Hugging Face id of its weights, what "pretrained" means; None when there are none.
        licence: of these weights.
        commercial: False when the licence forbids commercial use; fetching them then needs consent.
        options: of the constructor, which this name stands for.
    """

    build: str
    summary: str
    published: str | None = None
    licence: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    commercial: bool = field(default=True, kw_only=True)


MIX_TRANSFORMER_LICENCE = "NVIDIA Source Code License for SegFormer: research and evaluation only, no commercial use"
_TORCHVISION = "BSD-3-Clause (torchvision; trained on ImageNet)"


def _resnet(summary: str, published: str | None = None, **options: Any) -> BackboneEntry:
    file = None if published is None else f"https://download.pytorch.org/models/{published}"
    licence = None if published is None else _TORCHVISION
    return BackboneEntry("nuriwake.models.backbones.resnet:ResNet", summary, file, licence, options)


def _mix_transformer(size: int) -> BackboneEntry:
    options = {"name": f"mit_b{size}"}
    summary = f"Mix Transformer B{size}, the encoder of SegFormer (strides 4 to 32 only)"
    build = "nuriwake.models.segformer:MixTransformer"
    return BackboneEntry(build, summary, f"nvidia/mit-b{size}", MIX_TRANSFORMER_LICENCE, options, commercial=False)


def _hrnet(size: str, maps: str, published: str) -> BackboneEntry:
    licence = f"{'Apache-2.0' if 'gluon' in published else 'MIT'} (timm; trained on ImageNet)"
    summary = f"HRNetV2 as segmentation takes it: maps of {maps} at strides 4 to 32"
    options = {"name": f"hrnetv2_{size}"}
    return BackboneEntry(
        "nuriwake.models.backbones.hrnet:hrnetv2", summary, f"timm/hrnet_{published}", licence, options
    )


def _dinov2(size: str, summary: str) -> BackboneEntry:
    summary = f"DINOv2's plain vision transformer with registers: {summary}; one map at stride 16"
    build = "nuriwake.models.backbones.vit:VisionTransformer"
    file = f"timm/vit_{size}_patch14_reg4_dinov2.lvd142m"
    return BackboneEntry(build, summary, file, "Apache-2.0 (DINOv2, Meta)", {"name": f"dinov2_{size}"})


def _swin(name: str, summary: str, published: str, **options: int) -> BackboneEntry:
    build = "nuriwake.models.backbones.swin:Swin"
    given = {"name": f"swin_{name}", **options}
    summary = f"Swin transformer, {summary} (strides 4 to 32 only)"
    return BackboneEntry(build, summary, f"timm/swin_{published}", "MIT (Microsoft; trained on ImageNet)", given)


_SMP = "as segmentation_models_pytorch dilates it"
_V1C = "with a stem of three convolutions: mmsegmentation's R{}-D8"
_SEMSEG = "with semseg's stem of 128 channels and its dilation"
_CAFFE = "with the stride in the first 1x1, as Detectron2 has it; wants BGR"
_RESNET = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}
_X50, _X101 = "resnext50_32x4d-7cdf4587.pth", "resnext101_32x8d-8ba56ff5.pth"

_MOBILENET_V2 = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
_MOBILENET_V3 = "nuriwake.models.backbones.mobilenet_v3:MobileNetV3Large"
_MOBILENET_V3_FILE = "https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth"

BACKBONES: dict[str, BackboneEntry] = {
    "mobilenet_v2": BackboneEntry(
        "nuriwake.models.backbones.mobilenet_v2:mobilenet_v2",
        "MobileNetV2 without its last 1x1 convolution (320 channels): small and fast on a CPU",
        _MOBILENET_V2,
        _TORCHVISION,
    ),
    "mobilenet_v2_1280": BackboneEntry(
        "nuriwake.models.backbones.mobilenet_v2:mobilenet_v2_1280",
        "MobileNetV2 with its last 1x1 convolution (1280 channels), as segmentation_models_pytorch takes it",
        _MOBILENET_V2,
        _TORCHVISION,
    ),
    "mobilenet_v3_large": BackboneEntry(
        _MOBILENET_V3,
        "MobileNetV3-Large: squeeze and excite, 960 channels at its end",
        _MOBILENET_V3_FILE,
        _TORCHVISION,
    ),
    "mobilenet_v3_large_first": BackboneEntry(
        _MOBILENET_V3,
        "MobileNetV3-Large with the maps that torchvision's segmentation models take: of the first block of each stride",
        _MOBILENET_V3_FILE,
        _TORCHVISION,
        {"taps": "first"},
    ),
    "resnet18": _resnet("ResNet-18", _RESNET[18], depth=18),
    "resnet34": _resnet("ResNet-34", _RESNET[34], depth=34),
    "resnet50": _resnet("ResNet-50", _RESNET[50], depth=50),
    "resnet101": _resnet("ResNet-101", _RESNET[101], depth=101),
    "resnet152": _resnet("ResNet-152", _RESNET[152], depth=152),
    "resnext50_32x4d": _resnet("ResNeXt-50 32x4d", _X50, depth=50, groups=32, group_width=4),
    "resnext101_32x8d": _resnet("ResNeXt-101 32x8d", _X101, depth=101, groups=32, group_width=8),
    "resnet18_smp": _resnet(f"ResNet-18 {_SMP}", _RESNET[18], depth=18, style="smp"),
    "resnet34_smp": _resnet(f"ResNet-34 {_SMP}", _RESNET[34], depth=34, style="smp"),
    "resnet50_smp": _resnet(f"ResNet-50 {_SMP}", _RESNET[50], depth=50, style="smp"),
    "resnet101_smp": _resnet(f"ResNet-101 {_SMP}", _RESNET[101], depth=101, style="smp"),
    "resnet152_smp": _resnet(f"ResNet-152 {_SMP}", _RESNET[152], depth=152, style="smp"),
    "resnext50_32x4d_smp": _resnet(f"ResNeXt-50 {_SMP}", _X50, depth=50, style="smp", groups=32, group_width=4),
    "resnext101_32x8d_smp": _resnet(f"ResNeXt-101 {_SMP}", _X101, depth=101, style="smp", groups=32, group_width=8),
    "resnet18_v1b": _resnet("ResNet-18 as mmsegmentation's R18b-D8 dilates it", _RESNET[18], depth=18, style="v1b"),
    "resnet18_v1c": _resnet(f"ResNet-18 {_V1C.format(18)}", depth=18, style="v1c"),
    "resnet50_v1c": _resnet(f"ResNet-50 {_V1C.format(50)}", depth=50, style="v1c"),
    "resnet101_v1c": _resnet(f"ResNet-101 {_V1C.format(101)}", depth=101, style="v1c"),
    "resnet50_semseg": _resnet(f"ResNet-50 {_SEMSEG}", depth=50, style="semseg"),
    "resnet101_semseg": _resnet(f"ResNet-101 {_SEMSEG}", depth=101, style="semseg"),
    "resnet50_caffe": _resnet(f"ResNet-50 {_CAFFE}", depth=50, style="caffe"),
    "resnet101_caffe": _resnet(f"ResNet-101 {_CAFFE}", depth=101, style="caffe"),
    **{f"mit_b{size}": _mix_transformer(size) for size in range(6)},
    "swin_tiny": _swin("tiny", "tiny: 28 M parameters", "tiny_patch4_window7_224.ms_in1k"),
    "swin_small": _swin("small", "small: 49 M parameters", "small_patch4_window7_224.ms_in1k"),
    "swin_base": _swin("base", "base with windows of 12: 87 M parameters", "base_patch4_window12_384.ms_in22k"),
    "swin_base_window7": _swin(
        "base", "base with windows of 7: 87 M parameters", "base_patch4_window7_224.ms_in22k", window=7
    ),
    "swin_large": _swin("large", "large with windows of 12: 195 M parameters", "large_patch4_window12_384.ms_in22k"),
    "dinov2_small": _dinov2("small", "384 channels, 12 blocks"),
    "dinov2_base": _dinov2("base", "768 channels, 12 blocks"),
    "dinov2_large": _dinov2("large", "1024 channels, 24 blocks"),
    "dinov2_giant": _dinov2("giant", "1536 channels, 40 blocks"),
    "hrnetv2_w18_small_v1": _hrnet(
        "w18_small_v1", "16 to 128 channels, a quarter of the depth", "w18_small.gluon_in1k"
    ),
    "hrnetv2_w18_small_v2": _hrnet("w18_small_v2", "18 to 144 channels, half the depth", "w18_small_v2.gluon_in1k"),
    "hrnetv2_w18": _hrnet("w18", "18 to 144 channels", "w18.ms_aug_in1k"),
    "hrnetv2_w32": _hrnet("w32", "32 to 256 channels", "w32.ms_in1k"),
    "hrnetv2_w48": _hrnet("w48", "48 to 384 channels", "w48.ms_in1k"),
}


def build_backbone(
    name: str,
    *,
    in_channels: int,
    weights: str | Path | None = None,
    output_stride: int = 32,
    options: Mapping[str, Any] | None = None,
    accept_license: bool = False,
) -> Backbone:
    """The backbone `name` for images of `in_channels` channels.

    Args:
        name: a key of `BACKBONES`, or any timm model with feature maps.
        weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id; see `weights.weights_file`.
        output_stride: 32, or 16 or 8 where the backbone can be dilated.
        options: further arguments of the constructor, for one of ours.
        accept_license: consent to a licence of weights by name that forbids commercial use.

    Raises:
        UserError: no such backbone (did you mean), options for one of timm's, consent that is missing, or weights that do
            not fit.
        RunError: weights by name, and no network.
    """
    from nuriwake.models.backbones.timm import TimmBackbone
    from nuriwake.models.backbones.weights import load_backbone
    from nuriwake.models.state import read_state

    check_backbone(name)
    entry = BACKBONES.get(name)
    if entry is not None:
        arguments = {**entry.options, **(options or {})}
        backbone: Backbone = import_object(entry.build)(in_channels, output_stride=output_stride, **arguments)
    elif options:
        raise UserError(f"'{name}' is a backbone of timm and takes no options here, found {', '.join(options)}.")
    else:
        backbone = TimmBackbone(name, in_channels, output_stride=output_stride)
    if weights is not None:
        file = published_file(name, weights, accept_license=accept_license)
        load_backbone(backbone, read_state(file), file=file, who=name)
    return backbone


def published_file(name: str, weights: str | Path, *, accept_license: bool = False) -> Path:
    """The local file of `weights` for the backbone `name`, fetched when it is no file yet; see `weights.weights_file`."""
    from nuriwake.models.backbones.timm import hub_id
    from nuriwake.models.backbones.weights import weights_file

    entry = BACKBONES.get(name)
    published = entry.published if entry else hub_id(name)
    return weights_file(weights, published=published, who=name, accept_license=accept_license)


def check_backbone(name: str) -> None:
    """Raise a UserError that names the nearest one when there is no backbone `name`."""
    if name in BACKBONES:
        return
    from nuriwake.models.backbones.timm import timm_names

    if name.split(".")[0] not in timm_names():
        raise UserError(f"There is no backbone '{name}'.{did_you_mean(name, [*BACKBONES, *timm_names()])}")


__all__ = ["BACKBONES", "Backbone", "BackboneEntry", "build_backbone", "check_backbone", "published_file"]
