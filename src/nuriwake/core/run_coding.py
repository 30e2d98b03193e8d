"""COCO's text form of run lengths: six bits a character, differences to the run before last, little end first."""

import numpy as np

from nuriwake.core.run_kernels import exact


@exact
def encode_text(counts: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The characters (uint8) of all masks one after the other, and where each mask's begin, int64 (N + 1,)."""
    out = np.empty(7 * counts.size, np.uint8)
    ends, used = np.zeros(offsets.size, np.int64), 0
    for n in range(offsets.size - 1):
        for k in range(offsets[n], offsets[n + 1]):
            value = np.int64(counts[k])
            if k - offsets[n] > 2:
                value -= np.int64(counts[k - 2])
            more = True
            while more:
                code = value & 0x1F
                value >>= 5
                more = value != -1 if code & 0x10 else value != 0
                out[used] = (code | 0x20 if more else code) + 48
                used += 1
        ends[n + 1] = used
    return out[:used], ends


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
