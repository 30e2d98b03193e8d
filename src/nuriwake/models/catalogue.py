"""The models there are. A new architecture is one file and one line here."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean, import_object, lookup
from nuriwake.core.serial import from_plain
from nuriwake.models.base import Model


@dataclass(frozen=True)
class ModelEntry:
    """One model by name.

    Attributes:
        build: "module:Class" of `(in_channels, classes, *, options...) -> Model`.
        summary: one line for `nuriwake models`.
        paper: where it comes from.
        backbone: the name of its backbone; None when it has none to choose.
        defaults: options that differ from the constructor's own.
        recipe: the recipe that suits it.
        task: what it answers: "semantic", "instance", "panoptic", or "any" for models of queries.
    """

    build: str
    summary: str
    paper: str
    backbone: str | None = field(default=None, kw_only=True)
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], kw_only=True)
    recipe: str = field(default="unet", kw_only=True)
    task: str = field(default="semantic", kw_only=True)


_DEEPLABV3 = "nuriwake.models.deeplabv3:DeepLabV3"
_DEEPLABV3_PAPER = "Chen et al. 2017, arXiv:1706.05587"
_DEEPLABV3PLUS = "nuriwake.models.deeplabv3plus:DeepLabV3Plus"
_DEEPLABV3PLUS_PAPER = "Chen et al. 2018, arXiv:1802.02611"
_HRNET = "nuriwake.models.hrnet:HRNet"
_HRNET_PAPER = "Wang et al. 2019, arXiv:1908.07919"
_OCR = "nuriwake.models.ocr:HRNetOCR"
_OCR_PAPER = "Yuan et al. 2020, arXiv:1909.11065"
_PSPNET = "nuriwake.models.pspnet:PSPNet"
_PSPNET_PAPER = "Zhao et al. 2017, arXiv:1612.01105"
_SEMANTIC_FPN = "nuriwake.models.semantic_fpn:SemanticFPN"
_SEMANTIC_FPN_PAPER = "Kirillov et al. 2019, arXiv:1901.02446"
_MASK_RCNN = "nuriwake.models.mask_rcnn:MaskRCNN"
_MASK_RCNN_PAPER = "He et al. 2017, arXiv:1703.06870"
_PANOPTIC_FPN = "nuriwake.models.panoptic_fpn:PanopticFPN"
_UNET_BACKBONE = "nuriwake.models.unet_backbone:UNetBackbone"
_UNET_PAPER = "Ronneberger et al. 2015, arXiv:1505.04597"
_SEGFORMER = "nuriwake.models.segformer:SegFormer"
_MASK2FORMER = "nuriwake.models.mask2former:Mask2Former"
_EOMT = "nuriwake.models.eomt:EoMT"
_SOLOV2 = "nuriwake.models.solov2:SOLOv2"
_YOLACT = "nuriwake.models.yolact:Yolact"
_YOLACT_PAPER = "Bolya et al. 2019, arXiv:1904.02689"


def _segformer(size: int, summary: str) -> ModelEntry:
    paper, wide = "Xie et al. 2021, arXiv:2105.15203", {"channels": 768} if size >= 2 else {}
    return ModelEntry(_SEGFORMER, summary, paper, backbone=f"mit_b{size}", defaults=wide, recipe="segformer")


def _eomt(size: str, query_blocks: int, summary: str) -> ModelEntry:
    paper, options = "Kerssies et al. 2025, arXiv:2503.19108", {"query_blocks": query_blocks}
    return ModelEntry(_EOMT, summary, paper, backbone=f"dinov2_{size}", defaults=options, recipe="eomt", task="any")


_LIGHT_REGIONS = {
    "pyramid_channels": 96,
    "regions": {
        "box_width": 256,
        "mask_channels": 96,
        "training_candidates": 1000,
        "training_proposals": 500,
        "candidates": 500,
        "proposals": 300,
        "sampled_regions": 128,
    },
}
"""Narrow pyramid and heads, and a quarter of the regions to learn from: a step of Mask R-CNN takes a seventh of the time."""


def _mask_rcnn(backbone: str, summary: str, style: str = "detectron2", *, light: bool = False) -> ModelEntry:
    defaults: dict[str, Any] = {} if style == "detectron2" else {"style": style}
    defaults |= _LIGHT_REGIONS if light else {}
    return ModelEntry(
        _MASK_RCNN,
        summary,
        _MASK_RCNN_PAPER,
        backbone=backbone,
        defaults=defaults,
        recipe="mask_rcnn",
        task="instance",
    )


def _panoptic_fpn(backbone: str, summary: str, *, light: bool = False) -> ModelEntry:
    return ModelEntry(
        _PANOPTIC_FPN,
        summary,
        _SEMANTIC_FPN_PAPER,
        backbone=backbone,
        defaults=_LIGHT_REGIONS if light else {},
        recipe="panoptic_fpn",
        task="panoptic",
    )


def _solov2(backbone: str, summary: str, options: Mapping[str, Any] | None = None) -> ModelEntry:
    paper = "Wang et al. 2020, arXiv:2003.10152"
    return ModelEntry(
        _SOLOV2, summary, paper, backbone=backbone, defaults=options or {}, recipe="solov2", task="instance"
    )


def _mask2former(backbone: str, summary: str, **options: int) -> ModelEntry:
    paper = "Cheng et al. 2022, arXiv:2112.01527"
    return ModelEntry(
        _MASK2FORMER, summary, paper, backbone=backbone, defaults=options, recipe="mask2former", task="any"
    )


_SOLOV2_LIGHT = {"channels": 256, "convolutions": 2, "kernel_channels": 128}
_SOLOV2_SMALL = {
    "pyramid_channels": 128,
    "channels": 128,
    "convolutions": 2,
    "mask_channels": 64,
    "kernel_channels": 64,
}

MODELS: dict[str, ModelEntry] = {
    "unet": ModelEntry(
        "nuriwake.models.unet:UNet", "U-Net with batch norm and padding, 64 to 1024 channels", _UNET_PAPER
    ),
    "unet_valid": ModelEntry(
        "nuriwake.models.unet_valid:UNetValid", "U-Net as published: unpadded convolutions, 572 -> 388", _UNET_PAPER
    ),
    "unet_mobilenet_v2": ModelEntry(
        _UNET_BACKBONE, "U-Net over MobileNetV2: fast on a CPU", _UNET_PAPER, backbone="mobilenet_v2"
    ),
    "unet_resnet34": ModelEntry(
        _UNET_BACKBONE, "U-Net over ResNet-34: a strong default on a GPU", _UNET_PAPER, backbone="resnet34"
    ),
    "segformer_b0": _segformer(0, "SegFormer B0: a small transformer, 3.7 M parameters, logits at stride 4"),
    "segformer_b1": _segformer(1, "SegFormer B1: 13.7 M parameters"),
    "segformer_b2": _segformer(2, "SegFormer B2: 27.5 M parameters, a strong transformer for one GPU"),
    "segformer_b3": _segformer(3, "SegFormer B3: 47.3 M parameters"),
    "segformer_b4": _segformer(4, "SegFormer B4: 64.1 M parameters"),
    "segformer_b5": _segformer(5, "SegFormer B5: 84.7 M parameters, the most accurate of its family"),
    "hrnet_w18_small_v1": ModelEntry(
        _HRNET, "HRNet-W18-Small-v1: 1.5 M parameters", _HRNET_PAPER, backbone="hrnetv2_w18_small_v1", recipe="hrnet"
    ),
    "hrnet_w18_small_v2": ModelEntry(
        _HRNET,
        "HRNet-W18-Small-v2: half the depth of W18",
        _HRNET_PAPER,
        backbone="hrnetv2_w18_small_v2",
        recipe="hrnet",
    ),
    "hrnet_w18": ModelEntry(
        _HRNET, "HRNet-W18: fine detail from few parameters", _HRNET_PAPER, backbone="hrnetv2_w18", recipe="hrnet"
    ),
    "hrnet_w32": ModelEntry(_HRNET, "HRNet-W32", _HRNET_PAPER, backbone="hrnetv2_w32", recipe="hrnet"),
    "hrnet_w48": ModelEntry(
        _HRNET, "HRNet-W48: the published Cityscapes model", _HRNET_PAPER, backbone="hrnetv2_w48", recipe="hrnet"
    ),
    "hrnet_ocr_w18": ModelEntry(
        _OCR, "HRNet-W18 with object-contextual representations", _OCR_PAPER, backbone="hrnetv2_w18", recipe="hrnet"
    ),
    "hrnet_ocr_w32": ModelEntry(
        _OCR, "HRNet-W32 with object-contextual representations", _OCR_PAPER, backbone="hrnetv2_w32", recipe="hrnet"
    ),
    "hrnet_ocr_w48": ModelEntry(
        _OCR, "HRNet-W48 with object-contextual representations", _OCR_PAPER, backbone="hrnetv2_w48", recipe="hrnet"
    ),
    "pspnet_mobilenet_v2": ModelEntry(
        _PSPNET,
        "PSPNet over dilated MobileNetV2: 5.1 M parameters",
        _PSPNET_PAPER,
        backbone="mobilenet_v2",
        recipe="pyramid",
    ),
    "pspnet_resnet50": ModelEntry(
        _PSPNET,
        "PSPNet over dilated ResNet-50: the scene's context, costly at stride 8",
        _PSPNET_PAPER,
        backbone="resnet50",
        recipe="pyramid",
    ),
    "pspnet_resnet101": ModelEntry(
        _PSPNET,
        "PSPNet over dilated ResNet-101: the published model",
        _PSPNET_PAPER,
        backbone="resnet101",
        recipe="pyramid",
    ),
    "semantic_fpn_mobilenet_v2": ModelEntry(
        _SEMANTIC_FPN,
        "Semantic FPN over MobileNetV2: light",
        _SEMANTIC_FPN_PAPER,
        backbone="mobilenet_v2",
        recipe="pyramid",
    ),
    "semantic_fpn_resnet50": ModelEntry(
        _SEMANTIC_FPN,
        "Semantic FPN over ResNet-50: several resolutions at moderate cost",
        _SEMANTIC_FPN_PAPER,
        backbone="resnet50",
        recipe="pyramid",
    ),
    "semantic_fpn_resnet101": ModelEntry(
        _SEMANTIC_FPN, "Semantic FPN over ResNet-101", _SEMANTIC_FPN_PAPER, backbone="resnet101", recipe="pyramid"
    ),
    "deeplabv3_resnet50": ModelEntry(
        _DEEPLABV3,
        "DeepLabV3 over ResNet-50 at stride 8: torchvision's",
        _DEEPLABV3_PAPER,
        backbone="resnet50",
        recipe="deeplab",
    ),
    "deeplabv3_resnet101": ModelEntry(
        _DEEPLABV3,
        "DeepLabV3 over ResNet-101 at stride 8: torchvision's",
        _DEEPLABV3_PAPER,
        backbone="resnet101",
        recipe="deeplab",
    ),
    "deeplabv3_mobilenet_v3_large": ModelEntry(
        _DEEPLABV3,
        "DeepLabV3 over MobileNetV3-Large at stride 16: torchvision's, 11 M parameters",
        _DEEPLABV3_PAPER,
        backbone="mobilenet_v3_large_first",
        defaults={"output_stride": 16, "rates": (12, 24, 36), "auxiliary_channels": 10, "auxiliary_map": -3},
        recipe="deeplab",
    ),
    "deeplabv3plus_resnet50": ModelEntry(
        _DEEPLABV3PLUS,
        "DeepLabV3+ over ResNet-50: context and sharp edges, a strong default on a GPU",
        _DEEPLABV3PLUS_PAPER,
        backbone="resnet50",
        recipe="deeplab",
    ),
    "deeplabv3plus_mobilenet_v2": ModelEntry(
        _DEEPLABV3PLUS,
        "DeepLabV3+ over MobileNetV2: context at a small cost",
        _DEEPLABV3PLUS_PAPER,
        backbone="mobilenet_v2",
        recipe="deeplab",
    ),
    "yolact_mobilenet_v2": ModelEntry(
        _YOLACT,
        "YOLACT over MobileNetV2, 128 channels: light",
        _YOLACT_PAPER,
        backbone="mobilenet_v2",
        defaults={"pyramid_channels": 128},
        recipe="yolact",
        task="instance",
    ),
    "yolact_resnet50": ModelEntry(
        _YOLACT,
        "YOLACT over ResNet-50: instances in one pass, fast",
        _YOLACT_PAPER,
        backbone="resnet50",
        recipe="yolact",
        task="instance",
    ),
    "yolact_resnet101": ModelEntry(
        _YOLACT,
        "YOLACT over ResNet-101: the paper's base model",
        _YOLACT_PAPER,
        backbone="resnet101",
        recipe="yolact",
        task="instance",
    ),
    "eomt_small": _eomt(
        "small", 3, "EoMT over DINOv2 small: all three tasks from a plain transformer, 24 M parameters"
    ),
    "eomt_base": _eomt("base", 3, "EoMT over DINOv2 base: 94 M parameters"),
    "eomt_large": _eomt("large", 4, "EoMT over DINOv2 large: 317 M parameters, the published model"),
    "eomt_giant": _eomt("giant", 5, "EoMT over DINOv2 giant: 1.2 G parameters, the most accurate of its family"),
    "mask_rcnn_mobilenet_v2_fpn": _mask_rcnn(
        "mobilenet_v2", "Mask R-CNN over MobileNetV2 and a narrow pyramid: light", light=True
    ),
    "mask_rcnn_r50_fpn": _mask_rcnn("resnet50", "Mask R-CNN over ResNet-50 and a pyramid: a strong default on a GPU"),
    "mask_rcnn_r50_fpn_v2": _mask_rcnn(
        "resnet50", "Mask R-CNN with torchvision's deeper heads of version 2", "torchvision_v2"
    ),
    "mask_rcnn_r101_fpn": _mask_rcnn("resnet101", "Mask R-CNN over ResNet-101 and a pyramid"),
    "panoptic_fpn_mobilenet_v2": _panoptic_fpn(
        "mobilenet_v2", "Panoptic FPN over MobileNetV2, narrow: light", light=True
    ),
    "panoptic_fpn_r50": _panoptic_fpn("resnet50", "Panoptic FPN over ResNet-50: things and stuff from one pyramid"),
    "panoptic_fpn_r101": _panoptic_fpn("resnet101", "Panoptic FPN over ResNet-101"),
    "solov2_mobilenet_v2": _solov2("mobilenet_v2", "SOLOv2 over MobileNetV2, narrow: light", _SOLOV2_SMALL),
    "solov2_light_r50_fpn": _solov2("resnet50", "SOLOv2's light variant over ResNet-50: fast", _SOLOV2_LIGHT),
    "solov2_r50_fpn": _solov2("resnet50", "SOLOv2 over ResNet-50: instances without boxes, sharp outlines"),
    "solov2_r101_fpn": _solov2("resnet101", "SOLOv2 over ResNet-101"),
    "mask2former_mobilenet_v2": _mask2former(
        "mobilenet_v2",
        "Mask2Former over MobileNetV2, narrow: all three tasks, light",
        channels=128,
        queries=50,
        pixel_layers=3,
        decoder_layers=6,
    ),
    "mask2former_r50": _mask2former("resnet50", "Mask2Former over ResNet-50: all three tasks, 44 M parameters"),
    "mask2former_r101": _mask2former("resnet101", "Mask2Former over ResNet-101: 63 M parameters"),
    "mask2former_swin_tiny": _mask2former("swin_tiny", "Mask2Former over Swin tiny: 47 M parameters"),
    "mask2former_swin_small": _mask2former("swin_small", "Mask2Former over Swin small: 69 M parameters"),
    "mask2former_swin_base": _mask2former("swin_base", "Mask2Former over Swin base: 107 M parameters"),
    "mask2former_swin_large": _mask2former(
        "swin_large", "Mask2Former over Swin large: 216 M parameters, the most accurate of its family", queries=200
    ),
}
"""Complete names."""

FAMILIES: dict[str, str] = {
    "unet": _UNET_BACKBONE,
    "deeplabv3": _DEEPLABV3,
    "deeplabv3plus": _DEEPLABV3PLUS,
    "segformer": _SEGFORMER,
    "pspnet": _PSPNET,
    "semantic_fpn": _SEMANTIC_FPN,
    "mask_rcnn": _MASK_RCNN,
    "panoptic_fpn": _PANOPTIC_FPN,
    "yolact": _YOLACT,
    "solov2": _SOLOV2,
    "mask2former": _MASK2FORMER,
}
"""Beginnings of names: `<family>_<backbone>` is the family's constructor over any backbone of ours or of timm."""

_GIVEN = ("in_channels", "classes", "backbone", "backbone_weights")


def build_model(
    name: str,
    *,
    in_channels: int,
    classes: int,
    options: Mapping[str, Any] | None = None,
    backbone_weights: str | Path | None = None,
    accept_license: bool = False,
) -> Model:
    """A model by name, its fresh weights drawn from PyTorch's global generator.

    Args:
        name: a key of `MODELS`, `<family>_<backbone>` ("unet_convnext_tiny"), an import path `package.module:Class`
            (also of a file of the current folder), or an entry point of the group `nuriwake.model`.
        in_channels: of the images.
        classes: channels of the output: `LabelSpace.channels`.
        options: the constructor's own options (`model_options(name)` lists them); lists from YAML become tuples.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        accept_license: consent to a licence of weights by name that forbids commercial use; without it they are refused.

    Raises:
        UserError: unknown name or option (did you mean), an option of the wrong type, weights that do not fit or that the
            model has no backbone for.
        RunError: weights by name, and no network.
    """
    entry = resolve_model(name)
    constructor: Callable[..., Model] = entry_constructor(entry)
    for what, value in (("in_channels", in_channels), ("classes", classes)):
        if value < 1:
            raise UserError(f"'{what}' of a model is at least 1, found {value}.")
    arguments = _checked(name, constructor, merged_options(entry.defaults, options or {}))
    if entry.backbone is not None:
        if accept_license and backbone_weights is not None:
            from nuriwake.models.backbones import published_file

            # A file needs no consent, so that constructors need not know of it.
            backbone_weights = published_file(entry.backbone, backbone_weights, accept_license=True)
        arguments |= {"backbone": entry.backbone, "backbone_weights": backbone_weights}
    elif backbone_weights is not None:
        raise UserError(
            f"The model '{name}' has no backbone that '{backbone_weights}' could fill; leave the weights out."
        )
    return constructor(in_channels, classes, **arguments)


def merged_options(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the options of `above`; of an option that has fields of its own, field by field."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = {**out[key], **value} if both else value
    return out


def resolve_model(name: str) -> ModelEntry:
    """The entry of `name`; made up for `<family>_<backbone>`, an import path or an entry point.

    Raises:
        UserError: nothing of that name; says the nearest.
    """
    if name in MODELS:
        return MODELS[name]
    family = max((family for family in FAMILIES if name.startswith(f"{family}_")), key=len, default=None)
    if family is not None and ":" not in name:
        return _over_backbone(name, family)
    found = lookup(name, MODELS, "model", here=True)
    build = name if ":" in name else f"{found.__module__}:{found.__qualname__}"
    return ModelEntry(build, "a model of your own", "-")


def entry_constructor(entry: ModelEntry) -> Callable[..., Model]:
    """The class or function that `entry.build` names."""
    return import_object(entry.build)


def model_options(name: str) -> dict[str, Any]:
    """The options of the model `name` with their default values."""
    entry = resolve_model(name)
    parameters = _options(entry_constructor(entry))
    return {key: entry.defaults.get(key, item.default) for key, item in parameters.items()}


def list_models(begins_with: str = "") -> list[str]:
    """The complete names that begin with `begins_with`, sorted. Any `<family>_<backbone>` exists besides."""
    return sorted(name for name in MODELS if name.startswith(begins_with))


def count_parameters(model: Model) -> int:
    """How many numbers training could change."""
    return sum(parameter.numel() for parameter in model.parameters())


def _over_backbone(name: str, family: str) -> ModelEntry:
    from nuriwake.models.backbones import BACKBONES
    from nuriwake.models.backbones.timm import timm_names

    backbone = name.removeprefix(f"{family}_")
    known = [*BACKBONES, *timm_names()]
    if backbone.split(".")[0] not in known:
        # A misspelt complete name is likelier than a misspelt backbone among timm's thousand.
        near = did_you_mean(name, [*MODELS, *(f"{family}_{key}" for key in known)])
        raise UserError(f"There is no model named '{name}', nor a backbone '{backbone}'.{near}")
    build = FAMILIES[family]
    like = next(entry for entry in MODELS.values() if entry.build == build)
    summary = f"{family} over {backbone}"
    return ModelEntry(build, summary, "-", backbone=backbone, recipe=like.recipe, task=like.task)


def _options(constructor: Callable[..., Model]) -> dict[str, inspect.Parameter]:
    return {key: item for key, item in inspect.signature(constructor).parameters.items() if key not in _GIVEN}


def _checked(name: str, constructor: Callable[..., Model], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` under the constructor's annotations, unknown ones refused."""
    known = _options(constructor)
    hints = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    for option in options:
        if option not in known:
            raise UserError(f"The model '{name}' has no option '{option}'.{did_you_mean(option, known)}")
    return {key: from_plain(hints.get(key, Any), value, f"options.{key} of '{name}'") for key, value in options.items()}
