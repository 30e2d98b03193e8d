"""Which image comes at which position of an epoch, and which patch of it: functions of (seed, epoch, position) alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap

ANYWHERE = -1
_BAND = 256  # rows of a map that are looked at at a time


class Draw(NamedTuple):
    """Image `index` at `position` of `epoch`; `focus` is the class its patch is centred on, or `ANYWHERE`.

    `position` counts over all processes, so that augmentation does not depend on their number.
    """

    epoch: int
    position: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    focus: int = ANYWHERE


@dataclass(frozen=True, eq=False)
class FocusPlan:
    """Which share of the patches is centred on chosen classes.

    Of the draws of the first epochs together, however many, the share has a focus, to the nearest whole number; two epochs
    differ by one draw at most. A focus is a class, in an epoch each of `classes` equally often, then an image that holds it.
    Images without these classes are drawn at the other positions only.

    Args:
        present: (N, K) bool: class k occurs in image n.
        share: 0..1.
        classes: labels to centre on; those that occur nowhere are left out.

    Raises:
        UserError: `share` outside 0..1, or none of the classes occurs anywhere.
    """

    present: np.ndarray
    share: float
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of patches on rare classes lies in 0..1, found {self.share}.")
        if self.share > 0 and not self.occurring:
            raise UserError(
                "Patches cannot be centred on classes that occur in no image; set the share to 0 or choose other classes."
            )

    @property
    def occurring(self) -> tuple[int, ...]:
        """The classes that some image holds."""
        return tuple(label for label in self.classes if bool(self.present[:, label].any()))

    def positions(self, epoch: int, draws: int) -> int:
        """How many of the `draws` of `epoch` have a focus."""
        # Rounded in every epoch alone, half of one image would be none in all of them. The fraction is the number that was
        # meant: 0.3 * 10 is 3, which the nearest float of 0.3 falls short of.
        each = Fraction(float(self.share)).limit_denominator(10**9) * draws
        return floor((epoch + 1) * each + Fraction(1, 2)) - floor(epoch * each + Fraction(1, 2))


class EpochSampler:
    """The draws of any epoch: every image once in random order, or with replacement by weight.

    Args:
        count: how many images there are, and draws per epoch.
        seed: with the epoch it decides everything.
        weights: (count,) how often to draw an image, relative to the others (with replacement); None: each once.
        focus: the plan for patches centred on classes.

    Raises:
        UserError: no images, or weights that are not finite, below 0 or all 0.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        weights: Sequence[float] | np.ndarray | None = None,
        focus: FocusPlan | None = None,
    ) -> None:
        if count < 1:
            raise UserError("There is no image to draw: the split is empty.")
        self.count, self.seed, self.focus = count, seed, focus
        self.weights = None if weights is None else _probabilities(np.asarray(weights, np.float64), count)

    def draws(self, epoch: int, *, start: int = 0) -> Iterator[Draw]:
        """The draws of `epoch` from the position `start` on."""
        order, focus = self._plan(epoch)
        for position in range(start, self.count):
            yield Draw(epoch, position, int(order[position]), int(focus[position]))

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(image, focus) of every position."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.weights is None:
            order = rng.permutation(self.count)
        else:
            order = rng.choice(self.count, self.count, p=self.weights)
        focus = np.full(self.count, ANYWHERE)
        if self.focus is not None and self.focus.share > 0:
            chosen = rng.permutation(self.count)[: self.focus.positions(epoch, self.count)]
            _add_focus(order, focus, chosen, plan=self.focus, rng=rng)
        return order, focus


def random_pixel(sample: Sample, label: int, rng: np.random.Generator) -> tuple[int, int]:
    """(y, x) of a random pixel of the class `label`.

    Raises:
        UserError: no mask, or the class does not occur in it.
    """
    target = sample.target
    if target is None:
        raise UserError(f"{sample.name}: a patch cannot be centred on a class without a mask.")
    place = _instance_pixel(target, label, rng) if isinstance(target, Instances) else _map_pixel(target, label, rng)
    if place is None:
        raise UserError(f"{sample.name}: the class '{target.space.names[label]}' to centre on does not occur.")
    return place


def _map_pixel(target: SemanticMap | Panoptic, label: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of the class, each equally often. By the counts of rows: a list of its pixels would take eight times the map."""
    bands = [slice(top, top + _BAND) for top in range(0, target.size[0], _BAND)]
    ends = np.cumsum(np.concatenate([_shown(target, label, rows).sum(axis=1) for rows in bands]))
    if ends[-1] == 0:
        return None
    pixel = int(rng.integers(ends[-1]))
    row = int(np.searchsorted(ends, pixel, side="right"))
    columns = np.flatnonzero(_shown(target, label, slice(row, row + 1)))
    return row, int(columns[pixel - ends[row]])  # the row's pixels end at ends[row]: counted from behind


def _shown(target: SemanticMap | Panoptic, label: int, rows: slice) -> np.ndarray:
    """bool (h, W): where these `rows` show the class."""
    if isinstance(target, Panoptic):
        return np.isin(target.ids[rows], target.segment_ids[target.labels == label])
    return target.labels[rows] == label if target.space.exclusive else target.labels[rows, :, label] == 1


def _instance_pixel(target: Instances, label: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """A pixel of an object, each object equally often: small ones are not lost beside large ones."""
    areas = target.masks.areas()
    objects = np.flatnonzero((target.labels == label) & (areas > 0) & ~target.crowd)
    if len(objects) == 0:
        return None
    chosen = int(objects[rng.integers(len(objects))])
    begin, end = target.masks.offsets[chosen : chosen + 2]
    runs = target.masks.counts[begin:end].astype(np.int64)
    ends = np.cumsum(runs)
    inside = np.cumsum(runs[1::2])
    pixel = int(rng.integers(areas[chosen]))
    run = int(np.searchsorted(inside, pixel, side="right"))
    position = int(ends[2 * run] + pixel - (inside[run - 1] if run else 0))
    column, row = divmod(position, target.size[0])
    return row, column


def _add_focus(
    order: np.ndarray, focus: np.ndarray, chosen: np.ndarray, *, plan: FocusPlan, rng: np.random.Generator
) -> None:
    """Gives the `chosen` positions a focus, and an image that holds it."""
    # Equally often, up to one: deal the classes round and round in a random order.
    classes = rng.permutation(plan.occurring)
    focus[chosen] = np.resize(classes, len(chosen))
    for label in classes.tolist():
        positions = chosen[focus[chosen] == label]
        order[positions] = rng.choice(np.flatnonzero(plan.present[:, label]), len(positions))


def _probabilities(weights: np.ndarray, count: int) -> np.ndarray:
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise UserError(f"Image weights are {count} finite numbers, none below 0 and not all 0; found {weights.shape}.")
    return weights / weights.sum()
