"""What values a mask holds."""

import tracemalloc

import numpy as np
import pytest

from nuriwake.data.observing import distinct, pack


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_values_of_a_grey_mask(dtype):
    raw = np.random.default_rng(0).choice(np.array([0, 7, np.iinfo(dtype).max], dtype), (40, 30))
    np.testing.assert_array_equal(distinct(raw), [0, 7, np.iinfo(dtype).max])


@pytest.mark.parametrize("height", [1, 256, 300, 700])
def test_the_colours_of_a_mask_in_every_band_of_it(height):
    raw = np.random.default_rng(0).integers(0, 8, (height, 20, 3), dtype=np.uint8)
    raw[-1, -1] = 255, 1, 2
    np.testing.assert_array_equal(distinct(raw), np.unique(pack(raw)))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_looking_at_a_large_mask_copies_little_of_it(channels):
    raw = np.zeros((6000, 3000, *channels), np.uint8)
    raw[4000:] = 200
    tracemalloc.start()
    assert len(distinct(raw)) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < raw.nbytes
