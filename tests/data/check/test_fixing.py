"""--fix: what needs no guess is corrected, what does is said, and every other file is the same to the last byte."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.data.check import check_data
from nuriwake.data.check.fixing import write_fixed
from nuriwake.data.check.upright import without_orientation
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_image, read_mask

SIZE = (48, 64)
NAMES = ["background", "disc", "square"]


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def labels(seed: int) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    out[10 + seed : 26 + seed, 8:28] = 2
    cv2.circle(out, (44, 15 + seed), 9, 1, -1)
    return out


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images of train and one of val; nothing is wrong with them."""
    root = tmp_path / "data"
    for number in range(5):
        split = "val" if number == 4 else "train"
        write(root / "images" / split / f"s{number}.png", picture(number))
        write(root / "masks" / split / f"s{number}.png", labels(number))
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    return root


def fix(root: Path) -> tuple[Path, str]:
    """The corrected copy, and what is said of it."""
    to = root.parent / "fixed"
    return to, " ".join(write_fixed(check_data(root, workers=1), to))


def kinds(root: Path) -> set[str]:
    return {finding.kind for finding in check_data(root, workers=1).findings}


def unlike(root: Path, copy: Path) -> set[str]:
    """Files that are not the same to the last byte in both."""
    names = {path.relative_to(top).as_posix() for top in (root, copy) for path in top.rglob("*") if path.is_file()}

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.is_file() else None

    return {name for name in names if content(root / name) != content(copy / name)}


def test_a_clean_set_is_copied_as_it_is(folder):
    copy, text = fix(folder)
    assert text == "nothing; the copy is like the original."
    assert unlike(folder, copy) == set()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 8])
def test_an_orientation_that_the_truth_ignores(folder, suffix, orientation):
    old = folder / "images/train/s1.png"
    path = old.with_suffix(suffix)
    old.unlink()
    image = Image.fromarray(picture(1))
    if suffix == ".tif":
        tifffile.imwrite(path, picture(1), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        tags = image.getexif()
        tags[274] = orientation
        image.save(path, exif=tags)
    assert "exif_rotation" in kinds(folder)
    copy, text = fix(folder)
    assert "EXIF orientation" in text
    assert kinds(copy) == set()
    fixed = copy / f"images/train/s1{suffix}"
    assert unlike(folder, copy) == {f"images/train/s1{suffix}"}
    assert image_header(fixed).orientation == 1
    before, after = path.read_bytes(), fixed.read_bytes()
    assert len(before) == len(after)
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed <= (6 if suffix == ".png" else 2)  # the checksum of the part of a PNG too
    array = read_image(fixed)
    assert array.shape[:2] == SIZE
    if suffix != ".jpg":
        np.testing.assert_array_equal(array, picture(1))


def test_files_without_an_orientation_have_none_to_take_out():
    assert without_orientation(cv2.imencode(".png", picture(0))[1].tobytes()) is None
    assert without_orientation(cv2.imencode(".jpg", picture(0))[1].tobytes()) is None
    assert without_orientation(cv2.imencode(".bmp", picture(0))[1].tobytes()) is None


def ringing(mask: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", np.where(mask, 255, 0).astype(np.uint8), [1, 50])[1], 0)


def smoothed(mask: np.ndarray) -> np.ndarray:
    """A smooth rim, on a large picture so that nearly all of it is black or white."""
    return cv2.GaussianBlur(np.where(mask, 255, 0).astype(np.uint8), (3, 3), 0.8)


@pytest.mark.parametrize("change", [ringing, smoothed])
def test_black_and_white_masks_with_blurred_edges(folder, change):
    (folder / "classes.json").unlink()
    names = [path.relative_to(folder) for path in folder.glob("masks/*/*.png")]
    for name in names:
        mask = cv2.resize(np.where(labels(3), 1, 0).astype(np.uint8), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
        write(folder / name, change(np.roll(mask, 3, axis=(0, 1))))  # edges beside those of JPEG's blocks
        image = folder / "images" / name.relative_to("masks")
        write(image, cv2.resize(read_image(image), None, fx=8, fy=8))
    wanted = {name: read_mask(folder / name) >= 128 for name in names}
    assert kinds(folder) & {"ringing", "anti_aliased"}
    copy, text = fix(folder)
    assert "cut at 128" in text
    assert "not corrected" not in text
    assert not kinds(copy) & {"ringing", "anti_aliased", "zero_255"}
    assert unlike(folder, copy) == {name.as_posix() for name in names}
    for name in names:
        np.testing.assert_array_equal(read_mask(copy / name), wanted[name])


def test_blurred_edges_between_several_classes_are_left_and_said(folder):
    for path in folder.glob("masks/*/*.png"):
        write(path, cv2.GaussianBlur(read_mask(path) * 100, (5, 5), 1.2))
    copy, text = fix(folder)
    assert "not corrected, as it would have to be guessed: anti_aliased" in text
    assert unlike(folder, copy) == set()


@pytest.mark.parametrize("factor", [256, 257])
def test_labels_stretched_to_16_bits(folder, factor):
    for path in folder.glob("masks/*/*.png"):
        write(path, read_mask(path).astype(np.uint16) * factor)
    assert "cut_to_8_bit" in kinds(folder)
    copy, text = fix(folder)
    assert "divided back" in text
    assert kinds(copy) == set()
    for number in range(4):
        np.testing.assert_array_equal(read_mask(copy / f"masks/train/s{number}.png"), labels(number))


def test_copies_go_and_contradictions_stay(folder):
    (folder / "images/train/s1.png").write_bytes((folder / "images/train/s0.png").read_bytes())
    (folder / "masks/train/s1.png").write_bytes((folder / "masks/train/s0.png").read_bytes())
    (folder / "images/train/s3.png").write_bytes((folder / "images/train/s2.png").read_bytes())
    copy, text = fix(folder)
    assert "1 sample left out, with the image and the truth of another one" in text
    assert unlike(folder, copy) == {"images/train/s1.png", "masks/train/s1.png"}
    assert not (copy / "images/train/s1.png").exists()
    assert kinds(copy) == {"duplicates"}  # the same picture with two truths: which is right would be a guess


@pytest.fixture
def coco(tmp_path) -> Path:
    root = tmp_path / "data"
    for split, numbers in (("train", (1, 2, 3)), ("val", (4,))):
        images, annotations = [], []
        for number in numbers:
            write(root / "images" / split / f"s{number}.png", picture(number))
            images.append({"id": number, "file_name": f"s{number}.png", "height": SIZE[0], "width": SIZE[1]})
            outline = [5.0, 6, 35, 6, 35, 26 + number, 5, 26 + number]
            annotations.append(
                {
                    "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 30.0 * (20 + number),
                    "bbox": [5, 6, 30, 20 + number], "segmentation": [outline],
                }
            )  # fmt: skip
        (root / "annotations").mkdir(exist_ok=True)
        plain = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(plain))
    return root


def test_areas_and_names_of_coco(coco):
    path = coco / "annotations/instances_train.json"
    plain = json.loads(path.read_text())
    plain["annotations"][0]["area"] = 5000
    path.write_text(json.dumps(plain))
    image = coco / "images/train/s2.png"
    image.write_bytes(cv2.imencode(".jpg", picture(2))[1].tobytes())
    assert kinds(coco) == {"area_disagrees", "format_differs"}
    copy, text = fix(coco)
    assert "1 area computed from its mask" in text
    assert "1 image renamed" in text
    assert kinds(copy) == set()
    fixed = json.loads((copy / "annotations/instances_train.json").read_text())
    assert fixed["annotations"][0]["area"] == 30 * 21
    plain["annotations"][0]["area"] = fixed["annotations"][0]["area"]
    plain["images"][1]["file_name"] = "s2.jpg"
    assert fixed == plain
    assert unlike(coco, copy) - {"annotations/instances_train.json", "annotations/instances_val.json"} == {
        "images/train/s2.png",
        "images/train/s2.jpg",
    }
    assert (copy / "images/train/s2.jpg").read_bytes() == image.read_bytes()


@pytest.fixture
def yolo(tmp_path) -> Path:
    root = tmp_path / "data"
    for number in range(5):
        split = "val" if number == 4 else "train"
        write(root / "images" / split / f"s{number}.png", picture(number))
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split / f"s{number}.txt").write_text(f"0 0.1 0.1 0.5 0.1 0.5 0.{5 + number} 0.1 0.5\n")
    (root / "data.yaml").write_text("names: [cat]\ntrain: images/train\nval: images/val\n")
    return root


def test_formats_of_a_file_per_image(yolo):
    assert fix(yolo)[1] == "nothing; the copy is like the original."
    assert unlike(yolo, yolo.parent / "fixed") == set()


def test_what_is_left_out_goes_with_its_truth(yolo):
    image = yolo / "images/train/s1.png"
    image.write_bytes(image.read_bytes()[:300])
    (yolo / "labels/train/s2.txt").write_text("0 0.1 0.1 0.5 0.1\n")
    (yolo / "images/train/s3.png").write_bytes(cv2.imencode(".jpg", picture(3))[1].tobytes())
    assert kinds(yolo) == {"image_truncated", "truth_unreadable", "format_differs"}
    copy, text = fix(yolo)
    assert "1 sample left out, cut off." in text
    assert "1 sample left out, whose truth cannot be read." in text
    assert "not corrected" not in text
    assert kinds(copy) == set()
    assert unlike(yolo, copy) == {
        "images/train/s1.png", "labels/train/s1.txt", "images/train/s2.png", "labels/train/s2.txt", "images/train/s3.png",
        "images/train/s3.jpg",
    }  # fmt: skip


def test_what_is_listed_by_hand_is_refused_with_a_way(folder):
    text = "format: mask_folder\nimages: images\nmasks: masks\nsplits: {train: ['train/*'], val: ['val/*']}\n"
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=r"found mask_folder as a description.*convert"):
        fix(folder / "data.yaml")


def test_folders_of_layers(tmp_path):
    root = tmp_path / "data"
    for number in range(4):
        write(root / "images" / f"s{number}.png", picture(number))
        for name in ("road", "tree"):
            write(root / "masks" / name / f"s{number}.png", np.where(labels(number), 255, 0).astype(np.uint8))
    path = root / "images/s0.png"
    path.write_bytes(path.read_bytes()[:200])
    copy, _ = fix(root)
    assert kinds(copy) == set()
    assert unlike(root, copy) == {"images/s0.png", "masks/road/s0.png", "masks/tree/s0.png"}


def test_blank_images_stay_where_one_image_is_in_two_splits(folder):
    """They are alike without being one image; as soon as one real image was in two splits, they were left out with it."""
    blank = np.full((*SIZE, 3), 7, np.uint8)
    for split in ("train", "val"):
        write(folder / "images" / split / f"blank_{split}.png", blank)
        write(folder / "masks" / split / f"blank_{split}.png", labels(1))
        write(folder / "images" / split / f"twin_{split}.png", picture(50))
        write(folder / "masks" / split / f"twin_{split}.png", labels(2))
    copy, text = fix(folder)
    assert "1 sample left out, that val or test has too." in text
    assert "image_blank (2)" in text
    assert (copy / "images" / "train" / "blank_train.png").is_file()
    assert not (copy / "images" / "train" / "twin_train.png").exists()
