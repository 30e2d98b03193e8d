"""Strips: a large volume of probabilities, rows by rows, resized on the way.

At 150 classes and 4000 x 6000 pixels the whole volume is 14 GB; a strip of at most `VALUES_AT_ONCE` is all that is ever
held of it at full size.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.pixels import kernel
from nuriwake.core.targets import Size

VALUES_AT_ONCE = 2**26
"""Classes x rows x width of a strip: 256 MB of float32."""


def strip_rows(channels: int, size: Size, values: int | None = None) -> list[tuple[int, int]]:
    """[(first row, last row + 1)] of the strips of an image of `size`, each of at most `values` (`VALUES_AT_ONCE`) values or
    one row."""
    step = max(1, min(values or VALUES_AT_ONCE, VALUES_AT_ONCE) // (channels * size[1]))
    return [(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def resized_strips(
    bands: Iterable[Tensor], before: Size, after: Size, *, values: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Bands of an image of size `before` -> strips of the same image at size `after`, bilinear, half-pixel centres.

    Args:
        bands: float32 (C, rows, width) that follow each other from top to bottom and together have `before`.
        values: of a strip, where fewer than `VALUES_AT_ONCE` will do: what stays in the processor's cache is faster.

    Yields:
        (first row, strip (C, rows, width of `after`)); the same rows for any `before`, so that several can be averaged.
    """
    source = Rows(iter(bands))
    for top, end in strip_rows(source.channels, after, values):
        low, high, share = taps(top, end, before[0], after[0])
        if before[0] == after[0]:
            high = low
        first = int(low[0])
        rows = source.take(first, int(high[-1]) + 1)
        yield top, rows if before == after else _resized(rows, (low - first, high - first, share), before[1], after[1])


Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


def _resized(rows: Tensor, down: Taps, before: int, after: int) -> Tensor:
    """`rows` (C, h, `before`) at the taps `down` and at the width `after`."""
    across = taps(0, after, before, after)
    if rows.device.type == "cpu":
        # PyTorch picks values one by one for this and needs 20 times as long.
        out = torch.empty(rows.shape[0], len(down[0]), after)
        _interpolate(rows.contiguous().numpy(), *down, *across, out.numpy())
        return out
    low, high, share = (torch.from_numpy(part).to(rows.device) for part in down)
    rows = torch.lerp(rows[:, low], rows[:, high], share[:, None])
    if before != after:
        left, right, share = (torch.from_numpy(part).to(rows.device) for part in across)
        rows = torch.lerp(rows[:, :, left], rows[:, :, right], share)
    return rows


@kernel
def _interpolate(
    source: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    share: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    across: np.ndarray,
    out: np.ndarray,
) -> None:
    """out (C, R, W) = `source` (C, h, w) between its rows `low` and `high` and its columns `left` and `right`."""
    mixed = np.empty(source.shape[2], np.float32)
    for channel in range(out.shape[0]):
        for row in range(out.shape[1]):
            upper, lower, part = source[channel, low[row]], source[channel, high[row]], share[row]
            for x in range(mixed.size):
                mixed[x] = upper[x] + part * (lower[x] - upper[x])
            line = out[channel, row]
            for x in range(line.size):
                line[x] = mixed[left[x]] + across[x] * (mixed[right[x]] - mixed[left[x]])


class Rows:
    """Rows of bands on demand, ever further down; of earlier bands only what is still wanted is kept, as a copy."""

    def __init__(self, bands: Iterator[Tensor]) -> None:
        self._bands = bands
        # (first row, rows): copies of the ends of earlier bands, then the band of the moment.
        self._held = [(0, next(bands))]
        self.channels, self.device = self._held[0][1].shape[0], self._held[0][1].device

    def take(self, first: int, end: int) -> Tensor:
        """(C, end - first, W); neither `first` nor `end` ever goes back."""
        while (stop := self._held[-1][0] + self._held[-1][1].shape[1]) < end:
            start, band = self._held.pop()
            if stop > first:
                self._held.append((max(start, first), band[:, max(first - start, 0) :].clone()))
            self._held.append((stop, next(self._bands)))
        self._held = [(start, rows) for start, rows in self._held if start + rows.shape[1] > first]
        parts = [rows[:, max(first - start, 0) : end - start] for start, rows in self._held]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def taps(start: int, stop: int, before: int, after: int) -> Taps:
    """For the output positions start..stop-1, of `after` in all, the two of `before` input positions, int64, and the share of
    the second, float32."""
    position = ((np.arange(start, stop) + 0.5) * (before / after) - 0.5).clip(0, before - 1)
    low = np.floor(position).astype(np.int64)
    return low, np.minimum(low + 1, before - 1), (position - low).astype(np.float32)
