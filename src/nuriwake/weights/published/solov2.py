"""Published SOLOv2 files of mmdetection, whole and light."""

import re

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import Config, Published, Shapes
from nuriwake.weights.published.keys import Rules, or_of_others, require_resnet, rewrite

_RULES: Rules = (
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"pyramid.lateral.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"pyramid.smooth.\1.\2"),
    *(
        (rf"mask_head\.{theirs}_convs\.(\d)\.{part}\.(\w+)", rf"head.{ours}.\1.{place}.\2")
        for theirs, ours in (("cls", "category"), ("kernel", "kernel"))
        for place, part in enumerate(("conv", "gn"))
    ),
    (r"mask_head\.conv_cls\.(\w+)", r"head.classify.\1"),
    (r"mask_head\.conv_kernel\.(\w+)", r"head.predict.\1"),
    *(
        rule
        for place, part in enumerate(("conv", "gn"))
        for rule in (
            (
                rf"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv(\d)\.{part}\.(\w+)",
                rf"mask_branch.levels.\1.units.\2.{place}.\3",
            ),
            (rf"mask_head\.mask_feature_head\.conv_pred\.{part}\.(\w+)", rf"mask_branch.merge.{place}.\1"),
        )
    ),
    (r"backbone\.(.+)", r"encoder.\1"),
)


def _recognise(shapes: Shapes) -> bool:
    return {"mask_head.conv_kernel.weight", "mask_head.mask_feature_head.conv_pred.conv.weight"} <= shapes.keys()


def _spec(shapes: Shapes, config: Config) -> ModelSpec:
    if any(".conv_offset." in key for key in shapes):
        raise UserError("It has deformable convolutions (mmdetection's 'dcn' files), which we do not have.")
    backbone = require_resnet(shapes, "backbone.", source="mmdetection")
    classes, channels = shapes["mask_head.conv_cls.weight"][:2]
    options = {
        "pyramid_channels": shapes["neck.fpn_convs.0.conv.weight"][0],
        "channels": channels,
        "convolutions": _convolutions(shapes),
        "mask_channels": shapes["mask_head.mask_feature_head.conv_pred.conv.weight"][1],
        "kernel_channels": shapes["mask_head.conv_kernel.weight"][0],
    }
    return ModelSpec(f"solov2_{backbone}", shapes["backbone.conv1.weight"][1], classes, options)


def _convolutions(shapes: Shapes) -> int:
    found = (re.match(r"mask_head\.cls_convs\.(\d)\.", key) for key in shapes)
    return len({each[1] for each in found if each})


def _preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
    light = _convolutions(shapes) < 4
    shortest, longest = (448, 768) if light else (800, 1333)
    rule = ResizeRule(shortest=shortest, longest=longest, rounding="half_up")
    return Preprocessing(resize=rule, padding="zero")


SOURCES: tuple[Published, ...] = (
    Published(
        "mmdet",
        "solov2",
        _recognise,
        _spec,
        lambda key: rewrite(key, _RULES),
        preprocessing=_preprocessing,
        space={80: "coco"},
        licence=or_of_others("Apache-2.0 (mmdetection); trained on COCO, whose images have terms of their own"),
        task="instance",
    ),
)
"""Every array is used."""
