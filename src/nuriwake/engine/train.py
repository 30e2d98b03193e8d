"""The training loop. It reads from top to bottom; every name it calls is a plain function of the engine."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from nuriwake.core.errors import RunError
from nuriwake.data.batching import Batch
from nuriwake.engine.checkpoint import Best, save_checkpoint, write_torch
from nuriwake.engine.config import RunConfig
from nuriwake.engine.distribution import join_team
from nuriwake.engine.evaluate import Evaluation, evaluate
from nuriwake.engine.finish import finish
from nuriwake.engine.interrupts import Interrupted, Interrupts
from nuriwake.engine.optim import learning, set_rate, training_mode
from nuriwake.engine.progress import Bar, Events
from nuriwake.engine.run import Log, Run
from nuriwake.engine.schedule import rate_factor
from nuriwake.engine.setup import Job, Report, prepare_job
from nuriwake.engine.watch import Failure, Watch
from nuriwake.losses.criterion import sum_terms

LOG_STEPS = 10
"""Steps between two lines of training metrics."""

RETREAT_RATE = 0.1
"""Factor on the learning rate after a loss that was not finite."""


def train(config: RunConfig, *, resume: bool = False, report: Report | None = None) -> Run:
    """Train as `config` says; afterwards `config.out` holds the run, with its bundle and final evaluation.

    Args:
        config: gaps in it are chosen for the data and the machine, and reported.
        resume: go on with the run at `config.out`; on the CPU the weights end bit for bit as without the break.
        report: receives lines for a person: notes, choices, evaluations.

    Raises:
        UserError: the data, the configuration or the folder do not do.
        RunError: the loss was not finite twice, or the disk is full.
        Interrupted: SIGTERM or SIGINT came; everything is saved, and resume goes on.
    """
    started = time.perf_counter()
    team = join_team(config.device)
    try:
        job = prepare_job(config, team, resume=resume, report=report or _quiet)
        if not job.run.finished:
            with Interrupts() as interrupts, Bar(shown=team.leader) as bar:
                _train(job, interrupts, bar, started - job.position.elapsed)
            team.from_leader(lambda: None)
            finish(job)
        return job.run
    finally:
        team.leave()


def _train(job: Job, interrupts: Interrupts, bar: Bar, started: float) -> None:
    """Steps, evaluations and checkpoints until the plan is fulfilled. `started`: the clock's zero, in perf_counter."""
    config, team, plan = job.config, job.team, job.plan
    leader = team.leader
    log = Log(job.run.folder / "metrics.jsonl", job.position.log_bytes) if leader else None
    events = Events(job.run.folder, job.position.step, wanted=leader)
    watch = Watch(patience=1 if team.device.type == "cpu" else LOG_STEPS)
    failure: Failure | None = None
    saved = -math.inf if job.position.step == 0 else time.perf_counter() - started
    speed = _Speed(job.images_per_step)
    batches = job.batches()
    training_mode(job.network, job.frozen)
    while True:
        # What depends on the clock or on signals is agreed on, so that all processes take the same turn.
        failure = failure or watch.look()
        elapsed, number, failed = team.highest(
            [time.perf_counter() - started, interrupts.number, float(failure is not None)]
        )
        position = job.position
        if failed:
            del batches
            _retreat(job, failure, log)
            watch.forget()
            failure, batches, saved = None, job.batches(), -math.inf
            continue
        progress = plan.progress(position.step, elapsed)
        ended = progress >= 1.0 or position.stopped
        due = position.step != position.evaluated_step and (ended or plan.evaluation_due(position.step, progress))
        keep = bool(due or ended or number or elapsed - saved >= config.checkpoint_seconds)
        if keep or position.step % LOG_STEPS == 0:
            failure = watch.look(now=True)
            if any(team.highest([float(failure is not None)])):
                continue
            means = watch.means()
            if means and log is not None:
                line = {
                    "step": position.step,
                    "epoch": _epoch(job),
                    "progress": round(progress, 6),
                    "rate": _rate(job, progress),
                }
                line |= {"seconds": round(elapsed, 3), "images_per_second": round(speed.now, 3), **means}
                log.write({"kind": "train", **line})
                events.write("train", position.step, line)
        position.elapsed, position.reached = elapsed, plan.reached
        if due:
            bar.show(progress, f"step {position.step}", doing="evaluate")
            found = _evaluate(job, progress)
            ended = ended or position.stopped
            if log is not None:
                log.write({"kind": "evaluation", "step": position.step, "seconds": round(elapsed, 3), **_scores(found)})
                events.write("val", position.step, found.scores)
            training_mode(job.network, job.frozen)
            speed.pause()
        if keep:
            position.elapsed = time.perf_counter() - started
            if log is not None:
                position.log_bytes = log.length
                save_checkpoint(job.run.last, position, job.parts())
                _drop_old_best(job)
            saved = time.perf_counter() - started
            speed.pause()
        if number:
            raise Interrupted(_saved_words(job), int(number))
        if ended:
            break
        failure = _step(job, batches, watch, _rate(job, progress))
        if failure is None:
            position.step += 1
            speed.step()
            if plan.evaluation_seconds == 0 and position.step % 8 == 0:
                plan.evaluation_seconds = _guess_evaluation(job, speed.now)
            bar.show(progress, f"step {position.step}  {speed.now:.1f} images/s")
    del batches
    events.close()
    if log is not None:
        log.close()


def _step(job: Job, batches: Iterator[Batch], watch: Watch, rate: float) -> Failure | None:
    """One optimiser step. Returns the failure when the loss is known not to be finite; the weights are then untouched."""
    config, device, step = job.config, job.team.device, job.position.step
    set_rate(job.optimiser, rate)
    count = config.optim.accumulation
    names: list[str] = []
    sums: dict[str, torch.Tensor] = {}
    for part in range(count):
        batch = next(batches)
        # Not before the batch is there: the first one of a process starts the loader, which draws from the same generator.
        torch.manual_seed(_seed(config.seed, step, part, job.team.rank))
        names += batch.names
        images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        truth = job.task.crop(batch.targets.to(device, non_blocking=True), job.model.margin)
        # Only the last backward of a step needs to talk to the other processes.
        with job.network.no_sync() if job.team.world > 1 and part < count - 1 else nullcontext():  # pyright: ignore
            with job.autocast():
                terms = job.criterion(job.network(images), truth)
            job.scaler.scale(sum_terms(terms) / count).backward()
        sums = {name: sums.get(name, 0) + value.detach() / count for name, value in terms.items()}  # pyright: ignore
    job.scaler.unscale_(job.optimiser)
    norm = _clip(job)
    # With scaled fp16 an infinite gradient is no accident: the scaler skips the step and lowers its scale.
    watch.note(step, names, sums, sum_terms(sums) + (0 if job.scaler.is_enabled() else norm))
    failure = watch.look()
    if failure is None:
        job.scaler.step(job.optimiser)
        job.scaler.update()
        if job.average is not None:
            job.average.update(step)
    job.optimiser.zero_grad(set_to_none=True)
    return failure


def _clip(job: Job) -> torch.Tensor:
    """Limit the norm of the gradient; returns the norm before."""
    parameters = [parameter for parameter in learning(job.model) if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    limit = job.config.optim.clip
    # On the CPU looking at the norm costs nothing and spares a pass over all gradients.
    if limit is not None and (norm.is_cuda or float(norm) > limit):
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def _evaluate(job: Job, progress: float) -> Evaluation:
    """Evaluate the weights, note whether they are the best, and keep them if so."""
    position, config = job.position, job.config
    found = evaluate(job.predictor(), job.data, job.data.records(config.data.val), request=job.request())
    (seconds,) = job.team.highest([found.seconds])
    position.evaluated_step, position.evaluated = position.step, progress
    position.evaluation_seconds = max(position.evaluation_seconds, seconds)
    job.plan.evaluated, job.plan.evaluation_seconds = progress, position.evaluation_seconds
    better = position.best is None or found.headline > position.best.score
    if better:
        position.best = Best(f"best-{position.step:08d}.pt", found.headline, position.step, list(found.thresholds))
        position.stale = 0
        if job.team.leader:
            write_torch(job.run.last.parent / position.best.file, {"weights": job.evaluated.state_dict()})
    else:
        position.stale += 1
    patience = config.evaluation.early_stop
    position.stopped = patience is not None and position.stale >= patience
    job.report(
        f"step {position.step} ({progress:.0%}, {position.elapsed:.0f} s): {found.metric} {found.headline:.4f}"
        f"{' (best so far)' if better else ''}{'; no better for long, so the run ends here' if position.stopped else ''}"
    )
    return found


def _retreat(job: Job, failure: Failure | None, log: Log | None) -> None:
    """Back to the last checkpoint with a lower rate; the second time the run ends.

    Raises:
        RunError: it has been back before.
    """
    words = "; ".join(sorted({str(item) for item in job.team.gather(failure) if item is not None}))
    if job.position.retreats or not job.run.last.is_file():
        raise RunError(
            f"Training stopped: {words}, although the run had gone back to its last checkpoint and lowered the learning "
            "rate. Look at these images and masks, or start again with a lower optim.learning_rate."
        )
    job.restore(job.run.last)
    job.position.retreats += 1
    job.position.rate_scale *= RETREAT_RATE
    job.report(f"{words}: back to step {job.position.step}, with {RETREAT_RATE:g} of the learning rate")
    training_mode(job.network, job.frozen)
    if log is not None:
        log.write({"kind": "event", "step": job.position.step, "event": "retreat", "reason": words})


def _rate(job: Job, progress: float) -> float:
    factor = rate_factor(job.config.schedule, job.position.step, progress)
    return job.config.optim.learning_rate * job.position.rate_scale * factor


def _seed(*parts: int) -> int:
    """A seed for dropout that shares nothing with that of other `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _epoch(job: Job) -> float:
    return round(job.position.step * job.images_per_step / len(job.data.records(job.config.data.train)), 3)


def _guess_evaluation(job: Job, images_per_second: float) -> float:
    """Seconds of an evaluation, from the speed of training: forward alone is about a third of a step."""
    side = job.config.augmentation.crop_size or 1
    facts: dict[str, Any] = job.run.data["facts"]
    pixels = facts["val"] * facts["height"] * facts["width"] / job.team.world
    return pixels / side**2 / max(images_per_second / job.team.world, 1e-6) / 2.5


def _scores(found: Evaluation) -> dict[str, Any]:
    iou = {name: row.get("iou") for name, row in found.per_class.items()}
    return {"metric": found.metric, "took": round(found.seconds, 3), "scores": found.scores, "class_iou": iou}


def _drop_old_best(job: Job) -> None:
    # Only after last.pt names the new one: a run killed between the two still finds what its checkpoint speaks of.
    keep = job.position.best.file if job.position.best is not None else ""
    for path in job.run.last.parent.glob("best-*.pt"):
        if path.name != keep:
            path.unlink(missing_ok=True)


def _saved_words(job: Job) -> str:
    return f"{job.run.folder}: stopped at step {job.position.step} and saved; continue with resume."


class _Speed:
    """Images per second, smoothed over about ten steps; time spent on evaluation and checkpoints does not count."""

    def __init__(self, images: int) -> None:
        self._images, self._last, self.now = images, time.perf_counter(), 0.0

    def pause(self) -> None:
        self._last = time.perf_counter()

    def step(self) -> None:
        moment = time.perf_counter()
        fresh = self._images / max(moment - self._last, 1e-9)
        self.now = fresh if self.now == 0 else 0.9 * self.now + 0.1 * fresh
        self._last = moment


def _quiet(line: str) -> None:
    """Nobody listens."""
