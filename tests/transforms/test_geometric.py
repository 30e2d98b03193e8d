"""The geometric operations: what they draw, and that a configuration holds them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.transforms.geometric import (
    CentralCrop,
    Elastic,
    Fit,
    GeometricOperation,
    GridDistortion,
    HorizontalFlip,
    PadIfNeeded,
    RandomCrop,
    RandomResizedCrop,
    Request,
    Rotate90,
    ShiftScaleRotate,
    VerticalFlip,
)
from nuriwake.transforms.warp import Warp

EVERY = [
    HorizontalFlip(),
    VerticalFlip(0.25),
    Rotate90(),
    ShiftScaleRotate(),
    Elastic(cells=3),
    GridDistortion(),
    RandomCrop(zoom=(0.5, 2.0)),
    RandomResizedCrop(),
    PadIfNeeded(),
    CentralCrop(),
    Fit(keep_shape=False),
]
SIZE = (40, 60)


def rng(seed=0):
    return np.random.default_rng(seed)


def extend(operation, source=(80, 100), seed=0, focus=None, size=SIZE):
    return operation.extend(Warp.identity(source), Request(size, focus), rng(seed))


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.name)
def test_plain_and_back(operation):
    assert from_plain(GeometricOperation, to_plain(operation)) == operation


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.name)
def test_the_generator_is_the_only_randomness(operation):
    labels = rng().integers(0, 200, (80, 100)).astype(np.uint8)
    first, again = (extend(operation, seed=4).labels(labels) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_flips_and_turns():
    labels = rng().integers(0, 200, (8, 5)).astype(np.uint8)
    np.testing.assert_array_equal(extend(HorizontalFlip(), (8, 5)).labels(labels), labels[:, ::-1])
    np.testing.assert_array_equal(extend(VerticalFlip(), (8, 5)).labels(labels), labels[::-1])
    seen = set()
    for seed in range(40):
        turned = extend(Rotate90(), (8, 5), seed).labels(labels)
        matches = [k for k in range(1, 4) if np.array_equal(np.rot90(labels, k), turned)]
        seen.update(matches)
        assert len(matches) == 1
    assert seen == {1, 2, 3}


def test_shift_scale_rotate_draws_what_it_says():
    operation = ShiftScaleRotate(shift=0.1, zoom=(0.5, 2.0), degrees=(-30, 60))
    zooms, angles, shifts = [], [], []
    for seed in range(600):
        warp = extend(operation, (80, 100), seed)
        linear = warp.matrix[:2, :2]
        zooms.append(1 / np.sqrt(np.linalg.det(linear)))
        angles.append(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))
        y, x = warp.landing((40, 50))
        shifts.append(((x - 50) / 100, (y - 40) / 80))
    assert warp.size == (80, 100)
    assert 0.5 <= min(zooms) < 0.55
    assert 1.85 < max(zooms) <= 2.0
    assert abs(np.median(zooms) - 1) < 0.1  # as often smaller as larger
    assert -30 <= min(angles) < -26
    assert 56 < max(angles) <= 60
    assert np.abs(shifts).max() <= 0.1 + 1e-9
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01
    assert np.abs(np.std(shifts, axis=0) - 0.1 / 3**0.5).max() < 0.005


def test_positive_degrees_turn_counter_clockwise():
    labels = np.zeros((21, 21), np.uint8)
    labels[10, 18] = 1  # to the right of the centre
    turned = extend(ShiftScaleRotate(shift=0, zoom=(1, 1), degrees=(90, 90)), (21, 21)).labels(labels)
    np.testing.assert_array_equal(turned, np.rot90(labels))


def test_random_crop_lies_everywhere_and_inside():
    tops, lefts = set(), set()
    for seed in range(300):
        matrix = extend(RandomCrop(), (45, 63), seed).matrix
        np.testing.assert_array_equal(matrix[:2, :2], np.eye(2))
        lefts.add(matrix[0, 2])
        tops.add(matrix[1, 2])
    assert tops == set(range(6))
    assert lefts == set(range(4))


def test_random_crop_of_a_small_image_keeps_all_of_it():
    for seed in range(30):
        labels = extend(RandomCrop(), (10, 70), seed).labels(np.zeros((10, 70), np.uint8))
        assert (labels == 0).sum() == 10 * 60


def test_random_crop_zoom_is_log_uniform():
    zooms = [1 / extend(RandomCrop(zoom=(0.5, 2.0)), (400, 400), seed).matrix[0, 0] for seed in range(500)]
    assert abs(np.mean(np.log2(zooms))) < 0.08  # three standard errors
    assert abs(np.std(np.log2(zooms)) - 2 / 12**0.5) < 0.04


def test_random_resized_crop_draws_area_and_ratio():
    areas, ratios = [], []
    for seed in range(500):
        warp = extend(RandomResizedCrop(area=(0.2, 0.6), ratio=(0.5, 2.0)), (1000, 1000), seed)
        corner = warp.matrix @ [SIZE[1], SIZE[0], 1]
        start = warp.matrix[:2, 2]
        assert (start >= 0).all()
        assert (corner[:2] <= 1000.001).all()
        width, height = corner[:2] - start
        areas.append(width * height / 1e6)
        ratios.append(width / height)
    assert 0.199 < min(areas) < 0.22
    assert 0.58 < max(areas) < 0.601
    assert abs(np.mean(areas) - 0.4) < 0.02
    assert abs(np.mean(np.log(ratios))) < 0.06
    assert max(ratios) < 2.01


def test_random_resized_crop_that_cannot_fit_takes_the_centre():
    warp = extend(RandomResizedCrop(area=(1.0, 1.0), ratio=(1.0, 1.0)), (10, 100), size=(20, 20))
    np.testing.assert_allclose(warp.matrix @ [20, 20, 1] - warp.matrix @ [0, 0, 1], [10, 10, 0])


def test_padding_fitting_and_the_middle():
    labels = np.zeros((20, 100), np.uint8)
    padded = extend(PadIfNeeded(), (20, 100)).labels(labels)
    assert padded.shape == (40, 100)
    assert (padded[10:30] == 0).all()
    assert (padded[[9, 30]] == 255).all()
    middle = extend(CentralCrop(), (20, 100)).labels(labels)
    assert middle.shape == SIZE
    assert (middle == 0).sum() == 20 * 60
    fitted = extend(Fit(), (20, 100)).labels(labels)
    assert fitted.shape == SIZE
    assert (fitted == 0).sum() == 12 * 60
    assert (extend(Fit(keep_shape=False), (20, 100)).labels(labels) == 0).all()


def test_elastic_has_the_strength_it_says_and_does_not_fold():
    moves = [extend(Elastic(cells=4, strength=0.12), (200, 200), seed).steps[0].nodes for seed in range(40)]
    at_nodes = np.stack(moves)[:, 4::8, 4::8]
    assert 0.6 < np.std(at_nodes) / (0.12 * 50) < 1.05  # interpolated between the drawn values
    x, _ = extend(Elastic(cells=4, strength=0.12), (200, 200), 1).grid()
    assert (np.diff(x, axis=1) > 0).mean() > 0.995


def test_grid_distortion_keeps_the_outline_and_the_order():
    x, y = extend(GridDistortion(strength=0.9), (200, 300), 3).grid()
    assert (np.diff(x, axis=1) > 0).all()
    assert (np.diff(y, axis=0) > 0).all()
    assert x.min() < 2
    assert x.max() > 298
    assert np.abs(x[0] - np.arange(300) - 0.5).max() > 5


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    row=st.integers(0, 79),
    column=st.integers(0, 99),
    operation=st.sampled_from([RandomCrop(), RandomCrop(zoom=(1.0, 3.0), jitter=1.0), RandomResizedCrop()]),
)
def test_a_crop_with_a_focus_contains_it(seed, row, column, operation):
    labels = np.zeros((80, 100), np.uint8)
    labels[row, column] = 1
    # Enlarged or of its own size, every pixel of the window is seen; a reduced one may fall between two samples.
    warp = extend(operation, seed=seed, focus=(row, column), size=(60, 60))
    y, x = warp.landing((row + 0.5, column + 0.5))
    assert 0 < y < 60
    assert 0 < x < 60
    if max(warp.matrix[0, 0], warp.matrix[1, 1]) <= 1:
        assert (warp.labels(labels) == 1).any()


def test_a_focus_is_near_the_centre_where_there_is_room():
    offsets = [
        np.array(extend(RandomCrop(jitter=0.5), (400, 400), seed, focus=(200, 200)).landing((200.5, 200.5))) / SIZE
        for seed in range(300)
    ]
    assert np.abs(np.array(offsets) - 0.5).max() < 0.27
    assert np.abs(np.mean(offsets, axis=0) - 0.5).max() < 0.03
    assert np.std(offsets, axis=0).min() > 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomCrop(zoom=(2.0, 1.0)), "random_crop.zoom"),
        (lambda: ShiftScaleRotate(zoom=(0.0, 1.0)), "shift_scale_rotate.zoom.*positive"),
        (lambda: RandomResizedCrop(area=(-1.0, 1.0)), "random_resized_crop.area"),
        (lambda: RandomResizedCrop(area=(0.5, 1.5)), "random_resized_crop.area: expected shares of the image up to 1"),
        (lambda: Elastic(cells=0), "elastic.cells: expected 1 or more cells along a side, found 0"),
        (lambda: Elastic(strength=-0.1), "elastic.strength: expected 0 to 1 of a cell"),
        (lambda: GridDistortion(cells=0), "grid_distortion.cells"),
        (lambda: GridDistortion(strength=1.0), "where the image would fold, found 1.0"),
    ],
)
def test_ranges_are_checked(build, message):
    with pytest.raises(UserError, match=message):
        build()
