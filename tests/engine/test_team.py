"""Several batches per step and several processes are one larger batch; the processes take the same turn and score the same weights."""

import multiprocessing
import os
import signal
import socket
from contextlib import nullcontext

import cv2
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.engine import train as loop
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.interrupts import Interrupted
from nuriwake.engine.run import holds_run, open_run
from nuriwake.engine.train import train

# Forked from this process, which has imported everything: see test_resume.
FORK = multiprocessing.get_context("fork")

# Without batch norm and dropout, which see the images of one process only. The crops reach beyond the images, so that
# pixels are ignored, in every image another number.
EXACT = {
    "model.options": {"norm": "group", "dropout": 0.0},
    "loss.terms": "cross_entropy",
    "loss.class_weights": "median",
    "augmentation.crop_size": 44,
    "augmentation.preset": "natural",
    "optim.name": "sgd",
    "optim.learning_rate": 0.1,
    "batch_size": 8,
    "steps": 5,
}


def weights(folder) -> dict[str, torch.Tensor]:
    return read_torch(open_run(folder).last, torch.device("cpu"))["model"]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _member(rank: int, work, jobs) -> None:
    for config, port in jobs:
        os.environ.update(
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        )
        work(config)


def train_in_two(*configs, work=train) -> None:
    """Each of `configs` in turn, by the same two processes."""
    jobs = [(config, free_port()) for config in configs]
    processes = [FORK.Process(target=_member, args=(rank, work, jobs)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        alive = process.is_alive()
        process.kill()
        assert not alive, "the processes wait for each other"
    assert [process.exitcode for process in processes] == [0, 0]


def assert_close(one, two) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-5, atol=1e-5)


def test_one_batch_or_two_or_two_processes(tiny_config, tmp_path):
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # threads do not survive a fork
    out = {name: str(tmp_path / name) for name in ("one", "accumulated", "two", "both", "busy", "budget")}
    halves = {"batch_size": 4, "optim.accumulation": 2}
    one = train(tiny_config({**EXACT, "out": out["one"]}))
    train(tiny_config({**EXACT, **halves, "out": out["accumulated"]}))
    # Checkpoints and evaluations at moments of the clock: the processes have to agree on them.
    busy = {"checkpoint_seconds": 0.05, "evaluation.every": 3, "steps": 30, "out": out["busy"]}
    train_in_two(
        tiny_config({**EXACT, "out": out["two"]}),
        tiny_config({**EXACT, **halves, "out": out["both"]}),
        tiny_config(busy),
        tiny_config({"checkpoint_seconds": 0.05, "budget": "4s", "out": out["budget"]}),
    )
    for name in ("accumulated", "two", "both"):
        assert_close(out["one"], out[name])
    two = open_run(out["two"])
    assert two.scores == pytest.approx(one.scores, abs=1e-5)
    names = [[image["name"] for image in run.evaluation["images"]] for run in (one, two)]
    assert names[0] == names[1]
    assert open_run(out["busy"]).finished
    assert open_run(out["budget"]).finished
    with pytest.raises(UserError, match="started with 2 processes and cannot be resumed with 1"):
        train(tiny_config(busy), resume=True)


def test_the_crops_of_this_test_ignore_pixels(tiny_config):
    from nuriwake.core.labels import IGNORE
    from nuriwake.engine.distribution import join_team
    from nuriwake.engine.lock import Lock
    from nuriwake.engine.setup import prepare_job

    config = tiny_config(EXACT)
    lock = Lock(config.out)
    job = prepare_job(config, join_team("cpu"), lock=lock, resume=False, report=lambda line: None)
    lock.release()
    shares = (next(job.batches()).targets == IGNORE).float().mean((1, 2))
    assert len(set(shares.tolist())) > 2


def _train_noting_buffers(config) -> None:
    """Train, or go on; every process writes the buffers that it evaluates. A signal stops the run "broken" in step 4."""
    evaluate, start = loop.evaluate, f"{config.out.name}-{os.environ['RANK']}-"

    def note(predictor, *rest, **options):
        number = len(list(config.out.parent.glob(f"{start}*")))
        torch.save(dict(predictor.model.named_buffers()), config.out.with_name(f"{start}{number}"))
        return evaluate(predictor, *rest, **options)

    resume = holds_run(config.out)
    stopped = config.out.name == "broken" and not resume
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", note)
        patch.setattr(loop, "take_step", _stopping(loop.take_step) if stopped else loop.take_step)
        with pytest.raises(Interrupted) if stopped else nullcontext():
            train(config, resume=resume)


def _stopping(take_step):
    def step(job, *rest, **options):
        if job.team.leader and job.position.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(job, *rest, **options)

    return step


@pytest.mark.parametrize("average", [None, 0.9])
def test_all_evaluate_the_statistics_that_are_kept(tiny_config, tmp_path, average):
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    norms = {"model.options": {"norm": "batch"}, "ema": average, "evaluation.every": 3, "steps": 6}
    whole, broken = (tiny_config({**norms, "out": str(tmp_path / name)}) for name in ("whole", "broken"))
    train_in_two(whole, broken, broken, work=_train_noting_buffers)
    for number in range(2):
        names = [f"{run}-{rank}-{number}" for run in ("whole", "broken") for rank in (0, 1)]
        expected, *others = (torch.load(tmp_path / name) for name in names)
        assert "encoder.1.running_mean" in expected
        for found in others:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    runs = [open_run(config.out) for config in (whole, broken)]
    scores = [[line["scores"] for line in run.history if line["kind"] == "evaluation"] for run in runs]
    assert scores[0] == scores[1]
    assert runs[0].scores == runs[1].scores
    torch.testing.assert_close(weights(broken.out), weights(whole.out), rtol=0, atol=0)
