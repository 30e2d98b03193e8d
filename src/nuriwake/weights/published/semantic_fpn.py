"""Published Semantic FPNs: Detectron2 (the authors'), mmsegmentation, segmentation_models_pytorch."""

from nuriwake.core.errors import UserError
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import detectron2, smp
from nuriwake.weights.published.base import Config, Published, Shapes, mmseg_config, mmseg_notes, mmseg_preprocessing
from nuriwake.weights.published.keys import (
    MMSEG_LICENCE,
    Rules,
    left_out_by,
    mmseg_backbone,
    mmseg_in_channels,
    rewrite,
)

_MMSEG: Rules = (
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"pyramid.lateral.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"pyramid.smooth.\1.\2"),
    *(
        (rf"decode_head\.scale_heads\.(\d)\.{2 * unit}\.{part}\.(\w+)", rf"head.levels.\1.units.{unit}.{place}.\2")
        for unit in range(3)
        for place, part in enumerate(("conv", "bn"))
    ),
    (r"decode_head\.conv_seg\.(\w+)", r"head.classify.\1"),
    (r"backbone\.(.+)", r"encoder.\1"),
)
# smp counts its segmentation blocks from the deepest level.
_SMP: Rules = (
    (r"decoder\.p5\.(\w+)", r"pyramid.lateral.3.\1"),
    *((rf"decoder\.p{level + 2}\.skip_conv\.(\w+)", rf"pyramid.lateral.{level}.\1") for level in range(3)),
    *(
        (
            rf"decoder\.seg_blocks\.{3 - level}\.block\.(\d)\.block\.([01])\.(\w+)",
            rf"head.levels.{level}.units.\1.\2.\3",
        )
        for level in range(4)
    ),
    (r"segmentation_head\.0\.(\w+)", r"head.classify.\1"),
)
_MMSEG_OUT = {r"auxiliary_head\..+": "auxiliary head: only training runs it"}


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    classes, channels = shapes["decode_head.conv_seg.weight"][:2]
    said = mmseg_config(config)
    if said.output_stride not in (None, 32):
        raise UserError(
            f"The configuration in the file dilates its backbone to the output stride {said.output_stride}; Semantic FPN here has "
            "32."
        )
    options = {
        "pyramid_channels": shapes["neck.fpn_convs.0.conv.weight"][0],
        "channels": channels,
        "norm": "batch",
        "align_corners": bool(said.align_corners),
    }
    return ModelSpec(f"semantic_fpn_{mmseg_backbone(shapes)}", mmseg_in_channels(shapes), classes, options)


def _detectron2_spec(shapes: Shapes, config: Config) -> ModelSpec:
    backbone, in_channels = detectron2.backbone_of(shapes, config)
    classes, channels = shapes["sem_seg_head.predictor.weight"][:2]
    options = {
        "pyramid_channels": shapes["backbone.fpn_output2.weight"][0],
        "channels": channels,
        "dropout": 0.0,
    }
    return ModelSpec(f"semantic_fpn_{backbone}", in_channels, classes, options)


def _detectron2_key(key: str) -> str | None:
    if detectron2.left_out(key):
        return None
    return rewrite(detectron2.bottom_up(key), (*detectron2.PYRAMID, *detectron2.SEMANTIC_HEAD))


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    smp.check(config, {"encoder_depth": 5, "decoder_interpolation": "nearest", "upsampling": 4}, what="smp FPN")
    classes, merged = shapes["segmentation_head.0.weight"][:2]
    channels = shapes["decoder.seg_blocks.0.block.0.block.0.weight"][0]
    options = {
        "pyramid_channels": shapes["decoder.p5.weight"][0],
        "channels": channels,
        "smooth": False,
        "merge": "add" if merged == channels else "cat",
        "align_corners": True,
        "dropout": float(config.get("decoder_dropout", 0.2)),
    }
    return ModelSpec(f"semantic_fpn_{smp.backbone(shapes, config)}", smp.in_channels(shapes, config), classes, options)


def _detectron2_recognise(shapes: Shapes) -> bool:
    beyond = ("roi_heads.", "proposal_generator.")  # Panoptic FPN's
    return {"sem_seg_head.predictor.weight", "backbone.fpn_lateral2.weight"} <= shapes.keys() and not any(
        key.startswith(beyond) for key in shapes
    )


SOURCES: tuple[Published, ...] = (
    Published(
        "detectron2",
        "semantic_fpn",
        _detectron2_recognise,
        _detectron2_spec,
        _detectron2_key,
        detectron2.LEFT_OUT,
        preprocessing=detectron2.preprocessing,
        licence=detectron2.LICENCE,
        space={54: "coco"},
        notes=(
            detectron2.NOTE,
            "The zoo's model of 54 classes has COCO's 53 kinds of stuff and, as label 0, all things.",
        ),
    ),
    Published(
        "mmseg",
        "semantic_fpn",
        lambda shapes: {"decode_head.scale_heads.0.0.conv.weight", "neck.fpn_convs.0.conv.weight"} <= shapes.keys(),
        _mmseg_spec,
        lambda key: None if left_out_by(_MMSEG_OUT, key) else rewrite(key, _MMSEG),
        _MMSEG_OUT,
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes", 150: "ade20k"},
        licence=MMSEG_LICENCE,
        notes=mmseg_notes(aligns=True),
    ),
    Published(
        "smp",
        "semantic_fpn",
        lambda shapes: {"decoder.p5.weight", "decoder.seg_blocks.0.block.0.block.0.weight"} <= shapes.keys(),
        _smp_spec,
        lambda key: None if left_out_by(smp.OUT, key) else smp.rename(key, _SMP),
        smp.OUT,
        preprocessing=smp.preprocessing,
        notes=smp.notes(decoder_interpolation=smp.Assumed("nearest")),
    ),
)
