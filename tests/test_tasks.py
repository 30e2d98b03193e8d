import numpy as np
import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap
from nuriwake.inference.decoding import output_type
from nuriwake.losses import LOSSES, PixelCriterion, sum_terms
from nuriwake.metrics.metric import MetricSettings
from nuriwake.models import build_model
from nuriwake.models.base import Model
from nuriwake.models.outputs import PixelLogits
from nuriwake.models.unet import UNet
from nuriwake.tasks import LossSettings, crop_margin, get_task, pixel_mass, stack_semantic

BINARY = LabelSpace(("background", "thing"))
THREE = LabelSpace(("a", "b", "c"))
MULTI = LabelSpace(("a", "b", "c"), exclusive=False)


@pytest.mark.parametrize(
    ("space", "channels", "headline"), [(BINARY, 1, "dice"), (THREE, 3, "mean_iou"), (MULTI, 3, "mean_iou")]
)
def test_a_task_follows_the_label_space(space, channels, headline):
    task = get_task("semantic")
    assert task.channels(space, PixelLogits) == channels
    assert task.headline_name(space, None) == headline
    assert task.headline_name(space, "pixel_accuracy") == "pixel_accuracy"


def test_segments_of_stuff_alone_are_scored_without_objects():
    task, things = get_task("panoptic"), LabelSpace(("a", "b"), (True, False))
    assert task.usual(things) == ("semantic", "instance")
    labels = np.repeat(np.arange(3, dtype=np.int32)[:, None], 4, 1)
    truth = Panoptic(labels + 1, np.arange(1, 4, dtype=np.int32), np.arange(3, dtype=np.int32), THREE)
    for metric in task.build_metrics(THREE, task.usual(THREE), MetricSettings()):
        scores = metric.update(truth, truth)
        assert scores.get("pq", 1.0) == scores.get("mean_iou", 1.0) == 1.0


def test_an_unknown_metric_or_task_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'mean_iou'"):
        get_task("semantic").headline_name(THREE, "mean_iuo")
    with pytest.raises(UserError, match="Did you mean 'semantic'"):
        get_task("semantics")


@pytest.mark.parametrize("space", [BINARY, THREE, MULTI])
def test_the_criterion_takes_what_the_task_stacks(space):
    task = get_task("semantic")
    shape = (16, 16) if space.exclusive else (16, 16, 3)
    rng = np.random.default_rng(0)
    highest = len(space) if space.exclusive else 2
    maps = [SemanticMap(rng.integers(0, highest, shape).astype(np.uint8), space) for _ in range(2)]
    model = build_model("unet", in_channels=1, classes=task.channels(space, PixelLogits))
    criterion = task.criterion(model, space, LossSettings("cross_entropy+dice"))
    terms = criterion(PixelLogits(torch.zeros(2, task.channels(space, PixelLogits), 16, 16)), task.stack(maps))
    assert set(terms) == {"cross_entropy", "dice"}
    assert all(torch.isfinite(value) for value in terms.values())


def test_stacks():
    labels = np.array([[0, 1], [IGNORE, 2]], np.uint8)
    assert stack_semantic([SemanticMap(labels, THREE)]).tolist() == [labels.tolist()]
    layers = np.moveaxis(np.array([[[0, 1]], [[1, 1]], [[IGNORE, 0]]], np.uint8), 0, -1)
    stacked = stack_semantic([SemanticMap(layers, MULTI)])
    assert stacked.dtype == torch.uint8
    assert stacked.tolist() == [[[[0, 1]], [[1, 1]], [[IGNORE, 0]]]]


def test_crop_margin():
    truth = torch.arange(36).reshape(1, 6, 6)
    assert crop_margin(truth, 0) is truth
    assert torch.equal(crop_margin(truth, 2), truth[:, 2:4, 2:4])


def test_the_output_type_comes_from_the_annotation():
    class Silent(Model):
        def forward(self, images):
            return images

    assert output_type(build_model("unet", in_channels=1, classes=1)) is PixelLogits
    with pytest.raises(UserError, match="must be annotated"):
        output_type(Silent())


def make_unet(in_channels: int, classes: int) -> UNet:
    return UNet(in_channels, classes)


def make_silently(in_channels, classes):
    return UNet(in_channels, classes)


class Plain(nn.Module):
    def forward(self, images: torch.Tensor) -> PixelLogits:
        return PixelLogits(images)


class Misspelt(Model):
    def forward(self, images: torch.Tensor) -> "PixelLogit":  # noqa: F821  # pyright: ignore
        return images


def test_the_output_type_of_what_builds_a_model():
    assert output_type(make_unet) is PixelLogits
    for wrong in (make_silently, Plain, Plain()):
        with pytest.raises(
            UserError, match=r"neither a class derived from .*Model .* nor a function that is annotated"
        ):
            output_type(wrong)
    with pytest.raises(UserError, match=r"Misspelt.forward has an annotation that leads to nothing"):
        output_type(Misspelt)


def test_a_model_with_another_output_is_refused():
    class Other(Model):
        def forward(self, images: torch.Tensor) -> int:
            return 0

    with pytest.raises(UserError, match="its output is int, expected PixelLogits"):
        get_task("semantic").criterion(Other(), BINARY, LossSettings("dice"))


@pytest.mark.parametrize(
    ("task", "model"), [("instance", "solov2_mobilenet_v2"), ("panoptic", "panoptic_fpn_mobilenet_v2")]
)
def test_class_weights_are_refused_where_the_loss_has_none(task, model):
    space = LabelSpace(("a", "b"), (True, False)) if task == "panoptic" else LabelSpace(("a", "b"), (True, True))
    built = build_model(model, in_channels=3, classes=2, options={"things": [0]} if task == "panoptic" else {})
    row = get_task(task)
    assert row.criterion(built, space, LossSettings({})) is not None
    with pytest.raises(UserError, match=r"loss\.class_weights: .* set it to none"):
        row.criterion(built, space, LossSettings({}, class_weights=torch.ones(2)))


# Ratios over the batch, which no share of the parts can sum to.
RATIOS = {"dice", "jaccard", "tversky", "focal_tversky", "lovasz"}
MEANS = sorted(set(LOSSES) - RATIOS)
OPTIONS = {"cross_entropy": {"label_smoothing": 0.1}, "bce": {"positive_weight": 3.0}}


def uneven(mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and truth of 3 images with other classes, and another number of ignored pixels, in each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1 if mode == "binary" else 4, 6, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (3, 4, 6, 6) if mode == "multilabel" else (3, 6, 6), generator=generator)
    if mode == "multiclass":
        target[1:] += torch.randint(0, 3, (2, 6, 6), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    target[0, ..., :4] = IGNORE
    return logits, target


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("weights", [None, (0.2, 3.0, 1.0, 0.5)])
@pytest.mark.parametrize("terms", [*MEANS, "0.5*cross_entropy+2*bce"])
def test_parts_that_count_by_their_mass_are_one_batch(mode, weights, terms):
    logits, target = uneven(mode)
    weights = None if weights is None else torch.tensor(weights[: 2 if mode == "binary" else 4]).double()
    for options in ({}, {name: value for name, value in OPTIONS.items() if name in terms}):
        criterion = PixelCriterion(terms, mode=mode, class_weights=weights, options=options)
        parts = [slice(0, 1), slice(1, 3)]
        masses = [pixel_mass(target[part], weights) for part in parts]
        losses = [sum_terms(criterion(PixelLogits(logits[part]), target[part])) for part in parts]
        whole = sum_terms(criterion(PixelLogits(logits), target))
        shared = sum(mass * loss for mass, loss in zip(masses, losses, strict=True)) / sum(masses)
        torch.testing.assert_close(shared, whole)
