"""Mask2Former (Cheng et al. 2022, arXiv:2112.01527): queries that each say a class and a mask, for all three tasks."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import build_backbone
from nuriwake.models.backbones.base import Backbone
from nuriwake.models.base import Model
from nuriwake.models.outputs import QueryOutput
from nuriwake.models.pixel_decoder import LEVELS, FeedForward, PixelDecoder, sine_positions

STRIDES = (4, 8, 16, 32)
HEAD_CHANNELS = 32
PIXEL_EXPANSION = 4
EXPANSION = 8
"""What all published models share: strides of the backbone's maps, channels of an attention head, hidden / outer channels
in the pixel decoder and in the decoder of the queries."""


class Attention(nn.Module):
    """Multi-head attention with the shortcut and a layer norm behind it (post-norm)."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        self.norm = nn.LayerNorm(channels)
        for part in (self.query, self.key, self.value, self.output):
            # Xavier over the three stacked, as PyTorch's own module and the authors' code draw them.
            nn.init.xavier_uniform_(part.weight, gain=1.0 if part is self.output else 0.5**0.5)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`x` (B, Q, C), what the answer is added to -> (B, Q, C).

        Args:
            query: (B, Q, C); key and value (B, S, C).
            allowed: bool (B, 1, Q, S), who may look where; None for everywhere.
        """
        parts = (self.query(query), self.key(key), self.value(value))
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        dropout = self.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(*heads, attn_mask=allowed, dropout_p=dropout)
        found = functional.dropout(self.output(found.transpose(1, 2).flatten(2)), dropout, self.training)
        return self.norm(x + found)


class DecoderLayer(nn.Module):
    """Queries (B, Q, C) -> the same: they look at the image inside their masks, then at each other (section 3.2.1)."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.image_attention = Attention(channels, heads=heads, dropout=dropout)
        self.query_attention = Attention(channels, heads=heads, dropout=dropout)
        self.feed = FeedForward(channels, EXPANSION * channels, dropout=dropout)

    def forward(self, x: Tensor, asking: Tensor, seen: Tensor, places: Tensor, allowed: Tensor) -> Tensor:
        """asking (Q, C) and places (S, C) are positions of queries and cells; seen (B, S, C); allowed bool (B, 1, Q, S)."""
        x = self.image_attention(x, x + asking, seen + places, seen, allowed)
        x = self.query_attention(x, x + asking, x + asking, x)
        return self.feed(x)


class QueryDecoder(nn.Module):
    """Queries read the image level by level and answer after every layer.

    Args:
        queries: how many; at most so many objects are found in an image.
        layers: one resolution each, in turn from the coarsest.
    """

    def __init__(self, classes: int, channels: int, *, heads: int, queries: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.queries, self.query_positions = nn.Embedding(queries, channels), nn.Embedding(queries, channels)
        self.level_positions = nn.Embedding(LEVELS, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, classes + 1)
        self.mask = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def forward(self, features: Tensor, levels: Sequence[Tensor]) -> QueryOutput:
        """features (B, C, H/4, W/4), and levels (B, C, h, w) from low to high resolution, as `PixelDecoder` gives them."""
        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        seen = [
            level.flatten(2).transpose(1, 2) + own
            for level, own in zip(levels, self.level_positions.weight, strict=True)
        ]
        places = [sine_positions(size, features.shape[1], features.device).to(seen[0].dtype) for size in sizes]
        # A mask is linear in the features, so what shrinks it may shrink them instead: once, and not for every layer.
        coarse = [
            functional.interpolate(features.detach(), size, mode="bilinear", align_corners=False) for size in sizes
        ]
        x = self.queries.weight.expand(len(features), -1, -1)
        asking = self.query_positions.weight
        answers = [self._answer(x, features)] if self.training else []
        for index, layer in enumerate(self.layers):
            level = index % LEVELS
            x = layer(x, asking, seen[level], places[level], self._allowed(x, coarse[level]))
            if self.training or index + 1 == len(self.layers):
                answers.append(self._answer(x, features))
        return QueryOutput(*answers[-1], tuple(answers[:-1]))

    def _answer(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, C) -> class logits (B, Q, classes + 1), mask logits (B, Q, H/4, W/4)."""
        x = self.norm(x)
        return self.classify(x), _masks(self.mask(x), features)

    def _allowed(self, x: Tensor, features: Tensor) -> Tensor:
        """Where each query may look: inside the mask it has so far, everywhere if that is empty. bool (B, 1, Q, h * w)."""
        inside = _masks(self.mask(self.norm(x)), features).flatten(2) >= 0
        return (inside | ~inside.any(dim=-1, keepdim=True))[:, None]


class Mask2Former(Model):
    """(B, in_channels, H, W) -> `QueryOutput` with masks at stride 4. Both sides are multiples of 32.

    In train mode the output has an auxiliary answer of the untouched queries and of every layer but the last.

    Args:
        classes: real ones; the model adds "no object".
        backbone: any with maps at the strides 4, 8, 16 and 32.
        backbone_weights: None (fresh), a file, "pretrained", an https address or a Hugging Face id.
        queries: how many masks there can be; 100, and 200 for the large published ones.
        channels: of everything behind the backbone; a multiple of 32.
        pixel_layers: of the pixel decoder.
        decoder_layers: of the decoder of the queries.
        dropout: in all layers of the two; published is 0.
        frozen_norm: keep the backbone's batch norms as they are while training; for pretrained backbones, since batches of
            a few large images tell little about averages.

    Raises:
        UserError: a backbone without these strides, or channels that do not divide.
    """

    input_multiple = input_minimum = STRIDES[-1]
    # Positions are shares of the input. Twice is published to go well: trained on crops of 512x1024 of Cityscapes, tested on the
    # whole 1024x2048 (Cheng et al. 2022, section 4.1).
    largest_stretch = 2.0

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | Path | None = None,
        queries: int = 100,
        channels: int = 256,
        pixel_layers: int = 6,
        decoder_layers: int = 9,
        dropout: float = 0.0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if channels % HEAD_CHANNELS or channels < HEAD_CHANNELS:
            raise UserError(f"'channels' of a Mask2Former is a multiple of {HEAD_CHANNELS}, found {channels}.")
        if min(queries, pixel_layers, decoder_layers) < 1:
            raise UserError("A Mask2Former has at least one query, one pixel layer and one decoder layer.")
        self.encoder = build_backbone(backbone, in_channels=in_channels, weights=backbone_weights)
        self.notes = self.encoder.notes
        self.used = _used(self.encoder, backbone)
        self.frozen_norm = frozen_norm
        for part in self._frozen():
            part.requires_grad_(requires_grad=False)
        heads = channels // HEAD_CHANNELS
        self.pixels = PixelDecoder(
            [self.encoder.channels[index] for index in self.used],
            channels,
            heads=heads,
            hidden=PIXEL_EXPANSION * channels,
            layers=pixel_layers,
            dropout=dropout,
        )
        self.decoder = QueryDecoder(
            classes, channels, heads=heads, queries=queries, layers=decoder_layers, dropout=dropout
        )

    def forward(self, images: Tensor) -> QueryOutput:
        """(B, in_channels, H, W) -> class logits (B, queries, classes + 1), mask logits (B, queries, H/4, W/4)."""
        self.require_size(images)
        maps = self.encoder(images)
        features, levels = self.pixels([maps[index] for index in self.used])
        return self.decoder(features, levels)

    def train(self, mode: bool = True) -> "Mask2Former":
        """As PyTorch's; frozen norms stay in eval mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        # Looked up every time: training on several GPUs puts synchronised norms in their places.
        norms = nn.BatchNorm2d, nn.SyncBatchNorm
        return [part for part in self.encoder.modules() if self.frozen_norm and isinstance(part, norms)]

    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages(), self.pixels, self.decoder]

    def backbone(self) -> Backbone:
        return self.encoder


def _masks(embeddings: Tensor, features: Tensor) -> Tensor:
    """Embeddings (B, Q, C), features (B, C, h, w) -> mask logits (B, Q, h, w)."""
    return (embeddings @ features.flatten(2)).unflatten(2, features.shape[-2:])


def _used(encoder: Backbone, name: str) -> tuple[int, ...]:
    """Which of the encoder's maps have the strides wanted. Raises UserError where one is missing."""
    if not set(STRIDES) <= set(encoder.strides):
        raise UserError(
            f"A Mask2Former needs a backbone with maps at the strides {STRIDES}, '{name}' has {encoder.strides}."
        )
    return tuple(encoder.strides.index(stride) for stride in STRIDES)
