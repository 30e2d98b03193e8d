"""The fingerprint of a data set: the same data, decoded in the same way, give the same one, and nothing else does."""

import gzip
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from nuriwake.data import identity
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


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
@pytest.mark.parametrize("place", [(20, 30), (101, 7), (150, 250), (186, 131)])
def test_a_small_region_of_a_mask_that_was_labelled_anew_is_other_data(tmp_path, suffix, place):
    names, labelled = "abc", np.zeros((200, 300), np.uint8)
    labelled[:3] = 1
    folder(tmp_path, dict.fromkeys(names, labelled))
    for name in names:
        (tmp_path / "masks" / f"{name}.png").unlink()
        save(tmp_path / "masks" / f"{name}{suffix}", labelled) if suffix == ".bmp" else tifffile.imwrite(
            tmp_path / "masks" / f"{name}.tif", labelled
        )
    data = open_data(tmp_path)
    path, before = tmp_path / "masks" / f"b{suffix}", data.fingerprint()
    size = path.stat().st_size
    row, column = place
    labelled[row : row + 4, column : column + 5] = 1
    save(path, labelled) if suffix == ".bmp" else tifffile.imwrite(path, labelled)
    assert path.stat().st_size == size
    assert before != data.fingerprint()


@pytest.mark.parametrize("kind", ["mask.jpg", "mask.webp", "shapes.json", "really_a_bitmap.png"])
@pytest.mark.parametrize("length", [900, 50_000])
def test_every_byte_of_a_truth_without_checksums_counts(tmp_path, kind, length):
    rng, path = np.random.default_rng(0), tmp_path / kind
    content = rng.integers(0, 256, length).astype(np.uint8).tobytes()
    path.write_bytes(content)
    whole = identity._truth(path, 1 << 20)
    for place in rng.integers(0, length, 40).tolist():
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert identity._truth(path, 1 << 20) != whole


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
def test_of_a_truth_with_checksums_the_end_counts_as_ever(tmp_path, name):
    path = tmp_path / name
    if name.endswith("png"):
        save(path, np.random.default_rng(0).integers(0, 2, (200, 300)).astype(np.uint8))
    else:
        path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(30_000)))
    assert identity._truth(path, 1 << 20) == identity._sample(path) == path.read_bytes()[-256:]


def test_of_many_large_masks_blocks_count_that_leave_no_region_out(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "MOST_READ", 3 * 100_000)
    labelled = np.zeros((1000, 700), np.uint8)
    labelled[:3] = 1
    folder(tmp_path, dict.fromkeys("abc", labelled))
    for name in "abc":
        (tmp_path / "masks" / f"{name}.png").unlink()
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", labelled)
    data = open_data(tmp_path)
    opened: list[int] = []
    real = identity._spaced
    monkeypatch.setattr(identity, "_spaced", lambda *given: opened.append(len(real(*given))) or real(*given))
    before = data.fingerprint()
    assert 0.9 * 300_000 < sum(opened) < 300_000 + 3 * 5000
    for top in range(10, 940, 97):
        changed = labelled.copy()
        changed[top : top + 45] = 1
        tifffile.imwrite(tmp_path / "masks" / "b.tif", changed)
        assert before != data.fingerprint()


@dataclass(frozen=True)
class ArrayReader:
    rows: np.ndarray
    names: dict[str, int]


def test_readers_of_arrays_have_a_plain_form():
    form = [plain(ArrayReader(np.arange(5000) * factor, {"a": 1}), str) for factor in (1, 1, 2)]
    assert form[0] == form[1] != form[2]
    assert "0x" not in repr(plain(lambda: 0, str))
