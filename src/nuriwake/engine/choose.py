"""Sensible values for what the user left open, each with its reason in one line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.serial import to_plain
from nuriwake.engine.augmentation import operation_name, takes_scale
from nuriwake.engine.config import RunConfig, override
from nuriwake.engine.facts import DataFacts, MachineFacts
from nuriwake.engine.optim import early_modules, seen_channels
from nuriwake.engine.precision import choose_precision
from nuriwake.engine.run import Choice
from nuriwake.inference.decoders.panoptic_fpn import PanopticRegionDecoder
from nuriwake.inference.decoding import find_decoder, output_type
from nuriwake.inference.predictor import LEAST_OVERLAP
from nuriwake.inference.settings import USUAL_TILE
from nuriwake.models.base import Model
from nuriwake.models.catalogue import entry_constructor, model_options, resolve_model
from nuriwake.models.deeplabv3 import default_rates
from nuriwake.models.outputs import RegionPixelOutput
from nuriwake.models.region_settings import RegionSettings
from nuriwake.tasks import TASKS, get_task

CACHE_MIB = 2048
"""Decoded images are kept when all of them fit into this."""

_CROP = "augmentation.crop_size"

EXPOSURES = 3
"""From this ratio between the ranges of values of bright and dim images on, each image has its own levels."""

CROWDED = 60
"""Objects in an image from which the usual limit of 100 answers is too low."""

PUBLISHED_PRIOR = 24.0
"""YOLACT's smallest priors, three times as large as the cells that they are centred in."""

PYRAMID_CROP = 512
"""Side of the crops that DeepLab's dilations are published for, to a pixel."""

PUBLISHED_AREA = 480 * 640
"""Pixels of most of COCO's photographs, for which the least area of a segment of stuff is published."""

IMBALANCE = 20
"""Pixels of the commonest over those of the rarest class from which class weights are chosen."""


@dataclass
class _Choices:
    config: RunConfig
    made: list[Choice] = field(default_factory=list[Choice])

    def offer(self, name: str, value: Any, reason: str) -> None:
        """Fill the field `name` unless it holds a value already."""
        held: Any = to_plain(self.config)
        for part in name.split("."):
            held = held.get(part) if isinstance(held, Mapping) else None
        if held in (None, "auto"):
            self.config = override(self.config, {name: value})
            self.made.append(Choice(name, value, reason))

    def offer_region(self, name: str, value: Any, reason: str) -> None:
        """Fill the field `name` of the model's option `regions` unless it holds a value already."""
        held = self.config.model.options.get("regions", {})
        if name not in held:
            self.config = override(self.config, {"model.options.regions": {**held, name: value}})
            self.made.append(Choice(f"model.options.regions.{name}", value, reason))


def choose(config: RunConfig, data: DataFacts, machine: MachineFacts) -> tuple[RunConfig, list[Choice]]:
    """`config` with every gap filled that a run needs, and what was chosen.

    Raises:
        UserError: a field that does not suit the data or the machine.
    """
    choices = _Choices(config)
    _choose_task(choices, data)
    _choose_machine(choices, data, machine)
    _choose_crop(choices, data)
    _choose_rates(choices)
    _choose_batch(choices, data, machine)
    _choose_length(choices, data, machine)
    _choose_augmentation(choices, data)
    _choose_exposure(choices, data)
    if choices.config.task == "instance":
        _choose_objects(choices, data)
    if choices.config.task != "semantic":
        _choose_limits(choices, data)
    if choices.config.task == "panoptic":
        _choose_stuff_area(choices, data)
    _choose_class_weights(choices, data)
    _check(choices.config, machine)
    return choices.config, choices.made


def choose_task(config: RunConfig, space: LabelSpace) -> tuple[RunConfig, list[Choice]]:
    """`config` with its task: one that has a loss for the output of the model, and of several the one that asks for all that
    the classes of the data tell.

    Raises:
        UserError: the task that the configuration names has no loss for the model.
    """
    model = config.model.name
    constructor: Any = entry_constructor(resolve_model(model))
    kind = output_type(constructor)
    able = [name for name, task in TASKS.items() if kind in task.criteria]
    if config.task is not None:
        if get_task(config.task).name not in able:
            raise UserError(
                f"task: '{model}' can be trained for {' or '.join(able) or 'no task'}, not for '{config.task}'; leave the task "
                "out or choose another model (nuriwake models)."
            )
        return config, []
    if len(able) == 1:
        name, why = able[0], f"what '{model}' answers"
    elif all(space.things):
        name, why = "instance", "every class of the data is countable"
    elif any(space.things):
        name, why = "panoptic", "the data have countable classes and others"
    else:
        name, why = "semantic", "no class of the data is countable"
    return override(config, {"task": name}), [Choice("task", name, why)]


def choose_things(config: RunConfig, space: LabelSpace) -> tuple[RunConfig, list[Choice]]:
    """`config` with the countable classes for a model that has parts of its own for them.

    Raises:
        UserError: there are none.
    """
    if "things" not in model_options(config.model.name) or "things" in config.model.options:
        return config, []
    things = [index for index, thing in enumerate(space.things) if thing]
    if not things:
        raise UserError(
            f"model.name: '{config.model.name}' finds countable things, but the data have none among their {len(space)} "
            "classes; choose a model for semantic segmentation or a Mask2Former."
        )
    why = f"{len(things)} of {len(space)} classes are countable"
    return override(config, {"model.options.things": things}), [Choice("model.options.things", things, why)]


def fit_crop(config: RunConfig, choices: Sequence[Choice], model: Model) -> tuple[RunConfig, list[Choice]]:
    """Make the crop one that `model` takes: one that was chosen grows, with the model's margin around it.

    Raises:
        UserError: the user's own does not do; the next size that does is named.
    """
    side = config.augmentation.crop_size or 1
    chosen = any(choice.field == _CROP for choice in choices)
    fit = _fit_side(model, side + 2 * model.margin if chosen else side)
    if fit == side:
        return config, list(choices)
    if not chosen:
        raise UserError(f"{_CROP}: {config.model.name} does not take images of {side} pixels; the next size is {fit}.")
    margin = f", with its margin of {model.margin}" if model.margin else ""
    why = f"; grown from {side} to what the model takes{margin}"
    grown = [
        replace(choice, value=fit, reason=choice.reason + why) if choice.field == _CROP else choice
        for choice in choices
    ]
    return override(config, {_CROP: fit}), grown


def choose_frozen(config: RunConfig, model: Model) -> tuple[RunConfig, list[Choice]]:
    """`config` with what does not learn: the first layers of a pretrained backbone where a CPU's time is the limit."""
    if config.optim.freeze is not None:
        return config, []
    early = early_modules(model)
    if config.device != "cpu" or config.budget is None or config.model.backbone_weights is None or not early:
        frozen, why = [], "everything learns"
    elif (bands := seen_channels(model)) not in (1, 3):
        # Its first kernels were copied from red, green and blue: at rest they could not tell near infrared from red.
        frozen, why = [], f"the published weights know nothing of images of {bands} channels, so everything learns"
    else:
        # nuclei, 10 minutes, with smaller crops: 769 steps instead of 269.
        frozen, why = (
            ["early"],
            "on a CPU they cost most of a step, and the edges and colours they see are learnt already",
        )
    return override(config, {"optim.freeze": frozen}), [Choice("optim.freeze", frozen, why)]


def choose_tile(config: RunConfig, model: Model) -> tuple[RunConfig, list[Choice]]:
    """`config` with the side from which images are taken in tiles.

    Where something in the model is a share of its input, a tile is no larger than what the training crops have taught it
    (`Model.largest_stretch`): a whole image of three times the side is to SOLOv2 or EoMT an image of another kind. Where the training
    shows whole images scaled down (the operation "fit"), or images from the user's own pipeline, nobody knows better than the
    usual tile.
    """
    if config.predict.tile != "auto":
        return config, []
    augmentation, side = config.augmentation, USUAL_TILE
    why = "larger images are taken in tiles, in bounded memory"
    scaled = "fit" in {operation_name(item) for item in augmentation.geometric or ()}
    if model.largest_stretch is not None and not scaled and augmentation.pipeline is None:
        crop = augmentation.crop_size or USUAL_TILE
        # No smaller than what two tiles must share, and than what a tile may be.
        shared = math.ceil(LEAST_OVERLAP / config.predict.overlap) if config.predict.overlap else 0
        side = min(USUAL_TILE, max(round(model.largest_stretch * crop), shared, 32))
        why = f"places are shares of the input to this model, which learns from crops of {crop} pixels"
    return override(config, {"predict.tile": side}), [Choice("predict.tile", side, why)]


def _fit_side(model: Model, side: int) -> int:
    """The smallest acceptable side of a square from `side` on."""
    while (fit := max(model.fit_size(side, side))) != side:
        side = fit
    return side


def _choose_task(choices: _Choices, data: DataFacts) -> None:
    task = get_task(choices.config.task or "")
    name = task.headline_name(data.space, choices.config.evaluation.metric)
    kind = "two classes" if data.space.binary else f"{len(data.space)} classes"
    what = kind if task.name == "semantic" else f"the task '{task.name}'"
    choices.offer("evaluation.metric", name, f"the usual headline score for {what}")


def _choose_machine(choices: _Choices, data: DataFacts, machine: MachineFacts) -> None:
    choices.offer(
        "device", str(machine.device), "a GPU is there" if machine.device.type == "cuda" else "no GPU is there"
    )
    choices.offer("precision", *choose_precision(machine.device))
    if machine.device.type == "cuda":
        workers, why = min(machine.cores, 16), "one reader per core keeps the GPU busy"
    elif machine.cores > 2:
        workers, why = 1, "the CPU is busy with the network; one process prepares the next batch"
    else:
        workers, why = 0, f"{machine.cores} cores: a reader of its own would take from the network what it gives"
    choices.offer("data.workers", workers, why)
    mib = data.decoded_bytes // 2**20 + 1
    copies = max(1, choices.config.data.workers or 0)
    small = mib * copies + mib * data.val // data.train <= CACHE_MIB
    choices.offer(
        "data.cache_mib",
        mib if small else 0,
        f"all images fit decoded into {mib} MiB" if small else f"decoded, the images take {mib} MiB: too much to keep",
    )
    if (choices.config.data.cache_mib or 0) >= mib:
        choices.offer("data.mask_cache", "off", "decoded masks are kept in memory")
    else:
        why = "masks are decoded anew in every epoch; give a folder to keep them in, and they are read several times faster"
        choices.offer("data.mask_cache", "off", why)


def _choose_crop(choices: _Choices, data: DataFacts) -> None:
    longest = 512 if choices.config.device.startswith("cuda") else 320
    side = min(longest, max(64, -(-min(data.height, data.width) // 32) * 32))
    why = (
        f"images of {data.height}x{data.width}"
        if side < longest
        else f"the images are larger; {longest} shows enough context"
    )
    choices.offer(_CROP, side, f"{why}, a multiple of 32")


def _choose_rates(choices: _Choices) -> None:
    """Dilations that suit the crop, for models with an atrous pyramid: in a crop smaller than the published one the outer taps
    see nothing but padding, stay as they were drawn, and meet whole images when it matters (Chen et al. 2017, figure 4)."""
    crop, options = choices.config.augmentation.crop_size or PYRAMID_CROP, model_options(choices.config.model.name)
    if "rates" not in options or crop >= PYRAMID_CROP:
        return
    stride = {**options, **choices.config.model.options}["output_stride"]
    published = options["rates"] or default_rates(stride)
    rates = [max(1, round(rate * crop / PYRAMID_CROP)) for rate in published]
    why = f"those of the paper, for crops of {PYRAMID_CROP} pixels, reach beyond crops of {crop}"
    choices.offer("model.options.rates", rates, why)


def _choose_batch(choices: _Choices, data: DataFacts, machine: MachineFacts) -> None:
    size, why = 8, "steady batch statistics at a moderate cost per step"
    if machine.gpu_bytes >= 20 * 2**30:
        size, why = 16, "the GPU has memory to spare"
    if size > data.train:
        size, why = max(1, data.train), f"there are only {data.train} training images"
    size = max(machine.world, size - size % machine.world)
    choices.offer("batch_size", size, why)


def _choose_length(choices: _Choices, data: DataFacts, machine: MachineFacts) -> None:
    config = choices.config
    if (config.epochs, config.steps, config.budget) != (None, None, None):
        return
    if machine.device.type == "cpu":
        choices.offer("budget", "30m", "on a CPU time is the limit; give epochs, steps or another budget")
        return
    steps = min(20_000, max(2_000, 40 * data.train // (config.batch_size or 8)))
    choices.offer("steps", steps, "about 40 passes over the images, at least 2,000 and at most 20,000 steps")


def _choose_augmentation(choices: _Choices, data: DataFacts) -> None:
    if data.channels == 2:
        name, why = "satellite", "2 channels are no photograph but usually radar or stains, which have no up"
    elif data.channels > 3:
        name, why = "satellite", f"{data.channels} channels are usually taken from above"
    elif data.grey:
        name, why = "medical", "grey images are usually micrographs or scans, which have no up"
    else:
        name, why = "natural", "colour photographs"
    choices.offer("augmentation.preset", name, why)
    augmentation = choices.config.augmentation
    if not takes_scale(augmentation):
        if augmentation.scale is not None:
            where = (
                "geometric has no random_crop without a zoom"
                if augmentation.pipeline is None
                else "pipeline says it all"
            )
            why = f"without effect, since augmentation.{where}"
            choices.made.append(Choice("augmentation.scale", list(augmentation.scale), why))
    elif augmentation.preset == "natural":
        choices.offer("augmentation.scale", [0.6, 1.8], "objects come at all distances")


def _choose_exposure(choices: _Choices, data: DataFacts) -> None:
    ratio = data.exposures
    if ratio < EXPOSURES:
        choices.offer("data.exposure", "fixed", f"the images are about equally bright ({ratio:.1f}-fold)")
    elif choices.config.augmentation.mixing:
        choices.offer("data.exposure", "fixed", "parts of several images in one have no levels in common")
    else:
        # nuclei (9-fold): 0.9286 after 223 steps, against 0.9235 after 187 and 0.9276 after 269 with fixed levels.
        choices.offer("data.exposure", "image", f"exposures differ {ratio:.0f}-fold, so each image has its own levels")


def _choose_objects(choices: _Choices, data: DataFacts) -> None:
    """Sizes and numbers that models of objects have for COCO's photographs, for these."""
    options = model_options(choices.config.model.name)
    if "prior_pixels" in options:
        why = "objects of whole images are as large as those of the crops, not as large a share of the image"
        choices.offer("model.options.prior_pixels", True, why)
    low, _, high = data.object_sizes
    if not low:
        return
    # A power of two not above the small objects: anchors and priors double from level to level.
    first = float(2 ** int(np.clip(np.floor(np.log2(low)), 2, 5)))
    why = f"four of five objects measure {low:.0f} to {high:.0f} pixels"
    if "regions" in options:
        choices.offer_region("anchor_sizes", [first * 2**level for level in range(5)], why)
    if "prior_sizes" in options:
        choices.offer("model.options.prior_sizes", [first * 2**level for level in range(5)], why)
        if (smallest := min(choices.config.model.options["prior_sizes"])) < PUBLISHED_PRIOR:
            # nuclei: a quarter of the objects had a prior with an IoU of 0.5 and more; with these, five of six have.
            why = f"cells of 8 pixels lie too far apart for priors of {smallest:.0f} alone to meet every object"
            choices.offer("model.options.prior_scales", [1.0, 1.5, 2.25], why)


def _choose_limits(choices: _Choices, data: DataFacts) -> None:
    """Room for twice the objects of the fullest image, where that is more than COCO's photographs ask for."""
    if data.most_objects <= CROWDED:
        return
    options, room = model_options(choices.config.model.name), 100 * -(-data.most_objects * 2 // 100)
    why = f"there are images of {data.most_objects} objects, of those looked at"
    if "regions" in options:
        choices.offer_region("detections", room, why)
        if 2 * room > RegionSettings().proposals:
            choices.offer_region("proposals", 2 * room, why)
    elif choices.config.task == "instance":
        choices.offer("predict.decoding.detections", room, why)
        constructor: Any = entry_constructor(resolve_model(choices.config.model.name))
        candidates = getattr(find_decoder("instance", output_type(constructor), {}), "candidates", 2 * room)
        if candidates < 2 * room:
            choices.offer("predict.decoding.candidates", 2 * room, why)
    if "queries" in options and room > options["queries"]:
        choices.offer("model.options.queries", room, why)


def _choose_stuff_area(choices: _Choices, data: DataFacts) -> None:
    """The least area of stuff is published for photographs of COCO's size; in smaller images it would be much of the image."""
    constructor: Any = entry_constructor(resolve_model(choices.config.model.name))
    share = data.height * data.width / PUBLISHED_AREA
    if output_type(constructor) is RegionPixelOutput and share < 1:
        value = max(round(PanopticRegionDecoder().stuff_area * share), 1)
        why = f"the published share of the image, which here is {data.height}x{data.width} and not 480x640"
        choices.offer("predict.decoding.stuff_area", value, why)


def _choose_class_weights(choices: _Choices, data: DataFacts) -> None:
    if choices.config.task != "semantic":
        choices.offer("loss.class_weights", "none", "objects are counted, not their pixels")
        return
    present = [count for count in data.class_pixels if count]
    ratio = max(present) / min(present) if present else 1.0
    if data.space.channels > 1 and data.space.exclusive and ratio > IMBALANCE:
        # Without weights the softmax learns rare classes only after the common ones: on camvid (109-fold) three of eleven
        # classes still had an IoU of 0 after 250 steps, with these weights none after 130.
        why = f"the rarest class has {ratio:,.0f} times fewer pixels than the commonest"
        choices.offer("loss.class_weights", "log", why)
    else:
        choices.offer(
            "loss.class_weights", "none", f"classes differ {ratio:,.0f}-fold in pixels, which needs no weights"
        )


def _check(config: RunConfig, machine: MachineFacts) -> None:
    size = config.batch_size or 1
    if size % machine.world:
        raise UserError(
            f"batch_size: {size} images do not divide among {machine.world} processes; give a multiple of {machine.world}."
        )
    if config.precision == "fp16" and machine.device.type != "cuda":
        raise UserError("precision: fp16 needs a CUDA GPU; on the CPU use bf16 or fp32.")
