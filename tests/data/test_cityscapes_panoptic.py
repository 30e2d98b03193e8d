"""Cityscapes' panoptic files, in the layout of createPanopticImgs.py: read, written, refused, and taken for nothing else."""

import json

import cv2
import numpy as np
import pytest

from nuriwake.cli import run
from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.data.cityscapes_classes import CLASSES, SPACE
from nuriwake.data.formats import open_data, recognise
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (20, 30)
NAMES = {"train": "aachen_000000_000019", "val": "bonn_000003_000019"}


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


def instance_ids():
    ids = np.full(SIZE, 7, np.uint16)
    ids[:4], ids[4:8, :10], ids[4:8, 10:20], ids[4:8, 20:], ids[15:] = 23, 26000, 26001, 26, 4
    ids[9, 2:5] = 33012
    return ids


def official(ids, name, category_of=lambda item: item.label_id):
    """What createPanopticImgs.py makes of instanceIds, pixel by pixel: the PNG, the entry of the image, its annotation."""
    by_id = {item.label_id: item for item in CLASSES}
    colours, rows = np.zeros((*ids.shape, 3), np.uint8), {}
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            segment = int(ids[y, x])
            item = by_id.get(segment // 1000 if segment >= 1000 else segment)
            if item is None:
                continue
            colours[y, x] = segment % 256, segment // 256, 0
            row = rows.setdefault(segment, {"id": segment, "area": 0, "x": set(), "y": set()})
            row |= {"category_id": category_of(item), "iscrowd": int(segment < 1000 and item.thing)}
            row["area"] += 1
            row["x"].add(x), row["y"].add(y)
    for row in rows.values():
        columns, lines = row.pop("x"), row.pop("y")
        width, height = max(columns) - min(columns) + 1, max(lines) - min(lines) + 1
        row["bbox"] = [min(columns), min(lines), width, height]
    image = {"id": name, "width": ids.shape[1], "height": ids.shape[0], "file_name": f"{name}_gtFine_leftImg8bit.png"}
    info = [rows[key] for key in sorted(rows)]
    return colours, image, {"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": info}


def categories(number_of=lambda item: item.label_id):
    return [
        {
            "id": number_of(item),
            "name": item.name,
            "color": list(item.colour),
            "supercategory": item.group,
            "isthing": int(item.thing),
        }
        for item in CLASSES
    ]


def city(root, *, suffix="", number_of=lambda item: item.label_id):
    for split, name in NAMES.items():
        town = name.partition("_")[0]
        png(root / f"leftImg8bit/{split}/{town}/{name}_leftImg8bit.png", np.full((*SIZE, 3), 90, np.uint8))
        colours, image, annotation = official(instance_ids(), name, number_of)
        folder = root / f"gtFine/cityscapes_panoptic_{split}{suffix}"
        png(folder / annotation["file_name"], np.ascontiguousarray(colours[..., ::-1]))
        plain = {"images": [image], "annotations": [annotation], "categories": categories(number_of)}
        folder.with_suffix(".json").write_text(json.dumps(plain, indent=4, sort_keys=True))
    return root


def read_all(data):
    return {record.name: data.read(record).target for part in data.splits.values() for record in part}


def from_instance_ids(root):
    """The same data with instanceIds alone."""
    for split, name in NAMES.items():
        town = name.partition("_")[0]
        png(root / f"leftImg8bit/{split}/{town}/{name}_leftImg8bit.png", np.full((*SIZE, 3), 90, np.uint8))
        png(root / f"gtFine/{split}/{town}/{name}_gtFine_instanceIds.png", instance_ids())
    return read_all(open_data(root))


def alike(first, second):
    assert first.keys() == second.keys()
    for name, target in first.items():
        np.testing.assert_array_equal(target.ids, second[name].ids)
        for part in ("segment_ids", "labels", "crowd"):
            np.testing.assert_array_equal(getattr(target, part), getattr(second[name], part))


def test_panoptic_files_hold_what_instance_ids_do(tmp_path):
    root = city(tmp_path / "a")
    assert list(recognise(root)) == ["cityscapes"]
    data = open_data(root)
    assert (data.format, data.space) == ("cityscapes", SPACE)
    assert "12 segments in cityscapes_panoptic_train.json, cityscapes_panoptic_val.json" in " ".join(data.notes)
    expected = from_instance_ids(tmp_path / "b")
    alike(read_all(data), expected)
    # Categories numbered as in training, in files beside the others and alone.
    number_of = lambda item: SPACE.index(item.name)  # noqa: E731
    alike(read_all(open_data(city(tmp_path / "c", suffix="_trainId", number_of=number_of))), expected)
    alike(read_all(open_data(city(root, suffix="_trainId", number_of=number_of))), expected)


def test_one_file_is_the_data_set_of_its_split(tmp_path):
    root = city(tmp_path / "a")
    data = open_data(root / "gtFine/cityscapes_panoptic_val.json")
    assert (data.format, list(read_all(data))) == ("cityscapes", ["val/bonn/bonn_000003_000019"])
    (tmp_path / "data.yaml").write_text("root: a\nannotations:\n  train: gtFine/cityscapes_panoptic_train.json\n")
    assert list(read_all(open_data(tmp_path / "data.yaml"))) == ["train/aachen/aachen_000000_000019"]
    (tmp_path / "data.yaml").write_text("root: a\nformat: cityscapes\nannotations: gtFine/none.json\n")
    with pytest.raises(UserError, match=r"no file .*none\.json"):
        open_data(tmp_path / "data.yaml")


def test_written_as_published_and_read_back(tmp_path):
    root = city(tmp_path / "a")
    assert run(["convert", str(root), str(tmp_path / "b"), "--to", "cityscapes"]) == 0
    again = tmp_path / "b"
    for split, name in NAMES.items():
        colours, image, annotation = official(instance_ids(), name)
        plain = json.loads((again / f"gtFine/cityscapes_panoptic_{split}.json").read_text())
        assert plain["categories"] == categories()
        assert plain["annotations"] == [annotation]
        assert plain["images"] == [image | {"file_name": f"{name}_leftImg8bit.png"}]
        written = cv2.imread(str(again / f"gtFine/cityscapes_panoptic_{split}/{annotation['file_name']}"))
        np.testing.assert_array_equal(written[..., ::-1], colours)
    expected = read_all(open_data(root))
    assert list(recognise(again)) == ["cityscapes"]
    alike(read_all(open_data(again)), expected)
    for path in again.rglob("*_instanceIds.png"):
        path.unlink()
    alike(read_all(open_data(again)), expected)
    with pytest.raises(UserError, match="already exists"):
        write_data([], again, format="cityscapes", space=SPACE, settings=WriteSettings(split="val"))


def test_files_of_other_data_are_named_after_their_city(tmp_path):
    """Two images of one name in two folders stay two images in the one folder of PNG."""
    space = LabelSpace(("car", "sky"), (True, False))
    ids = np.ones(SIZE, np.int32)
    ids[:9] = 2
    target = Panoptic(ids, np.array([1, 2], np.int32), np.array([0, 1], np.int32), space)
    image = np.zeros((*SIZE, 3), np.uint8)
    samples = [Sample(image, target, name=name) for name in ("north/1", "south/1", "2")]
    write_data(samples, tmp_path, format="cityscapes", space=space)
    names = sorted(path.name for path in (tmp_path / "gtFine/cityscapes_panoptic_train").iterdir())
    assert names == [f"{name}_gtFine_panoptic.png" for name in ("city_2", "north_1", "south_1")]
    found = read_all(open_data(tmp_path))
    assert set(found) == {"train/city/city_2", "train/north/north_1", "train/south/south_1"}
    assert all((one.ids > 0).all() and one.labels.tolist() == [10, 13] for one in found.values())


def changed(path, change):
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def test_files_that_disagree_are_refused(tmp_path):
    root = city(tmp_path / "a")
    path = root / "gtFine/cityscapes_panoptic_val.json"
    whole = path.read_text()
    for change, message in (
        (lambda plain: plain["categories"][0].update(name="lane"), r"the category 7 \('lane'\) is none of them"),
        (lambda plain: plain["categories"][0].update(isthing=1), r"the category 7 \('road'\) is stuff in Cityscapes"),
        (
            lambda plain: plain["annotations"][0].update(file_name="x_gtFine_panoptic.png"),
            r"1 of its 1 images are not in .*: x",
        ),
        (
            lambda plain: plain["annotations"][0]["segments_info"][0].update(category_id=9),
            "has the category 9, which is not in",
        ),
        (lambda plain: plain["annotations"][0]["segments_info"][0].update(area=5), "has the area 5, but"),
        (lambda plain: plain["annotations"][0]["segments_info"].pop(), "ids that are not listed in 'segments_info'"),
    ):
        path.write_text(whole)
        changed(path, change)
        with pytest.raises(UserError, match=message):
            read_all(open_data(root))
    path.write_text(whole)
    (root / "gtFine/cityscapes_panoptic_val/bonn_000003_000019_gtFine_panoptic.png").unlink()
    with pytest.raises(UserError, match=r"1 of 1 PNG files are not in .*cityscapes_panoptic_val"):
        open_data(root)
    png(root / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png", np.full((*SIZE, 3), 90, np.uint8))
    path.unlink()
    with pytest.raises(UserError, match="1 images have no segments in the panoptic files: train/aachen/aachen_000001"):
        open_data(root)
