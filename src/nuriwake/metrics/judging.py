"""What two objects may be compared by, and the detections of an image judged by it, in one compiled call."""

from collections.abc import Callable

import numpy as np
from numba import njit

from nuriwake.core.instances import Instances
from nuriwake.core.runs import RunMasks
from nuriwake.metrics.boundary import DILATION_RATIO, boundary_distance
from nuriwake.metrics.mask_boundary import boundary_pairs
from nuriwake.metrics.matching import LOWEST, match
from nuriwake.metrics.overlap import Runs, box_pairs, mask_pairs

Judge = Callable[[Instances, Instances, np.ndarray, np.ndarray, np.ndarray], None]
"""(prediction, target, chosen int64 (D,), true int64 (D,), false int64 (D,)): writes to the last two what the detections `chosen`
turn out to be, see `matching.match`."""


def judge_masks(
    prediction: Instances, target: Instances, chosen: np.ndarray, true: np.ndarray, false: np.ndarray
) -> None:
    """By the IoU of the masks."""
    masks, truth = _runs(prediction.masks), _runs(target.masks)
    labels, height = (prediction.labels, target.labels), target.size[0]
    _judge_masks(masks, labels[0], chosen, truth, labels[1], target.areas, target.crowd, height, true, false)


def judge_boxes(
    prediction: Instances, target: Instances, chosen: np.ndarray, true: np.ndarray, false: np.ndarray
) -> None:
    """By the IoU of the boxes."""
    truth = target.boxes, target.labels, target.areas, target.crowd
    _judge_boxes(prediction.boxes, prediction.labels, chosen, *truth, true, false)


def judge_boundaries(
    prediction: Instances, target: Instances, chosen: np.ndarray, true: np.ndarray, false: np.ndarray
) -> None:
    """By the smaller of the IoU of the masks and that of their boundaries, 0.02 of the image's diagonal wide."""
    masks, truth = _runs(prediction.masks), _runs(target.masks)
    labels, height = (prediction.labels, target.labels), target.size[0]
    distance = boundary_distance(target.size, DILATION_RATIO)
    _judge_boundaries(
        masks, labels[0], chosen, truth, labels[1], target.areas, target.crowd, height, distance, true, false
    )


def _runs(masks: RunMasks) -> Runs:
    return Runs(masks.counts, masks.offsets, masks.areas())


@njit(cache=True, nogil=True)
def _judge_masks(
    masks: Runs,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_masks: Runs,
    truth_labels: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    height: int,
    true: np.ndarray,
    false: np.ndarray,
) -> None:
    pairs = mask_pairs(masks, labels, chosen, truth_masks, truth_labels, crowd, height, LOWEST)
    match(pairs, truth_areas, crowd, true, false)


@njit(cache=True, nogil=True)
def _judge_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    true: np.ndarray,
    false: np.ndarray,
) -> None:
    pairs = box_pairs(boxes, labels, chosen, truth_boxes, truth_labels, crowd, LOWEST)
    match(pairs, truth_areas, crowd, true, false)


@njit(cache=True, nogil=True)
def _judge_boundaries(
    masks: Runs,
    labels: np.ndarray,
    chosen: np.ndarray,
    truth_masks: Runs,
    truth_labels: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    height: int,
    distance: int,
    true: np.ndarray,
    false: np.ndarray,
) -> None:
    pairs = mask_pairs(masks, labels, chosen, truth_masks, truth_labels, crowd, height, LOWEST)
    lowered = boundary_pairs(pairs, masks, chosen, truth_masks, crowd, height, distance, LOWEST)
    match(lowered, truth_areas, crowd, true, false)
