"""The detector, YAML descriptions, Pascal VOC, and the real folders."""

import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.labels import palette
from nuriwake.core.views import semantic_view
from nuriwake.data.formats import FORMATS, open_data
from nuriwake.data.voc import VOC_CLASSES


def make(folder, names, *, value=1):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.full((8, 9), value, np.uint8) * (np.arange(9, dtype=np.uint8) % 2))


@pytest.fixture
def plain(tmp_path):
    """Ten images a0..a9 in pictures/ with masks of the values 0 and 7 in truth/."""
    names = [f"a{i}.png" for i in range(10)]
    make(tmp_path / "pictures", names, value=100)
    make(tmp_path / "truth", names, value=7)
    return tmp_path


def describe(root, text):
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return open_data(root / "data.yaml")


WHERE = "images: pictures\nmasks: truth\n"


def test_yaml_names_folders_and_values(plain):
    data = describe(plain, WHERE + "values: {0: other, 7: cell}\nthings: [cell]\nspacing: [0.5, 0.25]\n")
    assert data.space.names == ("other", "cell")
    assert data.space.things == (False, True)
    sample = data.read(data.splits["train"][0])
    assert set(np.unique(sample.target.labels)) == {0, 1}
    assert sample.spacing == (0.5, 0.25)


def test_yaml_ignore(plain):
    data = describe(plain, WHERE + "classes: [a, b]\nignore: 7\n")
    assert set(np.unique(data.read(data.splits["val"][0]).target.labels)) == {0, 255}
    data = describe(plain, WHERE + "values: {0: a, 1: b, 7: ignore}\n")
    assert data.space.names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: [a]", r"data\.yaml: There is no field 'clases'\. Did you mean 'classes'"),
        ("classes: 3", "classes: expected a list"),
        ("unpaired: no idea", "unpaired"),
        ("values: {x: a}", "whole numbers"),
        ("values: {0: a, 7: b, 9: c}\nclasses: [a, bee, c]", "no class 'b'"),
        ("root: [", "YAML"),
        ("format: voc", "Pascal VOC has JPEGImages"),
        ("format: vocc", "no format named 'vocc'. Did you mean 'voc'"),
        ("root: nowhere", "no such folder"),
        ("splits: {train: [a0, zz]}", "splits.train: there is no image 'zz'"),
        ("splits: {train: [a0, a1], val: [a1]}", "'a1' is in 'train' and in 'val'"),
        ("splits: {train: list.txt}", "there is no file"),
        ("val_share: 1.5", r"val_share lies in 0\.\.1"),
        ("things: [x]", "no class 'x'"),
    ],
)
def test_yaml_mistakes(plain, text, message):
    with pytest.raises(UserError, match=message):
        describe(plain, WHERE + text)


def test_yaml_splits(plain):
    (plain / "val.txt").write_text("pictures/a1.png\na2.png\na3\n".replace("pictures/", ""))
    data = describe(plain, WHERE + "splits: {train: ['a[5-9]', a0.png], val: val.txt}\n")
    assert [record.name for record in data.splits["train"]] == ["a0", "a5", "a6", "a7", "a8", "a9"]
    assert [record.name for record in data.splits["val"]] == ["a1", "a2", "a3"]
    assert any("1 image is in none" in note for note in data.notes)


@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_listed_names_may_be_composed_or_not(tmp_path, on_disk, listed):
    names = [unicodedata.normalize(on_disk, f"ガ{i}.png") for i in range(4)]
    make(tmp_path / "images", names)
    make(tmp_path / "masks", names)
    (tmp_path / "val.txt").write_text(unicodedata.normalize(listed, "ガ0\nガ1.png\n"), encoding="utf-8")
    data = describe(tmp_path, unicodedata.normalize(listed, "splits: {train: ['ガ[23]'], val: val.txt}"))
    found = {split: [record.name for record in part] for split, part in data.splits.items()}
    assert found == {"train": ["ガ2", "ガ3"], "val": ["ガ0", "ガ1"]}


def test_a_file_that_is_no_description(plain):
    with pytest.raises(UserError, match="a folder, a YAML file"):
        open_data(plain / "truth" / "a0.png")


def test_the_root_of_a_description_may_begin_at_home(tmp_path, monkeypatch):
    for name in ("photos", "elsewhere"):
        (tmp_path / name).mkdir()
    voc(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert describe(tmp_path / "elsewhere", "root: ~/photos").format == "voc"
    (tmp_path / "elsewhere" / "data.yaml").write_bytes("classes: [建物]".encode("utf-16"))
    with pytest.raises(UserError, match=r"data\.yaml: this is no UTF-8 text .* save it as UTF-8"):
        open_data(tmp_path / "elsewhere" / "data.yaml")


def voc(root, *, rgb=False):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    labels = np.resize(np.array([0, 15, 20, 255], np.uint8), (8, 10))
    for name in ("x", "y", "z"):
        Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(labels)
        mask.putpalette([v for colour in palette(255) for v in colour] + [224, 224, 192])
        (mask.convert("RGB") if rgb else mask).save(root / "SegmentationClass" / f"{name}.png")
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(root / "JPEGImages" / "unlabelled.jpg")
    return labels


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("nested", ["", "VOCdevkit/VOC2012"])
def test_voc(tmp_path, rgb, nested):
    labels = voc(tmp_path / nested, rgb=rgb)
    data = open_data(tmp_path)
    assert data.format == "voc"
    assert data.space.names == VOC_CLASSES
    assert any("1 image of JPEGImages/ has no mask and is left out" in note for note in data.notes)
    np.testing.assert_array_equal(data.read(data.splits["train"][0]).target.labels, labels)


def test_voc_image_sets(tmp_path):
    voc(tmp_path)
    sets = tmp_path / "ImageSets" / "Segmentation"
    (sets / "train.txt").write_text("x\ny\n")
    (sets / "val.txt").write_text("z\n")
    (sets / "trainval.txt").write_text("x\ny\nz\n")
    data = open_data(tmp_path)
    assert {name: [r.name for r in part] for name, part in data.splits.items()} == {"train": ["x", "y"], "val": ["z"]}
    (sets / "val.txt").write_text("nothere\n")
    with pytest.raises(UserError, match=r"val\.txt: 1 names have no mask.*nothere"):
        open_data(tmp_path)


@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_voc_image_sets_may_be_composed_or_not(tmp_path, on_disk, listed):
    voc(tmp_path)
    for path in (*tmp_path.glob("JPEGImages/[xyz].jpg"), *tmp_path.glob("SegmentationClass/*.png")):
        path.rename(path.with_name(unicodedata.normalize(on_disk, f"ガ{path.name}")))
    sets = tmp_path / "ImageSets" / "Segmentation"
    (sets / "train.txt").write_text(unicodedata.normalize(listed, "ガx\nガy\n"), encoding="utf-8")
    (sets / "val.txt").write_text(unicodedata.normalize(listed, "ガz\n"), encoding="utf-8")
    assert {name: len(part) for name, part in open_data(tmp_path).splits.items()} == {"train": 2, "val": 1}


def test_two_formats_fit(tmp_path):
    voc(tmp_path)
    make(tmp_path / "images", ["a.png", "b.png"])
    make(tmp_path / "masks", ["a.png", "b.png"])
    with pytest.raises(
        UserError, match=r"more than one format fits: 'mask_folder' because .*'voc' because .*format=NAME"
    ):
        open_data(tmp_path)
    assert open_data(tmp_path, format="voc").format == "voc"
    assert open_data(tmp_path, format="mask_folder").format == "mask_folder"
    assert set(FORMATS) >= {"mask_folder", "voc"}


@pytest.mark.parametrize(
    ("folder", "kind", "classes", "counts", "channels"),
    [
        ("camvid", "mask_folder", 11, {"train": 367, "val": 101}, 3),
        ("nuclei", "mask_folder", 1, {"train": 430, "val": 108}, 3),
        ("isbi2012", "mask_folder", 2, {"train": 24, "val": 6}, 1),
        ("formats/voc", "voc", 21, {"train": 2, "val": 1}, 3),
    ],
)
def test_real_folders_open_without_code(shared, folder, kind, classes, counts, channels):
    data = open_data(shared / "data" / folder)
    assert data.format == kind
    assert len(data.space) == classes
    assert {name: len(part) for name, part in data.splits.items()} == counts
    assert (data.channels, data.dtype) == (channels, "uint8")
    for part in data.splits.values():
        sample = data.read(part[0])
        assert sample.target is not None
        assert len(np.unique(semantic_view(sample.target).labels)) > 1


@pytest.mark.parametrize("folder", ["formats/coco_results"])
def test_other_folders_say_that_no_format_fits(shared, folder):
    with pytest.raises(UserError, match="no format fits"):
        open_data(shared / "data" / folder)
