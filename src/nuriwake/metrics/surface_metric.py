"""Surface metrics per class over a data set: means over images, with the images that have no finite value counted."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.scores import mean_of_present, ratio
from nuriwake.metrics.surface import (
    Definition,
    Spacing,
    average_surface_distance,
    hausdorff_distance,
    normalised_surface_dice,
)

SURFACE_METRICS: dict[str, str] = {
    "hd95_directed_max": "HD95: 95th percentile of each direction over edge pixels, the larger one (MONAI); lower is better",
    "hd95_pooled": "HD95: 95th percentile of both directions together over edge pixels (MedPy); lower is better",
    "hd95_surface_weighted": "HD95: length-weighted 95th percentile, the larger direction (DeepMind); lower is better",
    "hausdorff": "plain Hausdorff distance over edge pixels; lower is better",
    "average_surface_distance": "ASSD: mean distance of both directions together over edge pixels; lower is better",
    "nsd": "normalised surface Dice: share of the outlines within the tolerance (Nikolov 2018); higher is better",
}
"""Every surface metric: name -> what it is."""


@dataclass(frozen=True)
class SurfaceScores:
    """What the images of a data set amount to for one class.

    Args:
        means: name of `SURFACE_METRICS` -> mean over images; nan without an image. Distances: over images that have the class
            in truth and prediction. NSD: also over `missed` and `invented`, with 0.
        images: truth and prediction have the class.
        missed: only the truth has it; its distances are infinite and are not in the means.
        invented: only the prediction has it; likewise.
        absent: neither has it.
    """

    means: dict[str, float]
    images: int
    missed: int
    invented: int
    absent: int


class SurfaceMetric:
    """Sums of the surface metrics per class over images. Class 0 of a space with a background, or a binary one, is left out.

    Pixels whose truth is ignore belong to no mask; ignore in a prediction is no class.

    Args:
        space: the label space of all maps.
        tolerance: of the normalised surface Dice, in the units of the spacing.
    """

    def __init__(self, space: LabelSpace, *, tolerance: float = 1.0) -> None:
        if tolerance < 0:
            raise UserError(f"The tolerance of the normalised surface Dice must be at least 0, found {tolerance}.")
        self.space = space
        self.tolerance = tolerance
        self.classes = tuple(range(1 if space.binary or space.has_background else 0, len(space)))
        self._sums = np.zeros((len(self.classes), len(SURFACE_METRICS)))
        self._images = np.zeros((len(self.classes), 4), np.int64)

    def update(
        self, prediction: SemanticMap, target: SemanticMap, *, spacing: Spacing = (1.0, 1.0)
    ) -> dict[str, dict[str, float]]:
        """Count one image; returns class name -> metric -> value of this image (nan: absent, inf: one of them is empty)."""
        for found in (prediction, target):
            if len(found.space) != len(self.space) or found.space.exclusive != self.space.exclusive:
                raise UserError(f"This metric counts {len(self.space)} classes of one kind, found other classes.")
        if prediction.size != target.size:
            raise UserError(
                f"Prediction and target must have the same size, found {prediction.size} and {target.size}."
            )
        pairs = [_masks(prediction, target, index) for index in self.classes]
        values = [_measure(*pair, self.tolerance, spacing) for pair in pairs]
        for row, (pair, found) in enumerate(zip(pairs, values, strict=True)):
            numbers = np.array(list(found.values()))
            self._sums[row] += np.where(np.isfinite(numbers), numbers, 0.0)
            self._images[row, _presence(*pair)] += 1
        return {self.space.names[index]: found for index, found in zip(self.classes, values, strict=True)}

    def compute(self) -> dict[str, float]:
        """Metric -> mean over the classes of their means over images; nan when no class has one."""
        means = self._means()
        return {name: mean_of_present(means[:, column]) for column, name in enumerate(SURFACE_METRICS)}

    def per_class(self) -> dict[str, SurfaceScores]:
        """Class name -> its means and the images they do and do not go over."""
        return {
            self.space.names[index]: SurfaceScores(
                dict(zip(SURFACE_METRICS, map(float, means), strict=True)), *map(int, images)
            )
            for index, means, images in zip(self.classes, self._means(), self._images, strict=True)
        }

    def merge(self, other: "SurfaceMetric") -> None:
        """Add what `other` has counted; it must have the same space and tolerance."""
        if other.classes != self.classes or other.tolerance != self.tolerance:
            raise UserError("Surface metrics merge only with the same classes and the same tolerance.")
        theirs = other.counts()
        self.load({name: value + theirs[name] for name, value in self.counts().items()})

    def counts(self) -> dict[str, np.ndarray]:
        """The state: `surface_sums` (K, M) float64 and `surface_images` (K, 4) int64: both, missed, invented, absent."""
        return {"surface_sums": self._sums.copy(), "surface_images": self._images.copy()}

    def load(self, counts: Mapping[str, np.ndarray]) -> None:
        """Take the state that `counts()` gave."""
        self._sums = np.array(counts["surface_sums"], np.float64).reshape(self._sums.shape)
        self._images = np.array(counts["surface_images"], np.int64).reshape(self._images.shape)

    def _means(self) -> np.ndarray:
        both, scored = self._images[:, 0], self._images[:, :3].sum(1)
        denominators = [scored if name == "nsd" else both for name in SURFACE_METRICS]
        return ratio(self._sums, np.stack(denominators, 1))


def _measure(prediction: np.ndarray, target: np.ndarray, tolerance: float, spacing: Spacing) -> dict[str, float]:
    def hausdorff(definition: Definition, percentile: float = 95.0) -> float:
        return hausdorff_distance(prediction, target, definition=definition, percentile=percentile, spacing=spacing)

    return {
        "hd95_directed_max": hausdorff("directed_max"),
        "hd95_pooled": hausdorff("pooled"),
        "hd95_surface_weighted": hausdorff("surface_weighted"),
        "hausdorff": hausdorff("directed_max", 100.0),
        "average_surface_distance": average_surface_distance(prediction, target, spacing=spacing),
        "nsd": normalised_surface_dice(prediction, target, tolerance=tolerance, spacing=spacing),
    }


def _masks(prediction: SemanticMap, target: SemanticMap, index: int) -> tuple[np.ndarray, np.ndarray]:
    if target.space.exclusive:
        truth, predicted = target.labels, prediction.labels
        return (predicted == index) & (truth != IGNORE), truth == index
    truth, predicted = target.labels[..., index], prediction.labels[..., index]
    return (predicted == 1) & (truth != IGNORE), truth == 1


def _presence(prediction: np.ndarray, target: np.ndarray) -> int:
    """0 both, 1 missed, 2 invented, 3 absent."""
    return (0 if target.any() else 2) + (0 if prediction.any() else 1)
