"""Published U-Nets: the widespread textbook files, segmentation_models_pytorch, mmsegmentation."""

import re

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models.unet import textbook_name
from nuriwake.models.unet_backbone import smp_name
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import smp
from nuriwake.weights.published.base import Config, Published, Shapes, mmseg_notes, mmseg_preprocessing
from nuriwake.weights.published.keys import (
    MMSEG_LICENCE,
    Rules,
    left_out_by,
    rewrite,
)

_TEXTBOOK_OUT = {"mask_values": "a list of the values in the training masks, no array"}
_MMSEG_OUT = {r"auxiliary_head\..+": "auxiliary head: only training runs it"}

_UPSAMPLING = re.compile(r"up\d+\.up\.\w+")

UNIT_RANGE = Preprocessing(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
"""8-bit RGB divided by 255, as the widespread programs train."""

_MMSEG: Rules = (
    (r"backbone\.encoder\.0\.0\.convs\.0\.conv\.(\w+)", r"encoder.0.first.\1"),
    (r"backbone\.encoder\.0\.0\.convs\.0\.bn\.(\w+)", r"encoder.0.first_norm.\1"),
    (r"backbone\.encoder\.0\.0\.convs\.1\.conv\.(\w+)", r"encoder.0.second.\1"),
    (r"backbone\.encoder\.0\.0\.convs\.1\.bn\.(\w+)", r"encoder.0.second_norm.\1"),
    # Behind the first level the pooling counts as place 0.
    (r"backbone\.encoder\.(\d+)\.1\.convs\.0\.conv\.(\w+)", r"encoder.\1.first.\2"),
    (r"backbone\.encoder\.(\d+)\.1\.convs\.0\.bn\.(\w+)", r"encoder.\1.first_norm.\2"),
    (r"backbone\.encoder\.(\d+)\.1\.convs\.1\.conv\.(\w+)", r"encoder.\1.second.\2"),
    (r"backbone\.encoder\.(\d+)\.1\.convs\.1\.bn\.(\w+)", r"encoder.\1.second_norm.\2"),
    (r"decode_head\.convs\.0\.conv\.(\w+)", r"refine.0.\1"),
    (r"decode_head\.convs\.0\.bn\.(\w+)", r"refine.1.\1"),
    (r"decode_head\.conv_seg\.(\w+)", r"head.\1"),
)
# mmsegmentation counts its decoder from the finest level, ours from the deepest.
_MMSEG_LEVEL = re.compile(r"backbone\.decoder\.(\d+)\.(.+)")
_MMSEG_DECODER: Rules = (
    (r"conv_block\.convs\.0\.conv\.(\w+)", r"decoder.{}.first.\1"),
    (r"conv_block\.convs\.0\.bn\.(\w+)", r"decoder.{}.first_norm.\1"),
    (r"conv_block\.convs\.1\.conv\.(\w+)", r"decoder.{}.second.\1"),
    (r"conv_block\.convs\.1\.bn\.(\w+)", r"decoder.{}.second_norm.\1"),
    (r"upsample\.interp_upsample\.1\.conv\.(\w+)", r"upsamplings.{}.1.\1"),
    (r"upsample\.interp_upsample\.1\.bn\.(\w+)", r"upsamplings.{}.2.\1"),
)


def _textbook_spec(shapes: Shapes, config: Config) -> ModelSpec:
    width, in_channels = shapes["inc.double_conv.0.weight"][:2]
    transposed = any(_UPSAMPLING.fullmatch(key) for key in shapes)
    options = {
        "width": width,
        "depth": _count(r"down(\d+)\.", shapes),
        "bias": "inc.double_conv.0.bias" in shapes,
        "upsampling": "transposed" if transposed else "bilinear",
    }
    return ModelSpec("unet", in_channels, _textbook_head(shapes)[0], options)


def _textbook_head(shapes: Shapes) -> tuple[int, ...]:
    return shapes["outc.weight" if "outc.weight" in shapes else "outc.conv.weight"]


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    blocks = _count(r"decoder\.blocks\.(\d+)\.conv1\.", shapes)
    if blocks != 5 or config.get("encoder_depth", 5) != 5:
        raise UserError(
            f"This smp U-Net has {blocks} decoder blocks (encoder_depth {config.get('encoder_depth', blocks)}); files with "
            "encoder_depth 5 can be read."
        )
    smp.check(config, {"decoder_interpolation": "nearest", "decoder_attention_type": None}, what="smp U-Net")
    channels = tuple(shapes[f"decoder.blocks.{block}.conv1.0.weight"][0] for block in range(blocks))
    classes = shapes["segmentation_head.0.weight"][0]
    name = f"unet_{smp.backbone(shapes, config)}"
    # smp leaves a map at full resolution (timm's VGG) alone.
    options = {"decoder_channels": channels, **({"finest": 2} if smp.is_timm(shapes) else {})}
    return ModelSpec(name, smp.in_channels(shapes, config), classes, options)


def _smp_rename(key: str) -> str | None:
    if left_out_by(smp.OUT, key):
        return None
    return smp.rename(key, ()) if key.startswith("encoder.") else smp_name(key) or key


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    width, in_channels = shapes["backbone.encoder.0.0.convs.0.conv.weight"][:2]
    options = {
        "width": width,
        "depth": _count(r"backbone\.decoder\.(\d+)\.", shapes),
        "bias": False,
        "upsampling": "convolution",
        "refine_channels": shapes["decode_head.convs.0.conv.weight"][0],
    }
    return ModelSpec("unet", in_channels, shapes["decode_head.conv_seg.weight"][0], options)


def _level_name(level: int, rest: str, depth: int) -> str | None:
    if level >= depth:
        return None
    for pattern, ours in _MMSEG_DECODER:
        if found := re.fullmatch(pattern, rest):
            return found.expand(ours).format(depth - 1 - level)
    return None


def _mmseg_rename(depth: int, key: str) -> str | None:
    if left_out_by(_MMSEG_OUT, key):
        return None
    if place := _MMSEG_LEVEL.fullmatch(key):
        return _level_name(int(place[1]), place[2], depth) or key
    return rewrite(key, _MMSEG)


def _count(pattern: str, shapes: Shapes) -> int:
    """How many different numbers stand at the group of `pattern` at the beginning of the keys."""
    return len({found[1] for key in shapes if (found := re.match(pattern, key))})


def _is_textbook(shapes: Shapes) -> bool:
    return any(key.startswith("down1.maxpool_conv.1.double_conv.") for key in shapes)


def _is_smp(shapes: Shapes) -> bool:
    return {"decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight"} <= shapes.keys()


def _mmseg(depth: int) -> Published:
    """mmsegmentation's U-Net of `depth` halvings; its keys count from the other end, so the depth decides the names."""

    def recognise(shapes: Shapes) -> bool:
        upsampled = any(re.match(r"backbone\.decoder\.\d+\.upsample\.interp_upsample\.", key) for key in shapes)
        # PSPNet's and DeepLabV3's heads stand on this backbone as well.
        own_head = "decode_head.convs.0.conv.weight" in shapes
        return upsampled and own_head and _count(r"backbone\.decoder\.(\d+)\.", shapes) == depth

    return Published(
        "mmseg",
        "unet",
        recognise,
        _mmseg_spec,
        lambda key: _mmseg_rename(depth, key),
        _MMSEG_OUT,
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes"},
        licence=MMSEG_LICENCE,
        notes=mmseg_notes(aligns=None),  # its logits are as large as the image
    )


SOURCES: tuple[Published, ...] = (
    Published(
        "textbook",
        "unet",
        _is_textbook,
        _textbook_spec,
        lambda key: None if left_out_by(_TEXTBOOK_OUT, key) else textbook_name(key) or key,
        _TEXTBOOK_OUT,
        preprocessing=UNIT_RANGE,
        notes=(
            "Such files do not say how images were prepared; RGB divided by 255 is taken, as the widespread programs do.",
        ),
    ),
    Published(
        "smp",
        "unet",
        _is_smp,
        _smp_spec,
        _smp_rename,
        smp.OUT,
        smp.preprocessing,
        notes=smp.notes(decoder_interpolation=smp.Assumed("nearest")),
    ),
    *(_mmseg(depth) for depth in (2, 3, 4, 5)),
)
"""U-Nets: textbook (also milesial's), smp over a backbone, and mmsegmentation's own."""
