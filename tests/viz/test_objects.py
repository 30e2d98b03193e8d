import numpy as np
import pytest

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.viz.matches import match_entries, match_line, match_objects, match_picture
from nuriwake.viz.objects import draw_objects, object_colours, object_entries, overlay_instances, overlay_panoptic

SPACE = LabelSpace(("核", "細胞"), (True, True))
SIZE = (120, 160)
GREY = np.full((*SIZE, 3), 90, np.uint8)


def squares(*places, scores=None, labels=None, crowd=None):
    """Objects of top, left and side."""
    canvas = np.zeros((len(places), *SIZE), np.uint8)
    for layer, (top, left, side) in zip(canvas, places, strict=True):
        layer[top : top + side, left : left + side] = 1
    return Instances(
        RunMasks.from_dense(canvas),
        np.array(labels or [0] * len(places), np.int32),
        SPACE,
        scores=None if scores is None else np.array(scores, np.float32),
        crowd=np.array(crowd or [False] * len(places), bool),
    )


def test_objects_are_tinted_inside_and_nothing_else_is_touched():
    target = squares((40, 40, 30), (80, 100, 20), labels=[0, 1])
    shown = overlay_instances(GREY, target, legend=False, boxes=False, captions=False)
    changed = (shown != GREY).any(2)
    assert (changed == (target.masks.dense() > 0).any(0)).all()
    assert (GREY == 90).all()
    assert not np.array_equal(shown[55, 55], shown[90, 110]), "classes differ"


def test_japanese_names_are_drawn():
    one, other = (LabelSpace((name,), (True,), ((200, 0, 0),)) for name in ("細胞核", "血管"))
    mask = squares((40, 20, 60))
    pictures = [
        overlay_instances(GREY, Instances(mask.masks, mask.labels, space), legend=False) for space in (one, other)
    ]
    differ = np.argwhere((pictures[0] != pictures[1]).any(2))
    assert len(differ)
    assert differ[:, 0].max() < 40, "the names alone differ, above the box"


@pytest.mark.parametrize("places", [[], [(0, 0, 1)], [(119, 159, 1)], [(0, 0, 120)]])
def test_no_object_one_of_a_pixel_and_one_that_fills_the_image(places):
    shown = overlay_instances(GREY, squares(*places, scores=[0.5] * len(places)))
    assert shown.shape == GREY.shape
    assert (shown != GREY).any() == bool(places)
    assert draw_objects(np.zeros((30, 40, 3), np.uint8), squares(*places)).shape == (30, 40, 3)


def test_things_of_a_class_differ_and_stuff_has_its_own_colour():
    space = LabelSpace(("cat", "sky"), (True, False))
    colours = object_colours(np.array([0, 0, 1], np.int32), space)
    assert not np.array_equal(colours[0], colours[1])
    assert tuple(colours[2].tolist()) == space.colours[1]
    names = [entry.name for entry in object_entries(np.array([0, 0, 1]), np.array([5, 5, 9]), space)]
    assert names == ["cat (2)", "sky"]


def test_void_stays_as_it_was():
    ids = np.zeros(SIZE, np.int32)
    ids[:40], ids[60:90, 20:80] = 7, 70_000
    target = Panoptic(
        ids, np.array([70_000, 7], np.int32), np.array([0, 1], np.int32), LabelSpace(("cat", "sky"), (True, False))
    )
    shown = overlay_panoptic(GREY, target, legend=False, captions=False)
    assert ((shown != GREY).any(2) == (ids > 0)).all()
    small = draw_objects(np.zeros((30, 40, 3), np.uint8), target)
    assert small.shape == (30, 40, 3)


def test_segments_of_large_ids_are_drawn_small():
    ids = np.full(SIZE, 2**24 + 2, np.int32)
    ids[:, :80], ids[60:, :80] = 2**31 - 1, 2**24 + 3
    numbers = np.unique(ids).astype(np.int32)
    target = Panoptic(ids, numbers, np.array([0, 0, 1], np.int32), SPACE)
    half = GREY[::2, ::2].copy()
    small = Panoptic(
        np.searchsorted(numbers, ids[::2, ::2]).astype(np.int32) + 1,
        np.arange(1, 4, dtype=np.int32),
        target.labels,
        SPACE,
    )
    np.testing.assert_array_equal(draw_objects(half, target)[5:25, 5:25], draw_objects(half, small)[5:25, 5:25])


def test_a_target_of_another_size_is_refused():
    with pytest.raises(ValueError, match="120, 160"):
        overlay_instances(GREY[:50], squares((0, 0, 5)))


def test_found_false_and_missed():
    truth = squares((0, 0, 20), (40, 40, 20), (80, 80, 30), crowd=[False, False, True])
    prediction = squares((2, 0, 20), (0, 1, 20), (85, 85, 10), (40, 100, 10), scores=[0.5, 0.9, 0.8, 0.7])
    matches = match_objects(truth, prediction)
    assert matches.found.tolist() == [[0, 1]], "the surer one has it"
    assert matches.missed.tolist() == [1]
    assert matches.false.tolist() == [0, 3], "what lies in the crowd is not false"
    assert matches.iou == pytest.approx([19 / 21])
    assert match_line(matches) == "found 1 of 2 at IoU 0.5 · false 2 · mean IoU of the found 0.905"
    assert [entry.name for entry in match_entries(matches)] == ["found (1)", "false (2)", "missed (1)"]
    picture = match_picture(GREY, truth.masks, prediction.masks, matches)
    seen = {tuple(picture[place].tolist()) for place in ((0, 10), (50, 50), (45, 105))}
    assert len(seen) == 3
    assert picture[100, 10].tolist() == [67, 67, 67]


@pytest.mark.parametrize(("true", "claimed"), [(0, 0), (0, 2), (2, 0)])
def test_without_truth_or_prediction(true, claimed):
    places = [(0, 0, 20), (40, 40, 20)]
    matches = match_objects(squares(*places[:true]), squares(*places[:claimed], scores=[0.5] * claimed))
    assert (len(matches.found), len(matches.missed), len(matches.false)) == (0, true, claimed)


def test_another_class_is_no_match():
    matches = match_objects(squares((0, 0, 20)), squares((0, 0, 20), labels=[1], scores=[0.9]))
    assert (len(matches.found), len(matches.missed), len(matches.false)) == (0, 1, 1)
