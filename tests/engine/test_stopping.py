"""Signals to all processes at once, two processes on one run, and resuming where files have moved meanwhile."""

import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch

import nuriwake.engine.setup as setup
import nuriwake.engine.train as loop
from nuriwake.api import train_config
from nuriwake.core.errors import RunError, UserError
from nuriwake.data.parallel import forking
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.interrupts import Interrupted
from nuriwake.engine.lock import Lock
from nuriwake.engine.run import Run, open_run
from nuriwake.engine.schedule import Plan
from nuriwake.engine.train import train
from nuriwake.weights.bundle import describe_bundle

FORK = multiprocessing.get_context("fork")


def _train_and_signal_the_group(config) -> None:
    os.setsid()  # a group of its own, as `timeout` and batch systems give it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    step = loop.take_step

    def step_with_signal(job, batches, watch, rate, *, backbone):
        if job.position.step == 5:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.5)  # for workers that leave at once to be noticed
        return step(job, batches, watch, rate, backbone=backbone)

    loop.take_step = step_with_signal
    try:
        train(config)
    except Interrupted as error:
        os._exit(error.exit_code)
    os._exit(1)


def test_sigterm_to_all_processes_saves_and_leaves(tiny_config):
    torch.set_num_threads(1)  # threads do not survive a fork
    config = tiny_config({"steps": 12, "data.workers": 1})
    process = FORK.Process(target=_train_and_signal_the_group, args=(config,))
    with forking():
        process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 128 + signal.SIGTERM
    assert read_torch(Run(config.out).last, torch.device("cpu"))["position"]["step"] == 6
    assert train(config, resume=True).finished


def _hold(folder, held) -> None:
    lock = Lock(folder)
    lock.take()
    held.set()
    time.sleep(120)


def test_a_run_that_another_process_works_on_is_refused(tiny_config):
    config = tiny_config()
    run = train(config)
    (run.folder / "evaluation.json").unlink()
    left = run.folder / "checkpoints" / ".last-0a1b2c3d.pt"  # which the other process may be writing
    left.write_bytes(b"half")
    held = FORK.Event()
    process = FORK.Process(target=_hold, args=(config.out, held))
    process.start()
    assert held.wait(60)
    try:
        with pytest.raises(UserError, match=rf"another process \({process.pid}\) is working on this run"):
            train(config, resume=True)
        assert left.exists()
    finally:
        process.kill()
        process.join()
    assert train(config, resume=True).finished


def test_two_new_runs_do_not_share_a_folder(tiny_config):
    config = tiny_config()
    held = FORK.Event()
    process = FORK.Process(target=_hold, args=(config.out, held))
    process.start()
    assert held.wait(60)
    try:
        with pytest.raises(UserError, match="another process"):
            train(config)
        assert [path.name for path in config.out.iterdir()] == [".lock"]
    finally:
        process.kill()
        process.join()


def test_data_may_have_moved_before_a_resume(tiny_config, draw, tmp_path):
    old, new = draw(tmp_path / "old"), tmp_path / "new"
    run = train_config(tiny_config({"data.path": str(old)}), say=lambda line: None)
    for name in ("evaluation.json", "report.html"):
        (run.folder / name).unlink()
    shutil.move(old, new)
    train_config(tiny_config({"data.path": str(new)}), resume=True, say=lambda line: None)
    assert (run.folder / "report.html").is_file()
    assert open_run(run.folder).config.data.path == new


def test_a_resume_does_not_ask_for_the_file_of_the_backbone(tiny_config, monkeypatch):
    given, build = [], setup.build_model

    def build_noting(*args, backbone_weights, **more):
        given.append(backbone_weights)
        model = build(*args, **more)
        model.notes = () if backbone_weights is None else ("one layer was repeated",)
        return model

    monkeypatch.setattr(setup, "build_model", build_noting)
    config = tiny_config({"model.name": "unet_mobilenet_v2", "model.backbone_weights": "gone.pth"})
    run = train(config)
    (run.folder / "evaluation.json").unlink()
    run = train(config, resume=True)
    assert given == ["gone.pth", None]
    about = describe_bundle(run.bundle)
    assert about.notes == ("one layer was repeated",)
    assert about.licence == "unknown: gone.pth"
    run.last.unlink()
    (run.folder / "evaluation.json").unlink()
    train(config, resume=True)
    assert given[2:] == ["gone.pth"]  # nothing was saved, so that everything begins anew


def test_a_budget_that_is_spent_before_the_first_step_is_refused(tiny_config):
    config = tiny_config({"steps": None, "budget": "0.001s"})
    with pytest.raises(UserError, match=r"budget: 0 s were allowed, and preparing took .*give several times as much"):
        train(config)
    assert not config.out.exists()
    setup.check_budget(Plan(budget=10.0), 2.0)
    with pytest.raises(UserError, match="10 s were allowed, and preparing took 10 s"):
        setup.check_budget(Plan(budget=10.0), 9.6)


def test_a_full_disk_on_resume_is_one_sentence(tiny_config, monkeypatch):
    config = tiny_config()
    run = train(config)
    (run.folder / "evaluation.json").unlink()
    before = (run.folder / "config.yaml").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nuriwake.engine.run.write_text", full)
    with pytest.raises(RunError, match=r"config\.yaml cannot be written .*is the disk full"):
        train(tiny_config({"data.workers": 0, "data.cache_mib": 9}), resume=True)
    assert (run.folder / "config.yaml").read_bytes() == before
