"""`predict --to FORMAT` for images on a map and for volumes: what comes out lies where the image does; what cannot be is said first."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from nuriwake.cli.finding import find_images
from nuriwake.cli.prediction import Wanted, predict_files
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.check import check_data
from nuriwake.data.formats import open_data
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import PredictSettings

needs_geo = pytest.mark.skipif(find_spec("rasterio") is None, reason="needs the extra geo")
needs_medical = pytest.mark.skipif(find_spec("nibabel") is None, reason="needs the extra medical")

SIZE = (60, 80)
THINGS = LabelSpace(("house", "tree"), (True, True))
SCENE = LabelSpace(("grass", "house", "tree"), (False, True, True))
MAPS = LabelSpace(("background", "house", "tree"))
PLACES = {
    "metres": ("EPSG:32654", (0.5, 0, 400000, 0, -0.5, 3950000)),
    "degrees": ("EPSG:4326", (1e-5, 0, 139.7, 0, -1e-5, 35.6)),
}


def shapes() -> np.ndarray:
    """(3, H, W) bool: a house, a house with a court, and a tree of two parts that overlaps the first."""
    found = np.zeros((3, *SIZE), bool)
    found[0, 5:25, 10:30] = True
    found[1, 30:55, 40:75] = True
    found[1, 38:45, 50:60] = False
    found[2, 20:32, 25:36] = found[2, 50:58, 3:9] = True
    return found


class Stub:
    """Answers the same for every image."""

    def __init__(self, task: str, *, channels: int = 3, depth: str = "uint8", space: LabelSpace | None = None) -> None:
        self.task, self.asked = task, 0
        self.answers = space or {"semantic": MAPS, "instance": THINGS, "panoptic": SCENE}[task]
        self.preprocessing = Preprocessing(channels, (0.0,) * channels, (1.0,) * channels, 255.0, depth)
        self.settings = PredictSettings()

    def __call__(self, image: np.ndarray) -> Target:
        self.asked += 1
        found, scores = shapes(), np.array([0.9, 0.75, 0.5], np.float32)
        if self.task == "instance":
            return Instances(
                RunMasks.from_dense(found.view(np.uint8)), np.array([0, 0, 1], np.int32), THINGS, scores=scores
            )
        ids = np.full(SIZE, 7, np.int32)
        for number, part in enumerate(found, 1):
            ids[part] = number
        if not self.answers.exclusive:
            return SemanticMap(np.ascontiguousarray(np.moveaxis(found[:2].view(np.uint8), 0, 2)), self.answers)
        if self.task == "panoptic":
            numbers, labels = np.array([1, 2, 3, 7], np.int32), np.array([1, 1, 2, 0], np.int32)
            return Panoptic(ids, numbers, labels, SCENE, scores=np.append(scores, np.float32(1)))
        labels = np.array([0, 1, 1, 2, 0, 0, 0, 0], np.uint8)[ids]
        return SemanticMap(labels, MAPS, scores=np.full(SIZE, 0.8, np.float32))

    def batch(self, images: list[np.ndarray]) -> list[Target]:
        return [self(image) for image in images]


def predict(stub: Any, images: dict[str, Path], out: Path, to: str) -> tuple[str, ...]:
    return predict_files(stub, images, Wanted(out, overlay=True, to=to, source=Path("stub")))[1]


def placed(path: Path, place: str) -> Path:
    import rasterio

    crs, transform = PLACES[place]
    where = {"crs": crs, "transform": rasterio.Affine(*transform), "count": 3, "height": SIZE[0], "width": SIZE[1]}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **where) as file:
        file.write(np.random.default_rng(0).integers(40, 90, (3, *SIZE)).astype(np.uint8))
    return path


def square_metres(place: str) -> float:
    """Of one pixel; on the ellipsoid WGS 84 at 35.6 degrees north, by its radii of curvature."""
    if place == "metres":
        return 0.25
    latitude, step, e2 = np.deg2rad(35.6 - 30e-5), np.deg2rad(1e-5), 0.00669437999014
    across = 6378137 / np.sqrt(1 - e2 * np.sin(latitude) ** 2)
    along = across * (1 - e2) / (1 - e2 * np.sin(latitude) ** 2)
    return float(across * np.cos(latitude) * along * step**2)


@needs_geo
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_what_is_found_lies_on_the_map(tmp_path, task, place):
    import rasterio

    stub, out = Stub(task), tmp_path / "out"
    notes = predict(stub, {"tile": placed(tmp_path / "tile.tif", place)}, out, "geotiff")
    assert not [note for note in notes if "lose" in note]
    drawn = stub(np.zeros(0))
    with rasterio.open(out / "geotiff/masks/test/tile.tif") as file, rasterio.open(tmp_path / "tile.tif") as given:
        assert (file.transform, file.crs) == (given.transform, given.crs)
        numbers = file.read(1)
    if isinstance(drawn, SemanticMap):
        np.testing.assert_array_equal(numbers, drawn.labels)
    elif isinstance(drawn, Panoptic):
        np.testing.assert_array_equal(numbers, drawn.ids)
    else:
        np.testing.assert_array_equal(numbers > 0, drawn.masks.dense().any(axis=0))
    plain = json.loads((out / "geotiff/polygons/test/tile.geojson").read_text())
    rows = [feature["properties"] for feature in plain["features"]]
    assert {row["area_unit"] for row in rows} == {"square metre"}
    if task == "semantic":  # a feature is a connected region: two houses, and two parts of the tree
        expected = sorted(
            [("house", 400 - 5 * 5, 0.8), ("house", 875 - 70, 0.8), ("tree", 132, 0.8), ("tree", 48, 0.8)]
        )
    else:
        house = 400 if task == "instance" else 375
        expected = [("house", house, 0.9), ("house", 805, 0.75), ("tree", 180, 0.5)]
        expected = sorted(expected + [("grass", 60 * 80 - 375 - 805 - 180, 1.0)] * (task == "panoptic"))
    found = sorted((row["class"], round(row["area"] / square_metres(place), 1), row["score"]) for row in rows)
    for (name, area, score), (row, wanted, sure) in zip(found, expected, strict=True):
        assert (name, score) == (row, pytest.approx(sure, abs=1e-3))
        assert area == pytest.approx(wanted, rel=1e-4)
    for feature in plain["features"]:
        kinds = (
            {"MultiPolygon"}
            if feature["properties"]["class"] == "tree" and task != "semantic"
            else {"Polygon", "MultiPolygon"}
        )
        assert feature["geometry"]["type"] in kinds


@needs_geo
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_a_draft_on_the_map_is_read_again_as_it_was_predicted(tmp_path, task, place):
    stub, out = Stub(task), tmp_path / "out"
    predict(stub, {"tile": placed(tmp_path / "tile.tif", place)}, out, "geotiff")
    data = open_data(out / "geotiff")
    (record,) = data.records("test")
    target, drawn = data.read(record).target, stub(np.zeros(0))
    assert type(target) is type(drawn)
    assert target.space.names == stub.answers.names
    if isinstance(drawn, Instances):
        np.testing.assert_array_equal(target.masks.dense(), drawn.masks.dense())
        np.testing.assert_array_equal(target.labels, drawn.labels)
    elif isinstance(drawn, Panoptic):
        np.testing.assert_array_equal(target.ids, drawn.ids)
        assert dict(zip(target.segment_ids, target.labels, strict=True)) == dict(
            zip(drawn.segment_ids, drawn.labels, strict=True)
        )
        assert target.space.things == SCENE.things
    else:
        np.testing.assert_array_equal(target.labels, drawn.labels)
    result = check_data(out / "geotiff", workers=1)  # one split is wanted of a draft
    assert not result.harmful
    assert [finding.severity for finding in result.findings if finding.kind == "empty_split"] == ["note"]


@needs_medical
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_objects_in_volumes_are_their_classes_and_that_is_said(tmp_path, task):
    import nibabel

    values = np.random.default_rng(0).integers(0, 90, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 4, 1])), path)
    stub, out = Stub(task, channels=1), tmp_path / "out"
    notes = " ".join(predict(stub, {"scan": path}, out, "nifti"))
    assert "does not tell objects apart, which is left behind" in notes
    assert "Objects are not followed from slice to slice" in notes
    own, draft = (nibabel.load(file) for file in (out / "scan.nii.gz", out / "nifti/labelsTs/scan.nii.gz"))
    np.testing.assert_array_equal(np.asarray(own.dataobj), np.asarray(draft.dataobj))
    np.testing.assert_array_equal(own.affine, np.diag([-1, -1, 4, 1]))
    about = json.loads((out / "nifti/dataset.json").read_text())["labels"]
    houses = about["house"] == np.asarray(draft.dataobj)[..., 1].T  # this affine stores pictures as they are shown
    union = shapes()[0] | shapes()[1]
    np.testing.assert_array_equal(houses, union & ~shapes()[2])


MULTI = LabelSpace(("road", "tree"), exclusive=False)


@pytest.mark.parametrize(
    ("task", "space", "to", "words"),
    [
        ("semantic", MULTI, "voc", "'voc': Pascal VOC has one class per pixel"),
        ("semantic", MULTI, "ade20k", "one of at most 254 classes per pixel"),
        ("semantic", MULTI, "coco_panoptic", "'coco_panoptic': "),
        ("semantic", MAPS, "cityscapes", "19 classes of its own; background, house"),
        ("instance", THINGS, "cityscapes", "none of them"),
        ("semantic", None, "geojson", "by the format 'geotiff'"),
        ("semantic", None, "coko", "Did you mean 'coco'"),
        pytest.param("semantic", MULTI, "nifti", "one class per voxel", marks=needs_medical),
    ],
)
def test_a_format_that_does_not_suit_is_said_before_anything_is_computed(tmp_path, task, space, to, words):
    stub = Stub(task, space=space)
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as error:
        predict(stub, {"a": tmp_path / "a.png"}, tmp_path / "out", to)
    assert stub.asked == 0
    assert not (tmp_path / "out").exists()
    assert "/tmp" not in str(error.value).replace(str(tmp_path), "")
    assert "example" not in str(error.value)


@pytest.mark.parametrize(
    "to", ["coco", "coco_panoptic", "cvat", "labelme", "label_studio", "mask_folder", "voc", "yolo"]
)
@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_a_format_that_suits_is_not_refused(tmp_path, task, to):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8))
    stub = Stub(task)
    if to == "voc" and task == "panoptic":
        pytest.skip("its first class is no background")
    predict(stub, {"a": path}, tmp_path / "out", to)
    assert stub.asked == 1
    if to != "label_studio":  # predictions are drafts there, and no truth
        result = check_data(tmp_path / "out" / to, format=to, workers=1)
        assert not result.harmful, result.harmful


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8))
    return path


@pytest.mark.parametrize("where", ["out", "deep/er/out", "."])
@pytest.mark.parametrize(
    ("task", "space"), [("semantic", None), ("semantic", MULTI), ("instance", None), ("panoptic", None)]
)
def test_what_was_written_among_the_images_is_no_image(tmp_path, task, space, where):
    photos, stub = tmp_path / "photos", Stub(task, space=space)
    out = photos / where
    images = {"a": photo(photos / "a.jpg"), "sub/b": photo(photos / "sub/b.jpg")}
    predict(stub, images, out, "coco" if space else "labelme")
    assert [path for path in out.rglob("*.jpg") if "overlay" not in path.name and path not in images.values()]
    for again in (Wanted(out, overlay=False, to=None, source=Path("stub")), None):
        found = find_images([photos])
        assert dict(found.files) == images
        assert found.notes[0].startswith("Left out as results of predict: ")
        assert dict(find_images([photos / "sub"]).files) == {"b": images["sub/b"]}
        if again is not None:  # the pictures of the first call are still there, and no entry tells of them
            predict_files(stub, found.files, again)  # pyright: ignore[reportArgumentType]
            assert (out / "sub" / "b.overlay.jpg").is_file()


def test_what_a_call_that_ended_early_had_written_is_no_image(tmp_path):
    photos, stub = tmp_path / "photos", Stub("semantic")
    images = {"a": photo(photos / "a.jpg"), "b": photo(photos / "b.jpg")}
    predict_files(stub, images, Wanted(photos / "out", overlay=True, to=None, source=Path("stub")))  # pyright: ignore[reportArgumentType]
    images["b"].write_bytes(b"no image")
    for to in ("mask_folder", "yolo"):
        with pytest.raises(UserError):
            predict(stub, images, photos / "out", to)
        assert dict(find_images([photos]).files) == images
    photo(images["b"])
    predict_files(stub, images, Wanted(photos / "out", overlay=True, to=None, source=Path("stub")))  # pyright: ignore[reportArgumentType]
    entries = json.loads((photos / "out" / "predictions.json").read_text())["images"]
    assert [entry["labels"] for entry in entries] == [["a.png"], ["b.png"]]


@needs_medical
@pytest.mark.parametrize("ends", [False, True])
def test_what_was_written_of_volumes_is_no_volume(tmp_path, ends):
    import nibabel

    values = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    scans, stub = tmp_path / "scans", Stub("semantic", channels=2)
    scans.mkdir()
    for channel in range(2):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), scans / f"case_000{channel}.nii.gz")
    images = find_images([scans], channels=2).files
    assert list(images) == ["case"]
    if ends:
        predict(stub, dict(images), scans / "out", "nifti")
    else:
        stub.batch = lambda images: [stub(images[0])] if stub.asked < 2 else 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
        stub.settings = PredictSettings(batch_size=1)
        with pytest.raises(ZeroDivisionError):
            predict(stub, dict(images), scans / "out", "nifti")
    assert list((scans / "out" / "case.slices").iterdir())
    assert dict(find_images([scans], channels=2).files) == images
