"""The report of a run: one HTML file that says what was trained, how well, and where it fails."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Target
from nuriwake.viz import html
from nuriwake.viz.history import history_figures
from nuriwake.viz.html import Html, element, text
from nuriwake.viz.legend import Entry
from nuriwake.viz.panels import Tiles, make_tiles
from nuriwake.viz.plots import class_figure, confusion_figure

_TILE = 420  # pixels of the longer side of a picture in the report


@dataclass(frozen=True)
class Choice:
    """One thing that was decided for this run, and why."""

    name: str
    value: str
    reason: str = ""


@dataclass(frozen=True)
class Headline:
    """One figure at the top, as it is to be read: ("validation mean IoU", "0.712", "best, step 480")."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """One validation image: its pictures as the report shows them, and the `score` by which the examples were ordered."""

    name: str
    tiles: Tiles
    score: float | None = None

    @classmethod
    def draw(
        cls, name: str, image: np.ndarray, truth: Target, *, prediction: Target, score: float | None = None
    ) -> "Example":
        """Truth and prediction are of one kind. The small pictures stay, and nothing of the arrays, which may be large."""
        return cls(name, make_tiles(image, truth, prediction=prediction, longest=_TILE), score)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """Everything a report shows; what is empty is left out.

    Args:
        title: for instance the run's name.
        summary: a sentence or two on what was trained on what.
        headlines: the figures that matter.
        choices: what was chosen for the data and the machine, with reasons.
        configuration: the resolved configuration, as `core.serial.to_plain` gives it.
        history: the lines of metrics.jsonl.
        best_step: where the best checkpoint lies on the history.
        space: the classes.
        class_scores: name of the score -> one value per class, None where the class is absent.
        class_counts: name of the count -> one number per class, whatever was counted of it.
        class_pixels: pixels of truth per class; empty when not counted.
        confusion: (K, K) counts, rows truth; None for multi-label spaces.
        best, worst: validation images of the highest and the lowest score.
        environment: versions, device, threads.
        licence: of the weights.
        notes: remarks on the data (what was recognised, assumed, left out).

    Raises:
        UserError: a class score or the confusion matrix does not fit the label space.
    """

    title: str
    space: LabelSpace
    summary: str = ""
    headlines: tuple[Headline, ...] = ()
    choices: tuple[Choice, ...] = ()
    configuration: Mapping[str, Any] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    best_step: float | None = None
    class_scores: Mapping[str, Sequence[float | None]] | None = None
    class_counts: Mapping[str, Sequence[int]] | None = None
    class_pixels: Sequence[int] = ()
    confusion: np.ndarray | None = None
    best: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()
    environment: Mapping[str, str] | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.space)
        pixels = {"pixels": self.class_pixels} if self.class_pixels else {}
        columns = {**(self.class_scores or {}), **(self.class_counts or {}), **pixels}
        for name, values in columns.items():
            if len(values) != count:
                raise UserError(f"The report's '{name}' has {len(values)} values for {count} classes.")
        if self.confusion is not None and self.confusion.shape != (count, count):
            raise UserError(f"The report's confusion matrix is {self.confusion.shape}, expected ({count}, {count}).")


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report of `data` to `path` atomically. Returns the path."""
    write_text(path, render_report(data))
    return Path(path)


def render_report(data: ReportData) -> str:
    """The report of `data` as one HTML document. Every text in `data` is escaped: names come from files."""
    return html.page(
        data.title,
        element("h1", text(data.title)),
        element("p", text(data.summary)) if data.summary else Html(""),
        _headlines(data.headlines),
        html.section("What was chosen, and why", _choices(data.choices), _notes(data.notes)),
        html.section("Course of the training", _history(data)),
        html.section("Scores of the classes", _class_table(data), _class_plot(data)),
        html.section("Confusion", _confusion(data)),
        html.section("Worst validation images", *map(_example, data.worst)),
        html.section("Best validation images", *map(_example, data.best)),
        html.section("Environment and licence", _environment(data), _configuration(data)),
    )


def _headlines(headlines: Sequence[Headline]) -> Html:
    cards = [
        element(
            "div",
            element("span", text(item.name), kind="muted"),
            element("b", text(item.value)),
            element("span", text(item.note), kind="muted"),
            kind="fact",
        )
        for item in headlines
    ]
    return element("div", *cards, kind="facts") if cards else Html("")


def _choices(choices: Sequence[Choice]) -> Html:
    rows = [[text(choice.name), text(choice.value), text(choice.reason)] for choice in choices]
    return html.table(("what", "chosen", "why"), rows) if rows else Html("")


def _notes(notes: Sequence[str]) -> Html:
    return element("ul", *(element("li", text(note)) for note in notes), kind="muted") if notes else Html("")


def _history(data: ReportData) -> Html:
    if not data.history:
        return Html("")
    figures = history_figures(data.history, best_step=data.best_step)
    return element(
        "div", *(html.plot(figure, about=f"{title} over steps") for title, figure in figures.items()), kind="plots"
    )


def _class_table(data: ReportData) -> Html:
    scores, counts = data.class_scores or {}, dict(data.class_counts or {})
    if data.class_pixels:
        counts = {"pixels of truth": data.class_pixels, **counts}
    if not scores and not counts:
        return Html("")
    shown = _seen_classes(data)
    rows = [
        [
            Html(html.swatch(data.space.colours[index]) + text(data.space.names[index])),
            *(_score(values[index]) for values in scores.values()),
            *(text(f"{values[index]:,}") for values in counts.values()),
        ]
        for index in shown
    ]
    absent = [name for index, name in enumerate(data.space.names) if index not in shown]
    others = f"Neither in the truth nor predicted ({len(absent)} of {len(data.space)}): {', '.join(absent)}."
    return html.join(
        [
            html.table(("class", *scores, *counts), rows, numbers_from=1) if rows else Html(""),
            element("p", text(others), kind="muted") if absent else Html(""),
        ]
    )


def _seen_classes(data: ReportData) -> list[int]:
    """The classes of which there is a score, or a count that is not 0."""
    scores, counts = (data.class_scores or {}).values(), [*(data.class_counts or {}).values()]
    counts += [data.class_pixels] if data.class_pixels else []
    return [
        index
        for index in range(len(data.space))
        if any(row[index] for row in counts) or not all(_is_missing(row[index]) for row in scores)
    ]


def _is_missing(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))


def _score(value: float | None) -> Html:
    return text("absent" if value is None or _is_missing(value) else f"{value:.3f}")


def _class_plot(data: ReportData) -> Html:
    shown = _seen_classes(data)
    if not data.class_scores or len(shown) < 3:
        return Html("")
    scores = {name: [row[index] for index in shown] for name, row in list(data.class_scores.items())[:2]}
    figure = class_figure([data.space.names[index] for index in shown], scores)
    return html.details("As bars", html.plot(figure, about="scores of the classes"))


def _confusion(data: ReportData) -> Html:
    if data.confusion is None:
        return Html("")
    shown = confusion_figure(data.confusion, data.space.names)
    how = "Rows are the truth: each row says what became of the pixels of that class."
    matrix = element("div", html.plot(shown, about="confusion matrix"), kind="wide big")
    return html.join([element("p", text(how), kind="muted"), matrix])


def _example(example: Example) -> Html:
    tiles = example.tiles
    pictures = [
        element("figure", html.picture(shown, about=f"{title} of {example.name}"), element("figcaption", text(title)))
        for title, shown in tiles.pictures.items()
    ]
    score = "" if example.score is None else f"score {example.score:.3f} · "
    return element(
        "div",
        element("h3", text(example.name)),
        element("div", *pictures, kind="tiles"),
        element("p", text(score + tiles.figures), kind="muted"),
        _legend(tiles.entries),
        kind="example",
    )


def _legend(entries: Sequence[Entry]) -> Html:
    shown = [element("span", html.swatch(entry.colour), text(entry.name)) for entry in entries if entry.colour]
    return element("div", Html(" ".join(shown)), kind="legend")


def _environment(data: ReportData) -> Html:
    rows = [[text(name), text(value)] for name, value in (data.environment or {}).items()]
    rows += [[text("licence of the weights"), text(data.licence)]] if data.licence else []
    return html.table(("", ""), rows) if rows else Html("")


def _configuration(data: ReportData) -> Html:
    if not data.configuration:
        return Html("")
    plain = json.dumps(data.configuration, indent=1, ensure_ascii=False, default=str)
    return html.details("Resolved configuration", element("pre", text(plain)))
