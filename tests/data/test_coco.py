"""COCO instances: read as pycocotools reads them, bad input named, written and read back."""

import json
import pickle
import random

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.data.coco_write import coco_results, write_results
from nuriwake.data.formats import open_data, recognise
from nuriwake.data.json_scan import parse_json, read_json
from nuriwake.data.statistics import image_class_pixels, rare_classes
from nuriwake.data.trainable import check_trainable
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (24, 32)
SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.5, 2.0, 9.5]]
RUNS = {"size": [24, 32], "counts": [100, 5, 19, 5, 639]}
COMPRESSED = RunMasks.from_coco([RUNS]).to_coco()[0]


def annotation(number, segmentation=None, **fields):
    return {
        "id": number,
        "image_id": 7,
        "category_id": 3,
        "segmentation": SQUARE if segmentation is None else segmentation,
        "area": 65.125,
        "bbox": [2.0, 3.0, 10.0, 6.5],
        "iscrowd": 0,
        **fields,
    }


def document(annotations, **fields):
    images = [
        {"id": 9, "file_name": "b.png", "height": 24, "width": 32},
        {"id": 7, "file_name": "a.png", "height": 24, "width": 32},
    ]
    categories = [
        {"id": 90, "name": "brush"},
        {"id": 3, "name": "cat"},
        {"id": 17, "name": "bird", "supercategory": "x"},
    ]
    return {
        "info": {"text": 'a "quoted" }]'},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    } | fields


def save(root, plain, *, where="annotations/instances_train2017.json", images="images/train2017"):
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(plain if isinstance(plain, str) else json.dumps(plain), encoding="utf-8")
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(root / images / name), np.full((*SIZE, 3), 90, np.uint8))
    return root


def targets(data):
    return {record.name: data.read_target(record) for part in data.splits.values() for record in part}


FULL = [
    annotation(5),
    annotation(4, RUNS, category_id=90, iscrowd=1, area=10),
    annotation(11, COMPRESSED, category_id=17),
    annotation(12, [*SQUARE, [20, 10, 30, 10, 30, 20]]),
]


def test_polygons_run_lengths_crowd_gaps_and_empty_images(tmp_path):
    data = open_data(save(tmp_path, document(FULL)))
    assert (data.format, data.space.names, data.space.things) == ("coco", ("cat", "bird", "brush"), (True,) * 3)
    assert data.reader.category_ids == (3, 17, 90)
    found = targets(data)
    target = found["a"]
    assert target.ids.tolist() == [5, 4, 11, 12]
    assert target.labels.tolist() == [0, 2, 1, 0]
    assert target.crowd.tolist() == [False, True, False, False]
    assert target.areas.tolist() == [65.125, 10, 65.125, 65.125]
    assert target.boxes[0].tolist() == [2, 3, 12, 9.5]
    assert target.masks.areas().tolist()[1:3] == [10, 10]
    assert len(found["b"]) == 0
    assert found["b"].size == SIZE
    text = " ".join(data.notes)
    assert "4 objects (1 of them crowd regions; 1 images without any)" in text
    sample = data.read(data.splits["train"][0])
    assert sample.size == SIZE


def test_masks_are_pycocotools(tmp_path):
    tool = pytest.importorskip("pycocotools.coco")
    rng = random.Random(3)
    several = [annotation(1, RUNS), annotation(2, COMPRESSED)]
    for number in range(3, 60):
        parts = [[rng.uniform(-5, 40) for _ in range(2 * rng.randint(3, 9))] for _ in range(rng.randint(1, 3))]
        several.append(annotation(number, parts, image_id=rng.choice([7, 9]), area=rng.uniform(0, 1e5)))
    data = open_data(save(tmp_path, document(several)))
    oracle = tool.COCO(str(tmp_path / "annotations" / "instances_train2017.json"))
    for name, target in targets(data).items():
        rows = oracle.imgToAnns[{"a": 7, "b": 9}[name]]
        assert target.ids.tolist() == [row["id"] for row in rows]
        assert target.areas.tolist() == [row["area"] for row in rows]
        for row, mask in zip(rows, target.masks.dense(), strict=True):
            np.testing.assert_array_equal(mask, oracle.annToMask(row))


@pytest.mark.parametrize(
    ("where", "images", "yaml"),
    [
        ("annotations/instances_train2017.json", "train2017", None),
        ("annotations/instances_train2017.json", "images", None),
        ("annotations.json", "pictures", None),
        ("train/_annotations.coco.json", "train", None),
        ("anno/all.json", "here/it/is", "annotations: anno/all.json\nimages: here/it/is\n"),
        ("anno/all.json", "there", "annotations: {train: anno/all.json}\nimages: there\nformat: coco\n"),
    ],
)
def test_layouts(tmp_path, where, images, yaml):
    save(tmp_path, document(FULL), where=where, images=images)
    if yaml is not None:
        (tmp_path / "data.yaml").write_text(yaml)
    data = open_data(tmp_path if yaml is None else tmp_path / "data.yaml")
    assert sum(map(len, data.splits.values())) == 2
    assert set(data.splits) == {"train", "val"}
    if yaml is None:
        assert sum(map(len, open_data(tmp_path / where).splits.values())) == 2


def test_two_splits_share_categories(tmp_path):
    save(tmp_path, document(FULL))
    save(tmp_path, document([annotation(1)]), where="annotations/instances_val2017.json", images="images/val2017")
    data = open_data(tmp_path)
    assert {name: [r.name for r in part] for name, part in data.splits.items()} == {
        "train": ["train/a", "train/b"],
        "val": ["val/a", "val/b"],
    }
    other = document([annotation(1)], categories=[{"id": 3, "name": "dog"}])
    save(tmp_path, other, where="annotations/instances_val2017.json")
    with pytest.raises(UserError, match=r"instances_val2017\.json: the category 3 is 'dog'.*'cat'"):
        open_data(tmp_path)


def test_keypoints_and_captions_beside_are_not_taken_for_a_second_file(tmp_path):
    save(tmp_path, document(FULL))
    save(tmp_path, document(FULL), where="annotations/person_keypoints_train2017.json")
    save(tmp_path, {"images": [], "annotations": [{"caption": "x"}]}, where="annotations/captions_train2017.json")
    assert recognise(tmp_path).keys() == {"coco"}
    assert len(open_data(tmp_path).sources) == 1


@pytest.mark.parametrize("empty", [("val2017",), ("train2017",), ("train2017", "val2017")])
def test_a_split_without_a_single_object_is_a_split_of_background_images(tmp_path, empty):
    for word in ("train2017", "val2017"):
        plain = document([] if word in empty else [annotation(1)])
        save(tmp_path, plain, where=f"annotations/instances_{word}.json", images=f"images/{word}")
    assert recognise(tmp_path).keys() == {"coco"}
    data = open_data(tmp_path)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 2, "val": 2}
    assert sum(map(len, targets(data).values())) == 2 - len(empty)
    assert any(f"{2 + len(empty)} images without any" in note for note in data.notes)


def test_files_without_annotations_that_are_not_of_instances_are_left_out(tmp_path):
    save(tmp_path, document(FULL))
    save(tmp_path, document([]), where="annotations/person_keypoints_val2017.json")
    save(tmp_path, {"images": [], "annotations": []}, where="annotations/captions_val2017.json")
    save(tmp_path, {"images": [], "categories": []}, where="annotations/image_info_test2017.json")
    assert [path.name for path in open_data(tmp_path).sources] == ["instances_train2017.json"]


def broken(field, value, number=5):
    return document([annotation(number, **{field: value}), annotation(6)])


def without(key, entry):
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            broken("image_id", 8),
            r"annotations\[0\] \(id 5\): 1 of 2 annotations belong to an image that is not in 'images'.*8",
        ),
        (broken("category_id", 4), r"annotations\[0\] \(id 5\).*a category that is not in 'categories' \(4\)"),
        (broken("id", 6), r"annotations\[1\] \(id 6\): 1 ids of 'annotations' stand more than once, such as 6"),
        (broken("iscrowd", 2), r"\(id 5\): the field 'iscrowd' is 0 or 1, found 2"),
        (broken("area", "big"), r"\(id 5\): the field 'area' is a number, found \"big\""),
        (broken("bbox", [1, 2, 3]), r"\(id 5\): the field 'bbox' is a list of 4 numbers, found \[1, 2, 3\]"),
        (broken("bbox", [1, 2, -3, 4]), r"\(id 5\): the field 'bbox'.*negative width or height"),
        (broken("segmentation", []), r"\(id 5\): 1 of 2 annotations have no segmentation, such as id 5; take them out"),
        (broken("segmentation", [1, 2, 3, 4, 5, 6]), r"\(id 5\): the field 'segmentation' is a list of polygons"),
        (broken("id", 1.5), r"\(id 1.5\): the field 'id' is a whole number"),
        (document([without("image_id", annotation(5))]), r"annotations\[0\] \(id 5\): the field 'image_id' is missing"),
        (document([without("segmentation", annotation(5)) | {"x": "segmentation"}]), "the file holds boxes alone"),
        (document(FULL, categories=[]), "'categories' is a list of objects with 'id' and 'name'"),
        (document(FULL, categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), "has the id 3 more than once"),
        (
            document(FULL, categories=[{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]),
            "has the name 'a' more than once",
        ),
        (
            document(FULL, images=[document([])["images"][0]] * 2),
            r"images\[1\] \(id 9\): 1 ids of 'images' stand more than",
        ),
        (without("images", document(FULL)), r"there is no field 'images' at the top"),
        (document({"a": {"segmentation": 1}}), r"this is no JSON at line 1, byte .*in 'annotations' after 0 entries"),
    ],
)
def test_structure_that_is_refused_when_opening(tmp_path, plain, message):
    with pytest.raises(UserError, match=message) as caught:
        open_data(save(tmp_path, plain), format="coco")
    assert "instances_train2017.json" in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            [[1, 2, 3, 4]],
            r"annotation 5 of a\.png: segmentation: polygon 0: a polygon has at least three points, found 2",
        ),
        ([[1, 2, 3, 4, 5, 6, 7]], r"annotation 5 of a\.png: segmentation: polygon 0: expected x and y of every point"),
        ([[1, 2, 3, 4, 5, "x"]], r"annotation 5 of a\.png: segmentation: polygon 0: expected a flat list of numbers"),
        (
            [[100, 2, 120, 2, 120, 9]],
            r"annotation 5 of a\.png.*outside the image: x 100 to 120, y 2 to 9, but it is 32 wide",
        ),
        ({"size": [24, 32], "counts": [100, 5]}, r"annotation 5 of a\.png.*cover 105 pixels, expected 24x32 = 768"),
        ({"size": [32, 24], "counts": [768]}, r"annotation 5 of a\.png.*32x24, expected 24x32"),
        ({"size": [24, 32], "counts": COMPRESSED["counts"][:-1]}, r"annotation 5 of a\.png"),
        ({"size": [24, 32], "counts": "éé"}, r"annotation 5 of a\.png.*damaged"),
        ({"size": [24, 32], "counts": None}, r"annotation 5 of a\.png.*run lengths"),
        ({"counts": [768]}, r"annotation 5 of a\.png.*size"),
    ],
)
def test_masks_that_are_refused_when_read(tmp_path, segmentation, message):
    data = open_data(save(tmp_path, document([annotation(6), annotation(5, segmentation), annotation(8, RUNS)])))
    with pytest.raises(UserError, match=message):
        targets(data)


def test_what_is_accepted_and_said(tmp_path):
    crossing = [[2, 2, 20, 20, 20, 2, 2, 20]]
    partly_outside = [[-5, -5, 10, -5, 10, 10]]
    rows = [
        annotation(1, crossing),
        annotation(2, partly_outside),
        annotation(3, bbox=[1, 1, 0, 4]),
        annotation(4, iscrowd=1),
        without("area", without("bbox", annotation(5, RUNS))),
    ]
    data = open_data(save(tmp_path, document(rows)))
    target = targets(data)["a"]
    assert (target.masks.areas() > 0).all()
    assert target.boxes[2].tolist() == target.masks.boxes()[2].tolist()
    assert target.areas[4] == target.masks.areas()[4] == 10
    text = " ".join(data.notes)
    assert "1 boxes have no area (id 3)" in text
    assert "1 crowd annotations are polygons, where COCO has run lengths (id 4)" in text


@pytest.mark.parametrize("area", [-5, float("inf")])
def test_areas_that_none_can_have_are_taken_from_the_masks(tmp_path, area):
    data = open_data(save(tmp_path, document([annotation(5, area=area), annotation(6)])))
    found = targets(data)["a"]
    assert found.areas.tolist() == [float(found.masks.areas()[0]), 65.125]
    assert any(
        "1 areas are negative or infinite (id 5); they are taken from the masks instead" in note for note in data.notes
    )


@pytest.mark.parametrize("box", [[float("inf"), 0, 5, 5], [1e39, 0, 5, 5], [0, 0, 5, 1e39]])
def test_boxes_that_are_not_finite_are_named(tmp_path, box):
    message = r"instances_train2017\.json: annotations\[1\] \(id 5\): the field 'bbox' is finite numbers of pixels"
    with pytest.raises(UserError, match=message):
        open_data(save(tmp_path, document([annotation(4), annotation(5, bbox=box)])))


def test_numbers_are_those_that_python_reads(tmp_path):
    odd = ["0.1", "1e3", "-0", "123456789.123456789", "2765.1486500000005", "1E-7", "5e-324", "9007199254740993", "1.0"]
    text = json.dumps(document([annotation(i) for i in range(len(odd))])).replace("65.125", "{}").split("{}")
    text = "".join(part + (odd[i] if i < len(odd) else "") for i, part in enumerate(text))
    table = parse_json(tmp_path, text.encode()).objects("annotations", ("id", "area"))
    assert table.numbers("area").tolist() == [float(item) for item in odd]


def test_json_cut_off_in_the_middle_says_where(tmp_path):
    text = json.dumps(document(FULL), indent=1)
    save(tmp_path, document(FULL))
    path = tmp_path / "annotations" / "instances_train2017.json"
    cut = text.index('"id": 11') + 20
    path.write_text(text[:cut])
    line = text[:cut].count("\n") + 1
    message = (
        rf"cut off: it ends at line {line}, byte {cut:,}, in 'annotations' after 2 complete entries, the last of id 4"
    )
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, format="coco")
    path.write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        open_data(path, format="coco")
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="expected a JSON object"):
        open_data(path, format="coco")
    for position in range(len(text)):
        with pytest.raises(UserError):
            parse_json(path, text[:position].rstrip().encode()[:-1])


def test_damaged_bytes_are_read_or_named(tmp_path):
    raw = bytearray(json.dumps(document(FULL)).encode())
    root = save(tmp_path, document(FULL))
    path = root / "annotations" / "instances_train2017.json"
    rng = random.Random(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            targets(open_data(root, format="coco"))
            outcomes.add("read")
        except UserError:
            outcomes.add("named")
    assert outcomes == {"read", "named"}


def test_a_file_that_changes_after_opening_is_noticed(tmp_path):
    data = open_data(save(tmp_path, document(FULL)))
    save(tmp_path, document(FULL[:1]))
    with pytest.raises(UserError, match=r"instances_train2017\.json: the file was changed since it was opened"):
        targets(data)


def test_missing_images_are_listed_and_others_are_said(tmp_path):
    save(tmp_path, document(FULL))
    (tmp_path / "images/train2017/b.png").unlink()
    cv2.imwrite(str(tmp_path / "images/train2017/c.png"), np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(UserError, match=r"1 of 2 images are not in .*train2017: b\.png.*unpaired: skip"):
        open_data(tmp_path)
    (tmp_path / "data.yaml").write_text("unpaired: skip\n")
    data = open_data(tmp_path / "data.yaml")
    assert sum(map(len, data.splits.values())) == 1
    assert any("1 image in train2017/ is not in instances_train2017.json" in note for note in data.notes)
    (tmp_path / "images/train2017/a.png").unlink()
    with pytest.raises(UserError, match=r"its images \(such as 'b\.png'\) were not found in"):
        open_data(tmp_path)


def test_names_composed_in_two_ways_are_one_name(tmp_path):
    save(tmp_path, json.loads(json.dumps(document(FULL)).replace("a.png", "caf\\u00e9.png")))
    (tmp_path / "images/train2017/a.png").rename(tmp_path / "images/train2017/cafe\u0301.png")
    data = open_data(tmp_path)
    assert sum(map(len, data.splits.values())) == 2
    assert not any("is not in" in note for note in data.notes)
    for part in data.splits.values():
        for record in part:
            data.read(record)


def test_fields_that_mean_nothing_here_are_refused(tmp_path):
    save(tmp_path, document(FULL))
    (tmp_path / "data.yaml").write_text("classes: [cat]\n")
    with pytest.raises(UserError, match="field 'classes' of the description means nothing in the format 'coco'"):
        open_data(tmp_path / "data.yaml")


def test_an_image_of_another_size_than_stated(tmp_path):
    data = open_data(save(tmp_path, document(FULL)))
    cv2.imwrite(str(tmp_path / "images/train2017/a.png"), np.zeros((32, 24, 3), np.uint8))
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=r"a\.png: the mask is 24x32.*image is 32x24"):
        data.read(record)


def test_the_reader_is_small_picklable_and_in_the_fingerprint(tmp_path):
    data = open_data(save(tmp_path, document(FULL)))
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint() == data.fingerprint()
    np.testing.assert_array_equal(targets(again)["a"].masks.counts, targets(data)["a"].masks.counts)
    before = data.fingerprint()
    changed = [*FULL[:3], annotation(12, [*SQUARE, [20, 10, 30, 10, 30, 21]])]  # the same length
    assert open_data(save(tmp_path, document(changed))).fingerprint() != before


def test_statistics_and_the_check_before_training(tmp_path):
    data = open_data(save(tmp_path, document(FULL)), val_share=0.5)
    both = data.with_splits(
        {"train": tuple(r for part in data.splits.values() for r in part), "val": data.splits["val"]}
    )
    counts = image_class_pixels(both, "train")
    target = targets(data)["a"]
    assert counts.sum(axis=0).tolist() == [int(target.masks.areas()[[0, 3]].sum()), 10, 0]
    assert rare_classes(counts, data.space) == (0, 1)
    check_trainable(both)
    empty = both.with_splits(
        {"train": tuple(r for r in both.splits["train"] if r.name == "b"), "val": both.splits["val"]}
    )
    with pytest.raises(UserError, match="no class at all"):
        check_trainable(empty)


def same(one: Instances, other: Instances):
    np.testing.assert_array_equal(one.masks.dense(), other.masks.dense())
    names = [[target.space.names[label] for label in target.labels] for target in (one, other)]
    assert names[0] == names[1]
    np.testing.assert_allclose(one.boxes, other.boxes, atol=2e-3)
    for field in ("crowd", "areas", "ids"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_written_and_read_back(tmp_path):
    data = open_data(save(tmp_path / "one", document(FULL)))
    records = [record for part in data.splits.values() for record in part]
    written = write_data(map(data.read, records), tmp_path / "two", format="coco", space=data.space)
    assert all(path.is_file() for path in written.files)
    again = open_data(tmp_path / "two")
    assert again.space == data.space
    assert again.space.ids == data.space.ids == (3, 17, 90)
    for name, target in targets(data).items():
        same(target, targets(again)[name])
    with pytest.raises(UserError, match="already exists"):
        write_data(map(data.read, records), tmp_path / "two", format="coco", space=data.space)
    settings = WriteSettings(split="val", category_ids=(3, 17, 90), images="none")
    write_data(map(data.read, records), tmp_path / "three", format="coco", space=data.space, settings=settings)
    plain = read_json(tmp_path / "three/annotations/instances_val.json")
    assert {item["id"] for item in plain.member("categories")} == {3, 17, 90}
    with pytest.raises(UserError, match="category_ids: expected 3 different numbers"):
        WriteSettings(category_ids=(1, 1, 2)).numbers(data.space)


def test_written_as_polygons_the_masks_are_the_same(tmp_path):
    data = open_data(save(tmp_path / "one", document(FULL)))
    records = [record for part in data.splits.values() for record in part]
    settings = WriteSettings(polygons=True)
    write_data(map(data.read, records), tmp_path / "two", format="coco", space=data.space, settings=settings)
    plain = json.loads((tmp_path / "two/annotations/instances_train.json").read_text())
    assert [isinstance(row["segmentation"], list) for row in plain["annotations"]] == [
        not row["iscrowd"] for row in plain["annotations"]
    ]
    again = targets(open_data(tmp_path / "two"))
    for name, target in targets(data).items():
        same(target, again[name])


def test_ids_that_repeat_between_images_are_numbered_anew_and_scores_are_kept(tmp_path):
    space = LabelSpace(("cell",), (True,))
    masks = RunMasks.from_boxes(np.array([[1, 1, 5, 6], [3, 3, 9, 9]]), SIZE)
    image = np.zeros((*SIZE, 3), np.uint8)
    found = Instances(
        masks, np.zeros(2, np.int32), space, scores=np.array([0.9, 0.1], np.float32), ids=np.array([1, 2])
    )
    written = write_data([Sample(image, found, name=n) for n in "xy"], tmp_path, format="coco", space=space)
    assert any("numbered anew" in note for note in written.notes)
    plain = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [row["id"] for row in plain["annotations"]] == [1, 2, 3, 4]
    assert [row["score"] for row in plain["annotations"]] == [0.9, 0.1] * 2
    with pytest.raises(UserError, match="Two samples are called 'x'"):
        write_data([Sample(image, found, name="x")] * 2, tmp_path / "b", format="coco", space=space)
    with pytest.raises(UserError, match="leads out of the folder"):
        write_data([Sample(image, found, name="../x")], tmp_path / "c", format="coco", space=space)
    with pytest.raises(UserError, match="there is no target"):
        write_data([Sample(image, name="x")], tmp_path / "d", format="coco", space=space)


def test_results_load_in_pycocotools(tmp_path):
    tool = pytest.importorskip("pycocotools.coco")
    data = open_data(save(tmp_path, document(FULL)))
    truth = targets(data)["a"]
    scored = Instances(truth.masks, truth.labels, truth.space, scores=np.linspace(0.1, 0.9, 4).astype(np.float32))
    numbers = dict(zip(data.space.names, data.reader.category_ids, strict=True))
    path = write_results(tmp_path / "results.json", [(7, scored)], numbers)
    loaded = tool.COCO(str(tmp_path / "annotations/instances_train2017.json")).loadRes(str(path))
    assert [row["category_id"] for row in loaded.imgToAnns[7]] == [3, 90, 17, 3]
    # By the area an unmatched detection is small or large: where an entry has a box, pycocotools takes that of the box.
    assert [row["area"] for row in loaded.imgToAnns[7]] == truth.masks.areas().tolist()
    write_results(path, [(7, scored)], numbers, of="box")
    boxed = tool.COCO(str(tmp_path / "annotations/instances_train2017.json")).loadRes(str(path))
    sides = scored.boxes[:, 2:] - scored.boxes[:, :2]
    assert [row["area"] for row in boxed.imgToAnns[7]] == sides.prod(axis=1).tolist()
    assert [row["bbox"] for row in boxed.imgToAnns[7]] == np.concatenate([scored.boxes[:, :2], sides], 1).tolist()
    for row, mask in zip(loaded.imgToAnns[7], truth.masks.dense(), strict=True):
        np.testing.assert_array_equal(loaded.annToMask(row), mask)
    with pytest.raises(UserError, match="holds scores"):
        coco_results([(7, truth)], numbers)


def test_coco128(shared):
    data = open_data(shared / "data" / "coco128", format="coco")
    found = targets(data)
    assert (len(data.space), len(found), sum(map(len, found.values()))) == (80, 128, 939)
    assert sum(int(target.crowd.sum()) for target in found.values()) == 10


def test_coco128_holds_two_kinds_of_truth_and_says_so(shared):
    with pytest.raises(
        UserError, match=r"'coco' because annotations/instances_train2017\.json .*'coco_panoptic' because .*format=NAME"
    ):
        open_data(shared / "data" / "coco128")


def test_a_file_too_short_to_be_recognised_is_said_to_be_cut_off(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text('{"info": {"year": 2026}, "images": [{"id": 1, "wid')
    with pytest.raises(UserError, match=r"instances_train\.json: the file is cut off: after 50 bytes"):
        open_data(tmp_path)
