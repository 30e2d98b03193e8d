"""Curves of a training: records of metrics.jsonl -> named series -> one figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nuriwake.viz.figures import add_legend, new_figure, plot_style
from nuriwake.viz.fonts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOT_CURVES = frozenset(
    {"step", "epoch", "time", "seconds", "minutes", "elapsed", "samples", "images", "seed", "version"}
)
_DENSE = 120  # points; longer series are drawn faintly with their running mean on top
_KNOWN = ("loss", "score", "rate")
_PER_AXES = 6  # lines that can still be told apart


@dataclass(frozen=True, eq=False)
class Series:
    """One curve: `x` and `y` float64 (n,), n >= 1, all finite."""

    name: str
    x: np.ndarray
    y: np.ndarray


def history_series(records: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Series]]:
    """The curves in `records` (lines of metrics.jsonl), over "step", or "epoch" or "record" where there is no step.

    Nested mappings are flattened with "/". Values that are no finite number (None, text, lists, nan) are gaps; a record
    without the x value stands where the one before it stood.
    """
    flat = [_flatten(record) for record in records]
    axis = next((key for key in ("step", "epoch") if any(key in record for record in flat)), "record")
    points: dict[str, list[tuple[float, float]]] = {}
    position = 0.0
    for index, record in enumerate(flat):
        position = record.get(axis, position) if axis != "record" else float(index)
        for name, value in record.items():
            if name.rsplit("/", 1)[-1] not in _NOT_CURVES:
                points.setdefault(name, []).append((position, value))
    return axis, {name: Series(name, *np.array(values).T) for name, values in points.items()}


def history_figure(records: Sequence[Mapping[str, Any]], *, best_step: float | None = None) -> "Figure":
    """Losses, scores, rates and the rest of `records` in axes of their own, over steps.

    Args:
        records: lines of metrics.jsonl; numbers by name, nested as they come.
        best_step: x of the best checkpoint, drawn as a vertical line.
    """
    axis, series = history_series(records)
    groups = _groups(series)
    with plot_style():
        columns = 2 if len(groups) > 1 else 1
        rows = max(-(-len(groups) // columns), 1)
        figure, axes = new_figure(5.2 * columns, 3.0 * rows, rows=rows, columns=columns)
        for place, (title, lines) in zip(axes, groups, strict=False):
            _draw(place, title, lines, axis, best_step)
        for place in axes[len(groups) :]:
            place.set_axis_off()
        if not groups:
            axes[0].text(0.5, 0.5, "no records yet", ha="center", va="center", transform=axes[0].transAxes)
    return figure


def history_figures(records: Sequence[Mapping[str, Any]], *, best_step: float | None = None) -> "dict[str, Figure]":
    """The same as `history_figure`, one figure per group of curves, by title: a page can wrap them on a small screen."""
    axis, series = history_series(records)
    figures: dict[str, Figure] = {}
    for title, lines in _groups(series):
        with plot_style():
            figure, axes = new_figure(5.2, 3.0)
            _draw(axes[0], title, lines, axis, best_step)
        figures[title if title not in figures else f"{title} {len(figures)}"] = figure
    return figures


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the up to `window` values that end at each position, float64 (n,)."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _groups(series: Mapping[str, Series]) -> list[tuple[str, list[Series]]]:
    """(title, lines) of each axes: at most `_PER_AXES` lines together."""
    sorted_by: dict[str, list[Series]] = {}
    for line in series.values():
        sorted_by.setdefault(_group(line), []).append(line)
    titles = sorted(sorted_by, key=lambda title: (_KNOWN.index(title) if title in _KNOWN else len(_KNOWN), title))
    parts: list[tuple[str, list[Series]]] = []
    for title in titles:
        lines = sorted_by[title]
        parts += [(title, lines[start : start + _PER_AXES]) for start in range(0, len(lines), _PER_AXES)]
    return parts


def _group(line: Series) -> str:
    name = line.name.lower()
    last = name.rsplit("/", 1)[-1]
    if "loss" in name:
        return "loss"
    if last == "lr" or last.endswith("rate") or "learning_rate" in name:
        return "rate"
    if line.y.min() >= 0 and line.y.max() <= 1 and "per_second" not in last:
        return "score"
    return line.name


def _draw(axes: "Axes", title: str, lines: Sequence[Series], axis: str, best_step: float | None) -> None:
    handles: list[Any] = []
    for line in lines:
        if len(line.x) > _DENSE and title != "rate":
            faint = axes.plot(line.x, line.y, alpha=0.25, linewidth=0.8)[0]
            mean = running_mean(line.y, max(len(line.y) // 40, 5))
            handles += axes.plot(line.x, mean, color=faint.get_color())
        else:
            handles += axes.plot(line.x, line.y, marker="o" if len(line.x) < 40 else None, markersize=3)
    if best_step is not None:
        axes.axvline(best_step, color="0.5", linestyle=":", linewidth=1)
    axes.set_title(printable(title), loc="left")
    axes.set_xlabel(axis)
    if title == "rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    add_legend(axes, handles, [printable(line.name) for line in lines])


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            flat[f"{prefix}{key}"] = float(value)
    return flat
