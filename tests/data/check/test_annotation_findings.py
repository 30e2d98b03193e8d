"""COCO instances and panoptic: clean ones report nothing, and each planted fault is found and named."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from nuriwake.core.id_maps import encode_ids
from nuriwake.data.check import check_data, looking_coco, quick_check
from nuriwake.data.check.fixing import write_fixed
from nuriwake.data.check.listing import list_data
from nuriwake.data.check.outlines import crosses_itself, outline_area
from nuriwake.data.formats import open_data

SIZE = (60, 80)


def picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def box(left, top, width, height) -> list[list[float]]:
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def annotation(
    number: int, image: int, category: int, left: float, top: float, width=20.0, height=15.0
) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": width * height,
        "bbox": [left, top, width, height], "segmentation": box(left, top, width, height),
    }  # fmt: skip


class Coco:
    """A clean data set of 8 images in train and 2 in val, and its documents to spoil."""

    def __init__(self, root: Path) -> None:
        self.root, self.plain = root, {}
        (root / "annotations").mkdir(parents=True)
        number = 0
        for split, count in (("train", 8), ("val", 2)):
            images, annotations = [], []
            for i in range(count):
                number += 1
                name = f"{split}{i}.png"
                (root / "images" / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / "images" / split / name), picture(number))
                images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
                annotations.append(annotation(2 * number, number, 1, 5 + i, 6))
                annotations.append(annotation(2 * number + 1, number, 4, 40, 30 + i))
            categories = [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}]
            self.plain[split] = {"images": images, "annotations": annotations, "categories": categories}

    @property
    def train(self) -> dict[str, Any]:
        return self.plain["train"]

    def save(self) -> Path:
        for split, plain in self.plain.items():
            (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(plain))
        return self.root

    def findings(self):
        return {finding.kind: finding for finding in check_data(self.save(), workers=1).findings}


@pytest.fixture
def coco(tmp_path) -> Coco:
    return Coco(tmp_path / "data")


def test_clean_data_report_nothing(coco):
    result = check_data(coco.save(), workers=1)
    assert result.findings == ()
    assert result.plain()["objects"] == 20
    assert quick_check(open_data(coco.root)) == ()


def spoil_outline(points):
    return lambda item: item.update(segmentation=[points])


FAULTS = {
    "polygon_crosses": (spoil_outline([5, 6, 25, 21, 25, 6, 5, 21]), "note"),
    "polygon_leaves": (spoil_outline([-9, 6, 25, 6, 25, 21, -9, 21]), "doubtful"),
    "polygon_outside": (spoil_outline([105, 6, 125, 6, 125, 21, 105, 21]), "harmful"),
    "polygon_points": (spoil_outline([5, 6, 25, 21]), "harmful"),
    "no_area": (spoil_outline([5, 6, 25, 6, 15, 6]), "doubtful"),
    "segmentation_unreadable": (spoil_outline([5, 6, 25, 6, 25]), "harmful"),
    "segmentation_missing": (lambda item: item.update(segmentation=[]), "harmful"),
    "rle_size": (lambda item: item.update(segmentation={"size": [80, 60], "counts": [100, 50, 4650]}), "harmful"),
    "box_disagrees": (lambda item: item.update(bbox=[30, 30, 20, 15]), "doubtful"),
    "crowd_flag": (lambda item: item.update(iscrowd=3), "harmful"),
    "crowd_polygons": (lambda item: item.update(iscrowd=1), "note"),
    "category_unknown": (lambda item: item.update(category_id=0), "harmful"),
    "image_unknown": (lambda item: item.update(image_id=99), "harmful"),
    "annotation_ids_repeat": (lambda item: item.update(id=5), "harmful"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_one_annotation(coco, kind):
    change, severity = FAULTS[kind]
    change(coco.train["annotations"][4])
    found = coco.findings()
    assert kind in found, found
    assert found[kind].severity == severity
    assert found[kind].count == 1
    assert "annotation" in found[kind].files[0]
    assert severity == "harmful" or not [f for f in found.values() if f.severity == "harmful"]


def test_run_lengths_that_do_not_cover_the_image(coco):
    coco.train["annotations"][4]["segmentation"] = {"size": list(SIZE), "counts": [100, 50, 10]}
    assert coco.findings()["rle_size"].severity == "harmful"


def test_crowd_is_a_note(coco):
    coco.train["annotations"][4] |= {
        "iscrowd": 1, "bbox": [1, 0, 3, 60], "area": 180, "segmentation": {"size": list(SIZE), "counts": [60, 180, 4560]},
    }  # fmt: skip
    assert {kind: finding.severity for kind, finding in coco.findings().items()} == {"crowd": "note"}


def test_annotations_that_stand_twice(coco):
    rows = coco.train["annotations"]
    rows.append({**copy.deepcopy(rows[0]), "id": 500})
    rows.append(annotation(501, 2, 1, 6.0, 6.2))
    found = coco.findings()
    assert "annotation 500" in found["annotation_twice"].files[0]
    assert "annotation 501" in found["object_twice"].files[0]


def test_images_that_are_missing_or_listed_twice(coco):
    (coco.root / "images" / "train" / "train3.png").unlink()
    coco.train["images"].append({**coco.train["images"][0], "id": 77})
    coco.train["images"].append({**coco.train["images"][1], "file_name": "other.png"})
    found = coco.findings()
    assert "train3.png" in "".join(found["image_missing"].files)
    assert "train0.png" in found["image_listed_twice"].files[0]
    assert "train1.png" in found["image_ids_repeat"].files[0]


def test_stated_size_and_categories(coco):
    coco.train["images"][2]["width"] = 90
    coco.train["categories"].append({"id": 4, "name": "cow"})
    found = coco.findings()
    assert found["size_differs"].severity == "harmful"
    assert "categories[2]" in found["categories_wrong"].files[0]


def test_a_file_that_is_cut_off(coco):
    path = coco.save() / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-400])
    found = {finding.kind: finding for finding in check_data(coco.root, workers=1).findings}
    assert "instances_train.json" in found["annotations_unreadable"].files[0]
    assert found["annotations_unreadable"].severity == "harmful"


def test_nothing_annotated(coco):
    for item in coco.train["annotations"]:
        item["iscrowd"] = 1
    assert coco.findings()["nothing_annotated"].severity == "harmful"


def test_fixed_copy(coco, tmp_path):
    rows = coco.train["annotations"]
    rows[0]["bbox"] = [30, 30, 20, 15]
    rows[2]["segmentation"] = [[5, 6, 25, 21]]
    rows[4]["segmentation"] = [[105, 6, 125, 6, 125, 21, 105, 21]]
    rows[6]["id"] = rows[7]["id"]
    rows.append({**copy.deepcopy(rows[8]), "id": 500})
    (coco.root / "images" / "train" / "train5.png").unlink()
    lines = write_fixed(check_data(coco.save(), workers=1), tmp_path / "fixed")
    assert len(lines) >= 4
    assert check_data(tmp_path / "fixed", workers=1).findings == ()
    data = open_data(tmp_path / "fixed")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 7, "val": 2}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain["images"][0].pop("id"),
        lambda plain: plain["images"][0].update(id=[1]),
        lambda plain: plain["images"][0].pop("file_name"),
        lambda plain: plain.pop("images"),
        lambda plain: plain.pop("annotations"),
        lambda plain: plain["annotations"][0].update(image_id=[3], id={}),
        lambda plain: plain["annotations"][0].update(bbox=[None, "a", 1, 2]),
        lambda plain: plain.update(images=[7]),
    ],
)
def test_damaged_documents_are_fixed_or_left_out(coco, tmp_path, spoil):
    spoil(coco.train)
    result = check_data(coco.save(), workers=1)
    assert result.findings
    assert write_fixed(result, tmp_path / "fixed")
    assert check_data(tmp_path / "fixed", workers=1).survey.facts


def test_near_boxes_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 12, (60, 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 9, (60, 2))], axis=1).astype(np.float32)

    def overlap(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(width, 0) * max(height, 0)
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    slow = [(i, j) for i in range(60) for j in range(i + 1, 60) if overlap(boxes[i], boxes[j]) > 0.7]
    assert slow
    for pairs in (1, 60 * 7, 1 << 20):
        monkeypatch.setattr(looking_coco, "_PAIRS", pairs)
        assert looking_coco._near(boxes) == slow


def test_crossing_by_hand():
    assert crosses_itself(np.array([[0, 0], [4, 4], [4, 0], [0, 4]], float))
    assert not crosses_itself(np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float))
    angles = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 100
    assert not crosses_itself(circle)
    assert outline_area(circle) == pytest.approx(np.pi * 1e4, rel=1e-4)
    # A hole bridged with a seam walked both ways touches itself, and does not cross.
    assert not crosses_itself(
        np.array([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [3, 6], [6, 6], [6, 3], [3, 3]], float)
    )


def crossing_twin(points: np.ndarray) -> bool:
    """Slow and obvious: every pair of edges that are no neighbours."""

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    count = len(points)
    edges = [(points[i], points[(i + 1) % count]) for i in range(count)]
    for i, (a, b) in enumerate(edges):
        for j, (c, d) in enumerate(edges):
            if (
                (j - i) % count not in (0, 1, count - 1)
                and side(a, b, c) * side(a, b, d) < 0
                and side(c, d, a) * side(c, d, b) < 0
            ):
                return True
    return False


def test_crossing_beside_its_twin():
    rng = np.random.default_rng(3)
    answers = set()
    for _ in range(200):
        points = rng.integers(0, 12, (rng.integers(4, 8), 2)).astype(float)
        if (points == np.roll(points, 1, axis=0)).all(axis=1).any():
            continue
        answers.add(crosses_itself(points))
        assert crosses_itself(points) == crossing_twin(points)
    assert answers == {True, False}


class Panoptic:
    """Clean panoptic data, 5 images of train and 2 of val."""

    def __init__(self, root: Path) -> None:
        self.root, self.plain, number = root, {}, 0
        categories = [
            {"id": 1, "name": "cat", "isthing": 1, "color": [200, 0, 0]},
            {"id": 7, "name": "grass", "isthing": 0, "color": [0, 200, 0]},
        ]
        for split, count in (("train", 5), ("val", 2)):
            images, annotations = [], []
            for i in range(count):
                number += 1
                ids = np.full(SIZE, 900, np.int32)
                ids[10:30, 10 + i : 40] = 70_000
                stem = f"{split}{i}"
                for folder, array in (("images", picture(number)), (f"annotations/panoptic_{split}", encode_ids(ids))):
                    where = root / folder / (split if folder == "images" else "") / f"{stem}.png"
                    where.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(where), array[..., ::-1])
                images.append({"id": number, "file_name": f"{stem}.png", "height": SIZE[0], "width": SIZE[1]})
                segments = [
                    {
                        "id": value,
                        "category_id": category,
                        "iscrowd": 0,
                        "area": int((ids == value).sum()),
                        "bbox": [0, 0, 1, 1],
                    }
                    for value, category in ((900, 7), (70_000, 1))
                ]
                annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
            self.plain[split] = {"images": images, "annotations": annotations, "categories": categories}

    def findings(self):
        for split, plain in self.plain.items():
            (self.root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(plain))
        return {finding.kind: finding for finding in check_data(self.root, workers=1).findings}


@pytest.fixture
def panoptic(tmp_path) -> Panoptic:
    return Panoptic(tmp_path / "data")


def test_clean_panoptic_data_report_nothing(panoptic):
    assert panoptic.findings() == {}


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda segments: segments.append({"id": 5, "category_id": 1, "area": 9}), "panoptic_disagrees", "no pixel"),
        (lambda segments: segments.pop(), "panoptic_disagrees", "not listed"),
        (lambda segments: segments[0].update(area=4), "panoptic_disagrees", "area"),
        (lambda segments: segments[0].update(category_id=3), "category_unknown", "category 3"),
    ],
)
def test_png_and_json_disagree(panoptic, change, kind, text):
    change(panoptic.plain["train"]["annotations"][1]["segments_info"])
    found = panoptic.findings()
    assert found[kind].severity == "harmful"
    assert "train1.png" in found[kind].files[0]
    assert text in found[kind].files[0]


def test_a_png_of_another_size_or_missing(panoptic):
    folder = panoptic.root / "annotations" / "panoptic_train"
    cv2.imwrite(str(folder / "train1.png"), cv2.imread(str(folder / "train1.png"))[:-3])
    (folder / "train2.png").unlink()
    found = panoptic.findings()
    assert "train1.png" in found["size_differs"].files[0]
    assert "train2.png" in found["mask_unreadable"].files[0]


def test_fixed_panoptic_copy(panoptic, tmp_path):
    segments = panoptic.plain["train"]["annotations"][1]["segments_info"]
    segments.append({"id": 5, "category_id": 1, "area": 9, "iscrowd": 0, "bbox": [0, 0, 1, 1]})
    segments[0]["area"] = 4
    panoptic.findings()
    lines = write_fixed(check_data(panoptic.root, workers=1), tmp_path / "fixed")
    assert any("1 segment without a pixel left out." in line for line in lines)
    assert check_data(tmp_path / "fixed", workers=1).findings == ()


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_coco128_has_no_grave_finding(shared, kind):
    result = check_data(shared / "data" / "coco128" / "annotations" / f"{kind}_train2017.json")
    assert result.harmful == ()
    assert "crowd" in {finding.kind for finding in result.findings}


def test_formats_that_their_own_reader_reads(shared):
    result = check_data(shared / "data" / "formats" / "labelme")
    assert result.survey.listing.truth == "read"
    assert result.harmful == ()
    assert len(result.survey.objects) > 0


def test_a_split_that_is_made_here_is_none_that_was_given(tmp_path):
    points = [[3, 3], [20, 3], [20, 20]]
    for split in ("", "train", "val"):
        folder = tmp_path / ("given" if split else "made") / split
        folder.mkdir(parents=True)
        for number in range(4):
            name = f"{split}{number}"
            cv2.imwrite(str(folder / f"{name}.png"), picture(number))
            shape = {"label": "cat", "points": points, "shape_type": "polygon"}
            (folder / f"{name}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{name}.png"}))
    assert list_data(tmp_path / "given").splits_given
    assert not list_data(tmp_path / "made").splits_given
