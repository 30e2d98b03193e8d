"""Which images predict means by a folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuriwake.cli.finding import find_images
from nuriwake.core.errors import UserError


def draw(*files: Path):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(file)


def predicted(out: Path, *images: Path, labels: str = "{}.png", files: tuple[str, ...] = (), **more: object):
    """What predict writes into `out`; the list names images as they were typed, here from a folder that is not the current one."""
    entries = []
    for image in images:
        written = {"labels": [labels.format(image.stem)], "overlay": f"{image.stem}.overlay.jpg"}
        draw(*(out / name for name in (*written["labels"], written["overlay"], *files)))
        entries.append({"image": str(image), "size": [4, 5], **written, **more})
    (out / "predictions.json").write_text(
        json.dumps({"model": "m", "classes": {}, "images": entries, "files": list(files)})
    )


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    draw(folder / "a.jpg", folder / "sub" / "b.jpg")
    return folder


def names(found) -> list[str]:
    return list(found.files)


def test_images_of_a_folder_and_single_ones(photos, tmp_path):
    found = find_images([photos, photos / "sub" / "b.jpg"])
    assert dict(found.files) == {
        "a": photos / "a.jpg",
        "b": photos / "sub" / "b.jpg",
        "sub/b": photos / "sub" / "b.jpg",
    }
    assert found.notes == ()


@pytest.mark.parametrize("written", ["predictions", "more/predictions"])
def test_a_folder_of_results_within_the_images_is_left_out(photos, written):
    out = photos / written
    predicted(out, photos / "a.jpg", photos / "sub" / "b.jpg", files=("yolo/images/a.jpg",))
    found = find_images([photos])
    assert names(found) == ["a", "sub/b"]
    assert found.notes == (f"Left out as results of predict: 5 images in {out}.",)


def test_images_that_no_list_names_count_wherever_they_are(photos):
    out = photos / "sub"
    predicted(out, Path("/elsewhere/x.jpg"))
    draw(out / "deeper" / "c.jpg")
    assert names(find_images([photos])) == ["a", "sub/b", "sub/deeper/c"]
    assert names(find_images([out])) == ["b", "deeper/c"]


@pytest.mark.parametrize("typed", ["scans/a.jpg", "/moved/from/data/scans/a.jpg", "a.jpg"])
def test_originals_beside_their_results_count_from_every_folder(tmp_path, monkeypatch, typed):
    scans = tmp_path / "data" / "scans"
    draw(scans / "a.jpg", scans / "b.jpg")
    predicted(scans, Path(typed))
    monkeypatch.chdir(tmp_path)
    for asked, name in (
        (Path("data"), "scans/"),
        (Path(), "data/scans/"),
        (scans, ""),
        (Path("data/../data"), "scans/"),
    ):
        found = find_images([asked])
        assert names(found) == [f"{name}a", f"{name}b"]
        assert found.notes[0].startswith("Left out as results of predict: 2 images in ")


def test_a_list_above_the_folder_counts_too(tmp_path, monkeypatch):
    data = tmp_path / "data"
    draw(data / "scans" / "a.jpg", data / "scans" / "labels" / "b.jpg")
    draw(data / "scans" / "a.png")
    predicted(data, Path("scans/a.jpg"), labels="scans/{}.png", files=("scans/labels/a.jpg",))
    monkeypatch.chdir(data)
    for asked in (data / "scans", Path("scans")):
        found = find_images([asked])
        assert dict(found.files) == {"a": asked / "a.jpg", "labels/b": asked / "labels" / "b.jpg"}
        assert found.notes == (f"Left out as results of predict: 2 images in {data}.",)


def test_results_of_every_kind_are_left_out(photos):
    out = photos / "out"
    predicted(out, photos / "a.jpg", labels="disc/{}.png", overlays=["v.slices/0.overlay.jpg"])
    draw(out / "v.slices" / "0.overlay.jpg", out / "disc" / "own.png")
    assert names(find_images([photos])) == ["a", "out/disc/own", "sub/b"]


def test_a_result_that_is_named_is_predicted(photos):
    out = photos / "out"
    predicted(out, photos / "a.jpg")
    found = find_images([photos / "sub", out / "a.png"])
    assert dict(found.files) == {"a": out / "a.png", "b": photos / "sub" / "b.jpg"}
    assert found.notes == ()
    draw(out / "own.png")
    found = find_images([out, out / "a.overlay.jpg", photos / "sub"])
    assert names(found) == ["a.overlay", "b", "own"]
    assert found.notes == (f"Left out as results of predict: 1 image in {out}.",)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"images": [1]}',
        '{"images": 3}',
        "no json",
        "\udcff",
        "[" * 100_000,
        '{"images": [{"image": "a", "labels": ["b.jpg"]}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a"}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": "b.jpg"}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": ["b.jpg", 3]}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": ["b.jpg", ""]}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": ["b.jpg", "../a.jpg"]}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": ["b.jpg", "/x.png"]}]}',
        '{"model": "m", "classes": {}, "images": [{"image": "a", "labels": ["b.jpg"]}], "files": 3}',
    ],
)
def test_another_programs_list_or_a_damaged_one_hides_nothing(photos, text):
    (photos / "sub" / "predictions.json").write_text(text, errors="surrogateescape")
    for asked in (photos, photos / "sub"):
        assert names(find_images([asked])) == (["a", "sub/b"] if asked == photos else ["b"])


def test_a_folder_of_results_alone_has_no_images(photos, tmp_path):
    out = tmp_path / "out"
    predicted(out, photos / "a.jpg")
    with pytest.raises(
        UserError, match=r"no images in this folder .*\. Left out as results of predict: 2 images in .*out\."
    ):
        find_images([out])
    assert names(find_images([out / "a.png"])) == ["a"]


def test_what_cannot_be_predicted_is_said(photos, tmp_path):
    with pytest.raises(UserError, match="at least one image"):
        find_images([])
    with pytest.raises(UserError, match="no such file or folder"):
        find_images([photos / "c.jpg"])
    draw(photos / "a.png")
    with pytest.raises(UserError, match="would both be saved as 'a'"):
        find_images([photos])
