"""Backbones: images to feature maps from high to low resolution. `BACKBONES` are ours; any other name is timm's."""

from dataclasses import dataclass
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean, import_object
from nuriwake.models.backbones.base import Backbone


@dataclass(frozen=True)
class BackboneEntry:
    """One of our own backbones.

    Attributes:
        build: "module:name" of `(in_channels, *, output_stride) -> Backbone`.
        summary: one line for `nuriwake models`.
        published: https address or Hugging Face id of its weights, what "pretrained" means; None when there are none.
        licence: of these weights.
    """

    build: str
    summary: str
    published: str | None = None
    licence: str | None = None


_MOBILENET_V2 = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"

BACKBONES: dict[str, BackboneEntry] = {
    "mobilenet_v2": BackboneEntry(
        "nuriwake.models.backbones.mobilenet_v2:mobilenet_v2",
        "MobileNetV2 without its last 1x1 convolution (320 channels): small and fast on a CPU",
        _MOBILENET_V2,
        "BSD-3-Clause (torchvision; trained on ImageNet)",
    ),
    "mobilenet_v2_1280": BackboneEntry(
        "nuriwake.models.backbones.mobilenet_v2:mobilenet_v2_1280",
        "MobileNetV2 with its last 1x1 convolution (1280 channels), as segmentation_models_pytorch takes it",
        _MOBILENET_V2,
        "BSD-3-Clause (torchvision; trained on ImageNet)",
    ),
}


def build_backbone(
    name: str, *, in_channels: int, weights: str | Path | None = None, output_stride: int = 32
) -> Backbone:
    """The backbone `name` for images of `in_channels` channels.

    Args:
        name: a key of `BACKBONES`, or any timm model with feature maps.
        weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id; see `weights.weights_file`.
        output_stride: 32, or 16 or 8 where the backbone can be dilated.

    Raises:
        UserError: no such backbone (did you mean), or weights that do not fit.
        RunError: weights by name, and no network.
    """
    from nuriwake.models.backbones.timm import TimmBackbone, hub_id
    from nuriwake.models.backbones.weights import load_backbone, weights_file
    from nuriwake.models.state import read_state

    check_backbone(name)
    entry = BACKBONES.get(name)
    if entry is not None:
        backbone: Backbone = import_object(entry.build)(in_channels, output_stride=output_stride)
    else:
        backbone = TimmBackbone(name, in_channels, output_stride=output_stride)
    if weights is not None:
        file = weights_file(weights, published=entry.published if entry else hub_id(name), who=name)
        load_backbone(backbone, read_state(file), file=file, who=name)
    return backbone


def check_backbone(name: str) -> None:
    """Raise a UserError that names the nearest one when there is no backbone `name`."""
    if name in BACKBONES:
        return
    from nuriwake.models.backbones.timm import timm_names

    if name.split(".")[0] not in timm_names():
        raise UserError(f"There is no backbone '{name}'.{did_you_mean(name, [*BACKBONES, *timm_names()])}")


__all__ = ["BACKBONES", "Backbone", "BackboneEntry", "build_backbone", "check_backbone"]
