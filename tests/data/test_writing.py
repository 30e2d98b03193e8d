"""Mask folders of objects and of classes, and Pascal VOC: read, written, read back; what cannot be carried is said."""

import json

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace, palette
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, write_palette_png
from nuriwake.core.views import semantic_space, semantic_view
from nuriwake.data.formats import open_data
from nuriwake.data.samplers import random_pixel
from nuriwake.data.trainable import check_trainable
from nuriwake.data.writing import writable, write_data
from nuriwake.data.written import WriteSettings

SIZE = (18, 25)
IMAGE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
CELL = LabelSpace(("cell",), (True,))


def cells(*boxes, ids=None):
    masks = RunMasks.from_boxes(np.array(boxes, float).reshape(-1, 4), SIZE)
    return Instances(masks, np.zeros(len(boxes), np.int32), CELL, ids=None if ids is None else np.array(ids))


def samples(*found):
    return [Sample(IMAGE, target, name=f"s{i}") for i, target in enumerate(found)]


def read_all(data):
    return {r.name.rpartition("/")[2]: data.read_target(r) for part in data.splits.values() for r in part}


@pytest.mark.parametrize("few", [False, True])
def test_objects_of_one_class_as_sixteen_bit_numbers(tmp_path, few):
    one = cells((1, 1, 5, 6), ids=[1]) if few else cells((1, 1, 5, 6), (7, 2, 20, 9), ids=[40, 30000])
    write_data(samples(one, cells()), tmp_path, format="mask_folder", space=CELL)
    data = open_data(tmp_path)
    assert data.space == CELL
    found = read_all(data)
    assert found["s0"].ids.tolist() == one.ids.tolist()
    np.testing.assert_array_equal(found["s0"].masks.dense(), one.masks.dense())
    assert len(found["s1"]) == 0
    np.testing.assert_array_equal(data.read(next(r for r in data.splits["train"] if r)).image, IMAGE)


def test_overlaps_and_unfit_ids_are_said(tmp_path):
    overlapping = cells((1, 1, 15, 15), (3, 3, 6, 6), ids=[70000, 5])
    written = write_data(samples(overlapping), tmp_path, format="mask_folder", space=CELL)
    text = " ".join(written.notes)
    assert "1 image: objects overlap" in text
    assert "ids do not fit 16 bits" in text
    raw = cv2.imread(str(tmp_path / "masks/train/s0.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert raw[4, 4] == 2  # the smaller one is on top


def test_maps_of_classes(tmp_path):
    space = LabelSpace(("sky", "road", "tree"))
    labels = np.resize(np.array([0, 1, 2, 255], np.uint8), SIZE)
    for split in ("train", "val"):
        settings = WriteSettings(split=split)
        write_data(samples(SemanticMap(labels, space)), tmp_path, format="mask_folder", space=space, settings=settings)
    data = open_data(tmp_path)
    assert data.space.names == space.names
    np.testing.assert_array_equal(read_all(data)["s0"].labels, labels)
    other = LabelSpace(("sky", "sea", "tree"))
    with pytest.raises(UserError, match=r"classes\.json: the splits of one folder have one list of classes"):
        write_data(
            samples(SemanticMap(labels, other)), tmp_path, format="mask_folder", space=other,
            settings=WriteSettings(split="test"),
        )  # fmt: skip


def test_objects_of_several_classes_become_a_map(tmp_path):
    space = LabelSpace(("cell", "debris"), (True, True))
    masks = RunMasks.from_boxes(np.array([[1, 1, 5, 6], [7, 2, 20, 9]]), SIZE)
    target = Instances(masks, np.array([1, 0], np.int32), space)
    written = write_data(samples(target), tmp_path, format="mask_folder", space=space)
    assert any("does not tell objects apart" in note for note in written.notes)
    data = open_data(tmp_path, val_share=0)
    assert data.space.names == ("background", "cell", "debris")
    np.testing.assert_array_equal(read_all(data)["s0"].labels, semantic_view(target).labels)


def test_nuclei_are_objects_and_foreground(shared):
    data = open_data(shared / "data" / "nuclei")
    assert data.space == LabelSpace(("foreground",), (True,))
    assert semantic_space(data.space).names == ("background", "foreground")
    assert any("instance ids (up to" in note for note in data.notes)
    record = data.splits["train"][0]
    raw = cv2.imread(str(record.target), cv2.IMREAD_UNCHANGED)
    target = data.read_target(record)
    np.testing.assert_array_equal(semantic_view(target).labels, (raw > 0).astype(np.uint8))
    assert target.ids.tolist() == np.unique(raw)[1:].tolist()
    check_trainable(data.with_splits({"train": data.splits["train"][:2], "val": data.splits["val"][:2]}))
    row, column = random_pixel(data.read(record), 0, np.random.default_rng(1))
    assert raw[row, column] > 0


@pytest.mark.parametrize("boxes", [[(0, 0, 3, 4)], [(0, 0, 25, 18)], [(1, 2, 4, 17), (20, 3, 24, 9)]])
def test_random_pixels_of_objects_lie_in_them_and_reach_all(boxes):
    sample = Sample(IMAGE, cells(*boxes))
    inside = sample.target.masks.merge().dense()[0]
    rng = np.random.default_rng(0)
    hits = np.zeros(SIZE, int)
    for _ in range(3000):
        hits[random_pixel(sample, 0, rng)] += 1
    assert not hits[inside == 0].any()
    assert (hits[inside == 1] > 0).mean() > 0.9
    with pytest.raises(UserError, match="does not occur"):
        random_pixel(Sample(IMAGE, cells()), 0, rng)


def voc(root, *, objects=None, classes=None):
    labels = np.zeros(SIZE, np.uint8)
    labels[2:8, 2:8], labels[2:8, 8:14], labels[12:, :] = 15, 15, 9
    labels[8, :] = 255
    numbers = np.zeros(SIZE, np.uint8)
    numbers[2:8, 2:8], numbers[2:8, 8:14], numbers[12:, :] = 1, 2, 3
    numbers[8, :] = 255
    for name in "xyz":
        write_palette_png(root / f"SegmentationClass/{name}.png", labels if classes is None else classes, palette(256))
        write_palette_png(
            root / f"SegmentationObject/{name}.png", numbers if objects is None else objects, palette(256)
        )
        (root / "JPEGImages").mkdir(exist_ok=True)
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), IMAGE)
    return labels, numbers


def test_voc_objects(tmp_path):
    labels, numbers = voc(tmp_path)
    data = open_data(tmp_path)
    assert data.space.things == (False, *(True,) * 20)
    target = read_all(data)["x"]
    assert isinstance(target, Panoptic)
    np.testing.assert_array_equal(semantic_view(target).labels, labels)
    objects = target.instances()
    assert objects.ids.tolist() == [1, 2, 3]
    assert [objects.space.names[label] for label in objects.labels] == ["person", "person", "chair"]
    np.testing.assert_array_equal(objects.masks.dense()[1], numbers == 2)
    (tmp_path / "SegmentationObject/y.png").unlink()
    data = open_data(tmp_path)
    assert any("1 of 3 masks have no mask of objects" in note for note in data.notes)
    assert isinstance(read_all(data)["x"], SemanticMap)


def test_voc_masks_that_disagree(tmp_path):
    _, numbers = voc(tmp_path)
    voc(tmp_path, objects=np.where(numbers == 2, 0, numbers).astype(np.uint8))
    with pytest.raises(UserError, match=r"SegmentationObject/x\.png: 36 pixels have an object but no class"):
        read_all(open_data(tmp_path))
    voc(tmp_path, objects=np.where(numbers == 3, 2, numbers).astype(np.uint8))
    with pytest.raises(UserError, match=r"x\.png: the object 2 has several classes: chair, person"):
        read_all(open_data(tmp_path))
    voc(tmp_path, objects=numbers[:-1])
    with pytest.raises(UserError, match=r"the mask of objects is \(17, 25\), that of classes \(18, 25\)"):
        read_all(open_data(tmp_path))


def same_segments(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    order, others = np.argsort(one.segment_ids), np.argsort(other.segment_ids)
    np.testing.assert_array_equal(one.segment_ids[order], other.segment_ids[others])
    np.testing.assert_array_equal(one.labels[order], other.labels[others])


def test_voc_written_and_read_back(tmp_path):
    voc(tmp_path / "one")
    data = open_data(tmp_path / "one")
    for split, records in data.splits.items():
        write_data(
            map(data.read, records),
            tmp_path / "two",
            format="voc",
            space=data.space,
            settings=WriteSettings(split=split),
        )
    again = open_data(tmp_path / "two")
    assert {name: len(part) for name, part in again.splits.items()} == {
        name: len(part) for name, part in data.splits.items()
    }
    assert (again.space.names, again.space.things) == (data.space.names, data.space.things)
    for name, target in read_all(data).items():
        same_segments(target, read_all(again)[name])


def test_real_voc_opens_and_is_written_back(shared, tmp_path):
    data = open_data(shared / "data" / "formats" / "voc")
    found = read_all(data)
    assert all(isinstance(target, Panoptic) for target in found.values())
    records = [record for part in data.splits.values() for record in part]
    write_data(map(data.read, records), tmp_path, format="voc", space=data.space)
    for name, target in read_all(open_data(tmp_path)).items():
        same_segments(target, found[name])


def test_voc_of_objects_alone_and_what_it_refuses(tmp_path):
    write_data(samples(cells((1, 1, 5, 6), (7, 2, 20, 9))), tmp_path / "a", format="voc", space=CELL)
    data = open_data(tmp_path / "a")
    assert data.space.names == ("background", "cell")
    assert len(read_all(data)["s0"].instances()) == 2
    space = LabelSpace(("sky", "road"))
    labels = SemanticMap(np.zeros(SIZE, np.uint8), space)
    with pytest.raises(UserError, match="the first of them the background"):
        write_data(samples(labels), tmp_path / "b", format="voc", space=space)
    many = cells(*[(x % 25, x // 25, x % 25 + 1, x // 25 + 1) for x in range(255)])
    with pytest.raises(UserError, match="tells 254 objects apart, found 255"):
        write_data(samples(many), tmp_path / "c", format="voc", space=CELL)


def test_images_that_png_cannot_hold_and_truth_alone(tmp_path):
    target = cells((1, 1, 5, 6), ids=[3])
    for name, dtype, channels, suffix in (
        ("f", np.float32, 1, "tif"),
        ("m", np.uint16, 5, "tif"),
        ("g", np.uint16, 1, "png"),
    ):
        image = np.arange(18 * 25 * channels).reshape(*SIZE, channels).astype(dtype)
        write_data([Sample(image, target, name="s")] * 1, tmp_path / name, format="mask_folder", space=CELL)
        assert (tmp_path / name / f"images/train/s.{suffix}").is_file()
        data = open_data(tmp_path / name)
        np.testing.assert_array_equal(data.read(next(r for part in data.splits.values() for r in part)).image, image)
    settings = WriteSettings(images="none", split="val")
    written = write_data(samples(target), tmp_path / "n", format="coco", space=CELL, settings=settings)
    assert [path.name for path in written.files] == ["instances_val.json"]
    assert json.loads(written.files[0].read_text())["images"][0]["file_name"] == "s0.png"


def test_the_table_of_writers():
    assert {"coco", "coco_panoptic", "mask_folder", "voc"} <= set(writable())
    with pytest.raises(UserError, match=r"no format named 'coko'\. Did you mean 'coco'"):
        write_data([], "x", format="coko", space=CELL)
