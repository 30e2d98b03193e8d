"""Mixing: pixels of other samples, with their labels. Done after the geometry, so that all samples have one size.

What is taken from another sample is the same window of its own augmented crop: every crop is random already, so nothing is
resized once more.

Nothing is moved either, and the pixel that a patch is to show, its focus, is left alone, and so are its eight neighbours: a rare
class that is looked for and then painted over would be as rare as before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.layering import layered
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Size
from nuriwake.transforms.targets import left_of, row

Window = tuple[slice, slice]
"""Rows and columns."""

Pixel = tuple[int, int]
"""(y, x)."""


class Mixing(Protocol):
    """One mixing operation: a frozen dataclass of plain fields."""

    @property
    def name(self) -> str:
        """What a configuration calls it."""
        ...

    @property
    def probability(self) -> float:
        """How often it happens, 0..1."""
        ...

    def mix(
        self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator, *, focus: Pixel | None = None
    ) -> Sample:
        """`sample` with parts of others; `other` gives another sample of the same size at every call.

        `focus`: the pixel of the sample that the result must show with its neighbours, at the same place; None for none.
        """
        ...


@dataclass(frozen=True)
class CutMix:
    """A rectangle of a second sample, image and labels, over this one (Yun et al. 2019; for segmentation French et al. 2020).

    Beside a focus it lies anywhere where it does not cover it. A rectangle that would cover it everywhere gets another shape of the
    same area, so that the areas stay as they are; one of half the sample or more is cut to what there is room for.

    Args:
        area: of the rectangle as a share of the sample, uniform; it has the sample's shape and lies anywhere inside.
    """

    area: tuple[float, float] = (0.1, 0.5)
    probability: float = 0.5
    name: Literal["cut_mix"] = field(default="cut_mix", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(
                f"cut_mix.area: expected two shares above 0 and at most 1, the lower first, found {self.area[0]} and {self.area[1]}."
            )

    def mix(
        self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator, *, focus: Pixel | None = None
    ) -> Sample:
        """See `Mixing`."""
        side = rng.uniform(*self.area) ** 0.5
        height, width = (max(1, round(length * side)) for length in sample.size)
        draw = _anywhere if focus is None else partial(_beside, _around(focus, sample.size))
        return _composed(sample, [(draw(sample.size, (height, width), rng), other())])


@dataclass(frozen=True)
class Mosaic:
    """Four samples in four quarters about a random point (YOLOv4, Bochkovskiy et al. 2020); this one keeps the upper left, or
    the quarter that its focus lies in; where the quarters would part the focus from its neighbours, they meet beside them.

    Args:
        centre: where the point lies, as a share of height and of width, uniform.
    """

    centre: tuple[float, float] = (0.3, 0.7)
    probability: float = 0.5
    name: Literal["mosaic"] = field(default="mosaic", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.centre[0] <= self.centre[1] < 1:
            raise UserError(
                f"mosaic.centre: expected two shares between 0 and 1, the lower first, found {self.centre[0]} and {self.centre[1]}."
            )

    def mix(
        self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator, *, focus: Pixel | None = None
    ) -> Sample:
        """See `Mixing`."""
        row_, column = (round(length * rng.uniform(*self.centre)) for length in sample.size)
        own = (0, 0)
        if focus is not None:
            kept = _around(focus, sample.size)
            row_, column = _not_through(kept[0], row_), _not_through(kept[1], column)
            own = int(focus[0] >= row_), int(focus[1] >= column)
        rows, columns = (slice(0, row_), slice(row_, None)), (slice(0, column), slice(column, None))
        quarters = [quarter for quarter in ((0, 0), (0, 1), (1, 0), (1, 1)) if quarter != own]
        return _composed(sample, [((rows[down], columns[right]), other()) for down, right in quarters])


@dataclass(frozen=True)
class CopyPaste:
    """Objects of a second sample over this one (Ghiasi et al. 2021, Simple copy-paste, arXiv:2012.07177, section 3).

    A random subset of them is pasted where it stands; what it hides of the objects below is taken from their masks, and those
    of which less than `visible` is left are dropped. Crowd regions are not pasted, nor objects that would cover a focus; what lies
    at the focus is never dropped. For targets with objects alone.

    Args:
        share: of the second sample's objects that are pasted, uniform.
        visible: share of an object's pixels that must stay visible.
    """

    share: tuple[float, float] = (0.0, 1.0)
    visible: float = 0.1
    probability: float = 0.5
    name: Literal["copy_paste"] = field(default="copy_paste", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise UserError(
                f"copy_paste.share: expected two shares from 0 to 1, the lower first, found {self.share[0]} and {self.share[1]}."
            )
        if not 0 <= self.visible < 1:
            raise UserError(f"copy_paste.visible: expected 0 or more and less than 1, found {self.visible}.")

    def mix(
        self, sample: Sample, other: Callable[[], Sample], rng: np.random.Generator, *, focus: Pixel | None = None
    ) -> Sample:
        """See `Mixing`."""
        second = other()
        _check(sample, second.size, second)
        below, above = sample.target, second.target
        if not (isinstance(below, Instances) and isinstance(above, Instances)):
            raise UserError(
                f"copy_paste needs the masks of objects, found {type(below).__name__}; use it for instance segmentation, or "
                "cut_mix and mosaic otherwise."
            )
        drawn = rng.random(len(above)) < rng.uniform(*self.share)
        chosen = above[drawn & ~above.crowd & ~_holding(above, focus)]
        if not len(chosen):
            return sample
        over = chosen.masks.merge().dense()[0].astype(bool)
        image = np.where(over[..., None], second.image, sample.image)
        left = _within(below, ~over, visible=np.where(_holding(below, focus), 0.0, self.visible))
        return replace(sample, image=image, target=joined_instances([left, chosen]))


MixingOperation = CutMix | Mosaic | CopyPaste
"""Those of this file; what a configuration may name."""


def _anywhere(size: Size, part: Size, rng: np.random.Generator) -> Window:
    """Of the size `part`, inside a sample of `size`."""
    top, left = (int(rng.integers(whole - side + 1)) for whole, side in zip(size, part, strict=True))
    return _window(top, left, part)


def _around(focus: Pixel, size: Size) -> Window:
    """The focus and its neighbours inside a sample of `size`.

    A label is read at the centre of its pixel, so that in a smaller image the class at the focus may show in a neighbour alone.
    """
    rows, columns = (slice(max(at - 1, 0), min(at + 2, whole)) for at, whole in zip(focus, size, strict=True))
    return rows, columns


def _beside(kept: Window, size: Size, part: Size, rng: np.random.Generator) -> Window:
    """As `_anywhere`, and without any of `kept`: all places equally likely; in the shape of `_fitting`."""
    part = _fitting(kept, size, part, rng)
    free = np.ones([whole - side + 1 for whole, side in zip(size, part, strict=True)], np.bool_)
    free[tuple(slice(max(at.start - side + 1, 0), at.stop) for at, side in zip(kept, part, strict=True))] = False
    places = np.flatnonzero(free)
    top, left = divmod(int(places[rng.integers(len(places))]), free.shape[1])
    return _window(top, left, part)


def _fitting(kept: Window, size: Size, part: Size, rng: np.random.Generator) -> Size:
    """`part`, or where it has no room beside `kept`, the same area as far as there is room, one side being all the room."""
    room = [max(at.start, whole - at.stop) for at, whole in zip(kept, size, strict=True)]
    if part[0] <= room[0] or part[1] <= room[1]:
        return part
    area, most = part[0] * part[1], [room[0] * size[1], room[1] * size[0]]
    fits = [axis for axis in (0, 1) if most[axis] >= area] or [int(np.argmax(most))]
    axis = fits[int(rng.integers(len(fits)))]
    across = min(size[1 - axis], round(area / max(room[axis], 1)))
    return (room[0], across) if axis == 0 else (across, room[1])


def _not_through(kept: slice, cut: int) -> int:
    """`cut`, or where it parts `kept`, the nearer end of that."""
    parted = kept.start < cut < kept.stop
    return min((kept.start, kept.stop), key=lambda end: abs(end - cut)) if parted else cut


def _window(top: int, left: int, size: Size) -> Window:
    return slice(top, top + size[0]), slice(left, left + size[1])


def _holding(target: Instances, focus: Pixel | None) -> np.ndarray:
    """bool (N,): the objects at `focus` or beside it."""
    if focus is None:
        return np.zeros(len(target), np.bool_)
    rows, columns = _around(focus, target.size)
    shown = target.masks.window(rows.start, columns.start, (rows.stop - rows.start, columns.stop - columns.start))
    return shown.areas() > 0


def mix_semantic(target: SemanticMap, parts: Sequence[tuple[Window, SemanticMap]]) -> SemanticMap:
    """`target` with the windows of others in it. Raises UserError when label spaces differ."""
    labels = target.labels.copy()
    for window, part in parts:
        if part.space != target.space:
            raise UserError("Samples can only be mixed when they have the same classes.")
        labels[window] = part.labels[window]
    return replace(target, labels=labels, scores=None)


def mix_instances(target: Instances, parts: Sequence[tuple[Window, Instances]]) -> Instances:
    """Each object keeps what lies in the window that shows its image. Raises UserError when label spaces differ."""
    shown = np.zeros(target.size, np.int16)  # which image each pixel comes from
    for number, (window, _) in enumerate(parts, 1):
        shown[window] = number
    found = [_within(source, shown == number) for number, source in enumerate([target, *(part for _, part in parts)])]
    return joined_instances(found)


def _within(target: Instances, where: np.ndarray, *, visible: float | np.ndarray = 0.0) -> Instances:
    maps, layer = layered(target.masks)
    return left_of(target, maps * where, layer, visible=visible)


def joined_instances(parts: Sequence[Instances]) -> Instances:
    """The objects of all `parts`, of one size, in their order. Raises UserError when label spaces differ."""
    if any(part.space != parts[0].space for part in parts):
        raise UserError("Samples can only be mixed when they have the same classes.")
    return Instances(
        RunMasks.concatenate([part.masks for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].space,
        crowd=np.concatenate([part.crowd for part in parts]),
    )


def mix_panoptic(target: Panoptic, parts: Sequence[tuple[Window, Panoptic]]) -> Panoptic:
    """Segments of others get fresh ids; the same stuff from several images becomes one segment. Raises UserError when label
    spaces differ."""
    ids, segment_ids, labels, crowd = target.ids.copy(), [target.segment_ids], [target.labels], [target.crowd]
    for window, part in parts:
        if part.space != target.space:
            raise UserError("Samples can only be mixed when they have the same classes.")
        first = int(max((int(found.max(initial=0)) for found in segment_ids), default=0))
        there = part.ids[window]
        ids[window] = np.where(there > 0, there + first, 0)
        segment_ids.append(part.segment_ids + first)
        labels.append(part.labels)
        crowd.append(part.crowd)
    return _merge_stuff(ids, np.concatenate(segment_ids), np.concatenate(labels), np.concatenate(crowd), target.space)


def _merge_stuff(
    ids: np.ndarray, segment_ids: np.ndarray, labels: np.ndarray, crowd: np.ndarray, space: LabelSpace
) -> Panoptic:
    """Panoptic truth has each stuff class once per image; ids that no pixel bears are dropped."""
    first: dict[int, int] = {}
    for segment, label in zip(segment_ids.tolist(), labels.tolist(), strict=True):
        if not space.things[label]:
            ids[ids == segment] = first.setdefault(label, segment)
    there = np.isin(segment_ids, ids)
    return Panoptic(ids, segment_ids[there], labels[there], space, crowd=crowd[there])


MIXED: Mapping[type, Callable[[Any, Sequence[tuple[Window, Any]]], Any]] = {
    SemanticMap: mix_semantic,
    Instances: mix_instances,
    Panoptic: mix_panoptic,
}
"""Type of target -> function(target, [(window, other target)]) -> target."""


def _composed(sample: Sample, parts: Sequence[tuple[Window, Sample]]) -> Sample:
    target = sample.target
    if target is None or any(part.target is None for _, part in parts):
        raise UserError(f"'{sample.name}' cannot be mixed: a sample has no mask.")
    image = sample.image.copy()
    for window, part in parts:
        _check(sample, part.size, part)
        image[window] = part.image[window]
    mixed = row(MIXED, target, "Mixing")(target, [(window, part.target) for window, part in parts])
    return replace(sample, image=image, target=mixed)


def _check(sample: Sample, size: Size, part: Sample) -> None:
    if size != sample.size or part.image.shape != sample.image.shape or part.image.dtype != sample.image.dtype:
        raise UserError(
            f"'{sample.name}' {sample.image.shape} {sample.image.dtype} and '{part.name}' {part.image.shape} "
            f"{part.image.dtype} cannot be mixed: shape (height, width, channels) and type must be equal."
        )
