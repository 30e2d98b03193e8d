"""The small parts: schedule, plan, groups, average, precision, stream, watch, choices."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.engine.augmentation import training_pipeline
from nuriwake.engine.choose import choose, choose_task, choose_things, choose_tile
from nuriwake.engine.config import (
    AugmentationConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    override,
)
from nuriwake.engine.distribution import pick_device
from nuriwake.engine.ema import Average
from nuriwake.engine.facts import DataFacts, MachineFacts
from nuriwake.engine.optim import build_optimiser, freeze, parameter_groups, set_rate, training_mode
from nuriwake.engine.precision import autocast, choose_precision
from nuriwake.engine.schedule import Plan, backbone_factor, rate_factor
from nuriwake.engine.step import to_device
from nuriwake.engine.stream import DrawStream, Order, steps_of
from nuriwake.engine.watch import Watch
from nuriwake.models import build_model, resolve_model
from nuriwake.models.base import Model
from nuriwake.models.catalogue import entry_constructor
from nuriwake.tasks import pixel_mass

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["poly", "cosine", "constant"])
def test_the_rate_rises_then_falls(name):
    schedule = ScheduleConfig(name, warmup_steps=10, minimum=0.01)
    factors = [rate_factor(schedule, step, step / 200) for step in range(201)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) <= 1
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(1 if name == "constant" else 0.01)


def test_the_warmup_is_never_more_than_a_tenth_of_the_run():
    assert rate_factor(ScheduleConfig("constant", warmup_steps=1000), 2, 0.1) == 1


def test_a_backbone_with_weights_waits_for_the_rest_and_then_rises():
    schedule = ScheduleConfig("poly", 500, backbone_warmup_steps=1000)
    assert [backbone_factor(schedule, step, 0.0) for step in (0, 499, 999, 1499, 5000)] == [0, 0, 0.5, 1, 1]
    # A tenth of a short run for the rest, a tenth for the backbone.
    short = [backbone_factor(schedule, step, step / 100) for step in (0, 10, 15, 20, 99)]
    assert short == pytest.approx([0, 0, 0.5, 1, 1])
    assert backbone_factor(ScheduleConfig("poly", 500), 0, 0.0) == 1
    assert backbone_factor(ScheduleConfig("poly", 0, backbone_warmup_steps=10), 4, 0.0) == pytest.approx(0.5)
    model = build_model("unet_mobilenet_v2", in_channels=3, classes=1)
    optimiser = build_optimiser(model, OptimConfig(backbone_rate=1.0), CPU)
    set_rate(optimiser, 0.1, backbone=0.5)
    rates = {id(item): group["lr"] for group in optimiser.param_groups for item in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.05 if name.startswith("encoder.") else 0.1)


def test_embeddings_do_not_decay():
    model = build_model("mask2former_mobilenet_v2", in_channels=3, classes=2)
    still = [name for group in parameter_groups(model, OptimConfig()) if group.decay == 0 for name in group.names]
    tables = {"decoder.queries.weight", "decoder.query_positions.weight", "decoder.level_positions.weight"}
    assert tables <= set(still)


def test_poly_is_the_published_formula():
    for progress in (0.2, 0.5, 0.9):
        assert rate_factor(ScheduleConfig("poly", 0, 0.9), 100, progress) == pytest.approx((1 - progress) ** 0.9)


def test_a_budget_ends_inside_itself_whatever_the_noise():
    generator = torch.Generator().manual_seed(0)
    for evaluation in (0.5, 5.0, 20.0):
        plan, clock, step, spent = Plan(budget=120.0), 0.0, 0, 0.0
        while plan.progress(step, clock) < 1:
            if plan.evaluation_due(step, plan.reached):
                clock, spent = clock + evaluation, spent + evaluation
                plan.evaluated, plan.evaluation_seconds = plan.reached, evaluation
            clock += 0.2 + float(torch.rand((), generator=generator))
            step += 1
            plan.evaluation_seconds = plan.evaluation_seconds or evaluation
        assert clock + 2 * evaluation < 120
        assert spent <= 0.1 * 120 + evaluation


def test_a_budget_that_its_evaluations_exceed_is_said_once():
    assert Plan(budget=60.0).warning(5.0) == ""  # nothing is known yet
    assert Plan(budget=600.0, evaluation_seconds=40.0).warning(5.0) == ""
    assert Plan(steps=10, evaluation_seconds=40.0).warning(5.0) == ""
    plan = Plan(budget=60.0, evaluation_seconds=40.0)
    words = plan.warning(5.0)
    assert (
        "budget of 60 s will be exceeded by about 60 s" in words
    )  # half of it, and twice 40 s with a tenth and the bundle
    assert "takes about 40 s" in words
    assert "give 180 s or more" in words
    assert plan.warning(6.0) == ""
    plan = Plan(budget=60.0, evaluation_seconds=40.0)
    assert "is guessed to take about 40 s" in plan.warning(5.0, timed=False)
    assert plan.warning(6.0, timed=False) == ""
    assert "takes about 40 s" in plan.warning(30.0)
    assert plan.warning(31.0) == ""
    # The only evaluation was the last one, and took longer than anybody knew.
    assert "exceeded by about 66 s" in Plan(budget=60.0, evaluation_seconds=40.0).warning(80.0, evaluated=True)
    assert Plan(budget=180.0, evaluation_seconds=40.0).warning(90.0) == ""


def test_a_budget_keeps_time_for_the_metrics_that_come_last():
    usual, more = (
        Plan(budget=600.0, evaluation_seconds=20.0),
        Plan(budget=600.0, evaluation_seconds=20.0, further_seconds=100.0),
    )
    assert more.reserve == pytest.approx(usual.reserve + 110.0)
    words = Plan(budget=300.0, evaluation_seconds=20.0, further_seconds=300.0).warning(5.0)
    assert "with 300 s for the further metrics" in words


def test_a_budget_is_evaluated_less_in_its_first_half():
    plan, found = Plan(budget=2400.0, evaluation_seconds=16.0), []
    for hundredth in range(101):
        if plan.evaluation_due(hundredth, hundredth / 100):
            plan.evaluated = hundredth / 100
            found.append(hundredth)
    assert found == [25, 50, 63, 76, 89, 100]


def test_progress_never_falls():
    plan = Plan(budget=100.0)
    before = plan.progress(1, 50.0)
    plan.evaluation_seconds = 0.0
    plan.reached = before
    plan.budget = 200.0
    assert plan.progress(2, 51.0) == before


def test_groups_decay_weights_only_and_slow_the_backbone():
    model = build_model("unet_mobilenet_v2", in_channels=3, classes=2)
    config = OptimConfig(backbone_rate=0.25, weight_decay=0.05)
    groups = parameter_groups(model, config)
    assert {(group.scale, group.decay) for group in groups} == {(0.25, 0.0), (0.25, 0.05), (1.0, 0.0), (1.0, 0.05)}
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    for group in groups:
        assert all((parameter.ndim > 1) == (group.decay > 0) for parameter in group.parameters)
        assert all(name.startswith("encoder.") == (group.scale == 0.25) for name in group.names)


def test_layer_decay_falls_from_the_output():
    model = build_model("unet", in_channels=1, classes=1)
    scales = {}
    for group in parameter_groups(model, OptimConfig(layer_decay=0.5)):
        scales |= dict.fromkeys(group.names, group.scale)
    stages = [stage for stage in model.stages() if list(stage.parameters())]
    for depth, stage in enumerate(reversed(stages)):
        ids = {id(parameter) for parameter in stage.parameters()}
        assert {scales[name] for name, parameter in model.named_parameters() if id(parameter) in ids} == {0.5**depth}


def test_the_rate_reaches_every_group():
    optimiser = build_optimiser(build_model("unet_mobilenet_v2", in_channels=3, classes=1), OptimConfig(), CPU)
    set_rate(optimiser, 0.1)
    assert {group["lr"] for group in optimiser.param_groups} == {0.1, 0.05}


def test_frozen_parts_neither_learn_nor_count():
    model = build_model("unet_mobilenet_v2", in_channels=3, classes=1)
    frozen = freeze(model, ("backbone",))
    training_mode(model, frozen)
    assert not any(module.training for module in model.encoder.modules())
    assert model.decoder.training
    assert all(
        not name.startswith("encoder.") for group in parameter_groups(model, OptimConfig()) for name in group.names
    )
    with pytest.raises(UserError, match="Did you mean 'decoder'"):
        freeze(model, ("decodr",))
    freeze(model, ("decoder", "head"))
    with pytest.raises(UserError, match="nothing can be trained"):
        build_optimiser(model, OptimConfig(), CPU)


def test_the_average_is_the_published_recursion():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.9)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for step in range(5):
        with torch.no_grad():
            for value in model.state_dict().values():
                value += 1
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            whole = not value.is_floating_point()
            expected[name] = value.double() if whole else decay * expected[name] + (1 - decay) * value.double()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_precision_follows_the_machine(monkeypatch):
    monkeypatch.setattr("nuriwake.engine.precision.cpu_features", lambda: {"avx512_bf16"})
    assert choose_precision(CPU)[0] == "bf16"
    monkeypatch.setattr("nuriwake.engine.precision.cpu_features", lambda: {"avx512_f"})
    assert choose_precision(CPU)[0] == "fp32"
    with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
        autocast("fp16", CPU)


def test_an_absent_device_is_named():
    with pytest.raises(UserError, match="expected auto, cpu, cuda"):
        pick_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="PyTorch sees 0 CUDA GPUs"):
            pick_device("cuda")


def take(stream: DrawStream, count: int) -> list:
    draws = iter(stream)
    return [next(draws) for _ in range(count)]


def test_a_stream_begins_anywhere_and_shares_out():
    whole = take(DrawStream(Order(7, seed=3), start=0), 40)
    assert take(DrawStream(Order(7, seed=3), start=16), 24) == whole[16:]
    for epoch in range(5):
        assert sorted(draw.index for draw in whole[7 * epoch : 7 * epoch + 7]) == list(range(7))
    parts = [take(DrawStream(Order(7, seed=3, rank=rank, world=2), start=4), 10) for rank in (0, 1)]
    assert [draw for pair in zip(*parts, strict=True) for draw in pair] == whole[4:24]


def test_steps_of_epochs_cover_every_image():
    assert steps_of(3, count=10, images_per_step=4) == 8


def test_the_watch_names_the_batch():
    watch = Watch(patience=2)
    good, bad = torch.tensor(1.0), torch.tensor(math.nan)
    watch.note(0, ["a", "b"], {"dice": good}, good)
    assert watch.look() is None
    watch.note(1, ["c"], {"dice": bad}, bad)
    failure = watch.look()
    assert failure is not None
    assert failure.step == 1
    assert "the batch of c" in str(failure)
    watch.note(2, ["d"], {"dice": torch.tensor(2.0)}, good)
    watch.note(3, ["e"], {"dice": torch.tensor(4.0)}, good)
    assert watch.look() is None
    assert watch.means() == {"loss": 3.0, "dice": 3.0}
    assert watch.means() == {}


FACTS = DataFacts(
    path=Path("data"),
    space=LabelSpace(("background", "cell")),
    train=100,
    val=20,
    height=360,
    width=480,
    smallest=360,
    channels=3,
    dtype="uint8",
    grey=False,
    mean=(0.5,) * 3,
    deviation=(0.2,) * 3,
    maximum=255.0,
    exposures=1.2,
    level_mean=(0.3,) * 3,
    level_deviation=(0.2,) * 3,
    class_pixels=(900, 100),
    object_sizes=(0.0, 0.0, 0.0),
    most_objects=0,
    decoded_bytes=5 * 2**20,
)
MACHINE = MachineFacts(CPU, cores=2)
OPEN = RunConfig(DataConfig(Path("data")), task="semantic")


def test_every_choice_has_a_reason_and_fills_its_field():
    config, choices = choose(OPEN, FACTS, MACHINE)
    chosen = {choice.field: choice.value for choice in choices}
    assert all(choice.reason and "\n" not in choice.reason for choice in choices)
    assert chosen["augmentation.crop_size"] == 320 == config.augmentation.crop_size
    assert chosen["batch_size"] == 8
    assert chosen["evaluation.metric"] == "dice"
    assert config.budget_seconds == 1800
    assert config.augmentation.preset == "natural"
    assert choose(config, FACTS, MACHINE)[1] == []


@pytest.mark.parametrize(
    ("facts", "field", "value"),
    [
        ({"height": 100, "width": 90}, "augmentation.crop_size", 96),
        ({"height": 20, "width": 20}, "augmentation.crop_size", 64),
        ({"train": 3}, "batch_size", 3),
        ({"grey": True}, "augmentation.preset", "medical"),
        ({"channels": 8}, "augmentation.preset", "satellite"),
        ({"decoded_bytes": 2**40}, "data.cache_mib", 0),
        ({}, "data.mask_cache", "off"),
        ({"decoded_bytes": 2**40}, "data.mask_cache", "off"),
        ({"space": LabelSpace(("a", "b", "c"))}, "evaluation.metric", "mean_iou"),
    ],
)
def test_choices_follow_the_data(facts, field, value):
    _, choices = choose(OPEN, replace(FACTS, **facts), MACHINE)
    assert {choice.field: choice.value for choice in choices}[field] == value


def test_masks_are_kept_on_disk_only_where_the_user_says_and_the_reason_tells_when_that_would_help():
    large = replace(FACTS, decoded_bytes=2**40)
    reasons = {choice.field: choice.reason for choice in choose(OPEN, large, MACHINE)[1]}
    assert "give a folder" in reasons["data.mask_cache"]
    config, choices = choose(override(OPEN, {"data.mask_cache": "/disk/masks"}), large, MACHINE)
    assert config.data.mask_cache == "/disk/masks"
    assert "data.mask_cache" not in {choice.field for choice in choices}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"geometric": ["fit"]}, "augmentation.geometric has no random_crop without a zoom"),
        (
            {"geometric": [{"random_crop": {"zoom": [1, 2]}}]},
            "augmentation.geometric has no random_crop without a zoom",
        ),
        ({"pipeline": "own:pipeline"}, "augmentation.pipeline says it all"),
        ({"geometric": ["random_crop"]}, None),
        ({}, None),
    ],
)
def test_a_scale_without_effect_is_said(fields, said):
    """A recipe's, for instance, beside the user's own operations; and none is chosen that would have no effect."""
    open_ = override(OPEN, {f"augmentation.{name}": value for name, value in fields.items()})
    _, choices = choose(override(open_, {"augmentation.scale": [0.5, 2.0]}), FACTS, MACHINE)
    lines = [choice.reason for choice in choices if choice.field == "augmentation.scale"]
    assert lines == ([] if said is None else [f"without effect, since {said}"])
    config, _ = choose(open_, FACTS, MACHINE)
    assert config.augmentation.scale == (None if said else (0.6, 1.8))


def test_rare_classes_among_several_are_raised():
    several = replace(FACTS, space=LabelSpace(("a", "b", "c")), class_pixels=(10_000_000, 500_000, 90_000))
    assert choose(OPEN, several, MACHINE)[0].loss.class_weights == "log"
    even = replace(several, class_pixels=(10_000_000, 900_000, 800_000))
    assert choose(OPEN, even, MACHINE)[0].loss.class_weights == "none"
    binary = replace(FACTS, space=LabelSpace(("background", "cell")), class_pixels=(10_000_000, 10))
    assert choose(OPEN, binary, MACHINE)[0].loss.class_weights == "none"


def test_class_weights_are_for_losses_per_pixel():
    facts = replace(FACTS, class_pixels=(90_000, 100, 100), space=LabelSpace(("a", "b", "c"), (True,) * 3))
    assert choose(OPEN, facts, MACHINE)[0].loss.class_weights == "log"
    assert choose(replace(OPEN, task="instance"), facts, MACHINE)[0].loss.class_weights == "none"


def test_images_of_very_different_exposures_have_levels_of_their_own():
    assert choose(OPEN, FACTS, MACHINE)[0].data.exposure == "fixed"
    assert choose(OPEN, replace(FACTS, exposures=9.0), MACHINE)[0].data.exposure == "image"
    mixed = override(OPEN, {"augmentation.mixing": ["cut_mix"]})
    assert choose(mixed, replace(FACTS, exposures=9.0), MACHINE)[0].data.exposure == "fixed"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "mask_rcnn_mobilenet_v2_fpn",
            {"model.options.regions.anchor_sizes": [8, 16, 32, 64, 128], "model.options.regions.detections": 300},
        ),
        (
            "mask2former_mobilenet_v2",
            {"model.options.queries": 300, "predict.decoding.detections": 300},
        ),
        (
            "yolact_mobilenet_v2",
            {
                "model.options.prior_pixels": True,
                "model.options.prior_sizes": [8, 16, 32, 64, 128],
                "model.options.prior_scales": [1.0, 1.5, 2.25],
                "predict.decoding.detections": 300,
            },
        ),
        ("solov2_mobilenet_v2", {"predict.decoding.detections": 300, "predict.decoding.candidates": 600}),
        ("unet", {}),
    ],
)
def test_models_of_objects_are_told_how_large_and_how_many_they_are(model, expected):
    facts = replace(FACTS, object_sizes=(9.3, 20.0, 40.0), most_objects=120, space=LabelSpace(("cell",), (True,)))
    task = "semantic" if model == "unet" else "instance"
    config, choices = choose(replace(OPEN, model=ModelConfig(model), task=task), facts, MACHINE)
    found = {
        choice.field: choice.value for choice in choices if "options" in choice.field or "decoding" in choice.field
    }
    assert found == expected
    assert choose(config, facts, MACHINE)[1] == []


def test_large_priors_are_dense_enough_as_they_are():
    facts = replace(FACTS, object_sizes=(40.0, 80.0, 200.0), space=LabelSpace(("cell",), (True,)))
    config = replace(OPEN, model=ModelConfig("yolact_mobilenet_v2"), task="instance")
    assert choose(config, facts, MACHINE)[0].model.options["prior_sizes"][0] == 32
    assert "prior_scales" not in choose(config, facts, MACHINE)[0].model.options
    given = override(config, {"model.options": {"prior_sizes": [24, 48, 96, 192, 384]}})
    small = replace(facts, object_sizes=(9.0, 20.0, 40.0))
    assert "prior_scales" not in choose(given, small, MACHINE)[0].model.options


@pytest.mark.parametrize(
    ("model", "objects", "expected"),
    [
        ("panoptic_fpn_mobilenet_v2", 400, {"regions.detections": 800, "regions.proposals": 1600}),
        ("eomt_small", 120, {"queries": 300}),
        ("eomt_small", 70, {}),
    ],
)
def test_crowded_panoptic_images_have_room_for_all(model, objects, expected):
    facts = replace(FACTS, object_sizes=(9.3, 20.0, 40.0), most_objects=objects)
    _, choices = choose(replace(OPEN, model=ModelConfig(model), task="panoptic"), facts, MACHINE)
    options = "model.options."
    assert {
        choice.field.removeprefix(options): choice.value for choice in choices if choice.field.startswith(options)
    } == expected


@pytest.mark.parametrize(
    ("height", "width", "model", "expected"),
    [
        (64, 64, "panoptic_fpn_mobilenet_v2", 55),
        (240, 320, "panoptic_fpn_mobilenet_v2", 1024),
        (480, 640, "panoptic_fpn_mobilenet_v2", None),
        (800, 1333, "panoptic_fpn_mobilenet_v2", None),
        (64, 64, "mask2former_mobilenet_v2", None),
    ],
)
def test_the_least_stuff_of_small_images_is_the_published_share(height, width, model, expected):
    facts = replace(FACTS, height=height, width=width)
    config, _ = choose(replace(OPEN, model=ModelConfig(model), task="panoptic"), facts, MACHINE)
    assert config.predict.decoding.get("stuff_area") == expected
    given = replace(OPEN, model=ModelConfig(model), task="panoptic")
    if expected is not None:
        given = override(given, {"predict.decoding.stuff_area": 7})
        assert choose(given, facts, MACHINE)[0].predict.decoding["stuff_area"] == 7


@pytest.mark.parametrize(
    ("model", "options", "crop", "rates"),
    [
        ("deeplabv3plus_mobilenet_v2", {}, 320, [4, 8, 11]),
        ("deeplabv3plus_mobilenet_v2", {}, 512, None),
        ("deeplabv3_resnet50", {}, 256, [6, 12, 18]),
        ("deeplabv3_resnet50", {"output_stride": 16}, 64, [1, 2, 2]),
        ("deeplabv3_resnet50", {"rates": [1, 2, 3]}, 256, [1, 2, 3]),
        ("unet", {}, 320, None),
    ],
)
def test_dilations_stay_within_the_crop(model, options, crop, rates):
    config = override(replace(OPEN, model=ModelConfig(model, options)), {"augmentation.crop_size": crop})
    chosen = choose(config, FACTS, MACHINE)[0].model.options
    assert chosen.get("rates") == rates
    assert {**chosen, **options} == chosen, "what the user gave stays"


THINGS, STUFF = LabelSpace(("a", "b"), (True, True)), LabelSpace(("a", "b"))
BOTH = LabelSpace(("a", "b"), (True, False))


@pytest.mark.parametrize(
    ("model", "space", "task"),
    [
        ("unet", THINGS, "semantic"),
        ("mask_rcnn_mobilenet_v2_fpn", THINGS, "instance"),
        ("panoptic_fpn_r50", BOTH, "panoptic"),
        ("eomt_small", THINGS, "instance"),
        ("eomt_small", BOTH, "panoptic"),
        ("eomt_small", STUFF, "semantic"),
    ],
)
def test_the_task_is_that_of_the_model_and_the_data(model, space, task):
    config, (choice,) = choose_task(RunConfig(DataConfig(Path("data")), model=ModelConfig(model)), space)
    assert (config.task, choice.field) == (task, "task")
    assert choose_task(config, space) == (config, [])


def test_a_model_of_things_needs_things():
    config = RunConfig(DataConfig(Path("data")), model=ModelConfig("panoptic_fpn_r50"), task="panoptic")
    assert choose_things(config, BOTH)[0].model.options["things"] == [0]
    with pytest.raises(UserError, match="'panoptic_fpn_r50' finds countable things, but the data have none"):
        choose_things(config, STUFF)


def test_a_task_that_the_model_cannot_learn_is_refused():
    with pytest.raises(UserError, match="'unet' can be trained for semantic, not for 'instance'"):
        choose_task(RunConfig(DataConfig(Path("data")), model=ModelConfig("unet"), task="instance"), THINGS)


def test_the_mass_of_a_truth_is_what_the_pixel_losses_divide_by():
    truth = torch.tensor([[[0, 1, 255], [1, 1, 255]]])
    assert pixel_mass(truth, None) == 4
    assert pixel_mass(truth, torch.tensor([0.5, 2.0])) == 6.5
    several = torch.tensor([[[[0, 1]], [[255, 1]], [[255, 255]]]], dtype=torch.uint8)
    assert pixel_mass(several, None) == 3
    assert pixel_mass(several, torch.tensor([1.0, 2.0, 4.0])) == 4


def test_truth_of_any_shape_is_moved():
    class Pair(NamedTuple):
        boxes: torch.Tensor
        names: tuple[str, ...]

    truth = [Pair(torch.zeros(2, 4), ("a",)), {"masks": torch.zeros(1)}]
    moved = to_device(truth, torch.device("meta"))
    assert isinstance(moved[0], Pair)
    assert moved[0].names == ("a",)
    assert moved[0].boxes.device.type == moved[1]["masks"].device.type == "meta"


def test_what_the_user_said_stays():
    config = override(OPEN, {"batch_size": 2, "augmentation.crop_size": 64, "epochs": 3})
    chosen, choices = choose(config, FACTS, MACHINE)
    assert (chosen.batch_size, chosen.augmentation.crop_size, chosen.epochs, chosen.budget) == (2, 64, 3, None)
    assert not {"batch_size", "augmentation.crop_size", "budget"} & {choice.field for choice in choices}


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="do not divide among 2 processes"):
        choose(override(OPEN, {"batch_size": 3}), FACTS, MachineFacts(CPU, cores=2, world=2))


def test_the_zoom_of_the_configuration_reaches_the_crop():
    pipeline = training_pipeline(AugmentationConfig("natural", 64, (0.6, 1.8)), 3)
    assert pipeline.size == (64, 64)
    assert [operation.zoom for operation in pipeline.geometric if operation.name == "random_crop"] == [(0.6, 1.8)]


@pytest.mark.parametrize(
    ("stretch", "values", "side"),
    [
        (None, {}, 1024),
        (1.0, {}, 320),
        (2.0, {}, 640),
        (2.0, {"augmentation.crop_size": 768}, 1024),
        (1.0, {"augmentation.crop_size": 16}, 32),
        (1.0, {"augmentation.crop_size": 64, "predict.overlap": 0.1}, 80),
        (1.0, {"augmentation.geometric": ["fit", "horizontal_flip"]}, 1024),
        (1.0, {"augmentation.geometric": [{"random_crop": {"zoom": [0.5, 2.0]}}]}, 320),
        (1.0, {"augmentation.pipeline": "own:pipeline"}, 1024),
    ],
)
def test_a_tile_is_no_larger_than_what_the_model_learnt_from(stretch, values, side):
    class Stretched(Model):
        largest_stretch = stretch

    config = override(OPEN, {"augmentation.crop_size": 320, **values})
    config, (choice,) = choose_tile(config, Stretched())
    assert (choice.field, config.predict.tile, config.predict.tile_side) == ("predict.tile", side, side)
    assert choose_tile(config, Stretched()) == (config, [])
    for asked in (256, None):
        given = override(OPEN, {"predict.tile": asked})
        assert choose_tile(given, Stretched()) == (given, [])


def test_models_say_how_far_their_input_may_grow():
    """Those whose grids, positions or priors are shares of the input."""
    yolact = build_model("yolact_mobilenet_v2", in_channels=3, classes=1, options={"prior_pixels": True})
    assert yolact.largest_stretch is None
    assert build_model("yolact_mobilenet_v2", in_channels=3, classes=1).largest_stretch == 1.0
    known = {"solov2_mobilenet_v2": 1.0, "eomt_small": 1.0, "mask2former_r50": 2.0, "mask_rcnn_r50_fpn": None}
    assert {name: entry_constructor(resolve_model(name)).largest_stretch for name in known} == known
