"""The warp against pixel-by-pixel twins, and where it must be exact."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.labels import IGNORE
from nuriwake.core.pixels import MAXIMA
from nuriwake.transforms.geometric import Elastic, GridDistortion, Request
from nuriwake.transforms.warp import Warp, scaling, translation

DTYPES = ["uint8", "uint16", "float32"]


def picture(channels=3, size=(23, 31), dtype="uint8", seed=0):
    values = np.random.default_rng(seed).random((*size, channels))
    return (values * MAXIMA[np.dtype(dtype)]).astype(dtype)


def back(warp, x, y):
    """The source point of a canvas point, step by step."""
    for step in reversed(warp.steps):
        if isinstance(step, np.ndarray):
            x, y, _ = step @ np.array([x, y, 1.0])
        else:
            rows, columns = step.nodes.shape[:2]
            u = min(max(x / step.size[1] * (columns - 1), 0), columns - 1)
            v = min(max(y / step.size[0] * (rows - 1), 0), rows - 1)
            i, j = min(int(v), rows - 2), min(int(u), columns - 2)
            a, b = u - j, v - i
            nodes = step.nodes.astype(np.float64)
            upper = (1 - a) * nodes[i, j] + a * nodes[i, j + 1]
            lower = (1 - a) * nodes[i + 1, j] + a * nodes[i + 1, j + 1]
            dx, dy = (1 - b) * upper + b * lower
            x, y = x + dx, y + dy
    return x, y


def slow_labels(warp, labels, fill=IGNORE):
    out = np.full((*warp.size, *labels.shape[2:]), fill, labels.dtype)
    for row in range(warp.size[0]):
        for column in range(warp.size[1]):
            x, y = back(warp, column + 0.5, row + 0.5)
            if 0 <= x < labels.shape[1] and 0 <= y < labels.shape[0]:
                out[row, column] = labels[int(y), int(x)]
    return out


def mirrored(index, side, border):
    if border == "edge":
        return min(max(index, 0), side - 1)
    period = 2 * (side - 1)
    index = abs(index) % period if period else 0
    return period - index if index >= side else index


def slow_image(warp, image, border="reflect", fill=0.0):
    height, width = image.shape[:2]

    def pixel(row, column):
        if border == "constant":
            inside = 0 <= row < height and 0 <= column < width
            return image[row, column].astype(float) if inside else np.full(image.shape[2], fill)
        return image[mirrored(row, height, border), mirrored(column, width, border)].astype(float)

    out = np.zeros((*warp.size, image.shape[2]))
    for row in range(warp.size[0]):
        for column in range(warp.size[1]):
            x, y = back(warp, column + 0.5, row + 0.5)
            left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
            a, b = x - 0.5 - left, y - 0.5 - top
            upper = (1 - a) * pixel(top, left) + a * pixel(top, left + 1)
            lower = (1 - a) * pixel(top + 1, left) + a * pixel(top + 1, left + 1)
            out[row, column] = (1 - b) * upper + b * lower
    return out


def rotation(degrees, size):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return translation(size[1] / 2, size[0] / 2) @ turn @ translation(-size[1] / 2, -size[0] / 2)


def general(size=(23, 31)):
    """Crop, zoom, turn: not axis-aligned, partly beyond the source."""
    warp = Warp.identity(size).window(3, -5, (19, 27)).affine(rotation(20, (19, 27)), (19, 27))
    return warp.affine(scaling(1.1, 0.9), (17, 21))


def displaced(size=(23, 31)):
    rng = np.random.default_rng(5)
    warp = Warp.identity(size).window(1, 2, (20, 25))
    warp = Elastic(cells=3, strength=0.2).extend(warp, Request((20, 25)), rng)
    warp = warp.affine(rotation(-15, (20, 25)), (20, 25))
    return GridDistortion(cells=4, strength=0.5).extend(warp, Request((20, 25)), rng).window(-2, 1, (22, 20))


def displaced_on(warp):
    return Elastic(cells=3, strength=0.2).extend(warp, Request(warp.size), np.random.default_rng(5))


@pytest.mark.parametrize("border", ["reflect", "edge", "constant"])
@pytest.mark.parametrize("build", [general, displaced])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 5), ("float32", 12), ("uint8", 1)])
def test_image_is_the_slow_twin(build, border, dtype, channels):
    image, warp = picture(channels, dtype=dtype), build()
    top = MAXIMA[image.dtype]
    out = warp.image(image, border=border, fill=0.25 * top if dtype == "float32" else 60)
    assert out.shape == (*warp.size, channels)
    assert out.dtype == image.dtype
    expected = slow_image(warp, image, border, 0.25 * top if dtype == "float32" else 60)
    # 1/32 of a pixel is the resolution of OpenCV before version 5; noise changes by the whole range from pixel to pixel.
    difference = np.abs(out.astype(float) - expected) / top
    assert difference.max() < 0.06
    assert difference.mean() < 0.012


@pytest.mark.parametrize("build", [general, displaced])
@pytest.mark.parametrize("layers", [None, 1, 7])
def test_labels_are_the_slow_twin(build, layers):
    shape = (23, 31) if layers is None else (23, 31, layers)
    labels = np.random.default_rng(1).integers(0, 9, shape).astype(np.uint8)
    warp = build()
    out, expected = warp.labels(labels), slow_labels(warp, labels)
    assert out.shape == expected.shape
    # A point on the very edge of two pixels may fall to either, as coordinates are float32.
    assert (out != expected).mean() < 0.003
    assert (out == IGNORE).any()


@settings(max_examples=60, deadline=None)
@given(
    turn=st.integers(0, 3),
    flips=st.tuples(st.booleans(), st.booleans()),
    window=st.tuples(st.integers(-9, 20), st.integers(-9, 20), st.integers(1, 30), st.integers(1, 30)),
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    border=st.sampled_from(["edge", "constant", "reflect"]),
)
def test_axis_aligned_shortcut_is_the_slow_twin(turn, flips, window, size, border):
    top, left, height, width = window
    warp = Warp.identity((23, 31))
    for _ in range(turn):
        warp = warp.affine(np.array([[0, -1, warp.size[1]], [1, 0, 0], [0, 0, 1.0]]), warp.size[::-1])
    warp = warp.window(top, left, (height, width)).affine(scaling(width / size[1], height / size[0]), size)
    if flips[0]:
        warp = warp.affine(translation(size[1], 0) @ scaling(-1, 1), size)
    if flips[1]:
        warp = warp.affine(translation(0, size[0]) @ scaling(1, -1), size)
    labels = np.random.default_rng(2).integers(0, 200, (23, 31)).astype(np.uint8)
    assert (warp.labels(labels) != slow_labels(warp, labels)).mean() < 0.1  # ties of exact halves, after float products
    if min(height / size[0], width / size[1]) < 2:
        image = picture(dtype="float32")
        # Resizing a window looks no further than the window: compare inside, where both see the same pixels.
        out, expected = warp.image(image, border=border), slow_image(warp, image, border)
        rows, columns = (int(np.ceil(size[i] / (height, width)[i] / 2)) for i in (0, 1))
        inner = np.s_[rows : size[0] - rows, columns : size[1] - columns]
        np.testing.assert_allclose(out[inner], expected[inner], atol=0.06)
    assert warp.image(picture(5), border=border).shape == (*size, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 5, 12])
def test_flips_and_turns_are_exact(dtype, channels):
    image = picture(channels, dtype=dtype)
    labels = picture(1, dtype="uint8")[..., 0]
    height, width = image.shape[:2]
    identity = Warp.identity((height, width))
    turn = identity.affine(np.array([[0, -1, width], [1, 0, 0], [0, 0, 1.0]]), (width, height))
    half = turn.affine(np.array([[0, -1, height], [1, 0, 0], [0, 0, 1.0]]), (height, width))
    mirror = identity.affine(translation(width, 0) @ scaling(-1, 1), (height, width))
    upside = identity.affine(translation(0, height) @ scaling(1, -1), (height, width))
    cases = [
        (identity, lambda array: array),
        (mirror, lambda array: array[:, ::-1]),
        (upside, lambda array: array[::-1]),
        (turn, np.rot90),
        (half, lambda array: np.rot90(array, 2)),
        (identity.window(2, 3, (9, 8)), lambda array: array[2:11, 3:11]),
    ]
    for warp, expected in cases:
        np.testing.assert_array_equal(warp.image(image), expected(image))
        np.testing.assert_array_equal(warp.labels(labels), expected(labels))


def test_a_displacement_of_nothing_is_exact():
    image, labels = picture(), picture(1)[..., 0]
    warp = Warp.identity((23, 31)).displace(np.zeros((3, 4, 2), np.float32))
    assert not warp.is_affine
    np.testing.assert_array_equal(warp.image(image), image)
    np.testing.assert_array_equal(warp.labels(labels), labels)


@pytest.mark.parametrize("build", [general, displaced])
def test_image_and_labels_stay_aligned(build):
    # Blocks of 8 pixels painted with their label: away from block borders the bilinear image must show the warped label.
    labels = np.kron(np.random.default_rng(3).integers(0, 200, (8, 10)), np.ones((8, 8))).astype(np.uint8)
    warp = build(labels.shape)
    image, warped = warp.image(labels[..., None], border="edge")[..., 0], warp.labels(labels)
    known = warped != IGNORE
    same = (image == warped)[known]
    assert same.mean() > 0.6
    offset = (np.roll(image, 2, axis=1) == warped)[known]
    assert same.mean() > offset.mean() + 0.1


def test_shrinking_averages_so_that_nothing_aliases():
    board = (np.indices((96, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    for warp in (
        Warp.identity((96, 96)).affine(scaling(4, 4), (24, 24)),
        Warp.identity((96, 96)).affine(translation(0.3, 0.3) @ scaling(4, 4), (20, 20)),
        Warp.identity((96, 96)).affine(rotation(30, (96, 96)), (96, 96)).affine(scaling(4, 4), (24, 24)),
        Warp.identity((96, 96)).displace(np.full((2, 2, 2), 0.4)).affine(scaling(4, 4), (24, 24)),
    ):
        inner = warp.image(board)[4:-4, 4:-4].astype(float)
        assert np.abs(inner - 127.5).max() < 40


@pytest.mark.parametrize("build", [general, displaced])
def test_landing_is_the_inverse(build):
    warp = build()
    for row, column in ((4, 6), (9, 12), (12, 3)):
        x, y = back(warp, column + 0.5, row + 0.5)
        np.testing.assert_allclose(warp.landing((y, x)), (row + 0.5, column + 0.5), atol=0.02)


@pytest.mark.parametrize("border", ["reflect", "edge", "constant"])
@pytest.mark.parametrize("place", [(0, 200), (0, -200), (-300, 0), (200, 200)])
def test_windows_that_miss_the_image(border, place):
    warp = Warp.identity((5, 7)).window(*place, (4, 6))
    assert warp.image(picture(size=(5, 7)), border=border).shape == (4, 6, 3)
    assert (warp.labels(np.zeros((5, 7), np.uint8)) == IGNORE).all()


def turned_on_a_strip(place, size=(6, 40_000)):
    """A window about the point `place` of the source, turned, partly beyond the image."""
    top, left = place[0] - 10, place[1] - 12
    return Warp.identity(size).window(top, left, (20, 25)).affine(rotation(20, (20, 25)), (20, 25))


@pytest.mark.parametrize("build", [turned_on_a_strip, lambda place: displaced_on(turned_on_a_strip(place))])
@pytest.mark.parametrize("place", [(3, 0), (3, 39_995), (-9, 20_000), (2, 35_000), (900, 40_900)])
@pytest.mark.parametrize("upright", [False, True])
def test_images_longer_than_opencv_counts(build, place, upright):
    image, warp = picture(size=(6, 40_000)), build(place)
    if upright:
        swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
        image = image.transpose(1, 0, 2)
        warp = Warp((40_000, 6), warp.size, (swap @ warp.steps[0], *warp.steps[1:]))
    difference = np.abs(warp.image(image).astype(float) - slow_image(warp, image)) / 255
    # Beside the resolution of OpenCV, that of coordinates in float32 so far from the origin.
    assert difference.max() < 0.06
    assert difference.mean() < 0.012


@pytest.mark.parametrize("border", ["reflect", "edge", "constant"])
@pytest.mark.parametrize("beyond", [0, 500])
def test_more_of_a_long_image_than_opencv_counts(border, beyond):
    image = np.repeat(np.linspace(0, 1, 40_000, dtype=np.float32)[None, :, None], 30, axis=0)
    shown = Warp.identity((30, 40_000)).window(0, -beyond, (30, 40_000 + 2 * beyond))
    shown = shown.affine(scaling((40_000 + 2 * beyond) / 100, 1), (30, 100)).displace(np.zeros((2, 2, 2)))
    np.testing.assert_allclose(shown.image(image, border=border), slow_image(shown, image, border), atol=0.02)


def test_one_pixel_images():
    image = np.full((1, 1, 3), 9, np.uint8)
    warp = Warp.identity((1, 1)).window(-2, -3, (6, 8))
    np.testing.assert_array_equal(warp.image(image), 9)
    assert (warp.labels(image[..., 0]) != IGNORE).sum() == 1


@pytest.mark.parametrize("top", [-70, -30, -3, 0, 5, 18, 29, 60])
@pytest.mark.parametrize("height", [4, 25, 90])
def test_a_mirrored_window_at_any_place(top, height):
    image = picture(1, (23, 9))
    mirrored = np.pad(image, ((200, 200), (0, 0), (0, 0)), mode="reflect")
    window = Warp.identity((23, 9)).window(top, 2, (height, 5)).image(image)
    np.testing.assert_array_equal(window, mirrored[200 + top : 200 + top + height, 2:7])


def test_a_window_at_the_border_of_a_huge_image_copies_little_of_it():
    image = np.zeros((3000, 4000, 3), np.uint8)
    for top, left in ((-50, 100), (2900, 100), (100, -50), (100, 3900), (-50, 3900)):
        tracemalloc.start()
        assert Warp.identity((3000, 4000)).window(top, left, (200, 200)).image(image).shape == (200, 200, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < image.nbytes / 20
