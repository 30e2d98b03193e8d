"""What the formats of annotation tools share: shapes per image, as polygons of named classes, become `Instances`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Size
from nuriwake.data.segmentation import read_segmentations


class Shape(NamedTuple):
    """One object: its label, and its polygons, flat x and y in pixels (or COCO run lengths)."""

    label: int
    segmentation: object


def instances_of(shapes: Sequence[Shape], size: Size, space: LabelSpace, where: str) -> Instances:
    """The objects of one image. Raises UserError with `where` and the number of the shape, from 1."""
    masks = read_segmentations([shape.segmentation for shape in shapes], size, lambda i: f"{where}: shape {i + 1}")
    return Instances(masks, np.array([shape.label for shape in shapes], np.int32), space)


def object_space(names: Sequence[str], where: str) -> LabelSpace:
    """Things of these names. Raises UserError, with `where`, for what a label space refuses, and for a background."""
    try:
        space = LabelSpace(tuple(names), (True,) * len(names))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if space.has_background:
        raise UserError(
            f"{where}: the class 0 is '{names[0]}', but objects have no background class; rename it or leave it out."
        )
    return space


def loss_notes(losses: Sequence[float], what: str) -> list[str]:
    """What outlines lost, as a sentence; nothing where they lost nothing."""
    lost = [loss for loss in losses if loss < 1]
    if not lost:
        return []
    return [
        f"{len(lost)} of {len(losses)} {what} lose something as outlines: IoU with the mask {np.mean(losses):.4f} on average, "
        f"{min(lost):.4f} at worst."
    ]
