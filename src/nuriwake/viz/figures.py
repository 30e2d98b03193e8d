"""What all plots share: figures without pyplot (no global state, no window), one style, atomic files."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuriwake.core.files import write_bytes
from nuriwake.viz.fonts import plot_family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Line colours that colour-blind eyes tell apart (Okabe and Ito, 2008)."""


@contextmanager
def plot_style() -> Generator[None]:
    """Our fonts and lines while the block runs; matplotlib's own settings are untouched after it."""
    import matplotlib as mpl
    from cycler import cycler

    style: Any = {  # matplotlib annotates its keys as one long Literal
        "font.family": list(plot_family()),
        "font.size": 9,
        "text.parse_math": False,  # class names come from files: a $ in them is a character, not a formula
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.unicode_minus": False,
        "axes.titlesize": 10,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "svg.hashsalt": "nuriwake",  # else two drawings of the same data differ
    }
    with mpl.rc_context(style):
        yield


def new_figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure of `width` x `height` inches with its axes in reading order; call inside `plot_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def add_legend(axes: "Axes", handles: Sequence[Any], labels: Sequence[str], *, beside: bool = False) -> None:
    """A legend with exactly these labels: matplotlib by itself leaves out those that begin with an underscore.

    Args:
        beside: to the right of the axes instead of inside them.
    """
    shown = [f"\u200b{label}" if label.startswith("_") else label for label in labels]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "fontsize": 8} if beside else {}
    legend = axes.legend(handles, shown, **place)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def figure_bytes(figure: "Figure", kind: str, *, dpi: int = 120) -> bytes:
    """`figure` as "png", "svg" or "pdf" bytes; the same figure gives the same bytes."""
    buffer = BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with plot_style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: "Figure", path: str | Path, *, dpi: int = 120) -> Path:
    """Write `figure` to `path` atomically, in the format its suffix names (.png, .svg, .pdf). Returns the path."""
    path = Path(path)
    write_bytes(path, figure_bytes(figure, path.suffix.lstrip(".").lower(), dpi=dpi))
    return path
