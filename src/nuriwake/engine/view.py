"""A data set as a task sees it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nuriwake.core.targets import Target
from nuriwake.data.dataset import DataSet, Record, TargetReader
from nuriwake.tasks import Task


@dataclass(frozen=True)
class ViewedTarget:
    """Reads with `reader` and looks at it through `view`; picklable as they are."""

    reader: TargetReader
    view: Callable[[Target], Target]

    def __call__(self, record: Record) -> Target | None:
        target = self.reader(record)
        return None if target is None else self.view(target)


def viewed(data: DataSet, task: Task) -> DataSet:
    """`data` with the classes and the targets of `task`; all that reads it further on sees nothing else."""
    return replace(data, space=task.space(data.space), reader=ViewedTarget(data.reader, task.view))
