"""The outline of a mask, filled by COCO's rule, is the mask again: parts, holes, islands in holes, diagonal touches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuriwake.core.runs import RunMasks
from nuriwake.data.outlines import measured_loss, one_outline, outlines


def exact(dense):
    masks = RunMasks.from_dense(dense)
    found = outlines(masks)
    kept = [i for i, parts in enumerate(found) if parts]
    assert kept == np.flatnonzero(dense.any(axis=(1, 2))).tolist()
    for form in (found, [[one_outline(parts)] if parts else [] for parts in found]):
        if kept:
            filled = RunMasks.from_polygons([form[i] for i in kept], masks.size)
            np.testing.assert_array_equal(filled.dense(), dense[kept])
        assert (measured_loss(masks, form) == 1).all()


@settings(max_examples=150, deadline=None)
@given(arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_any_small_mask(dense):
    exact(dense)


@pytest.mark.parametrize("threshold", [-0.6, 0.0, 0.6])
def test_blobs_with_islands_in_holes(threshold):
    noise = np.random.default_rng(4).normal(size=(2, 12, 10))
    exact((np.kron(noise, np.ones((1, 5, 6))) > threshold).astype(np.uint8))


def test_pycocotools_fills_the_same():
    mask = pytest.importorskip("pycocotools.mask")
    dense = (np.random.default_rng(1).random((1, 30, 40)) > 0.4).astype(np.uint8)
    parts = outlines(RunMasks.from_dense(dense))[0]
    filled = mask.decode(mask.merge(mask.frPyObjects([part.tolist() for part in parts], 30, 40)))
    np.testing.assert_array_equal(filled, dense[0])


def test_a_tolerance_trades_points_for_a_loss_that_is_measured():
    y, x = np.mgrid[:100, :100]
    disc = RunMasks.from_dense((((x - 50) ** 2 + (y - 50) ** 2 < 1600).astype(np.uint8))[None])
    all_points, few = outlines(disc)[0][0], outlines(disc, tolerance=1)[0][0]
    assert len(few) < len(all_points) / 4
    assert 0.96 < measured_loss(disc, [[few]])[0] < 1
