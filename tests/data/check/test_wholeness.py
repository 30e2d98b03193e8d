"""Files that are cut off are found at once, whichever they are; whole ones of every kind pass, and what reads is not refused."""

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.data.check import quick_check, refuse_harmful
from nuriwake.data.check.wholeness import seems_whole
from nuriwake.data.formats import open_data
from nuriwake.data.parallel import spread


def noise(size=(40, 50), channels=3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, channels)).astype(np.uint8)


def write_tiff(path: Path, **options) -> None:
    tifffile.imwrite(path, noise(), photometric="rgb", **options)


def write_pillow(path: Path, **options) -> None:
    Image.fromarray(noise()).save(path, **options)


def write_libtiff(path: Path) -> None:
    """OpenCV's TIFF: the directory stands at the end."""
    cv2.imwrite(str(path), noise((64, 2000)))


KINDS = {
    "tiff": ("a.tif", write_tiff),
    "tiff of strips": ("a.tif", lambda path: write_tiff(path, rowsperstrip=7)),
    "tiff of tiles": ("a.tif", lambda path: write_tiff(path, tile=(16, 16), compression="deflate")),
    "big tiff": ("a.tiff", lambda path: write_tiff(path, bigtiff=True, rowsperstrip=7)),
    "big-endian tiff": ("a.tif", lambda path: write_tiff(path, byteorder=">", rowsperstrip=7)),
    "tiff with its directory last": ("a.tif", write_libtiff),
    "jpeg": ("a.jpg", write_pillow),
    "progressive jpeg": ("a.jpeg", lambda path: write_pillow(path, progressive=True)),
    "png": ("a.png", write_pillow),
    "webp": ("a.webp", write_pillow),
    "bmp": ("a.bmp", write_pillow),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_whole_until_it_is_cut(tmp_path, kind):
    name, write = KINDS[kind]
    write(tmp_path / name)
    assert seems_whole(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for share in (0, 0.02, 0.3, 0.7, 0.99):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        assert not seems_whole(tmp_path / name), share


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_what_follows_the_end_does_no_harm(tmp_path, name):
    write_pillow(tmp_path / name)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\0" * 5000)
    assert seems_whole(tmp_path / name)


def test_a_look_takes_less_than_a_millisecond(tmp_path):
    for number in range(50):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), noise((400, 600)))
    files = sorted(tmp_path.iterdir())
    best = min(_seconds(files) for _ in range(5))
    assert best / len(files) < 0.001


def _seconds(files: list[Path]) -> float:
    start = time.process_time()
    assert all(seems_whole(path) for path in files)
    return time.process_time() - start


@pytest.fixture
def many(tmp_path) -> Path:
    """150 training and 150 validation images: more than are read in any case."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(150):
            cv2.imwrite(str(tmp_path / "images" / split / f"{number:03}.jpg"), np.roll(noise(), number, axis=0))
            cv2.imwrite(str(tmp_path / "masks" / split / f"{number:03}.png"), noise(channels=1)[..., 0] & 1)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_quick_check_finds_any_image_that_is_cut_off(many, split):
    data = open_data(many)
    assert quick_check(data) == ()
    for number in (0, 70):  # one that is looked at more closely, too, and one that is not
        path = data.splits[split][number].image
        path.write_bytes(path.read_bytes()[:-300])
    (finding,) = quick_check(data)
    assert (finding.kind, finding.count) == ("image_truncated", 2)
    with pytest.raises(UserError, match=rf"2 images are cut off\..*{split}/000\.jpg"):
        refuse_harmful((finding,), go_on="x")


def test_the_quick_check_finds_any_mask_that_is_cut_off(many):
    data = open_data(many)
    path = data.splits["val"][71].target
    path.write_bytes(path.read_bytes()[:-30])
    (finding,) = quick_check(data)
    assert finding.kind == "truth_unreadable"
    assert "val/071.png" in finding.files[0]
    path.unlink()
    assert [finding.kind for finding in quick_check(data)] == ["truth_unreadable"]


@pytest.mark.parametrize(("seconds", "found"), [(10, ["truth_unreadable"]), (0, [])])
def test_the_quick_check_reads_all_truth_while_there_is_time(many, monkeypatch, seconds, found):
    """Such as an outline of two points: no look at the file itself tells."""
    monkeypatch.setattr("nuriwake.data.check._QUICK_SECONDS", seconds)
    data = open_data(many)
    sampled = {record.name for record in spread(data.splits["train"], 64)}
    wrong = next(record for record in data.splits["train"][70:] if record.name not in sampled)

    def read(record):
        if record is wrong:
            raise UserError("a polygon has at least three points, found 2.")
        return data.reader(record)

    assert [finding.kind for finding in quick_check(replace(data, reader=read))] == found


def test_the_quick_check_takes_the_splits_that_are_trained_on(many):
    data = open_data(many)
    path = data.splits["val"][70].image
    path.write_bytes(path.read_bytes()[:-300])
    renamed = data.with_splits({"train": data.splits["train"], "other": data.splits["val"]})
    assert quick_check(renamed) == ()
    assert [finding.kind for finding in quick_check(renamed, val="other")] == ["image_truncated"]


def test_what_looks_cut_off_but_reads_is_not_refused(many, monkeypatch):
    monkeypatch.setattr("nuriwake.data.check.wholeness.seems_whole", lambda path: False)
    assert quick_check(open_data(many)) == ()
