"""Everything a run needs before its first step: data, model, loss, optimiser, folder."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.data.batching import Batch, CachedRead
from nuriwake.data.check import quick_check, refuse_harmful
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.formats import open_data
from nuriwake.data.mask_cache import with_mask_cache
from nuriwake.data.trainable import check_trainable, note_empty_val
from nuriwake.engine.augmentation import try_pipeline
from nuriwake.engine.checkpoint import Position, load_checkpoint
from nuriwake.engine.choose import choose, choose_frozen, choose_task, choose_things, choose_tile, fit_crop
from nuriwake.engine.config import RunConfig
from nuriwake.engine.distribution import Team, synchronise_norms
from nuriwake.engine.ema import Average
from nuriwake.engine.evaluate import EvaluationRequest, further_seconds
from nuriwake.engine.facts import DataFacts, data_facts, machine_facts
from nuriwake.engine.lock import Lock
from nuriwake.engine.network import Step
from nuriwake.engine.norms import check_norms
from nuriwake.engine.optim import build_optimiser, freeze
from nuriwake.engine.precision import autocast, loss_scaler
from nuriwake.engine.run import (
    Choice,
    Run,
    check_data,
    check_free,
    check_world,
    create_run,
    keep_config,
    open_run,
    resumed_config,
    sweep,
)
from nuriwake.engine.samples import batches, class_weight_tensor, training_preprocessing
from nuriwake.engine.schedule import Plan
from nuriwake.engine.stream import steps_of
from nuriwake.engine.view import viewed
from nuriwake.inference.decoding import output_type
from nuriwake.inference.predictor import Precision, Predictor
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.metrics.metric import MetricSettings
from nuriwake.models import build_model
from nuriwake.models.base import Model
from nuriwake.models.catalogue import entry_constructor, resolve_model
from nuriwake.tasks import LossSettings, Task, get_task
from nuriwake.weights.licence import ask_consent, weights_licence

Report = Callable[[str], None]
PREDICTOR_PRECISION: dict[str, Precision] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass
class Job:
    """A run, ready to step.

    Attributes:
        network: images, truth -> named terms: `Step` over `model` and the loss, compiled and wrapped for several processes as
            configured.
        class_weights: of the loss, on the CPU.
        read_val: index -> validation sample; what it decoded is kept as that of the training images is.
        evaluated: the weights that are evaluated and kept: the average, or the model itself.
    """

    config: RunConfig
    team: Team
    run: Run
    data: DataSet
    task: Task
    preprocessing: Preprocessing
    model: Model
    network: nn.Module
    frozen: list[nn.Module]
    class_weights: torch.Tensor | None
    read_val: Callable[[int], Sample]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    plan: Plan
    position: Position
    report: Report

    @property
    def evaluated(self) -> Model:
        return self.model if self.average is None else self.average.module  # pyright: ignore[reportReturnType]

    @property
    def images_per_step(self) -> int:
        """Over all processes."""
        return (self.config.batch_size or 1) * self.config.optim.accumulation

    def batches(self) -> Iterator[Batch]:
        """The training batches from the current step on."""
        start, margin = self.position.step, self.model.margin
        return batches(self.config, self.data, self.task, self.preprocessing, self.team, start=start, margin=margin)

    def autocast(self) -> Any:
        """The arithmetic of forward and loss."""
        return autocast(self.config.precision, self.team.device)

    def predictor(self, thresholds: tuple[float, ...] = (), *, precision: Precision | None = None) -> Predictor:
        """The one path from image to prediction, over the evaluated weights, for counting; `precision` None takes the run's.

        `thresholds` count where the configuration has none; objects of any score are answered.
        """
        settings = self.config.predict
        return Predictor(
            self.evaluated,
            space=self.data.space,
            preprocessing=self.preprocessing,
            task=self.task.name,
            settings=replace(settings, thresholds=settings.thresholds or thresholds, score_threshold=None),
            device=self.team.device,
            precision=precision or PREDICTOR_PRECISION[self.config.precision],
        )

    def request(self, *, final: bool = False) -> EvaluationRequest:
        """How validation is done: thresholds are looked for on the way, further metrics only at the end."""
        return EvaluationRequest(
            self.task,
            self.config.evaluation.metric or "",
            metrics=(*self.task.usual(self.data.space), *self.config.evaluation.metrics) if final else (),
            settings=MetricSettings(self.config.evaluation.tolerance),
            thresholds=not (final or self.config.predict.thresholds) and self.task.thresholds(self.data.space),
            team=self.team,
        )

    def parts(self) -> dict[str, Any]:
        """The state of everything that moves."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, path: Path) -> None:
        """Go to where the checkpoint at `path` was written."""
        self.position, parts = load_checkpoint(path, self.team.device)
        self.model.load_state_dict(parts["model"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.scaler.load_state_dict(parts["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(parts["average"])
        self.plan.evaluated, self.plan.reached = self.position.evaluated, self.position.reached
        self.plan.evaluation_seconds = self.position.evaluation_seconds


def prepare_job(
    config: RunConfig, team: Team, *, lock: Lock, resume: bool, report: Report, accept_license: bool = False
) -> Job:
    """Open the data, choose what is open, build everything; the run folder is made last, when all else is well.

    `accept_license` is as in `build_model`, and kept nowhere: consent is a person's and not the configuration's. `lock` is taken,
    in the leader, before anything in the folder is written.

    Raises:
        UserError: the data, the configuration, or the folder do not do, or the budget is spent before the first step.
    """
    started = time.perf_counter()
    config = team.from_leader(lambda: _checked_config(config, resume=resume))
    data = open_data(config.data.path, format=config.data.format, val_share=config.data.val_share)
    config, choices = choose_task(config, data.space)
    opened, data = data, viewed(data, get_task(config.task or ""))
    check_trainable(data, train=config.data.train, val=config.data.val)
    config, more = choose_things(config, data.space)
    choices += more
    config.predict.check(data.space)
    evaluation = config.evaluation  # a misspelt name must not come to light at the end of the training
    get_task(config.task or "").build_metrics(data.space, evaluation.metrics, MetricSettings(evaluation.tolerance))
    say = report if team.leader else _silent
    for note in data.notes:
        say(note)
    for note in () if resume else note_empty_val(data, config.data.val):
        say(note)
    if config.data.check and not resume:
        team.from_leader(lambda: _check_data(opened, config, say))
    facts: DataFacts | None = None
    if resume:
        run = open_run(config.out)
        check_data(run, data)
        check_world(run, team.world)
        preprocessing = from_plain(Preprocessing, run.data["preprocessing"])
    else:
        facts = data_facts(data, config.data.path, train=config.data.train, val=config.data.val)
        config, more = choose(config, facts, machine_facts(team.device, world=team.world))
        choices += more
        preprocessing = training_preprocessing(config, data, facts)
    data = _keeping_masks(config, data, say)
    torch.manual_seed(config.seed)
    model = _model(config, data, resume=resume, accept_license=accept_license)
    config, choices = fit_crop(config, choices, model)
    for suit in (choose_frozen, choose_tile):
        config, more = suit(config, model)
        choices += more
    for line in (*(f"{choice.field} = {choice.value}: {choice.reason}" for choice in choices), *model.notes):
        say(line)
    for line in () if resume else _worth_knowing(config, team, model):
        say(line)
    job = _build(config, team, data, preprocessing, model=model, report=say)
    check_norms(job.model, job.frozen, config, channels=data.channels, world=team.world)
    if job.plan.budget is not None:
        own = further_seconds(data, data.records(config.data.val), job.request(final=True), job.read_val)
        (job.plan.further_seconds,) = team.highest([own])
    job.predictor()  # settings that the decoder does not take come to light now, and not after the first steps
    if not resume:
        try_pipeline(config.augmentation, data, config.data.train, margin=model.margin)
        check_budget(job.plan, *team.highest([time.perf_counter() - started]))
        description = _description(job, facts)
        team.from_leader(lambda: _begin(lock, config, choices, description))
        return job
    team.from_leader(lambda: _go_on(lock, job))
    if job.run.last.is_file():
        job.restore(job.run.last)
        say(f"resuming at step {job.position.step}")
    return job


def check_budget(plan: Plan, elapsed: float) -> None:
    """Raises UserError when `elapsed` seconds, spent before the first step, leave none of the budget for it."""
    if plan.budget is not None and plan.progress(0, elapsed) >= 1.0:
        raise UserError(
            f"budget: {plan.budget:.0f} s were allowed, and preparing took {elapsed:.0f} s, so that there is no time to learn "
            "anything; give several times as much."
        )


def _begin(lock: Lock, config: RunConfig, choices: Sequence[Choice], description: dict[str, Any]) -> None:
    check_free(config.out)
    lock.take()
    create_run(config, choices=choices, data=description)


def _go_on(lock: Lock, job: Job) -> None:
    if job.run.finished:
        return
    lock.take()
    sweep(job.run)
    if job.run.config != job.config:
        try:
            keep_config(job.config)
        except OSError as error:
            raise RunError(
                f"{job.run.folder}: config.yaml cannot be written ({error.strerror}); is the disk full?"
            ) from error


def _worth_knowing(config: RunConfig, team: Team, model: Model) -> Iterator[str]:
    if model.backbone() is not None and config.model.backbone_weights is None:
        yield (
            "The backbone starts from random weights and needs many more steps than a pretrained one: "
            "model.backbone_weights takes a file, or 'pretrained' where there is a network."
        )
    if team.world > 1:
        yield (
            f"{team.world} processes: losses that are ratios over a batch (Dice and its kind) and, on CPUs, batch norms see the "
            "images of their own process; all else is as in one process."
        )


def _check_data(data: DataSet, config: RunConfig, say: Report) -> None:
    """Raises UserError where a quick look finds what would surely give a useless model; says what is doubtful."""
    findings = quick_check(data, train=config.data.train, val=config.data.val)
    for finding in findings:
        if finding.severity == "doubtful":
            say(f"{finding.what} {finding.remedy} (nuriwake check tells more)")
    refuse_harmful(findings, go_on="set data.check to false")


def _keeping_masks(config: RunConfig, data: DataSet, say: Report) -> DataSet:
    folder = config.data.mask_cache
    if folder in (None, "off"):
        return data
    data, problem = with_mask_cache(data, Path(folder), purpose=config.task or "")
    if problem:
        say(f"data.mask_cache: {problem}")
    return data


def _checked_config(config: RunConfig, *, resume: bool) -> RunConfig:
    if resume:
        return resumed_config(config)
    check_free(config.out)
    return config


def _model(config: RunConfig, data: DataSet, *, resume: bool, accept_license: bool) -> Model:
    # A checkpoint holds all weights: those of the backbone, whose file may be gone by now, are not read again.
    begun = resume and Run(config.out).last.is_file()
    if begun:  # but whoever goes on is asked for consent to their licence as whoever began
        ask_consent(config.model.name, config.model.backbone_weights, accept_license=accept_license)
    model = build_model(
        config.model.name,
        in_channels=data.channels,
        classes=output_classes(config, data.space),
        options=config.model.options,
        backbone_weights=None if begun else config.model.backbone_weights,
        accept_license=accept_license,
    )
    if begun:
        model.notes = tuple(Run(config.out).data.get("model_notes", ()))
    return model


def output_classes(config: RunConfig, space: LabelSpace) -> int:
    """What the model is built with as `classes`: by the task and the kind of its output."""
    constructor: Any = entry_constructor(resolve_model(config.model.name))
    return get_task(config.task or "").channels(space, output_type(constructor))


def _build(
    config: RunConfig, team: Team, data: DataSet, preprocessing: Preprocessing, *, model: Model, report: Report
) -> Job:
    task = get_task(config.task or "")
    model = model.to(team.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = synchronise_norms(model, team)  # first: what is frozen and averaged is what learns
    frozen = freeze(model, config.optim.freeze or ())
    average = None if config.ema is None else Average(model, config.ema)
    weights = class_weight_tensor(config, data)
    settings = LossSettings(config.loss.terms, config.loss.options, weights, config.loss.auxiliary_weight)
    step = Step(model, task.criterion(model, data.space, settings).to(team.device))
    network = team.wrap(torch.compile(step) if config.compile else step)  # pyright: ignore[reportArgumentType]
    read = partial(_read, data, data.records(config.data.val))
    budget = (config.data.cache_mib or 0) * 2**20
    return Job(
        config=config,
        team=team,
        run=Run(config.out),
        data=data,
        task=task,
        preprocessing=preprocessing,
        model=model,
        network=network,
        frozen=frozen,
        class_weights=weights,
        read_val=CachedRead(read, budget) if budget else read,
        optimiser=build_optimiser(model, config.optim, team.device),
        scaler=loss_scaler(config.precision, team.device),
        average=average,
        plan=_plan(config, len(data.records(config.data.train))),
        position=Position(),
        report=report,
    )


def _plan(config: RunConfig, count: int) -> Plan:
    steps = config.steps
    if config.epochs is not None:
        images = (config.batch_size or 1) * config.optim.accumulation
        steps = steps_of(config.epochs, count=count, images_per_step=images)
    # bf16 on a CPU takes 1 / 2.3 of the time of the float32 in which the run is finished.
    cost = 1.0 if config.precision == "fp32" else 2.3
    return Plan(steps=steps, budget=config.budget_seconds, every=config.evaluation.every, final_cost=cost)


def _description(job: Job, facts: DataFacts | None) -> dict[str, Any]:
    data = job.data
    return {
        "fingerprint": data.fingerprint(),
        "format": data.format,
        "root": str(data.root),
        "notes": list(data.notes),
        "space": to_plain(data.space),
        "splits": {split: [record.name for record in records] for split, records in data.splits.items()},
        "preprocessing": to_plain(job.preprocessing),
        "facts": to_plain(facts),
        "processes": job.team.world,
        "model_notes": list(job.model.notes),
        "licence": weights_licence(job.config.model.name, job.config.model.backbone_weights),
        "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _read(data: DataSet, records: Sequence[Record], index: int) -> Sample:
    return data.read(records[index])


def _silent(line: str) -> None:
    """Only the leader speaks."""
