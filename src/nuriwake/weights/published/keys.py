"""Keys and shapes of published files: rules that rename them, and which of our backbones they hold."""

import re
from collections.abc import Mapping

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.resnet import DEPTHS
from nuriwake.weights.published.base import Shapes

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


def or_of_others(licence: str) -> str:
    """`licence` of a source's own files, and what counts for all others of the same arrays: fine-tuned ones look alike."""
    return f"{licence}; files that others trained have the licence of whoever trained them"


MMSEG_LICENCE = or_of_others("Apache-2.0 (mmsegmentation); the data sets it was trained on have terms of their own")
