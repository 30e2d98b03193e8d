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


def test_places_that_cannot_be_written_are_refused_before_anything_is_read(data, tmp_path, capsys, monkeypatch):
    def never(*arguments, **named):
        raise AssertionError("the data were read")

    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "x").write_text("mine")
    file.write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("nuriwake.api.check_data", never)
        for option, place, message in (
            ("--fix", full, "already exists"),
            ("--fix", data / "fixed", "lies outside of the data set"),
            ("--fix", file / "copy", "nothing can be written there"),
            ("--report", file / "check.html", "nothing can be written there"),
            ("--report", full, "this is a folder"),
        ):
            assert run(["check", str(data), option, str(place), "--workers", "1"]) == 2
            assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "shapes"]
    assert (full / "x").read_text() == "mine"


@pytest.mark.parametrize("json_too", [False, True])
def test_findings_are_told_whatever_becomes_of_the_report(data, tmp_path, capsys, monkeypatch, json_too):
    """Exit code 1 is for data that harm: clean data with a full disk end with 2, and nothing that was found is lost."""

    def full(*arguments, **named):
        raise OSError(28, "No space left on device", "check.html")

    monkeypatch.setattr("nuriwake.api.report_check", full)
    arguments = ["check", str(data), "--workers", "1", "--report", str(tmp_path / "check.html")]
    assert run([*arguments, *(["--json"] if json_too else [])]) == 2
    caught = capsys.readouterr()
    assert "check.html: No space left on device." in caught.err
    if json_too:
        plain = json.loads(caught.out)
        assert plain["images"] == 9
        assert plain["error"] == "check.html: No space left on device."
    else:
        assert "9 images" in caught.out


def test_json_says_why_data_cannot_be_opened(tmp_path, capsys):
    assert run(["check", str(tmp_path / "nowhere"), "--json"]) == 2
    assert "no such folder" in json.loads(capsys.readouterr().out)["error"]


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
