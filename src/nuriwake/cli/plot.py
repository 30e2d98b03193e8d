"""`nuriwake plot`."""

from pathlib import Path


def plot(run: Path, *, data: Path | None = None) -> None:
    """Draw a run: history, per-class scores and confusion matrix as PNG, and its HTML report.

    Args:
        run: a run folder; of an unfinished one the history is drawn.
        data: where the data lie now, for the report's example images; where they were trained from otherwise.
    """
    from nuriwake.api import load, open_data, open_run
    from nuriwake.engine.report import write_run_plots, write_run_report
    from nuriwake.engine.view import viewed
    from nuriwake.tasks import get_task

    found = open_run(run)
    for path in write_run_plots(found):
        print(path)
    if found.finished:
        config = found.config.data
        opened = open_data(data or config.path, format=config.format, val_share=config.val_share)
        seen = viewed(opened, get_task(found.config.task or ""))
        print(write_run_report(found, seen, load(run)))
