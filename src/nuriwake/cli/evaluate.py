"""`nuriwake evaluate`."""

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nuriwake.cli.options import NO_SETTINGS, SettingsFields, settings_changes

if TYPE_CHECKING:
    from nuriwake.engine.evaluate import Evaluation


def evaluate(
    run: Path,
    data: Path,
    *,
    split: str = "val",
    settings: Path | None = None,
    metrics: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    tolerance: float = 1.0,
    task: str | None = None,
    format: str | None = None,  # noqa: A002 (the contract's word)
    device: str = "auto",
    json: bool = False,
    fields: Annotated[SettingsFields, Parameter(name="*")] = NO_SETTINGS,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Score a run or bundle on a split of a data set.

    Args:
        run: a run folder or a bundle file.
        data: a folder whose format is recognised, or a YAML file that describes the data.
        split: the name of the split.
        settings: a YAML file with fields of the settings; the bundle's count below it, options typed here above it.
        metrics: further ones. Maps: surface (HD95 in three definitions, NSD, average surface distance), boundary (boundary
            IoU). Of objects boundary AP is counted in any case.
        tolerance: of the NSD, in the unit of the data's spacing (pixels where they give none).
        task: semantic, instance or panoptic, where the model answers more than what it was trained for.
        format: of the data, where it is not to be recognised; the training's, for the data that it was trained on.
        device: auto, cpu, cuda or cuda:N.
        json: print everything as one JSON object instead of tables.
        fields: of the settings.
    """
    from nuriwake.api import evaluate as evaluate_data

    changes = settings_changes(settings, fields)
    found = evaluate_data(
        run,
        data,
        split=split,
        metrics=metrics,
        tolerance=tolerance,
        settings=changes,
        task=task,
        format=format,
        device=device,
    )
    if json:
        about = {"run": str(run), "data": str(data), "split": split, "count": len(found.images)}
        print(json_format.dumps(about | found.plain(), ensure_ascii=False, indent=1, allow_nan=False))
    else:
        _print(found, f"{data}, {split}: {len(found.images)} {'image' if len(found.images) == 1 else 'images'}")


def _print(found: "Evaluation", title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from nuriwake.metrics.metric import is_seen

    scores = Table("score", "value")
    for name, value in found.scores.items():
        scores.add_row(name, _number(value))
    console = Console()
    console.print(title, markup=False, highlight=False)
    console.print(scores)
    shown = {name: row for name, row in found.per_class.items() if is_seen(row)}
    columns = list(dict.fromkeys(score for row in shown.values() for score in row))
    widest = max(map(len, shown), default=0)
    for group in _fitting(columns, console.width - widest - 4):
        classes = Table("class", *group)
        for name, row in shown.items():
            classes.add_row(name, *(_number(row.get(column)) for column in group))
        console.print(classes)
    for name, part in found.details.items():
        if isinstance(part, Mapping) and all(isinstance(value, int) for value in part.values()):
            totals = ", ".join(f"{what.replace('_', ' ')} {value:,}" for what, value in part.items())
            console.print(f"{name.replace('_', ' ')}: {totals}", highlight=False)
    absent = len(found.per_class) - len(shown)
    if absent:
        console.print(
            f"{absent} of {len(found.per_class)} classes are neither in the truth nor predicted.", highlight=False
        )


def _fitting(columns: list[str], width: int) -> list[list[str]]:
    """`columns` in groups that a table of `width` characters has room for, so that none is cut."""
    groups: list[list[str]] = [[]]
    for column in columns:
        if groups[-1] and sum(max(len(name), 6) + 3 for name in (*groups[-1], column)) > width:
            groups.append([])
        groups[-1].append(column)
    return groups


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
