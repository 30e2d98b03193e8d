"""Published YOLACT files (Bolya et al. 2019): plain state dicts of the authors' repository."""

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import Config, Published, Shapes
from nuriwake.weights.published.keys import Rules, left_out_by, or_of_others, require_resnet, rewrite

# The authors count the pyramid's convolutions from the deepest map, we from the finest.
_RULES: Rules = (
    (r"backbone\.((?:conv1|bn1)\..+)", r"encoder.\1"),
    *((rf"backbone\.layers\.{stage}\.(.+)", rf"encoder.layer{stage + 1}.\1") for stage in range(4)),
    *((rf"fpn\.lat_layers\.{2 - level}\.(\w+)", rf"pyramid.lateral.{level}.\1") for level in range(3)),
    *((rf"fpn\.pred_layers\.{2 - level}\.(\w+)", rf"pyramid.smooth.{level}.\1") for level in range(3)),
    (r"fpn\.downsample_layers\.(\d)\.(\w+)", r"pyramid.extra.\1.\2"),
    *((rf"proto_net\.{place}\.(\w+)", rf"prototypes.before.{place // 2}.\1") for place in (0, 2, 4)),
    (r"proto_net\.8\.(\w+)", r"prototypes.after.\1"),
    (r"proto_net\.10\.(\w+)", r"prototypes.project.\1"),
    (r"prediction_layers\.0\.upfeature\.0\.(\w+)", r"head.shared.\1"),
    (r"prediction_layers\.0\.conf_layer\.(\w+)", r"head.classify.\1"),
    (r"prediction_layers\.0\.bbox_layer\.(\w+)", r"head.offset.\1"),
    (r"prediction_layers\.0\.mask_layer\.(\w+)", r"head.weigh.\1"),
    (r"semantic_seg_conv\.(\w+)", r"semantic.\1"),
)
_OUT = {
    r"backbone\.layer\d?\..+": "a second copy of the backbone, which files of version 1.0 have",
    r"fpn\.downsample_layers\.[2-9]\..+": "a map that never ran, which files of version 1.0 have",
}

PREPROCESSING = Preprocessing(
    mean=(123.68 / 255, 116.78 / 255, 103.94 / 255),
    deviation=(58.40 / 255, 57.12 / 255, 57.38 / 255),
    resize=ResizeRule(exact=(550, 550)),
    padding="zero",
)
"""The authors state mean and deviation in the order blue, green, red, and give the network red, green, blue."""

PASCAL_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
"""Of the priors of the authors' Pascal model."""


def _spec(shapes: Shapes, config: Config) -> ModelSpec:
    if any(".conv_offset_mask." in key or key.startswith("maskiou_net.") for key in shapes):
        raise UserError(
            "This is a YOLACT++ file: its deformable convolutions and mask scoring cannot be read; YOLACT files can."
        )
    own = {_backbone_key(key): shape for key, shape in shapes.items()}
    backbone = require_resnet(own, "encoder.", source="YOLACT")
    priors = shapes["prediction_layers.0.bbox_layer.weight"][0] // 4
    classes = shapes["prediction_layers.0.conf_layer.weight"][0] // priors - 1
    if priors != 3:
        raise UserError(
            f"This YOLACT file has {priors} priors per cell; those of the published models, 3, can be read."
        )
    options = {
        "pyramid_channels": shapes["fpn.lat_layers.0.weight"][0],
        "prototypes": shapes["proto_net.10.weight"][0],
        "square_priors": classes != 20,
        **({"prior_sizes": PASCAL_SIZES} if classes == 20 else {}),
    }
    return ModelSpec(f"yolact_{backbone}", own["encoder.conv1.weight"][1], classes, options)


def _backbone_key(key: str) -> str:
    """The published name of an array of the backbone under torchvision's names behind "encoder."; another's as it is."""
    return rewrite(key, _RULES) if key.startswith("backbone.") else key


SOURCES: tuple[Published, ...] = (
    Published(
        "yolact",
        "yolact",
        lambda shapes: {"proto_net.0.weight", "prediction_layers.0.bbox_layer.weight"} <= shapes.keys(),
        _spec,
        lambda key: None if left_out_by(_OUT, key) else rewrite(key, _RULES),
        _OUT,
        preprocessing=PREPROCESSING,
        space={80: "coco", 20: "voc"},
        licence=or_of_others(
            "MIT (YOLACT's authors); COCO's photographs, which it was trained on, have terms of their own"
        ),
        notes=(
            "The file does not say its priors and its size: those of the authors' models for 550x550 pixels are taken "
            "(with 20 classes of their Pascal model). Their models for 400 and 700 pixels want that size in the "
            "preprocessing.",
        ),
        task="instance",
    ),
)
