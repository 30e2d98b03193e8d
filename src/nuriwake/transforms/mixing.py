"""Mixing: pixels of other samples, with their labels. Done after the geometry, so that all samples have one size.

What is taken from another sample is the same window of its own augmented crop: every crop is random already, so nothing is
resized once more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Size
from nuriwake.transforms.targets import row

Window = tuple[slice, slice]
"""Rows and columns."""


class Mixing(Protocol):
    """One mixing operation: a frozen dataclass of plain fields."""

    @property
    def name(self) -> str:
        """What a configuration calls it."""
        ...

    @property
    def probability(self) -> float:
        """How often it happens, 0..1."""
        ...

    def mix(self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """`sample` with parts of others; `other` gives another sample of the same size at every call."""
        ...


@dataclass(frozen=True)
class CutMix:
    """A rectangle of a second sample, image and labels, over this one (Yun et al. 2019; for segmentation French et al. 2020).

    Args:
        area: of the rectangle as a share of the sample, uniform; it has the sample's shape and lies anywhere inside.
    """

    area: tuple[float, float] = (0.1, 0.5)
    probability: float = 0.5
    name: Literal["cut_mix"] = field(default="cut_mix", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(
                f"cut_mix.area: expected two shares above 0 and at most 1, the lower first, found {self.area[0]} and {self.area[1]}."
            )

    def mix(self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """See `Mixing`."""
        side = rng.uniform(*self.area) ** 0.5
        height, width = (max(1, round(length * side)) for length in sample.size)
        top, left = (
            int(rng.integers(whole - part + 1)) for whole, part in zip(sample.size, (height, width), strict=True)
        )
        return _composed(sample, [((slice(top, top + height), slice(left, left + width)), other())])


@dataclass(frozen=True)
class Mosaic:
    """Four samples in four quarters about a random point (YOLOv4, Bochkovskiy et al. 2020); this one keeps the upper left.

    Args:
        centre: where the point lies, as a share of height and of width, uniform.
    """

    centre: tuple[float, float] = (0.3, 0.7)
    probability: float = 0.5
    name: Literal["mosaic"] = field(default="mosaic", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.centre[0] <= self.centre[1] < 1:
            raise UserError(
                f"mosaic.centre: expected two shares between 0 and 1, the lower first, found {self.centre[0]} and {self.centre[1]}."
            )

    def mix(self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """See `Mixing`."""
        row_, column = (round(length * rng.uniform(*self.centre)) for length in sample.size)
        above, below, before, after = slice(0, row_), slice(row_, None), slice(0, column), slice(column, None)
        return _composed(sample, [(window, other()) for window in ((above, after), (below, before), (below, after))])


MixingOperation = CutMix | Mosaic
"""Those of this file; what a configuration may name."""


def mix_semantic(target: SemanticMap, parts: Sequence[tuple[Window, SemanticMap]]) -> SemanticMap:
    """`target` with the windows of others in it. Raises UserError when label spaces differ."""
    labels = target.labels.copy()
    for window, part in parts:
        if part.space != target.space:
            raise UserError("Samples can only be mixed when they have the same classes.")
        labels[window] = part.labels[window]
    return replace(target, labels=labels, scores=None)


MIXED: Mapping[type, Callable[[Any, Sequence[tuple[Window, Any]]], Any]] = {SemanticMap: mix_semantic}
"""Type of target -> function(target, [(window, other target)]) -> target."""


def _composed(sample: Sample, parts: Sequence[tuple[Window, Sample]]) -> Sample:
    target = sample.target
    if target is None or any(part.target is None for _, part in parts):
        raise UserError(f"'{sample.name}' cannot be mixed: a sample has no mask.")
    image = sample.image.copy()
    for window, part in parts:
        _check(sample, part.size, part)
        image[window] = part.image[window]
    mixed = row(MIXED, target, "Mixing")(target, [(window, part.target) for window, part in parts])
    return replace(sample, image=image, target=mixed)


def _check(sample: Sample, size: Size, part: Sample) -> None:
    if size != sample.size or part.image.shape != sample.image.shape or part.image.dtype != sample.image.dtype:
        raise UserError(
            f"'{sample.name}' {sample.image.shape} {sample.image.dtype} and '{part.name}' {part.image.shape} "
            f"{part.image.dtype} cannot be mixed: shape (height, width, channels) and type must be equal."
        )
