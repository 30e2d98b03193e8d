"""Image ids of result files: from the annotation file near the images, else said what is used."""

import json

from nuriwake.data.coco_ids import image_ids


def folder(tmp_path, names, images, file="annotations/instances_val2017.json"):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    plain = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / file).write_text(json.dumps(plain))
    found = {}
    for name in names:
        path = tmp_path / "images" / "val2017" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found[path.stem] = path
    return found


def test_the_ids_of_the_annotation_file_near_the_images(tmp_path):
    entries = [
        {"id": 70, "file_name": "b.png"},
        {"id": 5, "file_name": "val2017/a.png"},
        {"id": 6, "file_name": "c.png"},
    ]
    given = folder(tmp_path, ["a.png", "b.png"], entries)
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{broken")
    assert image_ids(given) == ([5, 70], "from instances_val2017.json")
    texts = [{"id": "x", "file_name": "b.png"}, {"id": "y", "file_name": "a.png"}]
    assert image_ids(folder(tmp_path, ["a.png", "b.png"], texts)).numbers == ["y", "x"]


def test_the_ids_of_another_split_are_not_taken(tmp_path):
    """Its images may have the same names."""
    given = folder(tmp_path, ["a.png", "b.png"], [{"id": 5, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}],
                   "annotations/instances_train2017.json")  # fmt: skip
    assert image_ids(given) == ([1, 2], "1, 2, ... in the order of predictions.json")
    elsewhere = tmp_path / "images" / "copies"
    elsewhere.mkdir()
    moved = {name: path.rename(elsewhere / path.name) for name, path in given.items()}
    assert image_ids(moved).numbers == [5, 7]


def test_images_that_no_file_knows_whole_are_numbered_and_it_is_said(tmp_path):
    given = folder(tmp_path, ["a.png", "b.png"], [{"id": 70, "file_name": "b.png"}])
    assert image_ids(given) == ([1, 2], "1, 2, ... in the order of predictions.json")
    given = folder(tmp_path, ["000139.png", "000285.png"], [])
    assert image_ids(given) == ([139, 285], "the numbers that the files' names are")
