"""Geometry undoes what it did, and its boxes follow its pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuriwake.core.geometry import Geometry, resize_array, take_window

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None)
@given(SIZES, st.integers(1, 33))
def test_padding_is_undone_exactly(size, multiple):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    wanted = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
    geometry = Geometry(size).window(0, 0, wanted)
    padded = geometry.apply(image, interpolation="linear", fill=None)
    assert padded.shape[:2] == wanted
    np.testing.assert_array_equal(geometry.undo(padded, interpolation="linear"), image)


@given(SIZES, st.integers(-9, 9), st.integers(-9, 9), SIZES)
def test_a_window_equals_the_slow_definition(size, top, left, window):
    array = np.arange(1, size[0] * size[1] + 1).reshape(size)
    slow = np.zeros(window, array.dtype)
    for y in range(window[0]):
        for x in range(window[1]):
            if 0 <= y + top < size[0] and 0 <= x + left < size[1]:
                slow[y, x] = array[y + top, x + left]
    np.testing.assert_array_equal(take_window(array, top, left, window, 0), slow)


def test_a_chain_comes_back_to_the_source_size_and_place():
    image = np.zeros((60, 80), np.float32)
    image[20:40, 30:50] = 1
    geometry = Geometry((60, 80)).resize((120, 160)).window(-4, -8, (128, 176)).window(10, 20, (100, 140))
    there = geometry.apply(image, interpolation="linear")
    assert there.shape == geometry.size == (100, 140)
    back = geometry.undo(there, interpolation="linear")
    assert back.shape == (60, 80)
    np.testing.assert_array_equal(back > 0.5, image > 0.5)


def test_boxes_follow_the_pixels():
    geometry = Geometry((60, 80)).resize((120, 160)).window(-4, -8, (128, 176))
    box_there = np.array([[68.0, 44.0, 108.0, 84.0]], np.float32)  # xyxy of image[20:40, 30:50]
    np.testing.assert_allclose(geometry.undo_boxes(box_there), [[30, 20, 50, 40]])
    np.testing.assert_allclose(geometry.undo_boxes(np.array([[-50.0, -50, 999, 999]])), [[0, 0, 80, 60]])


def test_nothing_to_do_adds_no_step():
    assert Geometry((64, 64)).window(0, 0, (64, 64)).resize((64, 64)).steps == ()


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "area"])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_resize_treats_every_channel_alike(channels, interpolation):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, channels), np.uint8)
    out = resize_array(image, (11, 13), interpolation)
    assert out.shape == (11, 13, channels)
    for channel in range(channels):
        np.testing.assert_array_equal(out[..., channel], resize_array(image[..., channel], (11, 13), interpolation))


def test_reflected_border_is_the_image_mirrored():
    row = np.array([[1, 2, 3, 4]])
    assert take_window(row, 0, -2, (1, 8), None).tolist() == [[1, 1, 1, 2, 3, 4, 4, 4]], "one row cannot reflect: edge"
    square = np.arange(16).reshape(4, 4)
    assert take_window(square, 0, -2, (4, 6), None)[0].tolist() == [2, 1, 0, 1, 2, 3]


@pytest.mark.parametrize("size", [(11, 13), (37, 90), (7, 90), (80, 120)])
@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 2), (40, 60, 3), (40, 60, 4), (40, 60, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_antialiased_agrees_with_pytorch(size, shape, dtype):
    image = np.random.default_rng(0).uniform(0, 65535 if dtype == "uint16" else 255, shape).astype(dtype)
    planes = torch.from_numpy(image.reshape(40, 60, -1).astype(np.float32)).permute(2, 0, 1)[None]
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    expected = torch.nn.functional.interpolate(planes, size, **options)[0].permute(1, 2, 0).numpy()
    found = resize_array(image, size, "antialiased")
    assert found.dtype == image.dtype
    assert found.shape == (*size, *shape[2:])
    tolerance = {"uint8": 1.01, "uint16": 1.01, "float32": 0.01}[dtype]  # PIL rounds uint8 after each of the two axes
    np.testing.assert_allclose(found.reshape(*size, -1).astype(np.float32), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(11, 13), (80, 120)])
def test_antialiased_is_pils_bilinear(size):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_array(image, size, "antialiased"), expected)
    grey = np.broadcast_to(image[..., :1], image.shape)
    np.testing.assert_array_equal(
        resize_array(grey, size, "antialiased")[..., 0], resize_array(image[..., 0], size, "antialiased")
    )
