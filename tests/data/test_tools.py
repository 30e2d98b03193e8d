"""YOLO polygons and LabelMe: read, written, read back to the same masks; what they cannot carry is said."""

import base64
import dataclasses
import json
import unicodedata
import urllib.parse
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.data.brush import decode_brush, encode_brush
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (40, 60)
SPACE = LabelSpace(("cat", "dog"), (True, True))
IMAGE = np.full((*SIZE, 3), 80, np.uint8)


def difficult():
    """A ring with an island, two parts, a plain box that overlaps, and a mask without a pixel."""
    dense = np.zeros((4, *SIZE), np.uint8)
    dense[0, 5:35, 5:35] = 1
    dense[0, 10:30, 10:30] = 0
    dense[0, 15:20, 15:20] = 1
    dense[1, 2:5, 40:50], dense[1, 20:30, 45:58] = 1, 1
    dense[2, 0:12, 0:12] = 1
    return Instances(RunMasks.from_dense(dense), np.array([0, 1, 1, 0], np.int32), SPACE)


def read_all(data):
    return {r.name.rpartition("/")[2]: data.read_target(r) for part in data.splits.values() for r in part}


@pytest.mark.parametrize("format_name", ["yolo", "labelme", "cvat", "label_studio"])
def test_masks_survive(tmp_path, format_name):
    target = difficult()
    empty = target[np.zeros(4, bool)]
    for split in ("train", "val"):
        written = write_data(
            [Sample(IMAGE, target, name="a"), Sample(IMAGE, empty, name="b")], tmp_path, format=format_name, space=SPACE,
            settings=WriteSettings(split=split),
        )  # fmt: skip
        assert not any("lose something" in note for note in written.notes)
        assert any("without a pixel" in note and note.startswith("1 ") for note in written.notes)
        assert all(path.is_file() for path in written.files)
    data = open_data(tmp_path)
    assert (data.format, data.space) == (format_name, SPACE)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 2, "val": 2}
    found = read_all(data)
    np.testing.assert_array_equal(found["a"].masks.dense(), target.masks.dense()[:3])
    assert found["a"].labels.tolist() == [0, 1, 1]
    assert len(found["b"]) == 0
    with pytest.raises(UserError, match="already exists"):
        write_data([], tmp_path, format=format_name, space=SPACE)


def test_simpler_outlines_say_what_they_lost(tmp_path):
    y, x = np.mgrid[:40, :60]
    disc = (((x - 30) ** 2 + (y - 20) ** 2) < 300).astype(np.uint8)[None]
    target = Instances(RunMasks.from_dense(disc), np.zeros(1, np.int32), SPACE)
    settings = WriteSettings(tolerance=1.5)
    written = write_data([Sample(IMAGE, target, name="a")], tmp_path, format="yolo", space=SPACE, settings=settings)
    assert any("1 of 1 objects lose something as outlines: IoU with the mask 0." in note for note in written.notes)


def yolo(root, lines, yaml="path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"):
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / split / f"{split}.png"), IMAGE)
        (root / "labels" / split / f"{split}.txt").write_text(lines)
    (root / "data.yaml").write_text(yaml)
    return root


GOOD = "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


def test_yolo(tmp_path):
    for path in (yolo(tmp_path, GOOD), tmp_path / "data.yaml"):
        data = open_data(path)
        assert (data.format, data.space.names) == ("yolo", ("cat", "dog"))
        target = read_all(data)["train"]
        assert target.labels.tolist() == [0, 1]
        np.testing.assert_array_equal(target.masks.boxes()[1], [15, 10, 45, 30])
    (tmp_path / "labels/train/train.txt").unlink()
    cv2.imwrite(str(tmp_path / "images/train/other.png"), IMAGE)
    (tmp_path / "labels/train/other.txt").write_text(GOOD)
    data = open_data(tmp_path)
    assert any("1 of 2 images of 'train' have no text file" in note for note in data.notes)
    assert len(read_all(data)["train"]) == 0


def test_names_composed_in_two_ways_are_one_name(tmp_path):
    """A Mac's archive holds two characters for "ガ" where the annotations hold one."""
    one, two = (unicodedata.normalize(form, "ガラス") for form in ("NFC", "NFD"))
    assert one != two
    (tmp_path / "labelme").mkdir()
    folder = labelme(tmp_path / "labelme", [shape("dog")])
    (folder / "a.png").rename(folder / f"{two}.png")
    (folder / "a.json").write_text((folder / "a.json").read_text().replace("a.png", f"{one}.png"), encoding="utf-8")
    (folder / "a.json").rename(folder / f"{one}.json")
    assert [len(target) for target in read_all(open_data(folder)).values()] == [1, 1]
    folder = yolo(tmp_path / "yolo", GOOD)
    for path in (folder / "images/train/train.png", folder / "labels/train/train.txt"):
        path.rename(path.with_stem(two if path.suffix == ".png" else one))
    assert [len(target) for target in read_all(open_data(folder)).values()] == [2, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 0.5 0.5 0.1 0.1\n", r"train\.txt: line 1: five numbers are a box"),
        (
            GOOD + "0 0.5 0.5 0.1 0.1 0.2\n",
            r"line 3: expected a class and the x and y of at least three points, found 6",
        ),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5\n", r"line 1: the class is one of 0\.\.1, found 2"),
        ("0 10 10 50 10 50 50\n", r"line 1: coordinates are shares.*found 10; are they pixels"),
        ("0 0.1 0.1 x 0.1 0.5 0.5\n", r"line 1: expected a class and coordinates, all numbers"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5\n", r"line 1: coordinates are shares"),
    ],
)
def test_yolo_lines_that_are_refused(tmp_path, lines, message):
    data = open_data(yolo(tmp_path, lines))
    with pytest.raises(UserError, match=message):
        data.read_target(data.splits["train"][0])


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/nowhere\nval: images/val\nnames: [a]\n", r"data\.yaml: train: there is no images/nowhere"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "run from 0 without gaps, found 0, 2"),
        ("train: images/train\nnames: []\n", "'names' is a list of class names"),
        ("train: images/train\nnames: [background, a]\n", "objects have no background class"),
        ("train: images/train\nnames: [a, a]\n", r"data\.yaml: Class names must be unique"),
    ],
)
def test_yolo_files_that_are_refused(tmp_path, yaml, message):
    with pytest.raises(UserError, match=message):
        open_data(yolo(tmp_path, GOOD, yaml))


def shape(label="cat", points=((5, 5), (20, 5), (20, 20)), kind="polygon", group=None, **fields):
    return {
        "label": label,
        "points": [list(p) for p in points],
        "group_id": group,
        "shape_type": kind,
        "flags": {},
        **fields,
    }


def labelme(root, shapes, **fields):
    for name in "ab":
        cv2.imwrite(str(root / f"{name}.png"), IMAGE)
        plain = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None}
        (root / f"{name}.json").write_text(json.dumps(plain | {"imageHeight": 40, "imageWidth": 60} | fields))
    return root


def test_labelme_shapes(tmp_path):
    patch = base64.b64encode(cv2.imencode(".png", np.full((3, 4), 255, np.uint8))[1].tobytes()).decode()
    shapes = [
        shape("dog"),
        shape("cat", ((30, 2), (40, 12)), "rectangle", group=1),
        shape("cat", ((45, 2), (50, 2), (50, 12), (45, 12)), group=1),
        shape("cat", ((30, 25), (30, 30)), "circle"),
        shape("cat", ((50, 30), (53, 32)), "mask", mask=patch),
    ]
    data = open_data(labelme(tmp_path, shapes))
    assert data.space.names == ("cat", "dog")
    target = read_all(data)["a"]
    assert target.labels.tolist() == [1, 0, 0, 0]
    areas = target.masks.areas().tolist()
    assert areas[1] == 100 + 50
    assert abs(areas[2] - np.pi * 25) < 8
    assert areas[3] == 12
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    assert open_data(tmp_path).space.names == ("dog", "cat")


@pytest.mark.parametrize(
    ("shapes", "fields", "message"),
    [
        (
            [shape(), shape(points=((1, 1), (5, 5)))],
            {},
            r"shape 2: segmentation: polygon 0: a polygon has at least three",
        ),
        ([shape(kind="mask", points=((1, 1), (5, 5)), mask="x")], {}, r"shape 1: 'mask' is a PNG in base64"),
        (
            [shape(points=((100, 100), (105, 100), (105, 105)))],
            {},
            r"shape 1: segmentation: the polygons lie outside the image",
        ),
        ([shape(points=(("a", "b"),))], {}, r"shape 1: 'points' is a list of \[x, y\]"),
        ([shape()], {"imageHeight": 60, "imageWidth": 40}, r"were drawn on 60x40 but [ab]\.png is 40x60"),
    ],
)
def test_labelme_shapes_that_are_refused_when_read(tmp_path, shapes, fields, message):
    data = open_data(labelme(tmp_path, shapes, **fields))
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=message):
        data.read_target(record)


def test_labelme_files_that_are_refused_when_opened(tmp_path):
    labelme(tmp_path, [shape()])
    (tmp_path / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError, match=r"[ab]\.json: the labels cat are not in classes\.txt"):
        open_data(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.json: its image 'b\.png' is not there"):
        open_data(tmp_path)
    (tmp_path / "b.json").write_text('{"shapes": [{"label": "cat", "points": [[1,')
    with pytest.raises(UserError, match=r"b\.json: the JSON is cut off: .*in 'shapes' after 0 complete entries"):
        open_data(tmp_path)


def test_labelme_shapes_without_area_are_left_out_and_said(tmp_path):
    lines = [shape("road", kind=kind, points=((1, 1), (5, 5))) for kind in ("line", "linestrip", "point", "point")]
    labelme(tmp_path, [lines[0], shape(), *lines[1:]])
    data = open_data(tmp_path)
    assert data.space.names == ("cat",)
    assert any(
        "left out: 2 line, 2 linestrip, 4 point in a.json, b.json; draw them as polygons" in note for note in data.notes
    )
    assert all(len(data.read(record).target) == 1 for part in data.splits.values() for record in part)


@pytest.mark.parametrize("listed", [True, False])
def test_labelmes_own_names_are_no_classes(tmp_path, listed):
    root = labelme(tmp_path, [shape("__ignore__"), shape("cat"), shape("_background_"), shape("__ignore__")])
    if listed:
        (root / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
    data = open_data(root)
    assert data.space.names == ("cat",)
    assert [len(target) for target in read_all(data).values()] == [1, 1]
    assert any(
        "left out, and their pixels count as background: 4 '__ignore__', 2 '_background_'" in n for n in data.notes
    )


def test_real_labelme_files(shared, tmp_path):
    data = open_data(shared / "data" / "formats" / "labelme")
    assert data.space.names == ("bottle", "bus", "car", "chair", "person", "sofa")
    found = read_all(data)
    assert len(found) == 3
    records = [record for part in data.splits.values() for record in part]
    for format_name in ("labelme", "yolo", "coco", "cvat", "label_studio"):
        write_data(map(data.read, records), tmp_path / format_name, format=format_name, space=data.space)
        again = read_all(open_data(tmp_path / format_name))
        for name, target in found.items():
            np.testing.assert_array_equal(again[name].masks.dense(), target.masks.dense())
            assert again[name].labels.tolist() == target.labels.tolist()


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>cat</name><color>#ff0000</color></label><label><name>dog</name><attributes></attributes></label>
  </labels></task></meta>
  {images}
</annotations>
"""
CVAT_IMAGE = '<image id="0" name="{name}.png" width="60" height="40">{shapes}</image>'


def cvat(root, shapes, text=CVAT):
    for name in "ab":
        cv2.imwrite(str(root / f"{name}.png"), IMAGE)
    images = "".join(CVAT_IMAGE.format(name=name, shapes=shapes) for name in "ab")
    (root / "annotations.xml").write_text(text.replace("{images}", images))
    return root


def test_cvat_shapes(tmp_path):
    shapes = (
        '<polygon label="dog" points="5.0,5.0;20.0,5.0;20.0,20.0" group_id="0"/>'
        '<box label="cat" xtl="30.0" ytl="2.0" xbr="40.0" ybr="12.0" group_id="3"/>'
        '<polygon label="cat" points="45,2;50,2;50,12;45,12" group_id="3"/>'
        '<ellipse label="cat" cx="30.0" cy="25.0" rx="5.0" ry="5.0"/>'
        '<mask label="dog" rle="1, 2, 1, 2" left="50" top="30" width="3" height="2"/>'
        '<points label="cat" points="1,2"/>'
    )
    data = open_data(cvat(tmp_path, shapes))
    assert (data.format, data.space.names) == ("cvat", ("cat", "dog"))
    target = read_all(data)["a"]
    assert target.labels.tolist() == [1, 0, 0, 1]
    assert target.masks.areas().tolist()[1] == 150
    np.testing.assert_array_equal(target.masks.dense()[3, 30:32, 50:53], [[0, 1, 1], [0, 1, 1]])
    assert any("left out: 2 points" in note for note in data.notes)


def test_cvat_shapes_that_are_turned(tmp_path):
    shapes = (
        '<box label="cat" xtl="20" ytl="18" xbr="40" ybr="22" rotation="90.0"/>'
        '<ellipse label="dog" cx="30" cy="20" rx="12" ry="3" rotation="45.0"/>'
        '<box label="cat" xtl="30" ytl="19" xbr="50" ybr="21" rotation="315.0"/>'
    )
    masks = read_all(open_data(cvat(tmp_path, shapes)))["a"].masks.dense()
    upright = np.zeros(SIZE, np.uint8)
    upright[10:30, 28:32] = 1
    np.testing.assert_array_equal(masks[0], upright)
    # Clockwise as the image is seen, where y points down: an eighth of a turn leads from the left to the upper left.
    drawn = cv2.ellipse(np.zeros(SIZE, np.uint8), (30, 20), (12, 3), 45, 0, 360, 1, -1)
    assert np.logical_and(masks[1], drawn).sum() > 0.8 * np.logical_or(masks[1], drawn).sum()
    assert masks[2, 14, 46]
    assert not masks[2, 26, 46]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            '<polygon label="dog" points="5.0,5.0;20.0,5.0"/>',
            r"image a\.png: shape 1: segmentation: polygon 0: a polygon has at",
        ),
        ('<polygon label="dog" points="5.0,x;20.0,5.0"/>', r"image a\.png: shape 1: the polygon is not understood"),
        ('<box label="dog" xtl="5.0"/>', r"shape 1: the box is not understood \('ytl'\)"),
        ('<mask label="dog" rle="1, 2" left="5" top="3" width="3" height="2"/>', "cover 3 pixels, expected 2x3 = 6"),
        ('<mask label="dog" rle="1, 5" left="58" top="3" width="3" height="2"/>', "leaves the image of 40x60"),
    ],
)
def test_cvat_shapes_that_are_refused_when_read(tmp_path, shapes, message):
    data = open_data(cvat(tmp_path, shapes))
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=message):
        data.read_target(record)


@pytest.mark.parametrize(
    ("shapes", "text", "message"),
    [
        (
            '<polygon label="cow" points="5,5"/>',
            CVAT,
            r"annotations\.xml: image a\.png: shape 1: the label 'cow' is none",
        ),
        ("", CVAT.replace("{images}", '<track id="0" label="cat"/>'), "tracks of CVAT for video, which are not read"),
        ("<blob/>", CVAT, "there is no shape 'blob' in CVAT 1.1"),
        ("", CVAT[:-20], r"this is no XML at line \d+, column \d+ .*cut off"),
        ("", CVAT.replace("<label>", "<lable>").replace("</label>", "</lable>"), "the task lists no labels"),
        ("", CVAT.replace("<annotations>", '<!DOCTYPE a [<!ENTITY x "y">]><annotations>'), "defines entities"),
    ],
)
def test_cvat_files_that_are_refused(tmp_path, shapes, text, message):
    with pytest.raises(UserError, match=message):
        open_data(cvat(tmp_path, shapes, text))


@pytest.mark.parametrize("format_name", ["cvat", "label_studio"])
def test_as_polygons(tmp_path, format_name):
    target = difficult()
    settings = WriteSettings(polygons=True)
    write_data([Sample(IMAGE, target, name="a")], tmp_path, format=format_name, space=SPACE, settings=settings)
    data = open_data(tmp_path, val_share=0)
    found = data.read_target(data.splits["train"][0])
    np.testing.assert_array_equal(found.masks.dense(), target.masks.dense()[:3])


def slow_brush(values):
    """The published form read bit by bit: 0 and 1 of every fourth value."""
    bits = "".join(f"{value:08b}" for value in values)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    out = []
    while len(out) < count:
        is_run = take(1)
        length = take(sizes[take(2)]) + 1
        out += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    return np.array(out[3::4]) > 0


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (120, 600)])
def test_brush_strokes(size):
    rng = np.random.default_rng(0)
    for mask in (np.zeros(size, np.uint8), np.ones(size, np.uint8), (rng.random(size) > 0.9).astype(np.uint8)):
        packed = encode_brush(mask)
        np.testing.assert_array_equal(slow_brush(packed).reshape(size), mask)
        np.testing.assert_array_equal(decode_brush(packed, size), mask)
    for bad in (packed[:-2], packed[:7], [1, 2], [300] * 20, ["x"] * 9, [*packed[:3], 7, *packed[4:]]):
        with pytest.raises(UserError):
            decode_brush(bad, size)


def test_brush_strokes_with_values_one_by_one():
    # 8 values (2 pixels) of 8 bits, sizes 3, 4, 8, 16: one literal chunk of 8.
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16)) + "0" + "00" + f"{7:03b}"
    bits += "".join(f"{value:08b}" for value in (255, 0, 0, 0, 0, 0, 0, 129))
    bits += "0" * (-len(bits) % 8)
    values = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(values, (1, 2)).tolist() == [[0, 1]]


def label_studio(root, results, link="/data/upload/1/a.png"):
    for name in "ab":
        cv2.imwrite(str(root / f"{name}.png"), IMAGE)
    tasks = [
        {"id": 1, "data": {"image": link}, "annotations": [{"result": results}]},
        {
            "id": 2,
            "data": {"image": "/data/local-files/?d=some/b.png"},
            "annotations": [{"result": [], "was_cancelled": True}],
        },
    ]
    (root / "export.json").write_text(json.dumps(tasks))
    return root


def result(kind, value, label="cat", **fields):
    return {
        "id": "x",
        "type": kind,
        "value": {kind: [label], **value},
        "original_width": 60,
        "original_height": 40,
        **fields,
    }


def test_label_studio_shapes(tmp_path):
    results = [
        result("polygonlabels", {"points": [[10, 10], [50, 10], [50, 50]]}, "dog"),
        result("rectanglelabels", {"x": 50, "y": 5, "width": 10, "height": 25, "rotation": 0}),
        result("ellipselabels", {"x": 50, "y": 60, "radiusX": 10, "radiusY": 10}),
        result("choices", {}),
    ]
    data = open_data(label_studio(tmp_path, results))
    assert (data.format, data.space.names) == ("label_studio", ("cat", "dog"))
    found = read_all(data)
    assert found["a"].labels.tolist() == [1, 0, 0]
    assert found["a"].masks.areas().tolist()[1] == 60
    assert len(found["b"]) == 0
    assert any("left out: 1 choices" in note for note in data.notes)


def test_what_label_studio_needs_to_open_a_draft(tmp_path):
    target = dataclasses.replace(difficult(), scores=np.ones(4, np.float32))
    written = write_data([Sample(IMAGE, target, name="c d/a#1")], tmp_path, format="label_studio", space=SPACE)
    home = tmp_path / "train"
    view = ElementTree.parse(home / "label_config.xml").getroot()
    rows = json.loads((home / "tasks.json").read_text())
    shown = rows[0]["predictions"][0]["result"]
    assert {row["from_name"] for row in shown} == {view.find("BrushLabels").get("name")}
    assert {row["to_name"] for row in shown} == {view.find("Image").get("name")}
    assert view.find("Image").get("value") == "$image"
    assert [label.get("value") for label in view.iter("Label")] == ["cat", "dog"]
    place = urllib.parse.parse_qs(urllib.parse.urlsplit(rows[0]["data"]["image"]).query)["d"][0]
    assert (home / place).is_file()
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT" in written.notes[-1]
    with pytest.raises(UserError, match=r"tasks\.json: no task holds an annotation with an area"):
        open_data(tmp_path)


def test_label_studio_exports_whose_first_task_is_long(tmp_path):
    """As exported: annotations before data, and brush strokes longer than what is looked at for recognition."""
    mask = (np.random.default_rng(0).random(SIZE) > 0.5).astype(np.uint8)
    strokes = result("brushlabels", {"format": "rle", "rle": encode_brush(mask)})
    strokes["value"]["rle"] += [0] * 40_000
    label_studio(tmp_path, [strokes])
    tasks = [
        {"id": task["id"], "annotations": task["annotations"], "data": task["data"]}
        for task in json.loads((tmp_path / "export.json").read_text())
    ]
    text = json.dumps(tasks)
    assert text.index('"data"') > 1 << 16
    (tmp_path / "export.json").write_text(text)
    data = open_data(tmp_path)
    assert data.format == "label_studio"
    np.testing.assert_array_equal(read_all(data)["a"].masks.dense()[0], mask)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (
            [result("polygonlabels", {"points": [[1, 1], [2, 2]]})],
            r"image a\.png: shape 1: segmentation: polygon 0: a polygon",
        ),
        (
            [result("rectanglelabels", {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 30})],
            "turned by 30 degrees",
        ),
        ([result("rectanglelabels", {"x": 1})], r"shape 1: the rectanglelabels is not understood \(KeyError\('y'\)\)"),
        ([result("brushlabels", {"rle": [1, 2, 3]})], r"shape 1: brush strokes are a list of bytes"),
        ([result("rectanglelabels", {}, image_rotation=90)], "the image was turned by 90 degrees while it was drawn"),
        ([result("polygonlabels", {"points": []}, original_width=61)], r"was drawn on 40x61, but the image is 40x60"),
    ],
)
def test_label_studio_shapes_that_are_refused_when_read(tmp_path, results, message):
    data = open_data(label_studio(tmp_path, results))
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=message):
        data.read_target(record)
