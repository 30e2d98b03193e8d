"""YOLACT (Bolya et al. 2019, arXiv:1904.02689), as its authors' code builds it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import Backbone, build_backbone
from nuriwake.models.base import Model
from nuriwake.models.layers import initialise_head
from nuriwake.models.outputs import PrototypeOutput
from nuriwake.models.priors import make_priors

STRIDES = (8, 16, 32)
"""Of the backbone's maps that the pyramid takes (section 4.1)."""

REFERENCE = 550
"""The side of the input for which the sizes of the priors are given."""


class BilinearPyramid(nn.Module):
    """YOLACT's feature pyramid: maps (B, channels[i], h_i, w_i) -> as many and `extra` further ones (B, width, ...).

    It differs from `fpn.FeaturePyramid` in three ways: a deeper map is brought to the shallower one's size by bilinear
    interpolation, whatever both sizes are; a ReLU follows the 3x3 convolutions; the further maps, each half as large as
    the one before, come from 3x3 convolutions of stride 2, without activation, on the deepest map that comes out.

    Args:
        channels: of the maps, from high to low resolution.
        width: channels of every map that comes out.
        extra: how many maps are added behind the deepest.
    """

    def __init__(self, channels: Sequence[int], width: int, *, extra: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extra = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From high to low resolution."""
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(sides) - 2, -1, -1):
            size = sides[index].shape[-2:]
            deeper = functional.interpolate(sides[index + 1], size=size, mode="bilinear", align_corners=False)
            sides[index] = sides[index] + deeper
        levels = [functional.relu(smooth(x)) for smooth, x in zip(self.smooth, sides, strict=True)]
        for further in self.extra:
            levels.append(further(levels[-1]))
        return levels


class PriorHead(nn.Module):
    """One level (B, width, h, w) -> for each of its A priors per cell, row by row: logits (B, h * w * A, outputs), offsets
    (B, ..., 4) and mask coefficients (B, ..., prototypes). The same head serves every level (section 3.2, figure 4).
    """

    def __init__(self, width: int, outputs: int, prototypes: int, *, priors: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(width, width, 3, padding=1)
        self.classify = nn.Conv2d(width, priors * outputs, 3, padding=1)
        self.offset = nn.Conv2d(width, priors * 4, 3, padding=1)
        self.weigh = nn.Conv2d(width, priors * prototypes, 3, padding=1)
        self.priors = priors

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.relu(self.shared(level))
        return self._rows(self.classify(x)), self._rows(self.offset(x)), self._rows(self.weigh(x)).tanh()

    def _rows(self, x: Tensor) -> Tensor:
        """(B, A * fields, h, w) -> (B, h * w * A, fields)."""
        fields = x.shape[1] // self.priors
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3] * self.priors, fields)


class PrototypeHead(nn.Module):
    """The finest level (B, width, h, w) -> prototypes (B, prototypes, 2h, 2w), 0 or more (section 3.1, figure 3)."""

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.project = nn.Conv2d(width, prototypes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.before:
            x = functional.relu(convolution(x))
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return functional.relu(self.project(functional.relu(self.after(x))))


class Yolact(Model):
    """(B, in_channels, H, W) -> `PrototypeOutput`: a class, a box and mask coefficients per prior, prototypes at stride 4.

    Any size from the backbone's deepest stride on works. The priors keep their share of the image, as the published
    weights for 400, 550 and 700 pixels have it, whose images are resized to one size; or, with `prior_pixels`, their size
    in pixels, as objects do that are seen in crops while training and in whole images afterwards.

    Args:
        classes: without background.
        backbone: a key of `BACKBONES` or any timm model with maps at the strides 8, 16 and 32.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        pyramid_channels: of the pyramid and of the heads.
        prototypes: how many masks are combined.
        prior_sizes: side of the priors of each level, in pixels of an input of 550x550; three for the backbone's maps, each
            further one adds a level of half the resolution.
        prior_scales: each level has priors of so many times its size (Bolya et al. 2019, YOLACT++, arXiv:1912.06218, section 6:
            three); 1 alone is YOLACT.
        prior_pixels: these are the pixels of every input, whatever its size, and so are the distances between priors.
        prior_ratios: width / height of the priors.
        square_priors: every prior is as high as it is wide, as the published COCO weights have it (see `make_priors`).

    Raises:
        UserError: the backbone lacks one of the strides, there are fewer than three prior sizes, no scale or ratio, or one of them
            is not above 0.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        pyramid_channels: int = 256,
        prototypes: int = 32,
        prior_sizes: tuple[float, ...] = (24.0, 48.0, 96.0, 192.0, 384.0),
        prior_scales: tuple[float, ...] = (1.0,),
        prior_pixels: bool = False,
        prior_ratios: tuple[float, ...] = (1.0, 0.5, 2.0),
        square_priors: bool = False,
    ) -> None:
        super().__init__()
        shapes = len(prior_scales) * len(prior_ratios)
        if len(prior_sizes) < len(STRIDES) or not shapes or min(*prior_sizes, *prior_scales, *prior_ratios) <= 0:
            raise UserError(
                f"YOLACT needs at least {len(STRIDES)} prior sizes, one prior scale and one prior ratio, all above 0; found "
                f"{prior_sizes}, {prior_scales} and {prior_ratios}."
            )
        self.encoder: Backbone = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.notes = self.encoder.notes
        self.taken = _taken(backbone, self.encoder.strides)
        self.input_minimum = self.encoder.strides[-1]
        # Priors of so many pixels are shares of no input.
        self.largest_stretch = None if prior_pixels else 1.0
        self.prior_shares = tuple(size / REFERENCE for size in prior_sizes)
        self.prior_scales, self.prior_ratios = prior_scales, prior_ratios
        self.square_priors, self.prior_pixels = square_priors, prior_pixels
        widths = [self.encoder.channels[index] for index in self.taken]
        self.pyramid = BilinearPyramid(widths, pyramid_channels, extra=len(prior_sizes) - len(STRIDES))
        self.prototypes = PrototypeHead(pyramid_channels, prototypes)
        self.head = PriorHead(pyramid_channels, classes + 1, prototypes, priors=shapes)
        self.semantic = nn.Conv2d(pyramid_channels, classes, 1)
        for part in (self.pyramid, self.prototypes, self.head, self.semantic):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    initialise_head(module)

    def forward(self, images: Tensor) -> PrototypeOutput:
        """(B, in_channels, H, W) -> see `PrototypeOutput`; the semantic logits lie at stride 8."""
        self.require_size(images)
        maps = self.encoder(images)
        levels = self.pyramid([maps[index] for index in self.taken])
        answers = [self.head(level) for level in levels]
        logits, deltas, coefficients = (torch.cat([answer[i] for answer in answers], dim=1) for i in range(3))
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        cells: list[tuple[float, float]] | None = None
        if self.prior_pixels:
            # Of so many pixels too, in inputs of any size: a map of 5 cells of 64 pixels reaches beyond an input of 288.
            strides = [STRIDES[0] * 2**level for level in range(len(levels))]
            cells = [(stride / images.shape[-2], stride / images.shape[-1]) for stride in strides]
        priors = make_priors(
            sizes,
            self.prior_shares,
            self.prior_ratios,
            scales=self.prior_scales,
            cells=cells,
            square=self.square_priors,
            device=images.device,
        )
        if self.prior_pixels:
            centre, width, height = priors.split((2, 1, 1), dim=1)
            sides = (width * (REFERENCE / images.shape[-1]), height * (REFERENCE / images.shape[-2]))
            priors = torch.cat((centre, *sides), dim=1)
        finest = levels[0]
        semantic = self.semantic(finest) if self.training else finest[:, :0]
        return PrototypeOutput(logits, deltas, coefficients, priors, self.prototypes(finest), semantic)

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.pyramid, self.prototypes, self.head, self.semantic]

    def backbone(self) -> Backbone:
        return self.encoder


def _taken(backbone: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """The indices of the maps at `STRIDES`."""
    if not set(STRIDES) <= set(strides):
        raise UserError(f"YOLACT needs a backbone with maps at the strides 8, 16 and 32; '{backbone}' has {strides}.")
    return tuple(strides.index(stride) for stride in STRIDES)
