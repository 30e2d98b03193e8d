"""`nuriwake evaluate`."""

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def evaluate(
    run: Path,
    data: Path,
    *,
    split: str = "val",
    metrics: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    tolerance: float = 1.0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Score a run or bundle on a split of a data set.

    Args:
        run: a run folder or a bundle file.
        data: a folder whose format is recognised, or a YAML file that describes the data.
        split: the name of the split.
        metrics: further ones: surface (HD95 in three definitions, NSD, average surface distance), boundary (boundary IoU).
        tolerance: of the NSD, in the unit of the data's spacing (pixels where they give none).
        device: auto, cpu, cuda or cuda:N.
        json: print everything as one JSON object instead of tables.
    """
    from nuriwake.api import evaluate as evaluate_data

    found = evaluate_data(run, data, split=split, metrics=metrics, tolerance=tolerance, device=device)
    if json:
        print(json_format.dumps(found.plain(), ensure_ascii=False, indent=1, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    scores = Table("score", "value", title=f"{data}, {split}: {len(found.images)} images", title_justify="left")
    for name, value in found.scores.items():
        scores.add_row(name, _number(value))
    columns = sorted({score for row in found.per_class.values() for score in row})
    classes = Table("class", *columns)
    for name, row in found.per_class.items():
        classes.add_row(name, *(_number(row.get(column)) for column in columns))
    console.print(scores, classes)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4f}"
