"""Curves of a training: records of metrics.jsonl -> named series -> one figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from nuriwake.viz.figures import COLOURS, add_legend, new_figure, plot_style
from nuriwake.viz.fonts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOT_CURVES = frozenset({"step", "epoch", "progress", "seconds", "took"})  # of a record itself, not of what it holds
_RATES = frozenset({"rate", "lr", "learning_rate"})
_STYLES = ("-", "--", ":")
_ORDER = ("loss", "scores")
_DENSE = 120  # points; longer series are drawn faintly with their running mean on top
_BESIDE = 5  # lines from which on the legend stands beside the axes
_NAMED = 16  # lines from which on there is no legend: nobody could tell them apart


@dataclass(frozen=True, eq=False)
class Series:
    """One curve: `x` and `y` float64 (n,), n >= 1, all finite; curves of one `group` share their axes."""

    group: str
    name: str
    x: np.ndarray
    y: np.ndarray


def history_series(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[Series]]:
    """The curves in `records` (lines of metrics.jsonl), over "step", or "epoch" or "record" where there is no step.

    A number inside a mapping belongs to the group of that mapping's name ("scores", "class_iou"). Of the other numbers,
    those with "loss" in their name and the terms in records of kind "train" are the group "loss", learning rates "rate",
    and the rest are groups of one. Values that are no finite number (None, text, lists, nan) are gaps; a record without
    the x value stands where the one before it stood.
    """
    axis = next((key for key in ("step", "epoch") if any(_is_number(record.get(key)) for record in records)), "record")
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    position = 0.0
    for index, record in enumerate(records):
        found = record.get(axis) if axis != "record" else index
        position = float(found) if _is_number(found) else position
        for group, name, value in _numbers(record):
            points.setdefault((group, name), []).append((position, value))
    return axis, [Series(*key, *np.array(values).T) for key, values in points.items()]


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
        figure, axes = new_figure(5.6 * columns, 3.2 * rows, rows=rows, columns=columns)
        for place, (title, lines) in zip(axes, groups.items(), strict=False):
            _draw(place, title, lines, axis, best_step)
        for place in axes[len(groups) :]:
            place.set_axis_off()
        if not groups:
            axes[0].text(0.5, 0.5, "no records yet", ha="center", va="center", transform=axes[0].transAxes)
    return figure


def history_figures(records: Sequence[Mapping[str, Any]], *, best_step: float | None = None) -> "dict[str, Figure]":
    """The same as `history_figure`, one figure per group of curves, by its name: a page can wrap them on a small screen."""
    axis, series = history_series(records)
    figures: dict[str, Figure] = {}
    for title, lines in _groups(series).items():
        with plot_style():
            figures[title], axes = new_figure(5.6, 3.2)
            _draw(axes[0], title, lines, axis, best_step)
    return figures


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the up to `window` values that end at each position, float64 (n,)."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _groups(series: Sequence[Series]) -> dict[str, list[Series]]:
    """Group -> its lines; losses and scores first, then in the order in which they came."""
    groups: dict[str, list[Series]] = {name: [] for name in _ORDER}
    for line in series:
        groups.setdefault(line.group, []).append(line)
    return {name: lines for name, lines in groups.items() if lines}


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(group, name, value) of every number in `record`."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from ((key, name, number) for name, number in _flatten(value).items())
        elif _is_number(value) and key not in _NOT_CURVES:
            term = record.get("kind") == "train" and not key.endswith("_per_second")
            group = "rate" if key in _RATES else "loss" if "loss" in key or term else key
            yield group, key, float(value)


def _draw(axes: "Axes", title: str, lines: Sequence[Series], axis: str, best_step: float | None) -> None:
    handles: list[Any] = []
    for index, line in enumerate(lines):
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": _STYLES[index // len(COLOURS) % 3],
        }
        if len(line.x) > _DENSE and title != "rate":
            axes.plot(line.x, line.y, alpha=0.25, linewidth=0.8, color=style["color"])
            handles += axes.plot(line.x, running_mean(line.y, max(len(line.y) // 40, 5)), **style)
        else:
            handles += axes.plot(line.x, line.y, marker="o" if len(line.x) < 40 else None, markersize=3, **style)
    if best_step is not None:
        axes.axvline(best_step, color="0.5", linestyle=":", linewidth=1)
    named = len(lines) < _NAMED
    axes.set_title(printable(title if named else f"{title} ({len(lines)} lines)"), loc="left")
    axes.set_xlabel(axis)
    if title == "rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if named and [line.name for line in lines] != [title]:
        add_legend(axes, handles, [printable(line.name) for line in lines], beside=len(lines) > _BESIDE)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        elif _is_number(value):
            flat[f"{prefix}{key}"] = float(value)
    return flat
