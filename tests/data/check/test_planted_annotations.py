"""Every fault of annotations of objects and segments, planted in a copy of a few images of coco128: found under its name, with the file."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from nuriwake.core.id_maps import decode_ids, encode_ids
from nuriwake.data.images import read_mask

Plant = Callable[[Path], list[str]]
"""Spoils the copy; gives what the finding must name: files, or classes where a finding is about classes."""


def pick(files: list[Path], count: int) -> list[Path]:
    return [files[i * (len(files) - 1) // (count - 1)] for i in range(count)]


def coco128(source: Path, root: Path) -> None:
    """Eight images of train and three of val, each split with its JSON."""
    plain = json.loads((source / "coco128/annotations/instances_train2017.json").read_bytes())
    with_objects = {item["image_id"] for item in plain["annotations"] if not item["iscrowd"]}
    chosen = pick(sorted(item["file_name"] for item in plain["images"] if item["id"] in with_objects), 11)
    for split, names in (("train", chosen[:8]), ("val", chosen[8:])):
        images = [item for item in plain["images"] if item["file_name"] in names]
        ids = {item["id"] for item in images}
        annotations = [item for item in plain["annotations"] if item["image_id"] in ids]
        save(root, split, {"images": images, "annotations": annotations, "categories": plain["categories"]})
        (root / "images" / split).mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / "coco128/images/train2017" / name, root / "images" / split / name)


def coco128_panoptic(source: Path, root: Path) -> None:
    plain = json.loads((source / "coco128/annotations/panoptic_train2017.json").read_bytes())
    chosen = pick(plain["annotations"], 5)
    ids = {item["image_id"] for item in chosen}
    images = [item for item in plain["images"] if item["id"] in ids]
    text = {"images": images, "annotations": chosen, "categories": plain["categories"]}
    save(root, "train", text, "panoptic")
    for folder, other, names in (
        ("images/train2017", "images/train", [item["file_name"] for item in images]),
        ("annotations/panoptic_train2017", "annotations/panoptic_train", [item["file_name"] for item in chosen]),
    ):
        (root / other).mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / "coco128" / folder / name, root / other / name)


def save(root: Path, split: str, plain: Any, kind: str = "instances") -> None:
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(plain))


SETS = {"coco128": coco128, "coco128_panoptic": coco128_panoptic}


def files(root: Path, kind: str = "images", split: str = "train") -> list[Path]:
    folder = root / kind / split
    return sorted(path for path in (folder if folder.is_dir() else root / kind).iterdir())


def write(path: Path, array: np.ndarray, *options: int) -> None:
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array, list(options))


def picture(path: Path) -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def cut_image(root: Path) -> list[str]:
    path = files(root)[1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [path.name]


def turned_by_exif(root: Path) -> list[str]:
    path = files(root)[0]
    image = Image.fromarray(picture(path))
    tags = image.getexif()
    tags[274] = 8
    image.save(path, exif=tags, quality=95)
    return [path.stem]


def missing_image(root: Path) -> list[str]:
    path = files(root)[0]
    path.unlink()
    return [path.name]


def copied_to_val(root: Path) -> list[str]:
    source, target = files(root)[0], files(root, "images", "val")[0]
    target.write_bytes(source.read_bytes())
    return [source.name, target.name]


def empty_train(root: Path) -> list[str]:
    plain = json.loads((root / "annotations/instances_train.json").read_text())
    save(root, "train", {**plain, "images": [], "annotations": []})
    return ["train"]


def huge_objects(root: Path) -> list[str]:
    plain = json.loads((root / "annotations/instances_train.json").read_text())
    item = plain["images"][0]
    write(
        root / "images/train" / item["file_name"],
        np.kron(picture(root / "images/train" / item["file_name"])[:300, :300], np.ones((8, 8, 1), np.uint8)),
    )
    item["height"] = item["width"] = 2400
    mine = [row for row in plain["annotations"] if row["image_id"] == item["id"]]
    rows = [row for row in plain["annotations"] if row["image_id"] != item["id"]][:8]
    outline = [10.0, 10, 2300, 10, 2300, 2300, 10, 2300]
    box = {"segmentation": [outline], "bbox": [10, 10, 2290, 2290], "area": 2290.0**2, "iscrowd": 0}
    save(root, "train", {**plain, "annotations": [*rows, {**mine[0], **box}]})
    other = json.loads((root / "annotations/instances_val.json").read_text())
    save(root, "val", {**other, "annotations": other["annotations"][:4]})
    return [item["file_name"]]


def annotation(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The first polygon that is no crowd, changed; it must be named."""

    def plant(root: Path) -> list[str]:
        plain = json.loads((root / "annotations/instances_train.json").read_text())
        size = {item["id"]: (item["height"], item["width"]) for item in plain["images"]}
        row = next(row for row in plain["annotations"] if not row["iscrowd"] and len(row["segmentation"]) == 1)
        row["_size"] = size[row["image_id"]]
        change(row)
        row.pop("_size")
        save(root, "train", plain)
        return ["annotation"]

    return plant


def document(change: Callable[[dict[str, Any]], list[str]]) -> Plant:
    def plant(root: Path) -> list[str]:
        plain = json.loads((root / "annotations/instances_train.json").read_text())
        names = change(plain)
        save(root, "train", plain)
        return names

    return plant


def set_outline(points: Callable[[int, int], list[float]]) -> Plant:
    """Of height and width -> the outline; its box fits it."""

    def change(row: dict[str, Any]) -> None:
        outline = points(*row["_size"])
        corners = np.array(outline, float).reshape(-1, 2)
        low, high = corners.min(axis=0), corners.max(axis=0)
        row.update(segmentation=[outline], bbox=[*low.tolist(), *(high - low).tolist()])

    return annotation(change)


def listed_again(plain: dict[str, Any]) -> list[str]:
    plain["images"].append({**plain["images"][0], "id": 10**7})
    return [plain["images"][0]["file_name"]]


def id_again(plain: dict[str, Any]) -> list[str]:
    plain["images"][1]["id"] = plain["images"][0]["id"]
    return [plain["images"][0]["file_name"]]


def annotation_id_again(plain: dict[str, Any]) -> list[str]:
    plain["annotations"][1]["id"] = plain["annotations"][0]["id"]
    return ["annotations[1]"]


def annotated_again(plain: dict[str, Any]) -> list[str]:
    row = next(row for row in plain["annotations"] if not row["iscrowd"])
    plain["annotations"].append({**row, "id": 10**7})
    return ["10000000"]


def object_again(plain: dict[str, Any]) -> list[str]:
    large = [row for row in plain["annotations"] if not row["iscrowd"] and len(row["segmentation"]) == 1]
    row = max(large, key=lambda item: item["area"])
    moved = [[value + 0.3 for value in row["segmentation"][0]]]
    plain["annotations"].append({**row, "id": 10**7, "segmentation": moved})
    return ["10000000"]


def only_crowds(plain: dict[str, Any]) -> list[str]:
    for row in plain["annotations"]:
        row["iscrowd"] = 1
    return [plain["images"][0]["file_name"]]


def background_category(plain: dict[str, Any]) -> list[str]:
    row = plain["annotations"][0]
    next(item for item in plain["categories"] if item["id"] == row["category_id"])["name"] = "background"
    image = next(item for item in plain["images"] if item["id"] == row["image_id"])
    return [image["file_name"]]


def unknown_category(plain: dict[str, Any]) -> list[str]:
    plain["annotations"][2]["category_id"] = 1000
    return ["annotations[2]"]


def category_again(plain: dict[str, Any]) -> list[str]:
    plain["categories"].append(plain["categories"][0])
    return ["categories["]


def unknown_image(plain: dict[str, Any]) -> list[str]:
    plain["annotations"][2]["image_id"] = 3
    return ["annotations[2]"]


def cut_json(root: Path) -> list[str]:
    path = root / "annotations/instances_train.json"
    path.write_text(path.read_text()[:-700])
    return [path.name]


def another_size_in_json(plain: dict[str, Any]) -> list[str]:
    plain["images"][1]["width"] += 5
    return [plain["images"][1]["file_name"]]


def panoptic(change: Callable[[list[dict[str, Any]], Path], Any]) -> Plant:
    def plant(root: Path) -> list[str]:
        plain = json.loads((root / "annotations/panoptic_train.json").read_text())
        item = plain["annotations"][1]
        path = root / "annotations/panoptic_train" / item["file_name"]
        change(item["segments_info"], path)
        save(root, "train", plain, "panoptic")
        return [path.name]

    return plant


def repaint(segments: list[dict[str, Any]], path: Path) -> None:
    del segments
    ids = decode_ids(read_mask(path))
    ids[:30, :30] = 12_345
    write(path, encode_ids(ids))


@dataclass(frozen=True)
class Fault:
    """Planted in which set, what the finding is called, and its severity."""

    where: str
    kind: str
    severity: str
    plant: Plant


FAULTS: dict[str, Fault] = {
    "truncated image of coco": Fault("coco128", "image_truncated", "harmful", cut_image),
    "flipped byte of a panoptic mask": Fault(
        "coco128_panoptic", "mask_unreadable", "harmful",
        panoptic(lambda _, path: path.write_bytes(path.read_bytes()[:300] + b"\0\0\0" + path.read_bytes()[303:])),
    ),
    "EXIF rotation beside panoptic masks": Fault("coco128_panoptic", "exif_rotation", "harmful", turned_by_exif),
    "EXIF rotation beside polygons": Fault("coco128", "exif_rotation", "harmful", turned_by_exif),
    "listed image that is not there": Fault("coco128", "image_missing", "harmful", missing_image),
    "sizes differ in the JSON": Fault("coco128", "size_differs", "harmful", document(another_size_in_json)),
    "same image in both, of coco": Fault("coco128", "same_image", "harmful", copied_to_val),
    "no image to train on": Fault("coco128", "empty_split", "harmful", empty_train),
    "very large objects": Fault("coco128", "large_objects", "note", huge_objects),
    "cut JSON": Fault("coco128", "annotations_unreadable", "harmful", cut_json),
    "polygon crosses itself": Fault(
        "coco128", "polygon_crosses", "note", set_outline(lambda h, w: [9, 9, w - 9, h - 9, w - 9, 9, 9, h - 9])
    ),
    "polygon leaves the image": Fault(
        "coco128", "polygon_leaves", "doubtful", set_outline(lambda h, w: [9, 9, w + 90, 9, w - 9, h - 9, 9, h - 9])
    ),
    "polygon outside": Fault(
        "coco128", "polygon_outside", "harmful", set_outline(lambda h, w: [w + 9, 9, w + 90, 9, w + 90, h, w + 9, h])
    ),
    "polygon of two points": Fault("coco128", "polygon_points", "harmful", set_outline(lambda h, w: [9, 9, w - 9, 99])),
    "polygon without area": Fault("coco128", "no_area", "doubtful", set_outline(lambda h, w: [9, 9, 50, 9, 20, 9])),
    "box disagrees": Fault(
        "coco128", "box_disagrees", "doubtful", annotation(lambda row: row.update(bbox=[value + 40 for value in row["bbox"]]))
    ),
    "area disagrees": Fault(
        "coco128", "area_disagrees", "doubtful", annotation(lambda row: row.update(area=row["area"] * 4 + 100))
    ),
    "no segmentation": Fault(
        "coco128", "segmentation_missing", "harmful", annotation(lambda row: row.update(segmentation=[]))
    ),
    "odd number of coordinates": Fault(
        "coco128", "segmentation_unreadable", "harmful", annotation(lambda row: row["segmentation"][0].pop())
    ),
    "RLE of another size": Fault(
        "coco128", "rle_size", "harmful",
        annotation(lambda row: row.update(segmentation={"size": list(row["_size"][::-1]), "counts": [9, 9, row["_size"][0] * row["_size"][1] - 18]})),
    ),
    "RLE that does not cover": Fault(
        "coco128", "rle_size", "harmful",
        annotation(lambda row: row.update(segmentation={"size": list(row["_size"]), "counts": [9, 9, 100]})),
    ),
    "crowd flag": Fault("coco128", "crowd_flag", "harmful", annotation(lambda row: row.update(iscrowd=2))),
    "crowd as polygons": Fault("coco128", "crowd_polygons", "note", annotation(lambda row: row.update(iscrowd=1))),
    "crowds": Fault("coco128", "crowd", "doubtful", document(only_crowds)),
    "nothing but crowds": Fault("coco128", "nothing_annotated", "harmful", document(only_crowds)),
    "duplicate image": Fault("coco128", "image_listed_twice", "harmful", document(listed_again)),
    "duplicate id of images": Fault("coco128", "image_ids_repeat", "harmful", document(id_again)),
    "duplicate id": Fault("coco128", "annotation_ids_repeat", "harmful", document(annotation_id_again)),
    "duplicate annotation": Fault("coco128", "annotation_twice", "doubtful", document(annotated_again)),
    "object annotated twice": Fault("coco128", "object_twice", "doubtful", document(object_again)),
    "class called background": Fault("coco128", "background_class", "harmful", document(background_category)),
    "unknown category": Fault("coco128", "category_unknown", "harmful", document(unknown_category)),
    "category twice": Fault("coco128", "categories_wrong", "harmful", document(category_again)),
    "unknown image": Fault("coco128", "image_unknown", "harmful", document(unknown_image)),
    "segment without pixels": Fault(
        "coco128_panoptic", "panoptic_disagrees", "harmful",
        panoptic(lambda segments, _: segments.append({**segments[0], "id": 4_000_000})),
    ),
    "pixels without a segment": Fault("coco128_panoptic", "panoptic_disagrees", "harmful", panoptic(repaint)),
    "another area": Fault(
        "coco128_panoptic", "panoptic_disagrees", "harmful", panoptic(lambda segments, _: segments[0].update(area=5))
    ),
    "panoptic PNG of another size": Fault(
        "coco128_panoptic", "size_differs", "harmful",
        panoptic(lambda _, path: write(path, np.ascontiguousarray(read_mask(path)[:-8]))),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(untouched):
    return untouched(SETS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(copies, judge, name):
    judge(FAULTS[name], copies)
