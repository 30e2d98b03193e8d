"""What annotation tools write for the outline of an object, as run lengths: polygons, and COCO's run lengths of either form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import Size


def read_segmentations(items: Sequence[Any], size: Size, who: Callable[[int], str]) -> RunMasks:
    """One mask per item: a list of polygons (flat lists of x and y), or {"size", "counts"} as text or list of numbers.

    Polygons that cross themselves or leave the image in part are filled and cut off as COCO does.

    Args:
        who: number of the item -> file and object, for messages.

    Raises:
        UserError: fewer than three points, polygons wholly outside the image, run lengths of another size or that do not
            cover it, something else than these.
    """
    outlined = [i for i, item in enumerate(items) if not isinstance(item, Mapping)]
    coded = [i for i, item in enumerate(items) if isinstance(item, Mapping)]
    parts: list[RunMasks] = []
    if outlined:
        parts.append(_each([items[i] for i in outlined], size, lambda i: who(outlined[i]), _polygons))
    if coded:
        parts.append(_each([items[i] for i in coded], size, lambda i: who(coded[i]), RunMasks.from_coco))
    if not parts:
        return RunMasks.empty(size)
    masks = RunMasks.concatenate(parts)
    return masks if not outlined or not coded else masks[np.argsort(outlined + coded)]


def _each(
    items: Sequence[Any], size: Size, who: Callable[[int], str], read: Callable[[Sequence[Any], Size], RunMasks]
) -> RunMasks:
    try:
        return read(items, size)
    except UserError:
        for i, item in enumerate(items):  # which one it was: only now is it worth the time
            try:
                read([item], size)
            except UserError as error:
                text = str(error).removeprefix("object 0, ").removeprefix("object 0: ").replace("Mask 0", "the mask")
                raise UserError(f"{who(i)}: segmentation: {text}") from error
        raise


def _polygons(items: Sequence[Any], size: Size) -> RunMasks:
    for item in items:
        if not isinstance(item, Sequence) or isinstance(item, str | bytes):
            raise UserError(f"expected a list of polygons, found {item!r:.60}.")
    masks = RunMasks.from_polygons(items, size)
    for index in np.flatnonzero(masks.areas() == 0).tolist():
        _refuse_outside(items[index], size)
    return masks


def _refuse_outside(polygons: Sequence[Sequence[float]], size: Size) -> None:
    """An empty mask may be a speck, which is fine; one whose outline lies beside the image is a mistake."""
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise UserError(
            f"the polygons lie outside the image: x {left:g} to {right:g}, y {top:g} to {bottom:g}, but it is {size[1]} wide and "
            f"{size[0]} high; was it resized, or are x and y swapped?"
        )
