"""Objects as a type: what it checks, derives, chooses and writes."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks

SPACE = LabelSpace(("cat", "dog"), (True, True))
BOXES = np.array([[1, 1, 4, 5], [6, 2, 9, 9]], np.float32)


def two(**changes):
    values = {"masks": RunMasks.from_boxes(BOXES, (10, 12)), "labels": np.array([1, 0], np.int32), "space": SPACE}
    return Instances(**(values | changes))


def test_what_is_not_given_comes_from_the_masks():
    found = two()
    assert found.size == (10, 12)
    assert len(found) == 2
    np.testing.assert_array_equal(found.boxes, BOXES)
    assert found.boxes.dtype == np.float32
    assert found.areas.tolist() == [12.0, 21.0]
    assert found.crowd.tolist() == [False, False]
    assert found.scores is None
    assert found.ids is None


def test_what_is_given_stays():
    areas, boxes = np.array([1.5, 2.5]), BOXES + 1
    found = two(areas=areas, boxes=boxes, crowd=np.array([True, False]), ids=np.array([7, 9]))
    assert found.areas is areas
    assert found.boxes is boxes
    assert found.crowd.tolist() == [True, False]


def test_choosing():
    found = two(scores=np.array([0.5, 1], np.float32), ids=np.array([7, 9]), areas=np.array([1.5, 2.5]))
    for index, ids in (
        (1, [9]),
        (slice(None, None, -1), [9, 7]),
        ([], []),
        (np.array([True, False]), [7]),
        ([1, 1], [9, 9]),
    ):
        part = found[index]
        assert part.ids is not None
        assert part.ids.tolist() == ids
        assert len(part.masks) == len(part.labels) == len(part.boxes) == len(ids)
        np.testing.assert_array_equal(part.areas, [{7: 1.5, 9: 2.5}[value] for value in ids])
    assert two()[:1].scores is None


def test_nothing_found():
    none = Instances(RunMasks.empty((4, 5)), np.empty(0, np.int32), SPACE, scores=np.empty(0, np.float32))
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)


def test_pickling():
    found = pickle.loads(pickle.dumps(two(scores=np.array([0.5, 1], np.float32))))
    np.testing.assert_array_equal(found.masks.dense(), two().masks.dense())
    assert found.space == SPACE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.array([1, 0])}, "labels is int32 of the shape .2,. for 2 masks, found int64"),
        ({"labels": np.array([1], np.int32)}, r"for 2 masks, found int32 \(1,\)"),
        ({"labels": np.array([1, 2], np.int32)}, r"0 to 1 \(2 classes\), found 2"),
        ({"labels": np.array([1, -1], np.int32)}, "found -1"),
        ({"scores": np.array([0.5, 1.5], np.float32)}, "Scores go from 0 to 1, found 1.5"),
        ({"scores": np.array([0.5, np.nan], np.float32)}, "Scores go from 0 to 1, found nan"),
        ({"scores": np.array([0.5, 1])}, "scores is float32"),
        ({"boxes": BOXES[:1]}, "boxes is float32 of the shape .2, 4."),
        ({"boxes": np.full((2, 4), np.inf, np.float32)}, "finite"),
        ({"boxes": np.array([[0, 0, 1, 1], [9, 9, -3, -3]], np.float32)}, "inside out: .9.0, 9.0, -3.0, -3.0."),
        ({"crowd": np.array([0, 1])}, "crowd is bool"),
        ({"areas": np.array([1, 2])}, "areas is float64"),
        ({"areas": np.array([1.0, np.nan])}, "Areas are finite numbers of pixels, found nan"),
        ({"areas": np.array([-1.0, 1.0])}, "Areas are finite numbers of pixels, found -1.0"),
        ({"crowd": [False, False]}, "crowd is a NumPy array of bool of the shape .2,., found list"),
        ({"ids": np.array([1, 2], np.int32)}, "ids is int64"),
        ({"space": LabelSpace(("background", "cat"))}, "no background, found 'background'"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        two(**changes)


def test_saving(tmp_path):
    (file,) = two().save(tmp_path / "deep" / "a.png")
    picture = Image.open(file)
    assert picture.mode.startswith("I;16")
    values = np.asarray(picture)
    np.testing.assert_array_equal(
        RunMasks.from_labels(values.astype(np.int32), np.array([1, 2])).dense(), two().masks.dense()
    )
    with pytest.raises(UserError, match=r"ends with \.png"):
        two().save(tmp_path / "a.tif")
    overlapping = two(masks=RunMasks.from_boxes(BOXES * [[1, 1, 2, 1]], (10, 12)))
    with pytest.raises(UserError, match=r"objects overlap .6 pixels.*COCO JSON"):
        overlapping.save(tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    for scores, seen in (([0.2, 0.9], 2), ([0.9, 0.2], 1)):
        predicted = replace(overlapping, scores=np.array(scores, np.float32))
        predicted.save(tmp_path / "b.png")
        found = np.asarray(Image.open(tmp_path / "b.png"))
        both = overlapping.masks.dense().all(axis=0)
        assert both.sum() == 6
        assert (found[both] == seen).all()
        assert set(np.unique(found)) == {0, 1, 2}


def test_more_objects_than_16_bits_hold(tmp_path):
    count = 65536
    counts = np.tile(np.array([0, 1], np.uint32), count)
    masks = RunMasks(counts, np.arange(0, 2 * count + 1, 2), (1, 1))
    with pytest.raises(UserError, match="holds 65535 objects, found 65536"):
        Instances(masks, np.zeros(count, np.int32), SPACE).save(tmp_path / "a.png")


def test_the_picture_is_drawn_upstairs(monkeypatch):
    seen = []

    def draw(*arguments, **options):
        seen.append((arguments, options))
        return np.zeros((10, 12, 3), np.uint8)

    monkeypatch.setattr("nuriwake.core.instances.import_object", lambda path: seen.append(path) or draw)
    image, found = np.zeros((10, 12, 3), np.uint8), two()
    found.overlay(image, opacity=0.25, legend=False)
    assert seen == ["nuriwake.viz.objects:overlay_instances", ((image, found), {"opacity": 0.25, "legend": False})]
