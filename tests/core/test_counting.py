"""Counting values in bands."""

import tracemalloc

import numpy as np
import pytest

from nuriwake.core.counting import value_counts


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(7,), (1100, 1000), (3, 1500, 800), (0, 5), (5, 0)])
def test_counts_are_those_of_every_value(dtype, shape):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    expected = np.bincount(values.ravel(), minlength=np.iinfo(dtype).max + 1)
    np.testing.assert_array_equal(value_counts(values), expected)
    np.testing.assert_array_equal(value_counts(values.T), expected)
    assert value_counts(values).dtype == np.int64


def test_a_large_map_is_not_copied():
    values = np.zeros((3000, 6000), np.uint8)
    tracemalloc.start()
    assert value_counts(values)[0] == values.size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes
