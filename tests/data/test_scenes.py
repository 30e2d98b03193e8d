"""Cityscapes and ADE20K: read, written, read back."""

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.cityscapes import SPACE
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (20, 30)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


def read_all(data):
    return {record.name: data.read(record).target for part in data.splits.values() for record in part}


def instance_ids():
    ids = np.full(SIZE, 7, np.uint16)
    ids[:4], ids[4:8, :10], ids[4:8, 10:20], ids[4:8, 20:], ids[15:] = 23, 26000, 26001, 26, 4
    return ids


def city(root, kinds=("instanceIds", "labelTrainIds"), ids=None):
    for split, town in (("train", "aachen"), ("val", "bonn")):
        name = f"{split}/{town}/{town}_000000_000019"
        png(root / f"leftImg8bit/{name}_leftImg8bit.png", np.full((*SIZE, 3), 90, np.uint8))
        arrays = {"instanceIds": instance_ids() if ids is None else ids}
        labels = np.full(SIZE, 0, np.uint8)
        labels[:4], labels[4:8], labels[15:] = 10, 13, 255
        arrays["labelTrainIds"] = labels
        raw = instance_ids()
        arrays["labelIds"] = np.where(raw >= 1000, raw // 1000, raw).astype(np.uint8)
        for kind in kinds:
            png(root / f"gtFine/{name}_gtFine_{kind}.png", arrays[kind])
    return root


def test_cityscapes(tmp_path):
    data = open_data(city(tmp_path / "a"))
    assert (data.format, len(data.space), sum(data.space.things)) == ("cityscapes", 19, 8)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 1, "val": 1}
    target = read_all(data)["train/aachen/aachen_000000_000019"]
    found = {
        int(i): (SPACE.names[label], bool(c))
        for i, label, c in zip(target.segment_ids, target.labels, target.crowd, strict=True)
    }
    assert found == {
        7: ("road", False),
        23: ("sky", False),
        26000: ("car", False),
        26001: ("car", False),
        26: ("car", True),
    }
    assert (target.ids[15:] == 0).all()
    for kind in ("labelTrainIds", "labelIds"):
        other = open_data(city(tmp_path / kind, kinds=(kind,)))
        for name, labels in read_all(other).items():
            np.testing.assert_array_equal(labels.labels, semantic_view(read_all(data)[name]).labels)


def test_cityscapes_written_and_read_back(tmp_path):
    data = open_data(city(tmp_path / "a"))
    for split, records in data.splits.items():
        settings = WriteSettings(split=split)
        write_data(map(data.read, records), tmp_path / "b", format="cityscapes", space=data.space, settings=settings)
    again = read_all(open_data(tmp_path / "b"))
    for name, target in read_all(data).items():
        np.testing.assert_array_equal(target.ids, again[name].ids)
        np.testing.assert_array_equal(target.crowd, again[name].crowd)
    plain = Panoptic(np.ones(SIZE, np.int32), np.array([1], np.int32), np.array([0], np.int32), LabelSpace(("moon",)))
    with pytest.raises(UserError, match="moon are none of them"):
        write_data([Sample(np.zeros((*SIZE, 3), np.uint8), plain)], tmp_path, format="cityscapes", space=plain.space)


def test_cityscapes_that_is_not_whole(tmp_path):
    with pytest.raises(UserError, match=r"instanceIds\.png: ids 41000 belong to no label"):
        read_all(open_data(city(tmp_path / "a", ids=np.full(SIZE, 41000, np.uint16))))
    city(tmp_path / "b")
    next((tmp_path / "b/gtFine/train").rglob("*instanceIds.png")).unlink()
    with pytest.raises(UserError, match=r"1 images have no gtFine_instanceIds\.png: train/aachen"):
        open_data(tmp_path / "b")


def test_ade20k(shared, tmp_path):
    data = open_data(shared / "data" / "formats" / "ade20k_sample")
    assert (data.format, len(data.space), data.space.names[:2]) == ("ade20k", 150, ("wall", "building"))
    records = [record for part in data.splits.values() for record in part]
    raw = cv2.imread(str(records[0].target), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(data.read_target(records[0]).labels + np.uint8(1), raw)
    write_data(map(data.read, records), tmp_path, format="ade20k", space=data.space)
    again = open_data(tmp_path)
    assert (again.format, again.space) == ("ade20k", data.space)
    found = {name.rpartition("/")[2]: target for name, target in read_all(again).items()}
    for record in records:
        np.testing.assert_array_equal(data.read_target(record).labels, found[record.name].labels)


def test_ade20k_made_up(tmp_path):
    space = LabelSpace(("sky", "road"))
    labels = np.resize(np.array([0, 1, 255], np.uint8), SIZE)
    sample = Sample(np.zeros((*SIZE, 3), np.uint8), SemanticMap(labels, space), name="x")
    for split in ("train", "val"):
        write_data([sample], tmp_path, format="ade20k", space=space, settings=WriteSettings(split=split))
    data = open_data(tmp_path)
    assert data.space == space
    np.testing.assert_array_equal(read_all(data)["val/x"].labels, labels)
    (tmp_path / "annotations/validation/x.png").unlink()
    png(tmp_path / "annotations/validation/y.png", labels)
    with pytest.raises(UserError, match="1 image has no mask: x; 1 mask has no image: y"):
        open_data(tmp_path)
    png(tmp_path / "images/validation/y.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "images/validation/x.png").unlink()
    with pytest.raises(UserError, match=r"y\.png: mask values beyond the classes"):
        read_all(open_data(tmp_path))
