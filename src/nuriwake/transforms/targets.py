"""How a target follows the geometry of its image: one row per type of target."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.layering import layered, unlayered
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.transforms.warp import Warp


def warp_semantic(target: SemanticMap, warp: Warp) -> SemanticMap:
    """The very label under each pixel of the canvas; `IGNORE` where the source ends."""
    return replace(target, labels=warp.labels(target.labels), scores=None)


def warp_instances(target: Instances, warp: Warp) -> Instances:
    """Every mask as `warp_semantic` would have it, boxes anew about what is left; objects that left the canvas are dropped."""
    maps, layer = layered(target.masks)
    # Channels last, so that all layers go through one warp.
    moved = warp.labels(np.ascontiguousarray(np.moveaxis(maps, 0, -1)), fill=0) if len(maps) else None
    shown = np.zeros((0, *warp.size), np.int32) if moved is None else np.moveaxis(moved, -1, 0)
    return left_of(target, shown, layer)


def left_of(target: Instances, maps: np.ndarray, layer: np.ndarray, *, visible: float | np.ndarray = 0.0) -> Instances:
    """`target` with the masks that `maps` (L, H, W) now hold, see `layered`; stated areas and boxes no longer count.

    Objects of which no pixel, or less than the share `visible`, one for all or (N,), is left are dropped.
    """
    masks = unlayered(maps, layer)
    areas = masks.areas()
    there = (areas > 0) & (areas >= visible * target.masks.areas())
    return Instances(
        masks[there],
        target.labels[there],
        target.space,
        crowd=target.crowd[there],
        ids=None if target.ids is None else target.ids[there],
    )


def warp_panoptic(target: Panoptic, warp: Warp) -> Panoptic:
    """The very id under each pixel, 0 (void) where the source ends; segments that left the canvas are dropped."""
    ids = warp.labels(target.ids, fill=0)
    there = np.isin(target.segment_ids, ids)
    return Panoptic(ids, target.segment_ids[there], target.labels[there], target.space, crowd=target.crowd[there])


WARPED: Mapping[type, Callable[[Any, Warp], Any]] = {
    SemanticMap: warp_semantic,
    Instances: warp_instances,
    Panoptic: warp_panoptic,
}
"""Type of target -> function(target, warp) -> target of the warp's size. A new type of target joins by its row."""


def warp_target(target: Target, warp: Warp) -> Target:
    """`target` on the canvas of `warp`. Raises UserError when its type has no row in `WARPED`."""
    return row(WARPED, target, "Geometric augmentation")(target, warp)


def row(table: Mapping[type, Callable[..., Any]], target: Target, what: str) -> Callable[..., Any]:
    """The function for the type of `target`. Raises UserError that says `what` cannot be done with it."""
    if type(target) not in table:
        known = ", ".join(kind.__name__ for kind in table)
        raise UserError(f"{what} knows targets of the type {known}, found {type(target).__name__}.")
    return table[type(target)]
