"""Whole runs of a second on a tiny data set."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nuriwake.core.errors import RunError, UserError
from nuriwake.data.formats import open_data
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.evaluate import EvaluationRequest, evaluate
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


def test_accumulated_batches_equal_the_larger_batch(tiny_config, tmp_path):
    plain = {
        "model.options": {"norm": "none", "dropout": 0.0},
        "loss.terms": "cross_entropy",
        "augmentation.preset": "none",
    }
    # Crops inside the image only, so that no pixel is ignored and the mean of means is the mean.
    one = train(tiny_config({**plain, "batch_size": 8, "out": str(tmp_path / "one")}))
    two = train(tiny_config({**plain, "batch_size": 4, "optim.accumulation": 2, "out": str(tmp_path / "two")}))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-5, atol=1e-6)


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

    step, failed = loop._step, []

    def once(job, batches, watch, rate):
        if job.position.step == 3 and not failed:
            failed.append(rate)
            with torch.no_grad():
                next(job.model.parameters()).fill_(torch.inf)
        elif job.position.step == 3:
            failed.append(rate)
        return step(job, batches, watch, rate)

    monkeypatch.setattr(loop, "_step", once)
    run = train(tiny_config())
    assert run.finished
    assert failed[1] == pytest.approx(0.1 * failed[0])


def test_clipping_limits_the_step(tiny_config, monkeypatch):
    import nuriwake.engine.train as loop

    norms = []
    clip = loop._clip

    def spy(job):
        before = clip(job)
        norms.append((float(before), float(torch.nn.utils.get_total_norm([p.grad for p in job.model.parameters()]))))
        return before

    monkeypatch.setattr(loop, "_clip", spy)
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


def test_epochs_draw_every_image(tiny_config):
    run = train(tiny_config({"epochs": 2}))
    assert [line for line in run.history if line["kind"] == "train"][-1]["step"] == 5  # 20 images in batches of 4


def test_one_class_only_is_refused_and_leaves_nothing(tiny_config, draw, tmp_path):
    data = draw(tmp_path / "empty", classes=1)
    with pytest.raises(UserError, match="one class"):
        train(tiny_config({"data.path": str(data)}))
    assert not (tmp_path / "run").exists()


def test_a_misspelt_model_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'unet_mobilenet_v2'"):
        train(tiny_config({"model.name": "unet_mobilnet_v2"}))
    assert not (tmp_path / "run").exists()


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


SCRIPT = """
import sys
sys.path.insert(0, {models!r})
import torch, yaml
torch.set_num_threads(1)
from pathlib import Path
from nuriwake.core.serial import from_plain
from nuriwake.engine.config import RunConfig
from nuriwake.engine.train import train
train(from_plain(RunConfig, yaml.safe_load(Path({config!r}).read_text())))
"""


def test_two_processes_equal_one(tiny_config, tiny_models, tmp_path):
    """Without batch norm, dropout and ignored pixels, whose counts are per process."""
    values = {
        "model.options": {"norm": "group", "dropout": 0.0},
        "loss.terms": "cross_entropy",
        "augmentation.preset": "none",
        "steps": 5,
    }
    one = train(tiny_config({**values, "out": str(tmp_path / "one")}))
    config = tiny_config({**values, "out": str(tmp_path / "two")})
    from nuriwake.core.serial import to_plain

    (tmp_path / "two.yaml").write_text(json.dumps(to_plain(config)))
    script = SCRIPT.format(models=str(tiny_models), config=str(tmp_path / "two.yaml"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    two = open_run(Path(config.out))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-5, atol=1e-5)
    assert two.scores == pytest.approx(one.scores, abs=1e-5)
    assert [image["name"] for image in two.evaluation["images"]] == [
        image["name"] for image in one.evaluation["images"]
    ]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU: bf16 or fp16 with scaling, late looks at the loss"
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_a_gpu(tiny_config, precision):
    run = train(tiny_config({"device": "cuda", "precision": precision, "steps": 60, "optim.learning_rate": 0.02}))
    assert run.scores["dice"] > 0.8
