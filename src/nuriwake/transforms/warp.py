"""One warp for a whole chain of geometric operations.

Coordinates are (x, y) in pixels with the edges of the image at 0 and W (the centre of pixel i lies at i + 0.5), so that
flips, turns and changes of size need no half-pixel corrections. Every step leads from the new canvas back to the
former one: the last canvas is the output, the first the untouched source. Images are read with bilinear interpolation,
label maps take exactly the pixel that contains the point.
"""

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from nuriwake.core.labels import IGNORE
from nuriwake.core.targets import Size
from nuriwake.transforms.sampling import (
    Beyond,
    Border,
    affine_grid,
    axis_aligned,
    displace,
    nearest_axes,
    nearest_grid,
    reduction,
    sample_affine,
    sample_grid,
    sample_window,
)


@dataclass(frozen=True, eq=False)
class Displacement:
    """A smooth displacement of a canvas: `nodes` (rows, columns, 2), float32, (dx, dy) in pixels.

    The nodes are spread evenly from edge to edge of the canvas of `size`; between them the displacement is bilinear,
    beyond the canvas it is that of its border.
    """

    nodes: np.ndarray
    size: Size


Step = np.ndarray | Displacement
"""A (3, 3) float64 matrix or a displacement, from the points of the new canvas to those of the former one."""


@dataclass(frozen=True, eq=False)
class Warp:
    """From an image of size `source` to a canvas of `size`; `steps` lead back, the first of them into the source."""

    source: Size
    size: Size
    steps: tuple[Step, ...] = ()

    @staticmethod
    def identity(source: Size) -> "Warp":
        """The warp that changes nothing."""
        return Warp(source, source)

    def affine(self, matrix: np.ndarray, size: Size) -> "Warp":
        """Followed by a new canvas of `size` whose points `matrix` (3, 3) leads back to the present canvas."""
        if self.steps and isinstance(self.steps[-1], np.ndarray):
            return Warp(self.source, size, (*self.steps[:-1], self.steps[-1] @ matrix))
        return Warp(self.source, size, (*self.steps, matrix.astype(np.float64)))

    def window(self, top: float, left: float, size: Size) -> "Warp":
        """Followed by the window of `size` at (top, left) of the present canvas; it may reach beyond it."""
        return self.affine(translation(left, top), size)

    def displace(self, nodes: np.ndarray) -> "Warp":
        """Followed by a displacement of the present canvas, see `Displacement`."""
        return replace(self, steps=(*self.steps, Displacement(nodes.astype(np.float32), self.size)))

    @property
    def matrix(self) -> np.ndarray:
        """The product of the affine steps, (3, 3): the whole warp when nothing is displaced."""
        matrices = [step for step in self.steps if isinstance(step, np.ndarray)]
        return reduce(np.matmul, matrices) if matrices else np.eye(3)

    @property
    def is_affine(self) -> bool:
        """No step is a displacement."""
        return all(isinstance(step, np.ndarray) for step in self.steps)

    def landing(self, point: tuple[float, float]) -> tuple[float, float]:
        """Where the source point (y, x) lands on the canvas, (y, x); by fixed-point iteration through displacements."""
        here = np.array([point[1], point[0], 1.0])
        for step in self.steps:
            here = np.linalg.solve(step, here) if isinstance(step, np.ndarray) else _undo_displacement(step, here)
        return float(here[1]), float(here[0])

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The source point (x, y) of every pixel centre of the canvas: two float32 arrays (H, W)."""
        height, width = self.size
        x, y = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
        steps = list(self.steps)
        affine_grid(np.ascontiguousarray(_pop_matrix(steps)), x, y)
        while steps:
            step = steps.pop()
            assert isinstance(step, Displacement)
            displace(x, y, step.nodes, step.size[0], step.size[1], np.ascontiguousarray(_pop_matrix(steps)))
        return x, y

    def image(self, image: np.ndarray, *, border: Border = "reflect", fill: float = 0.0) -> np.ndarray:
        """`image` (H, W, C), uint8, uint16 or float32, of size `source` -> (h, w, C) of `size`, bilinear.

        Where the canvas shows the source two or more times smaller, the source is first averaged over whole pixels by
        that factor, so that nothing aliases. `fill` is the value beyond the image for the constant border.
        """
        rule, matrix = Beyond(border, fill), self.matrix
        if not self.is_affine:
            return sample_grid(image, *self.grid(), reduction(matrix), rule)
        if axis_aligned(matrix):
            return sample_window(image, matrix, self.size, rule)
        return sample_affine(image, matrix, self.size, rule)

    def labels(self, labels: np.ndarray, *, fill: int = IGNORE) -> np.ndarray:
        """`labels` (H, W) or (H, W, K), any dtype, of size `source` -> `size`: the very pixel under each point.

        Points beyond the source become `fill`: invented pixels teach nothing.
        """
        layers = labels if labels.ndim == 3 else labels[..., None]
        out = np.empty((*self.size, layers.shape[2]), labels.dtype)
        matrix = self.matrix
        if self.is_affine and axis_aligned(matrix):
            nearest_axes(layers, matrix, fill, out)
        else:
            nearest_grid(layers, *self.grid(), fill, out)
        return out if labels.ndim == 3 else out[..., 0]


def translation(x: float, y: float) -> np.ndarray:
    """The (3, 3) matrix that adds (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """The (3, 3) matrix that multiplies by (x, y)."""
    return np.diag([x, y, 1.0])


def _pop_matrix(steps: list[Step]) -> np.ndarray:
    if steps and isinstance(steps[-1], np.ndarray):
        matrix = steps.pop()
        assert isinstance(matrix, np.ndarray)
        return matrix
    return np.eye(3)


def _undo_displacement(step: Displacement, target: np.ndarray) -> np.ndarray:
    # p + d(p) = target; a displacement that does not fold is a contraction, so that p <- target - d(p) converges.
    here = target.copy()
    x, y = np.empty((1, 1), np.float32), np.empty((1, 1), np.float32)
    for _ in range(30):
        x[0, 0], y[0, 0] = here[0], here[1]
        displace(x, y, step.nodes, step.size[0], step.size[1], np.eye(3))
        here = here + target - np.array([x[0, 0], y[0, 0], 1.0])
        here[2] = 1.0
    return here
