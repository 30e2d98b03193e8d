"""Published checkpoints of others: read strictly and without running anything, into a bundle of ours."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.inference.settings import PredictSettings
from nuriwake.models import build_model
from nuriwake.models.base import Model
from nuriwake.models.catalogue import merged_options
from nuriwake.models.state import listed, load_strictly
from nuriwake.weights import class_lists
from nuriwake.weights.bundle import Bundle, ModelSpec, save_bundle
from nuriwake.weights.contents import Contents, read_contents
from nuriwake.weights.processor import PROCESSOR, read_processor
from nuriwake.weights.published.base import Published
from nuriwake.weights.recognition import Fit, fit, recognise, task_told
from nuriwake.weights.sources import title

_SAID = "as the file says"


@dataclass(frozen=True)
class Report:
    """What was read and what was not.

    Attributes:
        recognised: "pspnet of mmsegmentation".
        used: how many of the file's arrays the model holds.
        left_out: {published key: why}.
        task: how the task is known.
        classes: where the class names come from.
        things: how many of them are things and how that is known; empty where things are no matter.
        notes: what a user should know.
    """

    recognised: str
    used: int
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    task: str = ""
    classes: str = ""
    things: str = ""
    notes: tuple[str, ...] = ()

    def reasons(self) -> list[str]:
        """A sentence for each reason to leave arrays out."""
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for key, why in self.left_out.items():
            groups[why].append(key)
        return [f"{len(keys)} left out ({listed(keys)}): {why}." for why, keys in groups.items()]


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a bundle of ours, its model filled and in eval mode, and what was done."""

    bundle: Bundle
    model: Model
    report: Report

    def save(self, path: str | Path) -> None:
        """Write the bundle to `path`, atomically."""
        save_bundle(path, self.bundle, self.model)

    def lines(self) -> list[str]:
        """What a user should see: what was recognised, used and left out, task, images, classes, licence, notes."""
        spec, report = self.bundle.model, self.report
        names = self.bundle.space.names
        shown = ", ".join(names[:6]) + (f", ... {names[-1]}" if len(names) > 6 else "")
        return [
            f"Recognised: {report.recognised}; model {spec.name}, {spec.in_channels} channels, {spec.classes} outputs.",
            f"Arrays: {report.used} used, {len(report.left_out)} left out.",
            *report.reasons(),
            f"Task: {self.bundle.task}{report.task}.",
            f"Images: {describe_preprocessing(self.bundle.preprocessing)}.",
            f"Classes: {len(names)}, {report.classes}: {shown}.",
            *([f"Things: {report.things}."] if report.things else []),
            f"Licence of the published weights: {self.bundle.licence or 'none stated; ask who trained them'}.",
            *(f"Note: {note}" for note in report.notes),
        ]


def read_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    things: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Imported:
    """The published checkpoint in the file or folder `path`.

    Read are files of torchvision, transformers, segmentation_models_pytorch, mmsegmentation, HRNet's and semseg's
    repositories, Detectron2's zoo and textbook U-Nets; a folder holds `model.safetensors` or `pytorch_model.bin`, and
    `config.json`. Pickles build tensors, arrays and plain containers and refuse everything else by name.

    Args:
        architecture: a model or family of ours, where the arrays alone could mean several.
        classes: names, in the order of the labels; None takes those in the file, or of the data set that the source's
            weights of as many classes were trained on, or class_0, class_1, ...
        task: semantic, instance or panoptic: what the weights were trained for, where the file does not say it (Mask2Former,
            EoMT); None tells it from the numbers of classes and queries, as published models have them.
        things: names of the classes that are things, for such a model; None takes those of the well-known data set with as
            many classes.
        options: of the model, where the file does not say how its arrays were trained (`align_corners`, `output_stride`); they
            count above what is told from it.

    Raises:
        UserError: damaged or unsafe; of no known source, or of several; arrays missing, extra, misshapen or of numbers that
            no model can use (complex, NaN), by name; of a model for another task; things that are no classes; options that
            the model has not.
    """
    contents = read_contents(path)
    source, spec = recognise(contents, architecture, task)
    given = options or {}
    spec = replace(spec, options=merged_options(spec.options, given))
    fitted = fit(source, spec, contents)
    if fitted.misfit:
        raise UserError(
            f"{contents.file}: recognised as {title(source)} ({spec.name}), but its arrays do not fit: {fitted.misfit}."
        )
    if fitted.unusable:
        raise UserError(
            f"{contents.file}: {len(fitted.unusable)} of its arrays hold what no model can use: {listed(fitted.unusable)}."
        )
    model = _filled(spec, fitted, contents)
    preprocessing, told = _preprocessing(source, spec, contents)
    space, origin = _space(source, spec, contents, classes)
    settings, decided = _settings(source, spec, contents)
    space = class_lists.with_ids(space)
    space, counted = _with_things(source, spec, space, things)
    notes = (*source.notes_of(contents.config, given), *told, *decided, *source.padding_of(model))
    used = len(contents.arrays) + len(contents.others) + len(contents.left_out) - len(fitted.left_out)
    report = Report(
        title(source),
        used,
        fitted.left_out,
        task=_told(source, contents, task),
        classes=origin,
        things=counted,
        notes=(*notes, *_beside(source, contents, named=origin.endswith(_SAID))),
    )
    bundle = Bundle(
        task=source.task,
        model=spec,
        space=space,
        preprocessing=preprocessing,
        settings=settings,
        licence=source.licence,
        notes=(_provenance(source, contents), *report.reasons(), *notes),
    )
    return Imported(bundle, model, report)


def predictor_of(imported: Imported, **options: Any) -> Predictor:
    """A predictor with the model, classes, preprocessing and settings of `imported`; `options` as `Predictor` has them."""
    bundle = imported.bundle
    return Predictor(
        imported.model,
        space=bundle.space,
        preprocessing=bundle.preprocessing,
        task=bundle.task,
        settings=bundle.settings,
        **options,
    )


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """ "RGB uint8, value / 255, mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225, shorter side to 520" """
    order = preprocessing.order.upper() if preprocessing.channels == 3 else f"{preprocessing.channels} channels"
    numbers = {"mean": preprocessing.mean, "deviation": preprocessing.deviation}
    parts = [f"{name} {' '.join(f'{value:.3g}' for value in values)}" for name, values in numbers.items()]
    return ", ".join(
        [
            f"{order} {preprocessing.depth}, value / {preprocessing.maximum:g}",
            *parts,
            _describe_size(preprocessing.resize),
        ]
    )


def _describe_size(rule: ResizeRule | None) -> str:
    if rule is None:
        return "at their own size"
    how = {"linear": "", "area": " (area means)", "antialiased": " (antialiased)"}[rule.interpolation]
    if rule.exact is not None:
        return f"resized to {rule.exact[0]}x{rule.exact[1]}{how}"
    longer = "longer side to" if rule.shortest is None else "longer side at most"
    sides = (("shorter side to", rule.shortest), (longer, rule.longest))
    parts = [f"{what} {side}" for what, side in sides if side is not None]
    if rule.multiple > 1:
        parts.append(f"both stretched to multiples of {rule.multiple}")
    return ", ".join(parts) + how


def _filled(spec: ModelSpec, fitted: Fit, contents: Contents) -> Model:
    with torch.device("meta"):
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    counters = {key for key in model.state_dict() if key not in fitted.arrays}
    if {name for name, _ in model.named_buffers()} - model.state_dict().keys():
        # Buffers that no file holds get their values in the constructor only.
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    else:
        model = model.to_empty(device="cpu")
    arrays = {**fitted.arrays, **{key: torch.tensor(0) for key in counters}}
    load_strictly(model, arrays, str(contents.file))
    return model.eval()


def _settings(source: Published, spec: ModelSpec, contents: Contents) -> tuple[PredictSettings, tuple[str, ...]]:
    """How the published program answers, and a note where it has a threshold of its own."""
    decoding = source.decoding_of(contents.shapes, contents.config)
    tiling = source.tiling_of(contents.shapes, contents.config)
    threshold, notes = source.threshold_of(spec, contents.config)
    settings = PredictSettings(thresholds=() if threshold is None else (threshold,), decoding=decoding)
    if tiling is None:
        return settings, notes
    # Mostly the whole image, resized as published; tiles, which show smaller objects, are for the user to ask for.
    tile, overlap = tiling
    return replace(settings, tile=tile, overlap=overlap), notes


def _preprocessing(source: Published, spec: ModelSpec, contents: Contents) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the model expects of an image, and a note where that had to be assumed."""
    found, notes = source.preprocessing_of(contents.shapes, contents.config), ()
    channels = spec.in_channels
    if contents.processor:
        found, notes = read_processor(found, contents.processor, contents.file.parent / PROCESSOR)
    if found.channels == channels:
        return found, notes
    who = f"{PROCESSOR} is for images of {found.channels} and" if contents.processor else "The file"
    told = f"{who} does not say how images of {channels} channels were prepared; value / {found.maximum:g} is taken for each."
    plain = replace(found, channels=channels, mean=(0.0,) * channels, deviation=(1.0,) * channels, order="rgb")
    return plain, (*notes, told)


def _space(
    source: Published, spec: ModelSpec, contents: Contents, classes: Sequence[str] | None
) -> tuple[LabelSpace, str]:
    """The classes, and where their names come from."""
    exclusive = contents.config.get("activation") != "sigmoid" or spec.classes == 1
    single = spec.classes == 1 and source.task == "semantic"
    wanted = 2 if single else spec.classes
    if classes is not None:
        names = _with_background(classes) if single else tuple(classes)
        if len(names) != wanted:
            one = ", or only the second, since its one output is for that" if single else ""
            raise UserError(
                f"{contents.file}: the model tells {wanted} classes apart, but {len(classes)} names were given; give "
                f"{wanted}{one}."
            )
        return LabelSpace(names, exclusive=exclusive), f"{_beside_background(names, classes)}as given"
    names = _with_background(contents.names) if single else contents.names
    if len(names) == wanted:
        return LabelSpace(names, exclusive=exclusive), f"{_beside_background(names, contents.names)}{_SAID}"
    known = source.space.get(spec.classes)
    names = class_lists.CLASS_LISTS.get((known or "", spec.classes))
    if known is not None and names is not None:
        space = LabelSpace(names, exclusive=exclusive)
        return space, f"of {class_lists.TITLES[known]} (told from their number)"
    space = class_lists.unnamed(spec.classes) if source.task == "semantic" else class_lists.numbered(wanted)
    return replace(space, exclusive=exclusive), "unnamed (give names with --classes)"


def _with_background(names: Sequence[str]) -> tuple[str, ...]:
    """`names` of a model of one output: one name is that of the output, and the background is what it is not."""
    single = len(names) == 1 and names[0] != class_lists.BACKGROUND
    return (class_lists.BACKGROUND, *names) if single else tuple(names)


def _beside_background(names: Sequence[str], given: Sequence[str]) -> str:
    return "" if len(names) == len(given) else "the second "


def _with_things(
    source: Published, spec: ModelSpec, space: LabelSpace, names: Sequence[str] | None
) -> tuple[LabelSpace, str]:
    """`space` with its things, and how many they are and how that is known, where that is a matter of choice.

    All classes of an instance model are things, and a panoptic one over regions was built with its own. Raises UserError for
    names that are no classes, or that cannot be chosen.
    """
    given = spec.options.get("things", ())
    fixed = (True,) * spec.classes if source.task == "instance" else tuple(i in given for i in range(spec.classes))
    if names is not None and not source.guessed:
        raise UserError(f"{title(source)}: its things cannot be chosen; leave them out.")
    if names is not None:
        chosen = {space.index(name) for name in names}
        space = replace(space, things=tuple(label in chosen for label in range(len(space))))
        return space, f"{len(chosen)} of {len(space)} classes, as given"
    if any(fixed):
        return replace(space, things=fixed), f"{sum(fixed)} of {len(space)} classes" if given else ""
    known = class_lists.THINGS.get(spec.classes) if source.guessed else None
    if known is not None:
        title_of = class_lists.TITLES[source.space[spec.classes]]
        told = f"{sum(known)} of {len(space)} classes, as in the panoptic task of {title_of} (told from their number)"
        return replace(space, things=known), told
    unknown = source.task == "panoptic"
    return space, "none of the classes is known to be one (name them with --things)" if unknown else ""


def _told(source: Published, contents: Contents, task: str | None) -> str:
    """How the task is known, as the end of a sentence."""
    if not source.guessed:
        return ""
    if task is not None:
        return ", as given"
    if task_told(source, contents) is not None:
        return ", as the configuration beside the file says"
    return ", told from the numbers of classes and queries, since the file does not say it (another one with --task)"


def _provenance(source: Published, contents: Contents) -> str:
    with contents.file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"Imported from {contents.file.name} ({title(source)}, sha256 {digest})."


def _beside(source: Published, contents: Contents, *, named: bool) -> tuple[str, ...]:
    """What of the file was not used; `named` where the names of the classes are the file's."""
    halves = sorted(
        {str(item.dtype).removeprefix("torch.") for item in contents.arrays.values()} & {"float16", "bfloat16"}
    )
    notes = [f"{kind} arrays became float32." for kind in halves]
    # In the `meta` of mm* stand the configuration and the names of the classes.
    told = "mmseg" in contents.config or (named and source.source in ("mmseg", "mmdet"))
    unused = [key for key in contents.beside if not (told and key == "meta")]
    if unused:
        notes.append(f"Beside the arrays the file has {listed(unused)}; not used.")
    if contents.unread:
        notes.append(f"{listed(contents.unread)} beside the model tells how its images were prepared; not used.")
    return tuple(notes)


__all__ = ["Imported", "Report", "describe_preprocessing", "predictor_of", "read_checkpoint"]
