"""Evaluation of a predictor on a split: the same path from image to prediction as everywhere, and every image's score."""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar, cast

import numpy as np
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.dataset import DataSet, Record
from nuriwake.engine.distribution import Team
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.thresholds import ThresholdHistogram
from nuriwake.metrics.metric import Metric, MetricSettings, joined
from nuriwake.tasks import Task

Item = TypeVar("Item")
LONG_TRIAL = 2.0
"""Seconds from which on one image is enough to tell what the further metrics cost."""

ALONE = Team(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image; a score that the image does not have (no such class in it) is None."""

    name: str
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metric: the name of the headline score.
        scores: headline scores by name; None where nothing was counted.
        per_class: class name -> its scores.
        confusion: the confusion matrix, rows are the truth: (K, K), or (K, 2, 2) when multi-label.
        images: every image, in the order of the split.
        details: what else the metrics tell: counts of objects, what a limit cut.
        thresholds: the best per class, found on these images; empty when they were not looked for.
        seconds: it took.
    """

    metric: str
    scores: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    confusion: list[Any]
    images: tuple[ImageScore, ...]
    thresholds: tuple[float, ...] = field(default=())
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def headline(self) -> float:
        """The headline score; -inf when nothing was counted, so that anything is better."""
        value = self.scores.get(self.metric)
        return -math.inf if value is None else value

    def ranked(self) -> list[ImageScore]:
        """The images that have the headline score, worst first."""
        scored = [image for image in self.images if image.scores.get(self.metric) is not None]
        return sorted(scored, key=lambda image: (image.scores[self.metric], image.name))

    def plain(self) -> dict[str, Any]:
        """For JSON, with the names of the twelve worst and best images."""
        ranked = [image.name for image in self.ranked()]
        return {
            "metric": self.metric,
            "scores": self.scores,
            "per_class": self.per_class,
            "confusion": self.confusion,
            "details": self.details,
            "thresholds": list(self.thresholds),
            "seconds": round(self.seconds, 3),
            "worst": ranked[:12],
            "best": ranked[::-1][:12],
            "images": [{"name": image.name, **image.scores} for image in self.images],
        }


@dataclass(frozen=True)
class EvaluationRequest:
    """How to evaluate.

    Attributes:
        task: its metric.
        metric: the name of the headline score.
        metrics: further metrics, names of `Task.metrics`.
        settings: what they are told.
        thresholds: look for the best thresholds in the same pass.
        team: the processes that share the images.
    """

    task: Task
    metric: str
    metrics: tuple[str, ...] = ()
    settings: MetricSettings = field(default_factory=MetricSettings)
    thresholds: bool = False
    team: Team = ALONE


def evaluate(
    predictor: Predictor,
    data: DataSet,
    records: Sequence[Record],
    *,
    request: EvaluationRequest,
    read: Callable[[int], Sample] | None = None,
    tick: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate `predictor` on `records` of `data`, which is `viewed` by the task.

    Args:
        read: index in `records` -> sample, instead of `data.read`, for instance one that keeps decoded images; called
            from other threads.
        tick: called with the number of images done so far by this process.

    Raises:
        UserError: no images, an image without truth, other classes than the predictor's, or an unknown metric.
    """
    started = time.perf_counter()
    check_space(predictor, data)
    team = request.team
    metrics = request.task.build_metrics(data.space, request.metrics, request.settings)
    histogram = ThresholdHistogram(data.space) if request.thresholds else None
    images: list[tuple[int, ImageScore]] = []
    read = read or (lambda index: data.read(records[index]))
    fast = torch.device(predictor.device).type == "cuda"
    samples = ahead(read, range(team.rank, len(records), team.world), threads=4 if fast else 1)
    # On the CPU images together are no faster than one by one, and take the memory of all.
    for group in batched(samples, predictor.settings.batch_size if fast else 1):
        truths = [_truth(sample) for _, sample in group]
        predictions = predictor.batch([sample.image for _, sample in group], watch=_watch(histogram, truths))
        for (index, sample), truth, prediction in zip(group, truths, predictions, strict=True):
            found = [metric.update(prediction, truth, spacing=sample.spacing) for metric in metrics]
            scores = {name: _number(value) for part in found for name, value in part.items()}
            images.append((index, ImageScore(sample.name, scores)))
            if tick is not None:
                tick(len(images))
    for metric in metrics:
        metric.load_sum(team.gather(metric.counts()))
    thresholds = _thresholds(histogram, team)
    every = sorted((item for part in team.gather(images) for item in part), key=lambda item: item[0])
    report = joined([metric.report() for metric in metrics])
    tell_limits(report.details)
    return Evaluation(
        metric=request.metric,
        scores=report.headline,
        per_class=report.per_class,
        confusion=report.details.get("confusion", []),
        images=tuple(image for _, image in every),
        thresholds=thresholds,
        seconds=time.perf_counter() - started,
        details={name: value for name, value in report.details.items() if name != "confusion"},
    )


def further_seconds(
    data: DataSet, records: Sequence[Record], request: EvaluationRequest, read: Callable[[int], Sample]
) -> float:
    """About how long the metrics of `request.metrics` take for this process's share of `records`.

    Timed on the truth of one or two images, taken for its own prediction: distances between outlines depend on how long those are.
    0 for objects, whose further metrics cost little beside their networks.
    """
    if not request.metrics or request.task.name != "semantic":
        return 0.0
    metrics = request.task.build_metrics(data.space, request.metrics, request.settings)[1:]
    _timed(metrics, read(0), window=64)  # the first time compiles
    taken: list[float] = []
    for index in (0, len(records) // 2):
        if sum(taken) < LONG_TRIAL:
            taken.append(_timed(metrics, read(index)))
    return sum(taken) / len(taken) * len(records) / request.team.world


def _timed(metrics: Sequence[Metric], sample: Sample, *, window: int | None = None) -> float:
    """Seconds that `metrics` take for the truth of `sample`, or for a window of it."""
    truth = cast(SemanticMap, _truth(sample))
    truth = replace(truth, labels=np.ascontiguousarray(truth.labels[:window, :window]), scores=None)
    started = time.perf_counter()
    for metric in metrics:
        metric.update(truth, truth, spacing=sample.spacing)
    return time.perf_counter() - started


def ahead(read: Callable[[int], Sample], indices: Sequence[int], *, threads: int) -> Iterator[tuple[int, Sample]]:
    """(index, sample) in order, while `threads` threads read the next ones, at most two each."""
    pool, waiting = ThreadPoolExecutor(threads), deque[tuple[int, Future[Sample]]]()
    try:
        for index in indices:
            waiting.append((index, pool.submit(read, index)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    while group := list(islice(items, size)):
        yield group


def check_space(predictor: Predictor, data: DataSet) -> None:
    """Raises UserError when the data have other classes than the model."""
    one, other = predictor.answers, data.space
    if one.names != other.names or one.exclusive != other.exclusive:
        raise UserError(
            f"{data.root}: {_difference(one, other)}; evaluate on data with the model's classes, in its order."
        )
    differing = [name for name, *sorts in zip(one.names, one.things, other.things, strict=True) if len(set(sorts)) > 1]
    if predictor.task == "panoptic" and differing:
        sort, its = ("a thing", "stuff") if other.things[other.index(differing[0])] else ("stuff", "a thing")
        raise UserError(
            f"{data.root}: '{differing[0]}' is {sort} in the data, but {its} to the model ({len(differing)} of {len(one)} classes "
            "differ so); correct 'isthing' in the data, or evaluate another task."
        )


_NAMED = 8
"""So many class names a message holds."""


def _difference(one: LabelSpace, other: LabelSpace) -> str:
    """How the classes of the data, `other`, differ from the model's, `one`."""
    if max(len(one), len(other)) <= _NAMED or one.exclusive != other.exclusive:
        kinds = ["" if space.exclusive else " (several may hold at a pixel)" for space in (other, one)]
        data, model = (f"{_some(space.names)}{kind}" for space, kind in zip((other, one), kinds, strict=True))
        return f"the data have the classes {data}, but the model knows {model}"
    parts = [f"the data have {len(other)} classes, but the model knows {len(one)}"]
    sides = ("data", "have", other.names, one.names), ("model", "has", one.names, other.names)
    for where, verb, names, theirs in sides:
        alone = [name for name in names if name not in theirs]
        if alone:
            parts.append(f"only the {where} {verb} {_some(alone)}")
    if len(parts) == 1:
        first = next(i for i, (a, b) in enumerate(zip(one.names, other.names, strict=True)) if a != b)
        parts.append(
            f"the same ones in another order: class {first} is '{other.names[first]}' in the data and '{one.names[first]}' to the model"
        )
    return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _truth(sample: Sample) -> Target:
    if sample.target is None:
        raise UserError(f"{sample.source or sample.name}: this image has no truth, so it cannot be evaluated.")
    return sample.target


def tell_limits(details: Mapping[str, Any]) -> None:
    """Say where a metric left out detections, in the same words every time, so that Python shows them once."""
    if any(isinstance(part, Mapping) and part.get("beyond_limit") for part in details.values()):
        warnings.warn(
            "Average precision counts the 100 surest objects of a class in an image, as COCO defines it, and there are images "
            "with more of them in the answers; 'beyond_limit' in the details says how many were not counted.",
            stacklevel=1,
        )


def _watch(
    histogram: ThresholdHistogram | None, truths: Sequence[Target]
) -> Callable[[int, int, torch.Tensor], None] | None:
    if histogram is None:
        return None

    def look(image: int, top: int, strip: torch.Tensor) -> None:
        histogram.update(strip, truths[image].labels[top : top + strip.shape[1]])

    return look


def _thresholds(histogram: ThresholdHistogram | None, team: Team) -> tuple[float, ...]:
    if histogram is None:
        return ()
    total, *others = team.gather(histogram)
    for other in others:
        total.merge(other)
    return tuple(float(value) for value in total.best())


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
