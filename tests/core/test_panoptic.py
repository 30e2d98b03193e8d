"""Segments as a type: what it checks, counts and writes."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import decode_ids, encode_ids
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic

SPACE = LabelSpace(("cat", "sky", "dog"), (True, False, True))
IDS = np.array([[0, 7, 7, 300], [5, 7, 7, 300], [5, 5, 0, 300]], np.int32)


def three(**changes):
    values = {"ids": IDS, "segment_ids": np.array([300, 5, 7], np.int32), "labels": np.array([1, 0, 2], np.int32)}
    return Panoptic(**(values | {"space": SPACE} | changes))


def test_areas_and_masks_follow_the_list():
    found = three()
    assert found.size == (3, 4)
    assert len(found) == 3
    assert found.areas().tolist() == [3, 3, 4]
    np.testing.assert_array_equal(found.masks().dense(), np.stack([IDS == 300, IDS == 5, IDS == 7]))
    assert found.crowd.tolist() == [False] * 3


def test_views_of_it():
    assert three().semantic().labels.tolist() == [[255, 2, 2, 1], [0, 2, 2, 1], [0, 0, 255, 1]]
    things = three(crowd=np.array([False, True, False])).instances()
    assert things.space.names == ("cat", "dog")
    assert things.labels.tolist() == [0, 1]
    assert things.crowd.tolist() == [True, False]


def test_nothing_but_void():
    empty = Panoptic(np.zeros((2, 3), np.int32), np.empty(0, np.int32), np.empty(0, np.int32), SPACE)
    assert len(empty) == 0
    assert empty.semantic().labels.tolist() == [[255] * 3] * 2
    assert len(empty.instances()) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": IDS.astype(np.int64)}, "int32 of the shape .H, W., found int64"),
        ({"ids": np.zeros((0, 4), np.int32)}, "found int32 .0, 4."),
        ({"segment_ids": np.array([300, 5, 7])}, "segment_ids is int32"),
        ({"segment_ids": np.array([300, 5, 5], np.int32)}, "5 stands more than once"),
        ({"segment_ids": np.array([300, 0, 7], np.int32)}, "positive .0 means void., found 0"),
        ({"segment_ids": np.array([300, 6, 7], np.int32)}, "the id 5, which is none of the 3 segments"),
        ({"ids": np.where(IDS == 5, 0, IDS).astype(np.int32)}, "segment 5 is listed, but no pixel"),
        ({"ids": np.where(IDS == 0, -3, IDS).astype(np.int32)}, "the id -3"),
        ({"labels": np.array([1, 0], np.int32)}, "labels is int32 of the shape .3,. for 3 segments"),
        ({"labels": np.array([1, 0, 3], np.int32)}, "0 to 2 .3 classes., found 3"),
        ({"scores": np.array([1, 0, 2], np.float32)}, "found 2.0"),
        ({"crowd": np.array([1, 0, 2])}, "crowd is bool"),
        ({"space": LabelSpace(("a", "b", "c"), exclusive=False)}, "exclusive"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        three(**changes)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 9))
def test_areas_beside_counting(seed, height, width):
    generator = np.random.default_rng(seed)
    ids = generator.choice([0, 1, 2, 9, 70000], (height, width)).astype(np.int32)
    segments = generator.permutation(np.unique(ids[ids > 0])).astype(np.int32)
    found = Panoptic(ids, segments, np.zeros(len(segments), np.int32), SPACE)
    assert found.areas().tolist() == [int((ids == value).sum()) for value in segments]


def test_ids_in_colours():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 2**24 - 1, 7]], np.int32)
    colours = encode_ids(ids)
    assert colours.dtype == np.uint8
    assert colours[1, 1].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(colours.astype(int) @ [1, 256, 65536], ids)
    np.testing.assert_array_equal(decode_ids(colours), ids)
    assert decode_ids(colours).dtype == np.int32
    for bad in (2**24, -1):
        with pytest.raises(UserError, match="16777215"):
            encode_ids(np.array([[bad]], np.int32))
    with pytest.raises(UserError, match="8-bit RGB"):
        decode_ids(np.zeros((2, 2, 4), np.uint8))


def test_saving_loses_nothing(tmp_path):
    found = three(crowd=np.array([False, True, False]), scores=np.array([0.5, 0.25, 1], np.float32))
    picture, text = found.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_ids(np.asarray(Image.open(picture))), IDS)
    content = json.loads(text.read_text())
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == "a.png"
    assert annotation["segments_info"][0] == {
        "id": 300, "category_id": 2, "area": 3, "bbox": [3, 0, 1, 3], "iscrowd": 0, "score": 0.5,
    }  # fmt: skip
    assert [item["name"] for item in content["categories"]] == list(SPACE.names)
    assert [item["isthing"] for item in content["categories"]] == [1, 0, 1]
    with pytest.raises(UserError, match=r"ends with \.png"):
        found.save(tmp_path / "a.jpg")


def test_pickling():
    again = pickle.loads(pickle.dumps(three()))
    np.testing.assert_array_equal(again.ids, IDS)


def test_the_picture_is_drawn_upstairs(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nuriwake.core.panoptic.import_object", lambda path: seen.append(path) or (lambda *_, **__: path)
    )
    assert three().overlay(np.zeros((3, 4, 3), np.uint8)) == "nuriwake.viz.objects:overlay_panoptic"
