"""Boundary IoU against the authors' recipe, written out with SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.metrics.boundary import BoundaryIoU, boundary_counts, boundary_distance


def blobs(generator, size, classes):
    fields = [ndimage.gaussian_filter(generator.standard_normal(size), 3) for _ in range(classes)]
    return np.argmax(fields, 0).astype(np.uint8)


def inner_boundary(mask, distance):
    """The mask minus its erosion by `distance` steps of a 3 x 3 square; outside the image is outside the mask."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


def twin(prediction, target, classes, ratio):
    distance = max(1, round(ratio * math.hypot(*target.shape)))
    kept = target != IGNORE
    out = []
    for k in range(classes):
        # Ignored pixels belong to every mask while eroding, so that they make no edge.
        truth = inner_boundary((target == k) | ~kept, distance) & kept
        found = inner_boundary((prediction == k) | ~kept, distance) & kept
        union = (truth | found).sum()
        out.append((truth & found).sum() / union if union else float("nan"))
    return np.array(out)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    ratio=st.sampled_from([0.005, 0.02, 0.08, 0.4]),
    holes=st.booleans(),
)
def test_equals_erosion_class_by_class(seed, height, width, ratio, holes):
    generator = np.random.default_rng(seed)
    target, prediction = blobs(generator, (height, width), 4), blobs(generator, (height, width), 4)
    if holes:
        target[height // 3 : height // 2, : width // 2] = IGNORE
        prediction[-2:] = IGNORE
    metric = BoundaryIoU(5, dilation_ratio=ratio)
    expected = twin(prediction, target, 5, ratio)
    np.testing.assert_allclose(metric.update(prediction, target), expected)
    np.testing.assert_allclose(metric.iou(), expected)


def test_distance_is_two_percent_of_the_diagonal_and_at_least_one_pixel():
    assert boundary_distance((1024, 2048), 0.02) == 46
    assert boundary_distance((3, 4), 0.02) == 1


def test_data_set_counts_are_sums_and_merge():
    generator = np.random.default_rng(0)
    pairs = [(blobs(generator, (40, 50), 3), blobs(generator, (40, 50), 3)) for _ in range(4)]
    whole, first, second = BoundaryIoU(3), BoundaryIoU(3), BoundaryIoU(3)
    for index, pair in enumerate(pairs):
        whole.update(*pair)
        (first if index % 2 else second).update(*pair)
    first.merge(second)
    np.testing.assert_array_equal(first.counts()["boundary"], whole.counts()["boundary"])
    parts = [boundary_counts(*pair, 3) for pair in pairs]
    both = sum(part.true_positive for part in parts)
    union = sum(part.predicted + part.actual for part in parts) - both
    np.testing.assert_allclose(whole.iou(), both / union)


def test_absent_and_all_ignore_are_nan():
    metric = BoundaryIoU(3)
    assert np.isnan(metric.update(np.zeros((9, 9), np.uint8), np.full((9, 9), IGNORE, np.uint8))).all()
    found = metric.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan])


def test_255_classes():
    labels = np.arange(254, 0, -1, dtype=np.uint8).reshape(2, 127)
    assert np.nanmin(BoundaryIoU(255).update(labels, labels)) == 1.0


def test_wrong_input():
    with pytest.raises(UserError, match="above 0"):
        BoundaryIoU(2, dilation_ratio=0)
    with pytest.raises(UserError, match="of one size"):
        BoundaryIoU(2).update(np.zeros((2, 3), np.uint8), np.zeros((3, 3), np.uint8))
    with pytest.raises(UserError, match="same classes"):
        BoundaryIoU(2).merge(BoundaryIoU(3))
