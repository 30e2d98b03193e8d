"""Every item of the list of faults of files, masks, classes and splits, planted in a copy of a few images of a real set: found under its name, with the file."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.labels import palette
from nuriwake.data.images import read_mask

Plant = Callable[[Path], list[str]]
"""Spoils the copy; gives what the finding must name: files, or classes where a finding is about classes."""


def pick(files: list[Path], count: int) -> list[Path]:
    return [files[i * (len(files) - 1) // (count - 1)] for i in range(count)]


def copy_pairs(source: Path, root: Path, counts: dict[str, int]) -> None:
    """`counts` images of every split, evenly spaced, with their masks."""
    for split, count in counts.items():
        for image in pick(sorted((source / "images" / split).iterdir()), count):
            for kind in ("images", "masks"):
                file = next((source / kind / split).glob(f"{image.stem}.*"))
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, root / kind / split / file.name)


def camvid(source: Path, root: Path) -> None:
    copy_pairs(source / "camvid", root, {"train": 5, "val": 2})
    shutil.copyfile(source / "camvid" / "classes.json", root / "classes.json")


def nuclei(source: Path, root: Path) -> None:
    copy_pairs(source / "nuclei", root, {"": 8})


def isbi2012(source: Path, root: Path) -> None:
    copy_pairs(source / "isbi2012", root, {"": 6})


def save(root: Path, split: str, plain: Any, kind: str = "instances") -> None:
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(plain))


SETS = {"camvid": camvid, "nuclei": nuclei, "isbi2012": isbi2012}


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


def no_image(root: Path) -> list[str]:
    path = files(root)[1]
    path.write_bytes(b"<html>404 Not Found</html>")
    return [path.name]


def blank_image(root: Path) -> list[str]:
    path = files(root)[1]
    write(path, np.full_like(picture(path), 7))
    return [path.name]


def not_finite_image(root: Path) -> list[str]:
    paths = files(root)
    for path in paths:
        array = picture(path).astype(np.float32)
        array[3, 4] = np.nan if path == paths[2] else 0
        tifffile.imwrite(path.with_suffix(".tif"), array, photometric="rgb")
        path.unlink()
    return [paths[2].with_suffix(".tif").name]


def flipped_byte_of_a_mask(root: Path) -> list[str]:
    path = files(root, "masks")[2]
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 4
    path.write_bytes(data)
    return [path.name]


def renamed(root: Path) -> list[str]:
    path = files(root)[0]
    path.rename(path.with_suffix(".png"))
    return [path.with_suffix(".png").name, "holds JPEG"]


def turned_by_exif(root: Path) -> list[str]:
    path = files(root)[0]
    image = Image.fromarray(picture(path))
    tags = image.getexif()
    tags[274] = 8
    image.save(path, exif=tags, quality=95)
    return [path.stem]


def without_mask(root: Path) -> list[str]:
    files(root, "masks")[0].unlink()
    return [files(root)[0].name]


def without_image(root: Path) -> list[str]:
    files(root)[0].unlink()
    return [files(root, "masks")[0].name]


def each_mask(change: Callable[[np.ndarray], np.ndarray], *, only: int | None = None) -> Plant:
    def plant(root: Path) -> list[str]:
        paths = [path for split in ("train", "val") for path in files(root, "masks", split)]
        paths = paths if only is None else paths[only : only + 1]
        for path in dict.fromkeys(paths):
            write(path, change(read_mask(path)))
        return [paths[0].name]

    return plant


def resized_mask(root: Path) -> list[str]:
    path = files(root, "masks")[1]
    mask = read_mask(path)
    write(path, cv2.resize(mask, (mask.shape[1] // 2, mask.shape[0] // 2), interpolation=cv2.INTER_NEAREST))
    return [path.name]


def foreground_255(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 8, 255, 0).astype(np.uint8)


def two_classes_of_255(root: Path) -> list[str]:
    (root / "classes.json").write_text('{"classes": ["other", "car"], "ignore_index": 255}')
    return each_mask(foreground_255)(root)


def coloured(mask: np.ndarray) -> np.ndarray:
    return np.array([*palette(255), (224, 224, 192)], np.uint8)[mask]


def jpeg_mask(root: Path) -> list[str]:
    (root / "classes.json").unlink()
    for split in ("train", "val"):
        for path in files(root, "masks", split):
            write(path.with_suffix(".jpg"), foreground_255(read_mask(path)), cv2.IMWRITE_JPEG_QUALITY, 70)
            path.unlink()
    return [files(root, "masks")[0].name]


def ringing(mask: np.ndarray) -> np.ndarray:
    data = cv2.imencode(".jpg", foreground_255(mask), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def smoothed(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    small = cv2.resize(foreground_255(mask), (width // 2, height // 2), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def shifted(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 255, 255, mask + 1).astype(np.uint8)


def some_with_a_palette(root: Path) -> list[str]:
    """One mask as palette, the others as the brightness of that palette's colours."""
    first, *others = [path for split in ("train", "val") for path in files(root, "masks", split)]
    image = Image.fromarray(read_mask(first), "L")
    image.putpalette([part for colour in palette(256) for part in colour])
    image.save(first)
    for path in others:
        write(path, cv2.cvtColor(coloured(read_mask(path)), cv2.COLOR_RGB2GRAY))
    return [first.name]


def some_by_colour(root: Path) -> list[str]:
    each_mask(coloured, only=1)(root)
    return [files(root, "masks")[1].name]


def all_empty(root: Path) -> list[str]:
    (root / "classes.json").write_text('{"classes": ["background", "membrane"]}')
    return each_mask(np.zeros_like)(root)


def stretched(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint16) * 257


def ids_cut_to_8_bit(root: Path) -> list[str]:
    """Numbers of objects that go beyond 255 in one mask, another one written with 8 bits."""
    paths = files(root, "masks")
    for path in paths:
        mask = read_mask(path)
        write(path, np.where(mask > 0, mask + 300, 0).astype(np.uint16))
    write(paths[2], (read_mask(paths[2]) & 255).astype(np.uint8))
    return [paths[2].name]


def class_never_seen(root: Path) -> list[str]:
    plain = json.loads((root / "classes.json").read_text())
    (root / "classes.json").write_text(json.dumps({**plain, "classes": [*plain["classes"], "tram"]}))
    return ["tram"]


def class_in_one_split(root: Path) -> list[str]:
    for path in files(root, "masks", "val"):
        mask = read_mask(path)
        write(path, np.where(mask == 3, 4, mask))
    return ["road"]


def class_in_few_pixels(root: Path) -> list[str]:
    for split in ("train", "val"):
        for path in files(root, "masks", split):
            mask = read_mask(path)
            mask[mask == 10] = 8
            mask[:2, :2] = 10
            write(path, mask)
    return ["bicyclist"]


def one_class(root: Path) -> list[str]:
    (root / "classes.json").unlink()
    each_mask(np.zeros_like)(root)
    return ["class_0"]


def copied_to_val(root: Path) -> list[str]:
    source, target = files(root)[0], files(root, "images", "val")[0]
    target.write_bytes(source.read_bytes())
    return [source.name, target.name]


def nearly_copied_to_val(root: Path) -> list[str]:
    source, target = files(root)[0], files(root, "images", "val")[0]
    write(target, np.clip(picture(source).astype(int) + 4, 0, 255).astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 60)
    return [source.name, target.name]


def copied_in_train(root: Path) -> list[str]:
    first, second, *_ = files(root)
    second.write_bytes(first.read_bytes())
    return [first.name, second.name]


def same_name_in_val(root: Path) -> list[str]:
    image, other = files(root)[0], files(root, "images", "val")[0]
    mask, other_mask = files(root, "masks")[0], files(root, "masks", "val")[0]
    other.rename(other.with_name(image.name))
    other_mask.rename(other_mask.with_name(mask.name))
    return [image.name]


def much_larger(root: Path) -> list[str]:
    image, mask = files(root)[1], files(root, "masks")[1]
    for path, array in ((image, picture(image)), (mask, read_mask(mask))):
        small = array[::5, ::5]
        write(path, np.ascontiguousarray(small))
    return [image.name]


def sixteen_bit(root: Path) -> list[str]:
    path = files(root)[1]
    tifffile.imwrite(path.with_suffix(".tif"), picture(path).astype(np.uint16) * 200, photometric="rgb")
    path.unlink()
    return [path.with_suffix(".tif").name]


def four_channels(root: Path) -> list[str]:
    path = files(root)[1]
    array = picture(path)
    tifffile.imwrite(path.with_suffix(".tif"), np.dstack([array, array[..., 0]]), photometric="rgb")
    path.unlink()
    return [path.with_suffix(".tif").name]


def grey(root: Path) -> list[str]:
    path = files(root)[1]
    write(path, cv2.cvtColor(picture(path), cv2.COLOR_RGB2GRAY))
    return [path.name]


def specks(root: Path) -> list[str]:
    path = files(root, "masks")[1]
    mask = read_mask(path)
    mask[::6, ::6] = (mask[::6, ::6] + 3) % 11
    write(path, mask)
    return [path.stem]


@dataclass(frozen=True)
class Fault:
    """Planted in which set, what the finding is called, and its severity."""

    where: str
    kind: str
    severity: str
    plant: Plant


FAULTS: dict[str, Fault] = {
    "truncated image": Fault("camvid", "image_truncated", "harmful", cut_image),
    "unreadable image": Fault("nuclei", "image_unreadable", "harmful", no_image),
    "blank image": Fault("camvid", "image_blank", "doubtful", blank_image),
    "values that are not finite": Fault("nuclei", "image_not_finite", "harmful", not_finite_image),
    "flipped byte of a mask": Fault("camvid", "mask_unreadable", "harmful", flipped_byte_of_a_mask),
    "declared and real format": Fault("camvid", "format_differs", "doubtful", renamed),
    "EXIF rotation beside a mask": Fault("camvid", "exif_rotation", "harmful", turned_by_exif),
    "image without a mask": Fault("camvid", "images_unpaired", "harmful", without_mask),
    "mask without an image": Fault("camvid", "masks_unpaired", "harmful", without_image),
    "sizes differ": Fault("camvid", "size_differs", "harmful", resized_mask),
    "masks of 0 and 255": Fault("camvid", "zero_255", "harmful", two_classes_of_255),
    "RGB masks": Fault("camvid", "rgb_colours", "harmful", each_mask(coloured)),
    "some masks by colour": Fault("camvid", "mixed_coding", "harmful", some_by_colour),
    "JPEG masks": Fault("camvid", "jpeg_masks", "doubtful", jpeg_mask),
    "JPEG masks saved as PNG": Fault("camvid", "ringing", "harmful", each_mask(ringing)),
    "anti-aliased edges": Fault("camvid", "anti_aliased", "harmful", each_mask(smoothed)),
    "value beyond the classes": Fault(
        "camvid", "beyond_classes", "harmful", each_mask(lambda mask: np.where(mask == 8, 77, mask), only=0)
    ),
    "labels shifted by one": Fault("camvid", "shifted", "harmful", each_mask(shifted)),
    "all background": Fault("isbi2012", "all_background", "note", each_mask(np.zeros_like, only=0)),
    "all masks all background": Fault("isbi2012", "all_background", "harmful", all_empty),
    "all ignore": Fault("camvid", "all_ignore", "doubtful", each_mask(lambda mask: np.full_like(mask, 255), only=0)),
    "palette and grey": Fault("camvid", "palette_and_grey", "harmful", some_with_a_palette),
    "8 bits stretched to 16": Fault("camvid", "cut_to_8_bit", "harmful", each_mask(stretched)),
    "16 bits cut to 8": Fault("nuclei", "cut_to_8_bit", "doubtful", ids_cut_to_8_bit),
    "class never seen": Fault("camvid", "never_seen", "doubtful", class_never_seen),
    "class in one split": Fault("camvid", "one_split_only", "note", class_in_one_split),
    "extreme imbalance": Fault("camvid", "imbalance", "note", class_in_few_pixels),
    "one class": Fault("camvid", "one_class", "harmful", one_class),
    "same image in both": Fault("camvid", "same_image", "harmful", copied_to_val),
    "nearly the same image": Fault("camvid", "similar_image", "doubtful", nearly_copied_to_val),
    "image twice": Fault("camvid", "duplicates", "doubtful", copied_in_train),
    "same name in both": Fault("camvid", "same_name", "note", same_name_in_val),
    "very different sizes": Fault("camvid", "image_sizes", "doubtful", much_larger),
    "bit depths": Fault("camvid", "bit_depths", "harmful", sixteen_bit),
    "channel counts": Fault("camvid", "channels", "harmful", four_channels),
    "grey among colour": Fault("camvid", "grey_among_colour", "note", grey),
    "very small objects": Fault("camvid", "small_objects", "note", specks),
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(untouched):
    return untouched(SETS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(copies, judge, name):
    judge(FAULTS[name], copies)
