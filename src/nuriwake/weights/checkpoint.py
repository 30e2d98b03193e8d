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
from nuriwake.models.state import listed, load_strictly
from nuriwake.weights import class_lists
from nuriwake.weights.bundle import Bundle, ModelSpec, save_bundle
from nuriwake.weights.contents import Contents, read_contents
from nuriwake.weights.published.base import Published
from nuriwake.weights.recognition import Fit, fit, recognise
from nuriwake.weights.sources import title


@dataclass(frozen=True)
class Report:
    """What was read and what was not.

    Attributes:
        recognised: "pspnet of mmsegmentation".
        used: how many of the file's arrays the model holds.
        left_out: {published key: why}.
        classes: where the class names come from.
        notes: what a user should know.
    """

    recognised: str
    used: int
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    classes: str = ""
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
        """What a user should see: what was recognised, used and left out, images, classes, licence, notes."""
        spec, report = self.bundle.model, self.report
        names = self.bundle.space.names
        shown = ", ".join(names[:6]) + (f", ... {names[-1]}" if len(names) > 6 else "")
        return [
            f"Recognised: {report.recognised}; model {spec.name}, {spec.in_channels} channels, {spec.classes} outputs.",
            f"Arrays: {report.used} used, {len(report.left_out)} left out.",
            *report.reasons(),
            f"Images: {describe_preprocessing(self.bundle.preprocessing)}.",
            f"Classes: {len(names)}, {report.classes}: {shown}.",
            f"Licence of the published weights: {self.bundle.licence or 'none stated; ask who trained them'}.",
            *(f"Note: {note}" for note in report.notes),
        ]


def read_checkpoint(
    path: str | Path, *, architecture: str | None = None, classes: Sequence[str] | None = None
) -> Imported:
    """The published checkpoint in the file or folder `path`.

    Read are files of torchvision, transformers, segmentation_models_pytorch, mmsegmentation, HRNet's and semseg's
    repositories, Detectron2's zoo and textbook U-Nets; a folder holds `model.safetensors` or `pytorch_model.bin`, and
    `config.json`. Pickles build tensors, arrays and plain containers and refuse everything else by name.

    Args:
        architecture: a model or family of ours, where the arrays alone could mean several.
        classes: names, in the order of the labels; None takes those in the file, or of the data set that the source's
            weights of as many classes were trained on, or class_0, class_1, ...

    Raises:
        UserError: damaged or unsafe; of no known source, or of several; arrays missing, extra or misshapen, by name.
    """
    contents = read_contents(path)
    source, spec = recognise(contents, architecture)
    fitted = fit(source, spec, contents)
    if fitted.misfit:
        raise UserError(
            f"{contents.file}: recognised as {title(source)} ({spec.name}), but its arrays do not fit: {fitted.misfit}."
        )
    model = _filled(spec, fitted, contents)
    preprocessing, told = _preprocessing(source, spec, contents)
    space, origin = _space(source, spec, contents, classes)
    notes = (*source.notes, *told)
    used = len(contents.arrays) + len(contents.others) - len(fitted.left_out)
    report = Report(title(source), used, fitted.left_out, origin, (*notes, *_beside(contents)))
    bundle = Bundle(
        task=source.task,
        model=spec,
        space=space,
        preprocessing=preprocessing,
        settings=_settings(source, contents),
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
    if rule.exact is not None:
        return f"resized to {rule.exact[0]}x{rule.exact[1]}"
    sides = (("shorter side to", rule.shortest), ("longer side at most", rule.longest))
    return ", ".join(f"{what} {side}" for what, side in sides if side is not None)


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


def _settings(source: Published, contents: Contents) -> PredictSettings:
    decoding = source.decoding_of(contents.shapes, contents.config)
    if source.task == "semantic":
        return PredictSettings(decoding=decoding)
    # Objects are found in the whole image: those cut by the border of a tile would be found twice.
    return PredictSettings(tile=None, decoding=decoding)


def _preprocessing(source: Published, spec: ModelSpec, contents: Contents) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the model expects of an image, and a note where that had to be assumed."""
    found = source.preprocessing_of(contents.shapes, contents.config)
    channels = spec.in_channels
    if contents.processor:
        return _from_processor(found, contents), ()
    if found.channels == channels:
        return found, ()
    told = (
        f"The file does not say how images of {channels} channels were prepared; value / {found.maximum:g} is taken for each.",
    )
    plain = replace(found, channels=channels, mean=(0.0,) * channels, deviation=(1.0,) * channels, order="rgb")
    return plain, told


def _from_processor(base: Preprocessing, contents: Contents) -> Preprocessing:
    """As transformers' `preprocessor_config.json` says."""
    processor = contents.processor
    try:
        mean, deviation = processor.get("image_mean", base.mean), processor.get("image_std", base.deviation)
        size = processor.get("size", 512) if processor.get("do_resize", True) else None
        return replace(
            base,
            channels=len(mean),
            mean=tuple(map(float, mean)),
            deviation=tuple(map(float, deviation)),
            resize=None if size is None else _processor_size(size, int(processor.get("size_divisor") or 1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{contents.file.parent / 'preprocessor_config.json'}: cannot be understood ({error})."
        ) from error


def _processor_size(size: Any, multiple: int) -> ResizeRule:
    if isinstance(size, int):
        return ResizeRule(exact=(size, size))
    if "shortest_edge" in size:
        return ResizeRule(shortest=int(size["shortest_edge"]), longest=size.get("longest_edge"), multiple=multiple)
    return ResizeRule(exact=(int(size["height"]), int(size["width"])))


def _space(
    source: Published, spec: ModelSpec, contents: Contents, classes: Sequence[str] | None
) -> tuple[LabelSpace, str]:
    """The classes, and where their names come from."""
    exclusive = contents.config.get("activation") != "sigmoid" or spec.classes == 1
    things = _things(source, spec)
    wanted = 2 if spec.classes == 1 and source.task == "semantic" else spec.classes
    if classes is not None:
        if len(classes) != wanted:
            raise UserError(
                f"{contents.file}: the model tells {wanted} classes apart, but {len(classes)} names were given."
            )
        return LabelSpace(tuple(classes), things, exclusive=exclusive), "as given"
    if len(contents.names) == wanted:
        return LabelSpace(contents.names, things, exclusive=exclusive), "as the file says"
    known = source.space.get(spec.classes)
    names = class_lists.CLASS_LISTS.get((known or "", spec.classes))
    if known is not None and names is not None:
        space = LabelSpace(names, things, exclusive=exclusive)
        return space, f"of {class_lists.TITLES[known]} (told from their number)"
    space = class_lists.unnamed(spec.classes) if source.task == "semantic" else class_lists.numbered(wanted)
    return replace(space, things=things or space.things, exclusive=exclusive), "unnamed (give names with --classes)"


def _things(source: Published, spec: ModelSpec) -> tuple[bool, ...]:
    """Which classes are things: all of an instance model, those that a panoptic model was built with; else empty."""
    if source.task == "instance":
        return (True,) * spec.classes
    given = spec.options.get("things", ())
    if source.task == "panoptic" and given:
        return tuple(label in given for label in range(spec.classes))
    return class_lists.THINGS.get(spec.classes, ()) if source.task == "panoptic" else ()


def _provenance(source: Published, contents: Contents) -> str:
    with contents.file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"Imported from {contents.file.name} ({title(source)}, sha256 {digest})."


def _beside(contents: Contents) -> tuple[str, ...]:
    halves = sorted(
        {str(item.dtype).removeprefix("torch.") for item in contents.arrays.values()} & {"float16", "bfloat16"}
    )
    notes = [f"{kind} arrays became float32." for kind in halves]
    if contents.beside:
        notes.append(f"Beside the arrays the file has {listed(contents.beside)}; not used.")
    return tuple(notes)


__all__ = ["Imported", "Report", "describe_preprocessing", "predictor_of", "read_checkpoint"]
