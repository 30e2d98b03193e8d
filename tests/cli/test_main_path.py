"""The verbs, one after another, on a small drawn data set; and what they say when something is wrong."""

import errno
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nuriwake as nw
from nuriwake.cli import run
from nuriwake.recipes.demo_data import draw_demo_data

SMALL = ["--steps", "4", "--batch-size", "2", "--augmentation.crop-size", "64", "--evaluation.every", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_demo_data(tmp_path_factory.mktemp("data") / "shapes", train=6, val=3, size=(64, 96))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert run(["train", str(data), "--out", str(out), *SMALL]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_run_folder_holds_what_a_user_needs(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "config.yaml",
        "choices.json",
        "metrics.jsonl",
        "bundle.safetensors",
        "evaluation.json",
        "report.html",
    } <= names
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [2, 4]
    page = (trained / "report.html").read_text()
    assert "triangle" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_evaluate_repeats_the_score_of_the_training(trained, data, capsys):
    assert run(["evaluate", str(trained), str(data), "--split", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = json.loads((trained / "evaluation.json").read_text())
    assert found["scores"] == kept["scores"]
    assert run(["evaluate", str(trained), str(data)]) == 0
    assert "mean_iou" in capsys.readouterr().out


def test_predict_writes_labels_overlay_and_list(trained, data, tmp_path):
    out = tmp_path / "predictions"
    assert run(["predict", str(trained), str(data / "images" / "val"), "--out", str(out)]) == 0
    listed = json.loads((out / "predictions.json").read_text())["images"]
    assert len(listed) == 3
    for entry in listed:
        labels = np.asarray(Image.open(out / entry["labels"][0]))
        assert labels.shape == (64, 96)
        assert sum(item["pixels"] for item in entry["classes"].values()) == labels.size
        assert Image.open(out / entry["overlay"]).size == (96, 64)
    predictor = nw.load(trained)
    image = np.asarray(Image.open(listed[0]["image"]))
    np.testing.assert_array_equal(predictor(image).labels, np.asarray(Image.open(out / listed[0]["labels"][0])))


def test_plot_draws_history_classes_and_confusion(trained, capsys):
    assert run(["plot", str(trained)]) == 0
    assert {"classes.png", "confusion.png", "history-loss.png"} <= {path.name for path in (trained / "plots").iterdir()}


def test_a_finished_run_resumes_without_its_options_typed_again(trained, data):
    before = (trained / "bundle.safetensors").read_bytes()
    assert run(["train", str(data), "--out", str(trained), "--resume"]) == 0
    assert (trained / "bundle.safetensors").read_bytes() == before


def test_models_lists_every_model(capsys):
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert "31.04" in out
    assert "unet_mobilenet_v2" in out


def test_the_python_face(data, tmp_path):
    lines: list[str] = []
    overrides = {"steps": 2, "batch_size": 2, "augmentation.crop_size": 64}
    found = nw.train(data, model="unet_mobilenet_v2", out=tmp_path / "b", overrides=overrides, say=lines.append)
    assert found.finished
    assert any("batch" in line or "crop" in line for line in lines)
    assert nw.describe(tmp_path / "b").space.names == ("background", "disc", "square", "triangle")
    assert nw.evaluate(tmp_path / "b", data).scores == found.scores


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train", "{data}", "--optim.learning-rat", "1"], "Did you mean --optim.learning-rate"),
        (["train", "{data}", "--model", "unet_mobilnet_v2"], "Did you mean 'unet_mobilenet_v2'"),
        (["train", "{data}", "--out", "{trained}"], "already holds a run"),
        (["train", "{data}", "--out", "{trained}", "--resume", "--seed", "5"], "seed is 0 there and 5 now"),
        (["train", "{nothing}"], "no such folder"),
        (["train", "{empty}"], "empty"),
        (["train", "{data}", "--config", "{field}"], "Did you mean 'learning_rate'"),
        (["train", "{data}", "--epochs", "2", "--budget", "3m"], "one length"),
        (["train", "{data}", "--budget", "soon"], "duration"),
        (["predict", "{trained}", "{nothing}", "--out", "{empty}/o"], "no such file or folder"),
        (["predict", "{trained}", "{text}", "--out", "{empty}/o"], "text.png"),
        (["predict", "{trained}", "{bomb}", "--out", "{empty}/o"], "30000x30000"),
        (["predict", "{trained}", "{cut}", "--out", "{empty}/o"], "cut.jpg"),
        (["predict", "{broken}", "{data}", "--out", "{empty}/o"], "broken.safetensors"),
        (["predict", "{foreign}", "{data}", "--out", "{empty}/o"], "no nuriwake bundle"),
        (["evaluate", "{trained}", "{data}", "--split", "test"], "test"),
        (["plot", "{empty}"], "holds no run"),
    ],
)
def test_one_sentence_and_exit_code_2(arguments, words, data, trained, bad, capsys):
    places = {"data": data, "trained": trained, **bad}
    code = run([argument.format(**places) for argument in arguments])
    message = said(capsys)
    assert code == 2, message
    assert message.startswith("nuriwake: ")
    assert words in message
    assert "Traceback" not in message
    assert list(bad["empty"].rglob("*.png")) == []


@pytest.fixture
def bad(tmp_path, data) -> dict[str, Path]:
    """Files and folders of which each is wrong in one way."""
    places = {name: tmp_path / name for name in ("nothing", "empty")}
    places["empty"].mkdir()
    places |= {
        name: tmp_path / file
        for name, file in {
            "field": "field.yaml",
            "text": "text.png",
            "bomb": "bomb.png",
            "cut": "cut.jpg",
            "broken": "broken.safetensors",
            "foreign": "foreign.safetensors",
        }.items()
    }
    places["field"].write_text("optim: {learning_rat: 1}")
    places["text"].write_text("no image")
    places["bomb"].write_bytes(_png_header(30_000, 30_000))
    whole = next((data / "images" / "val").glob("*.jpg")).read_bytes()
    places["cut"].write_bytes(whole[: len(whole) // 2])
    places["broken"].write_bytes(b"\x10\x00\x00")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, places["foreign"])
    return places


def test_what_was_predicted_before_a_bad_image_is_listed(trained, data, bad, tmp_path, capsys):
    good = sorted((data / "images" / "val").glob("*.jpg"))[0]
    out = tmp_path / "some"
    assert run(["predict", str(trained), str(good), str(bad["text"]), "--out", str(out)]) == 2
    assert [Path(item["image"]) for item in json.loads((out / "predictions.json").read_text())["images"]] == [good]


def test_a_prediction_never_overwrites_an_image(trained, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(image)
    before = image.read_bytes()
    assert run(["predict", str(trained), str(image), "--out", str(tmp_path)]) == 2
    assert "would overwrite this image" in said(capsys)
    assert image.read_bytes() == before


def test_a_full_disk_is_one_sentence(trained, data, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "predictions/a.png")

    monkeypatch.setattr(nw.SemanticMap, "save", full)
    assert run(["predict", str(trained), str(data / "images" / "val"), "--out", str(tmp_path / "p")]) == 1
    assert "the disk is full; free some space" in said(capsys)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )
