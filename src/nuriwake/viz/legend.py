"""Legends: coloured squares with names, in a corner of a picture or as a strip below it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuriwake.core.labels import Colour
from nuriwake.viz.fonts import draw_text, line_height, shorten, text_width

INK: Colour = (30, 30, 30)
PAPER: Colour = (255, 255, 255)

_SHARE = 0.6  # of the picture's height and width that a legend in its corner may cover
_SMALLEST = 10  # pixels; smaller text cannot be read


@dataclass(frozen=True)
class Entry:
    """One line of a legend. `colour` None is text alone; `weight` (pixels) says which entries stay when not all fit."""

    name: str
    colour: Colour | None
    weight: int = 0


def draw_legend(canvas: np.ndarray, entries: Sequence[Entry]) -> None:
    """Draw `entries` into the upper left corner of `canvas` (H, W, 3) uint8, in place.

    As many of the heaviest as fit into 60 % of the height, in the given order, then "+n" for the rest. A canvas too small for
    one line of 10-pixel text gets none.
    """
    height, width = canvas.shape[:2]
    size = int(np.clip(min(height, width) / 32, _SMALLEST, 48))
    line, pad = line_height(size), size // 2
    room = int((height * _SHARE - 2 * pad) // line)
    widest = int(width * _SHARE) - line - 3 * pad
    if room < 1 or widest < 2 * size or not entries:
        return
    lines = _heaviest(entries, room)
    texts = [shorten(entry.name, size, widest) for entry in lines]
    columns = max(text_width(text, size) for text in texts) + line + 2 * pad
    box = canvas[: 2 * pad + line * len(lines), :columns]
    box[...] = (box * 0.3).astype(np.uint8)
    for index, (entry, text) in enumerate(zip(lines, texts, strict=True)):
        top = pad + index * line
        left = pad if entry.colour is None else pad + line
        _square(canvas, top, pad, size, entry)
        draw_text(canvas, text, top=top, left=left, size=size, colour=PAPER)


def legend_strip(entries: Sequence[Entry], width: int, *, size: int = 14) -> np.ndarray:
    """`entries` in rows on white, uint8 RGB (h, width, 3), as high as it takes; h is 0 without entries."""
    line, gap = line_height(size) + 4, size
    places: list[tuple[int, int, str]] = []
    left, row = gap // 2, 0
    for entry in entries:
        text = shorten(entry.name, size, width - line - gap)
        needed = line + text_width(text, size) + gap
        if left + needed > width and left > gap // 2:
            left, row = gap // 2, row + 1
        places.append((row, left, text))
        left += needed
    strip = np.full(((row + 1) * line if entries else 0, width, 3), PAPER, np.uint8)
    for entry, (row, left, text) in zip(entries, places, strict=True):
        _square(strip, row * line + 2, left, size, entry)
        draw_text(strip, text, top=row * line + 2, left=left + line, size=size, colour=INK)
    return strip


def _heaviest(entries: Sequence[Entry], room: int) -> list[Entry]:
    if len(entries) <= room:
        return list(entries)
    order = sorted(range(len(entries)), key=lambda index: -entries[index].weight)
    kept = [entries[index] for index in sorted(order[: room - 1])]
    return [*kept, Entry(f"+{len(entries) - len(kept)}", None)]


def _square(canvas: np.ndarray, top: int, left: int, size: int, entry: Entry) -> None:
    if entry.colour is not None:
        canvas[top + 2 : top + size + 2, left : left + size] = 128  # a grey rim keeps black and white squares visible
        canvas[top + 3 : top + size + 1, left + 1 : left + size - 1] = entry.colour
