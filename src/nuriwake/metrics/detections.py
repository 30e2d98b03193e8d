"""The detections of a data set with what each of them turned out to be: the state behind average precision."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from nuriwake.metrics.metric import Counts

_BASE = {"scores": "f4", "labels": "i4", "images": "i8", "ranks": "u1"}

_FIRST_ROOM = 1024


class Detections:
    """A growing table, one row per detection, in the order of the images and within an image of falling score.

    Args:
        kinds: such as mask and box: each has two columns of bits, `<kind>_true` and `<kind>_false`.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        bits = (f"{kind}_{what}" for kind in kinds for what in ("true", "false"))
        self.types = {name: np.dtype(kind) for name, kind in (_BASE | dict.fromkeys(bits, "i8")).items()}
        self._columns = {name: np.empty(0, kind) for name, kind in self.types.items()}
        self._room = 0
        self.rows = 0

    def reserve(self, count: int) -> dict[str, np.ndarray]:
        """The columns from the first free row on, at least `count` rows, to be written to; `keep` says how many were."""
        needed = self.rows + count
        if needed > self._room:
            # Twice the room each time, so that a row is moved about once however many there will be.
            self._room = max(needed, 2 * self._room, _FIRST_ROOM)
            for name, column in self._columns.items():
                self._columns[name] = np.empty(self._room, column.dtype)
                self._columns[name][: self.rows] = column[: self.rows]
        return {name: column[self.rows : needed] for name, column in self._columns.items()}

    def keep(self, count: int) -> None:
        """The first `count` of the rows reserved last have been written."""
        self.rows += count

    def columns(self, first: int = 0) -> dict[str, np.ndarray]:
        """All rows from `first` on."""
        return {name: column[first : self.rows] for name, column in self._columns.items()}

    def load_interleaved(self, states: Sequence[Counts], images: Sequence[int]) -> None:
        """Take the rows of several tables, an image of each in turn, as images are dealt to processes.

        Args:
            states: `columns()` of each.
            images: how many images each has seen.
        """
        numbers = [_turns(state["images"], index, images) for index, state in enumerate(states)]
        together = np.concatenate(numbers)
        order = np.argsort(together, kind="stable")
        for name in self.types:
            rows = together if name == "images" else np.concatenate([state[name] for state in states])
            self._columns[name] = rows[order].astype(self.types[name], copy=False)
        self.rows = self._room = len(order)


@njit(cache=True, nogil=True)
def by_falling_score(scores: np.ndarray) -> np.ndarray:
    """The order of `scores` (D,) float32, none negative, from the highest to the lowest; equal ones keep theirs.

    Such numbers are ordered as their bits are, so they are sorted by counting, eleven bits at a time.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    places = np.zeros((3, 2048), np.int64)
    # The inverted bits of the score, and below them its number.
    one, other = np.empty(scores.size, np.uint64), np.empty(scores.size, np.uint64)
    for d in range(scores.size):
        one[d] = np.uint64(~bits[d]) << np.uint64(32) | np.uint64(d)
        for digit in range(3):
            places[digit, _digit(one[d], digit)] += 1
    for digit in range(3):
        before = 0
        for value in range(2048):
            here = places[digit, value]
            places[digit, value] = before
            before += here
        for d in range(scores.size):
            value = _digit(one[d], digit)
            other[places[digit, value]] = one[d]
            places[digit, value] += 1
        one, other = other, one
    return (one & np.uint64(0xFFFFFFFF)).astype(np.int64)


@njit(cache=True, nogil=True, inline="always")
def _digit(key: Any, digit: Any) -> Any:
    return key >> np.uint64(32 + 11 * digit) & np.uint64(2047)


def _turns(images: np.ndarray, index: int, counts: Sequence[int]) -> np.ndarray:
    """The numbers that image `images` (D,) of table `index` has after all tables took turns; `counts` images are in each."""
    before = np.zeros_like(images)
    for other, count in enumerate(counts):
        before += np.minimum(images + (other < index), count)
    return before
