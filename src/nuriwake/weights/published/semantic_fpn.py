"""Published Semantic FPNs: Detectron2 (the authors'), mmsegmentation, segmentation_models_pytorch."""

import re

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.backbones.resnet import detectron2_name
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import Config, Published, Shapes
from nuriwake.weights.published.keys import (
    SMP_ENCODER,
    Rules,
    left_out_by,
    mmseg_backbone,
    mmseg_in_channels,
    require_resnet,
    rewrite,
    smp_backbone,
    smp_in_channels,
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
# Detectron2 counts levels by stride, 2**2 to 2**5; ours are counted from 0.
_DETECTRON2: Rules = (
    *((rf"backbone\.fpn_lateral{level + 2}\.(\w+)", rf"pyramid.lateral.{level}.\1") for level in range(4)),
    *((rf"backbone\.fpn_output{level + 2}\.(\w+)", rf"pyramid.smooth.{level}.\1") for level in range(4)),
    *(
        (rf"sem_seg_head\.p{level + 2}\.{2 * unit}\.{part}(\w+)", rf"head.levels.{level}.units.{unit}.{place}.\1")
        for level in range(4)
        for unit in range(3)
        for place, part in ((1, r"norm\."), (0, ""))
    ),
    (r"sem_seg_head\.predictor\.(\w+)", r"head.classify.\1"),
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
    *SMP_ENCODER,
)
_MMSEG_OUT = {r"auxiliary_head\..+": "auxiliary head: only training runs it"}
_DETECTRON2_OUT = {r"pixel_(mean|std)": "what preprocessing subtracts and divides by, kept there"}

DETECTRON2_PREPROCESSING = Preprocessing(
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255),
    deviation=(1 / 255, 1 / 255, 1 / 255),
    order="bgr",
    resize=ResizeRule(shortest=800, longest=1333),
)
"""Detectron2's default for its backbones from Caffe: BGR, 0 to 255 less the mean."""


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    classes, channels = shapes["decode_head.conv_seg.weight"][:2]
    options = {
        "pyramid_channels": shapes["neck.fpn_convs.0.conv.weight"][0],
        "channels": channels,
        "norm": "batch",
    }
    return ModelSpec(f"semantic_fpn_{mmseg_backbone(shapes)}", mmseg_in_channels(shapes), classes, options)


def _detectron2_spec(shapes: Shapes, config: Config) -> ModelSpec:
    own = {_bottom_up(key): shape for key, shape in shapes.items()}
    backbone = require_resnet(own, "encoder.", source="Detectron2")
    classes, channels = shapes["sem_seg_head.predictor.weight"][:2]
    options = {
        "pyramid_channels": shapes["backbone.fpn_output2.weight"][0],
        "channels": channels,
        "dropout": 0.0,
    }
    return ModelSpec(f"semantic_fpn_{backbone}_caffe", own["encoder.conv1.weight"][1], classes, options)


def _smp_spec(shapes: Shapes, config: Config) -> ModelSpec:
    expected = {"encoder_depth": 5, "decoder_interpolation": "nearest", "upsampling": 4}
    for field, value in expected.items():
        if config.get(field, value) != value:
            raise UserError(
                f"This smp FPN was built with {field}={config[field]!r} (its config.json); only {value!r} can be read."
            )
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
    return ModelSpec(f"semantic_fpn_{smp_backbone(shapes, config)}", smp_in_channels(shapes, config), classes, options)


def _bottom_up(key: str) -> str:
    """Detectron2's name of an array of the backbone -> ours; another's as it is."""
    found = re.fullmatch(r"backbone\.bottom_up\.(.+)", key)
    return f"encoder.{detectron2_name(found[1])}" if found else key


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
        lambda key: None if left_out_by(_DETECTRON2_OUT, key) else rewrite(_bottom_up(key), _DETECTRON2),
        _DETECTRON2_OUT,
        preprocessing=DETECTRON2_PREPROCESSING,
        licence="CC BY-SA 3.0 (Detectron2 model zoo)",
        notes=(
            "Read as Detectron2's zoo has it: BGR images, the stride in the first 1x1 convolution (STRIDE_IN_1X1). A "
            "backbone from torchvision's weights would differ in both, which the arrays do not show.",
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
        space={19: "cityscapes", 150: "ade20k"},
        licence="Apache-2.0 (mmsegmentation); the data sets it was trained on have terms of their own",
    ),
    Published(
        "smp",
        "semantic_fpn",
        lambda shapes: {"decoder.p5.weight", "decoder.seg_blocks.0.block.0.block.0.weight"} <= shapes.keys(),
        _smp_spec,
        lambda key: rewrite(key, _SMP),
    ),
)
