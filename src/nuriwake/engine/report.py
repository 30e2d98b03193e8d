"""The run's report and plots: what `viz` draws, gathered from the run folder."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.data.dataset import DataSet
from nuriwake.engine.run import Run
from nuriwake.inference.predictor import Predictor
from nuriwake.viz.figures import save_figure
from nuriwake.viz.history import history_figures
from nuriwake.viz.plots import class_figure, confusion_figure
from nuriwake.viz.report import Choice, Example, Headline, ReportData, write_report
from nuriwake.weights.bundle import describe_bundle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 6
"""Best and worst images shown, of each."""

OTHERS = 5
"""Headline scores shown beside the main one; evaluation.json has all."""

FIRST = {
    "pq": ("pq", "sq", "rq", "pq_things", "pq_stuff", "mean_iou"),
    "mask_ap": ("mask_ap", "mask_ap50", "box_ap", "box_ap50"),
    "dice": ("dice", "iou", "precision", "recall", "image_dice"),
}
"""Shown first, of the first row whose score there is."""

CLASS_SHARES = ("iou", "dice", "precision", "recall", "mask_ap", "mask_ap50", "box_ap", "pq", "sq", "rq")
"""Of the scores of each class, those that are drawn, where there are such."""

CLASS_COUNTS = ("objects", "mask_matched", "mask_false", "segments_matched", "segments_false", "segments_missed")
"""Of the counts behind them, those that stand in the table."""


def write_run_report(run: Run, data: DataSet, predictor: Predictor) -> Path:
    """Write `report.html` of a finished run: curves, classes, and its best and worst validation images predicted anew."""
    evaluation = run.evaluation or {}
    config = run.config
    space = _space(run)
    examples = _examples(evaluation, data, config.data.val, predictor)
    return write_report(
        run.folder / "report.html",
        ReportData(
            title=f"{config.model.name} on {_name(config.data.path)}",
            space=space,
            summary=_summary(run),
            headlines=_headlines(evaluation),
            choices=tuple(Choice(item.field, str(item.value), item.reason) for item in run.choices),
            configuration=to_plain(config),
            history=run.history,
            best_step=evaluation.get("step"),
            class_scores=_class_scores(evaluation, space),
            class_counts=_class_counts(evaluation, space),
            confusion=np.array(evaluation["confusion"]) if space.exclusive and evaluation.get("confusion") else None,
            best=tuple(examples["best"]),
            worst=tuple(examples["worst"]),
            environment=_environment(config.device),
            licence=describe_bundle(run.bundle).licence,
            notes=tuple(run.data["notes"]),
        ),
    )


def write_run_plots(run: Run) -> list[Path]:
    """Write the run's plots as PNG into its folder `plots/`: history, and after its end classes and confusion matrix."""
    folder, evaluation, space = run.folder / "plots", run.evaluation or {}, _space(run)
    figures = {
        f"history-{name}": figure
        for name, figure in history_figures(run.history, best_step=evaluation.get("step")).items()
    }
    if evaluation:
        figures["classes"] = _class_figure(evaluation, space)
        if space.exclusive and evaluation.get("confusion"):
            figures["confusion"] = confusion_figure(np.array(evaluation["confusion"]), space.names)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _space(run: Run) -> LabelSpace:
    return from_plain(LabelSpace, run.data["space"])


def _name(path: Path) -> str:
    """Of the data, whether a folder or the file that describes them."""
    return path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name


def _summary(run: Run) -> str:
    data, config = run.data, run.config
    counts = ", ".join(f"{len(names)} {split}" for split, names in data["splits"].items())
    seconds = max((line.get("seconds", 0.0) for line in run.history), default=0.0)
    return (
        f"Task: {config.task}. {data['parameters'] / 1e6:.2f} million parameters, {len(data['space']['names'])} classes, "
        f"images: {counts}. Trained for {seconds / 60:.1f} minutes."
    )


def _headlines(evaluation: dict[str, Any]) -> tuple[Headline, ...]:
    scores: dict[str, float | None] = evaluation.get("scores", {})
    main = evaluation.get("metric")
    first = next((row for score, row in FIRST.items() if score in scores), ())
    ordered = sorted(scores, key=lambda name: (name != main, name not in first))[: 1 + OTHERS]
    return tuple(
        Headline(name, "not defined" if value is None else f"{value:.4f}", "chooses the best weights" * (name == main))
        for name in ordered
        for value in [scores[name]]
    )


def _class_scores(evaluation: dict[str, Any], space: LabelSpace) -> dict[str, list[float | None]]:
    rows: dict[str, dict[str, float | None]] = evaluation.get("per_class", {})
    present = {name for row in rows.values() for name in row}
    return {name: [rows.get(of, {}).get(name) for of in space.names] for name in CLASS_SHARES if name in present}


def _class_counts(evaluation: dict[str, Any], space: LabelSpace) -> dict[str, list[int]]:
    rows: dict[str, dict[str, float]] = evaluation.get("per_class", {})
    present = {name for row in rows.values() for name in row}
    return {
        name: [int(rows.get(of, {}).get(name, 0)) for of in space.names] for name in CLASS_COUNTS if name in present
    }


def _class_figure(evaluation: dict[str, Any], space: LabelSpace) -> "Figure":
    """Bars of the classes that have a score."""
    scores = _class_scores(evaluation, space)
    seen = [index for index in range(len(space)) if any(row[index] is not None for row in scores.values())]
    return class_figure(
        [space.names[index] for index in seen], {name: [row[index] for index in seen] for name, row in scores.items()}
    )


def _examples(evaluation: dict[str, Any], data: DataSet, split: str, predictor: Predictor) -> dict[str, list[Example]]:
    """The examples in evaluation's "best" and "worst", an image that is in both predicted once, and one in memory at a time."""
    names = {which: evaluation.get(which, [])[:EXAMPLES] for which in ("best", "worst")}
    records = {record.name: record for record in data.records(split)}
    scores = {image["name"]: image.get(evaluation["metric"]) for image in evaluation.get("images", [])}
    drawn = {
        name: _example(name, data.read(records[name]), predictor, scores.get(name))
        for name in dict.fromkeys(name for found in names.values() for name in found)
        if name in records
    }
    return {which: [found for name in row if (found := drawn.get(name))] for which, row in names.items()}


def _example(name: str, sample: Sample, predictor: Predictor, score: float | None) -> Example | None:
    if sample.target is None:
        return None
    return Example.draw(name, sample.image, sample.target, prediction=predictor(sample.image), score=score)


def _environment(device: str) -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") and torch.cuda.is_available() else "none used"
    return {
        "nuriwake": version("nuriwake"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "GPU": gpu,
    }
