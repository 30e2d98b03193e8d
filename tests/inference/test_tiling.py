"""Weights sum to one, bands and strips equal the whole, whatever the sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.inference import strips
from nuriwake.inference.tiling import axis_weights, blend, plan_grid


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(32, 120), st.floats(0, 0.5), st.sampled_from([1, 16]))
def test_weights_are_a_partition_of_unity(length, tile, overlap, align):
    grid = plan_grid((length, 5), tile=tile, overlap=overlap, margin=0, fit=lambda *size: size, align=align)
    side = grid.answer[0]
    total = np.zeros(max(length, grid.tops[-1] + side))
    for start, weight in zip(grid.tops, axis_weights(grid.tops, side, length), strict=True):
        assert (weight >= 0).all()
        total[start : start + side] += weight
    np.testing.assert_allclose(total[:length], 1, atol=1e-6)
    assert grid.tops[0] == 0
    assert grid.tops[-1] + side >= length
    if len(grid.tops) > 1:
        assert max(np.diff(grid.tops)) <= max(side - int(side * overlap), align)
        assert not any(np.mod(grid.tops, align))


def test_blending_is_smooth():
    grid = plan_grid((64, 320), tile=64, overlap=0.5, margin=0, fit=lambda height, width: (height, width))
    answers = [torch.full((1, 64, 64), float(index % 2)) for index in range(len(grid.lefts))]
    row = next(blend(answers, grid, repeats=1))[0, 30]
    assert row.max() - row.min() > 0.99
    assert (row[1:] - row[:-1]).abs().max() < 0.06


@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("margin", [0, 6])
def test_tiles_of_an_image_give_the_image(multiple, margin):
    def fit(height, width):
        return tuple(-(-side // multiple) * multiple for side in (height, width))

    image = torch.randn(2, 150, 201)
    grid = plan_grid((150, 201), tile=50, overlap=0.3, margin=margin, fit=fit)
    padded = torch.nn.functional.pad(image, (0, 200, 0, 200))
    cut = [padded[:, y : y + grid.answer[0], x : x + grid.answer[1]] for y, x in grid.corners]
    bands = [band.clone() for band in blend([tile for tile in cut for _ in range(3)], grid, repeats=3)]
    assert len(bands) == len(grid.tops) > 2
    np.testing.assert_allclose(torch.cat(bands, dim=1), image, atol=1e-5)


def fading(whole, step):
    """Bands of `whole` that are overwritten as soon as the next is asked for."""
    for band in whole.split(step, dim=1):
        shown = band.clone()
        yield shown
        shown.fill_(torch.nan)


@settings(max_examples=100, deadline=None)
@given(*[st.integers(1, 40)] * 4, st.integers(1, 400), st.integers(1, 7))
def test_strips_are_the_resized_whole(height, width, new_height, new_width, limit, step):
    whole = torch.from_numpy(np.random.default_rng(height).random((2, height, width), np.float32))
    before = strips.VALUES_AT_ONCE
    strips.VALUES_AT_ONCE = limit
    try:
        found = [
            (top, strip.clone())
            for top, strip in strips.resized_strips(fading(whole, step), (height, width), (new_height, new_width))
        ]
    finally:
        strips.VALUES_AT_ONCE = before
    assert [top for top, _ in found] == [sum(part.shape[1] for _, part in found[:n]) for n in range(len(found))]
    assert all(part.shape[1] == 1 or part.numel() <= limit for _, part in found)
    size = (new_height, new_width)
    expected = torch.nn.functional.interpolate(whole[None], size=size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(torch.cat([part for _, part in found], dim=1), expected, atol=1e-5)
