"""Whether files are cut off: a look at where each of them should end, without decoding, so that all of a data set get one.

A look that finds something is only a suspicion: the file is then read as training would, and what that says is the problem. So
nothing is refused here that could be trained on.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.data.check.finding import Problem
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.headers import IMAGE_SUFFIXES, jpeg_scan_start
from nuriwake.data.identity import paths_in
from nuriwake.data.images import read_image
from nuriwake.data.parallel import each

_TAIL = 64
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""The TIFF types that lengths and offsets have, as `struct` has them."""

_PLACES = {273: 279, 324: 325}
"""TIFF tags: offsets of strips and of tiles -> their lengths."""


def cut_off(data: DataSet, records: Sequence[Record]) -> list[Problem]:
    """One problem per image or truth of `records` whose file ends too early or cannot be opened."""
    files = {path for record in records for path in _files(record)}
    suspect = {path for path, whole in zip(files, each(seems_whole, files), strict=True) if not whole}
    return [problem for record in records if suspect for problem in _confirmed(data, record, suspect)]


def seems_whole(path: Path) -> bool:
    """False where the image file at `path` has not the end that its kind demands; takes well below a millisecond."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:3] == b"\xff\xd8\xff":
                return _jpeg(data)
            if data[:8] == b"\x89PNG\r\n\x1a\n":
                return _png(data)
            if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return _tiff(data)
            if data[:2] == b"BM":
                return struct.unpack_from("<I", data, 2)[0] <= len(data)
            return data[:4] == b"RIFF" and struct.unpack_from("<I", data, 4)[0] + 8 <= len(data)
    except (OSError, ValueError, IndexError, KeyError, struct.error):  # missing, empty, or cut off in its header
        return False


def _files(record: Record) -> list[Path]:
    """Slices of volumes have none of these suffixes; annotation files were read when the data were opened."""
    return [path for path in (*paths_in(record.image), *paths_in(record.target)) if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _confirmed(data: DataSet, record: Record, suspect: set[Path]) -> list[Problem]:
    found: list[Problem] = []
    if record.image in suspect:
        try:
            read_image(record.image)
        except UserError as error:
            kind = "image_truncated" if "truncated" in str(error) else "image_unreadable"
            found.append(Problem(kind, str(record.image), _text(error, record.image), record.name))
    wrong = [path for path in paths_in(record.target) if path in suspect]
    if wrong:
        try:
            data.read_target(record)
        except UserError as error:
            found.append(Problem("truth_unreadable", str(wrong[0]), _text(error, wrong[0]), record.name))
    return found


def _text(error: UserError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _jpeg(data: mmap.mmap) -> bool:
    start = jpeg_scan_start(data)[0]
    # Nearly always the marker stands at the very end, and the pages before need not be read.
    return data.find(b"\xff\xd9", max(start, len(data) - _TAIL)) >= 0 or data.find(b"\xff\xd9", start) >= 0


def _png(data: mmap.mmap) -> bool:
    if data[-8:-4] == b"IEND":
        return True
    offset = 8
    while offset + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        if name == b"IEND":
            return True
        offset += 12 + length
    return False


def _tiff(data: mmap.mmap) -> bool:
    """Whether all strips or tiles of the first image lie in the file (TIFF 6.0, section 2, and BigTIFF)."""
    order, big = "<" if data[:1] == b"I" else ">", data[2:4] in (b"+\0", b"\0+")
    number, entry, word = ("Q", 20, "Q") if big else ("H", 12, "I")
    (start,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + number, data, start)
    start += struct.calcsize(number)
    tags: dict[int, list[int]] = {}
    for place in range(start, start + entry * count, entry):
        tag, kind, length = struct.unpack_from(order + "HH" + word, data, place)
        if tag in (*_PLACES, *_PLACES.values()):
            size = struct.calcsize(word)
            value = place + 4 + size
            if length * struct.calcsize(_TYPES[kind]) > size:
                (value,) = struct.unpack_from(order + word, data, value)
            tags[tag] = list(struct.unpack_from(f"{order}{length}{_TYPES[kind]}", data, value))
    pieces = [(tags[offsets], tags[lengths]) for offsets, lengths in _PLACES.items() if offsets in tags]
    ends = (at + size for offsets, sizes in pieces for at, size in zip(offsets, sizes, strict=True))
    return bool(pieces) and max(ends) <= len(data)
