"""COCO's text form of run lengths: six bits a character, differences to the run before last, little end first."""

import numpy as np

from nuriwake.core.run_kernels import exact

_NEAR = 512
"""Differences from -512 to 511 take at most two characters."""


def _near_texts() -> np.ndarray:
    """The text of each difference from -_NEAR on, uint32: two characters, the first in the lowest byte, and above them how many count."""
    values = np.arange(-_NEAR, _NEAR)
    one = (values >= -16) & (values < 16)
    low, high = values & 0x1F, values >> 5 & 0x1F
    return ((np.where(one, low, low | 0x20) + 48) | (high + 48) << 8 | np.where(one, 1, 2) << 16).astype(np.uint32)


_NEAR_TEXTS = _near_texts()


@exact
def encode_text(counts: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The characters (uint8) of all masks one after the other, and where each mask's begin, int64 (N + 1,)."""
    out = np.empty(7 * counts.size + 1, np.uint8)  # a character more: two are written at once
    ends, used = np.zeros(offsets.size, np.int64), np.uint64(0)
    for n in range(offsets.size - 1):
        begin = offsets[n]
        for k in range(begin, offsets[n + 1]):
            value = np.int64(counts[k])
            if k - begin > 2:
                value -= np.int64(counts[k - 2])
            if -_NEAR <= value < _NEAR:  # almost always; how many characters it has is what a processor cannot guess
                text = _NEAR_TEXTS[value + _NEAR]
                out[used], out[used + np.uint64(1)] = text & 0xFF, text >> 8 & 0xFF
                used += np.uint64(text >> 16)
                continue
            more = True
            while more:
                code = value & 0x1F
                value >>= 5
                more = value != -1 if code & 0x10 else value != 0
                out[used] = (code | 0x20 if more else code) + 48
                used += np.uint64(1)
        ends[n + 1] = used
    return out[: np.int64(used)], ends


@exact
def decode_text(text: np.ndarray, out: np.ndarray) -> tuple[int, int]:
    """Writes the runs of one mask to `out` (at least as many as characters); returns their number and an error.

    The error is -1, or the index of the character that is none of COCO's 64, that ends the text in the middle of a number,
    or with which a run becomes negative or longer than 32 bits hold.
    """
    used, value, shift = 0, np.int64(0), 0
    for i in range(text.size):
        code = np.int64(text[i]) - 48
        if code < 0 or code > 63 or shift > 35:
            return used, i
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            if i == text.size - 1:
                return used, i
            continue
        if code & 0x10:
            value |= np.int64(-1) << shift
        if used > 2:
            value += np.int64(out[used - 2])
        if value < 0 or value > 0xFFFFFFFF:
            return used, i
        out[used] = value
        used, value, shift = used + 1, np.int64(0), 0
    return used, -1
