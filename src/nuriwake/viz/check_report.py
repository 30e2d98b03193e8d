"""The report of a data check: one self-contained page of what a data set holds and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.files import write_text
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Target
from nuriwake.viz import html
from nuriwake.viz.figures import COLOURS, new_figure, plot_style
from nuriwake.viz.fonts import printable
from nuriwake.viz.html import Html, element, text
from nuriwake.viz.panels import make_tiles

_TILE = 300
_MOST_BARS = 80


@dataclass(frozen=True, eq=False)
class Picture:
    """One sample: its image (H, W, C), None where it cannot be read, and its truth where that can."""

    name: str
    image: np.ndarray | None
    target: Target | None = None


@dataclass(frozen=True, eq=False)
class Trouble:
    """One finding as the page tells it."""

    kind: str
    severity: str
    count: int
    what: str
    why: str
    remedy: str
    files: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class CheckPage:
    """Everything the page shows; what is empty is left out.

    Args:
        title: the data set's name.
        summary: a sentence on what was looked at.
        facts: (name, value) at the top.
        troubles: findings, in order of harm.
        space: the classes.
        class_pixels: split -> pixels per class (K,).
        class_images: split -> images with the class (K,).
        sizes: (N, 2) height and width of the images.
        objects: (M,) areas of objects in pixels.
        wall: samples with their truth.
        notes: what was assumed.
    """

    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    troubles: tuple[Trouble, ...] = ()
    space: LabelSpace | None = None
    class_pixels: dict[str, np.ndarray]
    class_images: dict[str, np.ndarray]
    sizes: np.ndarray
    objects: np.ndarray
    wall: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def check_page(
    plain: Mapping[str, Any], seen: Any, pictures: Mapping[str, Sequence[Any]], wall: Sequence[Any]
) -> CheckPage:
    """The page of a check.

    Args:
        plain: what `CheckResult.plain` gives.
        seen: the survey: its `space`, `splits`, `class_pixels` and `facts` rows, `sizes`, `objects`.
        pictures: kind of finding -> samples with `name`, `image` and `target`.
        wall: such samples, of the whole data set.
    """
    rows = np.array([facts.split for facts in seen.facts])
    table = {split: seen.class_pixels[rows == split] for split in seen.splits} if seen.space else {}
    sides = np.sqrt(seen.sizes.prod(axis=1)) if len(seen.sizes) else np.zeros(1)
    harmful = sum(item["severity"] == "harmful" for item in plain["findings"])
    facts = [("images", f"{len(seen.facts):,}"), ("classes", str(len(seen.space)) if seen.space else "unknown")]
    facts += [(f"in {split or 'no split'}", f"{len(part):,}") for split, part in seen.splits.items()]
    facts += [("objects or regions", f"{len(seen.objects):,}")] if len(seen.objects) else []
    facts += [("median side", f"{np.median(sides):,.0f} px"), ("harmful findings", str(harmful))]
    return CheckPage(
        title=str(plain["data"]),
        summary=f"Format {plain['format']}. Findings: {len(plain['findings'])}, of which harmful: {harmful}.",
        facts=tuple(facts),
        troubles=tuple(_told(item, pictures.get(item["kind"], ())) for item in plain["findings"]),
        space=seen.space,
        class_pixels={split: part.sum(axis=0) for split, part in table.items()},
        class_images={split: (part > 0).sum(axis=0) for split, part in table.items()},
        sizes=seen.sizes,
        objects=seen.objects[:, 0],
        wall=tuple(Picture(item.name, item.image, item.target) for item in wall),
    )


def _told(finding: Mapping[str, Any], pictures: Sequence[Any]) -> Trouble:
    shown = tuple(Picture(item.name, item.image, item.target) for item in pictures)
    fields = ("kind", "severity", "count", "what", "why", "remedy")
    return Trouble(*(finding[name] for name in fields), files=tuple(finding["files"]), pictures=shown)


def write_check_report(path: str | Path, page: CheckPage) -> Path:
    """Write `page` to `path` atomically. Returns the path."""
    write_text(path, render_check_report(page))
    return Path(path)


def render_check_report(page: CheckPage) -> str:
    """The page as one HTML document. Every text is escaped: names come from files."""
    return html.page(
        f"Check of {page.title}",
        element("h1", text(f"Check of {page.title}")),
        element("p", text(page.summary)) if page.summary else Html(""),
        _facts(page.facts),
        html.section("What was found", _overview(page.troubles)),
        *(_trouble(trouble) for trouble in page.troubles),
        html.section("Classes", _class_plot(page), _class_table(page)),
        html.section("Sizes", _size_plots(page)),
        html.section("Samples with their truth", _pictures(page.wall)),
        html.section("What was assumed", _list(page.notes)),
    )


def _facts(facts: Sequence[tuple[str, str]]) -> Html:
    cards = [
        element("div", element("span", text(name), kind="muted"), element("b", text(value)), kind="fact")
        for name, value in facts
    ]
    return element("div", *cards, kind="facts") if cards else Html("")


def _overview(troubles: Sequence[Trouble]) -> Html:
    if not troubles:
        return element("p", text("Nothing: the data set is clean."))
    rows = [[_severity(item), text(item.what), text(f"{item.count:,}"), text(item.kind)] for item in troubles]
    return html.table(("", "what", "count", "kind"), rows)


def _trouble(trouble: Trouble) -> Html:
    return element(
        "section",
        element("h3", _severity(trouble), text(f" · {trouble.what}")),
        element("p", text(trouble.why)),
        element("p", element("b", text("What to do: ")), text(trouble.remedy)),
        _files(trouble),
        _pictures(trouble.pictures),
        kind="example",
    )


def _severity(trouble: Trouble) -> Html:
    colour = {"harmful": (200, 40, 40), "doubtful": (225, 150, 20)}.get(trouble.severity, (90, 140, 190))
    inside = html.swatch(colour) + element("b", text(trouble.severity))
    return Html(f'<span style="white-space:nowrap">{inside}</span>')


def _files(trouble: Trouble) -> Html:
    if not trouble.files:
        return Html("")
    rest = [element("li", text("and others"))] if trouble.count > len(trouble.files) == 10 else []
    return element("ul", *(element("li", text(file)) for file in trouble.files), *rest, kind="muted")


def _list(notes: Sequence[str]) -> Html:
    return element("ul", *(element("li", text(note)) for note in notes), kind="muted") if notes else Html("")


def _pictures(pictures: Sequence[Picture]) -> Html:
    shown = [_picture(item) for item in pictures if item.image is not None]
    # Empty places keep one or two pictures from growing over the whole page.
    shown += [element("figure")] * (5 - len(shown)) if shown else []
    return element("div", *shown, kind="tiles") if shown else Html("")


def _picture(item: Picture) -> Html:
    assert item.image is not None
    tiles = make_tiles(item.image, item.target, longest=_TILE)
    *_, shown = tiles.pictures.values()
    return element("figure", html.picture(shown, about=item.name), element("figcaption", text(item.name)))


def _class_table(page: CheckPage) -> Html:
    if page.space is None or not page.class_pixels:
        return Html("")
    total = max(1, int(sum(pixels.sum() for pixels in page.class_pixels.values())))
    rows: list[list[Html]] = []
    for index, (name, colour) in enumerate(zip(page.space.names, page.space.colours, strict=True)):
        share = sum(int(pixels[index]) for pixels in page.class_pixels.values()) / total
        cells = [Html(html.swatch(colour) + text(name)), text(f"{share:.2%}")]
        for split, pixels in page.class_pixels.items():
            cells += [text(f"{int(pixels[index]):,}"), text(f"{int(page.class_images[split][index]):,}")]
        rows.append(cells)
    header = ["class", "of all", *(f"{split} {what}" for split in page.class_pixels for what in ("pixels", "images"))]
    return html.details("As a table", html.table(header, rows, numbers_from=1))


def _class_plot(page: CheckPage) -> Html:
    if page.space is None or not page.class_pixels:
        return Html("")
    pixels = np.array(sum(page.class_pixels.values()), np.float64)
    order = np.argsort(-pixels, kind="stable")[:_MOST_BARS]
    splits = list(page.class_images)
    with plot_style():
        figure, (left, right) = new_figure(9.6, 1.2 + 0.2 * len(order), columns=2)
        places = np.arange(len(order))
        colours = np.array(page.space.colours)[order] / 255
        left.barh(places, 100 * pixels[order] / max(pixels.sum(), 1), color=colours, edgecolor="0.5", linewidth=0.4)
        left.set_xscale("symlog", linthresh=0.01)
        left.set_xlim(left=0)
        left.xaxis.set_major_formatter(_plainly)
        left.set_xlabel("% of all labelled pixels")
        start = np.zeros(len(order))
        for split, colour in zip(splits, COLOURS, strict=False):
            count = page.class_images[split][order]
            right.barh(places, count, left=start, color=colour, label=split or "all")
            start = start + count
        right.set_xlabel("images with the class")
        figure.legend(loc="outside upper right", ncols=len(splits), frameon=False)
        for axes in (left, right):
            axes.set_yticks(places, [printable(page.space.names[i]) for i in order])
            axes.set_ylim(len(order) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
        right.set_yticks([])
    more = len(page.space) - len(order)
    note = element("p", text(f"{more} rarer classes are in the table."), kind="muted") if more else Html("")
    return html.join([html.plot(figure, about="pixels and images of the classes"), note])


def _plainly(value: float, _: object) -> str:
    """A tick's number; matplotlib's own for logarithms are formulas, which our style keeps from being parsed."""
    return f"{value:g}"


def _size_plots(page: CheckPage) -> Html:
    figures = [figure for figure in (_images_figure(page), _objects_figure(page)) if figure]
    return element("div", *figures, kind="plots") if figures else Html("")


def _images_figure(page: CheckPage) -> Html:
    if not len(page.sizes):
        return Html("")
    sizes, counts = np.unique(page.sizes, axis=0, return_counts=True)
    with plot_style():
        figure, (axes,) = new_figure(4.8, 3.4)
        axes.scatter(sizes[:, 1], sizes[:, 0], s=14 + 160 * counts / counts.max(), alpha=0.45, color=COLOURS[0])
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")
        axes.set_title(f"images: {len(sizes):,} {'size' if len(sizes) == 1 else 'different sizes'}")
        axes.set_xlim(0, sizes[:, 1].max() * 1.15)
        axes.set_ylim(0, sizes[:, 0].max() * 1.15)
    return html.plot(figure, about="sizes of the images")


def _objects_figure(page: CheckPage) -> Html:
    sides = np.sqrt(page.objects[page.objects > 0])
    if not len(sides):
        return Html("")
    with plot_style():
        figure, (axes,) = new_figure(4.8, 3.4)
        axes.hist(sides, bins=np.geomspace(1, max(float(sides.max()), 2) * 1.01, 40).tolist(), color=COLOURS[2])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plainly)
        axes.set_xlabel("square root of the area in pixels")
        axes.set_ylabel("objects or regions")
        axes.set_title(f"{len(sides):,} objects or regions, median {np.median(sides):.0f} pixels wide")
        axes.set_ylim(top=axes.get_ylim()[1] * 1.1)  # the words stand above the bars
        for place, name in ((8, "stride 8"), (32, "stride 32"), (512, "crop 512")):
            if place < sides.max() * 1.5:
                axes.axvline(place, color="0.4", linewidth=0.8, linestyle=":")
                axes.text(place, axes.get_ylim()[1] * 0.97, f" {name}", fontsize=7, va="top", color="0.35")
    return html.plot(figure, about="sizes of the objects")
