"""Small maps enlarged straight into runs: the same pixels as an enlarged and thresholded map."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nuriwake.core.enlarge import Axis, bilinear_axis, enlarge_masks

SIDE = st.integers(1, 13)


def applied(axis: Axis, values: np.ndarray) -> np.ndarray:
    """The slow twin: the axis as a matrix, in double precision."""
    matrix = np.zeros((len(axis.first), axis.length))
    for row, (first, weights) in enumerate(zip(axis.first, axis.weights, strict=True)):
        matrix[row, first : first + len(weights)] += weights
    return matrix @ values


def enlarged(values: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    return np.stack([applied(columns, applied(rows, value).T).T for value in values])


def blobs(rng, count, height, width):
    """Smooth maps in 0..1, some of them empty or full."""
    noise = rng.random((count, 1, max(height // 3, 1), max(width // 3, 1)), dtype=np.float32)
    smooth = functional.interpolate(torch.from_numpy(noise), (height, width), mode="bicubic").clamp(0, 1)
    values = smooth[:, 0].numpy().copy()
    values[rng.random(count) < 0.2] = 0
    values[rng.random(count) < 0.1] = 1
    return values


@given(SIDE, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_an_axis_is_torchs_bilinear_resize(source, target):
    values = np.random.default_rng(source * 41 + target).standard_normal((1, 1, source, 1)).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(values), (target, 1), mode="bilinear", align_corners=False)
    found = applied(bilinear_axis(source, target), values[0, 0])
    assert np.abs(found - expected[0, 0].numpy()).max() < 1e-5


@given(SIDE, st.integers(1, 30), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_one_resize_after_another_is_one_axis(source, middle, target):
    first, kept = bilinear_axis(source, middle), middle // 2 + 1
    both = first.head(kept).then(bilinear_axis(kept, target))
    values = np.random.default_rng(0).standard_normal((source, 2))
    expected = applied(bilinear_axis(kept, target), applied(first, values)[:kept])
    assert np.abs(applied(both, values) - expected).max() < 1e-5
    assert np.all(np.diff(both.first) >= 0)
    assert both.first.max() + both.weights.shape[1] <= source
    assert np.abs(both.weights.sum(1) - 1).max() < 1e-6


def test_the_band_is_no_wider_than_it_must_be():
    assert bilinear_axis(7, 7).weights.shape == (7, 1)
    assert bilinear_axis(5, 20).weights.shape == (20, 2)
    assert bilinear_axis(5, 20).then(bilinear_axis(20, 20)).weights.shape == (20, 2)


@given(st.integers(0, 10_000), SIDE, SIDE, st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_runs_are_those_of_the_enlarged_map(seed, h, w, height, width):
    rng = np.random.default_rng(seed)
    values = blobs(rng, 4, h, w)
    rows, columns = bilinear_axis(h, height), bilinear_axis(w, width)
    found = enlarge_masks(values, rows, columns, threshold=0.5)
    exact = enlarged(values, rows, columns)
    differs = found.dense() != (exact > 0.5)
    assert np.abs(exact - 0.5)[differs].max(initial=0) < 1e-6
    assert found.size == (height, width)


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_noise_at_any_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    values = rng.random((3, 9, 7), dtype=np.float32)
    rows, columns = bilinear_axis(9, 36).head(31).then(bilinear_axis(31, 44)), bilinear_axis(7, 28)
    exact = enlarged(values, rows, columns)
    differs = enlarge_masks(values, rows, columns, threshold=threshold).dense() != (exact > threshold)
    assert np.abs(exact - threshold)[differs].max(initial=0) < 1e-6


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything(value):
    values = np.full((2, 3, 5), value, np.float32)
    found = enlarge_masks(values, bilinear_axis(3, 12), bilinear_axis(5, 20), threshold=0.5)
    assert found.areas().tolist() == [12 * 20 * value] * 2
    assert len(found.counts) == (2 if value == 0 else 4)


def test_no_masks():
    found = enlarge_masks(np.zeros((0, 3, 5), np.float32), bilinear_axis(3, 12), bilinear_axis(5, 20), threshold=0.5)
    assert (len(found), found.size) == (0, (12, 20))
