"""Whole runs of a second on a tiny data set."""

import os
import shutil
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.data.formats import open_data
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.evaluate import EvaluationRequest, check_space, evaluate
from nuriwake.engine.run import open_run
from nuriwake.engine.train import train
from nuriwake.tasks import get_task
from nuriwake.weights.bundle import load_predictor, read_bundle


def weights(run) -> dict[str, torch.Tensor]:
    return read_torch(run.last, torch.device("cpu"))["model"]


def test_a_run_learns_and_leaves_everything(tiny_config, disc_data):
    lines: list[str] = []
    config = tiny_config({"steps": 60, "optim.learning_rate": 0.02, "data.workers": 0})
    run = train(config, report=lines.append)
    assert run.finished
    assert run.scores["dice"] > 0.8
    assert run.evaluation["metric"] == "dice"
    assert {image["name"] for image in run.evaluation["images"]} == {f"val/val{index:02}" for index in range(3)}
    assert run.evaluation["worst"] == run.evaluation["best"][::-1]
    assert open_run(run.folder).config == run.config
    assert any("best weights" in line for line in lines)
    kinds = {line["kind"] for line in run.history}
    assert kinds == {"train", "evaluation"}
    # The bundle alone, opened anew, scores exactly what the run says.
    data = open_data(disc_data)
    task = get_task("semantic")
    again = evaluate(load_predictor(run.bundle), data, data.records("val"), request=EvaluationRequest(task, "dice"))
    assert again.scores == run.scores
    bundle, _ = read_bundle(run.bundle)
    assert bundle.settings.thresholds == tuple(run.evaluation["thresholds"])
    assert bundle.metrics["dice"] == run.scores["dice"]
    assert bundle.config["optim"]["learning_rate"] == 0.02
    assert not list((run.folder / "checkpoints").glob(".*"))


def test_several_classes(tiny_config, draw, tmp_path):
    data = draw(tmp_path / "three", classes=3)
    run = train(tiny_config({"data.path": str(data), "evaluation.metrics": ["boundary", "surface"]}))
    assert run.evaluation["metric"] == "mean_iou"
    assert run.evaluation["thresholds"] == []
    assert np.array(run.evaluation["confusion"]).shape == (3, 3)
    assert {"mean_boundary_iou", "hd95_pooled", "nsd_1"} <= set(run.scores)


def test_a_loss_that_is_not_finite_names_the_batch_and_goes_back_once(tiny_config, draw, tmp_path):
    import cv2

    data = draw(tmp_path / "poisoned", train=10)
    white = data / "images" / "train" / "train04.png"
    cv2.imwrite(str(white), np.full_like(cv2.imread(str(white)), 255))
    lines: list[str] = []
    config = tiny_config(
        {
            "data.path": str(data),
            "model.name": "tiny_model:Poisoned",
            "augmentation.preset": "none",
            "model.options": {"dropout": 0.0},
            "steps": 30,
        }
    )
    with pytest.raises(RunError, match=r"the loss was nan for the batch of .*train/train04.* gone back"):
        train(config, report=lines.append)
    assert sum("of the learning rate" in line for line in lines) == 1
    history = open_run(config.out).history
    assert [line["event"] for line in history if line["kind"] == "event"] == ["retreat"]
    assert all(torch.isfinite(value).all() for value in weights(open_run(config.out)).values())


def test_a_passing_failure_is_survived_at_a_lower_rate(tiny_config, monkeypatch):
    import nuriwake.engine.train as loop

    step, failed = loop.take_step, []

    def once(job, batches, watch, rate, *, backbone):
        if job.position.step == 3 and not failed:
            failed.append(rate)
            with torch.no_grad():
                next(job.model.parameters()).fill_(torch.inf)
        elif job.position.step == 3:
            failed.append(rate)
        return step(job, batches, watch, rate, backbone=backbone)

    monkeypatch.setattr(loop, "take_step", once)
    run = train(tiny_config())
    assert run.finished
    assert failed[1] == pytest.approx(0.1 * failed[0])


@pytest.fixture
def scaled(monkeypatch):
    """The scaler of fp16, which only a GPU would have, at work on the CPU."""
    monkeypatch.setattr("nuriwake.engine.setup.loss_scaler", lambda *_: torch.amp.GradScaler("cpu"))


def test_a_passing_failure_is_survived_with_a_scaled_loss(tiny_config, monkeypatch, scaled):
    import nuriwake.engine.train as loop

    step, failed, scales = loop.take_step, [], []

    def once(job, batches, watch, rate, *, backbone):
        if job.position.step == 3 and not failed:
            failed.append(rate)
            with torch.no_grad():
                next(job.model.parameters()).fill_(torch.inf)
        failure = step(job, batches, watch, rate, backbone=backbone)
        scales.append(job.scaler.get_scale())
        return failure

    monkeypatch.setattr(loop, "take_step", once)
    assert train(tiny_config()).finished
    assert failed
    assert len(scales) == 7  # the fourth step is taken again
    assert scales[-1] == 2.0**16


def test_gradients_that_are_never_finite_end_a_run_with_a_scaled_loss(tiny_config, scaled):
    lines: list[str] = []
    config = tiny_config({"model.name": "tiny_model:Overflowing", "steps": 100})
    with pytest.raises(RunError, match=r"the gradient was not finite in so many steps of fp16.* precision fp32"):
        train(config, report=lines.append)
    assert sum("of the learning rate" in line for line in lines) == 1
    assert open_run(config.out).history[-1]["step"] <= 20


def test_clipping_limits_the_step(tiny_config, monkeypatch):
    import nuriwake.engine.step as steps

    norms = []
    clip = steps.clip

    def spy(job):
        before = clip(job)
        norms.append((float(before), float(torch.nn.utils.get_total_norm([p.grad for p in job.model.parameters()]))))
        return before

    monkeypatch.setattr(steps, "clip", spy)
    train(tiny_config({"optim.clip": 0.01}))
    assert all(before > 0.01 and after == pytest.approx(0.01, rel=1e-3) for before, after in norms)


def test_early_stop_and_best_by_name(tiny_config, tmp_path):
    run = train(
        tiny_config(
            {
                "steps": 40,
                "evaluation.every": 1,
                "evaluation.early_stop": 3,
                "optim.learning_rate": 0.0,
                "evaluation.metric": "pixel_accuracy",
            }
        )
    )
    evaluations = [line for line in run.history if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [1, 2, 3, 4]
    assert run.evaluation["metric"] == "pixel_accuracy"
    assert run.evaluation["step"] == 1
    assert len(list((run.folder / "checkpoints").glob("best-*.pt"))) == 1


def test_the_average_is_what_is_evaluated(tiny_config):
    run = train(tiny_config({"optim.learning_rate": 0.02}))
    content = read_torch(run.last, torch.device("cpu"))
    _, state = read_bundle(run.bundle)
    if content["position"]["best"]["step"] == 6:
        assert all(torch.equal(state[name], value) for name, value in content["average"].items())
    assert any(not torch.equal(content["average"][name], value) for name, value in content["model"].items())


def test_without_average_and_with_sgd_and_balance(tiny_config):
    run = train(
        tiny_config({"ema": None, "optim.name": "sgd", "augmentation.balance": 0.5, "loss.class_weights": "median"})
    )
    assert read_torch(run.last, torch.device("cpu"))["average"] is None
    assert run.finished


def test_a_budget_is_kept(tiny_config):
    config = tiny_config({"budget": "6s"})
    train(tiny_config({"out": str(config.out.parent / "warm")}))
    began = time.perf_counter()
    run = train(config)
    assert time.perf_counter() - began < 6.0
    last = [line for line in run.history if line["kind"] == "train"][-1]
    assert last["progress"] == 1.0


@pytest.mark.parametrize("guessed", [0.0, 30.0])
def test_a_budget_that_is_too_small_for_the_evaluations_is_said(tiny_config, monkeypatch, guessed):
    import nuriwake.engine.train as loop

    monkeypatch.setattr(loop, "_guess", lambda *_: guessed)
    monkeypatch.setattr(loop, "evaluate", lambda *given, **more: replace(evaluate(*given, **more), seconds=30.0))
    lines: list[str] = []
    train(tiny_config({"budget": "6s"}), report=lines.append)
    said = [index for index, line in enumerate(lines) if "budget of 6 s will be exceeded by about" in line]
    evaluated = next(index for index, line in enumerate(lines) if line.startswith("step "))
    assert ["is guessed to take" in lines[index] for index in said] == ([True, False] if guessed else [False])
    assert (said[0] < evaluated) == bool(guessed)
    assert said[-1] > evaluated


def test_epochs_draw_every_image(tiny_config):
    run = train(tiny_config({"epochs": 2}))
    assert [line for line in run.history if line["kind"] == "train"][-1]["step"] == 5  # 20 images in batches of 4


def test_one_class_only_is_refused_and_leaves_nothing(tiny_config, draw, tmp_path):
    data = draw(tmp_path / "empty", classes=1)
    with pytest.raises(UserError, match="one class"):
        train(tiny_config({"data.path": str(data)}))
    assert not (tmp_path / "run").exists()


def test_a_validation_image_that_is_cut_off_leaves_nothing(tiny_config, draw, tmp_path, monkeypatch):
    monkeypatch.setattr("nuriwake.data.check._QUICK", 2)  # the one in the middle is not looked at closely
    data = draw(tmp_path / "cut")
    path = data / "images" / "val" / "val01.png"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"1 image is cut off\..*val01\.png"):
        train(tiny_config({"data.path": str(data)}))
    assert not (tmp_path / "run").exists()


def test_while_nothing_is_found_the_later_weights_are_kept(tiny_config, monkeypatch):
    import nuriwake.engine.train as loop

    monkeypatch.setattr(
        loop, "evaluate", lambda *args, **more: replace((found := evaluate(*args, **more)), scores={found.metric: 0.0})
    )
    values = {"steps": 6, "evaluation.every": 2, "evaluation.early_stop": 2}
    run = train(tiny_config(values))
    position = read_torch(run.last, torch.device("cpu"))["position"]
    assert (position["best"]["step"], position["step"], position["stale"]) == (6, 6, 2)


def test_a_function_may_build_the_model(tiny_config):
    run = train(tiny_config({"model.name": "tiny_model:make_tiny", "model.options": {"norm": "none"}, "steps": 2}))
    assert load_predictor(run.folder).model.drop.p == 0.0


def test_a_module_that_is_no_model_is_refused_and_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(UserError, match="'Plain' is neither a class derived from"):
        train(tiny_config({"model.name": "tiny_model:Plain"}))
    assert not (tmp_path / "run").exists()


def test_a_model_in_a_file_of_the_current_folder(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_of_this_folder.py").write_text("from tiny_model import Tiny as Net\n")
    assert train(tiny_config({"model.name": "net_of_this_folder:Net", "steps": 2})).finished


def test_a_misspelt_model_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'unet_mobilenet_v2'"):
        train(tiny_config({"model.name": "unet_mobilnet_v2"}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (["a", "b"], ["b", "a"], "have the classes a, b, but the model knows b, a"),
        (
            list("abcdefghij"),
            list("abcdefghix"),
            "have 10 classes, but the model knows 10; only the data have j; only the model has x",
        ),
        (list("abcdefghij"), list("abcdefghi"), "have 10 classes, but the model knows 9; only the data have j"),
        (list("abcdefghij"), list("abdcefghij"), "another order: class 2 is 'c' in the data and 'd' to the model"),
        (
            [f"x{i}" for i in range(80)],
            [str(i) for i in range(80)],
            "x0, x1, x2, x3, x4, x5, x6, x7 and 72 more; only the model has 0, 1,",
        ),
    ],
)
def test_classes_that_differ_are_named_a_few_at_most(data, model, message):
    one, other = (LabelSpace(tuple(names)) for names in (model, data))
    found = SimpleNamespace(answers=one, task="semantic"), SimpleNamespace(space=other, root="street")
    with pytest.raises(UserError) as caught:
        check_space(*found)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_other_classes_than_the_model_are_refused(tiny_config, draw, tmp_path):
    run = train(tiny_config())
    other = open_data(draw(tmp_path / "three", classes=3))
    with pytest.raises(UserError, match="the model knows"):
        evaluate(
            load_predictor(run.bundle),
            other,
            other.records("val"),
            request=EvaluationRequest(get_task("semantic"), "dice"),
        )


def test_a_model_without_padding_gets_a_crop_it_takes(tiny_config):
    options = {"model.name": "unet_valid", "model.options": {"width": 2}, "augmentation.crop_size": None, "steps": 2}
    lines: list[str] = []
    run = train(tiny_config(options), report=lines.append)
    assert run.finished
    assert run.config.augmentation.crop_size == 252  # 188 + 4 * 16, the first to show 64 pixels inside a margin of 92
    assert any("crop_size = 252" in line and "grown from 64" in line for line in lines)


def test_a_crop_that_the_model_does_not_take_is_refused_and_leaves_nothing(tiny_config, tmp_path):
    values = {"model.name": "unet_mobilenet_v2", "augmentation.crop_size": 300}
    with pytest.raises(UserError, match=r"augmentation\.crop_size: .* 300 pixels; the next size is 320"):
        train(tiny_config(values))
    assert not (tmp_path / "run").exists()


def test_evaluations_read_an_image_once(tiny_config, monkeypatch):
    import nuriwake.engine.setup as setup

    read, seen = setup._read, []

    def counted(data, records, index):
        seen.append(index)
        return read(data, records, index)

    monkeypatch.setattr(setup, "_read", counted)
    train(tiny_config({"evaluation.every": 2}))
    assert sorted(seen) == [0, 1, 2]


def test_the_truth_reaches_the_model(tiny_config, monkeypatch):
    import tiny_model

    seen = []

    def forward_training(self, images, truth):
        seen.append((images.shape[-2:], truth.shape[-2:], truth.dtype))
        return self(images)

    monkeypatch.setattr(tiny_model.Tiny, "forward_training", forward_training)
    train(tiny_config({"steps": 2}))
    assert seen == [((32, 32), (32, 32), torch.int64)] * 2


def test_events_for_tensorboard(tiny_config):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard: the extra 'tensorboard'"
    )
    run = train(tiny_config({"evaluation.every": 3}))
    events = accumulators.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/dice")] == [3, 6]
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6]


@pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler: torch.compile on the CPU"
)
def test_compiled(tiny_config, tmp_path):
    plain = {"steps": 2, "model.options": {"dropout": 0.0}, "optim.name": "sgd"}
    compiled = train(tiny_config({**plain, "compile": True, "out": str(tmp_path / "compiled")}))
    eager = train(tiny_config({**plain, "out": str(tmp_path / "eager")}))
    for name, value in weights(eager).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU: bf16 or fp16 with scaling, late looks at the loss"
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_a_gpu(tiny_config, precision):
    run = train(tiny_config({"device": "cuda", "precision": precision, "steps": 60, "optim.learning_rate": 0.02}))
    assert run.scores["dice"] > 0.8


def test_data_that_would_surely_give_a_useless_model_are_refused(tiny_config, tmp_path, draw):
    """Nearly all is ignored: the quick part of the check says so before anything is built."""
    root = draw(tmp_path / "ignored")
    for index, path in enumerate(sorted((root / "masks").rglob("*.png"))):
        mask = np.full((40, 48), 255, np.uint8)
        if index % 9 == 0:
            mask[:4], mask[4:8] = 0, 1
        Image.fromarray(mask).save(path)
    (root / "classes.json").write_text('{"classes": ["background", "disc"]}')
    with pytest.raises(UserError, match=r"To train anyway, set data\.check to false"):
        train(tiny_config({"data.path": str(root)}))
    assert not (tmp_path / "run").exists()
    train(tiny_config({"data.path": str(root), "data.check": False, "steps": 1}))
    assert (tmp_path / "run" / "bundle.safetensors").is_file()
