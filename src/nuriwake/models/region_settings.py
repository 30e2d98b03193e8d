"""What a region-based model can be told, and in what published ones differ."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from nuriwake.core.errors import UserError

StyleName = Literal["detectron2", "torchvision", "torchvision_v2"]


@dataclass(frozen=True)
class RegionSettings:
    """How regions are proposed, chosen and taught. Defaults: Detectron2's for a pyramid (Base-RCNN-FPN.yaml).

    Args:
        anchor_sizes: side of the square anchor in pixels of the input, for the strides 4, 8, 16, 32 and 64.
        anchor_ratios: height / width of the anchors.
        candidates: the best anchors per level that become proposals before overlapping ones are left out.
        proposals: that are left per image, for all levels together.
        training_candidates, training_proposals: the same while training.
        proposal_overlap: of two proposals of a level that overlap more, the worse is left out.
        score_threshold: detections of a lower score are left out.
        nms_threshold: of two detections of a class that overlap more, the worse is left out.
        detections: at most so many per image.
        box_width, mask_channels: of the heads.
        sampled_anchors, sampled_regions: per image, from which is learnt; of these at most half and a quarter show objects.

    Raises:
        UserError: a number out of its range.
    """

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    candidates: int = 1000
    proposals: int = 1000
    training_candidates: int = 2000
    training_proposals: int = 1000
    proposal_overlap: float = 0.7
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    box_width: int = 1024
    mask_channels: int = 256
    sampled_anchors: int = 256
    sampled_regions: int = 512

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != 5:
            raise UserError(f"regions.anchor_sizes: expected 5, one per level, found {len(self.anchor_sizes)}.")
        if min((*self.anchor_sizes, *self.anchor_ratios), default=0) <= 0 or not self.anchor_ratios:
            raise UserError("regions: the sizes and ratios of anchors are numbers above 0.")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is int and value < 1:
                raise UserError(f"regions.{item.name}: expected at least 1, found {value}.")
            if item.type is float and not 0 <= value <= 1:
                raise UserError(f"regions.{item.name}: expected 0 to 1, found {value}.")


@dataclass(frozen=True)
class Style:
    """In what the published implementations differ.

    Args:
        rounded_anchors, fitted_anchors: see `Anchors`.
        aligned: RoIAlign reads half a pixel to the upper left, where the pixels' centres are (Detectron2's ROIAlignV2).
        sampling: points per side of a cell of RoIAlign; 0 means about one per pixel of the map.
        level_margin: what is added before the level of a box is rounded down.
        smallest_proposal: the shortest side of a proposal in pixels; 0 means above 0.
        smallest_detection: the same for a detection, before overlapping ones are left out; None asks nothing.
        pyramid_norm: batch norms in the pyramid.
        proposal_convolutions: 3x3 convolutions before the proposals' answers.
        box_convolutions: 3x3 convolutions with batch norm before the box head's dense layers.
        box_layers: dense layers of the box head.
        mask_norm: batch norms in the mask head.
    """

    rounded_anchors: bool = False
    fitted_anchors: bool = False
    aligned: bool = True
    sampling: int = 0
    level_margin: float = 0.0
    smallest_proposal: float = 0.0
    smallest_detection: float | None = None
    pyramid_norm: bool = False
    proposal_convolutions: int = 1
    box_convolutions: int = 0
    box_layers: int = 2
    mask_norm: bool = False


_TORCHVISION = Style(
    rounded_anchors=True,
    fitted_anchors=True,
    aligned=False,
    sampling=2,
    level_margin=1e-6,
    smallest_proposal=1e-3,
    smallest_detection=1e-2,
)

STYLES: dict[StyleName, Style] = {
    "detectron2": Style(),
    "torchvision": _TORCHVISION,
    "torchvision_v2": replace(
        _TORCHVISION,
        pyramid_norm=True,
        proposal_convolutions=2,
        box_convolutions=4,
        box_layers=1,
        mask_norm=True,
    ),
}
"""Detectron2's Mask R-CNN of Base-RCNN-FPN.yaml (aligned RoIAlign), torchvision's `maskrcnn_resnet50_fpn` and its `_v2`
(Li et al. 2021, arXiv:2111.11429)."""
