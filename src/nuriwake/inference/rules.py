"""PostprocessingRule: one step of cleaning a label map, as plain fields that travel in the bundle."""

from dataclasses import dataclass
from typing import Literal

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace

Operation = Literal["open", "close", "fill_holes", "drop_small", "keep_largest"]


@dataclass(frozen=True)
class PostprocessingRule:
    """One operation on the regions of some classes, at the full size of the image. `IGNORE` pixels never change.

    A region is a set of pixels of one class that hang together, by edges and corners (`connectivity` 8) or edges (4).

    - "open": erosion then dilation with a disc of `radius`; what is thinner goes, and becomes `removed`.
    - "close": dilation then erosion; gaps narrower than the disc are filled.
    - "fill_holes": holes of at most `area` pixels (0: of any area) become the class around them.
    - "drop_small": regions of fewer than `area` pixels go, and become `removed`.
    - "keep_largest": all but the largest region of each class go (of equal ones the first in reading order stays).

    Closing and filling respect other classes: where the space has a background (or is binary), only background is
    filled, so that an object inside another stays; where there is none, any class is, and "fill_holes" needs an `area`.
    A hole is a region that touches no edge of the image and has pixels of the one class, and of no other, all around.

    Args:
        operation: see above.
        classes: their names or labels, in the order of work; empty for every class but the background.
        area: in pixels.
        radius: in pixels.
        removed: what a removed region becomes: "surrounding", the class most common along its border, of equal ones the
            lowest label (regions that only touch others to be removed wait until those have a class; when nothing stays
            at all, nothing is removed); or "background", class 0. The second-best class of the network is not offered:
            it would need the whole volume of probabilities. In a multi-label space removed is 0 in either case.
        connectivity: of a region; holes hang together by the other one, as is usual.

    Raises:
        UserError: an `area` or `radius` that the operation needs is missing, or is negative.
    """

    operation: Operation
    classes: tuple[str | int, ...] = ()
    area: int = 0
    radius: int = 0
    removed: Literal["surrounding", "background"] = "surrounding"
    connectivity: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        needed = {"open": "radius", "close": "radius", "drop_small": "area"}.get(self.operation)
        if min(self.area, self.radius) < 0 or (needed is not None and getattr(self, needed) < 1):
            raise UserError(
                f"The post-processing rule '{self.operation}' needs {needed or 'an area'} of at least 1 pixel."
            )

    def labels(self, space: LabelSpace) -> tuple[int, ...]:
        """The labels this rule works on. Raises UserError when `space` lacks a class or the rule does not suit it."""
        if self.operation == "fill_holes" and self.area == 0 and space.exclusive and fillable(space) is None:
            raise UserError("The post-processing rule 'fill_holes' needs an area where no class is the background.")
        if self.removed == "background" and space.exclusive and fillable(space) is None:
            raise UserError("The post-processing rule removes to the background, but no class is the background.")
        if self.classes:
            return tuple(_label(item, space) for item in self.classes)
        return tuple(range(0 if fillable(space) is None else 1, len(space)))


def _label(item: str | int, space: LabelSpace) -> int:
    if isinstance(item, str):
        return space.index(item)
    if not 0 <= item < len(space):
        raise UserError(
            f"A post-processing rule names the class {item}; this label space has the labels 0 to {len(space) - 1}."
        )
    return item


def fillable(space: LabelSpace) -> int | None:
    """The label of the background, 0 in a binary space or one that names it; None where every class counts."""
    return 0 if space.exclusive and (space.binary or space.has_background) else None
