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
    stream = iter(bands)
    held = next(stream)
    first = 0
    for top, end in strip_rows(held.shape[0], after):
        low, high, share = _taps(top, end, before[0], after[0], held.device)
        need_first, need_end = int(low[0]), int(low[-1]) + 1 if before[0] == after[0] else int(high[-1]) + 1
        while first + held.shape[1] < need_end:
            drop = min(need_first - first, held.shape[1])
            held, first = torch.cat((held[:, drop:], next(stream)), dim=1), first + drop
        rows = held[:, need_first - first : need_end - first]
        if before[0] != after[0]:
            rows = torch.lerp(rows[:, low - need_first], rows[:, high - need_first], share[:, None])
        if before[1] != after[1]:
            left, right, share = _taps(0, after[1], before[1], after[1], held.device)
            rows = torch.lerp(rows[:, :, left], rows[:, :, right], share)
        yield top, rows


def _taps(start: int, stop: int, before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For the output positions start..stop-1 the two input positions and the share of the second."""
    position = (torch.arange(start, stop, device=device, dtype=torch.float64) + 0.5) * (before / after) - 0.5
    position.clamp_(0, before - 1)
    low = position.floor().long()
    return low, (low + 1).clamp_(max=before - 1), (position - low).float()
