"""The 2015 U-Net: sizes, and that every output pixel saw only real pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.models import count_parameters
from nuriwake.models.unet_valid import UNetValid


def simulated(side: int, depth: int) -> int | None:
    """The side of the output by walking figure 1 of the paper; None where a size is odd or used up."""
    skips = []
    for level in range(depth + 1):
        side -= 4
        if side < 1:
            return None
        if level < depth:
            skips.append(side)
            if side % 2:
                return None
            side //= 2
    for skip in reversed(skips):
        side *= 2
        if (skip - side) % 2 or side - 4 < 1:
            return None
        side -= 4
    return side


MODELS = {depth: UNetValid(1, 2, width=2, depth=depth).eval() for depth in (1, 2, 3, 4)}


def test_the_papers_sizes():
    with torch.device("meta"):
        model = UNetValid(1, 2)
        assert model(torch.empty(1, 1, 572, 572)).logits.shape == (1, 2, 388, 388)
    assert model.margin == 92
    assert model.fit_size(572, 572) == (572, 572)


def test_the_parameters_of_figure_1():
    def convolution(inputs: int, outputs: int, side: int = 3) -> int:
        return inputs * outputs * side * side + outputs

    expected, below = convolution(64, 2, 1), 1
    for width in (64, 128, 256, 512, 1024):
        expected += convolution(below, width) + convolution(width, width)
        below = width
    for width in (512, 256, 128, 64):
        expected += convolution(2 * width, width, 2) + convolution(2 * width, width) + convolution(width, width)
    with torch.device("meta"):
        assert count_parameters(UNetValid(1, 2)) == expected


@settings(deadline=None)
@given(st.integers(1, 700), st.sampled_from([1, 2, 3, 4]))
def test_fit_size_is_the_smallest_that_figure_1_allows(side, depth):
    model = MODELS[depth]
    expected = next(larger for larger in range(side, side + 400) if simulated(larger, depth))
    assert model.fit_size(side, side) == (expected, expected)
    assert simulated(expected, depth) == expected - 2 * model.margin


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_smallest_size_runs_and_loses_the_margin(depth):
    model = MODELS[depth]
    height, width = model.fit_size(1, 2**depth * 14)
    logits = model(torch.randn(1, 1, height, width)).logits
    assert logits.shape == (1, 2, height - 2 * model.margin, width - 2 * model.margin)


def test_tiles_agree_with_the_whole_image():
    """No padding anywhere: a tile's output equals that part of the whole image's output."""
    model = MODELS[2]
    images = torch.randn(1, 1, *model.fit_size(100, 100))
    shift = 8  # a multiple of 2 ** depth, so that pooling falls on the same pixels
    side = model.fit_size(60, 60)[0]
    with torch.no_grad():
        whole = model(images).logits
        tile = model(images[..., shift : shift + side, shift : shift + side]).logits
    part = whole[..., shift : shift + tile.shape[-2], shift : shift + tile.shape[-1]]
    assert torch.allclose(tile, part, atol=1e-5)


def test_other_sizes_are_refused_with_the_next_one():
    with pytest.raises(UserError, match=r"500x572 pixels.*pad them to 508x572"):
        MODELS[4](torch.zeros(1, 1, 500, 572))


def test_dropout_ends_the_contracting_path():
    model = UNetValid(1, 1, width=2, depth=2)
    images = torch.randn(1, 1, 60, 60)
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)
