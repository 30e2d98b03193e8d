"""RunConfig: everything that decides a training, as one frozen dataclass of plain values.

`None` means "chosen for the data and the machine" (`engine.choose`); the resolved configuration, without such gaps, is
what the run folder and the bundle keep.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from nuriwake.core.errors import UserError
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.data.texts import read_text
from nuriwake.inference.settings import PredictSettings


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from.

    Attributes:
        path: a folder whose format is recognised, or a YAML file that describes the data.
        format: the name of the format, when recognition should not decide.
        train: the split that trains.
        val: the split that chooses the best weights and thresholds.
        val_share: the share of images held out when the data have no splits.
        workers: processes that read and augment; 0 does it in the training process.
        cache_mib: decoded images kept in memory, in MiB per worker, and at most as much again for validation.
        mask_cache: a folder where decoded masks are kept for later epochs and runs, 8 GiB of them at most (data not used for longest
            go first); "off", which is chosen unless a folder is named, decodes them every time.
        exposure: "image" takes 0 and full brightness from the values of each image (1st and 99.8th percentile), for images of
            one kind taken at very different exposures; "fixed" treats all alike.
        check: look for mistakes in a sample of images and masks first (the quick part of `nuriwake check`), and refuse data that
            would surely give a useless model.
    """

    path: Path
    format: str | None = None
    train: str = "train"
    val: str = "val"
    val_share: float = 0.2
    workers: int | None = None
    cache_mib: int | None = None
    mask_cache: str | None = None
    exposure: Literal["fixed", "image"] | None = None
    check: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture.

    Attributes:
        name: one of `nuriwake models`, or "module:Class" of a `nuriwake.models.Model` of your own (or of a function annotated to
            return one); the module may be a file of the current folder.
        options: further arguments of the architecture.
        backbone_weights: a local file, or a name that can be fetched; None starts from random weights.
    """

    name: str = "unet_mobilenet_v2"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    backbone_weights: str | None = None


@dataclass(frozen=True)
class OptimConfig:
    """How a gradient becomes a step.

    Attributes:
        name: the optimiser.
        learning_rate: the highest rate, that of the decoder.
        backbone_rate: factor on the rate for the model's backbone.
        layer_decay: factor on the rate per stage, counted from the output; 1 switches it off.
        weight_decay: for weights of two and more dimensions; norms and biases have none.
        momentum: of SGD.
        clip: the highest gradient norm; None does not clip.
        accumulation: batches per step.
        freeze: what does not learn: "backbone"; "early", its layers up to stride 4, most of the cost on large maps; or names of
            modules.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    backbone_rate: float = 0.5
    layer_decay: float = 1.0
    weight_decay: float = 1e-2
    momentum: float = 0.9
    clip: float | None = 5.0
    accumulation: int = 1
    freeze: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a share of its highest value, over the run.

    Attributes:
        name: the fall after the warm-up.
        warmup_steps: steps of linear rise; never more than a tenth of the run.
        power: of the polynomial fall.
        minimum: the share at the end.
        backbone_warmup_steps: further steps of linear rise of a backbone that begins with weights, which does not learn until
            the rest of the model has risen; likewise never more than a tenth of the run. 0: it rises with the rest.
    """

    name: Literal["poly", "cosine", "constant"] = "poly"
    warmup_steps: int = 50
    power: float = 0.9
    minimum: float = 0.0
    backbone_warmup_steps: int = 0


@dataclass(frozen=True)
class LossConfig:
    """What is minimised.

    Attributes:
        terms: "cross_entropy+dice", "0.5*dice+bce", or name -> weight; models of objects have terms of their own, whose
            published weights hold where none are given.
        options: name of a term -> its options, for instance {"cross_entropy": {"label_smoothing": 0.1}}; for models of objects
            the settings of their loss, for instance {"positive_overlap": 0.6}.
        class_weights: how rare classes are raised: none, inverse, median, effective or log.
        auxiliary_weight: of the auxiliary heads that some architectures have.
    """

    terms: str | Mapping[str, float] = "cross_entropy+dice"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    class_weights: Literal["none", "inverse", "median", "effective", "log"] | None = None
    auxiliary_weight: float = 0.4


@dataclass(frozen=True)
class AugmentationConfig:
    """What happens to a training image.

    Attributes:
        preset: natural, medical, satellite or none (crop only).
        crop_size: side of the square crop in pixels.
        scale: range of the random resize before the crop, also of a "random_crop" among `geometric` that gives no zoom of its own;
            None keeps the preset's.
        balance: share of crops that are centred on rare or foreground classes.
        balance_images: draw images with rare classes more often (repeat factors of LVIS), with replacement.
        pipeline: "module:name" of a `nuriwake.transforms.Pipeline` or an `albumentations.Compose`, instead of all the others;
            the module may be a file of the current folder.
        geometric: operations in place of the preset's, by name: "horizontal_flip" or {"elastic": {"strength": 0.1}}; the
            names are in `nuriwake.transforms.OPERATIONS`. None keeps the preset's.
        photometric: likewise.
        mixing: likewise: "cut_mix", {"mosaic": {"probability": 0.3}}, "copy_paste" (objects).
    """

    preset: str | None = None
    crop_size: int | None = None
    scale: tuple[float, float] | None = None
    balance: float = 0.0
    balance_images: bool = False
    pipeline: str | None = None
    geometric: tuple[str | Mapping[str, Any], ...] | None = None
    photometric: tuple[str | Mapping[str, Any], ...] | None = None
    mixing: tuple[str | Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how validation happens.

    Attributes:
        every: steps between evaluations; None: chosen so that they cost at most about a tenth of the time, more of them in
            the second half of a budget.
        metric: what names the best weights; None: dice for binary data, mean_iou otherwise.
        early_stop: evaluations without improvement before the run ends; None never stops early.
        metrics: further metrics of the final evaluation: surface (HD95, NSD, average surface distance), boundary.
        tolerance: of the normalised surface Dice, in the unit of the data's spacing (pixels where they give none).
    """

    every: int | None = None
    metric: str | None = None
    early_stop: int | None = None
    metrics: tuple[str, ...] = ()
    tolerance: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """A training run, complete.

    Attributes:
        data: where the images come from.
        out: the run folder.
        predict: how the model is used, in validation and by the bundle: tiles, thresholds, post-processing. Thresholds left
            out are looked for on the validation images, where the classes are yes-or-no questions.
        task: what is answered for an image: semantic, instance or panoptic; None: what the model is for.
        batch_size: images per batch, over all processes.
        epochs: passes over the training images; give one of `epochs`, `steps` and `budget`.
        steps: optimiser steps.
        budget: wall-clock time for everything until the bundle is written: "90s", "10m", "1h30m" or seconds.
        ema: highest decay of the weight average that is evaluated and kept; None keeps the plain weights.
        precision: of the arithmetic; auto takes bf16 where the machine computes it fast.
        compile: torch.compile the model and its loss; needs a C++ compiler on the CPU.
        device: auto, cpu, cuda or cuda:N.
        seed: of weights, order and augmentation.
        checkpoint_seconds: the longest time that a killed run loses.
        licence: of the trained weights, kept in the bundle.
    """

    data: DataConfig
    out: Path = Path("runs/latest")
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    predict: PredictSettings = field(default_factory=PredictSettings)
    task: str | None = None
    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    budget: str | float | None = None
    ema: float | None = 0.99
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    checkpoint_seconds: float = 60.0
    licence: str = ""

    def __post_init__(self) -> None:
        _check_length(self)
        optim = self.optim
        for name, value, low, high in (
            ("batch_size", self.batch_size, 1, None),
            ("ema", self.ema, 0, 1),
            ("data.val_share", self.data.val_share, 0, 1),
            ("data.workers", self.data.workers, 0, None),
            ("data.cache_mib", self.data.cache_mib, 0, None),
            ("seed", self.seed, 0, None),
            ("checkpoint_seconds", self.checkpoint_seconds, 0, None),
            ("optim.learning_rate", optim.learning_rate, 0, None),
            ("optim.backbone_rate", optim.backbone_rate, 0, None),
            ("optim.layer_decay", optim.layer_decay, 0, 1),
            ("optim.weight_decay", optim.weight_decay, 0, None),
            ("optim.momentum", optim.momentum, 0, 1),
            ("optim.clip", optim.clip, 0, None),
            ("optim.accumulation", optim.accumulation, 1, None),
            ("schedule.warmup_steps", self.schedule.warmup_steps, 0, None),
            ("schedule.backbone_warmup_steps", self.schedule.backbone_warmup_steps, 0, None),
            ("schedule.power", self.schedule.power, 0, None),
            ("schedule.minimum", self.schedule.minimum, 0, 1),
            ("loss.auxiliary_weight", self.loss.auxiliary_weight, 0, None),
            ("augmentation.crop_size", self.augmentation.crop_size, 1, None),
            ("augmentation.balance", self.augmentation.balance, 0, 1),
            ("evaluation.every", self.evaluation.every, 1, None),
            ("evaluation.early_stop", self.evaluation.early_stop, 1, None),
            ("evaluation.tolerance", self.evaluation.tolerance, 0, None),
        ):
            _check_range(name, value, low, high)

    @property
    def budget_seconds(self) -> float | None:
        """`budget` in seconds."""
        return None if self.budget is None else seconds(self.budget)


def seconds(text: str | float) -> float:
    """A duration ("90s", "10m", "1h30m", "45", 45) in seconds. Raises UserError when it is none, or not above zero."""
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", str(text).replace(" ", ""))
    try:
        hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    except ValueError:
        hours = minutes = rest = 0.0
    total = hours * 3600 + minutes * 60 + rest
    if total <= 0:
        raise UserError(f"budget: expected a duration such as '90s', '10m' or '1h30m', found {text!r}.")
    return total


def override(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with some fields replaced.

    Args:
        values: nested ({"optim": {"learning_rate": 3e-4}}) or dotted ({"optim.learning_rate": 3e-4}), as YAML or a
            command line gives them. `model.options`, `loss.options` and `loss.terms` are replaced as a whole by a mapping, and
            entry by entry by dotted names ("model.options.output_stride"). A new length (`epochs`, `steps`, `budget`) replaces
            the one in `config`.

    Raises:
        UserError: an unknown field (the nearest is named) or a value of the wrong type.
    """
    plain = to_plain(config)
    lengths = ("epochs", "steps", "budget")
    if any(values.get(name) is not None for name in lengths):
        plain.update(dict.fromkeys(lengths))
    _merge(plain, values)
    return from_plain(RunConfig, plain)


def read_overrides(path: str | Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, for `override`. Raises UserError when it cannot be read or is no mapping."""
    try:
        values = yaml.safe_load(read_text(Path(path)))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: the configuration cannot be read ({' '.join(str(error).split())}).") from error
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: expected a mapping of fields, found {type(values).__name__}.")
    return values


def differences(first: RunConfig, second: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (value in `first`, value in `second`), for the fields that differ."""
    one, other = flatten(to_plain(first)), flatten(to_plain(second))
    return {name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)}


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    out: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def fill(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`config` with its gaps (None, "auto") taken from `values` (dotted); fields that hold a value stay."""
    flat = flatten(to_plain(config))
    return override(config, {name: value for name, value in values.items() if flat.get(name) in (None, "auto")})


def with_out(config: RunConfig, out: str | Path) -> RunConfig:
    """`config` for another run folder."""
    return replace(config, out=Path(out))


# These mappings are one value each: naming some loss terms must not keep the others.
_WHOLE = {"loss.terms", "loss.options", "model.options"}


def _merge(plain: dict[str, Any], values: Mapping[str, Any], where: str = "") -> None:
    for key, value in values.items():
        head, _, rest = str(key).partition(".")
        inner = plain.get(head)
        if rest:
            value = {rest: value}
        # A dotted key names one entry and leaves the others of such a mapping alone.
        if isinstance(inner, dict) and isinstance(value, Mapping) and (rest or f"{where}{head}" not in _WHOLE):
            _merge(inner, value, f"{where}{head}.")
        elif rest and f"{where}{head}" not in _WHOLE:
            plain[str(key)] = value[rest]  # from_plain names the unknown field
        else:
            plain[head] = value


def _check_length(config: RunConfig) -> None:
    given = [name for name in ("epochs", "steps", "budget") if getattr(config, name) is not None]
    if len(given) > 1:
        raise UserError(f"A run has one length: give {' or '.join(given)}, not both.")
    for name in ("epochs", "steps"):
        _check_range(name, getattr(config, name), 1, None)
    if config.budget is not None:
        seconds(config.budget)


def _check_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is not None and not (low <= value <= (value if high is None else high)):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name}: expected a number {limits}, found {value}.")
