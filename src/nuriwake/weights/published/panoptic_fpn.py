"""Published Panoptic FPNs: Detectron2's."""

from typing import Any

from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import detectron2
from nuriwake.weights.published.base import Config, Published, Shapes
from nuriwake.weights.published.keys import rewrite


def _spec(shapes: Shapes, config: Config) -> ModelSpec:
    backbone, in_channels = detectron2.backbone_of(shapes, config)
    things = shapes["roi_heads.mask_head.predictor.weight"][0]
    kinds, channels = shapes["sem_seg_head.predictor.weight"][:2]
    options = {
        "things": list(range(things)),
        "regions": detectron2.region_options(shapes, config),
        "pyramid_channels": shapes["backbone.fpn_output2.weight"][0],
        "semantic_channels": channels,
        "frozen_norm": True,
    }
    # The first output of the semantic head stands for any thing.
    return ModelSpec(f"panoptic_fpn_{backbone}", in_channels, things + kinds - 1, options)


def _key(key: str) -> str | None:
    if detectron2.left_out(key):
        return None
    rules = (*detectron2.TRUNK, *detectron2.REGIONS, *detectron2.SEMANTIC_HEAD)
    return rewrite(detectron2.bottom_up(key, "trunk.encoder."), rules)


def _decoding(shapes: Shapes, config: Config) -> dict[str, Any]:
    names = {
        "score_threshold": ("INSTANCES_CONFIDENCE_THRESH", 0.5),
        "overlap_threshold": ("OVERLAP_THRESH", 0.5),
        "stuff_area": ("STUFF_AREA_LIMIT", 4096),
    }
    combine = "MODEL.PANOPTIC_FPN.COMBINE"
    return {ours: detectron2.value_of(config, f"{combine}.{name}", usual) for ours, (name, usual) in names.items()}


SOURCES: tuple[Published, ...] = (
    Published(
        "detectron2",
        "panoptic_fpn",
        lambda shapes: {"sem_seg_head.predictor.weight", "roi_heads.mask_head.predictor.weight"} <= shapes.keys(),
        _spec,
        _key,
        detectron2.LEFT_OUT,
        preprocessing=detectron2.preprocessing,
        space={133: "coco"},
        licence=detectron2.LICENCE,
        notes=(detectron2.NOTE,),
        task="panoptic",
        decoding=_decoding,
    ),
)
