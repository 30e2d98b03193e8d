"""Floor 1: pictures, plots and the report. Takes plain values and core types; knows no metric, model or run."""

from nuriwake.viz.figures import save_figure
from nuriwake.viz.overlay import overlay
from nuriwake.viz.panels import grid, make_tiles, panel
from nuriwake.viz.plots import class_figure, confusion_figure, history_figure, score_time_figure, threshold_figure
from nuriwake.viz.report import Choice, Example, Headline, ReportData, render_report, write_report

__all__ = [
    "Choice",
    "Example",
    "Headline",
    "ReportData",
    "class_figure",
    "confusion_figure",
    "grid",
    "history_figure",
    "make_tiles",
    "overlay",
    "panel",
    "render_report",
    "save_figure",
    "score_time_figure",
    "threshold_figure",
    "write_report",
]
