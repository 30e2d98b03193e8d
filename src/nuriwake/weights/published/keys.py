"""Keys and shapes of published files: rules that rename them, and which of our backbones they hold."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models.backbones.resnet import DEPTHS
from nuriwake.weights.published.base import IMAGENET, Config, Shapes

GROUPED: Mapping[tuple[int, int, int], str] = {
    (50, 128, 4): "resnext50_32x4d",
    (101, 256, 8): "resnext101_32x8d",
}
"""(depth, channels, channels per group) of the first 3x3 convolution -> name."""

Rules = tuple[tuple[str, str], ...]
"""(regular expression for a whole published key, our key with its groups as in `re.Match.expand`)."""


def rewrite(key: str, rules: Rules) -> str:
    """`key` by the first rule that fits; as it is where none does, so that strict loading names it."""
    for pattern, ours in rules:
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(ours)
    return key


def left_out_by(rules: Mapping[str, str], key: str) -> bool:
    """Whether a pattern of `rules` ({regular expression: why}) matches the whole `key`."""
    return any(re.fullmatch(pattern, key) for pattern in rules)


def resnet_name(shapes: Shapes, prefix: str) -> str | None:
    """The plain name ("resnet50") of the ResNet whose arrays lie, under torchvision's names, behind `prefix`; None when
    they are of no depth and width that we have."""
    start, counts = re.escape(prefix), list[int]()
    for stage in range(1, 5):
        found = (re.match(rf"{start}layer{stage}\.(\d+)\.", key) for key in shapes)
        counts.append(len({each[1] for each in found if each}))
    narrow = f"{prefix}layer1.0.conv3.weight" not in shapes
    depth = next((key for key, blocks in DEPTHS.items() if blocks == tuple(counts) and (key < 50) == narrow), None)
    if depth is None:
        return None
    channels, group = shapes.get(f"{prefix}layer1.0.conv2.weight", (0, 0))[:2]
    return f"resnet{depth}" if (channels, group) == (64, 64) else GROUPED.get((depth, channels, group))


def require_resnet(shapes: Shapes, prefix: str, *, source: str) -> str:
    """`resnet_name`. Raises UserError when there is none."""
    name = resnet_name(shapes, prefix)
    if name is None:
        raise UserError(
            f"The backbone of this {source} file is no ResNet of {', '.join(map(str, DEPTHS))} layers, nor a ResNeXt "
            "50 32x4d or 101 32x8d; the files of other backbones cannot be read."
        )
    return name


def mmseg_backbone(shapes: Shapes) -> str:
    """The backbone of an mmsegmentation file: "resnet50_v1c" where it has the deep stem ("R50"), else "resnet50" ("R50b").

    Raises:
        UserError: another backbone.
    """
    if any(key.startswith("backbone.encoder.") for key in shapes):
        raise UserError(
            "This mmsegmentation file has the head of another architecture over a U-Net; U-Nets with their own head (FCN) can "
            "be read."
        )
    name = require_resnet(shapes, "backbone.", source="mmsegmentation")
    if "backbone.stem.0.weight" in shapes:
        return f"{name}_v1c"
    # Only blocks of two 3x3 convolutions dilate otherwise than torchvision's.
    return f"{name}_v1b" if name in ("resnet18", "resnet34") else name


def mmseg_in_channels(shapes: Shapes) -> int:
    """How many channels the images of an mmsegmentation file's ResNet have."""
    deep = "backbone.stem.0.weight"
    return shapes[deep if deep in shapes else "backbone.conv1.weight"][1]


def smp_in_channels(shapes: Shapes, config: Config) -> int:
    """How many channels the images of a segmentation_models_pytorch file's encoder have."""
    for key in ("encoder.conv1.weight", "encoder.features.0.0.weight"):
        if key in shapes:
            return shapes[key][1]
    return int(config.get("in_channels", 3))


def smp_backbone(shapes: Shapes, config: Config, *, depth: int = 5) -> str:
    """The backbone of a segmentation_models_pytorch file: from `config.json` where there is one, else from the arrays.

    Args:
        depth: how many of its stages are used; the name is for a model that does not dilate them.

    Raises:
        UserError: an encoder that we do not have.
    """
    if any(key.startswith("encoder.features.18.") for key in shapes):
        return "mobilenet_v2_1280" if depth == 5 else "mobilenet_v2"
    name = resnet_name(shapes, "encoder.")
    if name is not None:
        return name
    given = str(config.get("encoder_name", ""))
    if given.startswith("tu-"):
        return given.removeprefix("tu-")
    found = f"'{given}'" if given else "not a ResNet nor MobileNetV2, and there is no config.json to name it"
    raise UserError(
        f"The encoder of this segmentation_models_pytorch file is {found}; files with a ResNet, a ResNeXt, MobileNetV2 or "
        "a timm encoder (tu-..., with its config.json) can be read."
    )


def smp_preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
    """As smp's `get_preprocessing_params` has it for the encoder in `config.json`: timm's encoders (tu-...) by timm's
    configuration of their weights, those with torchvision's names by ImageNet's mean and deviation."""
    known = _timm_normalisation(config)
    return IMAGENET if known is None else replace(IMAGENET, mean=known[0], deviation=known[1])


def smp_notes(config: Config, options: Mapping[str, Any]) -> tuple[str, ...]:
    """A note where `smp_preprocessing` has nothing to go by."""
    if _timm_normalisation(config) is not None:
        return ()
    return (
        "The file does not say how images were prepared; of three channels, ImageNet's mean and deviation are taken.",
    )


def _timm_normalisation(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, deviation) of RGB scaled to 0..1, as timm registers them for the encoder's weights; None where it has none."""
    import timm

    name = str(config.get("encoder_name", ""))
    if not name.startswith("tu-"):
        return None
    try:
        found = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    except RuntimeError:  # the architecture has no weights of this tag
        return None
    if found is None or len(found.mean) != 3 or len(found.std) != 3:
        return None
    return tuple(map(float, found.mean)), tuple(map(float, found.std))


SMP_ENCODER: Rules = ((r"encoder\.model\.(.+)", r"encoder.body.\1"), (r"(encoder\..+)", r"\1"))
"""Arrays of segmentation_models_pytorch's encoders: timm's lie in `body`, the others have torchvision's names, as ours."""
