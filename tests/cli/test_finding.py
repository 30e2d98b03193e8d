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


def predicted(out: Path, *images: Path):
    """What predict writes into `out`."""
    entries = []
    for image in images:
        draw(out / f"{image.stem}.png", out / f"{image.stem}.overlay.jpg")
        labels, overlay = [f"{image.stem}.png"], f"{image.stem}.overlay.jpg"
        entries.append({"image": str(image), "size": [4, 5], "labels": labels, "overlay": overlay})
    (out / "predictions.json").write_text(json.dumps({"model": "m", "classes": {}, "images": entries}))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    draw(folder / "a.jpg", folder / "sub" / "b.jpg")
    return folder


def names(found) -> list[str]:
    return list(found.files)


def test_images_of_a_folder_and_single_ones(photos, tmp_path):
    found = find_images([photos, photos / "sub" / "b.jpg"], tmp_path / "out")
    assert dict(found.files) == {
        "a": photos / "a.jpg",
        "b": photos / "sub" / "b.jpg",
        "sub/b": photos / "sub" / "b.jpg",
    }
    assert found.notes == ()


@pytest.mark.parametrize("written", ["predictions", "more/predictions"])
def test_a_folder_of_results_within_the_images_is_left_out(photos, tmp_path, written):
    out = photos / written
    predicted(out, photos / "a.jpg", photos / "sub" / "b.jpg")
    draw(out / "yolo" / "images" / "a.jpg")  # what --to wrote
    for now in (out, tmp_path / "other"):
        found = find_images([photos], now)
        assert names(found) == ["a", "sub/b"]
        assert found.notes == (f"Left out as results of predict: 5 images in {out}.",)


def test_the_folder_for_the_results_is_left_out_whatever_is_in_it(photos, monkeypatch):
    draw(photos / "out" / "half.png")
    monkeypatch.chdir(photos)
    assert names(find_images([Path()], Path("sub") / ".." / "out")) == ["a", "sub/b"]
    assert names(find_images([photos], Path("out"))) == ["a", "sub/b"]


def test_results_beside_the_images_are_told_apart(photos, tmp_path):
    predicted(photos, photos / "a.jpg")
    for asked in (photos, tmp_path):
        found = find_images([asked], photos if asked == photos else tmp_path / "other")
        assert [path.name for path in found.files.values()] == ["a.jpg", "b.jpg"]
        assert found.notes == (f"Left out as results of predict: 2 images in {photos}.",)


@pytest.mark.parametrize("text", ["[]", '{"images": [1]}', '{"images": 3}', "no json", '{"images": [{"image": "a"}]}'])
def test_another_programs_list_hides_nothing(photos, tmp_path, text):
    (photos / "sub" / "predictions.json").write_text(text)
    assert names(find_images([photos], tmp_path / "out")) == ["a", "sub/b"]


def test_a_folder_of_results_alone_has_no_images(photos, tmp_path):
    out = tmp_path / "out"
    predicted(out, photos / "a.jpg")
    with pytest.raises(
        UserError, match=r"no images in this folder .*\. Left out as results of predict: 2 images in .*out\."
    ):
        find_images([out], tmp_path / "other")
    assert names(find_images([out / "a.png"], tmp_path / "other")) == ["a"]


def test_what_cannot_be_predicted_is_said(photos, tmp_path):
    with pytest.raises(UserError, match="at least one image"):
        find_images([], tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        find_images([photos / "c.jpg"], tmp_path)
    draw(photos / "a.png")
    with pytest.raises(UserError, match="would both be saved as 'a'"):
        find_images([photos], tmp_path)
