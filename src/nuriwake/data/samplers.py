"""Which image comes at which position of an epoch, and which patch of it: functions of (seed, epoch, position) alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.geometry import take_window
from nuriwake.core.labels import IGNORE
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Size

ANYWHERE = -1


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
    """Which share of an epoch's patches is centred on chosen classes.

    Of every epoch exactly `round(share * draws)` positions have a focus: a class, each of `classes` equally often, then an
    image that holds it. Images without these classes are drawn at the other positions only.

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


class EpochSampler:
    """Draws of one epoch after the other; iterate once per epoch, after `set_epoch`.

    Args:
        count: how many images there are.
        seed: with the epoch it decides everything.
        shuffle: in random order; else 0, 1, 2, ...
        weights: (count,) how often to draw an image, relative to the others (with replacement); None: each once.
        focus: the plan for patches centred on classes.
        draws: per epoch, over all processes; by default `count`. More than `count` goes through the images again.
        rank, world: this process and how many there are: it takes the positions rank, rank + world, ...
        start: the first position (over all processes), for a resume in the middle of an epoch.
        tail: when `draws` is no multiple of `world`: "wrap" lengthens the epoch, "drop" shortens it, so that processes
            stay in step; "keep" gives every image exactly once, as evaluation needs.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        shuffle: bool,
        weights: Sequence[float] | np.ndarray | None = None,
        focus: FocusPlan | None = None,
        draws: int | None = None,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        tail: Literal["wrap", "drop", "keep"] = "wrap",
    ) -> None:
        if count < 1:
            raise UserError("There is no image to draw: the split is empty.")
        if not 0 <= rank < world:
            raise ValueError(f"rank lies in 0..{world - 1}, found {rank}")
        self.count, self.seed, self.shuffle, self.focus = count, seed, shuffle, focus
        self.rank, self.world, self.epoch = rank, world, 0
        self.weights = None if weights is None else _probabilities(np.asarray(weights, np.float64), count)
        self.draws = _length(count if draws is None else draws, world, tail)
        self.start = 0
        self.set_epoch(0, start)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """What the next iteration gives: `epoch`, from the position `start` (a multiple of `world`) on."""
        if start % self.world:
            raise ValueError(f"start counts over all processes and is a multiple of {self.world}, found {start}")
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Draws left for this process."""
        return len(range(self.start + self.rank, self.draws, self.world))

    def __iter__(self) -> Iterator[Draw]:
        order, focus = self._plan()
        for position in range(self.start + self.rank, self.draws, self.world):
            yield Draw(self.epoch, position, int(order[position]), int(focus[position]))

    def _plan(self) -> tuple[np.ndarray, np.ndarray]:
        """(image, focus) of every position of the epoch over all processes."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is not None:
            order = rng.choice(self.count, self.draws, p=self.weights)
        else:
            rounds = -(-self.draws // self.count)
            parts = [rng.permutation(self.count) if self.shuffle else np.arange(self.count) for _ in range(rounds)]
            order = np.concatenate(parts)[: self.draws]
        focus = np.full(self.draws, ANYWHERE)
        if self.focus is not None and self.focus.share > 0:
            self._add_focus(order, focus, self.focus, rng)
        return order, focus

    def _add_focus(self, order: np.ndarray, focus: np.ndarray, plan: FocusPlan, rng: np.random.Generator) -> None:
        chosen = rng.permutation(self.draws)[: round(plan.share * self.draws)]
        # Equally often, up to one: deal the classes round and round in a random order.
        classes = rng.permutation(plan.occurring)
        focus[chosen] = np.resize(classes, len(chosen))
        for label in classes.tolist():
            positions = chosen[focus[chosen] == label]
            order[positions] = rng.choice(np.flatnonzero(plan.present[:, label]), len(positions))


@dataclass(frozen=True)
class PatchSampler:
    """One patch of a sample: anywhere, or around a random pixel of the draw's class.

    Args:
        size: (height, width) of the patch. Where the image is smaller, the patch reaches beyond it: the image is
            reflected, the label map is `IGNORE` there.
    """

    size: Size

    def __call__(self, sample: Sample, rng: np.random.Generator, *, focus: int = ANYWHERE) -> Sample:
        """The patch; with `focus` it holds the chosen pixel, as near to its centre as the border of the image allows.

        Raises:
            UserError: `focus` does not occur in the sample, or the target is no label map.
        """
        if sample.target is not None and not isinstance(sample.target, SemanticMap):
            raise UserError(f"{sample.name}: patches are cut from label maps, found {type(sample.target).__name__}.")
        top, left = self._corner(sample, rng, focus)
        image = take_window(sample.image, top, left, self.size, None)
        target = sample.target
        if target is not None:
            target = SemanticMap(take_window(target.labels, top, left, self.size, IGNORE), target.space)
        return Sample(image, target, name=sample.name, source=sample.source, spacing=sample.spacing)

    def _corner(self, sample: Sample, rng: np.random.Generator, focus: int) -> tuple[int, int]:
        spare = [have - want for have, want in zip(sample.size, self.size, strict=True)]
        # An image smaller than the patch lies in its middle.
        if focus == ANYWHERE:
            top, left = (int(rng.integers(room + 1)) if room > 0 else room // 2 for room in spare)
            return top, left
        pixel = _random_pixel(sample, focus, rng)
        top, left = (
            min(max(at - want // 2, 0), room) if room > 0 else room // 2
            for at, want, room in zip(pixel, self.size, spare, strict=True)
        )
        return top, left


def _random_pixel(sample: Sample, label: int, rng: np.random.Generator) -> tuple[int, int]:
    target = sample.target
    if target is None:
        raise UserError(f"{sample.name}: a patch cannot be centred on a class without a mask.")
    mask = target.labels == label if target.space.exclusive else target.labels[..., label] == 1
    pixels = np.flatnonzero(mask)
    if len(pixels) == 0:
        raise UserError(f"{sample.name}: the class '{target.space.names[label]}' to centre on does not occur.")
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return row, column


def _probabilities(weights: np.ndarray, count: int) -> np.ndarray:
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise UserError(f"Image weights are {count} finite numbers, none below 0 and not all 0; found {weights.shape}.")
    return weights / weights.sum()


def _length(draws: int, world: int, tail: str) -> int:
    if tail == "keep":
        return draws
    whole = draws // world if tail == "drop" else -(-draws // world)
    return whole * world
