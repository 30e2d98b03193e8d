"""The detections of a data set with what each of them turned out to be: the state behind average precision."""

from collections.abc import Sequence

import numpy as np

from nuriwake.metrics.metric import Counts

_BASE = {"scores": "f4", "labels": "i4", "images": "i8", "ranks": "u1"}


class Detections:
    """A growing table, one row per detection, in the order of the images and within an image of falling score.

    Args:
        kinds: such as mask and box: each has two columns of bits, `<kind>_true` and `<kind>_false`.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        bits = (f"{kind}_{what}" for kind in kinds for what in ("true", "false"))
        self.types = {name: np.dtype(kind) for name, kind in (_BASE | dict.fromkeys(bits, "i8")).items()}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in self.types}

    def add(self, rows: Counts) -> None:
        """Append `rows`: arrays (D,) under the names of the columns."""
        for name, kind in self.types.items():
            row = rows[name]
            self._parts[name].append(row if row.dtype == kind else row.astype(kind))

    def columns(self) -> dict[str, np.ndarray]:
        """All rows."""
        for name, parts in self._parts.items():
            if len(parts) != 1:
                self._parts[name] = [np.concatenate([np.zeros(0, self.types[name]), *parts])]
        return {name: parts[0] for name, parts in self._parts.items()}

    def by_score(self) -> dict[str, np.ndarray]:
        """All rows by falling score; equal scores keep the order of the table."""
        columns = self.columns()
        order = _falling(columns["scores"])
        return {name: column[order] for name, column in columns.items()}

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
            self._parts[name] = [rows[order].astype(self.types[name], copy=False)]


def _turns(images: np.ndarray, index: int, counts: Sequence[int]) -> np.ndarray:
    """The numbers that image `images` (D,) of table `index` has after all tables took turns; `counts` images are in each."""
    before = np.zeros_like(images)
    for other, count in enumerate(counts):
        before += np.minimum(images + (other < index), count)
    return before


def _falling(scores: np.ndarray) -> np.ndarray:
    """The order of `scores` (D,) float32, none negative, from the highest to the lowest; equal ones keep theirs.

    Such numbers are ordered as their bits are, and NumPy sorts 16 bits at a time by counting, several times as fast as floats.
    """
    bits = ~(scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return order[np.argsort((bits >> 16).astype(np.uint16)[order], kind="stable")]
