"""Many polygons painted into one map."""

import numpy as np
import pytest

from nuriwake.data.filling import fill_rings
from nuriwake.data.geotiff_place import following

SIZE = (37, 53)


def painted(features: list[list[np.ndarray]]) -> np.ndarray:
    """What `fill_rings` makes of features, each its rings."""
    canvas = np.zeros(SIZE, np.int32)
    rings = [ring for rings in features for ring in rings]
    owners = [number for number, rings in enumerate(features, 1) for ring in rings for _ in ring]
    ends = np.cumsum([len(ring) for ring in rings])
    fill_rings(np.concatenate(rings), following(ends), np.array(owners), canvas)
    return canvas


def slowly(features: list[list[np.ndarray]]) -> np.ndarray:
    """Every middle against every edge."""
    canvas = np.zeros(SIZE, np.int32)
    for number, rings in enumerate(features, 1):
        for row, column in np.ndindex(SIZE):
            y, x = row + 0.5, column + 0.5
            crossed = 0
            for ring in rings:
                for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                    crossed += (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x
            if crossed % 2:
                canvas[row, column] = number
    return canvas


@pytest.mark.parametrize("seed", range(4))
def test_middles_of_pixels_decide_also_for_crossed_rings_holes_and_what_reaches_beyond(seed):
    random = np.random.default_rng(seed)
    features = [
        [random.uniform(-12, 62, (int(random.integers(3, 9)), 2)) for _ in range(int(random.integers(1, 4)))]
        for _ in range(5)
    ]
    expected = slowly(features)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(painted(features), expected)


def test_as_gdal_fills_corners_on_the_grid():
    rasterize = pytest.importorskip("rasterio.features").rasterize
    shapes = pytest.importorskip("rasterio.features").shapes
    labels = np.random.default_rng(5).integers(0, 3, SIZE).astype(np.uint8)
    found = list(shapes(labels, connectivity=4))
    theirs = rasterize([(shape, number) for number, (shape, _) in enumerate(found, 1)], SIZE, dtype=np.int32)
    ours = painted([[np.array(ring[:-1]) for ring in shape["coordinates"]] for shape, _ in found])
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.array([0, *(value for _, value in found)])[ours], labels)
