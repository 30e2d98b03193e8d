"""What Mask R-CNN and Panoptic FPN have before their heads: padding, a backbone with frozen norms, a pyramid of five maps."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.boxes import Size
from nuriwake.models.fpn import FeaturePyramid, first_level

LEVELS = 4
"""Maps of the backbone, at strides 4 to 32."""


class Trunk(nn.Module):
    """Images (B, C, H, W) of any size -> maps (B, pyramid_channels, h_i, w_i) at strides 4, 8, 16, 32 and 64.

    The images are padded with zeros at the bottom and to the right, as published models of this kind are given them.

    Args:
        frozen_norm: the backbone's batch norms keep their statistics and weights while training, since batches of a few
            large images have no good statistics. For backbones with pretrained weights.
        epsilon: of the backbone's batch norms.
        norm: batch norms in the pyramid.

    Raises:
        UserError: the backbone has no maps at the strides 4, 8, 16 and 32.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        backbone: str,
        backbone_weights: str | Path | None,
        pyramid_channels: int,
        frozen_norm: bool,
        epsilon: float,
        norm: bool,
        architecture: str,
    ) -> None:
        super().__init__()
        self.encoder: Backbone = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.first = first_level(backbone, self.encoder.strides, architecture)
        if len(self.encoder.strides) - self.first != LEVELS:
            raise UserError(
                f"A {architecture} needs a backbone with maps at the strides 4, 8, 16 and 32; '{backbone}' has "
                f"{self.encoder.strides}."
            )
        self.pyramid = FeaturePyramid(self.encoder.channels[self.first :], pyramid_channels, norm=norm, coarsest=True)
        self.frozen_norm = frozen_norm
        for part in _norms(self.encoder):
            part.eps = epsilon
            part.requires_grad_(requires_grad=not frozen_norm)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Size]:
        """The maps, and (height, width) of the padded images."""
        height, width = images.shape[-2:]
        multiple = self.encoder.strides[-1]
        images = functional.pad(images, (0, -width % multiple, 0, -height % multiple))
        return self.pyramid(self.encoder(images)[self.first :]), (images.shape[-2], images.shape[-1])

    def train(self, mode: bool = True) -> "Trunk":
        """As PyTorch's; frozen norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norm:
            for part in _norms(self.encoder):
                part.eval()
        return self


def _norms(module: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    # Training on several GPUs puts synchronised norms, which are no BatchNorm2d, in their places.
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm)]
