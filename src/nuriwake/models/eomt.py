"""EoMT: a plain vision transformer whose last blocks also carry queries; each becomes a class and a mask.

Kerssies 2025, "Your ViT is Secretly an Image Segmentation Model", arXiv:2503.19108.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.models.backbones import build_backbone
from nuriwake.models.backbones.vit import EPSILON, SIZES, VisionTransformer
from nuriwake.models.base import Model
from nuriwake.models.outputs import QueryOutput

ANNEALING_POWER = 0.9
"""How the probability of a masked query falls while its block is annealed: (1 - t)^0.9, as published."""


class Enlarge(nn.Module):
    """(B, C, h, w) -> (B, C, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(functional.gelu(self.upsample(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class QueryHead(nn.Module):
    """The queries, and what they and the patches become.

    Args:
        patch: side of a patch; masks have a resolution of 4 pixels, or of half a patch where that is finer.
    """

    def __init__(self, width: int, classes: int, *, queries: int, patch: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, width).normal_())
        self.classify = nn.Linear(width, classes + 1)
        self.mask = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.enlarge = nn.Sequential(*(Enlarge(width) for _ in range(max(1, int(math.log2(patch)) - 2))))

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, C) and patches (B, C, h, w) -> class logits (B, Q, classes + 1), mask logits (B, Q, s*h, s*w)."""
        features = self.enlarge(patches)
        masks = self.mask(queries) @ features.flatten(2)
        return self.classify(queries), masks.unflatten(-1, (features.shape[-2], features.shape[-1]))


class EoMT(Model):
    """(B, in_channels, H, W) -> `QueryOutput` with masks at a quarter of the resolution (patches of 16).

    While training, every query may look only where it saw its mask before the block (masked attention), and these
    earlier answers are the auxiliary outputs. The limits are lifted block by block (`set_progress`), so that the finished
    model needs none of that and is a plain transformer (section 3.3). A model whose annealing is not done answers with
    limits in the blocks where most queries still have them; compiled and exported it answers without, as the finished
    model does. Nothing is drawn at random in eval mode.

    Args:
        backbone: a key of `backbones.vit.SIZES`.
        backbone_weights: None (fresh), a file (timm's, the authors' or transformers' DINOv2 with registers), "pretrained",
            an https address or a Hugging Face id.
        image_size: side of the square that positions are learnt for, a multiple of `patch_size`. Images of other sizes
            get interpolated positions.
        padded: images that are smaller than that square are padded to it instead, as published weights were trained.
        patch_size: side of a patch. Weights published for another size are resized.
        registers: tokens without a place; 4 in DINOv2's weights "with registers", which EoMT begins with.
        queries: at most so many segments are found in an image.
        query_blocks: the number of last blocks that carry queries: 3 in small and base, 4 in large, 5 in giant.
        annealing: lift the limits in the course of training; otherwise they stay, also in eval mode.

    Raises:
        UserError: another backbone, or sizes that do not fit.
    """

    # Positions are interpolated, and attention is over all patches: what was learnt of 400 is little worth with 4,096. The
    # authors, too, answer for larger images in windows of the trained size (the published semantic models).
    largest_stretch = 1.0
    mask_share: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "dinov2_small",
        backbone_weights: str | Path | None = None,
        image_size: int = 640,
        padded: bool = False,
        patch_size: int = 16,
        registers: int = 4,
        queries: int = 200,
        query_blocks: int = 3,
        annealing: bool = True,
    ) -> None:
        super().__init__()
        _check(backbone, image_size, patch_size, queries, query_blocks)
        side = image_size // patch_size
        options = {"patch": patch_size, "grid": (side, side), "registers": registers}
        built = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights, options=options)
        self.encoder = cast(VisionTransformer, built)
        self.notes = self.encoder.notes
        self.head = QueryHead(self.encoder.channels[0], classes, queries=queries, patch=patch_size)
        self.input_multiple = self.input_minimum = patch_size
        self.padded_side = image_size if padded else 0
        self.queries = queries
        self.annealing = annealing
        # Per block with queries, how likely a query is limited to its mask. A buffer: weights and schedule belong together.
        self.register_buffer("mask_share", torch.ones(query_blocks))
        self.limited = (True,) * query_blocks

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Model`; never below the trained square with the option `padded`."""
        height, width = super().fit_size(height, width)
        return max(height, self.padded_side), max(width, self.padded_side)

    def set_progress(self, share: float) -> None:
        """Every block is annealed for a sixth of the training, the first one from 1/6 on, the last one from 4/6 on, the others
        evenly between: the published steps for 3 blocks (2, 5 and 8 twelfths) and for 4 (1, 2, 3 and 4 sixths)."""
        if not self.annealing:
            return
        last = max(len(self.limited) - 1, 1)
        begins = [(1 + 3 * index / last) / 6 for index in range(len(self.limited))]
        shares = [min(max(1 - 6 * (share - begin), 0.0), 1.0) ** ANNEALING_POWER for begin in begins]
        self.mask_share.copy_(torch.tensor(shares))
        self.limited = tuple(value > 0 for value in shares)

    def forward(self, images: Tensor) -> QueryOutput:
        """(B, in_channels, H, W) -> class logits (B, Q, classes + 1), mask logits (B, Q, H/4, W/4), earlier answers."""
        self.require_size(images)
        patch = self.input_multiple
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)
        blocks, limited = list(self.encoder.blocks), self._limited()
        first = len(blocks) - len(limited)
        tokens = self.encoder.embedding(images)
        for block in blocks[:first]:
            tokens = block(tokens)
        queries = self.head.queries.to(tokens.dtype).expand(len(tokens), -1, -1)
        tokens = torch.cat([queries, tokens], dim=1)
        auxiliary: list[tuple[Tensor, Tensor]] = []
        for index, block in enumerate(blocks[first:]):
            allowed: Tensor | None = None
            if self.training or limited[index]:
                answer = self._answer(tokens, grid)
                auxiliary.append(answer)
                allowed = self._allowed(answer[1], grid, index) if limited[index] else None
            tokens = block(tokens, allowed)
        class_logits, mask_logits = self._answer(tokens, grid)
        return QueryOutput(class_logits, mask_logits, tuple(auxiliary) if self.training else ())

    def stages(self) -> Sequence[nn.Module]:
        """A block each, the head with the last one: what the published layer-wise decay does."""
        *earlier, last = self.encoder.stages()
        return [*earlier, nn.ModuleList([last, self.head])]

    def backbone(self) -> VisionTransformer:
        return self.encoder

    def _limited(self) -> tuple[bool, ...]:
        """Per block with queries: does it limit any of them now?"""
        if self.training:
            return self.limited
        if torch.compiler.is_compiling():
            return (False,) * len(self.limited)
        return tuple(share >= 0.5 for share in self.mask_share.tolist())

    def _answer(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        tokens = self.encoder.norm(tokens)
        patches = tokens[:, self.queries + self.encoder.prefix :].transpose(1, 2).unflatten(-1, grid)
        return self.head(tokens[:, : self.queries], patches)

    def _allowed(self, mask_logits: Tensor, grid: tuple[int, int], index: int) -> Tensor:
        """bool (B, Q, T): queries see each other and all tokens without a place, and the patches of their mask."""
        fitted = functional.interpolate(mask_logits.detach().float(), size=grid, mode="bilinear", align_corners=False)
        inside = fitted.flatten(2) > 0
        if self.training:
            lots = torch.rand(inside.shape[:2], device=inside.device)
            inside = inside | (lots >= self.mask_share[index])[:, :, None]
        return functional.pad(inside, (self.queries + self.encoder.prefix, 0), value=True)


def _check(backbone: str, image_size: int, patch_size: int, queries: int, query_blocks: int) -> None:
    if backbone not in SIZES:
        raise UserError(
            f"EoMT is built on a plain vision transformer ({', '.join(SIZES)}), not on '{backbone}'."
            f"{did_you_mean(backbone, SIZES)}"
        )
    if patch_size < 2 or image_size < patch_size or image_size % patch_size:
        raise UserError(f"The image size of an EoMT is a multiple of its patches of {patch_size}, found {image_size}.")
    depth = SIZES[backbone].depth
    if queries < 1 or not 1 <= query_blocks <= depth:
        raise UserError(
            f"An EoMT over '{backbone}' has at least 1 query and 1 to {depth} blocks with queries, "
            f"found {queries} and {query_blocks}."
        )
