"""The verbs with objects and segments: from a folder to pictures and files that other programs open."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import nuriwake as nw
from nuriwake.cli import run
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings
from nuriwake.metrics.average_precision import FIGURES
from nuriwake.weights.bundle import read_bundle, save_bundle

SPACE = LabelSpace(("disc", "ground"), (True, False))
FAST = ["--steps", "2", "--batch-size", "2", "--augmentation.crop-size", "64", "--evaluation.every", "2"]


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image of bright discs and the number of each, uint16."""
    ids = np.zeros((72, 88), np.uint16)
    for number in range(1, 5):
        cv2.circle(ids, rng.integers(10, 62, 2).tolist(), int(rng.integers(5, 10)), number, -1)
    image = 60 + 120 * (ids > 0)[..., None] + rng.normal(0, 8, (*ids.shape, 3))
    return image.clip(0, 255).astype(np.uint8), ids


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """6 training and 3 validation images with 16-bit label PNG."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image, ids = scene(rng)
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(ids).save(root / "masks" / split / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def segments(tmp_path_factory) -> Path:
    """The like as COCO panoptic, discs on ground."""
    root, rng = tmp_path_factory.mktemp("segments"), np.random.default_rng(1)
    for split, count in (("train", 4), ("val", 2)):
        samples = []
        for index in range(count):
            image, ids = scene(rng)
            ids = np.where(ids == 0, 9, ids).astype(np.int32)
            numbers = np.unique(ids)
            target = Panoptic(ids, numbers.astype(np.int32), (numbers == 9).astype(np.int32), SPACE)
            samples.append(Sample(image, target, name=f"{split}{index}"))
        write_data(samples, root, format="coco_panoptic", space=SPACE, settings=WriteSettings(split=split))
    return root


@pytest.fixture(scope="module")
def trained(discs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "discs"
    options = ["--model", "mask_rcnn_mobilenet_v2_fpn", "--out", str(out), *FAST]
    assert run(["train", str(discs), *options]) == 0
    return out


@pytest.fixture(scope="module")
def universal(segments, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "segments"
    options = ["--model", "mask2former_mobilenet_v2", "--model.options.queries", "12", "--out", str(out), *FAST]
    assert run(["train", str(segments), *options]) == 0
    return out


def test_a_run_of_objects_is_complete(trained, capsys):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert evaluation["metric"] == "mask_ap"
    assert {"mask_ap50", "box_ap", "mask_ar100"} <= evaluation["scores"].keys()
    assert evaluation["per_class"]["foreground"]["objects"] > 0
    assert evaluation["details"]["mask_counts"]["images"] == 3
    assert "<html" in (trained / "report.html").read_text()
    bundle = nw.describe(trained)
    assert (bundle.task, bundle.settings.score_threshold, bundle.settings.tile) == ("instance", 0.5, 1024)


def test_evaluation_counts_objects_of_any_score(trained, discs, capsys):
    assert run(["evaluate", str(trained), str(discs), "--metrics", "boundary", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "boundary_ap" in found["scores"]
    assert found["scores"]["mask_ap"] == json.loads((trained / "evaluation.json").read_text())["scores"]["mask_ap"]


def test_evaluation_prints_boundaries_and_the_counts_of_all(trained, discs, capsys):
    assert run(["evaluate", str(trained), str(discs)]) == 0
    found = " ".join(capsys.readouterr().out.split())
    assert "boundary_ap50" in found
    assert "mask counts: objects 12, detections " in found
    assert "images 3, beyond limit 0" in found


def test_a_class_that_is_a_thing_here_and_stuff_there_is_not_evaluated(universal, segments, tmp_path, capsys):
    shutil.copytree(segments, tmp_path / "data")
    for file in (tmp_path / "data" / "annotations").glob("*.json"):
        plain = json.loads(file.read_text())
        for category in plain["categories"]:
            category["isthing"] = 1
        file.write_text(json.dumps(plain))
    assert run(["evaluate", str(universal), str(tmp_path / "data")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'ground' is a thing in the data, but stuff to the model (1 of 2 classes differ so)" in said


def test_predictions_of_objects_are_kept(trained, discs, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--out", str(out), "--score-threshold", "0.01", "--to", "labelme"]
    assert run(["predict", str(trained), str(discs / "images" / "val"), *options]) == 0
    plain = json.loads((out / "predictions.json").read_text())
    results = json.loads((out / "coco_results.json").read_text())
    predictor = nw.load(trained, settings={"score_threshold": 0.01})
    for entry in plain["images"]:
        answer = predictor(entry["image"])
        labels = np.asarray(Image.open(out / entry["labels"][0]))
        assert labels.dtype == np.uint16
        assert len(entry["objects"]) == len(answer) == sum(row["image_id"] == entry["image_id"] for row in results)
        for number, item in enumerate(entry["objects"], 1):
            assert item["area"] - item["hidden"] == (labels == number).sum()
        assert (out / entry["overlay"]).is_file()
    assert plain["category_ids"] == {"foreground": 1}
    assert plain["coco_results"]["category_ids"] == "category ids are 1, 2, ... in the order of the classes"
    said = " ".join(capsys.readouterr().out.split())
    assert "coco_results.json, coco_results_boxes.json: image ids are the numbers that" in said
    assert "scores are 0.01 and more; average precision needs all of them (--score-threshold 0)" in said
    opened = open_data(out / "labelme")
    assert {type(opened.read(record).target) for records in opened.splits.values() for record in records} == {Instances}


def test_objects_are_added_to_those_predicted_before(trained, discs, tmp_path, capsys):
    images = sorted((discs / "images" / "val").iterdir())
    options = ["--score-threshold", "0.01", "--out"]
    assert run(["predict", str(trained), *map(str, images), *options, str(tmp_path / "once")]) == 0
    for image in images:
        assert run(["predict", str(trained), str(image), *options, str(tmp_path / "one by one")]) == 0
    for name in ("coco_results.json", "coco_results_boxes.json", "predictions.json"):
        once, added = (json.loads((tmp_path / folder / name).read_text()) for folder in ("once", "one by one"))
        assert once == added
        assert once
    unnumbered = [
        shutil.copy(image, tmp_path / f"scan {letter}.png") for image, letter in zip(images, "ab", strict=False)
    ]
    assert run(["predict", str(trained), str(unnumbered[0]), *options, str(tmp_path / "c")]) == 0
    before = (tmp_path / "c" / "coco_results.json").read_bytes()
    assert run(["predict", str(trained), str(unnumbered[1]), *options, str(tmp_path / "c")]) == 2
    assert "the image ids that the new ones would get (1)" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "c" / "coco_results.json").read_bytes() == before


@pytest.mark.parametrize(("kind", "file"), [("mask", "coco_results.json"), ("box", "coco_results_boxes.json")])
def test_the_official_tool_scores_the_results_as_evaluate_does(trained, discs, tmp_path, capsys, kind, file):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    data = open_data(discs)
    samples = [replace(data.read(record), name=str(40 + number)) for number, record in enumerate(data.splits["val"])]
    write_data(samples, tmp_path, format="coco", space=data.space, settings=WriteSettings(split="val"))
    out = tmp_path / "out"
    options = ["--out", str(out), "--score-threshold", "0"]
    assert run(["predict", str(trained), str(tmp_path / "images" / "val"), *options]) == 0
    assert "average precision needs all" not in " ".join(capsys.readouterr().out.split())
    truth = coco.COCO(str(tmp_path / "annotations/instances_val.json"))
    tool = cocoeval.COCOeval(truth, truth.loadRes(str(out / file)), "segm" if kind == "mask" else "bbox")
    tool.evaluate()
    tool.accumulate()
    tool.summarize()
    found = nw.evaluate(trained, tmp_path, split="val").scores
    ours = [-1.0 if found[f"{kind}_{name}"] is None else found[f"{kind}_{name}"] for name in FIGURES]
    np.testing.assert_allclose(ours, tool.stats, atol=1e-9)
    assert max(ours) > 0


def test_results_have_the_ids_of_the_data_set(trained, discs, tmp_path):
    data = open_data(discs)
    records = data.splits["val"]
    settings = WriteSettings(split="val", category_ids=(7,))
    samples = [replace(data.read(record), name=f"scan{record.name[-1]}") for record in records]
    write_data(samples, tmp_path, format="coco", space=data.space, settings=settings)
    file = tmp_path / "annotations" / "instances_val.json"
    plain = json.loads(file.read_text())
    for table, key in (("images", "id"), ("annotations", "image_id")):
        for row in plain[table]:
            row[key] += 40
    file.write_text(json.dumps(plain))
    bundle, state = read_bundle(trained / "bundle.safetensors")
    bundle = replace(bundle, space=replace(bundle.space, ids=open_data(tmp_path).space.ids))
    save_bundle(tmp_path / "model", bundle, nw.load(trained).model, state=state)
    out = tmp_path / "out"
    options = ["--out", str(out), "--score-threshold", "0.01"]
    assert run(["predict", str(tmp_path / "model"), str(tmp_path / "images" / "val"), *options]) == 0
    results = json.loads((out / "coco_results.json").read_text())
    assert {row["category_id"] for row in results} == {7}
    assert {row["image_id"] for row in results} <= {row["id"] for row in plain["images"]}
    told = json.loads((out / "predictions.json").read_text())
    assert told["category_ids"] == {"foreground": 7}
    assert told["coco_results"]["image_ids"] == "image ids are from instances_val.json"


def test_training_keeps_the_ids_of_the_data_set(universal):
    assert nw.describe(universal).space.ids == (1, 2)


def test_one_universal_model_answers_all_three_tasks(universal, segments, tmp_path):
    folder = next(
        path for path in segments.rglob("*") if path.is_dir() and any(path.glob("val*.png")) and "images" in str(path)
    )
    kinds = {"semantic": SemanticMap, "instance": Instances, "panoptic": Panoptic}
    image = np.asarray(Image.open(next(iter(sorted(folder.glob("val*.png"))))))
    for task, kind in kinds.items():
        out = tmp_path / task
        assert run(["predict", str(universal), str(folder), "--task", task, "--out", str(out)]) == 0
        assert json.loads((out / "predictions.json").read_text())["images"]
        assert type(nw.load(universal, task=task)(image)) is kind


def test_panoptic_scores_come_with_those_of_maps_and_objects(universal, segments, capsys):
    assert run(["evaluate", str(universal), str(segments), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {"pq", "sq_things", "rq_stuff", "mean_iou", "mask_ap"} <= scores.keys()
    assert run(["evaluate", str(universal), str(segments), "--task", "semantic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "dice"


def test_a_task_that_a_model_does_not_answer(trained, discs, capsys):
    assert run(["predict", str(trained), str(discs / "images"), "--task", "panoptic", "--out", "nowhere"]) == 2
    assert "no decoder of the task 'panoptic'" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["coco", "yolo", "mask_folder"])
def test_a_data_set_is_converted(discs, tmp_path, capsys, to):
    assert run(["convert", str(discs), str(tmp_path / to), "--to", to]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)), "what holds for every split is said once"
    before, after = open_data(discs), open_data(tmp_path / to)
    assert {split: len(records) for split, records in after.splits.items()} == {"train": 6, "val": 3}
    for old, new in zip(before.records("val"), after.records("val"), strict=True):
        one, other = before.read(old).target, after.read(new).target
        assert (one.masks.merge().dense() == other.masks.merge().dense()).all()
        assert len(one) == len(other)
    assert run(["convert", str(discs), str(tmp_path / to), "--to", to]) == 2
    assert run(["convert", str(discs), str(tmp_path / "x"), "--to", "cocoo"]) == 2
    assert "Did you mean 'coco'" in capsys.readouterr().err
