"""--fix of CVAT, Label Studio, LabelMe, YOLO, GeoTIFF and NIfTI: what goes is said, and everything else is what it was."""

import json
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.check import check_data
from nuriwake.data.check.fixing import write_fixed
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (48, 64)
THINGS = LabelSpace(("cat", "dog"), (True, True))


def picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def objects(number: int) -> Instances:
    """Two that overlap."""
    dense = np.zeros((2, *SIZE), np.uint8)
    dense[0, 5:20, 6 : 24 + number], dense[1, 12:40, 18:50] = 1, 1
    return Instances(RunMasks.from_dense(dense), np.array([0, 1], np.int32), THINGS)


def written(root: Path, format_name: str, *, polygons: bool = False, target=objects) -> Path:
    """Four images of train and two of val."""
    for split, numbers in (("train", range(4)), ("val", (4, 5))):
        samples = [Sample(picture(number), target(number), name=f"s{number}") for number in numbers]
        settings = WriteSettings(split=split, polygons=polygons)
        write_data(samples, root, format=format_name, space=samples[0].target.space, settings=settings)
    return root


def fix(root: Path) -> tuple[Path, str]:
    to = root.parent / "fixed"
    return to, " ".join(write_fixed(check_data(root, workers=1), to))


def kinds(root: Path) -> set[str]:
    return {finding.kind for finding in check_data(root, workers=1).findings if finding.severity != "note"}


def truth(root: Path) -> dict[str, list[str]]:
    """Name of the sample -> its objects, as class and run lengths."""
    data = open_data(root)
    found = {}
    for record in (record for part in data.splits.values() for record in part):
        target = data.read(record).target
        runs = [str(item["counts"]) for item in target.masks.to_coco()]
        found[record.name] = [
            f"{target.space.names[label]} {run}" for label, run in zip(target.labels, runs, strict=True)
        ]
    return found


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def spoil_images(root: Path, where: str) -> None:
    """s0 is cut off; s3 is a JPEG called PNG."""
    path = root / where.format("s0")
    path.write_bytes(path.read_bytes()[:200])
    (root / where.format("s3")).write_bytes(cv2.imencode(".jpg", picture(3)[..., ::-1])[1].tobytes())


@pytest.mark.parametrize("polygons", [True, False])
def test_cvat(tmp_path, polygons):
    root = written(tmp_path / "data", "cvat", polygons=polygons)
    before = truth(root)
    path = root / "train/annotations.xml"
    tree = ElementTree.parse(path)
    images = {image.get("name"): image for image in tree.getroot().iter("image")}
    shapes = list(images["s1.png"])
    images["s1.png"].append(ElementTree.fromstring(ElementTree.tostring(shapes[0])))  # twice
    ElementTree.SubElement(images["s1.png"], "polygon", label="cat", points="1,1;5,5")
    ElementTree.SubElement(images["s2.png"], "polygon", label="cat", points="5.1,5.1;5.2,5.1;5.2,5.2;5.1,5.2")
    ElementTree.SubElement(images["s2.png"], "points", label="cat", points="9,9")
    attribute = ElementTree.SubElement(next(iter(images["s2.png"])), "attribute", name="colour")
    attribute.text = "red"
    tree.write(path)
    spoil_images(root, "train/images/{}.png")
    assert kinds(root) == {"truth_unreadable", "no_area", "image_truncated", "format_differs"}
    copy, text = fix(root)
    for words in (
        "1 shape that cannot be drawn",
        "1 shape that stands twice",
        "1 shape without a pixel",
        "1 sample left out, cut",
    ):
        assert words in text
    assert "not corrected" not in text
    assert kinds(copy) == set()
    assert truth(copy) == {name: shapes for name, shapes in before.items() if name != "train/s0" and name != "s0"}
    fixed = {
        image.get("name"): image for image in ElementTree.parse(copy / "train/annotations.xml").getroot().iter("image")
    }
    assert set(fixed) == {"s1.png", "s2.png", "s3.jpg"}
    assert fixed["s2.png"].find("points") is not None  # no object, but not ours to take out
    assert fixed["s2.png"].findtext("*/attribute") == "red"
    assert (copy / "train/images/s3.jpg").is_file()


def test_a_clean_set_keeps_every_shape(tmp_path):
    for name in ("cvat", "label_studio"):
        root = written(tmp_path / name / "data", name)
        copy, text = fix(root)
        assert text == "nothing; the copy is like the original."
        assert truth(copy) == truth(root)
        assert set(files(copy)) == set(files(root))


def test_label_studio(tmp_path):
    root = written(tmp_path / "data", "label_studio", polygons=True)
    before = truth(root)
    path = root / "train/tasks.json"
    tasks = json.loads(path.read_text())
    results = tasks[1]["annotations"][0]["result"]
    results.append({**results[0], "id": "again"})
    results.append({**results[0], "value": {**results[0]["value"], "points": [[1, 1], [5, 5]]}})
    results.append({"type": "choices", "value": {"choices": ["sunny"]}})
    tasks[1]["meta"] = {"who": "me"}
    path.write_text(json.dumps(tasks))
    spoil_images(root, "train/images/{}.png")
    copy, text = fix(root)
    assert "1 shape that cannot be drawn" in text
    assert "1 shape that stands twice" in text
    assert "not corrected" not in text
    assert kinds(copy) == set()
    assert truth(copy) == {name: shapes for name, shapes in before.items() if name not in ("train/s0", "s0")}
    fixed = json.loads((copy / "train/tasks.json").read_text())
    assert [task["data"]["image"].rpartition("/")[2] for task in fixed] == ["s1.png", "s2.png", "s3.jpg"]
    assert fixed[0]["meta"] == {"who": "me"}
    assert fixed[0]["annotations"][0]["result"][-1]["type"] == "choices"


def test_images_that_stand_twice_with_their_shapes(tmp_path):
    root = written(tmp_path / "data", "cvat", target=lambda number: objects(0 if number in (1, 2) else number))
    for name, other in (("s2", "s1"), ("s3", "s0")):  # the second pair has different objects
        (root / f"train/images/{name}.png").write_bytes((root / f"train/images/{other}.png").read_bytes())
    copy, text = fix(root)
    assert "1 sample left out, with the image and the truth of another one" in text
    assert not (copy / "train/images/s2.png").exists()
    assert kinds(copy) == {"duplicates"}
    assert "not corrected" not in text.partition("duplicates")[0]


@pytest.mark.parametrize("format_name", ["yolo", "labelme"])
def test_shapes_that_stand_twice_in_files_of_their_own(tmp_path, format_name):
    root = written(tmp_path / "data", format_name)
    before = truth(root)
    if format_name == "yolo":
        path = root / "labels/train/s1.txt"
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    else:
        path = root / "train/s1.json"
        plain = json.loads(path.read_text())
        plain["shapes"].append(plain["shapes"][0])
        path.write_text(json.dumps(plain))
    assert kinds(root) == {"annotation_twice"}
    copy, text = fix(root)
    assert text == "1 shape that stands twice left out."
    assert truth(copy) == before


needs_geo = pytest.mark.skipif(find_spec("rasterio") is None, reason="needs the extra geo")
needs_medical = pytest.mark.skipif(find_spec("nibabel") is None, reason="needs the extra medical")


@needs_geo
def test_geotiff_masks(tmp_path):
    space = LabelSpace(("background", "house"))
    root = written(tmp_path / "data", "geotiff", target=lambda n: SemanticMap(objects(n).masks.dense()[0], space))
    path = root / "images/train/s0.tif"
    path.write_bytes(path.read_bytes()[:1200])
    for kind in ("images", "masks"):
        (root / kind / "train/s3.tif").write_bytes((root / kind / "train/s2.tif").read_bytes())
    before = files(root)
    copy, text = fix(root)
    for words in ("left out, cut off", "with the image and the truth of another one"):
        assert words in text
    left = {name: content for name, content in before.items() if not any(f"train/s{n}." in name for n in (0, 3))}
    assert files(copy) == left
    assert kinds(copy) == set()


@needs_geo
def test_geojson_of_all_images(tmp_path):
    import rasterio

    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    features = []
    for number in range(5):
        transform = rasterio.Affine(0.5, 0, 400000 + 100 * number, 0, -0.5, 3950000)
        where = {"crs": "EPSG:32654", "transform": transform, "count": 3, "height": 48, "width": 64, "dtype": "uint8"}
        with rasterio.open(root / f"images/s{number}.tif", "w", driver="GTiff", **where) as file:
            file.write(np.moveaxis(picture(number), 2, 0))
        x, y = 400005 + 100 * number, 3949995
        ring = [[x, y], [x + 10, y], [x + 10, y - 8 - number / 2], [x, y - 8 - number / 2], [x, y]]
        properties = {"class": "house", "id": number}
        features.append(
            {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        )
    features.append({**features[0], "properties": {"class": "house", "id": 77}})
    crs = {"type": "name", "properties": {"name": "EPSG:32654"}}
    plain = {"type": "FeatureCollection", "crs": crs, "features": features}
    (root / "houses.geojson").write_text(json.dumps(plain))
    path = root / "images/s1.tif"
    path.write_bytes(path.read_bytes()[:-2000])
    assert kinds(root) >= {"annotation_twice"}
    copy, text = fix(root)
    assert "1 shape that stands twice left out." in text
    assert "not corrected" not in text
    assert not (copy / "images/s1.tif").exists()
    assert json.loads((copy / "houses.geojson").read_text()) == {**plain, "features": features[:-1]}
    assert kinds(copy) == set()


@needs_medical
def test_nifti_loses_whole_volumes_alone(tmp_path):
    import nibabel

    root, rng = tmp_path / "data", np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    shared = rng.integers(0, 900, (20, 22)).astype(np.int16)
    for number in range(5):
        values, labels = rng.integers(0, 900, (20, 22, 4)).astype(np.int16), np.zeros((20, 22, 4), np.uint8)
        labels[5:12, 6 : 14 + number] = 1
        if number in (2, 3):
            values[..., 0] = shared
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), root / f"imagesTr/v{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([1, 1, 3, 1])), root / f"labelsTr/v{number}.nii.gz")
    names = [f"v{number}" for number in range(5)]
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    about = {"labels": {"0": "background", "1": "liver"}, "numTraining": 5, "training": listed}
    (root / "dataset.json").write_text(json.dumps(about))
    (root / "splits_final.json").write_text(json.dumps([{"train": names[:3], "val": names[3:]}]))
    path = root / "imagesTr/v0.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    before = files(root)
    copy, text = fix(root)
    assert "2 volume files left out" in text
    assert "same_image (1)" in text  # a slice alone cannot leave its volume
    assert json.loads((copy / "splits_final.json").read_text()) == [{"train": names[1:3], "val": names[3:]}]
    assert json.loads((copy / "dataset.json").read_text()) == {**about, "numTraining": 4, "training": listed[1:]}
    rest = {name: content for name, content in before.items() if "v0" not in name and not name.endswith(".json")}
    assert {name: content for name, content in files(copy).items() if not name.endswith(".json")} == rest
    assert {len(part) for part in open_data(copy).splits.values()} == {8}
