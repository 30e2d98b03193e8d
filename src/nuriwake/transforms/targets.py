"""How a target follows the geometry of its image: one row per type of target."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.transforms.warp import Warp


def warp_semantic(target: SemanticMap, warp: Warp) -> SemanticMap:
    """The very label under each pixel of the canvas; `IGNORE` where the source ends."""
    return replace(target, labels=warp.labels(target.labels), scores=None)


WARPED: Mapping[type, Callable[[Any, Warp], Any]] = {SemanticMap: warp_semantic}
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
