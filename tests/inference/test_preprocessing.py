import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, image_levels


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_levels_are_the_values_below_which_so_many_lie(dtype):
    image = np.random.default_rng(0).gamma(2, 20, (50, 40, 3)).clip(0, 255).astype(dtype)
    low, high = image_levels(image, (1.0, 99.8))
    assert np.mean(image <= low) >= 0.01 > np.mean(image < low)
    assert np.mean(image <= high) >= 0.998 > np.mean(image < high)
    assert image_levels(image.astype(np.float32), (0, 100)) == (image.min(), image.max())


def test_an_image_is_seen_the_same_whatever_its_exposure():
    wanted = Preprocessing(levels=(0.0, 100.0))
    image = np.random.default_rng(0).integers(0, 60, (16, 16, 3)).astype(np.uint8)
    image[0, 0], image[0, 1] = 0, 59
    brighter = (image * 3 + 20).astype(np.uint8)
    dim, bright = (wanted.for_image(item).tensor(item) for item in (image, brighter))
    np.testing.assert_allclose(dim, bright, atol=1e-5)
    by_hand = (image / 59 - np.array(wanted.mean)) / np.array(wanted.deviation)
    np.testing.assert_allclose(dim, np.moveaxis(by_hand, -1, 0), atol=1e-5)


def test_without_levels_nothing_changes_and_a_flat_image_is_not_blown_up():
    plain = Preprocessing()
    image = np.full((8, 8, 3), 7, np.uint8)
    assert plain.for_image(image) is plain
    assert np.abs(Preprocessing(levels=(1.0, 99.8)).for_image(image).tensor(image)).max() < 3


def test_levels_must_be_percentiles_in_order():
    with pytest.raises(UserError, match="two percentiles from 0 to 100, the lower first"):
        Preprocessing(levels=(99.0, 1.0))
