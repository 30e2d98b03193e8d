"""Polygons, byte for byte as pycocotools fills them."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.runs import RunMasks


def theirs(parts, size):
    coco = pytest.importorskip("pycocotools.mask")
    return coco.merge(coco.frPyObjects([list(map(float, part)) for part in parts], *size))["counts"].decode()


def ours(parts, size):
    return RunMasks.from_polygons([parts], size).to_coco()[0]["counts"]


COORDINATES = st.one_of(
    st.floats(-40, 90, allow_nan=False),
    st.integers(-20, 70).map(float),
    st.integers(-200, 700).map(lambda value: value / 10),  # on the borders of COCO's fine grid
)
PARTS = st.lists(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=9), min_size=1, max_size=3)


@settings(deadline=None, max_examples=400)
@given(PARTS, st.tuples(st.integers(1, 60), st.integers(1, 60)))
@example([[(5, 5), (5, 5), (5, 5)]], (9, 9))  # a point
@example([[(1, 1), (8, 1), (4, 1)]], (9, 9))  # a line
@example([[(0, 0), (9, 9), (9, 0), (0, 9)]], (9, 9))  # crosses itself
@example([[(-9, -9), (-2, -9), (-2, -2)]], (9, 9))  # outside
@example([[(0, 0), (60, 0), (60, 60), (0, 60)]], (60, 60))  # everything
def test_bytes_are_pycocotools(parts, size):
    flat = [[value for point in part for value in point] for part in parts]
    assert ours(flat, size) == theirs(flat, size)


def test_long_outlines_and_many_objects_at_once():
    generator = np.random.default_rng(0)
    objects = []
    for _ in range(40):
        angles = np.sort(generator.random(80)) * 2 * np.pi
        points = generator.uniform(0, 400, 2) + generator.uniform(5, 200) * np.stack(
            [np.cos(angles), np.sin(angles)], 1
        )
        objects.append([points.reshape(-1), (points[::7] + 50).reshape(-1)][: generator.integers(1, 3)])
    found = RunMasks.from_polygons(objects, (300, 420)).to_coco()
    assert [item["counts"] for item in found] == [theirs(parts, (300, 420)) for parts in objects]


def test_real_annotations(shared):
    import json

    files = sorted((shared / "data/coco128/annotations").glob("instances*.json"))
    if not files:
        pytest.skip("needs COCO instances")
    content = json.loads(files[0].read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    polygons = [item for item in content["annotations"] if isinstance(item["segmentation"], list)][:400]
    assert polygons
    for item in polygons:
        size = sizes[item["image_id"]]
        assert ours(item["segmentation"], size) == theirs(item["segmentation"], size), item["id"]


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([[[1, 2, 3, 4]]], "object 0, polygon 0: a polygon has at least three points, found 2"),
        ([[[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]]], "object 1, polygon 1: expected x and y"),
        ([[[1, 2, 3, float("nan"), 5, 6]]], "finite numbers of pixels, found nan"),
        ([[[1, 2, 3, 1e12, 5, 6]]], "found 1000000000000.0"),
        ([[["a", 2, 3, 4, 5, 6]]], "flat list of numbers"),
        ([[[[1, 2], [3, 4], [5, 6]]]], "flat list"),
        ([[[1, 2, 3, 4, 5, 6]], []], "object 1: expected at least one polygon, found none"),
    ],
)
def test_refusals(objects, words):
    with pytest.raises(UserError, match=words):
        RunMasks.from_polygons(objects, (9, 9))


def test_no_objects():
    assert len(RunMasks.from_polygons([], (9, 9))) == 0
