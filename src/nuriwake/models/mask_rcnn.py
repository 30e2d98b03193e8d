"""Mask R-CNN (He et al. 2017, arXiv:1703.06870) over a feature pyramid, as Detectron2 and torchvision build it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from nuriwake.models.backbones import Backbone
from nuriwake.models.base import Model
from nuriwake.models.outputs import RegionOutput, RegionTraining
from nuriwake.models.region_settings import STYLES, RegionSettings, StyleName
from nuriwake.models.region_trunk import Trunk
from nuriwake.models.regions import RegionBranch
from nuriwake.models.truth import ObjectTruth


class MaskRCNN(Model):
    """Images -> boxes with a class, a score and a mask each. Images may have any size.

    Which boxes are kept is part of the architecture, since the mask head runs on the kept ones: see `regions`.

    Args:
        in_channels: of the images.
        classes: real classes; background is added.
        backbone: any backbone with maps at the strides 4, 8, 16 and 32.
        backbone_weights: see `build_backbone`.
        style: whose details of anchors, RoIAlign and heads: "detectron2" (with aligned RoIAlign), "torchvision", or
            "torchvision_v2" (deeper heads with batch norms, Li et al. 2021).
        regions: numbers that can be chosen, thresholds among them.
        pyramid_channels: of the pyramid and the proposal head.
        frozen_norm: keep the backbone's batch norms as they are while training; for pretrained backbones.
        epsilon: of the backbone's batch norms; torchvision's published weights of version 1 were trained with 0.
        unused_classes: logits in the softmax that are never answered: numbers without a class in a published file.

    Raises:
        UserError: the backbone does not do.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        style: StyleName = "detectron2",
        regions: RegionSettings = RegionSettings(),  # noqa: B008  (frozen)
        pyramid_channels: int = 256,
        frozen_norm: bool = False,
        epsilon: float = 1e-5,
        unused_classes: int = 0,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(
            in_channels,
            backbone=backbone,
            backbone_weights=backbone_weights,
            pyramid_channels=pyramid_channels,
            frozen_norm=frozen_norm,
            epsilon=epsilon,
            norm=STYLES[style].pyramid_norm,
            architecture="Mask R-CNN",
        )
        self.notes = self.trunk.encoder.notes
        self.regions = RegionBranch(
            pyramid_channels, classes, style=STYLES[style], settings=regions, unused_classes=unused_classes
        )

    def forward(self, images: Tensor) -> RegionOutput:
        """(B, in_channels, H, W) -> what is found in each, in pixels of the input."""
        maps, padded = self.trunk(images)
        return self.regions(maps, (images.shape[-2], images.shape[-1]), padded)

    def forward_training(self, images: Tensor, truth: Sequence[ObjectTruth]) -> RegionTraining:
        """What the loss compares for anchors and regions drawn from PyTorch's global generator.

        Args:
            truth: of each image; crowd regions are neither found nor background.
        """
        maps, padded = self.trunk(images)
        return self.regions.forward_training(maps, padded, truth)

    def stages(self) -> list[nn.Module]:
        return [*self.trunk.encoder.stages(), self.trunk.pyramid, self.regions]

    def backbone(self) -> Backbone:
        return self.trunk.encoder
