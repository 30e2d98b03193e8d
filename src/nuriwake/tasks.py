"""The one table: task -> view of the target, loss, metric. A task joins by its row; nothing else asks for its name.

Decoding is the predictor's: its table goes by the task and the type of the output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.lookup import did_you_mean, lookup
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.inference.decoding import output_type
from nuriwake.losses.criterion import PixelCriterion
from nuriwake.losses.pixels import Mode
from nuriwake.metrics.boundary_metric import BoundaryMetric
from nuriwake.metrics.metric import Metric, MetricSettings
from nuriwake.metrics.semantic import SemanticMetric, metric_names
from nuriwake.metrics.surface_metric import SurfaceMetric
from nuriwake.models.base import Model
from nuriwake.models.outputs import PixelLogits


class LossSettings(NamedTuple):
    """What a criterion is built from.

    Attributes:
        terms: text such as "cross_entropy+dice", or name -> weight.
        options: name of a term -> its options.
        class_weights: float32 (K,), or None.
        auxiliary_weight: of auxiliary heads.
    """

    terms: str | Mapping[str, float]
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    class_weights: Tensor | None = None
    auxiliary_weight: float = 0.4


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name: semantic (instance and panoptic join here).
        space: the classes of a data set -> those that this task tells apart.
        view: the target of a data set as this task sees it, in those classes, such as the map of the classes of instances.
        stack: the targets of a batch -> the truth that the criterion takes: a tensor, or NamedTuples of tensors.
        crop: the truth and a margin in pixels -> the same without the margin, for models that predict less.
        mass: the truth and the class weights -> how much it counts beside other batches of the same step, 0 or more.
        criteria: output type -> builder of the loss.
        metric: label space -> the metric that every evaluation counts; the headline is one of its scores.
        metrics: name -> builder of a further metric, counted when it is asked for.
        headline: label space -> the name of the score that chooses the best weights; higher is better.
        metric_names: label space -> the scores that may be the headline.
    """

    name: str
    space: Callable[[LabelSpace], LabelSpace]
    view: Callable[[Target], Target]
    stack: Callable[[Sequence[Target]], Any]
    crop: Callable[[Any, int], Any]
    mass: Callable[[Any, Tensor | None], float]
    criteria: Mapping[type, Callable[[LabelSpace, LossSettings], nn.Module]]
    metric: Callable[[LabelSpace], Metric]
    metrics: Mapping[str, Callable[[LabelSpace, MetricSettings], Metric]]
    headline: Callable[[LabelSpace], str]
    metric_names: Callable[[LabelSpace], tuple[str, ...]]

    def channels(self, space: LabelSpace) -> int:
        """How many output channels a model of ours has for `space`."""
        return space.channels

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
        further = [lookup(name, self.metrics, "metric")(space, settings) for name in dict.fromkeys(asked)]
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


def _pixel_criterion(space: LabelSpace, settings: LossSettings) -> nn.Module:
    mode: Mode = "multilabel" if not space.exclusive else "binary" if space.binary else "multiclass"
    return PixelCriterion(
        settings.terms,
        mode=mode,
        class_weights=settings.class_weights,
        auxiliary_weight=settings.auxiliary_weight,
        options=settings.options,
    )


def _semantic_view(target: Target) -> SemanticMap:
    return target


def _semantic_headline(space: LabelSpace) -> str:
    return "dice" if space.binary else "mean_iou"


TASKS: dict[str, Any] = {
    "semantic": Task(
        name="semantic",
        space=_same_space,
        view=_semantic_view,
        stack=stack_semantic,
        crop=crop_margin,
        mass=pixel_mass,
        criteria={PixelLogits: _pixel_criterion},
        metric=SemanticMetric,
        metrics={"surface": SurfaceMetric.build, "boundary": BoundaryMetric.build},
        headline=_semantic_headline,
        metric_names=metric_names,
    ),
}
