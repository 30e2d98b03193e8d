"""PredictSettings: how a trained model is used; kept in its bundle, every field can be overridden when predicting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.inference.rules import PostprocessingRule

USUAL_TILE = 1024
"""Side of a tile, where nothing is known of the model: its activations fit small machines, and most photographs are smaller."""

Flips = Literal["none", "horizontal", "all"]


@dataclass(frozen=True)
class PredictSettings:
    """How a model answers for one image.

    Args:
        tile: images with a side longer than this are taken in overlapping square tiles of this many pixels; None or 0
            never. "auto": when training, what suits the model (`engine.choose.choose_tile`); over a bundle's settings, the bundle's;
            else `USUAL_TILE`.
            A network that sees the whole image (attention, global pooling) may answer differently in tiles.
            Maps of probabilities are blended over tiles, and pixels are those of the image as the model sees it. Objects and
            segments are found in every tile and joined; a tile is then cut from the image as the user has it and prepared like
            an image of its own, so that a model that shrinks images sees small objects at their size.
        overlap: how much neighbouring tiles share at least, as a share of the tile, 0..0.5. An object smaller than that is seen
            whole by one of them; larger ones are put together of parts.
        flips: mirrored copies whose probabilities are averaged: "horizontal" (2 passes) or "all" (4: none, both axes,
            each axis).
        scales: sizes relative to the model's own, whose probabilities are averaged; (1.0,) is one pass.
        batch_size: tiles, copies or equally sized images in one pass of the network.
        score_threshold: objects of a lower score are left out, 0..1; None leaves it to the decoder, which then gives all that
            the published model would. Evaluation counts objects of any score.
        thresholds: empty for the defaults; one number for a binary space, else one per class. See `decode_pixels`.
        postprocessing: rules applied to the label map at full size, in this order.
        decoding: options of the decoder that the task and the output of the model have; see `decoding.DECODERS`.

    Raises:
        UserError: a value outside its range.
    """

    tile: int | Literal["auto"] | None = "auto"
    overlap: float = 0.25
    flips: Flips = "none"
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 4
    score_threshold: float | None = None
    thresholds: tuple[float, ...] = ()
    postprocessing: tuple[PostprocessingRule, ...] = field(default=())
    decoding: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.tile == 0:
            object.__setattr__(self, "tile", None)
        _expect(self.tile_side is None or self.tile_side >= 32, "tile", "at least 32 pixels or null", self.tile)
        _expect(0 <= self.overlap <= 0.5, "overlap", "0 to 0.5", self.overlap)
        _expect(bool(self.scales) and min(self.scales) > 0, "scales", "one or more numbers above 0", self.scales)
        _expect(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        _expect(
            self.score_threshold is None or 0 <= self.score_threshold <= 1,
            "score_threshold",
            "0 to 1",
            self.score_threshold,
        )
        _expect(all(0 < value < 1 for value in self.thresholds), "thresholds", "between 0 and 1", self.thresholds)

    @property
    def tile_side(self) -> int | None:
        """`tile` in pixels; None for whole images of any size."""
        return USUAL_TILE if self.tile == "auto" else self.tile

    def check(self, space: LabelSpace) -> None:
        """Do the thresholds and the rules fit `space`? Raises UserError otherwise."""
        if self.thresholds and len(self.thresholds) != space.channels:
            raise UserError(
                f"settings.thresholds: a {'binary' if space.binary else 'label'} space of {len(space)} classes wants "
                f"{space.channels}, found {len(self.thresholds)}."
            )
        for rule in self.postprocessing:
            rule.labels(space)


Changes = PredictSettings | Mapping[str, Any] | None
"""Settings in place of those of the bundle; or some fields over them, as YAML has them; or nothing."""


def change_settings(settings: PredictSettings, changes: Changes) -> PredictSettings:
    """`settings` with `changes`. Options in `decoding` are replaced one by one, every other field as a whole.

    Raises:
        UserError: an unknown field (did you mean) or a value of another type.
    """
    if changes is None or isinstance(changes, PredictSettings):
        return changes or settings
    plain = to_plain(settings) | {name: value for name, value in changes.items() if (name, value) != ("tile", "auto")}
    if isinstance(changes.get("decoding"), Mapping):
        plain["decoding"] = {**settings.decoding, **changes["decoding"]}
    return from_plain(PredictSettings, plain, "settings")


def _expect(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise UserError(f"settings.{name}: expected {expected}, found {found}.")
