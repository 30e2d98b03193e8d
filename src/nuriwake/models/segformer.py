"""SegFormer (Xie et al. 2021, arXiv:2105.15203): the Mix Transformer encoder and a decoder of 1x1 convolutions.

Inside the encoder, tensors are (B, h, w, C): layer norms and linear maps want channels last, and convolutions get the
same memory as (B, C, h, w) in PyTorch's channels_last layout, so that nothing is copied between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import build_backbone
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.base import Model
from nuriwake.models.layers import initialise, initialise_head
from nuriwake.models.outputs import PixelLogits, fit_logits
from nuriwake.models.segformer_names import convert_encoder

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
EXPANSION = 4
"""What all published sizes share, per level: attention heads, how much coarser keys are, hidden / outer channels."""

_WIDE = (64, 128, 320, 512)
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": (_WIDE, (2, 2, 2, 2)),
    "mit_b2": (_WIDE, (3, 4, 6, 3)),
    "mit_b3": (_WIDE, (3, 4, 18, 3)),
    "mit_b4": (_WIDE, (3, 8, 27, 3)),
    "mit_b5": (_WIDE, (3, 6, 40, 3)),
}
"""Name -> (widths, depths) of the four levels: table 6 of the paper."""


@dataclass(frozen=True)
class MixTransformerOptions:
    """What may differ between Mix Transformers of one name.

    Attributes:
        widths, depths: channels and blocks of the four levels; None takes those of the name. Widths divide by `HEADS`.
        drop_path: the share of samples that skip the last block while training; rises linearly from 0 at the first.
        epsilon: of the layer norms in the blocks and at the end of a level.
        embedding_epsilon: of the layer norms behind strided convolutions. The authors have 1e-6 and 1e-5,
            transformers 1e-5 in both, mmsegmentation 1e-6 in both.
    """

    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    drop_path: float = 0.1
    epsilon: float = 1e-6
    embedding_epsilon: float = 1e-5


class PatchEmbedding(nn.Module):
    """(B, inputs, H, W) -> (B, H/stride, W/stride, outputs): overlapping patches (section 3.1)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, epsilon: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(outputs, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x).permute(0, 2, 3, 1))


class EfficientAttention(nn.Module):
    """(B, h, w, C) -> the same: every position asks, and windows of `reduction` x `reduction` positions answer."""

    def __init__(self, channels: int, *, heads: int, reduction: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.output = nn.Linear(channels, channels)
        self.reduction = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.reduction_norm = nn.LayerNorm(channels, epsilon) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        context = x
        if self.reduction is not None and self.reduction_norm is not None:
            context = self.reduction_norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        key, value = self.key_value(context).chunk(2, dim=-1)
        answer = functional.scaled_dot_product_attention(*map(self._split, (self.query(x), key, value)))  # pyright: ignore[reportArgumentType]
        return self.output(answer.transpose(1, 2).reshape(x.shape))

    def _split(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, heads, h * w, C / heads)."""
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MixFeedForward(nn.Module):
    """(B, h, w, C) -> the same: its 3x3 convolution takes the place of a positional encoding (section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.widen = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.widen(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.narrow(functional.gelu(x))


class Block(nn.Module):
    """(B, h, w, C) -> the same: attention and feed-forward, each behind a layer norm and beside a shortcut."""

    def __init__(
        self, channels: int, *, heads: int, reduction: int, drop_path: float, options: MixTransformerOptions
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = nn.LayerNorm(channels, options.epsilon)
        self.attention = EfficientAttention(
            channels, heads=heads, reduction=reduction, epsilon=options.embedding_epsilon
        )
        self.feed_norm = nn.LayerNorm(channels, options.epsilon)
        self.feed = MixFeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x)))
        return x + self._dropped(self.feed(self.feed_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): zero for some samples, the others raised to match."""
        if not self.training or self.drop_path == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * (kept / (1 - self.drop_path))


class Level(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H/s, W/s): one resolution, s = 4 at the first and 2 at the others."""

    def __init__(
        self, level: int, inputs: int, outputs: int, *, drop_paths: Sequence[float], options: MixTransformerOptions
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if level == 0 else (3, 2)
        self.embedding = PatchEmbedding(
            inputs, outputs, kernel=kernel, stride=stride, epsilon=options.embedding_epsilon
        )
        self.blocks = nn.Sequential(
            *(
                Block(outputs, heads=HEADS[level], reduction=REDUCTIONS[level], drop_path=share, options=options)
                for share in drop_paths
            )
        )
        self.norm = nn.LayerNorm(outputs, options.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embedding(x))).permute(0, 3, 1, 2)


class MixTransformer(Backbone):
    """Feature maps at strides 4, 8, 16 and 32, of images of at least 32 pixels a side; the maps' sides are rounded up.

    Args:
        name: a key of `SIZES`.
        options: how it differs from the published one.
        output_stride: 32; the attention's coarser keys leave nothing to dilate.

    Raises:
        UserError: another output stride, or widths and depths that are no four levels that divide by `HEADS`.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        in_channels: int,
        *,
        name: str,
        options: MixTransformerOptions = MixTransformerOptions(),
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if output_stride != 32:
            raise UserError(f"The output stride of '{name}' is 32, found {output_stride}.")
        widths, depths = options.widths or SIZES[name][0], options.depths or SIZES[name][1]
        _check_levels(widths, depths)
        self.channels = widths
        drop_paths = torch.linspace(0, options.drop_path, sum(depths), device="cpu").split(list(depths))
        self.levels = nn.ModuleList(
            Level(level, inputs, outputs, drop_paths=shares.tolist(), options=options)
            for level, (inputs, outputs, shares) in enumerate(
                zip((in_channels, *widths[:-1]), widths, drop_paths, strict=True)
            )
        )
        for part in self.modules():
            _initialise(part)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> four maps, see the class."""
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(level(maps[-1] if maps else images))
        return maps

    def cut(self, maps: int) -> None:
        self.levels = self.levels[:maps]
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def stages(self) -> Sequence[nn.Module]:
        return list(self.levels)

    def published(self) -> Published:
        """Under our own names: `convert` brings the files of all sources to them."""
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        beyond = ("classifier.", "head.", "decode_head.", "decoder.", "segmentation_head.", "auxiliary_head.")
        return Published({key: key for key in shapes}, shapes, beyond, ("levels.0.embedding.convolution.weight",))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return convert_encoder(state)


class Decoder(nn.Module):
    """Maps (B, widths[i], h/2^i, w/2^i) -> (B, channels, h, w).

    The published order is: project each map to `channels`, enlarge all to the finest, fuse. Fusing is linear and works on
    each pixel alone, so it may come before the enlarging, and without a norm in between it joins the projection to one
    matrix. The result is the same; at 512x512 and 768 `channels` it takes less than a tenth of the multiplications.

    Args:
        map_norm: each projection is followed by batch norm and ReLU (mmsegmentation); otherwise it has a bias and
            nothing else (the paper, transformers, smp).
    """

    def __init__(self, widths: Sequence[int], channels: int, *, map_norm: bool) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=not map_norm) for width in widths)
        self.projection_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in widths if map_norm)
        # Its input channels: those of the finest map's projection first.
        self.fuse = nn.Conv2d(len(widths) * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        kernels = self.fuse.weight.chunk(len(maps), dim=1)
        parts = [self._fused(index, x, kernel) for index, (x, kernel) in enumerate(zip(maps, kernels, strict=True))]
        total = parts[0]
        for part in parts[1:]:
            total = total + fit_logits(part, size)  # pyright: ignore[reportArgumentType]
        return functional.relu(self.norm(total))

    def _fused(self, index: int, x: Tensor, kernel: Tensor) -> Tensor:
        """x (B, widths[index], h, w), kernel (channels, channels, 1, 1) -> (B, channels, h, w)."""
        projection = self.projections[index]
        if len(self.projection_norms):
            return functional.conv2d(functional.relu(self.projection_norms[index](projection(x))), kernel)
        matrix = kernel.flatten(1)
        weight, bias = matrix @ projection.weight.flatten(1), matrix @ projection.bias  # pyright: ignore[reportCallIssue, reportOperatorIssue]
        return functional.conv2d(x, weight[:, :, None, None], bias.to(weight.dtype))


class SegFormer(Model):
    """(B, in_channels, H, W) -> `PixelLogits` (B, classes, H/4, W/4). Sides that are multiples of 32 suit any backbone.

    Over a Mix Transformer other sides from 32 on work too: the logits, their number rounded up, are then taken to span the
    image, as the published implementations do. With `aligned_upsampling` they do not, as in segmentation_models_pytorch.

    Args:
        backbone: a key of `SIZES`; or any other backbone, of whose maps those from stride 4 on are used.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        channels: of the decoder: 256 for B0 and B1, 768 for the larger.
        map_norm: the decoder's projections have batch norm and ReLU, as in mmsegmentation.
        dropout: share of the decoder's channels dropped while training.
        aligned_upsampling: the logits are enlarged this many times with aligned corners; 4 is what
            segmentation_models_pytorch does.
        encoder: of a Mix Transformer.

    Raises:
        UserError: `encoder` for another backbone; widths or depths that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "mit_b0",
        backbone_weights: str | Path | None = None,
        channels: int = 256,
        map_norm: bool = False,
        dropout: float = 0.1,
        aligned_upsampling: int = 1,
        encoder: MixTransformerOptions = MixTransformerOptions(),
    ) -> None:
        super().__init__()
        self.encoder = _encoder(backbone, in_channels, backbone_weights, encoder)
        self.notes = self.encoder.notes
        self.input_multiple = self.input_minimum = self.encoder.strides[-1]
        self.any_size = backbone in SIZES and aligned_upsampling == 1
        self.used = tuple(index for index, stride in enumerate(self.encoder.strides) if stride >= 4)
        widths = [self.encoder.channels[index] for index in self.used]
        self.decoder = Decoder(widths, channels, map_norm=map_norm)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, classes, 1)
        self.aligned_upsampling = aligned_upsampling
        initialise_head(self.head)

    def forward(self, images: Tensor) -> PixelLogits:
        """(B, in_channels, H, W) -> logits (B, classes, H/4, W/4), or `aligned_upsampling` times larger."""
        self.require_size(images)
        maps = self.encoder(images)
        logits = self.head(self.dropout(self.decoder([maps[index] for index in self.used])))
        if self.aligned_upsampling > 1:
            factor = float(self.aligned_upsampling)
            logits = functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=True)
        return PixelLogits(logits)

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.decoder, self.head]

    def backbone(self) -> Backbone:
        return self.encoder


def _encoder(backbone: str, in_channels: int, weights: str | Path | None, options: MixTransformerOptions) -> Backbone:
    if backbone in SIZES:
        return build_backbone(backbone, in_channels=in_channels, weights=weights, options={"options": options})
    if options != MixTransformerOptions():
        raise UserError(
            f"The options 'encoder' are those of a Mix Transformer ({', '.join(SIZES)}), not of '{backbone}'."
        )
    return build_backbone(backbone, in_channels=in_channels, weights=weights)


def _check_levels(widths: Sequence[int], depths: Sequence[int]) -> None:
    fits = len(widths) == len(depths) == len(HEADS) and min(*widths, *depths) >= 1
    if not fits or any(width % heads for width, heads in zip(widths, HEADS, strict=True)):
        raise UserError(
            f"A Mix Transformer has four widths that divide by {HEADS} and four depths, "
            f"found the widths {tuple(widths)} and the depths {tuple(depths)}."
        )


def _initialise(part: nn.Module) -> None:
    """Fresh weights as published: linear maps 0.02 normal, convolutions of variance 2 / fan-out, biases 0."""
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
    elif isinstance(part, nn.Conv2d):
        fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1] // part.groups
        nn.init.normal_(part.weight, std=(2.0 / fan_out) ** 0.5)
    else:
        return
    if part.bias is not None:
        nn.init.zeros_(part.bias)
