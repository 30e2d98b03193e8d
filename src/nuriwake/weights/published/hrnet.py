"""HRNet and HRNet with OCR: files of the authors' repository (HRNet/HRNet-Semantic-Segmentation) and of mmsegmentation."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.serial import to_plain
from nuriwake.models import MODELS
from nuriwake.models.backbones.hrnet import LAYOUTS, HRNetLayout
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import (
    BLACK_PADDED,
    Config,
    Notes,
    Published,
    Shapes,
    mmseg_notes,
    mmseg_preprocessing,
)
from nuriwake.weights.published.keys import or_of_others

_BACKBONE = re.compile(r"(conv[12]|bn[12]|layer1|transition[1-3]|stage[2-4])\..+")

# The authors' training wraps network and loss in one module, itself wrapped for several GPUs.
_WRAPPERS = re.compile(r"^(?:module\.|model\.)+")

# Published beginning of a name (regular expression) -> ours; what follows stays.
_HRNET_NAMES = {r"last_layer\.": "head."}

# OCR's units are one flat sequence of convolution and (nested) batch norm; ours are nested unit by unit.
_CONTEXT = r"ocr_distri_head\.object_context_block\."
_OCR_NAMES = {
    r"aux_head\.": "auxiliary_head.",
    r"conv3x3_ocr\.": "representation.",
    r"cls_head\.": "head.",
    rf"{_CONTEXT}f_pixel\.0\.": "object_context.pixel_query.0.0.",
    rf"{_CONTEXT}f_pixel\.1\.0\.": "object_context.pixel_query.0.1.",
    rf"{_CONTEXT}f_pixel\.2\.": "object_context.pixel_query.1.0.",
    rf"{_CONTEXT}f_pixel\.3\.0\.": "object_context.pixel_query.1.1.",
    rf"{_CONTEXT}f_object\.0\.": "object_context.region_key.0.0.",
    rf"{_CONTEXT}f_object\.1\.0\.": "object_context.region_key.0.1.",
    rf"{_CONTEXT}f_object\.2\.": "object_context.region_key.1.0.",
    rf"{_CONTEXT}f_object\.3\.0\.": "object_context.region_key.1.1.",
    rf"{_CONTEXT}f_down\.0\.": "object_context.region_value.0.",
    rf"{_CONTEXT}f_down\.1\.0\.": "object_context.region_value.1.",
    rf"{_CONTEXT}f_up\.0\.": "object_context.context.0.",
    rf"{_CONTEXT}f_up\.1\.0\.": "object_context.context.1.",
    r"ocr_distri_head\.conv_bn_dropout\.0\.": "object_context.merge.0.",
    r"ocr_distri_head\.conv_bn_dropout\.1\.0\.": "object_context.merge.1.",
}

_MMSEG_FCN_NAMES = {
    r"decode_head\.convs\.0\.conv\.": "head.0.",
    r"decode_head\.convs\.0\.bn\.": "head.1.",
    r"decode_head\.conv_seg\.": "head.3.",
}

_MMSEG_CONTEXT = r"decode_head\.1\.object_context_block\."
_MMSEG_OCR_NAMES = {
    r"decode_head\.0\.convs\.0\.conv\.": "auxiliary_head.0.",
    r"decode_head\.0\.convs\.0\.bn\.": "auxiliary_head.1.",
    r"decode_head\.0\.conv_seg\.": "auxiliary_head.3.",
    r"decode_head\.1\.bottleneck\.conv\.": "representation.0.",
    r"decode_head\.1\.bottleneck\.bn\.": "representation.1.",
    r"decode_head\.1\.conv_seg\.": "head.",
    rf"{_MMSEG_CONTEXT}query_project\.([01])\.conv\.": r"object_context.pixel_query.\1.0.",
    rf"{_MMSEG_CONTEXT}query_project\.([01])\.bn\.": r"object_context.pixel_query.\1.1.",
    rf"{_MMSEG_CONTEXT}key_project\.([01])\.conv\.": r"object_context.region_key.\1.0.",
    rf"{_MMSEG_CONTEXT}key_project\.([01])\.bn\.": r"object_context.region_key.\1.1.",
    rf"{_MMSEG_CONTEXT}value_project\.conv\.": "object_context.region_value.0.",
    rf"{_MMSEG_CONTEXT}value_project\.bn\.": "object_context.region_value.1.",
    rf"{_MMSEG_CONTEXT}out_project\.conv\.": "object_context.context.0.",
    rf"{_MMSEG_CONTEXT}out_project\.bn\.": "object_context.context.1.",
    rf"{_MMSEG_CONTEXT}bottleneck\.conv\.": "object_context.merge.0.",
    rf"{_MMSEG_CONTEXT}bottleneck\.bn\.": "object_context.merge.1.",
}

_HRNET_LEFT_OUT = {r"(?:module\.|model\.)*loss\..+": "class weights of the training loss"}
_MMSEG_LEFT_OUT = {r"auxiliary_head\..+": "auxiliary head: HRNet is used without one"}


def layout_from(shapes: Shapes) -> HRNetLayout:
    """Width and depth of the HRNet whose arrays, under the authors' names without prefix, have these `shapes`.

    Raises:
        UserError: the branches are not those of one layout (a file cut down, or another network).
    """

    def count(pattern: str) -> int:
        found = (re.match(pattern, key) for key in shapes)
        return len({match[1] for match in found if match})

    try:
        return HRNetLayout(
            width=shapes["stage2.0.branches.0.0.conv1.weight"][0],
            modules=(count(r"stage2\.(\d+)\."), count(r"stage3\.(\d+)\."), count(r"stage4\.(\d+)\.")),
            blocks=count(r"stage2\.0\.branches\.0\.(\d+)\."),
            first_width=shapes["layer1.0.conv1.weight"][0],
            first_blocks=count(r"layer1\.(\d+)\."),
        )
    except KeyError as error:
        raise UserError(f"This HRNet checkpoint lacks the array {error}, which tells its width.") from error


def rename_hrnet(key: str) -> str | None:
    """A key of the authors' HRNet -> ours; with or without the prefixes of their training."""
    return _renamed(_WRAPPERS.sub("", key), "", _HRNET_NAMES, _HRNET_LEFT_OUT)


def rename_hrnet_ocr(key: str) -> str | None:
    """A key of the authors' HRNet with OCR -> ours; with or without the prefixes of their training."""
    return _renamed(_WRAPPERS.sub("", key), "", _OCR_NAMES, _HRNET_LEFT_OUT)


def rename_mmseg_fcn(key: str) -> str | None:
    """A key of mmsegmentation's FCN over HRNet -> ours."""
    return _renamed(key, "backbone.", _MMSEG_FCN_NAMES, _MMSEG_LEFT_OUT)


def rename_mmseg_ocr(key: str) -> str | None:
    """A key of mmsegmentation's OCRNet over HRNet -> ours."""
    return _renamed(key, "backbone.", _MMSEG_OCR_NAMES, _MMSEG_LEFT_OUT)


def _renamed(key: str, prefix: str, names: Mapping[str, str], left_out: Mapping[str, str]) -> str | None:
    if any(re.fullmatch(pattern, key) for pattern in left_out):
        return None
    if key.startswith(prefix) and _BACKBONE.fullmatch(key.removeprefix(prefix)):
        return f"encoder.{key.removeprefix(prefix)}"
    for pattern, ours in names.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", ours, key)
    # Not one of ours by accident ("head.0.weight" of some other file): a name that no model of ours has.
    return f"published.{key}"


def _bare(shapes: Shapes) -> Shapes:
    """`shapes` under the names of the authors' own network."""
    return {_WRAPPERS.sub("", key): shape for key, shape in shapes.items()}


def _backbone(shapes: Shapes) -> Shapes:
    """The arrays of mmsegmentation's backbone, under the authors' names."""
    return {key.removeprefix("backbone."): shape for key, shape in shapes.items() if key.startswith("backbone.")}


def _spec(family: str, backbone: Shapes, classes: int, options: Mapping[str, Any]) -> ModelSpec:
    """The model "<family>_<width>" of our list; for a layout without a name, that of W48 with the layout as an option."""
    layout = layout_from(backbone)
    sizes = {item: key.removeprefix("hrnetv2_") for key, item in LAYOUTS.items()}
    name = f"{family}_{sizes.get(layout)}"
    if name not in MODELS:
        name, options = f"{family}_w48", {**options, "layout": to_plain(layout)}
    return ModelSpec(name, backbone["conv1.weight"][1], classes, options)


def _hrnet_spec(shapes: Shapes, config: Config) -> ModelSpec:
    shapes = _bare(shapes)
    return _spec("hrnet", shapes, shapes["last_layer.3.weight"][0], _bias(shapes, "last_layer.0.bias"))


def _hrnet_ocr_spec(shapes: Shapes, config: Config) -> ModelSpec:
    shapes = _bare(shapes)
    classes = shapes["cls_head.weight"][0]
    options = _bias(shapes, "aux_head.0.bias") | _channels(shapes["conv3x3_ocr.0.weight"]) | _regions(classes)
    return _spec("hrnet_ocr", shapes, classes, options)


def _mmseg_fcn_spec(shapes: Shapes, config: Config) -> ModelSpec:
    options = _MMSEG_OPTIONS | _bias(shapes, "decode_head.convs.0.conv.bias")
    return _spec("hrnet", _backbone(shapes), shapes["decode_head.conv_seg.weight"][0], options)


def _mmseg_ocr_spec(shapes: Shapes, config: Config) -> ModelSpec:
    classes = shapes["decode_head.1.conv_seg.weight"][0]
    options = _MMSEG_OPTIONS | _bias(shapes, "decode_head.0.convs.0.conv.bias")
    options |= _channels(shapes["decode_head.1.bottleneck.conv.weight"]) | _regions(classes)
    return _spec("hrnet_ocr", _backbone(shapes), classes, options)


_MMSEG_OPTIONS = {"align_corners": False, "enlarge_twice": True}


def _regions(classes: int) -> dict[str, Any]:
    """With one class there is one region in both implementations (SpatialGather_Module; mmsegmentation's OCRHead)."""
    return {"background_region": False} if classes == 1 else {}


def _bias(shapes: Shapes, key: str) -> dict[str, Any]:
    return {} if key in shapes else {"head_bias": False}


def _channels(kernel: tuple[int, ...]) -> dict[str, Any]:
    return {} if kernel[0] == 512 else {"channels": kernel[0]}


def _has(*keys: str, without: tuple[str, ...] = ()) -> Callable[[Shapes], bool]:
    """Whether all of `keys` and none of `without` are there, under the authors' names or mmsegmentation's."""

    def recognise(shapes: Shapes) -> bool:
        found = _bare(shapes)
        return all(key in found for key in keys) and not any(key in found for key in without)

    return recognise


_STAGE = "stage4.0.branches.3.0.conv1.weight"
_LICENCE = or_of_others(
    "{code} by its authors; the data it was trained on may bind as well (Cityscapes: no commercial use; ADE20K: research)"
)
_HRNET_CORNERS = (
    "Read with half-pixel centres, as the repository's plain HRNet enlarges its maps; a file trained with "
    "MODEL.ALIGN_CORNERS: True, which no file says, needs --options '{\"align_corners\": true}'."
)
_OCR_CORNERS = (
    "Read with aligned corners, the setting of the repository's OCR models; a file trained with MODEL.ALIGN_CORNERS: False, "
    "which no file says, needs --options '{\"align_corners\": false}'."
)


def _corners(note: str) -> Notes:
    return lambda config, options: () if "align_corners" in options else (note,)


SOURCES: tuple[Published, ...] = (
    Published(
        "hrnet",
        "hrnet",
        recognise=_has(_STAGE, "last_layer.3.weight", without=("cls_head.weight",)),
        spec=_hrnet_spec,
        rename=rename_hrnet,
        left_out=_HRNET_LEFT_OUT,
        preprocessing=BLACK_PADDED,
        space={19: "cityscapes", 150: "ade20k"},
        licence=_LICENCE.format(code="MIT"),
        notes=_corners(_HRNET_CORNERS),
    ),
    Published(
        "hrnet",
        "hrnet_ocr",
        recognise=_has(_STAGE, "cls_head.weight", "conv3x3_ocr.0.weight"),
        spec=_hrnet_ocr_spec,
        rename=rename_hrnet_ocr,
        left_out=_HRNET_LEFT_OUT,
        preprocessing=BLACK_PADDED,
        space={19: "cityscapes", 150: "ade20k"},
        licence=_LICENCE.format(code="MIT"),
        notes=_corners(_OCR_CORNERS),
    ),
    Published(
        "mmseg",
        "hrnet",
        recognise=_has(f"backbone.{_STAGE}", "decode_head.convs.0.conv.weight", "decode_head.conv_seg.weight"),
        spec=_mmseg_fcn_spec,
        rename=rename_mmseg_fcn,
        left_out=_MMSEG_LEFT_OUT,
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=_LICENCE.format(code="Apache-2.0"),
        notes=mmseg_notes(),
    ),
    Published(
        "mmseg",
        "hrnet_ocr",
        recognise=_has(f"backbone.{_STAGE}", "decode_head.1.object_context_block.query_project.0.conv.weight"),
        spec=_mmseg_ocr_spec,
        rename=rename_mmseg_ocr,
        left_out=_MMSEG_LEFT_OUT,
        preprocessing=mmseg_preprocessing("decode_head.1.conv_seg.weight"),
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=_LICENCE.format(code="Apache-2.0"),
        notes=mmseg_notes(),
    ),
)
"""What `nuriwake import` knows of HRNet."""
