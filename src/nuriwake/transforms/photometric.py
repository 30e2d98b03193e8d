"""Photometric operations: what changes the values of pixels and leaves the labels alone.

Each draws its parameters and gives one stage; `nuriwake.transforms.toning` runs the stages, several in one pass where
it can. Values are in units of the image's maximum (`toning.Units`), so that a range means the same for 8 bit, 12 bit and float images.
"""

from dataclasses import dataclass, field
from math import cos, exp, log, pi, sin
from typing import Literal, Protocol

import numpy as np

from nuriwake.core.errors import UserError

Range = tuple[float, float]
"""(lowest, highest), both possible."""


@dataclass(frozen=True, eq=False)
class Tone:
    """value -> ((value - mean) * contrast + mean + brightness) ** gamma, channel by channel.

    `contrast`, `brightness` (C,); `mean` is the image's, per channel. uint8 and uint16 images are kept in what they can
    hold, 0..255 and 0..65535; float32 images have no bounds, and a value below 0 keeps its sign: -(-value) ** gamma.
    """

    contrast: np.ndarray
    brightness: np.ndarray
    gamma: float = 1.0


@dataclass(frozen=True, eq=False)
class Mix:
    """RGB -> `matrix` (3, 3) @ RGB."""

    matrix: np.ndarray


@dataclass(frozen=True)
class Smooth:
    """A Gaussian blur of `sigma` pixels."""

    sigma: float


@dataclass(frozen=True)
class Grain:
    """Independent Gaussian noise of `deviation` in every value, from `seed`."""

    deviation: float
    seed: int


Stage = Tone | Mix | Smooth | Grain


class Photometric(Protocol):
    """One photometric operation: a frozen dataclass of plain fields."""

    @property
    def probability(self) -> float:
        """How often it happens, 0..1."""
        ...

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """The stage for an image of `channels` channels, its parameters drawn from `rng`."""
        ...


@dataclass(frozen=True)
class BrightnessContrast:
    """Lighter or darker, flatter or steeper about the mean of each channel.

    Args:
        brightness: added, uniform in plus and minus, in units of the maximum.
        contrast: how much steeper or flatter, uniform: 0.2 multiplies by 0.8 to 1.2.
        per_channel: every channel its own numbers, as for sensors whose bands drift apart; False: one for all.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    per_channel: bool = False
    probability: float = 0.5
    name: Literal["brightness_contrast"] = field(default="brightness_contrast", kw_only=True)

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """See `Photometric`."""
        count = channels if self.per_channel else 1
        contrast = 1 + rng.uniform(-self.contrast, self.contrast, count)
        brightness = rng.uniform(-self.brightness, self.brightness, count)
        return Tone(np.resize(contrast, channels), np.resize(brightness, channels))


@dataclass(frozen=True)
class Gamma:
    """value ** gamma: below 1 lifts the shadows, above 1 deepens them; log-uniform."""

    gamma: Range = (0.8, 1.25)
    probability: float = 0.3
    name: Literal["gamma"] = field(default="gamma", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.gamma, "gamma.gamma", above=0)

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """See `Photometric`."""
        exponent = exp(rng.uniform(log(self.gamma[0]), log(self.gamma[1])))
        return Tone(np.ones(channels), np.zeros(channels), exponent)


@dataclass(frozen=True)
class HueSaturation:
    """Colours turned about the grey axis and made paler or stronger; RGB images only.

    Linear, in the YIQ sense: grey stays grey and the luma (BT.601) stays, so that the whole operation is one 3x3 matrix.

    Args:
        hue: degrees, uniform in plus and minus.
        saturation: uniform: 0.3 multiplies the distance from grey by 0.7 to 1.3.
    """

    hue: float = 10.0
    saturation: float = 0.3
    probability: float = 0.5
    name: Literal["hue_saturation"] = field(default="hue_saturation", kw_only=True)

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """See `Photometric`. Raises UserError when the image has not 3 channels."""
        if channels != 3:
            raise UserError(
                f"hue_saturation needs RGB images of 3 channels, found {channels}; take it out of the photometric operations "
                "(the presets leave it out by themselves when they are told the channels)."
            )
        angle, strength = (
            rng.uniform(-self.hue, self.hue) * pi / 180,
            1 + rng.uniform(-self.saturation, self.saturation),
        )
        turn = np.eye(3)
        turn[1:, 1:] = strength * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
        return Mix(_FROM_YIQ @ turn @ _TO_YIQ)


@dataclass(frozen=True)
class Blur:
    """Out of focus: a Gaussian of `sigma` pixels, uniform."""

    sigma: Range = (0.3, 1.5)
    probability: float = 0.1
    name: Literal["blur"] = field(default="blur", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.sigma, "blur.sigma", above=0)

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """See `Photometric`."""
        return Smooth(rng.uniform(*self.sigma))


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of `deviation`, uniform, in units of the maximum."""

    deviation: Range = (0.0, 0.04)
    probability: float = 0.1
    name: Literal["noise"] = field(default="noise", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.deviation, "noise.deviation", above=-1e-9)

    def draw(self, channels: int, rng: np.random.Generator) -> Stage:
        """See `Photometric`."""
        return Grain(rng.uniform(*self.deviation), int(rng.integers(1 << 63)))


PhotometricOperation = BrightnessContrast | Gamma | HueSaturation | Blur | Noise
"""Those of this file; what a configuration may name."""

# NTSC 1953: Y is the BT.601 luma, I and Q span the colours.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_YIQ[1:] -= _TO_YIQ[1:].mean(axis=1, keepdims=True)  # exactly no colour in grey
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _check_range(span: Range, what: str, *, above: float) -> None:
    if not above < span[0] <= span[1]:
        raise UserError(f"{what}: expected two numbers, the lower first, found {span[0]} and {span[1]}.")
