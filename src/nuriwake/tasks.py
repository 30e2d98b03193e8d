"""The one table: task -> view of the target, loss, metric. A task joins by its row; nothing else asks for its name.

Decoding is the predictor's: its table goes by the task and the type of the output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.lookup import did_you_mean, import_object, lookup
from nuriwake.core.serial import from_plain
from nuriwake.core.targets import Target
from nuriwake.core.views import instance_space, instance_view, panoptic_view, semantic_space, semantic_view
from nuriwake.inference.decoding import output_type
from nuriwake.losses.criterion import PixelCriterion
from nuriwake.losses.pixels import Mode
from nuriwake.losses.queries import QueryCriterion
from nuriwake.losses.regions import RegionPixelCriterion
from nuriwake.losses.truth import stack_instances, stack_panoptic
from nuriwake.metrics.average_precision import FIGURES
from nuriwake.metrics.boundary_metric import BoundaryMetric
from nuriwake.metrics.instances import InstanceMetric
from nuriwake.metrics.metric import Metric, MetricSettings
from nuriwake.metrics.panoptic_quality import PANOPTIC_FIGURES, PanopticMetric
from nuriwake.metrics.semantic import SemanticMetric, metric_names
from nuriwake.metrics.surface_metric import SurfaceMetric
from nuriwake.metrics.viewed import ViewedMetric
from nuriwake.models.base import Model
from nuriwake.models.outputs import (
    KernelOutput,
    PixelLogits,
    PrototypeOutput,
    QueryOutput,
    RegionOutput,
    RegionPixelOutput,
)

Answer = TypeVar("Answer")

_REGION_LOSS = "nuriwake.losses.regions:RegionLoss"


class LossSettings(NamedTuple):
    """What a criterion is built from.

    Attributes:
        terms: text such as "cross_entropy+dice", or name -> weight; for losses of objects weights in place of the published.
        options: name of a term -> its options; for losses of objects their settings by name.
        class_weights: float32 (K,), or None.
        auxiliary_weight: of auxiliary heads.
    """

    terms: str | Mapping[str, float]
    options: Mapping[str, Any] = MappingProxyType({})
    class_weights: Tensor | None = None
    auxiliary_weight: float = 0.4


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name: semantic, instance or panoptic.
        space: the classes of a data set -> those that this task tells apart. Raises UserError where there are none.
        view: the target of a data set and those classes -> the target as this task sees it, in those classes, such as the map
            of the classes of instances. Raises UserError where the truth does not say it.
        stack: the targets of a batch -> the truth that the criterion takes: a tensor, or NamedTuples of tensors.
        crop: the truth and a margin in pixels -> the same without the margin, for models that predict less.
        mass: the truth and the class weights -> how much it counts beside other batches of the same step, 0 or more.
        criteria: output type -> builder of the loss.
        metric: label space -> the metric that every evaluation counts; the headline is one of its scores.
        metrics: name -> builder of a further metric, counted when it is asked for.
        usual: label space -> those of `metrics` that every evaluation of a finished model counts.
        headline: label space -> the name of the score that chooses the best weights; higher is better.
        metric_names: label space -> the scores that may be the headline.
        channels: label space -> what a model of ours is built with as `classes`.
        thresholds: label space -> are the best thresholds per class looked for on the validation images?
    """

    name: str
    space: Callable[[LabelSpace], LabelSpace]
    view: Callable[[Target, LabelSpace], Target]
    stack: Callable[[Sequence[Any]], Any]
    crop: Callable[[Any, int], Any]
    mass: Callable[[Any, Tensor | None], float]
    criteria: Mapping[type, Callable[[LabelSpace, LossSettings], nn.Module]]
    metric: Callable[[LabelSpace], Metric]
    metrics: Mapping[str, Callable[[LabelSpace, MetricSettings], Metric]]
    headline: Callable[[LabelSpace], str]
    metric_names: Callable[[LabelSpace], tuple[str, ...]]
    channels: Callable[[LabelSpace, type], int]
    thresholds: Callable[[LabelSpace], bool]
    usual: Callable[[LabelSpace], tuple[str, ...]]

    def criterion(self, model: Model, space: LabelSpace, settings: LossSettings) -> nn.Module:
        """The loss for what `model` puts out: output, truth -> named terms.

        Raises:
            UserError: this task has no loss for that type of output.
        """
        kind = output_type(model)
        if kind not in self.criteria:
            known = ", ".join(item.__name__ for item in self.criteria)
            raise UserError(
                f"The task '{self.name}' cannot be trained with {type(model).__name__}: its output is {kind.__name__}, "
                f"expected {known}; choose another model or task."
            )
        return self.criteria[kind](space, settings)

    def headline_name(self, space: LabelSpace, asked: str | None) -> str:
        """`asked`, or the default. Raises UserError when there is no such score."""
        names = self.metric_names(space)
        if asked is not None and asked not in names:
            raise UserError(f"evaluation.metric: there is no score '{asked}' here.{did_you_mean(asked, names)}")
        return asked or self.headline(space)

    def build_metrics(self, space: LabelSpace, asked: Sequence[str], settings: MetricSettings) -> list[Metric]:
        """The metric of every evaluation and those of `metrics` that are asked for, each once.

        Raises:
            UserError: there is no such metric (the nearest is named), or the settings do not do.
        """
        further = [lookup(name, self.metrics, "metric", here=True)(space, settings) for name in dict.fromkeys(asked)]
        return [self.metric(space), *further]


def get_task(name: str) -> Task:
    """The task `name`. Raises UserError with the nearest name."""
    return lookup(name, TASKS, "task")


def stack_semantic(targets: Sequence[Target]) -> Tensor:
    """Label maps of one size -> int64 (B, H, W), or uint8 (B, K, H, W) of 0, 1 and IGNORE when multi-label."""
    labels = np.stack([target.labels for target in targets])
    if targets[0].space.exclusive:
        return torch.from_numpy(labels).long()
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(labels, -1, 1)))


def crop_margin(truth: Tensor, margin: int) -> Tensor:
    """`truth` (..., H, W) without `margin` pixels on every side."""
    return truth[..., margin : truth.shape[-2] - margin, margin : truth.shape[-1] - margin] if margin else truth


def pixel_mass(truth: Tensor, class_weights: Tensor | None) -> float:
    """What the pixel losses divide by: the sum of the class weights of the true classes over all pixels not ignored.

    Parts that count by it sum to the loss of the whole batch, for every term that is a mean over pixels: `cross_entropy`, `bce`
    and `focal`, and sums of them. Ratios over the batch and hard-pixel mining are averaged over the parts instead.

    Args:
        truth: as `stack_semantic` makes it.
        class_weights: (K,), (2,) for a binary space; None counts pixels.
    """
    valid = truth != IGNORE
    if class_weights is None:
        return float(valid.sum())
    if truth.ndim == 4:
        return float((valid.sum((0, 2, 3)) * class_weights).sum())
    counts = torch.bincount(truth[valid], minlength=len(class_weights))
    return float((counts * class_weights).sum())


def _same_space(space: LabelSpace) -> LabelSpace:
    return space


def image_mass(truth: Any, class_weights: Tensor | None) -> float:
    """The losses of objects divide by what each batch holds; batches of equal size then count alike."""
    return 1.0


def no_margin(truth: Any, margin: int) -> Any:
    """Models of objects answer for the whole input."""
    assert margin == 0
    return truth


def _pixel_criterion(space: LabelSpace, settings: LossSettings) -> nn.Module:
    mode: Mode = "multilabel" if not space.exclusive else "binary" if space.binary else "multiclass"
    return PixelCriterion(
        settings.terms,
        mode=mode,
        class_weights=settings.class_weights,
        auxiliary_weight=settings.auxiliary_weight,
        options=settings.options,
    )


def _object_criterion(criterion: str, settings_type: str) -> Callable[[LabelSpace, LossSettings], nn.Module]:
    """A criterion built from its own frozen settings: `loss.terms` are its weights by name, `loss.options` its other fields."""

    def build(space: LabelSpace, settings: LossSettings) -> nn.Module:
        _refuse_class_weights(settings)
        return import_object(criterion)(_object_settings(settings_type, settings))

    return build


def _object_settings(settings_type: str, settings: LossSettings) -> Any:
    if isinstance(settings.terms, str):
        raise UserError(
            f"loss.terms: the loss of this model has terms of its own; give weights by name, such as {{mask: 2.0}}, or "
            f"nothing, found '{settings.terms}'."
        )
    plain = {"weights": dict(settings.terms), **settings.options}
    return from_plain(import_object(settings_type), plain, "loss.options")


def _refuse_class_weights(settings: LossSettings) -> None:
    if settings.class_weights is not None:
        raise UserError("loss.class_weights: the loss of this model has no weights of classes; set it to none.")


def _region_pixel_criterion(space: LabelSpace, settings: LossSettings) -> nn.Module:
    _refuse_class_weights(settings)
    return RegionPixelCriterion(space.things, _object_settings(_REGION_LOSS, settings))


def _query_criterion(space: LabelSpace, settings: LossSettings) -> nn.Module:
    own = _object_settings("nuriwake.losses.queries:QueryLoss", settings)
    return QueryCriterion(own, class_weights=settings.class_weights)


def _semantic_headline(space: LabelSpace) -> str:
    return "dice" if space.binary else "mean_iou"


def _logit_channels(space: LabelSpace, output: type) -> int:
    """One channel suffices for logits of two classes; queries have a class each."""
    return space.channels if output is PixelLogits else len(space)


def _class_count(space: LabelSpace, output: type) -> int:
    return len(space)


def _yes_or_no(space: LabelSpace) -> bool:
    return space.binary or not space.exclusive


def _seen_as_maps(space: LabelSpace, settings: MetricSettings) -> Metric:
    wanted = semantic_space(space)
    return ViewedMetric(SemanticMetric(wanted), lambda target: semantic_view(target, wanted))


def _seen_as_objects(space: LabelSpace, settings: MetricSettings) -> Metric:
    wanted = instance_space(space)
    return ViewedMetric(InstanceMetric(wanted), lambda target: instance_view(target, wanted))


def _always(answer: Answer) -> Callable[[LabelSpace], Answer]:
    return lambda space: answer


def _never(space: LabelSpace) -> bool:
    return False


_REGIONS = _object_criterion("nuriwake.losses.regions:RegionCriterion", _REGION_LOSS)
_PROTOTYPES = _object_criterion(
    "nuriwake.losses.prototypes:PrototypeCriterion", "nuriwake.losses.prototypes:PrototypeLoss"
)
_KERNELS = _object_criterion("nuriwake.losses.kernels:KernelCriterion", "nuriwake.losses.kernels:KernelLoss")
TASKS: dict[str, Any] = {
    "semantic": Task(
        name="semantic",
        space=semantic_space,
        view=semantic_view,
        stack=stack_semantic,
        crop=crop_margin,
        mass=pixel_mass,
        criteria={PixelLogits: _pixel_criterion, QueryOutput: _query_criterion},
        metric=SemanticMetric,
        metrics={"surface": SurfaceMetric.build, "boundary": BoundaryMetric.build},
        headline=_semantic_headline,
        metric_names=metric_names,
        channels=_logit_channels,
        thresholds=_yes_or_no,
        usual=_always(()),
    ),
    "instance": Task(
        name="instance",
        space=instance_space,
        view=instance_view,
        stack=stack_instances,
        crop=no_margin,
        mass=image_mass,
        criteria={
            RegionOutput: _REGIONS,
            PrototypeOutput: _PROTOTYPES,
            KernelOutput: _KERNELS,
            QueryOutput: _query_criterion,
        },
        metric=InstanceMetric,
        metrics={"boundary": InstanceMetric.boundary},
        headline=_always("mask_ap"),
        metric_names=_always(tuple(f"{kind}_{name}" for kind in ("mask", "box") for name in FIGURES)),
        channels=_class_count,
        thresholds=_never,
        usual=_always(("boundary",)),
    ),
    "panoptic": Task(
        name="panoptic",
        space=_same_space,
        view=panoptic_view,
        stack=stack_panoptic,
        crop=no_margin,
        mass=image_mass,
        criteria={RegionPixelOutput: _region_pixel_criterion, QueryOutput: _query_criterion},
        metric=PanopticMetric,
        metrics={"semantic": _seen_as_maps, "instance": _seen_as_objects},
        headline=_always("pq"),
        metric_names=_always(PANOPTIC_FIGURES),
        channels=_class_count,
        thresholds=_never,
        usual=lambda space: ("semantic", "instance") if any(space.things) else ("semantic",),
    ),
}
