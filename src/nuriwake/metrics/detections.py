"""The detections of a data set with what each of them turned out to be: the state behind average precision."""

from collections.abc import Sequence

import numpy as np

from nuriwake.metrics.metric import Counts

_BASE = {"scores": np.float32, "labels": np.int32, "images": np.int64, "ranks": np.uint8}


class Detections:
    """A growing table, one row per detection, in the order of the images and within an image of falling score.

    Args:
        kinds: such as mask and box: each has two columns of bits, `<kind>_true` and `<kind>_false`.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        bits = (f"{kind}_{what}" for kind in kinds for what in ("true", "false"))
        self.types: dict[str, type[np.generic]] = {**_BASE, **dict.fromkeys(bits, np.int64)}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in self.types}

    def add(self, rows: Counts) -> None:
        """Append `rows`: arrays (D,) under the names of the columns."""
        for name, kind in self.types.items():
            self._parts[name].append(rows[name].astype(kind, copy=False))

    def columns(self) -> dict[str, np.ndarray]:
        """All rows."""
        for name, parts in self._parts.items():
            if len(parts) != 1:
                self._parts[name] = [np.concatenate([np.zeros(0, self.types[name]), *parts])]
        return {name: parts[0] for name, parts in self._parts.items()}

    def by_score(self) -> dict[str, np.ndarray]:
        """All rows by falling score; equal scores keep the order of the table."""
        columns = self.columns()
        order = np.argsort(-columns["scores"], kind="stable")
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
