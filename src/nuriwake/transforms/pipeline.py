"""Pipeline: geometry in one warp, photometry in as few passes as possible, always exactly the size asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor
from typing import Literal, Protocol, TypeVar

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.pixels import scale_offset
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Size, Target
from nuriwake.transforms.geometric import Geometric, GeometricOperation, Request, central_window
from nuriwake.transforms.mixing import Mixing, MixingOperation
from nuriwake.transforms.photometric import Photometric, PhotometricOperation, Stage
from nuriwake.transforms.sampling import Border
from nuriwake.transforms.targets import warp_target
from nuriwake.transforms.toning import Scale, Units, tone_image, tone_input
from nuriwake.transforms.warp import Warp

Operation = TypeVar("Operation", Geometric, Photometric, Mixing)

Other = Callable[[], Sample]
"""Another sample at every call, not augmented yet."""


class Transform(Protocol):
    """Anything that changes a sample with the randomness of the generator it is given, and no other."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample; the one given stays as it is."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """The operations of `geometric` in order, as one warp, then those of `mixing`, then those of `photometric` in order.

    Whatever the operations do, the result has exactly `size`: a canvas of another size is cropped or padded about its
    centre at the end. Label pixels that no pixel of the source answers for become `IGNORE`.

    Args:
        geometric: see `nuriwake.transforms.geometric`.
        photometric: see `nuriwake.transforms.photometric`.
        size: (height, width) of what comes out.
        mixing: see `nuriwake.transforms.mixing`; the other samples go through the same geometry. Off by default.
        border: what the image shows beyond its border; "mean" is the mean value of the image.
        fill: the image's value there for the constant border, in the image's own units.
        maximum: the value of full brightness, the unit of the photometric operations; None for that of the dtype (255,
            65535, 1.0). A 12-bit camera says 4095, a CT in Hounsfield units about 3000. Nothing is clipped to it. `Units` say
            it channel by channel, for bands of different ranges.
        margin: pixels on every side of the result for which the model gives no answer (`Model.margin`). What is within them is
            placed by the operations, and holds a focus, so that the loss sees images to their very border; the margin shows
            what lies around it, and `border` where that is beyond the image.
    """

    geometric: tuple[GeometricOperation, ...]
    photometric: tuple[PhotometricOperation, ...]
    size: Size
    mixing: tuple[MixingOperation, ...] = field(default=(), kw_only=True)
    border: Border | Literal["mean"] = field(default="reflect", kw_only=True)
    fill: float = field(default=0.0, kw_only=True)
    maximum: float | Units | None = field(default=None, kw_only=True)
    margin: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise UserError(f"size: expected a positive height and width, found {self.size[0]}x{self.size[1]}.")
        if not 0 <= 2 * self.margin < min(self.size):
            raise UserError(
                f"margin: expected 0 to less than half of the size {self.size[0]}x{self.size[1]}, found {self.margin}."
            )
        for operation in (*self.geometric, *self.photometric, *self.mixing):
            if not 0 <= operation.probability <= 1:
                raise UserError(
                    f"{operation.name}.probability: expected 0 to 1, found {operation.probability}; 1 means always."
                )

    def __call__(
        self,
        sample: Sample,
        rng: np.random.Generator,
        *,
        focus: tuple[int, int] | None = None,
        other: Other | None = None,
    ) -> Sample:
        """`sample` augmented, image in its own dtype.

        Args:
            sample: stays as it is.
            rng: the only source of randomness: the same state gives the same result.
            focus: (y, x) of a pixel of the sample that the result is to contain, for patches that must show something;
                `mixing` does not cover it.
            other: another sample at every call; needed by `mixing` alone.
        """
        whole = self._warped(sample, rng, focus, other)
        image = tone_image(whole.image, self._stages(whole, rng), maximum=self.maximum)
        return replace(whole, image=np.ascontiguousarray(image))

    def prepare(
        self,
        sample: Sample,
        rng: np.random.Generator,
        *,
        mean: Sequence[float],
        deviation: Sequence[float],
        maximum: float,
        focus: tuple[int, int] | None = None,
        other: Other | None = None,
    ) -> tuple[np.ndarray, Target | None]:
        """`sample` augmented and normalised for a model in one pass: what `normalise(self(sample, rng).image, ..)` gives.

        It differs from that by at most the rounding to whole values, which does not happen here.

        Returns:
            float32 (C, *size) and the target.
        """
        scale, offset = scale_offset(mean, deviation, maximum=maximum, channels=sample.image.shape[2])
        whole = self._warped(sample, rng, focus, other)
        stages = self._stages(whole, rng)
        return tone_input(whole.image, stages, Scale(scale, offset), maximum=self.maximum), whole.target

    def plan(self, source: Size, rng: np.random.Generator, *, focus: tuple[int, int] | None = None) -> Warp:
        """The warp from an image of size `source` to `size`, its parameters drawn from `rng`."""
        inner = self.size[0] - 2 * self.margin, self.size[1] - 2 * self.margin
        request = Request(inner, focus)
        warp = Warp.identity(source)
        for operation in drawn(self.geometric, rng):
            warp = operation.extend(warp, request, rng)
        warp = central_window(warp, inner)
        if focus is not None:
            warp = _containing(warp, focus)
        # Pixels are read through the whole warp: around the inner window is what the image shows there.
        return warp.window(-self.margin, -self.margin, self.size) if self.margin else warp

    def _warped(
        self, sample: Sample, rng: np.random.Generator, focus: tuple[int, int] | None, other: Other | None
    ) -> Sample:
        """Geometry, then mixing."""
        warp = self.plan(sample.size, rng, focus=focus)
        whole = self._shown(sample, warp)
        landed = None if focus is None else _landed(warp, focus)
        for operation in drawn(self.mixing, rng):
            if other is None:
                raise UserError(f"{operation.name} needs other samples to mix in: give the pipeline `other`.")
            fresh = partial(self._next, other, rng)
            # One's own operation need not know of a focus, as long as nobody asks for one.
            whole = (
                operation.mix(whole, fresh, rng) if landed is None else operation.mix(whole, fresh, rng, focus=landed)
            )
        return whole

    def _next(self, other: Other, rng: np.random.Generator) -> Sample:
        sample = other()
        return self._shown(sample, self.plan(sample.size, rng))

    def _shown(self, sample: Sample, warp: Warp) -> Sample:
        target = None if sample.target is None else warp_target(sample.target, warp)
        border, fill = ("constant", _mean(sample.image)) if self.border == "mean" else (self.border, self.fill)
        return replace(sample, image=warp.image(sample.image, border=border, fill=fill), target=target)

    def _stages(self, sample: Sample, rng: np.random.Generator) -> list[Stage]:
        channels = sample.image.shape[2]
        return [operation.draw(channels, rng) for operation in drawn(self.photometric, rng)]


def _mean(image: np.ndarray) -> float:
    """Of one value in 64, which is close enough; 0 where they are no numbers."""
    value = float(image[::8, ::8].mean())
    return value if np.isfinite(value) else 0.0


def drawn(operations: Sequence[Operation], rng: np.random.Generator) -> list[Operation]:
    """Those of `operations` that happen this time."""
    return [operation for operation in operations if operation.probability >= 1 or rng.random() < operation.probability]


def _containing(warp: Warp, focus: tuple[int, int]) -> Warp:
    # A later turn or shift may push the focus out of its crop; the canvas then follows by whole pixels.
    y, x = warp.landing((focus[0] + 0.5, focus[1] + 0.5))
    top, left = (_outside(position, side) for position, side in zip((y, x), warp.size, strict=True))
    return warp if top == left == 0 else warp.window(top, left, warp.size)


def _landed(warp: Warp, focus: tuple[int, int]) -> tuple[int, int]:
    """The pixel (y, x) of the canvas that the focus lands in; the canvas is one that contains it."""
    y, x = warp.landing((focus[0] + 0.5, focus[1] + 0.5))
    # Rounding may put what lands on the very edge beyond it.
    return min(max(floor(y), 0), warp.size[0] - 1), min(max(floor(x), 0), warp.size[1] - 1)


def _outside(position: float, side: int) -> int:
    pixel = floor(position)
    return pixel - min(max(pixel, 0), side - 1)
