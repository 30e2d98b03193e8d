"""Folders of images and masks: what is recognised, what is said of it, and what is refused with which sentence."""

import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.formats import open_data
from nuriwake.data.layout import holds_images, image_files
from nuriwake.data.trainable import check_trainable


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        array = array[..., 0] if array.shape[-1] == 1 else array
        planes = "contig" if array.ndim == 3 else None
        photometric = "rgb" if array.shape[-1] == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric, planarconfig=planes)
    else:
        cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


def image(size=(16, 20), channels=3, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, 255, (*size, channels)).astype(dtype)


def mask(*values: int, size=(16, 20), dtype=np.uint8):
    """All `values`, in turns."""
    return np.resize(np.array(values, dtype), size)


def folder(root: Path, masks: dict[str, np.ndarray], *, images="images/{}.png", where="masks/{}.png") -> Path:
    for name, array in masks.items():
        save(root / images.format(name), image(array.shape[:2]))
        save(root / where.format(name), array)
    return root


def labels(data, split="train", index=0):
    return data.read(data.splits[split][index]).target.labels


def test_binary_0_255_is_recognised_and_said(tmp_path):
    data = open_data(folder(tmp_path, {name: mask(0, 255) for name in "abcde"}))
    assert data.space.names == ("background", "foreground")
    assert data.space.binary
    assert any("0 and 255" in note and "not as ignore" in note for note in data.notes)
    np.testing.assert_array_equal(labels(data), mask(0, 1))
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 4, "val": 1}
    assert any("val_share 0.2" in note for note in data.notes)


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ((0, 1), ("background", "foreground"), (0, 1)),
        ((0, 1, 255), ("background", "foreground"), (0, 1, 255)),
        ((0, 1, 2, 255), ("class_0", "class_1", "class_2"), (0, 1, 2, 255)),
        ((0, 128, 255), ("value_0", "value_128", "value_255"), (0, 1, 2)),
        ((0, 60, 120, 180), ("value_0", "value_60", "value_120", "value_180"), (0, 1, 2, 3)),
    ],
)
def test_values_without_a_class_list(tmp_path, values, names, expected):
    data = open_data(folder(tmp_path, {name: mask(*values) for name in "abc"}))
    assert data.space.names == names
    np.testing.assert_array_equal(labels(data), mask(*expected))
    assert len(data.notes) >= 2


def test_sixteen_bit_ids_are_foreground(tmp_path):
    folder(tmp_path, {"a": mask(0, 1, 2, 700, dtype=np.uint16), "b": mask(0, 1, 2, 3, dtype=np.uint16)})
    data = open_data(tmp_path)
    assert (data.space.names, data.space.things) == (("foreground",), (True,))
    assert any("instance ids (up to 700" in note for note in data.notes)
    seen = [semantic_view(data.read_target(record)) for part in data.splits.values() for record in part]
    assert seen[0].space.names == ("background", "foreground")
    np.testing.assert_array_equal(seen[0].labels, mask(0, 1, 1, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instance_ids_as_described(tmp_path, dtype):
    folder(tmp_path, {name: mask(0, 1, 2, 9, dtype=dtype) for name in "ab"})
    (tmp_path / "data.yaml").write_text("classes: [cell]\ninstance_ids: true\n")
    data = open_data(tmp_path / "data.yaml")
    assert data.read_target(data.splits["train"][0]).ids.tolist() == [1, 2, 9]
    (tmp_path / "data.yaml").write_text("classes: [a, b, c]\ninstance_ids: true\n")
    with pytest.raises(UserError, match="grey PNG or TIFF with one class"):
        open_data(tmp_path / "data.yaml")


def test_classes_json_with_ignore(tmp_path):
    folder(tmp_path, {name: mask(0, 1, 2, 9) for name in "ab"})
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["sky", "road", "tree"], "ignore_index": 9}))
    data = open_data(tmp_path)
    assert data.space.names == ("sky", "road", "tree")
    np.testing.assert_array_equal(labels(data), mask(0, 1, 2, 255))


@pytest.mark.parametrize("name", ["classes.txt", "class_names.txt", "labels.txt"])
def test_class_names_from_text(tmp_path, name):
    folder(tmp_path, {each: mask(0, 255) for each in "ab"})
    (tmp_path / name).write_text("背景\n核\n", encoding="utf-8")
    data = open_data(tmp_path)
    assert data.space.names == ("背景", "核")
    assert data.space.has_background
    np.testing.assert_array_equal(labels(data), mask(0, 1))


RED_GREEN = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def test_rgb_masks_need_their_colours(tmp_path):
    folder(tmp_path, {name: RED_GREEN[mask(0, 1, 2)] for name in "ab"})
    with pytest.raises(UserError, match=r"RGB-coded with 3 colours.*\[255, 0, 0\].*classes\.json"):
        open_data(tmp_path)
    colours = {"red": [255, 0, 0], "green": [0, 255, 0]}
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["red", "green"], "colours": colours}))
    with pytest.raises(UserError, match=r"1 colours.*no class: \[0, 0, 0\].*ignore"):
        open_data(tmp_path)
    colours["ignore"] = [0, 0, 0]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["red", "green"], "colours": colours}))
    data = open_data(tmp_path)
    assert data.space.colours == ((255, 0, 0), (0, 255, 0))
    np.testing.assert_array_equal(labels(data), mask(255, 0, 1))
    save(tmp_path / "masks" / "a.png", np.full((16, 20, 3), 77, np.uint8))
    with pytest.raises(UserError, match=r"a\.png.*\(77, 77, 77\)"):
        data.read_target(next(r for part in data.splits.values() for r in part if r.name == "a"))


def test_class_dict_csv(tmp_path):
    folder(tmp_path, {name: RED_GREEN[mask(0, 1, 2)] for name in "ab"})
    (tmp_path / "class_dict.csv").write_text("name, r, g, b\nnone,0,0,0\nred,255,0,0\ngreen,0,255,0\n")
    data = open_data(tmp_path)
    assert data.space.names == ("none", "red", "green")
    np.testing.assert_array_equal(labels(data), mask(0, 1, 2))


def test_grey_stored_as_rgb(tmp_path):
    data = open_data(folder(tmp_path, {name: np.dstack([mask(0, 255)] * 3) for name in "ab"}))
    assert any("stored as RGB" in note for note in data.notes)
    np.testing.assert_array_equal(labels(data), mask(0, 1))


def test_black_and_white_jpeg_masks(tmp_path):
    square = np.zeros((64, 64), np.uint8)
    square[16:48, 16:48] = 255
    data = open_data(folder(tmp_path, dict.fromkeys("ab", square), where="masks/{}.jpg"))
    assert any("JPEG" in note for note in data.notes)
    np.testing.assert_array_equal(labels(data), square // 255)


def test_grey_jpeg_masks_are_refused(tmp_path):
    folder(tmp_path, {name: mask(0, 1, 2, 3, 120) for name in "ab"}, where="masks/{}.jpg")
    with pytest.raises(UserError, match="JPEG, which changes values"):
        open_data(tmp_path)


@pytest.mark.parametrize("described", [False, True])
def test_jpeg_masks_with_colours_are_no_black_and_white(tmp_path, described):
    coloured = np.zeros((96, 96, 3), np.uint8)
    coloured[16:48, 16:48] = (255, 0, 0)
    coloured[60:80, 60:80] = (0, 255, 0)
    folder(tmp_path, {"a": coloured * 0, "b": coloured}, where="masks/{}.jpg")
    (tmp_path / "data.yaml").write_text("threshold: 128\n")
    with pytest.raises(UserError, match=r"b\.jpg: the mask is a JPEG with colours \(in 1\d\.\d% of its pixels.*as PNG"):
        open_data(tmp_path / "data.yaml" if described else tmp_path)


def test_a_jpeg_mask_with_colours_that_was_not_looked_at_is_refused_when_read(tmp_path):
    square = np.zeros((64, 64), np.uint8)
    square[16:48, 16:48] = 255
    data = open_data(folder(tmp_path, dict.fromkeys("ab", square), where="masks/{}.jpg"))
    save(data.splits["train"][0].target, np.dstack([square, square * 0, square * 0]))
    with pytest.raises(UserError, match="the mask has colours"):
        labels(data)


def test_black_and_white_jpeg_of_three_channels_with_chroma_noise(tmp_path):
    square = np.zeros((64, 64), np.uint8)
    square[16:48, 16:48] = 255
    noise = np.random.default_rng(0).integers(-9, 10, (64, 64, 3))
    picture = np.clip(square[..., None] + noise, 0, 255).astype(np.uint8)
    data = open_data(folder(tmp_path, {"a": square, "b": picture, "c": picture}, where="masks/{}.jpg"))
    np.testing.assert_array_equal(labels(data), square // 255)


def disc(value: int = 255, *, size=(160, 160), seed=0) -> np.ndarray:
    x, y, radius = np.random.default_rng(seed).integers(60, 100, 3)
    return cv2.circle(np.zeros(size, np.uint8), (int(x), int(y)), int(radius) // 2, value, -1)


def resized(mask: np.ndarray) -> np.ndarray:
    """By bilinear interpolation, which spoils a mask."""
    return cv2.resize(mask, (129, 123), interpolation=cv2.INTER_LINEAR)


def through_jpeg(mask: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("spoil", [resized, through_jpeg, lambda mask: cv2.GaussianBlur(mask, (5, 5), 1)])
@pytest.mark.parametrize("names", [None, ["background", "cell"]])
def test_smoothed_masks_of_0_and_255_are_thresholded_and_said(tmp_path, spoil, names):
    masks = {f"{i}": spoil(disc(seed=i)) for i in range(5)}
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))) > 20
    if names:
        tmp_path.joinpath("classes.json").write_text(json.dumps(names))
    data = open_data(folder(tmp_path, {**masks, "empty": np.zeros_like(masks["0"])}))
    assert data.space.names == tuple(names or ("background", "foreground"))
    assert any("along edges" in note and "background (below 128)" in note for note in data.notes)
    for record in [record for part in data.splits.values() for record in part if record.name != "empty"]:
        np.testing.assert_array_equal(data.read(record).target.labels, masks[record.name] >= 128)


def test_masks_that_are_mostly_smoothed_edges_are_refused(tmp_path):
    folder(tmp_path, {f"{i}": cv2.GaussianBlur(disc(seed=i), (0, 0), 6) for i in range(4)})
    with pytest.raises(UserError, match=r"\d+ values; \d\d\.\d% of their pixels are near 0 or 255.*'threshold: 128'"):
        open_data(tmp_path)
    (tmp_path / "data.yaml").write_text("threshold: 128\n")
    assert open_data(tmp_path / "data.yaml").space.names == ("background", "foreground")


def many_classes(rng: np.random.Generator) -> np.ndarray:
    """150 classes as ADE20K's are, with a rim of 255 around each field."""
    fields = rng.integers(0, 151, (8, 8)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
    fields[::20] = fields[:, ::20] = 255
    return fields


def rare_classes(rng: np.random.Generator) -> np.ndarray:
    """Large fields of the classes 0 to 9 with rims of 255, and specks of many others: 98 % of the pixels are near the ends."""
    out = rng.integers(0, 10, (4, 4)).astype(np.uint8).repeat(40, 0).repeat(40, 1)
    out[::40] = out[:, ::40] = 255
    for x, y in rng.integers(0, 156, (30, 2)):
        out[y : y + 4, x : x + 3] = rng.integers(20, 230)
    return out


def numbered_objects(rng: np.random.Generator) -> np.ndarray:
    """Objects of 4 x 3 pixels with the numbers 1 to 255 on much background: 97 % are near the ends, as 0 is."""
    out = np.zeros((320, 320), np.uint8)
    for number, place in enumerate(rng.permutation(400)[:255], start=1):
        y, x = divmod(int(place), 20)
        out[y * 16 : y * 16 + 4, x * 16 : x * 16 + 3] = number
    return out


def coded_beside_smoothed(rng: np.random.Generator) -> np.ndarray:
    """Now a mask of 0 and 1, now a smoothed one of 0 and 255: a threshold would take the ones away."""
    return disc(1) if rng.integers(2) else cv2.GaussianBlur(disc(), (5, 5), 1)


@pytest.mark.parametrize("draw", [many_classes, rare_classes, numbered_objects, coded_beside_smoothed])
def test_maps_of_many_values_are_not_taken_for_smoothed(tmp_path, draw):
    rng = np.random.default_rng(3)
    masks = {f"{i}": draw(rng) for i in range(8)}
    values = sorted({value for mask in masks.values() for value in np.unique(mask).tolist()})
    assert len(values) > 20
    assert draw is many_classes or np.mean([(mask <= 16) | (mask >= 239) for mask in masks.values()]) >= 0.97
    data = open_data(folder(tmp_path, masks))
    assert len(data.space) > 20
    assert not any("along edges" in note for note in data.notes)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("imgs/{}.jpg", "labels/{}_mask.png"),
        ("Images/{}_sat.jpg", "Masks/{}_mask.png"),
        ("images/deep/{}.png", "annotations/deep/{}_L.png"),
        ("image/{}.tif", "label/{}.tif"),
        ("images/image_{}.png", "masks/mask_{}.png"),
    ],
)
def test_names_and_folders_that_match(tmp_path, images, masks):
    data = open_data(folder(tmp_path, {f"x{i}": mask(0, 1) for i in range(4)}, images=images, where=masks))
    assert sum(map(len, data.splits.values())) == 4
    for record in data.splits["train"]:
        assert data.read(record).name == record.name


@pytest.mark.parametrize("nesting", ["{kind}/{split}/", "{split}/{kind}/"])
def test_splits_in_either_nesting(tmp_path, nesting):
    for split, names in (("training", "abc"), ("valid", "ab")):
        paths = [nesting.format(kind=kind, split=split) + "{}.png" for kind in ("images", "masks")]
        folder(tmp_path, {name: mask(0, 1) for name in names}, images=paths[0], where=paths[1])
    data = open_data(tmp_path)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 3, "val": 2}
    assert [record.name for record in data.splits["val"]] == ["val/a", "val/b"]
    with pytest.raises(UserError, match=r"no split 'validate'.*train \(3\), val \(2\)"):
        data.records("validate")


def test_train_alone_is_split_and_test_without_masks_is_said(tmp_path):
    folder(tmp_path, {f"{i}": mask(0, 1) for i in range(10)}, images="images/train/{}.png", where="masks/train/{}.png")
    save(tmp_path / "images/test/t.png", image())
    save(tmp_path / "images/loose.png", image())
    data = open_data(tmp_path, val_share=0.3)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 7, "val": 3}
    text = " ".join(data.notes)
    assert "'test' has no masks" in text
    assert "no val beside it" in text
    assert "images/loose.png" in text


@pytest.mark.parametrize("value", [255, 1])
def test_multi_label_layout(tmp_path, value):
    for name in "abc":
        save(tmp_path / "images" / f"{name}.png", image())
        save(tmp_path / "masks" / "tree" / f"{name}.png", mask(0, value))
    save(tmp_path / "masks" / "house" / "a.png", mask(value, value, 0))
    data = open_data(tmp_path)
    assert data.space.names == ("house", "tree")
    assert not data.space.exclusive
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    sample = data.read(record).target.labels
    np.testing.assert_array_equal(sample[..., 0], mask(1, 1, 0))
    np.testing.assert_array_equal(sample[..., 1], mask(0, 1))
    assert any("2 of 6 masks do not exist" in note for note in data.notes)


def test_written_layers_are_read_back(tmp_path):
    folder(tmp_path, {"a": mask(0, 1), "b": mask(0, 1)}, where="other/{}.png")
    layers = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (16, 20, 2))
    space = open_multi(tmp_path, layers)
    np.testing.assert_array_equal(labels(space), layers)


def open_multi(root, layers):
    from nuriwake.core.labels import LabelSpace

    for name in "ab":
        SemanticMap(layers, LabelSpace(("x", "y"), exclusive=False)).save(root / "masks" / f"{name}.png")
    return open_data(root)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (1, np.uint16), (6, np.uint16), (2, np.float32)])
def test_other_images_than_rgb(tmp_path, channels, dtype):
    for name in "ab":
        save(tmp_path / "images" / f"{name}.tif", image(channels=channels, dtype=dtype))
        save(tmp_path / "masks" / f"{name}.png", mask(0, 1))
    data = open_data(tmp_path)
    assert (data.channels, data.dtype) == (channels, np.dtype(dtype).name)
    np.testing.assert_array_equal(data.read(data.splits["train"][0]).image, image(channels=channels, dtype=dtype))


def test_grey_among_rgb_is_repeated_and_said(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "abc"})
    save(tmp_path / "images" / "a.png", image(channels=1)[..., 0])
    data = open_data(tmp_path)
    assert data.channels == 3
    assert any("1 of 3 images is grey" in note for note in data.notes)
    assert all(data.read(r).image.shape[2] == 3 for part in data.splits.values() for r in part)


def test_images_that_do_not_go_together(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "abc"})
    save(tmp_path / "images" / "b.png", image(dtype=np.uint16))
    with pytest.raises(
        UserError, match=r"same channels and type.*2 of 3 channels uint8; 1 of 3 channels uint16.*b\.png"
    ):
        open_data(tmp_path)


def test_mask_of_another_size(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "abc"})
    save(tmp_path / "masks" / "b.png", mask(0, 1, size=(20, 16)))
    with pytest.raises(UserError, match=r"1 masks have another size.*b\.png is 20x16 but b\.png is 16x20"):
        open_data(tmp_path)
    save(tmp_path / "masks" / "b.png", mask(0, 1))
    data = open_data(tmp_path)
    save(tmp_path / "masks" / "b.png", mask(0, 1, size=(20, 16)))
    record = next(r for part in data.splits.values() for r in part if r.name == "b")
    with pytest.raises(UserError, match=r"b\.png: the mask is 20x16.*image is 16x20"):
        data.read(record)


def test_values_beyond_the_classes(tmp_path):
    folder(tmp_path, {"a": mask(0, 1), "b": mask(0, 1, 7, 9)})
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(
        UserError, match=r"beyond the 3 classes of classes\.txt \(values 0\.\.2\): 7, 9, such as in .*b\.png"
    ):
        open_data(tmp_path)
    save(tmp_path / "masks" / "b.png", mask(0, 1))
    data = open_data(tmp_path)
    save(tmp_path / "masks" / "a.png", mask(0, 5))
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=r"a\.png: mask values beyond the classes: expected 0\.\.2, 255, found 5"):
        data.read(record)


def test_hints_for_the_usual_mistakes(tmp_path):
    folder(tmp_path / "shifted", {"a": mask(1, 2, 3), "b": mask(1, 2)})
    (tmp_path / "shifted" / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match="shifted by one"):
        open_data(tmp_path / "shifted")
    for name, values in (("one", (0, 1)), ("full", (0, 255))):
        folder(tmp_path / name, {"a": mask(*values), "b": mask(*values)})
        (tmp_path / name / "classes.txt").write_text("crack\n")
        with pytest.raises(UserError, match="background class missing"):
            open_data(tmp_path / name)
    folder(tmp_path / "ids", {name: mask(0, 1, 2, 900, dtype=np.uint16) for name in "ab"})
    (tmp_path / "ids" / "classes.txt").write_text("background\nnucleus\n")
    data = open_data(tmp_path / "ids")
    assert (data.space.names, data.space.things) == (("nucleus",), (True,))
    (tmp_path / "ids" / "classes.txt").write_text("background\nnucleus\ndebris\n")
    with pytest.raises(UserError, match="instance_ids: true"):
        open_data(tmp_path / "ids")
    (tmp_path / "ids" / "classes.txt").write_text("background\nnucleus\n")
    (tmp_path / "ids" / "data.yaml").write_text("threshold: 1\n")
    data = open_data(tmp_path / "ids" / "data.yaml")
    assert data.space.names == ("background", "nucleus")
    np.testing.assert_array_equal(labels(data), mask(0, 1, 1, 1))


def test_unpaired_files_are_listed(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "ab"})
    for number in range(12):
        save(tmp_path / "images" / f"lone{number:02}.png", image())
    save(tmp_path / "masks" / "orphan.png", mask(0, 1))
    with pytest.raises(UserError) as caught:
        open_data(tmp_path)
    text = str(caught.value)
    assert "12 images have no mask: lone00" in text
    assert "lone09 and 2 more" in text
    assert "1 mask has no image: orphan" in text
    (tmp_path / "data.yaml").write_text("unpaired: skip\n")
    data = open_data(tmp_path / "data.yaml")
    assert sum(map(len, data.splits.values())) == 2
    assert any("12 images have no mask and are left out" in note for note in data.notes)


@pytest.mark.parametrize(("of_images", "of_masks"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_composed_and_decomposed_names_are_one(tmp_path, of_images, of_masks):
    for number in range(4):
        save(tmp_path / "images" / unicodedata.normalize(of_images, f"町/ガーデン{number}.png"), image())
        save(tmp_path / "masks" / unicodedata.normalize(of_masks, f"町/ガーデン{number}_マスクが.png"), mask(0, 1))
    (tmp_path / "data.yaml").write_text(unicodedata.normalize(of_images, "mask_suffix: _マスクが"), encoding="utf-8")
    data = open_data(tmp_path / "data.yaml")
    records = [record for part in data.splits.values() for record in part]
    assert sorted(record.name for record in records) == [f"町/ガーデン{number}" for number in range(4)]
    for record in records:
        assert record.image.name == unicodedata.normalize(of_images, record.image.name)
        assert data.read(record).target is not None


def test_folders_of_classes_may_be_decomposed(tmp_path):
    for name in "ab":
        save(tmp_path / "images" / f"{name}.png", image())
        save(tmp_path / "masks" / unicodedata.normalize("NFD", "ガ") / f"{name}.png", mask(0, 1))
    (tmp_path / "classes.json").write_text(json.dumps(["ガ"]))
    assert labels(open_data(tmp_path)).any()


def test_linked_folders_are_followed_but_not_into_themselves(tmp_path):
    folder(tmp_path / "elsewhere", {name: mask(0, 1) for name in "ab"})
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        (root / kind / "site").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "elsewhere" / kind / "back").symlink_to(root / kind)
    data = open_data(root)
    assert data.format == "mask_folder"
    assert sorted(record.name for part in data.splits.values() for record in part) == ["site/a", "site/b"]
    (root / "images" / "self").symlink_to(".")
    (root / "images" / "up").symlink_to("..")
    assert set(image_files(root / "images")) == {"site/a", "site/b"}


def test_one_folder_under_two_links_is_two(tmp_path):
    folder(tmp_path / "elsewhere", {"a": mask(0, 1)})
    for rater in ("one", "two"):
        save(tmp_path / "data" / "masks" / rater / "a.png", mask(0, 1))
        (tmp_path / "data" / "images").mkdir(exist_ok=True)
        (tmp_path / "data" / "images" / rater).symlink_to(tmp_path / "elsewhere" / "images")
    data = open_data(tmp_path / "data")
    assert sorted(record.name for part in data.splits.values() for record in part) == ["one/a", "two/a"]


def test_hidden_images_are_none(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in ("._a", ".b")})
    (tmp_path / "images" / "c.png").mkdir()
    assert image_files(tmp_path / "images") == {}
    assert not holds_images(tmp_path / "images")
    save(tmp_path / "images" / "c.png" / "d.png", image())
    assert holds_images(tmp_path / "images")


def test_truncated_image_is_named(tmp_path):
    folder(tmp_path, {name: mask(0, 1, size=(64, 64)) for name in "ab"}, images="images/{}.jpg")
    path = tmp_path / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    data = open_data(tmp_path)
    record = next(r for part in data.splits.values() for r in part if r.name == "a")
    with pytest.raises(UserError, match=r"a\.jpg.*truncated"):
        data.read(record)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_that_is_no_image(tmp_path, kind):
    folder(tmp_path, {name: mask(0, 1) for name in "ab"})
    (tmp_path / kind / "a.png").write_text("no image at all")
    with pytest.raises(UserError, match=rf"{kind}/a\.png: this is no image"):
        open_data(tmp_path)


def test_empty_folders(tmp_path):
    with pytest.raises(UserError, match="the folder is empty; expected images/ and masks/"):
        open_data(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="no format fits"):
        open_data(tmp_path)
    with pytest.raises(UserError, match="holds no image"):
        open_data(tmp_path, format="mask_folder")
    with pytest.raises(UserError, match="no such folder"):
        open_data(tmp_path / "absent")


def test_one_class_opens_but_is_not_trainable(tmp_path):
    data = open_data(folder(tmp_path, {name: mask(0) for name in "abc"}))
    assert any("one class only" in note for note in data.notes)
    with pytest.raises(UserError, match="one class only"):
        check_trainable(data)
    fine = open_data(folder(tmp_path / "fine", {name: mask(0, 1) for name in "abc"}))
    check_trainable(fine)
    with pytest.raises(UserError, match="'val' is empty"):
        check_trainable(fine.with_splits({"train": fine.splits["train"], "val": ()}))
    with pytest.raises(UserError, match="'val' is empty; training needs two images at least"):
        check_trainable(open_data(folder(tmp_path / "single", {"a": mask(0, 1)})))


@pytest.mark.parametrize("value", [0, 1])
def test_masks_of_one_class_are_not_trainable_whatever_the_class_list_says(tmp_path, value):
    folder(tmp_path, {f"{i:02}": mask(value) for i in range(40)})
    (tmp_path / "classes.json").write_text(json.dumps(["background", "cell"]))
    with pytest.raises(
        UserError, match=rf"32 masks of the split 'train' show one class only \('{['background', 'cell'][value]}'\)"
    ):
        check_trainable(open_data(tmp_path, val_share=0.2))
    train = open_data(tmp_path, val_share=0.2).splits["train"]
    save(train[1].target, mask(0, 1))  # not among those that are looked at first
    check_trainable(open_data(tmp_path, val_share=0.2))


def test_a_float_image_with_holes_is_refused(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "ab"})
    for name, value in (("a", 1.0), ("b", np.nan)):
        (tmp_path / "images" / f"{name}.png").unlink()
        picture = np.ones((*mask(0, 1).shape, 1), np.float32)
        picture[3, 4] = value
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", picture[..., 0])
    data = open_data(tmp_path, val_share=0.5)
    records = {record.name: record for part in data.splits.values() for record in part}
    data.read(records["a"])
    with pytest.raises(UserError, match=r"b\.tif: 1 of \d+ values are not finite"):
        data.read(records["b"])


def test_two_images_of_one_name(tmp_path):
    folder(tmp_path, {name: mask(0, 1) for name in "ab"})
    save(tmp_path / "images" / "a.jpg", image())
    with pytest.raises(UserError, match=r"a\.png: there is also a\.jpg"):
        open_data(tmp_path)


def test_more_values_than_labels(tmp_path):
    folder(tmp_path, {name: np.arange(256, dtype=np.uint8).reshape(16, 16) for name in "ab"})
    data = open_data(tmp_path)  # 0..254 are classes, 255 is ignored
    assert len(data.space) == 255
    (tmp_path / "classes.json").write_text(json.dumps([f"c{i}" for i in range(256)]))
    with pytest.raises(UserError, match="at most 255 classes"):
        open_data(tmp_path)


def test_exif_orientation_and_its_mask(tmp_path):
    for name in "ab":
        picture = Image.fromarray(image((16, 20)))
        exif = picture.getexif()
        exif[274] = 6
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / "images" / f"{name}.jpg", exif=exif)
        save(tmp_path / "masks" / f"{name}.png", mask(0, 1, size=(20, 16)))
    data = open_data(tmp_path)
    assert data.read(data.splits["train"][0]).size == (20, 16)
    assert any("2 images carry an EXIF orientation" in note for note in data.notes)


def test_masks_of_different_kinds_are_refused(tmp_path):
    folder(tmp_path, {"a": RED_GREEN[mask(0, 1, 2)], "b": mask(0, 1)})
    with pytest.raises(UserError, match=r"a\.png codes classes by colour but .*b\.png by grey value"):
        open_data(tmp_path)
    photograph = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    save(tmp_path / "images" / "a.png", photograph)
    save(tmp_path / "masks" / "a.png", photograph)
    with pytest.raises(UserError, match=r"a\.png: the mask has \d+ colours.*photograph"):
        open_data(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    save(tmp_path / "masks" / "a.jpg", mask(0, 255, size=(80, 80)))
    with pytest.raises(UserError, match=r"a\.jpg is a JPEG but .*b\.png is not"):
        open_data(tmp_path)


def test_larger_folders_are_looked_at_in_part_and_checked_when_read(tmp_path, monkeypatch):
    folder(tmp_path, {f"{i}": mask(0, 1) for i in range(9)})
    save(tmp_path / "masks" / "4.png", mask(0, 1, 6))
    monkeypatch.setattr("nuriwake.data.observing.MOST_MASKS", 2)
    monkeypatch.setattr("nuriwake.data.assembly.MOST_HEADERS", 2)
    data = open_data(tmp_path)
    text = " ".join(data.notes)
    assert "2 of 9 masks were looked at" in text
    assert "2 of 9 images were looked at" in text
    record = next(r for part in data.splits.values() for r in part if r.name == "4")
    with pytest.raises(UserError, match=r"4\.png: mask values beyond the classes.*found 6"):
        data.read(record)
