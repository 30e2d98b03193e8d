"""Post-processing against slow twins on scipy's components, region by region and pixel by pixel."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.inference.postprocess import postprocess
from nuriwake.inference.regions import find_regions
from nuriwake.inference.rules import PostprocessingRule

BINARY = LabelSpace(("background", "cell"))
STREET = LabelSpace(("sky", "road", "car"))
ORGANS = LabelSpace(("background", "liver", "tumour"))
Rule = PostprocessingRule

maps = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 21)), elements=st.sampled_from([0, 1, 2, 2, IGNORE])
)
connectivities = st.sampled_from([4, 8])


def structure(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1)


def regions_of(labels: np.ndarray, wanted: tuple[int, ...], connectivity: int) -> list[tuple[int, np.ndarray]]:
    """(label, mask) of every region, ordered by its first pixel."""
    found = []
    for label in wanted:
        marks, count = ndimage.label(labels == label, structure(connectivity))
        found += [(label, marks == mark) for mark in range(1, count + 1)]
    return sorted(found, key=lambda item: np.flatnonzero(item[1])[0])


def edge_neighbours(mask: np.ndarray, labels: np.ndarray) -> list[int]:
    """The label across every pixel edge of the border of `mask`; -1 at the edge of the image."""
    found = []
    for y, x in np.argwhere(mask):
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if not inside:
                found.append(-1)
            elif not mask[row, column]:
                found.append(int(labels[row, column]))
    return found


def slow_remove(
    labels: np.ndarray, doomed: list[tuple[int, np.ndarray]], background: int | None, exclude: int = 255
) -> np.ndarray:
    out = labels.astype(int)
    for _, mask in doomed:
        out[mask] = -1
    waiting = list(doomed)
    while waiting:
        decided, later = [], []
        for label, mask in waiting:
            votes = [vote for vote in edge_neighbours(mask, out) if vote not in (-1, IGNORE, exclude)]
            if votes:
                decided.append((mask, min(set(votes), key=lambda vote: (-votes.count(vote), vote))))
            else:
                later.append((label, mask))
        if not decided:
            break
        for mask, value in decided:
            out[mask] = value
        waiting = later
    for label, mask in waiting:
        out[mask] = label if background is None else background
    return out.astype(np.uint8)


@settings(max_examples=80, deadline=None)
@given(maps, connectivities)
def test_regions_are_scipys(labels, connectivity):
    found = find_regions(labels, (1, 2), connectivity=connectivity)
    marks = np.full(labels.shape, -1)
    for row, start, stop, region in zip(found.rows, found.starts, found.stops, found.region, strict=True):
        marks[row, start:stop] = region
    expected = regions_of(labels, (1, 2), connectivity)
    assert len(expected) == found.areas.size
    for number, (label, mask) in enumerate(expected):
        np.testing.assert_array_equal(marks == number, mask)
        assert (found.labels[number], found.areas[number]) == (label, mask.sum())
    assert ((marks >= 0) == np.isin(labels, (1, 2))).all()


@settings(max_examples=80, deadline=None)
@given(maps, connectivities, st.integers(1, 9), st.sampled_from([STREET, ORGANS]))
def test_dropping_small_regions(labels, connectivity, area, space):
    wanted = (0, 1, 2) if space is STREET else (1, 2)
    doomed = [(label, mask) for label, mask in regions_of(labels, wanted, connectivity) if mask.sum() < area]
    expected = slow_remove(labels, doomed, None if space is STREET else 0)
    found = postprocess(labels, space, (Rule("drop_small", area=area, connectivity=connectivity),))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(maps, connectivities)
def test_keeping_the_largest(labels, connectivity):
    regions, doomed = regions_of(labels, (1, 2), connectivity), []
    for label in (1, 2):
        own = [item for item in regions if item[0] == label]
        best = max(own, key=lambda item: item[1].sum(), default=None)
        doomed += [item for item in own if item is not best]
    found = postprocess(labels, ORGANS, (Rule("keep_largest", connectivity=connectivity),))
    np.testing.assert_array_equal(found, slow_remove(labels, doomed, 0))


@settings(max_examples=60, deadline=None)
@given(maps, connectivities, st.integers(0, 4))
def test_filling_holes_of_background_only(labels, connectivity, area):
    expected = labels.copy()
    for _, mask in regions_of(labels, (0,), 12 - connectivity):
        around = set(edge_neighbours(mask, labels))
        if around in ({1}, {2}) and (area == 0 or mask.sum() <= area):
            expected[mask] = around.pop()
    found = postprocess(labels, ORGANS, (Rule("fill_holes", area=area, connectivity=connectivity),))
    np.testing.assert_array_equal(found, expected)


def test_filling_equals_scipy_where_there_are_two_classes():
    labels = (ndimage.gaussian_filter(np.random.default_rng(3).random((80, 90)), 1.5) > 0.5).astype(np.uint8)
    found = postprocess(labels, BINARY, (Rule("fill_holes"),))
    np.testing.assert_array_equal(found, ndimage.binary_fill_holes(labels))
    untouched = postprocess(labels, BINARY, (Rule("fill_holes", ("background",)),))
    np.testing.assert_array_equal(untouched, labels)  # holes of the cells are no work on the background
    assert found.sum() > labels.sum()


def test_an_object_inside_and_an_ignored_pixel_keep_their_hole_open():
    ring = np.ones((5, 9), np.uint8)
    ring[1:4, 1:8] = 0
    np.testing.assert_array_equal(postprocess(ring, ORGANS, (Rule("fill_holes"),)), np.ones((5, 9)))
    for guest in (2, IGNORE):
        visited = ring.copy()
        visited[2, 4] = guest
        np.testing.assert_array_equal(postprocess(visited, ORGANS, (Rule("fill_holes"),)), visited)


def test_without_a_background_a_small_hole_of_any_class_is_filled():
    labels = np.full((7, 9), 1, np.uint8)
    labels[1:3, 1:3], labels[3:6, 4:8] = 2, 0
    expected = labels.copy()
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(postprocess(labels, STREET, (Rule("fill_holes", ("road",), area=4),)), expected)


@pytest.mark.parametrize("operation", ["open", "close"])
def test_opening_and_closing_two_classes_is_morphology(operation):
    labels = (ndimage.gaussian_filter(np.random.default_rng(5).random((70, 60)), 1.2) > 0.5).astype(np.uint8)
    disc = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2
    if operation == "open":
        expected = ndimage.binary_dilation(ndimage.binary_erosion(labels, disc, border_value=1), disc)
    else:
        expected = ndimage.binary_erosion(ndimage.binary_dilation(labels, disc), disc, border_value=1)
    found = postprocess(labels, BINARY, (Rule(operation, radius=2),))
    np.testing.assert_array_equal(found, expected)
    assert (found != labels).any()


@settings(max_examples=40, deadline=None)
@given(maps)
def test_opening_gives_thin_parts_to_what_is_around(labels):
    disc = np.hypot(*np.mgrid[-1:2, -1:2]) <= 1
    mask = labels == 2
    thin = mask & ~ndimage.binary_dilation(ndimage.binary_erosion(mask, disc, border_value=1), disc)
    marks, count = ndimage.label(thin, structure(8))
    expected = slow_remove(labels, [(2, marks == mark) for mark in range(1, count + 1)], None, exclude=2)
    np.testing.assert_array_equal(postprocess(labels, STREET, (Rule("open", ("car",), radius=1),)), expected)


@settings(max_examples=40, deadline=None)
@given(maps)
def test_closing_takes_background_only(labels):
    found = postprocess(labels, ORGANS, (Rule("close", ("liver",), radius=2),))
    changed = found != labels
    assert (labels[changed] == 0).all()
    assert (found[changed] == 1).all()


def test_rules_for_one_class_leave_the_others():
    labels = np.zeros((6, 6), np.uint8)
    labels[0, 0], labels[3, 3] = 1, 2
    np.testing.assert_array_equal(
        postprocess(labels, ORGANS, (Rule("drop_small", ("tumour",), area=2),)), np.where(labels == 2, 0, labels)
    )


def test_removed_to_the_background_even_inside_another_class():
    labels = np.full((5, 5), 1, np.uint8)
    labels[2, 2] = 2
    around = postprocess(labels, ORGANS, (Rule("drop_small", area=2),))
    behind = postprocess(labels, ORGANS, (Rule("drop_small", area=2, removed="background"),))
    assert (around[2, 2], behind[2, 2]) == (1, 0)


def test_layers_of_a_multi_label_map_do_not_touch_each_other():
    space = LabelSpace(("water", "cloud"), exclusive=False)
    labels = np.random.default_rng(2).integers(0, 2, (30, 40, 2), np.uint8)
    labels[:5, :5, 0] = IGNORE
    found = postprocess(labels, space, (Rule("drop_small", ("water",), area=30), Rule("fill_holes", ("cloud",))))
    marks, count = ndimage.label(labels[..., 0] == 1, structure(8))
    small = np.isin(marks, [mark for mark in range(1, count + 1) if (marks == mark).sum() < 30])
    np.testing.assert_array_equal(found[..., 0], np.where(small, 0, labels[..., 0]))
    np.testing.assert_array_equal(found[..., 1], ndimage.binary_fill_holes(labels[..., 1]))


def test_the_input_is_not_changed_and_rules_run_in_order():
    labels = np.random.default_rng(2).integers(0, 2, (40, 40), np.uint8)
    kept = labels.copy()
    rules = (Rule("fill_holes"), Rule("drop_small", area=50), Rule("keep_largest"))
    step = labels
    for rule in rules:
        step = postprocess(step, BINARY, (rule,))
    np.testing.assert_array_equal(postprocess(labels, BINARY, rules), step)
    np.testing.assert_array_equal(labels, kept)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 100])
def test_wide_and_narrow_maps_agree_with_opencv(width):
    labels = (np.random.default_rng(width).random((200, width)) < 0.3).astype(np.uint8)
    labels[50:90] = 1
    count, marks, stats, _ = cv2.connectedComponentsWithStats(labels, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= 5
    keep[0] = False
    np.testing.assert_array_equal(postprocess(labels, BINARY, (Rule("drop_small", area=5),)), keep[marks])
    assert find_regions(labels, (1,), connectivity=8).areas.size == count - 1


def test_rules_travel_as_json():
    rule = Rule("drop_small", ("liver",), area=12, connectivity=4, removed="background")
    assert from_plain(PostprocessingRule, json.loads(json.dumps(to_plain(rule)))) == rule
    with pytest.raises(UserError, match="Did you mean 'fill_holes'"):
        from_plain(PostprocessingRule, {"operation": "fill_hole"})


def test_rules_that_make_no_sense():
    with pytest.raises(UserError, match="'open' needs radius"):
        Rule("open")
    with pytest.raises(UserError, match="'drop_small' needs area"):
        Rule("drop_small")
    with pytest.raises(UserError, match="needs an area where no class is the background"):
        postprocess(np.zeros((2, 2), np.uint8), STREET, (Rule("fill_holes"),))
    with pytest.raises(UserError, match="removes to the background"):
        postprocess(np.zeros((2, 2), np.uint8), STREET, (Rule("keep_largest", removed="background"),))
