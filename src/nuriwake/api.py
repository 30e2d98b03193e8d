"""The public face: what `import nuriwake as nw` offers. Everything here is also reachable room by room."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from nuriwake.core.errors import UserError
from nuriwake.data.check import CheckResult, check_data
from nuriwake.data.converting import convert_data
from nuriwake.data.destinations import refuse_unwritable_file
from nuriwake.data.formats import open_data
from nuriwake.data.images import read_image
from nuriwake.data.writing import refuse_unwritable
from nuriwake.data.written import WriteSettings
from nuriwake.engine.config import RunConfig, override, read_overrides
from nuriwake.engine.evaluate import Evaluation, EvaluationRequest
from nuriwake.engine.evaluate import evaluate as evaluate_predictor
from nuriwake.engine.progress import Bar
from nuriwake.engine.report import write_run_plots, write_run_report
from nuriwake.engine.run import Run, open_run
from nuriwake.engine.train import train as train_run
from nuriwake.engine.view import viewed
from nuriwake.inference.predictor import Precision, Predictor
from nuriwake.inference.settings import Changes, PredictSettings, change_settings
from nuriwake.metrics.metric import MetricSettings
from nuriwake.recipes import build_config
from nuriwake.recipes.choosing import Advice, recommend
from nuriwake.tasks import get_task
from nuriwake.weights.bundle import Bundle, change_bundle, describe_bundle, find_bundle, load_predictor

DEFAULT_MODEL = "unet_mobilenet_v2"


def train(
    data: str | Path,
    *,
    model: str | None = None,
    out: str | Path = "runs/latest",
    budget: str | float | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    accept_license: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a model on a data set and return the finished run.

    Args:
        data: a folder whose format is recognised, or a YAML file that describes the data.
        model: one of `nuriwake models`; None takes `DEFAULT_MODEL`.
        out: the run folder; it must not hold a run yet, unless `resume`.
        budget: wall-clock time for everything, "10m" or seconds; None trains as `epochs`, `steps` or `train`'s own choice say.
        overrides: fields of `RunConfig`, nested or dotted: {"optim.learning_rate": 3e-4, "epochs": 40}.
        resume: go on with the run in `out`.
        accept_license: consent to a licence of the backbone weights that forbids commercial use; not kept in the run.
        say: receives a line for each thing that was chosen, recognised or measured.

    Raises:
        UserError: the data, a field or the folder do not do; one sentence says what to mend.
        RunError: the loss stayed not finite, or the disk is full.
    """
    layers = ({"budget": budget} if budget else {}, overrides or {})
    config = configure(data, model=model, out=out, layers=layers, resume=resume)
    return train_config(config, resume=resume, accept_license=accept_license, say=say)


def configure(
    data: str | Path,
    *,
    model: str | None,
    out: str | Path,
    layers: tuple[Mapping[str, Any], ...] = (),
    resume: bool = False,
) -> RunConfig:
    """The recipe of the model, with each of `layers` over it; later ones win.

    `model` None takes the name from the layers, and failing that `DEFAULT_MODEL`. To resume, the run's own configuration
    takes the place of the recipe, so that only what is given can disagree with it.
    """
    if resume:
        config = open_run(out).config
        last = {"model.name": model} if model else {}
    else:
        name = model or next((found for layer in reversed(layers) if (found := _model_name(layer))), DEFAULT_MODEL)
        config = build_config(data, name)
        last = {"model.name": name}
    named: dict[str, Any] = {"data.path": str(data), "out": str(out), **last}
    for layer in (*layers, named):
        config = override(config, layer)
    return config


def train_config(
    config: RunConfig, *, resume: bool = False, accept_license: bool = False, say: Callable[[str], None] = print
) -> Run:
    """Train as `config` says and write plots and report beside it; processes other than the leader of a team write nothing."""
    run = train_run(config, resume=resume, report=say, accept_license=accept_license)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one process per GPU; one of them writes
        place = config.data.path  # and not the run's, which may have been moved since it began
        data = open_data(place, format=run.config.data.format, val_share=run.config.data.val_share)
        write_run_plots(run)
        say(f"report: {write_run_report(run, viewed(data, get_task(run.config.task or '')), load(run.folder))}")
    return run


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: Precision = "float32",
    settings: Changes = None,
    task: str | None = None,
) -> Predictor:
    """A predictor from a run folder or a bundle file: `predictor(image)` -> `SemanticMap`, `Instances` or `Panoptic`.

    Args:
        path: a run folder, or a bundle (`*.safetensors`) anywhere.
        device: auto, cpu, cuda or cuda:N.
        precision: of the network's arithmetic.
        settings: tiles, test-time augmentation, thresholds, post-processing; None takes the bundle's, a mapping such as
            {"flips": "all"} changes some fields of them, and `PredictSettings` replaces them all.
        task: what to answer, where the model can answer more than what it was trained for (query models: all three).

    Raises:
        UserError: there is no bundle, it is damaged, or its model does not answer the task.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_predictor(path, device=device, precision=precision, settings=settings, task=task, read=read_image)


def read_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    things: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Predictor:
    """A predictor from published weights of another library; `.model` is the torch module. `nuriwake import` keeps it.

    Args:
        path: a file (torchvision, smp, mm*, HRNet, semseg, Detectron2's zoo, textbook U-Net), or a folder with config.json.
        architecture: the model or family, where the arrays alone could mean several.
        classes: names in the order of the labels; None takes those told or of the well-known data set.
        task: what a Mask2Former or EoMT was trained for, which its file does not say; None tells it from its numbers.
        things: names of the classes that are counted, for such a model; None: those of the well-known data set.
        options: of the model, above those told from the file, such as {"align_corners": True}.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: damaged, unsafe, of no known source, or arrays missing, extra or misshapen, by name.
    """
    from nuriwake.weights.checkpoint import predictor_of
    from nuriwake.weights.checkpoint import read_checkpoint as read

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    imported = read(path, architecture=architecture, classes=classes, task=task, things=things, options=options)
    return predictor_of(imported, device=device, read=read_image)


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    metrics: Sequence[str] = (),
    tolerance: float = 1.0,
    settings: Changes = None,
    task: str | None = None,
    format: str | None = None,  # noqa: A002 (the contract's word)
    device: str = "auto",
) -> Evaluation:
    """Evaluate a run or bundle on a split of a data set.

    Args:
        path: a run folder or a bundle file.
        data: as in `train`. Where the data have no splits, the one that the training made is made again.
        split: the name of the split.
        metrics: further metrics: "surface" (HD95 in three definitions, NSD, average surface distance) and "boundary" for
            maps, "boundary" (AP of boundaries) for objects.
        tolerance: of the normalised surface Dice, in the unit of the data's spacing (pixels where they give none).
        settings, task: as in `load`.
        format: of the data, where it is not to be recognised; None takes the training's for the data that it was trained on.

    Raises:
        UserError: no such bundle, data, split or metric, or data with other classes than the model's.
    """
    bundle = describe(path)
    trained = bundle.config.get("data", {})
    if format is None and Path(trained.get("path") or "").resolve() == Path(data).resolve():
        format = trained.get("format")  # noqa: A001
    asked = get_task(task or bundle.task)
    found = viewed(open_data(data, format=format, val_share=trained.get("val_share", 0.2)), asked)
    records = found.records(split)
    request = EvaluationRequest(
        asked,
        asked.headline_name(found.space, None),
        metrics=(*asked.usual(found.space), *metrics),
        settings=MetricSettings(tolerance),
    )
    predictor = load(path, device=device, settings=settings, task=task)
    if settings is None or (isinstance(settings, Mapping) and "score_threshold" not in settings):
        # The bundle's is for what is shown; scores of a data set count objects of any score.
        predictor = predictor.with_settings(replace(predictor.settings, score_threshold=None))
    with Bar(shown=True) as bar:
        return evaluate_predictor(
            predictor,
            found,
            records,
            request=request,
            tick=lambda count: bar.show(count / len(records), f"{count} of {len(records)} images", doing="evaluate"),
        )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str,
    format: str | None = None,  # noqa: A002 (the contract's word)
    images: Literal["copy", "none"] = "copy",
    polygons: bool = False,
    tolerance: float = 0.0,
    regions: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[str, ...]:
    """Write a data set in another format, every split of it.

    Args:
        source: a folder whose format is recognised, or a YAML file that describes the data.
        target: the folder to write; nothing in it is overwritten.
        to: a format that is written (`nuriwake.data.writing.writable`).
        format: of the source, where it is not to be recognised.
        images, polygons, tolerance: see `nuriwake.data.written.WriteSettings`.
        regions: label maps into a format of objects: each connected region of a class is an object.
        say: receives a line for what was recognised and for each split.

    Returns:
        What the format could not carry, or what was changed, as sentences.

    Raises:
        UserError: there is no such format, the source cannot be read, or whatever `nuriwake.data.converting.convert_data` refuses.
    """
    refuse_unwritable(to)
    data = open_data(source, format=format)
    for note in data.notes:
        say(note)
    settings = WriteSettings(images=images, polygons=polygons, tolerance=tolerance, regions=regions)
    return convert_data(data, Path(target), format=to, settings=settings, say=say)


def check(
    data: str | Path,
    *,
    report: str | Path | None = None,
    format: str | None = None,  # noqa: A002 (the contract's word)
    workers: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> CheckResult:
    """Read a data set once, whatever is wrong with it, and say what is; `.findings` are in order of harm.

    Args:
        data: as in `train`.
        report: an HTML file to write: distributions, samples with their truth, each problem with pictures.
        format: of the data, where it is not to be recognised.
        workers: processes that read; by default one per processor, at most 16.
        tick: told how many of how many images are done.

    Raises:
        UserError: there is nothing, no format fits, or the report cannot be written.
    """
    if report is not None:
        refuse_unwritable_file(Path(report))
    result = check_data(data, format=format, workers=workers, tick=tick)
    if report is not None:
        report_check(result, report)
    return result


def report_check(result: CheckResult, path: str | Path) -> None:
    """Write what `check` found as an HTML page: distributions, samples with their truth, each problem with pictures."""
    from nuriwake.data.check.pictures import named, wall
    from nuriwake.viz.check_report import check_page, write_check_report

    pictures = {finding.kind: named(result.survey, finding.samples, 4) for finding in result.findings}
    write_check_report(path, check_page(result.plain(), result.survey, pictures, wall(result.survey, 24)))


def describe(path: str | Path) -> Bundle:
    """What a bundle or the bundle of a run says of itself: classes, preprocessing, scores, licence, configuration."""
    return describe_bundle(find_bundle(path))


def keep_settings(path: str | Path, settings: Changes) -> Bundle:
    """Keep other settings in a bundle: "at this threshold, with these rules" belongs to the model from now on.

    Args:
        path: a run folder or a bundle file; it is rewritten atomically.
        settings: as in `load`.

    Raises:
        UserError: a field or a class that there is not, or a value that does not do; nothing is written then.
    """
    return change_bundle(path, settings)


def read_settings(path: str | Path) -> Mapping[str, Any]:
    """The fields of `PredictSettings` in a YAML file, for `load`. Raises UserError naming the file and the field."""
    values = read_overrides(path)
    try:
        change_settings(PredictSettings(), values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return values


__all__ = [
    "DEFAULT_MODEL", "Advice", "Bundle", "Evaluation", "PredictSettings", "Predictor", "Run", "RunConfig",
    "check", "configure", "convert", "describe", "evaluate", "keep_settings", "load", "open_data", "open_run",
    "read_checkpoint", "read_overrides", "read_settings", "recommend", "report_check", "train", "train_config",
]  # fmt: skip


def _model_name(layer: Mapping[str, Any]) -> str | None:
    model = layer.get("model")
    return layer.get("model.name") or (model.get("name") if isinstance(model, Mapping) else None)
