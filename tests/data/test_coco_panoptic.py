"""COCO panoptic: lossless both ways, and every disagreement of PNG and JSON named."""

import json
import pickle

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import encode_ids
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import instance_view, semantic_view
from nuriwake.data.batching import target_bytes
from nuriwake.data.formats import open_data
from nuriwake.data.samplers import random_pixel
from nuriwake.data.statistics import image_class_pixels
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (20, 30)
CATEGORIES = [
    {"id": 92, "name": "banner", "isthing": 0, "color": [1, 2, 3]},
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 7, "name": "train", "isthing": 1, "color": [0, 80, 100]},
]


def id_map():
    ids = np.zeros(SIZE, np.int32)
    ids[:5] = 3226956
    ids[5:15, 2:9] = 70000
    ids[6:18, 12:20] = 255
    ids[10:12, 20:30] = 5
    return ids


def segment(identifier, category, ids=None, **fields):
    area = int((id_map() == identifier).sum()) if ids is None else int((ids == identifier).sum())
    return {"id": identifier, "category_id": category, "iscrowd": 0, "area": area, "bbox": [0, 0, 1, 1], **fields}


SEGMENTS = [segment(3226956, 92), segment(255, 1), segment(70000, 1), segment(5, 7, iscrowd=1)]


def save(root, *, segments=SEGMENTS, ids=None, split="train2017", **fields):
    folder = root / "annotations" / f"panoptic_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, name in enumerate(("b", "a"), 4):
        images.append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        annotations.insert(0, {"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        cv2.imwrite(str(folder / f"{name}.png"), encode_ids(id_map() if ids is None else ids)[..., ::-1])
        cv2.imwrite(str(root / "images" / split / f"{name}.jpg"), np.full((*SIZE, 3), 90, np.uint8))
    plain = {"images": images, "annotations": annotations, "categories": CATEGORIES} | fields
    folder.with_suffix(".json").write_text(json.dumps(plain))
    return root


def targets(data):
    return {record.name: data.read_target(record) for part in data.splits.values() for record in part}


def test_read(tmp_path):
    data = open_data(save(tmp_path))
    assert (data.format, data.space.names, data.space.things) == (
        "coco_panoptic", ("person", "train", "banner"), (True, True, False)
    )  # fmt: skip
    assert data.space.colours == ((220, 20, 60), (0, 80, 100), (1, 2, 3))
    target = targets(data)["a"]
    np.testing.assert_array_equal(target.ids, id_map())
    assert target.segment_ids.tolist() == [3226956, 255, 70000, 5]
    assert target.labels.tolist() == [2, 0, 0, 1]
    assert target.crowd.tolist() == [False, False, False, True]
    labels = semantic_view(target).labels
    assert labels[0, 0] == 2
    assert labels[19, 0] == IGNORE
    assert len(instance_view(target)) == 3
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint() == data.fingerprint()
    assert target_bytes(target) > 4 * 600


def test_sampling_and_statistics(tmp_path):
    data = open_data(save(tmp_path))
    counts = image_class_pixels(data, "train")
    assert counts.tolist() == [[int((id_map() == 255).sum() + (id_map() == 70000).sum()), 0, 150]]
    sample = data.read(data.splits["train"][0])
    for label, inside in ((0, (255, 70000)), (2, (3226956,))):
        row, column = random_pixel(sample, label, np.random.default_rng(0))
        assert id_map()[row, column] in inside


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (
            SEGMENTS[:3],
            r"image [ab]\.jpg: [ab]\.png has 1 ids that are not listed in 'segments_info' \(5; \d+ pixels\)",
        ),
        ([*SEGMENTS, segment(9, 1)], r"image [ab]\.jpg: 1 segments of 'segments_info' have no pixel in [ab]\.png: 9"),
        (
            [*SEGMENTS[:3], segment(5, 7, area=3)],
            r"the segment 5 has the area 3, but [ab]\.png has 20 pixels of it \(1 of 4",
        ),
        ([*SEGMENTS[:3], segment(5, 8)], r"the segment 5 has the category 8, which is not in 'categories'"),
        ([*SEGMENTS, SEGMENTS[0]], r"the segment id 3226956 is listed more than once"),
        ([*SEGMENTS, segment(0, 1)], r"segment ids lie in 1\.\.\d+ \(0 is void\), found 0"),
    ],
)
def test_png_and_json_that_disagree_are_refused_when_read(tmp_path, segments, message):
    data = open_data(save(tmp_path, segments=segments))
    with pytest.raises(UserError, match=message) as caught:
        targets(data)
    assert "panoptic_train2017" in str(caught.value)


def test_areas_may_be_left_out(tmp_path):
    bare = [{key: value for key, value in item.items() if key not in ("area", "iscrowd", "bbox")} for item in SEGMENTS]
    assert len(targets(open_data(save(tmp_path, segments=bare)))["a"]) == 4


def test_sizes_that_differ(tmp_path):
    data = open_data(save(tmp_path, ids=np.ascontiguousarray(id_map().T)))
    with pytest.raises(UserError, match=r"\.png: the PNG is 30x20 but .*\.jpg is 20x30 \(height x width\)"):
        targets(data)


def test_a_grey_png(tmp_path):
    data = open_data(save(tmp_path))
    cv2.imwrite(str(tmp_path / "annotations/panoptic_train2017/a.png"), np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError, match=r"a\.png: panoptic ids are stored as RGB"):
        targets(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"categories": [{"id": 1, "name": "person"}]}, r"the category 1 \('person'\) has no field 'isthing'"),
        (
            {"categories": [{"id": 1, "name": "person", "isthing": 2}]},
            r"categories\[0\]: the field 'isthing' is 0 or 1",
        ),
        (
            {"annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": []}]},
            r"annotations\[0\]: 1 of 1 annotations",
        ),
        (
            {"annotations": [{"image_id": 5, "segments_info": SEGMENTS}, {"image_id": 4, "file_name": "a.png"}]},
            r"annotations\[1\]: the field 'segments_info' is missing",
        ),
        (
            {"annotations": [{"image_id": 4, "file_name": f"{name}.png", "segments_info": SEGMENTS} for name in "ab"]},
            r"images\[0\] \(id 4\): the image has more than one panoptic annotation",
        ),
        (
            {"annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": [{"id": "x", "category_id": 1}]}]},
            r"annotations\.segments_info\[0\].*the field 'id' is a whole number",
        ),
    ],
)
def test_structure_that_is_refused_when_opening(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        open_data(save(tmp_path, **fields), format="coco_panoptic")


def test_a_category_that_is_thing_here_and_stuff_there(tmp_path):
    save(tmp_path)
    other = [{**item, "isthing": 1} for item in CATEGORIES]
    save(tmp_path, split="val2017", categories=other)
    with pytest.raises(
        UserError,
        match=r"panoptic_val2017\.json: the category 92 \('banner'\) is a thing, but in .*train2017\.json it is stuff",
    ):
        open_data(tmp_path)


def test_a_category_that_only_another_file_lists_and_stuff_in_two_segments_are_said(tmp_path):
    save(tmp_path, categories=CATEGORIES[:2])
    assert not any("only another file" in note for note in open_data(save(tmp_path / "whole")).notes)
    twice = [segment(3226956, 92), segment(255, 1), segment(70000, 92), segment(5, 7)]
    notes = open_data(save(tmp_path, split="val2017", segments=twice)).notes
    assert any(
        "panoptic_train2017.json: 2 segments have a category that only another file lists (7)" in n for n in notes
    )
    assert any(
        "panoptic_val2017.json: 2 images have several segments of one class of stuff, of which COCO has one each (b.jpg, a.jpg)"
        in n
        for n in notes
    )
    assert sum("several segments" in note for note in notes) == 1


def test_a_split_without_a_segment_is_no_split_less(tmp_path):
    save(tmp_path)
    save(tmp_path, split="val2017", annotations=[])
    assert any("panoptic_val2017.json: 2 images have no annotation" in note for note in open_data(tmp_path).notes)


def test_png_files_that_are_missing(tmp_path):
    save(tmp_path)
    (tmp_path / "annotations/panoptic_train2017/a.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 PNG files are not in .*panoptic_train2017: a\.png"):
        open_data(tmp_path)
    (tmp_path / "annotations/panoptic_train2017/b.png").unlink()
    with pytest.raises(UserError, match=r"its PNG files \(such as '[ab]\.png'\) were not found"):
        open_data(tmp_path)


def test_images_with_text_ids_as_cityscapes_has_them(tmp_path):
    save(tmp_path)
    path = tmp_path / "annotations/panoptic_train2017.json"
    path.write_text(path.read_text().replace('"id": 4, "f', '"id": "x_4", "f').replace('"id": 5, "f', '"id": "x_5", "f')
                    .replace('"image_id": 4', '"image_id": "x_4"').replace('"image_id": 5', '"image_id": "x_5"'))  # fmt: skip
    assert set(targets(open_data(tmp_path))) == {"a", "b"}


def roundtrip(data, folder):
    records = [record for part in data.splits.values() for record in part]
    written = write_data(map(data.read, records), folder, format="coco_panoptic", space=data.space)
    assert written.notes == ()
    again = open_data(folder, format="coco_panoptic")
    found = targets(again)
    assert set(found) == {record.name for record in records}
    for record in records:
        before, after = data.read_target(record), found[record.name]
        np.testing.assert_array_equal(before.ids, after.ids)
        for field in ("segment_ids", "crowd"):
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
        names = [[target.space.names[label] for label in target.labels] for target in (before, after)]
        assert names[0] == names[1]
    assert dict(zip(again.space.names, again.space.things, strict=True)) == dict(
        zip(data.space.names, data.space.things, strict=True)
    )
    return again


def test_truth_to_files_to_truth(tmp_path):
    data = open_data(save(tmp_path / "one"))
    again = roundtrip(data, tmp_path / "two")
    assert again.space == data.space
    with pytest.raises(UserError, match="already exists"):
        write_data([], tmp_path / "two", format="coco_panoptic", space=data.space)


def test_predictions_of_other_kinds_become_segments(tmp_path):
    space = LabelSpace(("sky", "road"))
    labels = np.array([[0, 0, 1], [1, IGNORE, 1]], np.uint8)
    cells = LabelSpace(("cell",), (True,))
    dense = np.zeros((2, 2, 3), bool)
    dense[0, :, :2], dense[1, 0, 1:] = True, True
    objects = Instances(
        RunMasks.from_dense(dense), np.zeros(2, np.int32), cells, scores=np.array([0.75, 0.5], np.float32)
    )
    for name, target, note in (("maps", SemanticMap(labels, space), "one segment"), ("objects", objects, "void")):
        sample = Sample(np.zeros((2, 3, 3), np.uint8), target, name="a")
        written = write_data([sample], tmp_path / name, format="coco_panoptic", space=target.space)
        assert any(note in line for line in written.notes)
    data = open_data(tmp_path / "maps", format="coco_panoptic")
    assert (semantic_view(data.read(data.splits["train"][0]).target).labels == labels).all()
    data = open_data(tmp_path / "objects", format="coco_panoptic")
    found = data.read(data.splits["train"][0]).target
    assert (found.ids == [[1, 2, 2], [1, 1, 0]]).all()  # the smaller one on top, nothing below right
    mixed = LabelSpace(("sky", "cell"), (False, True))
    labels = np.array([[1, 0, 1], [1, IGNORE, 0]], np.uint8)
    for regions, name in ((True, "regions"), (False, "refused")):
        samples = [Sample(np.zeros((2, 3, 3), np.uint8), SemanticMap(labels, mixed), name="a")]
        settings = WriteSettings(regions=regions)
        if regions:
            write_data(samples, tmp_path / name, format="coco_panoptic", space=mixed, settings=settings)
        else:
            with pytest.raises(UserError, match="does not tell the objects of the thing 'cell' apart"):
                write_data(samples, tmp_path / name, format="coco_panoptic", space=mixed, settings=settings)
    data = open_data(tmp_path / "regions", format="coco_panoptic")
    found = data.read(data.splits["train"][0]).target
    assert (found.ids == [[2, 1, 3], [2, 0, 1]]).all()
    assert [found.space.names[label] for label in found.labels] == ["sky", "cell", "cell"]
    several = SemanticMap(np.zeros((2, 3, 2), np.uint8), LabelSpace(("a", "b"), exclusive=False))
    with pytest.raises(UserError, match="multi-label"):
        write_data(
            [Sample(np.zeros((2, 3, 3), np.uint8), several, name="a")],
            tmp_path / "x",
            format="coco_panoptic",
            space=several.space,
        )


def test_things_go_to_coco_instances(tmp_path):
    data = open_data(save(tmp_path / "one"))
    records = [record for part in data.splits.values() for record in part]
    written = write_data(map(data.read, records), tmp_path / "two", format="coco", space=data.space)
    assert any("1 class of stuff is left behind" in note for note in written.notes)
    again = targets(open_data(tmp_path / "two"))["a"]
    assert again.space.names == ("person", "train")
    assert again.crowd.tolist() == [False, False, True]


def test_coco128_panoptic_to_files_and_back(shared, tmp_path):
    roundtrip(open_data(shared / "data" / "coco128", format="coco_panoptic"), tmp_path)


def test_panoptic_sample(shared):
    found = targets(open_data(shared / "data" / "formats" / "panoptic_sample", format="coco_panoptic"))
    assert [len(target) for target in found.values()] == [31, 19] or sum(map(len, found.values())) == 50
