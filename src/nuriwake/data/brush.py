"""Label Studio's run lengths of brush strokes: the rle-pack form of thi.ng/umbrella over the RGBA values of the image.

Bits, high ones first: 32 for the number of values, 5 for the bits per value less one, 4 x 4 for the bits of the four
sizes of run lengths less one. Then chunks: one bit (1: a run, 0: values one by one), two bits that choose a size, the
length less one in that many bits, then one value or all of them. A pixel is painted where its alpha is not 0.
"""

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.pixels import kernel
from nuriwake.core.targets import Size

_SIZES = np.array([3, 4, 8, 16], np.int64)


def decode_brush(values: list[int], size: Size) -> np.ndarray:
    """uint8 (H, W) of 0 and 1. Raises UserError where the bytes are none, cut off, or for an image of another size."""
    height, width = size
    try:
        data = np.array(values, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"brush strokes are a list of bytes ({error}).") from error
    if data.ndim != 1 or len(data) < 7 or data.min() < 0 or data.max() > 255:
        raise UserError("brush strokes are a list of bytes, 0 to 255, of at least 7.")
    count = int(data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3])
    if count != 4 * height * width:
        raise UserError(
            f"the brush strokes cover {count} values, expected 4 x {height}x{width} = {4 * height * width}."
        )
    mask = np.zeros(height * width, np.uint8)
    if not unpack(data.astype(np.uint8), count, mask):
        raise UserError("the brush strokes are cut off or damaged.")
    return mask.reshape(height, width)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of `mask` (H, W) of 0 and 1; all four values of a painted pixel are 255."""
    flat = np.concatenate([[2], mask.ravel(), [2]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs, values = 4 * np.diff(edges), 255 * (mask.ravel()[edges[:-1]] != 0)
    out = np.zeros(16 + 4 * len(runs) + int((runs >> 16).sum()) * 4, np.uint8)
    used = pack(4 * mask.size, runs, values, _SIZES, out)
    return out[:used].tolist()


@kernel
def _read(data: np.ndarray, bit: int, count: int) -> int:
    value = 0
    for i in range(bit, bit + count):
        value = value << 1 | (data[i >> 3] >> (7 - (i & 7)) & 1)
    return value


@kernel
def unpack(data: np.ndarray, count: int, mask: np.ndarray) -> bool:
    """Writes 1 to `mask` (H * W,) where every fourth of `count` values is not 0; whether `data` held as many."""
    end = 8 * len(data)
    word = _read(data, 32, 5) + 1
    sizes = np.zeros(4, np.int64)
    for k in range(4):
        if 37 + 4 * k + 4 > end:
            return False
        sizes[k] = _read(data, 37 + 4 * k, 4) + 1
    bit, i, value = 53, 0, 0
    while i < count:
        if bit + 3 > end:
            return False
        is_run, size = _read(data, bit, 1), sizes[_read(data, bit + 1, 2)]
        if bit + 3 + size > end:
            return False
        length = _read(data, bit + 3, size) + 1
        bit += 3 + size
        if bit + (word if is_run else word * length) > end or i + length > count:
            return False
        for k in range(length):
            if k == 0 or not is_run:
                value = _read(data, bit, word)
                bit += word
            if value != 0 and (i & 3) == 3:
                mask[i >> 2] = 1
            i += 1
    return True


@kernel
def _write(out: np.ndarray, bit: int, value: int, count: int) -> int:
    for k in range(count - 1, -1, -1):
        if value >> k & 1:
            out[bit >> 3] |= np.uint8(1 << (7 - (bit & 7)))
        bit += 1
    return bit


@kernel
def pack(count: int, runs: np.ndarray, values: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> int:
    """Writes `runs` of `values` to `out`; returns the bytes used."""
    bit = _write(out, 0, count, 32)
    bit = _write(out, bit, 7, 5)
    for k in range(4):
        bit = _write(out, bit, sizes[k] - 1, 4)
    for n in range(len(runs)):
        left = runs[n]
        while left > 0:
            length = min(left, 1 << sizes[3])
            size = 0
            while length > 1 << sizes[size]:
                size += 1
            bit = _write(out, bit, 1, 1)
            bit = _write(out, bit, size, 2)
            bit = _write(out, bit, length - 1, sizes[size])
            bit = _write(out, bit, values[n], 8)
            left -= length
    return (bit + 7) >> 3
