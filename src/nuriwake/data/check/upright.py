"""The EXIF orientation taken out of an image file, not a pixel changed: for truth that was drawn on the pixels as stored."""

import struct
import zlib

from nuriwake.data.headers import jpeg_scan_start

_ORIENTATION = 274


def without_orientation(data: bytes) -> bytes | None:
    """The file `data` with the orientation 1 (upright) in place of whatever it says: JPEG, PNG and TIFF.

    None for other files, and for those that say nothing of an orientation.
    """
    if data[:3] == b"\xff\xd8\xff":
        place = _in_jpeg(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        place = _in_block(data, 0, len(data))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    else:
        place = None
    return None if place is None else _upright(data, *place)


def _upright(data: bytes, offset: int, order: str) -> bytes:
    return data[:offset] + struct.pack(order + "H", 1) + data[offset + 2 :]


def _in_jpeg(data: bytes) -> tuple[int, str] | None:
    end = jpeg_scan_start(data)[0]
    start = data.find(b"Exif\0\0", 0, end)
    return None if start < 0 else _in_block(data, start + 6, end)


def _png(data: bytes) -> bytes | None:
    offset = 8
    while offset + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if name == b"eXIf":
            place = _in_block(data, offset + 8, end)
            if place is None:
                return None
            patched = _upright(data, *place)
            checksum = struct.pack(">I", zlib.crc32(patched[offset + 4 : end]))
            return patched[:end] + checksum + patched[end + 4 :]
        offset = end + 4
    return None


def _in_block(data: bytes, start: int, end: int) -> tuple[int, str] | None:
    """(where the two bytes of the orientation lie, their order) in the EXIF block at `start`; None where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None or start + 10 > end:
        return None
    (first,) = struct.unpack_from(order + "I", data, start + 4)
    if start + first + 2 > end:
        return None
    (count,) = struct.unpack_from(order + "H", data, start + first)
    for entry in range(start + first + 2, min(start + first + 2 + 12 * count, end - 11), 12):
        if struct.unpack_from(order + "H", data, entry)[0] == _ORIENTATION:
            return entry + 8, order
    return None
