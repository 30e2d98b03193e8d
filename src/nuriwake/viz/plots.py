"""Plots of scores: per class, confusion, thresholds, score against time. Each returns a matplotlib Figure without pyplot.

Save one with `figures.save_figure`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nuriwake.viz.figures import COLOURS, add_legend, new_figure, plot_style
from nuriwake.viz.fonts import printable
from nuriwake.viz.history import history_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["class_figure", "confusion_figure", "history_figure", "score_time_figure", "threshold_figure"]

_ANNOTATED = 20  # classes up to which the confusion matrix carries numbers


def class_figure(names: Sequence[str], scores: Mapping[str, Sequence[float | None]]) -> "Figure":
    """Horizontal bars of each score for each class.

    Args:
        names: the classes, top to bottom.
        scores: name of the score -> one value per class; None or nan where the class is absent (written, not drawn as 0).

    Raises:
        ValueError: a score has another number of values than there are names.
    """
    table = {
        name: np.array([np.nan if value is None else value for value in row], float) for name, row in scores.items()
    }
    for name, row in table.items():
        if len(row) != len(names):
            raise ValueError(f"'{name}' has {len(row)} values for {len(names)} classes.")
    thickness = 0.8 / max(len(table), 1)
    with plot_style():
        figure, (axes,) = new_figure(6.4, 1.0 + len(names) * max(0.16 * len(table), 0.22))
        positions, handles = np.arange(len(names)), []
        for index, row in enumerate(table.values()):
            offset = positions + (index - (len(table) - 1) / 2) * thickness
            handles.append(axes.barh(offset, np.nan_to_num(row), height=thickness * 0.92))
            for place, value in zip(offset, row, strict=True):
                text = "absent" if np.isnan(value) else f"{value:.3f}"
                axes.text(np.nan_to_num(value) + 0.01, place, text, va="center", fontsize=7, color="0.35")
        axes.set_yticks(positions, [printable(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.1)
        axes.grid(visible=False, axis="y")
        if handles:
            figure.legend(
                handles, [printable(name) for name in table], loc="outside upper right", ncols=len(table), frameon=False
            )
    return figure


def confusion_figure(matrix: np.ndarray, names: Sequence[str]) -> "Figure":
    """The confusion matrix, each row (true class) as shares of its pixels; rows without pixels are grey.

    Args:
        matrix: (K, K) counts, rows truth, columns prediction. Up to 20 classes carry numbers; more are wider, not smaller.

    Raises:
        ValueError: the matrix does not fit the names.
    """
    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(f"A confusion matrix of {count} classes is ({count}, {count}), found {matrix.shape}.")
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    side = float(np.clip(2.2 + 0.42 * count, 4.0, 20.0))
    with plot_style():
        figure, (axes,) = new_figure(side + 0.8, side)
        _draw_shares(figure, axes, shares)
        labels, size = [printable(name) for name in names], 9.0 if count <= 40 else max(3.5, 9.0 * 40 / count)
        axes.set_xticks(range(count), labels, rotation=90 if count > 5 else 0, fontsize=size)
        axes.set_yticks(range(count), labels, fontsize=size)
        axes.set_xlabel("prediction")
        axes.set_ylabel("truth")
        if count <= _ANNOTATED:
            _write_shares(axes, shares)
    return figure


def threshold_figure(
    thresholds: np.ndarray, scores: Mapping[str, np.ndarray], *, chosen: Mapping[str, float], metric: str = "Dice"
) -> "Figure":
    """Score against threshold, one curve per class, a dot where the threshold was set.

    Args:
        thresholds: (T,) in 0..1, ascending.
        scores: class name -> (T,), nan where undefined.
        chosen: class name -> threshold in use.
    """
    with plot_style():
        figure, (axes,) = new_figure(5.6, 3.6)
        handles = []
        for index, (name, row) in enumerate(scores.items()):
            handles += axes.plot(thresholds, row, color=COLOURS[index % len(COLOURS)])
            if name in chosen:
                height = np.interp(chosen[name], thresholds, row)
                axes.plot(chosen[name], height, "o", color=COLOURS[index % len(COLOURS)], markersize=6)
        axes.set_xlabel("threshold")
        axes.set_ylabel(metric)
        axes.set_xlim(0, 1)
        labels = [printable(f"{name} ({chosen[name]:.2f})" if name in chosen else name) for name in scores]
        add_legend(axes, handles, labels)
    return figure


def score_time_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, metric: str, target: float | None = None
) -> "Figure":
    """Score against minutes, one curve per contender.

    Args:
        curves: name -> (minutes, score) in order of time.
        target: a horizontal line.
    """
    with plot_style():
        figure, (axes,) = new_figure(6.0, 3.8)
        handles = []
        for points in curves.values():
            minutes, scores = np.array(points, float).reshape(-1, 2).T
            handles += axes.plot(minutes, scores, marker="o", markersize=3.5)
        if target is not None:
            axes.axhline(target, color="0.4", linestyle="--", linewidth=1)
            axes.annotate(f"{target:g}", (0, target), xytext=(2, 3), textcoords="offset points", color="0.4")
        axes.set_xlabel("minutes")
        axes.set_ylabel(printable(metric))
        axes.set_xlim(left=0)
        add_legend(axes, handles, [printable(name) for name in curves])
    return figure


def _draw_shares(figure: "Figure", axes: "Axes", shares: np.ndarray) -> None:
    from matplotlib import colormaps

    axes.set_facecolor("0.88")
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap=colormaps["Blues"], interpolation="nearest")
    axes.grid(visible=False)
    figure.colorbar(picture, ax=axes, shrink=0.6, aspect=35, pad=0.02, label="share of the true class")


def _write_shares(axes: "Axes", shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            text = "1" if share >= 0.995 else f"{share:.2f}".lstrip("0")
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 0.55 else "0.15"
            )
