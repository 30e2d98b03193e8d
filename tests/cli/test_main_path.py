"""The verbs, one after another, on a small drawn data set; and what they say when something is wrong."""

import errno
import json
import os
import shutil
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import nuriwake as nw
from nuriwake.api import configure, read_overrides
from nuriwake.cli import run
from nuriwake.engine.interrupts import Interrupts
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models import build_model
from nuriwake.recipes.demo_data import draw_demo_data
from nuriwake.weights.bundle import Bundle, ModelSpec, save_bundle

SMALL = ["--steps", "4", "--batch-size", "2", "--augmentation.crop-size", "64", "--evaluation.every", "2"]
TINY = ["--model", "unet", "--model.options.width", "4", "--model.options.depth", "2"]
CLEAN = ["--predict.postprocessing", "{operation: drop_small, area: 5, classes: [disc, 2]}", "--predict.tile", "64"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_demo_data(tmp_path_factory.mktemp("data") / "shapes", train=6, val=3, size=(64, 96))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert run(["train", str(data), "--out", str(out), *SMALL, *CLEAN, "--licence", "CC0-1.0"]) == 0
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
    assert (found["count"], found["split"]) == (3, "val")
    assert run(["evaluate", str(trained), str(data), "--flips", "all"]) == 0
    out = capsys.readouterr().out
    assert "val: 3 images" in out
    assert "mean_iou" in out
    assert run(["evaluate", str(trained), str(data), "--format", "voc"]) == 2


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


def test_results_among_the_images_are_not_predicted_in_their_turn(trained, data, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(data / "images" / "val", photos)
    names = sorted(path.stem for path in photos.iterdir())
    for out in ("predictions", "predictions", "others"):
        assert run(["predict", str(trained), str(photos), "--out", str(photos / out)]) == 0
        listed = json.loads((photos / out / "predictions.json").read_text())["images"]
        assert [Path(entry["image"]).stem for entry in listed] == names
    assert capsys.readouterr().out.count("Left out as results of predict: 6 images in") == 2


def test_images_beside_results_are_predicted_from_every_folder(trained, data, tmp_path, monkeypatch):
    scans, images = tmp_path / "data" / "scans", sorted((data / "images" / "val").iterdir())

    def predicted(start: Path, *options: str) -> list[str]:
        monkeypatch.chdir(start)
        out = tmp_path / "found"
        shutil.rmtree(out, ignore_errors=True)
        assert run(["predict", str(trained), *options, "--out", str(out)]) == 0
        listed = json.loads((out / "predictions.json").read_text())["images"]
        return sorted((start / entry["image"]).name for entry in listed)

    shutil.copytree(data / "images" / "val", scans)
    monkeypatch.chdir(tmp_path / "data")
    assert run(["predict", str(trained), "scans", "--out", "scans"]) == 0
    names = sorted(path.name for path in images)
    assert predicted(tmp_path, "data") == predicted(scans, ".") == predicted(tmp_path / "data", str(scans)) == names
    (tmp_path / "data").rename(tmp_path / "moved")
    assert predicted(tmp_path, "moved") == names
    shutil.copy(images[0], tmp_path / "other.jpg")
    monkeypatch.chdir(tmp_path)
    assert run(["predict", str(trained), "other.jpg", "--out", "moved"]) == 0
    assert predicted(tmp_path / "moved", ".") == names
    assert predicted(tmp_path, "moved", "moved/other.png") == [*names, "other.png"]


def test_predict_sees_of_a_folder_what_training_sees(trained, data, tmp_path):
    image, folder = sorted((data / "images" / "val").glob("*.jpg"))[0], tmp_path / "in"
    (folder / ".thumbnails").mkdir(parents=True)
    (folder / "sub.png").mkdir()
    for place in ("a.jpg", ".x.jpg", ".thumbnails/b.jpg", "sub.png/c.jpg"):
        shutil.copy(image, folder / place)
    (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "._scan.nii.gz").write_bytes(b"\0\5\x16\7")
    (folder / "linked").symlink_to(image.parent)
    (folder / "self").symlink_to(".")
    assert run(["predict", str(trained), str(folder), "--out", str(tmp_path / "out")]) == 0
    listed = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    found = {Path(entry["image"]).relative_to(folder).as_posix() for entry in listed}
    assert found == {"a.jpg", "sub.png/c.jpg", *(f"linked/{path.name}" for path in image.parent.iterdir())}


def predicted(model: Path, images: Path, out: Path, *options: str) -> np.ndarray:
    """The labels of the only or first image."""
    assert run(["predict", str(model), str(images), "--out", str(out), *options]) == 0
    listed = json.loads((out / "predictions.json").read_text())["images"]
    return np.asarray(Image.open(out / listed[0]["labels"][0]))


def test_settings_come_from_the_bundle_a_file_and_options(trained, data, tmp_path):
    image = sorted((data / "images" / "val").glob("*.jpg"))[0]
    file = tmp_path / "settings.yaml"
    file.write_text("flips: all\nscales: [1, 1.5]\ntile: null\nthresholds: [0.9, 0.01, 0.9, 0.9]\npostprocessing: []")
    found = predicted(trained, image, tmp_path / "a", "--settings", str(file), "--flips", "none", "--batch-size", "3")
    changes = {"scales": (1.0, 1.5), "tile": 0, "thresholds": (0.9, 0.01, 0.9, 0.9), "postprocessing": ()}
    expected = nw.load(trained, settings=changes)
    assert expected.settings.flips == "none"
    np.testing.assert_array_equal(found, expected(np.asarray(Image.open(image))).labels)
    assert (found != predicted(trained, image, tmp_path / "b")).any()


def test_settings_says_what_a_bundle_is_and_keeps_others_in_it(trained, data, tmp_path, capsys):
    bundle = tmp_path / "b.safetensors"
    shutil.copy(trained / "bundle.safetensors", bundle)
    before = bundle.read_bytes()
    capsys.readouterr()
    assert run(["settings", str(bundle)]) == 0
    said_before = yaml.safe_load(capsys.readouterr().out)
    assert said_before["classes"] == ["background", "disc", "square", "triangle"]
    assert said_before["licence"] == "CC0-1.0"
    assert said_before["settings"]["postprocessing"][0]["classes"] == ["disc", 2]
    assert said_before["settings"]["tile"] == 64
    assert said_before["scores"]["images"] == 3
    assert "CC0-1.0" in (trained / "report.html").read_text()
    assert bundle.read_bytes() == before
    image = sorted((data / "images" / "val").glob("*.jpg"))[0]
    options = ["--thresholds", "0.9", "0.01", "0.9", "0.9", "--flips", "horizontal", "--postprocessing"]
    options += ["{operation: keep_largest, classes: [disc]}"]
    expected = predicted(bundle, image, tmp_path / "a", *options)
    assert run(["settings", str(bundle), *options]) == 0
    after = yaml.safe_load(capsys.readouterr().out.partition("\n")[2])
    assert after["settings"]["flips"] == "horizontal"
    assert len(after["notes"]) == len(said_before["notes"]) + 1
    np.testing.assert_array_equal(predicted(bundle, image, tmp_path / "c"), expected)


def test_a_multi_label_model_predicts_a_file_per_class(tmp_path):
    space = nw.LabelSpace(("water", "cloud"), exclusive=False)
    model = build_model("unet", in_channels=3, classes=2, options={"width": 4, "depth": 1})
    spec = ModelSpec("unet", 3, 2, {"width": 4, "depth": 1})
    save_bundle(tmp_path / "m.safetensors", Bundle("semantic", spec, space, Preprocessing()), model)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    model_file, out = str(tmp_path / "m.safetensors"), tmp_path / "p"
    options = ["--thresholds", "0.01", "0.99", "--settings", str(tmp_path / "s.yaml")]
    (tmp_path / "s.yaml").write_text("{thresholds: [0.5, 0.5], scales: [1.0]}")
    assert run(["predict", model_file, str(tmp_path / "a.png"), "--out", str(out), *options]) == 0
    (entry,) = json.loads((out / "predictions.json").read_text())["images"]
    expected = nw.load(model_file, settings={"thresholds": (0.01, 0.99)})(image).labels
    assert len(entry["labels"]) == 2
    for layer, file in enumerate(entry["labels"]):
        np.testing.assert_array_equal(np.asarray(Image.open(out / file)) > 0, expected[..., layer] == 1)
    assert entry["classes"]["water"]["pixels"] == expected[..., 0].sum()
    assert Image.open(out / entry["overlay"]).size == (40, 30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_so_and_goes_on(data, tmp_path, capsys, monkeypatch, number, code):
    enter = Interrupts.__enter__

    def enter_and_stop(self: Interrupts) -> Interrupts:
        entered = enter(self)
        os.kill(os.getpid(), number)
        return entered

    monkeypatch.setattr(Interrupts, "__enter__", enter_and_stop)
    assert run(["train", str(data), "--out", str(tmp_path / "r"), *TINY, *SMALL]) == code
    assert "stopped at step 0 and saved; continue with resume" in said(capsys)
    assert (tmp_path / "r" / "checkpoints" / "last.pt").is_file()


def test_a_run_in_bf16_is_scored_as_it_is_loaded(data, tmp_path, capsys):
    out = tmp_path / "r"
    options = [*TINY, *SMALL, "--precision", "bf16", "--predict.thresholds", "0.2", "0.3", "0.4", "0.5"]
    assert run(["train", str(data), "--out", str(out), *options]) == 0
    bundle = nw.describe(out)
    assert bundle.settings.thresholds == (0.2, 0.3, 0.4, 0.5)
    assert (bundle.model.options["width"], bundle.model.options["upsampling"]) == (4, "transposed")
    capsys.readouterr()
    assert run(["evaluate", str(out), str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = json.loads((out / "evaluation.json").read_text())
    assert (found["scores"], found["confusion"]) == (kept["scores"], kept["confusion"])
    assert {name: bundle.metrics[name] for name in kept["scores"]} == kept["scores"]


def test_a_stopped_prediction_says_so(trained, data, tmp_path, capsys, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nw.SemanticMap, "save", stop)
    assert run(["predict", str(trained), str(data / "images" / "val"), "--out", str(tmp_path / "p")]) == 130
    assert said(capsys).endswith("nuriwake: Stopped.")


def test_plot_draws_history_classes_and_confusion(trained, capsys):
    assert run(["plot", str(trained)]) == 0
    assert {"classes.png", "confusion.png", "history-loss.png"} <= {path.name for path in (trained / "plots").iterdir()}


def test_a_finished_run_resumes_without_its_options_typed_again(trained, data):
    before = (trained / "bundle.safetensors").read_bytes()
    assert run(["train", str(data), "--out", str(trained), "--resume"]) == 0
    assert (trained / "bundle.safetensors").read_bytes() == before


def test_models_lists_the_models(capsys):
    assert run(["models", "unet"]) == 0
    out = capsys.readouterr().out
    assert "31.04" in out
    assert "unet_mobilenet_v2" in out


def test_the_python_face(data, tmp_path):
    lines: list[str] = []
    overrides = {"steps": 2, "batch_size": 2, "augmentation.crop_size": 64}
    found = nw.train(data, model="unet_mobilenet_v2", out=tmp_path / "b", overrides=overrides, say=lines.append)
    assert found.finished
    assert any(line.startswith("augmentation.preset = ") for line in lines)
    assert nw.describe(tmp_path / "b").space.names == ("background", "disc", "square", "triangle")
    assert nw.evaluate(tmp_path / "b", data).scores == found.scores


def test_the_data_that_are_named_win_over_those_of_a_configuration_file(trained, data, tmp_path):
    other = draw_demo_data(tmp_path / "other", train=2, val=1, size=(64, 64))
    layer = read_overrides(trained / "config.yaml")
    assert layer["data"]["path"] == str(data)
    config = configure(other, model=None, out=tmp_path / "run", layers=(layer,))
    assert (config.data.path, config.out, config.steps) == (other, tmp_path / "run", 4)


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
        (["train", "{data}", "--format", "mask_foldr"], "Did you mean 'mask_folder'"),
        (["train", "{data}", "--epochs", "2", "--budget", "3m"], "one length"),
        (["train", "{data}", "--budget", "soon"], "duration"),
        (["predict", "{trained}", "{nothing}", "--out", "{empty}/o"], "no such file or folder"),
        (["predict", "{trained}", "{text}", "--out", "{empty}/o"], "text.png"),
        (["predict", "{trained}", "{bomb}", "--out", "{empty}/o"], "30,000x30,000"),
        (["predict", "{trained}", "{cut}", "--out", "{empty}/o"], "cut.jpg"),
        (["predict", "{broken}", "{data}", "--out", "{empty}/o"], "broken.safetensors"),
        (["predict", "{foreign}", "{data}", "--out", "{empty}/o"], "no nuriwake bundle"),
        (["evaluate", "{trained}", "{data}", "--split", "test"], "test"),
        (["evaluate", "{trained}", "{data}", "--thresholds", "0.5"], "wants 4, found 1"),
        (["predict", "{trained}", "{data}", "--out", "{empty}/o", "--flip", "all"], "Did you mean --flips"),
        (
            ["predict", "{trained}", "{data}", "--out", "{empty}/o", "--settings", "{misspelt}"],
            "Did you mean 'overlap'",
        ),
        (["predict", "{trained}", "{data}", "--out", "{empty}/o", "--postprocessing", "{{operation: opn}}"], "'open'"),
        (["predict", "{trained}", "{data}", "--out", "{empty}/o", "--postprocessing", "{{operation"], "expected YAML"),
        (["predict", "{trained}", "{data}", "--out", "{empty}/o", "--decoding.cut", "1"], "settings.decoding.cut"),
        (["settings", "{trained}", "--overlap", "0.9"], "overlap: expected 0 to 0.5, found 0.9"),
        (["train", "{data}", "--out", "{empty}/r", "--predict.thresholds", "0.5"], "wants 4, found 1"),
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
    places["misspelt"] = tmp_path / "misspelt.yaml"
    places["misspelt"].write_text("overlp: 0.3")
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


def test_a_prediction_never_overwrites_a_file_that_is_none(trained, data, tmp_path, capsys):
    folder = tmp_path / "d"
    shutil.copytree(data, folder)
    masks = {path: path.read_bytes() for path in (folder / "masks" / "val").iterdir()}
    assert run(["predict", str(trained), str(folder / "images" / "val"), "--out", str(folder / "masks" / "val")]) == 2
    assert "is there already, and no earlier prediction" in capsys.readouterr().err
    assert masks == {path: path.read_bytes() for path in (folder / "masks" / "val").iterdir()}


def test_predictions_are_added_to_a_folder_or_made_anew(trained, data, tmp_path, capsys):
    images = sorted((data / "images" / "val").iterdir())[:3]
    out = tmp_path / "out"

    def stems() -> list[str]:
        return [Path(item["image"]).stem for item in json.loads((out / "predictions.json").read_text())["images"]]

    for image in images[:2]:
        assert run(["predict", str(trained), str(image), "--out", str(out)]) == 0
    assert stems() == [image.stem for image in images[:2]]
    assert run(["predict", str(trained), str(images[0]), str(images[2]), "--out", str(out)]) == 0
    assert stems() == [images[index].stem for index in (1, 0, 2)]
    other = tmp_path / "other.safetensors"
    shutil.copy(trained / "bundle.safetensors", other)
    assert run(["predict", str(other), str(images[0]), "--out", str(out)]) == 2
    assert f"there are predictions of {images[1].stem}.png, {images[2].stem}.png already, with other weights" in (
        capsys.readouterr().err
    )
    assert run(["predict", str(other), *map(str, images), "--out", str(out)]) == 0
    assert stems() == [image.stem for image in images]
    (out / "predictions.json").write_text('{"images": [{}]}')
    assert run(["predict", str(other), str(images[0]), "--out", str(out)]) == 2
    assert "predictions.json: this file of earlier predictions is damaged" in capsys.readouterr().err
