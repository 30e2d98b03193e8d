"""What Detectron2's models over a pyramid have in common: the names of their arrays, and what their configuration says."""

import re
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.serial import to_plain
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.backbones.resnet import detectron2_name
from nuriwake.models.region_settings import RegionSettings
from nuriwake.weights.published.base import Config, Shapes
from nuriwake.weights.published.keys import Rules, left_out_by, or_of_others, require_resnet

LICENCE = or_of_others("CC BY-SA 3.0 (Detectron2 model zoo)")

LEFT_OUT = {
    r"pixel_(mean|std)": "what preprocessing subtracts and divides by, kept there",
    r"proposal_generator\.anchor_generator\.cell_anchors\.\d+": "anchors, made from their sizes",
}

NOTE = (
    "Without a config.yaml beside it, read as Detectron2's zoo has it: BGR images, the stride in the first 1x1 convolution "
    "(STRIDE_IN_1X1). A backbone from torchvision's weights would differ in both, which the arrays do not show."
)

# Detectron2 counts levels by stride, 2**2 to 2**5; ours are counted from 0.
PYRAMID: Rules = (
    *((rf"backbone\.fpn_lateral{level + 2}\.(\w+)", rf"pyramid.lateral.{level}.\1") for level in range(4)),
    *((rf"backbone\.fpn_output{level + 2}\.(\w+)", rf"pyramid.smooth.{level}.\1") for level in range(4)),
)
SEMANTIC_HEAD: Rules = (
    *(
        (rf"sem_seg_head\.p{level + 2}\.{2 * unit}\.{part}(\w+)", rf"head.levels.{level}.units.{unit}.{place}.\1")
        for level in range(4)
        for unit in range(3)
        for place, part in ((1, r"norm\."), (0, ""))
    ),
    (r"sem_seg_head\.predictor\.(\w+)", r"head.classify.\1"),
)
TRUNK: Rules = tuple((pattern, f"trunk.{ours}") for pattern, ours in PYRAMID)
REGIONS: Rules = (
    (r"proposal_generator\.rpn_head\.conv\.(\w+)", r"regions.proposal_head.convolutions.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"regions.proposal_head.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"regions.proposal_head.offsets.\1"),
    *((rf"roi_heads\.box_head\.fc{n + 1}\.(\w+)", rf"regions.box_head.dense.{n}.\1") for n in range(2)),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"regions.box_head.classify.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"regions.box_head.offsets.\1"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{n + 1}\.(\w+)", rf"regions.mask_head.convolutions.{n}.0.\1")
        for n in range(4)
    ),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", r"regions.mask_head.enlarge.\1"),
    (r"roi_heads\.mask_head\.predictor\.(\w+)", r"regions.mask_head.classify.\1"),
)


def bottom_up(key: str, prefix: str = "encoder.") -> str:
    """Detectron2's name of an array of the backbone -> ours behind `prefix`; another's as it is."""
    found = re.fullmatch(r"backbone\.bottom_up\.(.+)", key)
    return f"{prefix}{detectron2_name(found[1])}" if found else key


def left_out(key: str) -> bool:
    """Whether `LEFT_OUT` gives a reason."""
    return left_out_by(LEFT_OUT, key)


def backbone_of(shapes: Shapes, config: Config) -> tuple[str, int]:
    """The name of the backbone ("resnet50_caffe"), and how many channels its images have."""
    own = {bottom_up(key): shape for key, shape in shapes.items()}
    name = require_resnet(own, "encoder.", source="Detectron2")
    return (f"{name}_caffe" if stride_in_first(config) else name), own["encoder.conv1.weight"][1]


def stride_in_first(config: Config) -> bool:
    """Whether a bottleneck's stride lies in its first convolution; true without a configuration."""
    return bool(value_of(config, "MODEL.RESNETS.STRIDE_IN_1X1", True))


def preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
    """What the configuration says of images; without one, the zoo's default for its backbones from Caffe."""
    require(config, COMMON)
    mean = value_of(config, "MODEL.PIXEL_MEAN", (103.53, 116.28, 123.675))
    deviation = value_of(config, "MODEL.PIXEL_STD", (1.0, 1.0, 1.0))
    order = str(value_of(config, "INPUT.FORMAT", "BGR")).lower()
    if order not in ("bgr", "rgb"):
        raise UserError(f"Detectron2 configuration: INPUT.FORMAT is {order.upper()}; BGR and RGB can be read.")
    shortest, longest = (
        value_of(config, f"INPUT.{name}_SIZE_TEST", size) for name, size in (("MIN", 800), ("MAX", 1333))
    )
    return Preprocessing(
        channels=len(mean),
        mean=tuple(float(value) / 255 for value in mean),
        deviation=tuple(float(value) / 255 for value in deviation),
        order="bgr" if order == "bgr" else "rgb",
        resize=ResizeRule(shortest=int(shortest), longest=int(longest), interpolation="antialiased", rounding="half_up")
        if shortest
        else None,
        padding="zero",
    )


COMMON: dict[str, tuple[Any, ...]] = {
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.FPN.NORM": ("",),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN",),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4,),
}
"""Dotted name in a configuration -> the values that can be read."""

OF_REGIONS: dict[str, tuple[Any, ...]] = {
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0, 0.0),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([1.0] * 4,),
    "MODEL.RPN.CONV_DIMS": ([-1], [256]),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2",),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (7,),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (0,),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ([10.0, 10.0, 5.0, 5.0],),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2",),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": (14,),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": (0,),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
}


def region_options(shapes: Shapes, config: Config) -> dict[str, Any]:
    """The option `regions` of our models, as the configuration says.

    Raises:
        UserError: it says something that our model does not do.
    """
    require(config, OF_REGIONS)
    usual = RegionSettings()
    sizes = value_of(config, "MODEL.ANCHOR_GENERATOR.SIZES", [[size] for size in usual.anchor_sizes])
    ratios = value_of(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [list(usual.anchor_ratios)])
    if any(len(level) != 1 for level in sizes) or any(level != ratios[0] for level in ratios):
        raise UserError(
            "Detectron2 configuration: MODEL.ANCHOR_GENERATOR has several sizes per level, or other ratios on each; one "
            "size per level and the same ratios everywhere can be read."
        )
    names = {
        "candidates": "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "proposals": "MODEL.RPN.POST_NMS_TOPK_TEST",
        "training_candidates": "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
        "training_proposals": "MODEL.RPN.POST_NMS_TOPK_TRAIN",
        "proposal_overlap": "MODEL.RPN.NMS_THRESH",
        "score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "nms_threshold": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "detections": "TEST.DETECTIONS_PER_IMAGE",
        "sampled_anchors": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
        "sampled_regions": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    }
    found = {field: value_of(config, name, getattr(usual, field)) for field, name in names.items()}
    found["box_width"] = shapes["roi_heads.box_predictor.cls_score.weight"][1]
    found["mask_channels"] = shapes["roi_heads.mask_head.deconv.weight"][0]
    sizes = [float(level[0]) for level in sizes]
    return to_plain(usual) | found | {"anchor_sizes": sizes, "anchor_ratios": list(map(float, ratios[0]))}


def require(config: Config, accepted: dict[str, tuple[Any, ...]]) -> None:
    """Raises a UserError naming the first field of `config` with a value that is not `accepted`."""
    for name, values in accepted.items():
        found = value_of(config, name, values[0])
        if found not in values:
            known = " or ".join(repr(value) for value in values)
            raise UserError(f"Detectron2 configuration: {name} is {found!r}; only {known} can be read.")


def value_of(config: Config, dotted: str, default: Any) -> Any:
    """The value in nested mappings at a dotted name, tuples as lists; `default` where the configuration has none."""
    value: Any = config
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return list(value) if isinstance(value, tuple) else value
