"""Distances between the outlines of two 2-D masks, in the units of `spacing`.

Two outlines are in use. *Edge pixels*: pixels of the mask with a neighbour above, below, left or right that is outside it
(the image's border is outside); MONAI and MedPy measure between those. *Surfels*: the line around the mask, as corner points
between pixels that each stand for a length of line (Nikolov et al., "Deep learning to achieve clinically applicable
segmentation of head and neck anatomy", 2018; DeepMind's surface-distance); finely and coarsely sampled parts weigh alike.

Empty masks, in every function here: both empty -> nan (nothing to compare: absent). One empty -> infinity for a distance, 0 for
the normalised surface Dice.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from scipy import ndimage

from nuriwake.core.errors import UserError
from nuriwake.metrics.metric import Spacing

Definition = Literal["directed_max", "pooled", "surface_weighted"]

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, eq=False)
class OutlineDistances:
    """The distance from every outline point of one mask to the outline of the other, and back; float64, unordered.

    `to_target` (P,) starts at the prediction, `to_prediction` (T,) at the target. `prediction_lengths` (P,) and
    `target_lengths` (T,) are the length of line each point stands for; 1 for edge pixels.
    """

    to_target: np.ndarray
    to_prediction: np.ndarray
    prediction_lengths: np.ndarray
    target_lengths: np.ndarray

    @property
    def pooled(self) -> np.ndarray:
        """(P + T,): both directions together."""
        return np.concatenate([self.to_target, self.to_prediction])


def hausdorff_distance(
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    definition: Definition = "directed_max",
    percentile: float = 95.0,
    spacing: Spacing = (1.0, 1.0),
) -> float:
    """The robust Hausdorff distance (HD95) of two masks (H, W) bool; `percentile` 100 is the plain one.

    Three published definitions, which differ on the same masks:
        "directed_max": the percentile of each direction over edge pixels, then the larger one (MONAI).
        "pooled": the percentile of both directions together over edge pixels (MedPy's hd95, nnU-Net's evaluation of old).
        "surface_weighted": as "directed_max", over surfels weighted by length (DeepMind's surface-distance).
    The percentiles over edge pixels interpolate linearly between neighbours; the weighted one does not.

    Raises:
        UserError: wrong shapes, dtype, spacing, percentile or definition.
    """
    return Outlines(prediction, target, spacing=spacing).hausdorff(definition, percentile)


def normalised_surface_dice(
    prediction: np.ndarray, target: np.ndarray, *, tolerance: float, spacing: Spacing = (1.0, 1.0)
) -> float:
    """NSD (Nikolov et al. 2018): the share of both outlines that lies at most `tolerance` from the other one, 0..1.

    Lengths of line over surfels, as in DeepMind's surface-distance; masks (H, W) bool, `tolerance` in units of `spacing`.
    """
    return Outlines(prediction, target, spacing=spacing).normalised_dice(tolerance)


def average_surface_distance(prediction: np.ndarray, target: np.ndarray, *, spacing: Spacing = (1.0, 1.0)) -> float:
    """ASSD, the symmetric average surface distance over edge pixels: the mean of both directions together; masks (H, W) bool.

    (sum of d(p, target) + sum of d(t, prediction)) / (P + T), as MONAI's `symmetric=True`; not the mean of the two means.
    """
    return Outlines(prediction, target, spacing=spacing).average()


class Outlines:
    """Two masks (H, W) bool whose outlines are compared in several ways; what the ways share is computed once, when needed.

    Raises:
        UserError: wrong shapes, dtype or spacing.
    """

    def __init__(self, prediction: np.ndarray, target: np.ndarray, *, spacing: Spacing = (1.0, 1.0)) -> None:
        self._empty = _empty(prediction, target, spacing)
        self._masks, self._spacing = (prediction, target), spacing

    def hausdorff(self, definition: Definition, percentile: float) -> float:
        """See `hausdorff_distance`."""
        if definition not in ("directed_max", "pooled", "surface_weighted"):
            raise UserError(f"HD95 is defined as directed_max, pooled or surface_weighted, found '{definition}'.")
        if not 0 < percentile <= 100:
            raise UserError(f"The percentile of a Hausdorff distance is above 0 and at most 100, found {percentile}.")
        if self._empty is not None:
            return self._undefined(float("inf"))
        if definition == "surface_weighted":
            found = self._surfels
            return max(
                _weighted_percentile(found.to_target, found.prediction_lengths, percentile),
                _weighted_percentile(found.to_prediction, found.target_lengths, percentile),
            )
        if definition == "pooled":
            return float(np.percentile(self._edges.pooled, percentile))
        directions = (self._edges.to_target, self._edges.to_prediction)
        return float(max(np.percentile(distances, percentile) for distances in directions))

    def average(self) -> float:
        """See `average_surface_distance`."""
        return self._undefined(float("inf")) if self._empty is not None else float(self._edges.pooled.mean())

    def normalised_dice(self, tolerance: float) -> float:
        """See `normalised_surface_dice`."""
        if tolerance < 0:
            raise UserError(f"The tolerance of the normalised surface Dice must be at least 0, found {tolerance}.")
        if self._empty is not None:
            return self._undefined(0.0)
        found = self._surfels
        close = found.prediction_lengths[found.to_target <= tolerance].sum()
        close += found.target_lengths[found.to_prediction <= tolerance].sum()
        return float(close / (found.prediction_lengths.sum() + found.target_lengths.sum()))

    @cached_property
    def _edges(self) -> OutlineDistances:
        return edge_distances(*self._masks, spacing=self._spacing)

    @cached_property
    def _surfels(self) -> OutlineDistances:
        return surfel_distances(*self._masks, spacing=self._spacing)

    def _undefined(self, one_empty: float) -> float:
        return float("nan") if self._empty == "both" else one_empty


def edge_distances(prediction: np.ndarray, target: np.ndarray, *, spacing: Spacing) -> OutlineDistances:
    """Between the edge pixels of two masks (H, W) bool, neither of them empty."""
    masks = _cropped(prediction, target)
    edges = [mask & ~cv2.erode(mask.view(np.uint8), _CROSS, borderValue=0).view(bool) for mask in masks]
    ones = [np.ones(int(edge.sum())) for edge in edges]
    return OutlineDistances(
        _distance_to(edges[1], spacing)[edges[0]], _distance_to(edges[0], spacing)[edges[1]], ones[0], ones[1]
    )


def surfel_distances(prediction: np.ndarray, target: np.ndarray, *, spacing: Spacing) -> OutlineDistances:
    """Between the surfels of two masks (H, W) bool, neither of them empty."""
    lengths = surfel_lengths(spacing)
    codes = [_corner_codes(mask) for mask in _cropped(prediction, target)]
    points = [(code != 0) & (code != 15) for code in codes]
    return OutlineDistances(
        _distance_to(points[1], spacing)[points[0]],
        _distance_to(points[0], spacing)[points[1]],
        lengths[codes[0][points[0]]],
        lengths[codes[1][points[1]]],
    )


def surfel_lengths(spacing: Spacing) -> np.ndarray:
    """(16,) float64: the length of line through a corner point, by which of its four pixels are inside.

    Bits 8, 4, 2, 1: top left, top right, bottom left, bottom right. One or three pixels inside: the line cuts the corner off
    (half a diagonal). Two side by side: it goes straight. Two across: two corners are cut off.
    """
    height, width = spacing
    corner = 0.5 * float(np.hypot(height, width))
    lengths = np.full(16, corner)
    lengths[[0, 15]] = 0.0
    lengths[[0b0011, 0b1100]] = width
    lengths[[0b0101, 0b1010]] = height
    lengths[[0b0110, 0b1001]] = 2 * corner
    return lengths


def _corner_codes(mask: np.ndarray) -> np.ndarray:
    """(H + 1, W + 1) uint8: for each corner of the pixel grid, which of the four pixels around it are inside."""
    inside = np.pad(mask.view(np.uint8), 1)
    return 8 * inside[:-1, :-1] + 4 * inside[:-1, 1:] + 2 * inside[1:, :-1] + inside[1:, 1:]


def _distance_to(points: np.ndarray, spacing: Spacing) -> np.ndarray:
    """(H, W) float64: the Euclidean distance from each place to the nearest of `points`, bool with at least one True."""
    if spacing[0] != spacing[1]:
        return np.asarray(ndimage.distance_transform_edt(~points, sampling=spacing))
    distance = cv2.distanceTransform((~points).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Float32 roots of whole numbers: back to the whole number, then the exact root.
    return np.sqrt(np.rint(np.square(distance, dtype=np.float64))) * spacing[0]


def _cropped(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks inside the box around their union: no outline point lies outside, so no distance changes."""
    union = prediction | target
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ascontiguousarray(prediction[box]), np.ascontiguousarray(target[box])


def _weighted_percentile(distances: np.ndarray, lengths: np.ndarray, percentile: float) -> float:
    """The smallest distance that at least `percentile` percent of the line does not exceed."""
    order = np.argsort(distances)
    share = np.cumsum(lengths[order]) / lengths.sum()
    index = int(np.searchsorted(share, percentile / 100))
    return float(distances[order][min(index, len(order) - 1)])


def _empty(prediction: np.ndarray, target: np.ndarray, spacing: Spacing) -> Literal["both", "one"] | None:
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise UserError(
            f"Surface distances need two masks (H, W) of one size, found {prediction.shape} and {target.shape}."
        )
    if prediction.dtype != np.bool_ or target.dtype != np.bool_:
        raise UserError(f"Surface distances need bool masks, found {prediction.dtype} and {target.dtype}.")
    if not (len(spacing) == 2 and min(spacing) > 0 and np.isfinite(spacing).all()):
        raise UserError(f"The spacing is the size of a pixel, (height, width), both above 0, found {spacing}.")
    filled = int(prediction.any()) + int(target.any())
    return (None, "one", "both")[2 - filled]
