"""Geometric operations. Each draws its parameters and adds one step to a `Warp`; no pixel is touched here.

The crops take their size from the pipeline, so that one number changes it everywhere. They may stand anywhere in the
chain: what a later rotation turns into view is the real surrounding of the crop, since the source is read only once.
"""

from dataclasses import dataclass, field
from math import cos, exp, log, pi, sin
from typing import Literal, Protocol

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.targets import Size
from nuriwake.transforms.warp import Warp, scaling, translation

Range = tuple[float, float]
"""(lowest, highest), both possible."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a pipeline asks of its operations.

    Args:
        size: (height, width) that crops and resizes produce, without the pipeline's margin.
        focus: the source pixel (y, x) that a crop should contain; None for any crop.
    """

    size: Size
    focus: tuple[int, int] | None = None


class Geometric(Protocol):
    """One geometric operation: a frozen dataclass of plain fields."""

    @property
    def probability(self) -> float:
        """How often it happens, 0..1."""
        ...

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """`warp` followed by this operation, its parameters drawn from `rng`."""
        ...


@dataclass(frozen=True)
class HorizontalFlip:
    """Left becomes right."""

    probability: float = 0.5
    name: Literal["horizontal_flip"] = field(default="horizontal_flip", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        return warp.affine(translation(warp.size[1], 0) @ scaling(-1, 1), warp.size)


@dataclass(frozen=True)
class VerticalFlip:
    """Top becomes bottom."""

    probability: float = 0.5
    name: Literal["vertical_flip"] = field(default="vertical_flip", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        return warp.affine(translation(0, warp.size[0]) @ scaling(1, -1), warp.size)


@dataclass(frozen=True)
class Rotate90:
    """A turn by 90, 180 or 270 degrees counter-clockwise, equally often; the canvas turns with it. 0 is 'not at all'."""

    probability: float = 0.75
    name: Literal["rotate_90"] = field(default="rotate_90", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        for _ in range(int(rng.integers(1, 4))):
            height, width = warp.size
            turn = np.array([[0, -1, width], [1, 0, 0], [0, 0, 1.0]])  # numpy.rot90: new (x, y) shows old (W - y, x)
            warp = warp.affine(turn, (width, height))
        return warp


@dataclass(frozen=True)
class ShiftScaleRotate:
    """A shift, a zoom and a turn about the centre of the canvas, which keeps its size.

    Args:
        shift: of the canvas's sides, in both directions, uniform.
        zoom: above 1 magnifies; log-uniform, so that halving is as likely as doubling.
        degrees: counter-clockwise, uniform.
    """

    shift: float = 0.0625
    zoom: Range = (0.8, 1.25)
    degrees: Range = (-15.0, 15.0)
    probability: float = 0.5
    name: Literal["shift_scale_rotate"] = field(default="shift_scale_rotate", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.zoom, "shift_scale_rotate.zoom", positive=True)
        _check_range(self.degrees, "shift_scale_rotate.degrees")

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        height, width = warp.size
        right, down = rng.uniform(-self.shift, self.shift, 2) * (width, height)
        zoom, angle = _log_uniform(rng, self.zoom), rng.uniform(*self.degrees) * pi / 180
        # y runs downwards: counter-clockwise on the screen is this sign.
        back = np.array([[cos(angle), -sin(angle), 0], [sin(angle), cos(angle), 0], [0, 0, 1.0]])
        to_centre, from_centre = translation(width / 2, height / 2), translation(-width / 2 - right, -height / 2 - down)
        return warp.affine(to_centre @ scaling(1 / zoom, 1 / zoom) @ back @ from_centre, warp.size)


@dataclass(frozen=True)
class Elastic:
    """A smooth random deformation: Gaussian displacements on a coarse grid, cubic in between (U-Net, Ronneberger 2015, 3.1).

    Args:
        cells: of the coarse grid along the shorter side; few are gentle waves, many are crumpled paper.
        strength: standard deviation of the displacements in cells; beyond 0.25 the image may fold over itself.
    """

    cells: int = 4
    strength: float = 0.12
    probability: float = 0.3
    name: Literal["elastic"] = field(default="elastic", kw_only=True)

    def __post_init__(self) -> None:
        _check_cells(self.cells, "elastic.cells")
        if not 0 <= self.strength <= 1:
            raise UserError(f"elastic.strength: expected 0 to 1 of a cell, found {self.strength}; 0.12 is usual.")

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        height, width = warp.size
        cell = min(height, width) / self.cells
        rows, columns = (max(2, round(side / cell)) for side in (height, width))
        coarse = rng.standard_normal((rows + 1, columns + 1, 2), np.float32) * np.float32(self.strength * cell)
        # Eight fine nodes per cell: bilinear between them is as good as the cubic itself.
        return warp.displace(cv2.resize(coarse, (columns * 8 + 1, rows * 8 + 1), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True)
class GridDistortion:
    """Rows and columns of a grid become unequally wide, as if the paper were stretched in places; the outline stays.

    Args:
        cells: of the grid along each side.
        strength: how much wider or narrower a cell may become, as a share of it; uniform, below 1 never folds.
    """

    cells: int = 5
    strength: float = 0.3
    probability: float = 0.3
    name: Literal["grid_distortion"] = field(default="grid_distortion", kw_only=True)

    def __post_init__(self) -> None:
        _check_cells(self.cells, "grid_distortion.cells")
        if not 0 <= self.strength < 1:
            raise UserError(
                f"grid_distortion.strength: expected 0 to below 1, where the image would fold, found {self.strength}."
            )

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        moves = [self._moves(side, rng) for side in (warp.size[1], warp.size[0])]
        across, down = np.meshgrid(*moves)
        return warp.displace(np.stack([across, down], axis=2))

    def _moves(self, side: int, rng: np.random.Generator) -> np.ndarray:
        widths = 1 + rng.uniform(-self.strength, self.strength, self.cells)
        lines = np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum()
        return (lines - np.linspace(0, 1, self.cells + 1)) * side


@dataclass(frozen=True)
class RandomCrop:
    """A window of the pipeline's size, anywhere, seen through a random zoom.

    The window covers `size / zoom` of the canvas: less of it when magnified, and more, even more than there is, when
    reduced. A window fits into the canvas where it can; where it is larger, the canvas lies anywhere in it and the rest
    is border. With a focus the window is centred on it, up to `jitter`, and moved no further than to fit.

    Args:
        zoom: 1 shows pixels as they are; log-uniform.
        stretch: how much wider than high things may become, width over height; log-uniform.
        jitter: how far off the centre a focus may lie, as a share of the window's half side.
    """

    zoom: Range = (1.0, 1.0)
    stretch: Range = (1.0, 1.0)
    jitter: float = 0.5
    probability: float = 1.0
    name: Literal["random_crop"] = field(default="random_crop", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.zoom, "random_crop.zoom", positive=True)
        _check_range(self.stretch, "random_crop.stretch", positive=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        zoom, stretch = _log_uniform(rng, self.zoom), _log_uniform(rng, self.stretch) ** 0.5
        window = (max(1, round(request.size[0] / zoom * stretch)), max(1, round(request.size[1] / zoom / stretch)))
        top, left = _place(warp, window, request, jitter=self.jitter, rng=rng)
        return _show(warp, top, left, window, request.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A window of random area and shape inside the canvas, resized to the pipeline's size (torchvision's rule).

    Args:
        area: share of the canvas, uniform.
        ratio: width over height of the window, log-uniform. After ten misses the largest central window that fits.
        jitter: see `RandomCrop`.
    """

    area: Range = (0.2, 1.0)
    ratio: Range = (0.75, 4 / 3)
    jitter: float = 0.5
    probability: float = 1.0
    name: Literal["random_resized_crop"] = field(default="random_resized_crop", kw_only=True)

    def __post_init__(self) -> None:
        _check_range(self.area, "random_resized_crop.area", positive=True)
        if self.area[1] > 1:
            raise UserError(f"random_resized_crop.area: expected shares of the image up to 1, found {self.area[1]}.")
        _check_range(self.ratio, "random_resized_crop.ratio", positive=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        window = self._window(warp.size, rng)
        top, left = _place(warp, window, request, jitter=self.jitter, rng=rng)
        return _show(warp, top, left, window, request.size)

    def _window(self, canvas: Size, rng: np.random.Generator) -> Size:
        for _ in range(10):
            area, ratio = rng.uniform(*self.area) * canvas[0] * canvas[1], _log_uniform(rng, self.ratio)
            height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < height <= canvas[0] and 0 < width <= canvas[1]:
                return height, width
        ratio = min(max(canvas[1] / canvas[0], self.ratio[0]), self.ratio[1])
        return max(1, min(canvas[0], round(canvas[1] / ratio))), max(1, min(canvas[1], round(canvas[0] * ratio)))


@dataclass(frozen=True)
class PadIfNeeded:
    """Border on all sides until the canvas is at least of the pipeline's size; what was there stays in the centre."""

    probability: float = 1.0
    name: Literal["pad_if_needed"] = field(default="pad_if_needed", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        size = max(warp.size[0], request.size[0]), max(warp.size[1], request.size[1])
        return central_window(warp, size)


@dataclass(frozen=True)
class CentralCrop:
    """The middle of the canvas at the pipeline's size, with border where the canvas is smaller."""

    probability: float = 1.0
    name: Literal["central_crop"] = field(default="central_crop", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        return central_window(warp, request.size)


@dataclass(frozen=True)
class Fit:
    """The whole canvas as large as the pipeline's size allows.

    Args:
        keep_shape: True keeps height to width and leaves border; False stretches.
    """

    keep_shape: bool = True
    probability: float = 1.0
    name: Literal["fit"] = field(default="fit", kw_only=True)

    def extend(self, warp: Warp, request: Request, rng: np.random.Generator) -> Warp:
        """See `Geometric`."""
        height, width = warp.size
        if not self.keep_shape:
            return _show(warp, 0, 0, warp.size, request.size)
        ratio = min(request.size[0] / height, request.size[1] / width)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        return central_window(_show(warp, 0, 0, warp.size, size), request.size)


GeometricOperation = (
    HorizontalFlip
    | VerticalFlip
    | Rotate90
    | ShiftScaleRotate
    | Elastic
    | GridDistortion
    | RandomCrop
    | RandomResizedCrop
    | PadIfNeeded
    | CentralCrop
    | Fit
)
"""Those of this file; what a configuration may name."""


def central_window(warp: Warp, size: Size) -> Warp:
    """`warp` with its canvas cropped or padded about the centre to `size`; whole pixels."""
    if warp.size == size:
        return warp
    return warp.window((warp.size[0] - size[0]) // 2, (warp.size[1] - size[1]) // 2, size)


def _show(warp: Warp, top: int, left: int, window: Size, size: Size) -> Warp:
    scale = scaling(window[1] / size[1], window[0] / size[0])
    return warp.affine(translation(left, top) @ scale, size)


def _place(warp: Warp, window: Size, request: Request, *, jitter: float, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a window of the canvas of `warp`: around the focus, else uniform."""
    if request.focus is None:
        free = [warp.size[axis] - window[axis] for axis in (0, 1)]
        top, left = (int(rng.integers(min(room, 0), max(room, 0) + 1)) for room in free)
        return top, left
    focus = warp.landing((request.focus[0] + 0.5, request.focus[1] + 0.5))
    offsets = (0.5 + 0.5 * jitter * rng.uniform(-1, 1, 2)) * window
    top, left = (
        _into(int(np.floor(focus[axis] - offsets[axis] + 0.5)), warp.size[axis] - window[axis]) for axis in (0, 1)
    )
    return top, left


def _into(start: int, room: int) -> int:
    return min(max(start, min(room, 0)), max(room, 0))


def _log_uniform(rng: np.random.Generator, span: Range) -> float:
    return span[0] if span[0] == span[1] else exp(rng.uniform(log(span[0]), log(span[1])))


def _check_cells(cells: int, what: str) -> None:
    if cells < 1:
        raise UserError(f"{what}: expected 1 or more cells along a side, found {cells}.")


def _check_range(span: Range, what: str, *, positive: bool = False) -> None:
    if not span[0] <= span[1] or (positive and span[0] <= 0):
        needed = "two positive numbers, the lower first" if positive else "two numbers, the lower first"
        raise UserError(f"{what}: expected {needed}, found {span[0]} and {span[1]}.")
