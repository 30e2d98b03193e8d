"""Published Mask R-CNNs over a pyramid: torchvision (version 1 and 2) and Detectron2."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.serial import to_plain
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.region_settings import RegionSettings
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import detectron2
from nuriwake.weights.published.base import Config, Published, Shapes
from nuriwake.weights.published.keys import Rules, or_of_others, require_resnet, rewrite

_TORCHVISION: Rules = (
    *(
        (rf"backbone\.fpn\.{theirs}_blocks\.(\d(?:\.[01])?)\.(\w+)", rf"trunk.pyramid.{ours}.\1.\2")
        for theirs, ours in (("inner", "lateral"), ("layer", "smooth"))
    ),
    (r"backbone\.body\.(.+)", r"trunk.encoder.\1"),
    (r"rpn\.head\.conv\.(\d)\.0\.(\w+)", r"regions.proposal_head.convolutions.\1.\2"),
    (r"rpn\.head\.conv\.(\w+)", r"regions.proposal_head.convolutions.0.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"regions.proposal_head.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"regions.proposal_head.offsets.\1"),
    (r"roi_heads\.box_head\.fc6\.(\w+)", r"regions.box_head.dense.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(\w+)", r"regions.box_head.dense.1.\1"),
    (r"roi_heads\.box_head\.([0-3])\.([01])\.(\w+)", r"regions.box_head.convolutions.\1.\2.\3"),
    (r"roi_heads\.box_head\.5\.(\w+)", r"regions.box_head.dense.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"regions.box_head.classify.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"regions.box_head.offsets.\1"),
    (r"roi_heads\.mask_head\.([0-3])\.([01])\.(\w+)", r"regions.mask_head.convolutions.\1.\2.\3"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{n + 1}\.(\w+)", rf"regions.mask_head.convolutions.{n}.0.\1")
        for n in range(4)
    ),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", r"regions.mask_head.enlarge.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", r"regions.mask_head.classify.\1"),
)
COCO_NUMBERS = 91
"""COCO numbers its 80 classes from 1 to 90, with gaps, and torchvision's models have an output for every number."""

_GAPS: tuple[int, ...] = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)

_RESIZE = ResizeRule(shortest=800, longest=1333, rounding="down")


def torchvision_rows(outputs: int) -> tuple[list[int], list[int]]:
    """Of `outputs` classes as torchvision counts them (background first): the real ones, and the numbers without a class."""
    gaps = list(_GAPS) if outputs == COCO_NUMBERS else []
    return [row for row in range(1, outputs) if row not in gaps], gaps


def _torchvision_spec(shapes: Shapes, config: Config) -> ModelSpec:
    backbone = require_resnet(shapes, "backbone.body.", source="torchvision")
    real, gaps = torchvision_rows(shapes["roi_heads.box_predictor.cls_score.weight"][0])
    if not real:
        raise UserError("This torchvision Mask R-CNN has no class besides background.")
    deeper = "roi_heads.box_head.0.0.weight" in shapes
    counted = "backbone.body.bn1.num_batches_tracked" in shapes
    options: dict[str, Any] = {
        "style": "torchvision_v2" if deeper else "torchvision",
        "regions": to_plain(
            RegionSettings(
                training_proposals=2000,
                box_width=shapes["roi_heads.box_predictor.cls_score.weight"][1],
                mask_channels=shapes["roi_heads.mask_predictor.conv5_mask.weight"][0],
            )
        ),
        "pyramid_channels": shapes["rpn.head.cls_logits.weight"][1],
        "frozen_norm": not counted,
        "epsilon": 1e-5 if counted else 0.0,
        "unused_classes": len(gaps),
    }
    return ModelSpec(f"mask_rcnn_{backbone}", shapes["backbone.body.conv1.weight"][1], len(real), options)


def _torchvision_key(key: str) -> str:
    return rewrite(key, _TORCHVISION)


def _torchvision_arrange(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pyramid's convolutions bare where no batch norm follows them: torchvision wrapped them once more in 2022, after
    its files of version 1 were published."""
    if "backbone.fpn.inner_blocks.0.1.weight" in arrays:
        return arrays
    return {
        key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if _wrapped(key) else key: item
        for key, item in arrays.items()
    }


def _wrapped(key: str) -> bool:
    return key.startswith(("backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks.")) and key.count(".") == 5


def _torchvision_transform(key: str, item: Tensor) -> Tensor:
    """Our order of classes: the real ones, numbers without a class, background. Boxes and masks have the real ones alone."""
    if key.startswith("regions.box_head.classify."):
        real, gaps = torchvision_rows(len(item))
        return item[[*real, *gaps, 0]]
    if key.startswith("regions.box_head.offsets."):
        return item.unflatten(0, (-1, 4))[torchvision_rows(len(item) // 4)[0]].flatten(0, 1)
    if key.startswith("regions.mask_head.classify."):
        return item[torchvision_rows(len(item))[0]]
    return item


def _detectron2_spec(shapes: Shapes, config: Config) -> ModelSpec:
    backbone, in_channels = detectron2.backbone_of(shapes, config)
    options = {
        "regions": detectron2.region_options(shapes, config),
        "pyramid_channels": shapes["backbone.fpn_output2.weight"][0],
        "frozen_norm": True,
    }
    return ModelSpec(f"mask_rcnn_{backbone}", in_channels, shapes["roi_heads.mask_head.predictor.weight"][0], options)


def _detectron2_key(key: str) -> str | None:
    if detectron2.left_out(key):
        return None
    return rewrite(detectron2.bottom_up(key, "trunk.encoder."), (*detectron2.TRUNK, *detectron2.REGIONS))


def _detectron2_recognise(shapes: Shapes) -> bool:
    own = {"backbone.fpn_lateral2.weight", "roi_heads.mask_head.predictor.weight"}
    return own <= shapes.keys() and "sem_seg_head.predictor.weight" not in shapes


SOURCES: tuple[Published, ...] = (
    Published(
        "torchvision",
        "mask_rcnn",
        lambda shapes: (
            {"rpn.head.cls_logits.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"} <= shapes.keys()
        ),
        _torchvision_spec,
        _torchvision_key,
        preprocessing=Preprocessing(resize=_RESIZE, padding="zero"),
        space={80: "coco"},
        licence=or_of_others(
            "BSD-3-Clause (torchvision); COCO's photographs, which it was trained on, have terms of their own"
        ),
        notes=(
            "The order of classes became ours: background last; its boxes and masks, which nothing reads, are left out. Of "
            "91 outputs, COCO's 80 classes are answered; the numbers without a class take part in the softmax alone.",
            "A file without counters of batches has frozen batch norms; like torchvision's published weights, these are "
            "read with an epsilon of 0.",
        ),
        transform=_torchvision_transform,
        arrange=_torchvision_arrange,
        task="instance",
        decoding={"paste": "torchvision"},
    ),
    Published(
        "detectron2",
        "mask_rcnn",
        _detectron2_recognise,
        _detectron2_spec,
        _detectron2_key,
        detectron2.LEFT_OUT,
        preprocessing=detectron2.preprocessing,
        space={80: "coco"},
        licence=detectron2.LICENCE,
        notes=(detectron2.NOTE,),
        task="instance",
    ),
)
