"""What a person sees while a run works: one bar with images/s and the time left, and TensorBoard events."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A progress bar on standard error; silent when that is no terminal or `shown` is False."""

    def __init__(self, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not (shown and console.is_terminal and sys.stderr.isatty()),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("train", total=1.0, detail="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, progress: float, detail: str, *, doing: str = "train") -> None:
        """Move to `progress` (0..1) with a few words."""
        self._progress.update(self._task, completed=progress, detail=detail, description=doing)


class Events:
    """TensorBoard events in the run folder; does nothing where TensorBoard is not installed."""

    def __init__(self, folder: Path, step: int, *, wanted: bool) -> None:
        self._writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """The numbers among `values` at `step`."""
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def back_to(self, step: int) -> None:
        """What was written from `step` on does not count any more."""
        if self._writer is not None:
            self._writer.close()
            self._writer = type(self._writer)(self._writer.log_dir, purge_step=step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
