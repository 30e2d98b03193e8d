"""nuriwake check: what it prints, writes and with which code it ends."""

import json

import cv2
import numpy as np
import pytest

from nuriwake.cli import run
from nuriwake.recipes.demo_data import draw_demo_data


@pytest.fixture
def data(tmp_path):
    return draw_demo_data(tmp_path / "shapes", train=6, val=3, size=(64, 96))


def test_clean_data_end_with_0_and_a_page(data, tmp_path, capsys):
    report = tmp_path / "check.html"
    assert run(["check", str(data), "--report", str(report), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "9 images" in out
    assert "HARMFUL" not in out
    page = report.read_text()
    assert "Content-Security-Policy" in page
    assert "triangle" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_harm_ends_with_1_and_json_says_all(data, tmp_path, capsys):
    image = next((data / "images" / "train").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    assert run(["check", str(data), "--json", "--workers", "1", "--report", str(tmp_path / "check.html")]) == 1
    caught = capsys.readouterr()
    plain = json.loads(caught.out)
    harmful = [finding for finding in plain["findings"] if finding["severity"] == "harmful"]
    assert [finding["kind"] for finding in harmful] == ["image_truncated"]
    assert image.name in harmful[0]["files"][0]
    assert plain["images"] == 9
    assert "image_truncated" in caught.err
    assert "cut off" in (tmp_path / "check.html").read_text()


def test_fix_writes_a_copy_that_is_clean(data, tmp_path, capsys):
    image = next((data / "images" / "train").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    assert run(["check", str(data), "--fix", str(tmp_path / "fixed"), "--workers", "1"]) == 1
    assert "fixed: 1 sample left out, cut off." in capsys.readouterr().out
    assert run(["check", str(tmp_path / "fixed"), "--workers", "1"]) == 0


def test_what_is_doubtful_or_a_note_ends_with_0(data, capsys):
    image = next((data / "images" / "train").iterdir())
    cv2.imwrite(str(image), np.full((64, 96, 3), 9, np.uint8))
    assert run(["check", str(data), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "DOUBTFUL  1 image has one value everywhere.  [image_blank]" in out
    assert image.name in out


def test_what_is_no_data_set_ends_with_2(tmp_path, capsys):
    assert run(["check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_names_from_files_are_escaped(tmp_path):
    for name in ("<b>a", "b", "c", "d"):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            array = np.random.default_rng(len(name)).integers(0, 2, (32, 32)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "data" / folder / f"{name}.png"), array)
    report = tmp_path / "check.html"
    run(["check", str(tmp_path / "data"), "--report", str(report), "--workers", "1"])
    assert "&lt;b&gt;a" in report.read_text()
    assert "<b>a" not in report.read_text()
