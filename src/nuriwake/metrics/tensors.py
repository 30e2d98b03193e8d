"""Label maps as torch tensors: on the CPU they are NumPy arrays, on a GPU they are counted where they are."""

from typing import Any

import numpy as np
import torch

from nuriwake.core.errors import UserError
from nuriwake.metrics.confusion import LabelArray, PixelCounts, from_table


def as_arrays(prediction: LabelArray, target: LabelArray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both as NumPy without a copy, or None when one of them lies on another device than the CPU."""
    arrays: list[np.ndarray] = []
    for labels in (prediction, target):
        if isinstance(labels, torch.Tensor):
            if labels.device.type != "cpu":
                return None
            arrays.append(labels.detach().numpy())
        else:
            arrays.append(np.asarray(labels))
    return arrays[0], arrays[1]


def count_on_device(prediction: Any, target: Any, classes: int, ignore: int | None) -> PixelCounts:
    """The counts of two maps of equal shape, at least one of them a tensor on a GPU; the other is brought to it.

    Only the table (K + 2, K + 2) comes back to the CPU.
    """
    device = next(labels.device for labels in (prediction, target) if torch.is_tensor(labels) and not labels.is_cpu)
    tensors = [torch.as_tensor(labels).to(device) for labels in (prediction, target)]
    for what, labels in zip(("prediction", "target"), tensors, strict=True):
        if labels.is_floating_point() or labels.is_complex():
            raise UserError(f"The {what} must hold integer labels, found {labels.dtype}. Take the argmax first?")
    columns, rows = (_slots(labels, classes, ignore) for labels in tensors)
    size = classes + 2
    table = torch.bincount(rows * size + columns, minlength=size * size).reshape(size, size)
    return from_table(table.cpu().numpy(), tensors[0], tensors[1], ignore)


def _slots(labels: torch.Tensor, classes: int, ignore: int | None) -> torch.Tensor:
    flat = labels.reshape(-1).to(torch.int64)
    slots = torch.where((flat >= 0) & (flat < classes), flat, classes) + 1
    return slots if ignore is None else torch.where(flat == ignore, 0, slots)
