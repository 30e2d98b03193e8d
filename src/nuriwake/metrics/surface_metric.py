"""Distances between outlines per class over a data set: means over images, with the images that have no finite value counted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.metric import (
    Counts,
    MetricReport,
    MetricSettings,
    Spacing,
    check_pair,
    check_shapes,
    summed,
    without_nan,
)
from nuriwake.metrics.scores import mean_of_present, ratio
from nuriwake.metrics.surface import Outlines

SURFACE_METRICS: dict[str, str] = {
    "hd95_directed_max": "HD95: 95th percentile of each direction over edge pixels, the larger one (MONAI); lower is better",
    "hd95_pooled": "HD95: 95th percentile of both directions together over edge pixels (MedPy); lower is better",
    "hd95_surface_weighted": "HD95: length-weighted 95th percentile, the larger direction (DeepMind); lower is better",
    "hausdorff": "plain Hausdorff distance over edge pixels; lower is better",
    "average_surface_distance": "ASSD: mean distance of both directions together over edge pixels; lower is better",
    "nsd": "normalised surface Dice: share of the outlines within the tolerance (Nikolov 2018); higher is better",
}
"""Every surface metric: name -> what it is. `nsd` carries its tolerance in the name where it is reported: `nsd_2`."""

_PRESENCE = ("images", "missed", "invented", "absent")


@dataclass(frozen=True)
class SurfaceScores:
    """What the images of a data set amount to for one class.

    Args:
        means: name of the score -> mean over images; nan without an image. Distances: over images that have the class
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

    Pixels whose truth is ignore belong to no mask; ignore in a prediction is no class. An edge that ignored pixels cut lies in both
    masks and counts as matched: inside a ring of void as VOC draws it, every outline wholly in the void is perfect.
    (`BoundaryIoU` has another convention: to it, an edge towards ignored pixels is none.)

    Args:
        space: the label space of all maps.
        tolerance: of the normalised surface Dice, in the units of the spacing.
    """

    def __init__(self, space: LabelSpace, *, tolerance: float = 1.0) -> None:
        if not 0 <= tolerance < float("inf"):
            raise UserError(f"The tolerance of the normalised surface Dice must be at least 0, found {tolerance}.")
        self.space = space
        self.tolerance = tolerance
        self.names = tuple(f"nsd_{tolerance:.12g}" if name == "nsd" else name for name in SURFACE_METRICS)
        self.classes = tuple(range(1 if space.binary or space.has_background else 0, len(space)))
        self._sums = np.zeros((len(self.classes), len(self.names)))
        self._images = np.zeros((len(self.classes), len(_PRESENCE)), np.int64)

    @classmethod
    def build(cls, space: LabelSpace, settings: MetricSettings) -> "SurfaceMetric":
        """As the table of metrics builds it."""
        return cls(space, tolerance=settings.tolerance)

    def update(
        self, prediction: SemanticMap, target: SemanticMap, *, spacing: Spacing = (1.0, 1.0)
    ) -> dict[str, float]:
        """Count one image; returns its own scores, means over the classes that have one.

        As over the data set, a class that only one of the maps has takes no part in the image's distances, and counts 0 in
        its NSD. nan: no class has a value.

        Raises:
            UserError: the maps differ in size, or in the number or the kind of classes.
        """
        check_pair(prediction, target, self.space)
        values = np.full(self._sums.shape, np.nan)
        for row, index in enumerate(self.classes):
            masks = _masks(prediction, target, index)
            found = np.array(_measure(*masks, self.tolerance, spacing))
            values[row] = np.where(np.isfinite(found), found, np.nan)
            self._images[row, _presence(*masks)] += 1
        self._sums += np.nan_to_num(values)
        return self._over_classes(values)

    def compute(self) -> dict[str, float]:
        """Score -> mean over the classes of their means over images; nan when no class has one."""
        return self._over_classes(self._means())

    def per_class(self) -> dict[str, SurfaceScores]:
        """Class name -> its means and the images they do and do not go over."""
        return {
            self.space.names[index]: SurfaceScores(
                dict(zip(self.names, map(float, means), strict=True)), *map(int, images)
            )
            for index, means, images in zip(self.classes, self._means(), self._images, strict=True)
        }

    def report(self) -> MetricReport:
        """`compute()`; per class the means, and in how many images the class was measured, missed and invented."""
        rows = {name: _row(scores) for name, scores in self.per_class().items()}
        return MetricReport(without_nan(self.compute()), rows)

    def merge(self, other: "SurfaceMetric") -> None:
        """Add what `other` has counted; it must have the same space and tolerance."""
        if other.classes != self.classes or other.tolerance != self.tolerance:
            raise UserError("Surface metrics merge only with the same classes and the same tolerance.")
        self.load_sum([self.counts(), other.counts()])

    def counts(self) -> dict[str, np.ndarray]:
        """The state: `surface_sums` (K, M) float64 and `surface_images` (K, 4) int64: both, missed, invented, absent."""
        return {"surface_sums": self._sums.copy(), "surface_images": self._images.copy()}

    def load(self, counts: Counts) -> None:
        """Take the state that `counts()` gave. Raises UserError when it is the state of another label space."""
        check_shapes(counts, self.counts())
        self._sums = np.array(counts["surface_sums"], np.float64)
        self._images = np.array(counts["surface_images"], np.int64)

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take the sum of several states, as gathered from all processes."""
        self.load(summed(states))

    def _means(self) -> np.ndarray:
        both, scored = self._images[:, 0], self._images[:, :3].sum(1)
        denominators = [scored if name == "nsd" else both for name in SURFACE_METRICS]
        return ratio(self._sums, np.stack(denominators, 1))

    def _over_classes(self, values: np.ndarray) -> dict[str, float]:
        return {name: mean_of_present(values[:, column]) for column, name in enumerate(self.names)}


def _row(scores: SurfaceScores) -> dict[str, float | None]:
    images: dict[str, float | None] = {f"surface_{name}": getattr(scores, name) for name in _PRESENCE[:3]}
    return without_nan(scores.means) | images


def _measure(prediction: np.ndarray, target: np.ndarray, tolerance: float, spacing: Spacing) -> tuple[float, ...]:
    """The values of `SURFACE_METRICS`, in their order."""
    outlines = Outlines(prediction, target, spacing=spacing)
    return (
        outlines.hausdorff("directed_max", 95.0),
        outlines.hausdorff("pooled", 95.0),
        outlines.hausdorff("surface_weighted", 95.0),
        outlines.hausdorff("directed_max", 100.0),
        outlines.average(),
        outlines.normalised_dice(tolerance),
    )


def _masks(prediction: SemanticMap, target: SemanticMap, index: int) -> tuple[np.ndarray, np.ndarray]:
    if target.space.exclusive:
        truth, predicted = target.labels, prediction.labels
        return (predicted == index) & (truth != IGNORE), truth == index
    truth, predicted = target.labels[..., index], prediction.labels[..., index]
    return (predicted == 1) & (truth != IGNORE), truth == 1


def _presence(prediction: np.ndarray, target: np.ndarray) -> int:
    """0 both, 1 missed, 2 invented, 3 absent."""
    return (0 if target.any() else 2) + (0 if prediction.any() else 1)
