"""Killed at any moment and resumed, a run ends with exactly the weights of an uninterrupted one."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import cv2
import pytest
import torch
from safetensors import SafetensorError

from nuriwake.core.errors import RunError, UserError
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.interrupts import Interrupted
from nuriwake.engine.run import Log, Run, holds_run, open_run, read_lines
from nuriwake.engine.train import train

STEPS = 60

# Forked from this process, which has run everything once: a start takes milliseconds instead of many seconds.
FORK = multiprocessing.get_context("fork")


def start(config):
    process = FORK.Process(target=_train_here, args=(config,))
    process.start()
    return process


def _train_here(config) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    train(config, resume=holds_run(config.out))


def assert_same(one, other, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
        assert one.stride() == other.stride(), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}[{index}]")
    else:
        assert one == other, where


def assert_same_run(one: Run, other: Run) -> None:
    cpu = torch.device("cpu")
    first, second = (read_torch(run.last, cpu) for run in (one, other))
    for part in ("model", "average", "optimiser"):
        assert_same(first[part], second[part], part)
    assert first["position"]["best"] == second["position"]["best"]
    best = first["position"]["best"]["file"]
    assert_same(*(read_torch(run.last.parent / best, cpu) for run in (one, other)), "best")
    evaluations = [
        [(line["step"], line["scores"]) for line in run.history if line["kind"] == "evaluation"] for run in (one, other)
    ]
    assert evaluations[0] == evaluations[1]
    assert one.scores == other.scores


def test_killed_at_random_moments_ends_with_the_same_weights(tiny_config, tmp_path):
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # threads do not survive a fork
    long = {"data.workers": 1, "optim.accumulation": 2, "checkpoint_seconds": 0.05, "evaluation.every": 13}
    train(tiny_config({**long, "steps": 1, "out": str(tmp_path / "warm")}))
    calm = tiny_config({**long, "steps": STEPS, "out": str(tmp_path / "calm")})
    began = time.perf_counter()
    train(calm)
    took = time.perf_counter() - began

    killed = tiny_config({**long, "steps": STEPS, "out": str(tmp_path / "killed")})
    moments = random.Random(os.getpid())
    deaths: list[int] = []
    for turn in range(4):
        process = start(killed)
        if turn % 2:  # at any moment of the process, its start included
            process.join(moments.uniform(0.0, 0.3 * took))
        else:  # at any moment of the training
            wait_for_step(killed.out, deaths[-1] if deaths else 0, process, patience=20 * took)
            process.join(moments.uniform(0.0, 0.15 * took))
        process.kill()
        process.join()
        deaths.append(saved_step(killed.out))
    assert finished(start(killed))
    assert any(0 < step < STEPS for step in deaths), deaths
    assert_same_run(Run(calm.out), Run(killed.out))


def finished(process) -> bool:
    process.join()
    return process.exitcode == 0


def saved_step(folder: Path) -> int:
    last = Run(folder).last
    return read_torch(last, torch.device("cpu"))["position"]["step"] if last.is_file() else 0


def wait_for_step(folder: Path, step: int, process, *, patience: float) -> None:
    """Until a checkpoint beyond `step` is there, or the process has ended."""
    end = time.perf_counter() + patience
    while saved_step(folder) <= step and process.is_alive() and time.perf_counter() < end:
        time.sleep(0.02)


def test_checkpoints_change_nothing(tiny_config, tmp_path):
    often = train(tiny_config({"checkpoint_seconds": 0.0, "out": str(tmp_path / "often")}))
    never = train(tiny_config({"checkpoint_seconds": 1e9, "out": str(tmp_path / "never")}))
    assert_same_run(often, never)


def test_a_run_that_went_back_does_not_depend_on_the_clock(tiny_config, tmp_path, monkeypatch):
    import nuriwake.engine.train as loop

    step = loop.take_step

    def poisoned(job, batches, watch, rate, *, backbone):
        if job.position.step == 8 and not job.position.retreats:
            with torch.no_grad():
                next(job.model.parameters()).fill_(torch.inf)
        return step(job, batches, watch, rate, backbone=backbone)

    monkeypatch.setattr(loop, "take_step", poisoned)
    values = {"steps": 14, "evaluation.every": 3}
    often = train(tiny_config({**values, "checkpoint_seconds": 0.0, "out": str(tmp_path / "often")}))
    never = train(tiny_config({**values, "checkpoint_seconds": 1e9, "out": str(tmp_path / "never")}))
    assert_same_run(often, never)
    for run in (often, never):
        steps = [line["step"] for line in run.history if line["kind"] == "evaluation"]
        assert steps == [3, 6, 9, 12, 14]
        (event,) = (line for line in run.history if line["kind"] == "event")
        assert event["step"] == 6  # the evaluation before the failure
        assert [line["step"] for line in run.history] == sorted(line["step"] for line in run.history)


def test_sigterm_saves_and_leaves(tiny_config, monkeypatch):
    import nuriwake.engine.train as loop

    config = tiny_config({"steps": 12})
    step = loop.take_step

    def step_with_signal(job, batches, watch, rate, *, backbone):
        if job.position.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(job, batches, watch, rate, backbone=backbone)

    monkeypatch.setattr(loop, "take_step", step_with_signal)
    with pytest.raises(Interrupted, match="stopped at step 6 and saved") as caught:
        train(config)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    resumed = train(config, resume=True)
    straight = train(tiny_config({"steps": 12, "out": str(config.out.parent / "straight")}))
    assert_same_run(resumed, straight)


@pytest.mark.parametrize("images", [1, 0])
def test_sigterm_does_not_wait_for_an_evaluation(tiny_config, monkeypatch, images):
    """Neither for one that is running, after one of its images, nor for one that is due."""
    import nuriwake.engine.train as loop

    values = {"steps": 12, "evaluation.every": 4}
    config, seen = tiny_config(values), []
    evaluate, step = loop.evaluate, loop.take_step

    def evaluate_with_signal(*args, tick, **more):
        def counted(done):
            seen.append(done)
            if len(seen) > 4:  # the second evaluation
                os.kill(os.getpid(), signal.SIGTERM)
            tick(done)

        return evaluate(*args, tick=counted, **more)

    def step_with_signal(job, *args, **more):
        failure = step(job, *args, **more)
        if job.position.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return failure

    monkeypatch.setattr(
        *((loop, "evaluate", evaluate_with_signal) if images else (loop, "take_step", step_with_signal))
    )
    with pytest.raises(Interrupted, match="stopped at step 8 and saved"):
        train(config)
    assert [line["step"] for line in read_lines(config.out / "metrics.jsonl") if line["kind"] == "evaluation"] == [4]
    monkeypatch.undo()
    resumed = train(config, resume=True)
    straight = train(tiny_config({**values, "out": str(config.out.parent / "straight")}))
    assert_same_run(resumed, straight)
    assert [line["step"] for line in resumed.history if line["kind"] == "evaluation"] == [4, 8, 12]


def test_what_was_logged_after_the_checkpoint_is_cut_off(tiny_config):
    config = tiny_config()
    run = train(config)
    lines = len(run.history)
    for name in ("evaluation.json", "bundle.safetensors"):
        (run.folder / name).unlink()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 999}) + "\n" + '{"kind": "cut')
    left = run.folder / "checkpoints" / ".last-0a1b2c3d.pt"  # a SIGKILL inside save_checkpoint
    left.write_bytes(b"half")
    again = train(config, resume=True)
    assert len(again.history) == lines
    assert again.finished
    assert not left.exists()


@pytest.mark.parametrize("tail", [b"", b"\0" * 40, b'{"kind": "tr'])
def test_a_history_that_a_power_cut_shortened_is_repaired(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(whole + tail)
    log = Log(path, len(whole) + 40)
    assert (log.length, log.lost) == (len(whole), 40)
    log.write({"step": 3})
    log.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]


def test_a_damaged_line_of_the_history_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 of the history is damaged"):
        read_lines(path)


def test_resume_of_a_finished_run_changes_nothing(tiny_config):
    config = tiny_config()
    run = train(config)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    train(config, resume=True)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_a_run_is_refused(tiny_config):
    train(tiny_config())
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny_config())


def test_files_of_a_run_without_its_configuration_are_refused(tiny_config):
    """A copied bundle and its evaluation would else pass for the result of a training that never took place."""
    config = tiny_config()
    run = train(config)
    (run.folder / "config.yaml").unlink()
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"bundle\.safetensors, evaluation\.json\) without its config\.yaml"):
        train(config)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_stopped_while_the_best_weights_are_evaluated(tiny_config, monkeypatch):
    def stop(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nuriwake.engine.train.finish", stop)
        with pytest.raises(Interrupted, match="--resume evaluates and writes the bundle") as caught:
            train(tiny_config())
    assert caught.value.exit_code == 130
    assert train(tiny_config(), resume=True).finished


def test_resume_without_a_run_is_refused(tiny_config):
    with pytest.raises(UserError, match="holds no run"):
        train(tiny_config(), resume=True)


def test_resume_with_another_configuration_names_the_fields(tiny_config):
    train(tiny_config())
    changed = tiny_config({"optim.learning_rate": 5e-4, "seed": 3})
    with pytest.raises(UserError, match=r"optim\.learning_rate is 0\.001 there and 0\.0005 now; seed is 0 there and 3"):
        train(changed, resume=True)


def test_resume_with_other_workers_is_allowed(tiny_config):
    config = tiny_config()
    train(config)
    train(tiny_config({"data.workers": 1, "checkpoint_seconds": 5.0}), resume=True)


def test_resume_with_other_data_is_refused(tiny_config, draw, tmp_path):
    train(tiny_config())
    other = draw(tmp_path / "other", train=11)
    with pytest.raises(UserError, match=r"other data: images of the split 'train' changed, 1 new \(.*another --out"):
        train(tiny_config({"data.path": str(other)}), resume=True)


def test_resume_after_a_mask_was_edited_says_what_to_do(tiny_config, draw, tmp_path):
    other = draw(tmp_path / "other")
    train(tiny_config({"data.path": str(other)}))
    path = other / "masks" / "train" / "train03.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::-1])
    with pytest.raises(UserError, match=r"contents of image, mask or annotation files.*Put the data back as they were"):
        train(tiny_config({"data.path": str(other)}), resume=True)


def test_a_damaged_checkpoint_is_named(tiny_config):
    config = tiny_config()
    run = train(config)
    (run.folder / "evaluation.json").unlink()
    run.last.write_bytes(run.last.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"last\.pt: the checkpoint is damaged"):
        train(config, resume=True)


def test_a_checkpoint_that_would_run_code_is_refused(tiny_config, tmp_path):
    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/planted",)

    config = tiny_config()
    run = train(config)
    (run.folder / "evaluation.json").unlink()
    torch.save({"format": 1, "position": Planted()}, run.last)
    with pytest.raises(UserError, match="damaged or not one of ours"):
        train(config, resume=True)
    assert not (tmp_path / "planted").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(tiny_config):
    config = tiny_config()
    run = train(config)
    straight = read_torch(run.last, torch.device("cpu"))["model"]
    for path in (run.folder / "evaluation.json", run.last):
        path.unlink()
    train(config, resume=True)
    assert_same(straight, read_torch(run.last, torch.device("cpu"))["model"])


def test_full_disk_is_one_sentence(tiny_config, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"cannot be written .*is the disk full"):
        train(tiny_config())


def test_a_disk_that_is_full_for_the_bundle_is_one_sentence(tiny_config, monkeypatch):
    def full(*args, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    config = tiny_config()
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(
            RunError, match=r"the bundle cannot be written \(No space left on device\); is the disk full"
        ):
            train(config)
    assert train(config, resume=True).bundle.is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_one_sentence(tiny_config, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            train(tiny_config())
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_folder(tiny_config, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="found a file"):
        train(tiny_config())


def test_open_run_of_another_folder(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        open_run(tmp_path)
