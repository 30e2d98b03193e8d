"""The training loop. It reads from top to bottom; every name it calls is a plain function of the engine."""

import math
import signal
import time
from typing import Any

from nuriwake.core.errors import RunError
from nuriwake.engine.checkpoint import Best, keep_as, save_checkpoint, write_torch
from nuriwake.engine.config import RunConfig
from nuriwake.engine.distribution import join_team
from nuriwake.engine.evaluate import Evaluation, evaluate
from nuriwake.engine.finish import finish
from nuriwake.engine.interrupts import Interrupted, Interrupts
from nuriwake.engine.lock import Lock
from nuriwake.engine.optim import training_mode
from nuriwake.engine.progress import Bar
from nuriwake.engine.records import Records
from nuriwake.engine.run import Run
from nuriwake.engine.schedule import backbone_factor, rate_factor
from nuriwake.engine.setup import Job, Report, check_budget, prepare_job
from nuriwake.engine.step import look_now, take_step
from nuriwake.engine.watch import Failure, Watch

LOG_STEPS = 10
"""Steps between two lines of training metrics."""

STEADY_STEPS = 1000
"""Steps after which there is a point to go back to at the latest; every evaluation is one too."""

RETREAT_RATE = 0.1
"""Factor on the learning rate after a loss that was not finite."""


def train(
    config: RunConfig, *, resume: bool = False, report: Report | None = None, accept_license: bool = False
) -> Run:
    """Train as `config` says; afterwards `config.out` holds the run, with its bundle and final evaluation.

    Args:
        config: gaps in it are chosen for the data and the machine, and reported.
        resume: go on with the run at `config.out`; on the CPU the weights end bit for bit as without the break.
        report: receives lines for a person: notes, choices, evaluations.
        accept_license: consent to a licence of the backbone weights that forbids commercial use; not kept in the run.

    Raises:
        UserError: the data, the configuration or the folder do not do.
        RunError: the loss was not finite twice, or the disk is full.
        Interrupted: SIGTERM or SIGINT came; everything is saved, and resume goes on.
    """
    started = time.perf_counter()
    team = join_team(config.device)
    lock = Lock(config.out)
    try:
        job = prepare_job(
            config, team, lock=lock, resume=resume, report=report or _quiet, accept_license=accept_license
        )
        if not job.run.finished:
            with (
                Interrupts() as interrupts,
                Bar(shown=team.leader) as bar,
                Records(job.run, job.position, wanted=team.leader) as records,
            ):
                _train(job, interrupts, bar, records, started - job.position.elapsed)
            team.from_leader(lambda: None)
            try:
                finish(job)
            except KeyboardInterrupt:
                words = "stopped after the last step; the same command with --resume evaluates and writes the bundle."
                raise Interrupted(f"{job.run.folder}: {words}", signal.SIGINT) from None
        return job.run
    finally:
        lock.release()
        team.leave()


def _train(job: Job, interrupts: Interrupts, bar: Bar, records: Records, started: float) -> None:
    """Steps, evaluations and checkpoints until the plan is fulfilled. `started`: the clock's zero, in perf_counter."""
    config, team, plan = job.config, job.team, job.plan
    if records.lost:
        job.report(f"{job.run.folder}: the last {records.lost} bytes of the history were lost; the weights were not")
    watch = Watch(patience=1 if team.device.type == "cpu" else LOG_STEPS)
    failure: Failure | None = None
    saved = -math.inf if job.position.step == 0 else job.position.elapsed
    speed = _Speed(job.images_per_step)
    batches = job.batches()
    training_mode(job.network, job.frozen)
    while True:
        # What depends on the clock, on signals or on one process's images is agreed on, so that all take the same turn.
        failure = failure or watch.look()
        elapsed, number, failed, guess = team.highest(
            [time.perf_counter() - started, interrupts.number, float(failure is not None), _guess(job, speed)]
        )
        position = job.position
        if position.step == 0 and not position.retreats:
            check_budget(plan, elapsed)
        if failed:
            del batches
            _retreat(job, failure, records)
            watch.forget()
            failure, batches, saved = None, job.batches(), -math.inf
            continue
        plan.evaluation_seconds = plan.evaluation_seconds or guess
        progress = plan.progress(position.step, elapsed)
        _warn(job, elapsed)
        ended = progress >= 1.0 or position.stopped
        due = position.step != position.evaluated_step and (ended or plan.evaluation_due(position.step, progress))
        steady = due or position.step % STEADY_STEPS == 0
        keep = bool(steady or ended or number or elapsed - saved >= config.checkpoint_seconds)
        if keep or position.step % LOG_STEPS == 0:
            failure = look_now(job, watch)
            if any(team.highest([float(failure is not None)])):
                continue
            _log(job, records, watch.means(), progress=progress, elapsed=elapsed, speed=speed)
        position.elapsed, position.reached = elapsed, plan.reached
        if due and not number:
            bar.show(progress, f"step {position.step}", doing="evaluate")
            try:
                records.evaluation(position.step, elapsed, _evaluate(job, progress, interrupts))
            except _GivenUp:
                number = interrupts.number
            ended = ended or position.stopped
            if ended and not number:
                _warn(job, time.perf_counter() - started, evaluated=True)
            speed.pause()
        if keep:
            position.elapsed = time.perf_counter() - started
            position.log_bytes = records.length
            _save(job, steady=steady)
            saved = elapsed
            speed.pause()
        if number:
            raise Interrupted(_saved_words(job), int(number))
        if ended:
            break
        job.model.set_progress(progress)
        failure = take_step(job, batches, watch, _rate(job, progress), backbone=_backbone_share(job, progress))
        if failure is None:
            position.step += 1
            speed.step()
            bar.show(progress, f"step {position.step}  {speed.now:.1f} images/s")
    del batches


def _save(job: Job, *, steady: bool) -> None:
    """Write the checkpoint, in the leader; `steady`: also as the one to go back to."""
    if not job.team.leader:
        return
    run = job.run
    if steady or job.plan.budget is not None:  # a run that the clock ends is not repeatable anyway
        # First: whoever is killed between the two comes by here again.
        save_checkpoint(run.steady, job.position, job.parts())
        keep_as(run.steady, run.last)
    else:
        save_checkpoint(run.last, job.position, job.parts())
    _drop_old_best(job)


def _log(
    job: Job, records: Records, means: dict[str, float], *, progress: float, elapsed: float, speed: "_Speed"
) -> None:
    """A line of training metrics, of `means` over the steps since the last one; none where there were no steps."""
    if means:
        line = {"epoch": _epoch(job), "progress": round(progress, 6), "rate": _rate(job, progress)}
        line |= {"seconds": round(elapsed, 3), "images_per_second": round(speed.now, 3), **means}
        records.train(job.position.step, line)


class _GivenUp(Exception):  # noqa: N818 (it is no error)
    """A signal came during an evaluation; resumed, the run begins it anew."""


def _evaluate(job: Job, progress: float, interrupts: Interrupts) -> Evaluation:
    """Evaluate the weights, note whether they are the best, and keep them if so; then the network trains again.

    Raises:
        _GivenUp: a signal came. Several processes finish it: one that gave up would leave the others waiting.
    """
    position, config = job.position, job.config
    records = job.data.records(config.data.val)

    def look(_: int) -> None:
        if interrupts.number and job.team.world == 1:
            raise _GivenUp

    job.team.share_buffers(job.evaluated)  # all score the weights that the leader keeps
    found = evaluate(job.predictor(), job.data, records, request=job.request(), read=job.read_val, tick=look)
    training_mode(job.network, job.frozen)
    (seconds,) = job.team.highest([found.seconds])
    position.evaluated_step, position.evaluated = position.step, progress
    position.evaluation_seconds = max(position.evaluation_seconds, seconds)
    job.plan.evaluated, job.plan.evaluation_seconds = progress, position.evaluation_seconds
    better = position.best is None or found.headline > position.best.score
    stale = 0 if better else position.stale + 1
    # While nothing is found, or no image holds anything to find (-inf), the score says nothing for the first weights.
    nothing = position.best is not None and found.headline == position.best.score <= 0
    if better or nothing:
        position.best = Best(f"best-{position.step:08d}.pt", found.headline, position.step, list(found.thresholds))
        if job.team.leader:
            write_torch(job.run.last.parent / position.best.file, {"weights": job.evaluated.state_dict()})
    position.stale = stale
    patience = config.evaluation.early_stop
    position.stopped = patience is not None and position.stale >= patience
    job.report(
        f"step {position.step} ({progress:.0%}, {position.elapsed:.0f} s): {found.metric} {found.headline:.4f}"
        f"{' (best so far)' if better else ''}{'; no better for long, so the run ends here' if position.stopped else ''}"
    )
    return found


def _retreat(job: Job, failure: Failure | None, records: Records) -> None:
    """Back to the last steady checkpoint with a lower rate; the second time the run ends.

    Raises:
        RunError: it has been back before.
    """
    failures = [item for item in job.team.gather(failure) if item is not None]
    words = "; ".join(sorted({str(item) for item in failures}))
    if job.position.retreats or not job.run.steady.is_file():
        raise RunError(
            f"Training stopped: {words}, although the run had gone back to an earlier checkpoint and lowered the learning "
            f"rate. {failures[0].remedy}."
        )
    job.restore(job.run.steady)
    job.position.retreats += 1
    job.position.rate_scale *= RETREAT_RATE
    job.report(f"{words}: back to step {job.position.step}, with {RETREAT_RATE:g} of the learning rate")
    training_mode(job.network, job.frozen)
    records.retreat(job.position, words)


def _rate(job: Job, progress: float) -> float:
    factor = rate_factor(job.config.schedule, job.position.step, progress)
    return job.config.optim.learning_rate * job.position.rate_scale * factor


def _backbone_share(job: Job, progress: float) -> float:
    """Of the rate; a backbone with fresh weights has nothing to lose and learns from the first step on."""
    if job.config.model.backbone_weights is None:
        return 1.0
    return backbone_factor(job.config.schedule, job.position.step, progress)


def _warn(job: Job, elapsed: float, *, evaluated: bool = False) -> None:
    timed = job.position.evaluation_seconds > 0
    if words := job.plan.warning(elapsed, timed=timed, evaluated=evaluated):
        job.report(words)


def _epoch(job: Job) -> float:
    return round(job.position.step * job.images_per_step / len(job.data.records(job.config.data.train)), 3)


def _guess(job: Job, speed: "_Speed") -> float:
    """Seconds of an evaluation, while none has been timed: forward alone is about a third of a step. 0: no idea yet."""
    if job.plan.evaluation_seconds > 0 or speed.steps % 8 != 7:
        return 0.0
    side = job.config.augmentation.crop_size or 1
    facts: dict[str, Any] = job.run.data["facts"]
    pixels = facts["val"] * facts["height"] * facts["width"] / job.team.world
    return pixels / side**2 / max(speed.now / job.team.world, 1e-6) / 2.5


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
        self._images, self._last, self.now, self.steps = images, time.perf_counter(), 0.0, 0

    def pause(self) -> None:
        self._last = time.perf_counter()

    def step(self) -> None:
        moment = time.perf_counter()
        fresh = self._images / max(moment - self._last, 1e-9)
        self.now = fresh if self.now == 0 else 0.9 * self.now + 0.1 * fresh
        self._last = moment
        self.steps += 1


def _quiet(line: str) -> None:
    """Nobody listens."""
