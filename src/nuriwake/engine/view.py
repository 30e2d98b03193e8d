"""A data set as a task sees it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Target
from nuriwake.data.dataset import DataSet, Record, TargetReader
from nuriwake.tasks import Task


@dataclass(frozen=True)
class ViewedTarget:
    """Reads with `reader` and looks at it through `view`, in the classes of `space`; picklable as they are."""

    reader: TargetReader
    view: Callable[[Target, LabelSpace], Target]
    space: LabelSpace

    def __call__(self, record: Record) -> Target | None:
        target = self.reader(record)
        return None if target is None else self.view(target, self.space)


def viewed(data: DataSet, task: Task) -> DataSet:
    """`data` with the classes and the targets of `task`; all that reads it further on sees nothing else."""
    try:
        space = task.space(data.space)
    except UserError as error:
        raise UserError(f"{data.root}: the data do not do for the task '{task.name}'. {error}") from error
    notes = (*data.notes, *_void_notes(data.space, task))
    return replace(data, space=space, reader=ViewedTarget(data.reader, task.view, space), notes=notes)


def _void_notes(space: LabelSpace, task: Task) -> tuple[str, ...]:
    if not all(space.things) or not space.exclusive:
        return ()
    if task.name == "panoptic":
        return (
            "None of the classes is stuff: what is no object is void, which panoptic quality does not judge, so that objects "
            "invented there cost nothing; --task instance judges them.",
        )
    if task.name == "semantic":
        return ("None of the classes is stuff: what is no object is background.",)
    return ()
