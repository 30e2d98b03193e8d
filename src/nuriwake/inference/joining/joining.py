"""The table: type of the tiles' answers -> how they are joined."""

from collections.abc import Iterable
from typing import Any, Protocol

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.inference.joining.layout import Layout
from nuriwake.inference.joining.maps import MapJoiner, SegmentJoiner
from nuriwake.inference.joining.objects import ObjectJoiner


class Joiner(Protocol):
    """Takes the answers of the tiles one by one, in the order of the layout, and keeps of each what it needs."""

    def __init__(self, layout: Layout, space: LabelSpace) -> None: ...

    def add(self, answer: Any) -> None:
        """The answer of the next tile, of the size of what it shows."""
        ...

    def result(self) -> Target:
        """The answer for the image, after the last tile."""
        ...


JOINERS: dict[type, type[Joiner]] = {
    SemanticMap: MapJoiner,
    Instances: ObjectJoiner,
    Panoptic: SegmentJoiner,
}


def join_tiles(answers: Iterable[Target], layout: Layout) -> Target:
    """The answers of the tiles of `layout`, in its order and at least one, as one of the same type."""
    joiner: Joiner | None = None
    for answer in answers:
        if joiner is None:
            joiner = JOINERS[type(answer)](layout, answer.space)
        joiner.add(answer)
    assert joiner is not None
    return joiner.result()
