"""What cannot be trained on, said before training."""

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.targets import SemanticMap
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.parallel import each, spread
from nuriwake.data.statistics import count_classes

LOOKED_AT = 16
"""Masks that are read first; only where they show a single class all are read."""


def check_trainable(data: DataSet, *, train: str = "train", val: str = "val") -> None:
    """Refuse what cannot be trained on.

    Raises:
        UserError: fewer than two exclusive classes of maps, in the class list or in the training masks; multi-label masks
            that never say yes; no object at all; or an empty or missing split.
    """
    for split in (train, val):
        if not data.records(split):
            count = sum(len(data.records(name)) for name in data.splits)
            few = "; training needs two images at least, one of them to be measured by" if count < 2 else ""
            raise UserError(f"{data.root}: the split '{split}' is empty{few}.")
    records = data.records(train)
    maps = isinstance(data.read_target(records[0]), SemanticMap)
    needed = 2 if maps and data.space.exclusive else 1
    if len(data.space) < needed:
        raise UserError(
            f"{data.root}: there is one class only ('{data.space.names[0]}'), and training needs at least two (background "
            "and foreground); are the masks empty, or is a class missing in the class list?"
        )
    few = spread(records, LOOKED_AT)
    if (_pixels(data, few) > 0).sum() >= needed:
        return
    pixels = _pixels(data, records) if len(few) < len(records) else _pixels(data, few)
    present = [name for name, count in zip(data.space.names, pixels, strict=True) if count]
    if len(present) < needed:
        found = f"one class only ('{present[0]}')" if present else "no class at all"
        raise UserError(
            f"{data.root}: the {len(records)} masks of the split '{train}' show {found}, though {len(data.space)} classes are "
            "listed; are the masks empty, or saved with other values than the class list means?"
        )


def note_empty_val(data: DataSet, val: str) -> tuple[str, ...]:
    """What to say where no image of the split `val` holds an object, so that no score of objects is defined."""
    records = data.records(val)
    if not all(data.space.things) or _pixels(data, spread(records, LOOKED_AT)).any() or _pixels(data, records).any():
        return ()
    return (
        f"No image of the split '{val}' holds an object: average precision is not defined there, and the last weights are kept as "
        "the best ones. Put images with objects among them.",
    )


def _pixels(data: DataSet, records: list[Record] | tuple[Record, ...]) -> np.ndarray:
    def count(record: Record) -> np.ndarray:
        target = data.read_target(record)
        return np.zeros(len(data.space), np.int64) if target is None else count_classes(target)

    return np.sum(each(count, records), axis=0)
