"""The fingerprint of a data set: the same data, decoded in the same way, give the same one, and nothing else does."""

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from nuriwake.data.coding import MaskCoding
from nuriwake.data.formats import open_data
from nuriwake.data.identity import plain
from nuriwake.data.mask_folder import MaskReader


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def mask(*values: int, size=(16, 20), dtype=np.uint8):
    """All `values`, in turns."""
    return np.resize(np.array(values, dtype), size)


def labels(data, split="train", index=0):
    return data.read(data.splits[split][index]).target.labels


def folder(root: Path, masks: dict[str, np.ndarray]) -> Path:
    for name, array in masks.items():
        noise = np.random.default_rng(1).integers(0, 255, (*array.shape[:2], 3)).astype(np.uint8)
        save(root / f"images/{name}.png", noise)
        save(root / f"masks/{name}.png", array)
    return root


def test_the_fingerprint_follows_the_data_and_survives_pickling(tmp_path):
    data = open_data(folder(tmp_path, {name: mask(0, 1) for name in "abc"}))
    again = pickle.loads(pickle.dumps(data))
    before = data.fingerprint()
    assert before == open_data(tmp_path).fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(labels(data), labels(again))
    assert before != open_data(tmp_path, seed=5, val_share=0.6).fingerprint()
    save(tmp_path / "masks" / "a.png", mask(1, 0))  # of the same size in bytes
    assert before != open_data(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("values: {0: background, 255: cell}", "values: {0: cell, 255: background}"),
        ("threshold: 100", "threshold: 200"),
        ("ignore: 255", "ignore: []\nvalues: {0: background, 255: cell}"),
    ],
)
def test_the_fingerprint_follows_the_decoding(tmp_path, one, other):
    folder(tmp_path, {name: mask(0, 255) for name in "abc"})
    found = set()
    for number, text in enumerate((one, other, other)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(f"classes: [background, cell]\n{text}\n")
        found.add(open_data(file).fingerprint())
    assert len(found) == 2


def test_the_fingerprint_follows_colours_annotation_files_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        folder(tmp_path / place, {name: mask(0, 1) for name in "abc"})
    data, moved = open_data(tmp_path / "one"), open_data(tmp_path / "two")
    assert data.fingerprint() == moved.fingerprint()
    red, blue = (MaskCoding(colours=(((0, 0, 0), 0), (colour, 1))) for colour in ((255, 0, 0), (0, 0, 255)))
    readers = [replace(data, reader=MaskReader(data.space, coding)) for coding in (red, blue)]
    assert readers[0].fingerprint() != readers[1].fingerprint()
    source = tmp_path / "one" / "annotations.json"
    source.write_text('{"x": 1}')
    before = replace(data, sources=(source,)).fingerprint()
    source.write_text('{"x": 2}')
    assert before != replace(data, sources=(source,)).fingerprint()


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
@pytest.mark.parametrize("what", ["images", "masks"])
def test_the_fingerprint_follows_files_without_checksums(tmp_path, suffix, what):
    def write(name: str, image: np.ndarray, mask: np.ndarray) -> None:
        for kind, array in (("images", image), ("masks", mask)):
            path = tmp_path / kind / f"{name}{suffix}"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, array) if suffix == ".tif" else save(path, array)

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 200, 300)).astype(np.uint8)
    masks = rng.integers(0, 2, (3, 200, 300)).astype(np.uint8)
    for name, image, mask in zip("abc", images, masks, strict=True):
        write(name, image, mask)
    before = open_data(tmp_path).fingerprint()
    assert before == open_data(tmp_path).fingerprint()
    path = tmp_path / what / f"b{suffix}"
    size = path.stat().st_size
    # The rows in the middle alone: neither the header nor the end tells.
    image, mask = images[1].copy(), masks[1].copy()
    (image if what == "images" else mask)[60:140] ^= 1
    write("b", image, mask)
    assert path.stat().st_size == size
    assert before != open_data(tmp_path).fingerprint()


def test_the_fingerprint_follows_jpeg_images_of_one_size(tmp_path):
    folder(tmp_path, {name: mask(0, 1, size=(64, 64)) for name in "abc"})
    path = tmp_path / "images" / "b.png"
    path.unlink()
    path = save(path.with_suffix(".jpg"), np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    before, data = open_data(tmp_path).fingerprint(), bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 600] = data[half : half + 600][::-1]
    path.write_bytes(data)
    assert before != open_data(tmp_path).fingerprint()


@dataclass(frozen=True)
class ArrayReader:
    rows: np.ndarray
    names: dict[str, int]


def test_readers_of_arrays_have_a_plain_form():
    form = [plain(ArrayReader(np.arange(5000) * factor, {"a": 1}), str) for factor in (1, 1, 2)]
    assert form[0] == form[1] != form[2]
    assert "0x" not in repr(plain(lambda: 0, str))
