import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.data.mask_form import CodedMap, Form, decode_map, encode_map, read_lengths, write_lengths


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, 5, 17, 200, 256, 300, 5000]),
    st.integers(1, 400),
    st.sampled_from([np.uint8, np.int32]),
    st.integers(0, 2**32 - 1),
)
def test_every_map_comes_back(count, channels, values, run, dtype, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, min(values, np.iinfo(dtype).max), (values, channels)).astype(dtype)
    numbers = np.repeat(rng.integers(0, values, count), rng.integers(1, run + 1, count))[:count]
    pixels = rows[numbers]
    back = decode_map(encode_map(pixels), count)
    assert back.dtype == dtype
    assert np.array_equal(back, pixels)


def _map(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "even":
        return np.full((300_000, 1), 7, np.uint8)
    if kind == "blocks":
        return np.repeat(rng.integers(0, 19, 900), 50).astype(np.uint8)[:, None]
    if kind == "noise":
        return rng.integers(0, 2, (40_000, 1)).astype(np.uint8)
    if kind == "many":  # more than 256 rows, so that numbers take two bytes
        return np.repeat(rng.permutation(5000), 30).astype(np.int32)[:, None]
    return rng.permutation(70_000).astype(np.int32)[:, None]


@pytest.mark.parametrize(
    ("kind", "form", "most"),
    [
        ("even", Form.RUNS, 10),
        ("blocks", Form.RUNS, 1900),
        ("noise", Form.PACKED, 5000),
        ("many", Form.RUNS, 16_000),
        ("distinct", Form.PLAIN, 280_000),
    ],
)
def test_the_smallest_form_is_taken(kind, form, most):
    pixels = _map(kind)
    coded = encode_map(pixels)
    assert coded.form == form
    assert coded.data.nbytes <= most
    assert np.array_equal(decode_map(coded, len(pixels)), pixels)


def _refused(coded: CodedMap, count: int) -> bool:
    try:
        decode_map(coded, count)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("channels", [1, 3])
def test_runs_that_do_not_fit_are_refused(channels):
    pixels = np.repeat(np.arange(40, dtype=np.uint8), 300)[:, None].repeat(channels, axis=1)
    coded = encode_map(pixels)
    assert coded.form == Form.RUNS
    assert _refused(coded, len(pixels) - 1)
    assert _refused(coded, len(pixels) + 1)
    assert _refused(coded._replace(table=coded.table[:-1]), len(pixels))
    assert _refused(coded._replace(table=coded.table[:0]), len(pixels))
    for end in range(len(coded.data)):
        assert _refused(coded._replace(data=coded.data[:end]), len(pixels))
    endless = coded._replace(data=np.full(50, 255, np.uint8))
    assert _refused(endless, len(pixels))


def test_packed_numbers_of_another_length_are_refused():
    pixels = np.random.default_rng(0).integers(0, 2, (1000, 1)).astype(np.uint8)
    coded = encode_map(pixels)
    assert coded.form == Form.PACKED
    assert _refused(coded, 2000)
    assert _refused(coded._replace(data=coded.data[:-1]), 1000)


def test_lengths_come_back():
    lengths = np.array([0, 1, 127, 128, 16_383, 16_384, 2**32 - 1], np.uint32)
    data, out = write_lengths(lengths), np.empty(7, np.uint32)
    assert read_lengths(data, out)
    assert np.array_equal(out, lengths)
    assert not read_lengths(data[:-1], out)
    assert not read_lengths(data, out[:-1])
    assert not read_lengths(np.full(8, 255, np.uint8), out[:1])
