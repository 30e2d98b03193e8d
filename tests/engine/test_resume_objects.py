"""A training of objects or segments that is killed and goes on ends with exactly the weights of one that was not."""

import multiprocessing
import time

import cv2
import pytest
import torch

from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.run import Run, holds_run
from nuriwake.engine.train import train

FORK = multiprocessing.get_context("fork")
CPU = torch.device("cpu")


def saved_step(run: Run) -> int:
    return read_torch(run.last, CPU)["position"]["step"] if run.last.is_file() else 0


def killed_after(config, step: int) -> int:
    """Train in another process, which is killed as soon as a checkpoint of `step` steps is there; the step that it left."""
    run, end = Run(config.out), time.monotonic() + 240
    process = FORK.Process(target=train, args=(config,), kwargs={"resume": holds_run(config.out)})
    process.start()
    while saved_step(run) < step and process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.join()
    return saved_step(run)


def flat(value, where=""):
    """Dotted name -> tensor or plain value of a checkpoint."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {where: value}
    return {name: leaf for key, item in items for name, leaf in flat(item, f"{where}.{key}").items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("model", "task", "mixing"),
    [
        ("solov2_mobilenet_v2", "instance", [{"copy_paste": {"probability": 0.7}}, {"mosaic": {"probability": 0.3}}]),
        ("mask2former_mobilenet_v2", "panoptic", [{"mosaic": {"probability": 0.5}}]),
    ],
)
def test_killed_and_resumed_ends_with_the_same_weights(object_config, tmp_path, model, task, mixing):
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # threads do not survive a fork
    values = {
        "steps": 8,
        "evaluation.every": 4,
        "augmentation.mixing": mixing,
        "data.workers": 1,
        "checkpoint_seconds": 0.0,
        # Gradients of thousands of points cost most of a step of such a small model.
        "loss.options": {"points": 200} if "mask2former" in model else {},
    }
    calm = train(object_config(model, task, {**values, "out": str(tmp_path / "calm")}))
    config = object_config(model, task, {**values, "out": str(tmp_path / "killed")})
    deaths = [killed_after(config, 2), killed_after(config, 5)]
    assert 0 < deaths[0] < 8, deaths
    killed = train(config, resume=True)
    first, second = (flat(read_torch(run.last, CPU)) for run in (calm, killed))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name.startswith((".model", ".average", ".optimiser")):
            same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
            assert same, name
    assert calm.scores == killed.scores
    losses = [{line["step"]: line["loss"] for line in run.history if line["kind"] == "train"} for run in (calm, killed)]
    assert losses[0].keys() >= losses[1].keys()
