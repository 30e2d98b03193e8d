"""Strips: a large volume of probabilities, rows by rows, resized on the way.

At 150 classes and 4000 x 6000 pixels the whole volume is 14 GB; a strip of at most `VALUES_AT_ONCE` is all that is ever
held of it at full size.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from nuriwake.core.targets import Size

VALUES_AT_ONCE = 2**26
"""Classes x rows x width of a strip: 256 MB of float32."""


def strip_rows(channels: int, size: Size) -> list[tuple[int, int]]:
    """[(first row, last row + 1)] of the strips of an image of `size`, each of at most
    `VALUES_AT_ONCE` values or one row."""
    step = max(1, VALUES_AT_ONCE // (channels * size[1]))
    return [(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def resized_strips(bands: Iterable[Tensor], before: Size, after: Size) -> Iterator[tuple[int, Tensor]]:
    """Bands of an image of size `before` -> strips of the same image at size `after`, bilinear, half-pixel centres.

    Args:
        bands: (C, rows, width) that follow each other from top to bottom and together have `before`.

    Yields:
        (first row, strip (C, rows, width of `after`)); the same rows for any `before`, so that several can be averaged.
    """
    source = _Rows(iter(bands))
    for top, end in strip_rows(source.channels, after):
        low, high, share = _taps(top, end, before[0], after[0], source.device)
        same = before[0] == after[0]
        first = int(low[0])
        rows = source.take(first, int(low[-1]) + 1 if same else int(high[-1]) + 1)
        if not same:
            rows = torch.lerp(rows[:, low - first], rows[:, high - first], share[:, None])
        if before[1] != after[1]:
            left, right, share = _taps(0, after[1], before[1], after[1], source.device)
            rows = torch.lerp(rows[:, :, left], rows[:, :, right], share)
        yield top, rows


class _Rows:
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


def _taps(start: int, stop: int, before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For the output positions start..stop-1 the two input positions and the share of the second."""
    position = (torch.arange(start, stop, device=device, dtype=torch.float64) + 0.5) * (before / after) - 0.5
    position.clamp_(0, before - 1)
    low = position.floor().long()
    return low, (low + 1).clamp_(max=before - 1), (position - low).float()
