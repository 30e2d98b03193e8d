"""Which model for these data on this machine: the data and the machine are looked at, the best few are built and timed."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import did_you_mean
from nuriwake.core.panoptic import Panoptic
from nuriwake.data.dataset import DataSet
from nuriwake.data.formats import open_data
from nuriwake.data.parallel import spread
from nuriwake.data.trainable import check_trainable
from nuriwake.engine.choose import choose, choose_task, choose_things, fit_crop
from nuriwake.engine.config import RunConfig, override
from nuriwake.engine.facts import DataFacts, MachineFacts, data_facts, machine_facts
from nuriwake.engine.measure import Cost, measure
from nuriwake.engine.setup import output_classes
from nuriwake.engine.view import viewed
from nuriwake.models import build_model, count_parameters, resolve_model
from nuriwake.models.backbones import BACKBONES
from nuriwake.recipes import build_config
from nuriwake.recipes.candidates import CANDIDATES, GOALS, LARGE, Candidate, Goal, Situation, ranked, remarks
from nuriwake.tasks import get_task

LOOKED_AT = 16
"""Targets that are read for the sizes of objects."""

TRAINING = 3.0
"""A training step over a forward pass: the backward costs about two more."""


@dataclass(frozen=True)
class Recommendation:
    """One model.

    Attributes:
        model: its name.
        reasons: what speaks for it and against it here.
        parameters: how many.
        side: of the square image that was timed: the crop that training would choose.
        cost: of one such image, measured here; None where the device is not this machine's.
        weights: what "pretrained" would fetch, with its licence; or that nothing is published.
        command: the training, to be typed.
    """

    model: str
    reasons: tuple[str, ...]
    parameters: int
    side: int
    cost: Cost | None
    weights: str
    command: str


@dataclass(frozen=True)
class Advice:
    """What was seen, and what suits: the best first.

    Attributes:
        task: what would be answered for an image.
        facts: sentences on the data and the machine.
        images: to train on.
        models: two or three.
    """

    task: str
    facts: tuple[str, ...]
    images: int
    models: tuple[Recommendation, ...]

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield from self.facts
        for number, item in enumerate(self.models, 1):
            yield ""
            yield f"{number}. {item.model}: {'; '.join(item.reasons)}."
            yield f"   {item.parameters / 1e6:.1f} M parameters. {_cost_in_words(item, self.images)}"
            yield f"   Pretrained backbone: {item.weights}."
            yield f"   {item.command}"


def recommend(
    data: str | Path,
    *,
    goal: Goal = "balance",
    task: str | None = None,
    format: str | None = None,  # noqa: A002 (the contract's word)
    device: str = "auto",
    count: int = 3,
) -> Advice:
    """Two or three models that suit a data set, each built and timed here.

    Args:
        data: as in training; it needs images to train on and to validate.
        goal: what counts most.
        task: semantic, instance or panoptic; None: what the classes of the data tell.
        format: of the data, where it is not to be recognised.
        device: cpu or gpu; "auto" takes the GPU where there is one. For another machine's nothing is timed.
        count: of models.

    Raises:
        UserError: the data cannot be trained on, or there is no such goal, task, format or device.
    """
    if goal not in GOALS:
        raise UserError(f"goal: there is no '{goal}'; known are {', '.join(GOALS)}.{did_you_mean(goal, GOALS)}")
    path = Path(data)
    opened = open_data(path, format=format)
    task = get_task(task or _natural_task(opened.space)).name
    found = viewed(opened, get_task(task))
    check_trainable(found)
    facts = data_facts(found, path)
    machine = _machine(device)
    side = _object_side(found)
    situation = Situation(
        task,
        goal,
        machine.device.type == "cuda",
        facts.train,
        object_side=side,
        image_side=max(facts.height, facts.width),
        photographs=facts.channels == 3 and not facts.grey,
    )
    settled = {"device": str(machine.device), "task": task, "data.format": format}
    given = None if device == "auto" else machine.device.type
    models = tuple(
        _built(candidate, situation, found, facts, machine, settled, given) for candidate in ranked(situation, count)
    )
    return Advice(task, (*opened.notes, *_facts(facts, situation, machine)), facts.train, models)


def _natural_task(space: LabelSpace) -> str:
    """As `engine.choose.choose_task` has it for models that answer all three."""
    return choose_task(build_config("", "mask2former_r50"), space)[0].task or "semantic"


def _machine(device: str) -> MachineFacts:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = {"auto": here, "gpu": "cuda", "cuda": "cuda", "cpu": "cpu"}.get(device)
    if wanted is None:
        raise UserError(f"device: expected auto, cpu or gpu, found '{device}'.")
    if wanted == "cpu" or torch.cuda.is_available():
        return machine_facts(torch.device(wanted))
    return MachineFacts(torch.device(wanted), machine_facts(torch.device("cpu")).cores)


def _built(
    candidate: Candidate,
    situation: Situation,
    data: DataSet,
    facts: DataFacts,
    machine: MachineFacts,
    settled: Mapping[str, Any],
    device: str | None,
) -> Recommendation:
    """The candidate with the crop that training would choose, `settled` fields apart, and its cost; `device` if it was asked
    for."""
    config, _ = choose_task(override(build_config(facts.path, candidate.model), settled), data.space)
    config, _ = choose_things(config, data.space)
    config, choices = choose(config, facts, machine)
    elsewhere = machine.device.type == "cuda" and not torch.cuda.is_available()
    with torch.device("meta" if elsewhere else machine.device):
        model = build_model(
            candidate.model,
            in_channels=data.channels,
            classes=output_classes(config, data.space),
            options=config.model.options,
        )
    config, _ = fit_crop(config, choices, model)
    side = config.augmentation.crop_size or 1
    cost = None if elsewhere else measure(model, torch.randn(1, data.channels, side, side, device=machine.device))
    return Recommendation(
        candidate.model,
        remarks(candidate, situation),
        count_parameters(model),
        side,
        cost,
        _weights_in_words(candidate.model),
        _command(config, facts.path, device),
    )


def _command(config: RunConfig, data: Path, device: str | None = None) -> str:
    """The training in which everything else is chosen by itself; on `device`, None for the one that training would take."""
    model = config.model.name
    words = ["nuriwake", "train", str(data), "--model", model, "--out", f"runs/{model}"]
    if _published(model) is not None:
        words += ["--model.backbone-weights", "pretrained"]
        words += [] if BACKBONES[resolve_model(model).backbone or ""].commercial else ["--accept-license"]
    if resolve_model(model).task == "any":
        words += ["--task", config.task or ""]
    if config.data.format is not None:
        words += ["--data.format", config.data.format]
    if device is not None:
        words += ["--device", device]
    if config.device == "cpu":
        words += ["--budget", "60m"]
    return shlex.join(words)


def _published(model: str) -> str | None:
    backbone = resolve_model(model).backbone
    return BACKBONES[backbone].published if backbone in BACKBONES else None


def _weights_in_words(model: str) -> str:
    backbone = resolve_model(model).backbone or ""
    published = _published(model)
    return "none is published" if published is None else f"{published}, {BACKBONES[backbone].licence}"


def _cost_in_words(item: Recommendation, images: int) -> str:
    if item.cost is None:
        return "Not timed: that device is not here."
    # Memory that PyTorch had kept from the model before looks like none: no figure is better than 0.
    measured = (item.cost.bytes or 0) >= 2**20
    memory = f" and {(item.cost.bytes or 0) / 2**20:.0f} MiB" if measured else " (its memory could not be seen)"
    minutes = TRAINING * item.cost.seconds * images / 60
    return (
        f"An image of {item.side}x{item.side} took {item.cost.seconds:.3f} s{memory} here, so that training on all {images} "
        f"once takes about {minutes:.1f} minutes."
    )


def _facts(facts: DataFacts, situation: Situation, machine: MachineFacts) -> Iterator[str]:
    yield (
        f"{facts.train} images to train on and {facts.val} to validate, {facts.height}x{facts.width} pixels (median), "
        f"{facts.channels} channel{'s' * (facts.channels > 1)} of {facts.dtype}."
    )
    things = sum(facts.space.things)
    yield f"{len(facts.space)} classes, {things or 'none'} of them countable: {situation.task} segmentation."
    present = [count for count in facts.class_pixels if count]
    if len(present) > 1:
        yield (
            f"The rarest class has {max(present) / min(present):,.0f} times fewer pixels than the commonest{_weighing(situation)}."
        )
    if (situation.image_side or 0) > LARGE:
        yield "Such large images are answered in tiles, so that the time per image counts more."
    if not situation.photographs:
        yield "They are not like the photographs that pretrained weights have seen, so that these are worth less."
    if situation.object_side is not None:
        yield f"Objects measure {situation.object_side:.0f} pixels (median of the square root of their area)."
    where = "a GPU" if situation.gpu else f"the CPU, {machine.cores} core{'s' * (machine.cores > 1)}"
    yield f"The network runs on {where}; what counts most: {situation.goal.replace('-', ' ')}."


def _weighing(situation: Situation) -> str:
    """What comes of the balance of the classes: the same for every model."""
    if situation.task == "semantic":
        return "; every model of these meets that by the weights of classes which training chooses"
    return "; that decides between none of these models, since they count objects and not pixels"


def _object_side(data: DataSet) -> float | None:
    """Median square root of the objects' areas in some training images, in pixels; None where there are no objects."""
    areas: list[float] = []
    for record in spread(data.records("train"), LOOKED_AT):
        target = data.read_target(record)
        if isinstance(target, Panoptic):
            target = target.instances()
        if isinstance(target, Instances):
            areas += target.masks.areas()[~target.crowd].tolist()
    return float(np.median(np.sqrt(areas))) if areas else None


__all__ = ["CANDIDATES", "Advice", "Goal", "Recommendation", "recommend"]
