"""Panoptic FPN (Kirillov et al. 2019, arXiv:1901.02446): Mask R-CNN for the things and a label map for the stuff from one
pyramid, as Detectron2 builds it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone
from nuriwake.models.base import Model
from nuriwake.models.outputs import RegionPixelOutput, RegionPixelTraining, fit_logits
from nuriwake.models.region_settings import STYLES, RegionSettings, StyleName
from nuriwake.models.region_trunk import LEVELS, Trunk
from nuriwake.models.regions import RegionBranch
from nuriwake.models.semantic_fpn import GROUPS, SemanticHead
from nuriwake.models.truth import PanopticTruth


class PanopticFPN(Model):
    """Images -> regions of the things, and logits per pixel of the stuff (index 0: any thing). Images may have any size.

    Args:
        in_channels: of the images.
        classes: all classes, things and stuff.
        things: which of them are things, at least one; empty means all.
        semantic_channels: of the stuff's head, a multiple of 32.

    Others: see `MaskRCNN`.

    Raises:
        UserError: a thing that is no class, or the backbone does not do.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        things: tuple[int, ...] = (),
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        style: StyleName = "detectron2",
        regions: RegionSettings = RegionSettings(),  # noqa: B008  (frozen)
        pyramid_channels: int = 256,
        semantic_channels: int = 128,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.things = _checked(things or tuple(range(classes)), classes)
        if semantic_channels % GROUPS:
            raise UserError(
                f"'semantic_channels' of a Panoptic FPN is a multiple of {GROUPS}, found {semantic_channels}."
            )
        self.trunk = Trunk(
            in_channels,
            backbone=backbone,
            backbone_weights=backbone_weights,
            pyramid_channels=pyramid_channels,
            frozen_norm=frozen_norm,
            epsilon=1e-5,
            norm=STYLES[style].pyramid_norm,
            architecture="Panoptic FPN",
        )
        self.notes, self.classes = self.trunk.encoder.notes, classes
        self.regions = RegionBranch(pyramid_channels, len(self.things), style=STYLES[style], settings=regions)
        self.head = SemanticHead(pyramid_channels, 1 + classes - len(self.things), channels=semantic_channels)

    def forward(self, images: Tensor) -> RegionPixelOutput:
        """(B, in_channels, H, W) -> regions, and logits (B, 1 + stuff classes, h, w): at stride 4 where that divides the
        image's sides by 32, else at the image's size."""
        maps, padded = self.trunk(images)
        size = (images.shape[-2], images.shape[-1])
        regions = self.regions(maps, size, padded)
        labels = torch.tensor(self.things, device=images.device)[regions.labels]
        return RegionPixelOutput(regions._replace(labels=labels), self._logits(maps, size, padded))

    def forward_training(self, images: Tensor, truth: PanopticTruth) -> RegionPixelTraining:
        """What the loss compares; see `MaskRCNN.forward_training`. Things alone are regions."""
        maps, padded = self.trunk(images)
        table = torch.full((self.classes,), -1, dtype=torch.int64, device=images.device)
        table[list(self.things)] = torch.arange(len(self.things), device=images.device)
        regions = self.regions.forward_training(maps, padded, truth.segments, table)
        return RegionPixelTraining(regions, self._logits(maps, (images.shape[-2], images.shape[-1]), padded))

    def _logits(self, maps: list[Tensor], size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        logits = self.head(maps[:LEVELS])
        # The padding is cut off where its border lies between the pixels of the image, as published.
        return logits if size == padded else fit_logits(logits, padded)[..., : size[0], : size[1]]

    def stages(self) -> list[nn.Module]:
        return [*self.trunk.encoder.stages(), self.trunk.pyramid, nn.ModuleList([self.regions, self.head])]

    def backbone(self) -> Backbone:
        return self.trunk.encoder


def _checked(things: tuple[int, ...], classes: int) -> tuple[int, ...]:
    if len(set(things)) != len(things) or not all(0 <= thing < classes for thing in things):
        raise UserError(f"'things' of a Panoptic FPN are classes, each once, 0 to {classes - 1}; found {things}.")
    return tuple(sorted(things))
