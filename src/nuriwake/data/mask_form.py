"""Label maps as bytes that decode faster than any PNG: runs along the rows, or where these are many packed numbers.

A map (P, C), P pixels of C values each, becomes a table of the M distinct pixels there are, and per pixel the number of its row in
the table: a run is that number, in 1 byte for M <= 256 and in 2 otherwise (little end first), then its length in 7 bits a byte, low ones
first, the highest bit set where more follow. Where that takes more than 1, 2, 4, 8 or 16 bits a pixel, whichever M needs, the numbers
stand so packed, low bits first. Maps of more than 65536 distinct pixels are kept as they are.
"""

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from nuriwake.core.run_kernels import exact

_MOST_ROWS = 1 << 16


class Form(IntEnum):
    """How the numbers of a map are kept."""

    PLAIN = 0
    PACKED = 1
    RUNS = 2


class CodedMap(NamedTuple):
    """A map in bytes: `table` (M, C) of the map's dtype, empty for `Form.PLAIN`, and `data` uint8."""

    form: Form
    table: np.ndarray
    data: np.ndarray


def encode_map(pixels: np.ndarray) -> CodedMap:
    """`pixels` (P, C), uint8 or int32, at least one of them -> the smallest form."""
    pixels = np.ascontiguousarray(pixels)
    starts = np.concatenate([[0], 1 + np.flatnonzero((pixels[1:] != pixels[:-1]).any(axis=1))])
    table, numbers = np.unique(pixels[starts], axis=0, return_inverse=True)
    if len(table) > _MOST_ROWS:
        return CodedMap(Form.PLAIN, table[:0], pixels.reshape(-1).view(np.uint8))
    numbers = numbers.reshape(-1).astype(np.uint16)
    lengths = np.diff(np.concatenate([starts, [len(pixels)]]))
    bits = _bits(len(table))
    room = len(pixels) * bits // 8
    data = write_runs(numbers, lengths, len(table) > 256, room)
    if 0 < len(data) <= room:
        return CodedMap(Form.RUNS, table, data)
    return CodedMap(Form.PACKED, table, _packed(np.repeat(numbers, lengths), bits))


def decode_map(coded: CodedMap, count: int) -> np.ndarray:
    """`count` pixels, (count, C) of the table's dtype.

    Raises:
        ValueError: the bytes are not those of such a map.
    """
    form, table, data = coded
    channels = table.shape[1]
    if form == Form.PLAIN:
        return data.view(table.dtype).reshape(count, channels).copy()
    if len(table) == 0 or len(table) > _MOST_ROWS:
        raise ValueError("the table is empty or too long")
    if form == Form.PACKED:
        return _unpacked(data, table, count)
    wide = len(table) > 256
    out = np.empty((count + (16 if channels == 1 else 0), channels), table.dtype)
    if not (
        paint_runs(data, wide, table[:, 0], out[:, 0], count)
        if channels == 1
        else paint_row_runs(data, wide, table, out)
    ):
        raise ValueError("the runs do not cover the map, or name no row of the table")
    return out[:count]


def _unpacked(data: np.ndarray, table: np.ndarray, count: int) -> np.ndarray:
    bits = _bits(len(table))
    if data.size != -(-count * bits // 8):
        raise ValueError("the packed numbers have another length")
    if bits == 16:
        return table.take(data.view("<u2"), axis=0)
    # One look per byte: what each of the 256 bytes stands for, several pixels at once.
    numbers = np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1
    meanings = table.take(numbers, axis=0, mode="clip")
    return meanings.take(data, axis=0).reshape(-1, table.shape[1])[:count]


def _bits(rows: int) -> int:
    return next(bits for bits in (1, 2, 4, 8, 16) if rows <= 1 << bits)


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    if bits == 16:
        return numbers.astype("<u2").view(np.uint8)
    each = 8 // bits
    whole = np.zeros(-(-len(numbers) // each) * each, np.uint8)
    whole[: len(numbers)] = numbers
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(whole.reshape(-1, each) << shifts, axis=1).astype(np.uint8)


@exact
def write_runs(numbers: np.ndarray, lengths: np.ndarray, wide: bool, room: int) -> np.ndarray:
    """The bytes of the runs, `numbers` (R,) uint16 and `lengths` (R,) int64 from 1; none at all when they are more than `room`."""
    out, used = np.empty(room + 16, np.uint8), 0
    for k in range(numbers.size):
        if used > room:
            return out[:0]
        out[used] = numbers[k] & 255
        used += 1
        if wide:
            out[used] = numbers[k] >> 8
            used += 1
        used = _put_length(out, used, lengths[k])
    return out[:used]


@exact
def _put_length(out: np.ndarray, used: int, length: int) -> int:
    while length > 127:
        out[used] = length & 127 | 128
        length >>= 7
        used += 1
    out[used] = length
    return used + 1


@exact
def _length(data: np.ndarray, place: int) -> tuple[Any, int]:
    """The length that begins at `data[place]`, and where it ends; -1 when it does not."""
    length, shift = np.int64(0), 0
    while place < data.size and shift < 42:
        length |= np.int64(data[place] & 127) << shift
        shift += 7
        place += 1
        if data[place - 1] < 128:
            return length, place
    return np.int64(-1), place


@exact
def paint_runs(data: np.ndarray, wide: bool, table: np.ndarray, out: np.ndarray, count: int) -> bool:
    """Writes the map of one value a pixel to `out` (`count` + 16,); False when the runs do not end at `count`.

    What lies behind `count` is scratch: every run is written in pieces of 16 pixels, and the next one begins where it ends.
    """
    place, position = 0, 0
    while place + 1 + wide < data.size:
        number = np.int64(data[place])
        if wide:
            number |= np.int64(data[place + 1]) << 8
        place += 1 + wide
        length = np.int64(data[place])
        if length < 128:
            place += 1
        else:
            length, place = _length(data, place)
        if number >= table.size or length < 1 or length > count - position:
            return False
        value = table[number]
        # Unsigned places: signed ones are looked at for being negative, which costs more than the writing.
        here, stop = np.uint64(position), np.uint64(position + length)
        while here < stop:
            for k in range(np.uint64(16)):
                out[here + k] = value
            here += np.uint64(16)
        position += length
    return place == data.size and position == count


@exact
def paint_row_runs(data: np.ndarray, wide: bool, table: np.ndarray, out: np.ndarray) -> bool:
    """Likewise for `out` (count, C) and `table` (M, C)."""
    place, position, channels = 0, 0, np.uint64(table.shape[1])
    flat, rows = out.reshape(-1), table.reshape(-1)
    while place + 1 + wide < data.size:
        number = np.int64(data[place])
        if wide:
            number |= np.int64(data[place + 1]) << 8
        length, place = _length(data, place + 1 + wide)
        if number >= table.shape[0] or length < 1 or length > out.shape[0] - position:
            return False
        here, row = np.uint64(position) * channels, np.uint64(number) * channels
        for _ in range(length):
            for c in range(channels):
                flat[here + c] = rows[row + c]
            here += channels
        position += length
    return place == data.size and position == out.shape[0]


@exact
def write_lengths(lengths: np.ndarray) -> np.ndarray:
    """`lengths` (R,) uint32 in 7 bits a byte, uint8."""
    out, used = np.empty(5 * lengths.size, np.uint8), 0
    for k in range(lengths.size):
        used = _put_length(out, used, np.int64(lengths[k]))
    return out[:used]


@exact
def read_lengths(data: np.ndarray, out: np.ndarray) -> bool:
    """The inverse of `write_lengths`, to `out` (R,) uint32; False when `data` is not R such numbers."""
    place = 0
    for k in range(out.size):
        length, place = _length(data, place)
        if length < 0 or length > 0xFFFFFFFF:
            return False
        out[k] = length
    return place == data.size
