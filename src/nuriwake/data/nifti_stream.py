"""Bytes of gzipped files at any place, without unpacking the whole again for each: what `.nii.gz` volumes are read through.

gzip is a stream. The first look at a file unpacks all of it, which proves its checksum, and keeps the state of the
decompressor every few MiB: 45 KiB each, from which reading goes on later. What was unpacked is kept as long as it fits.
"""

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from nuriwake.core.errors import UserError

UNPACKED_BYTES = 256 << 20
"""Of unpacked files, per process; one larger file is kept alone."""

CHECKPOINT_BYTES = 128 << 20
"""Of states of decompressors, per process: enough for 5 GB of unpacked files."""

SPACING = 2 << 20
"""Unpacked bytes between two states."""

MOST_BEYOND = 64 << 20
"""Bytes that may follow the voxels in an unpacked file."""

_STATE = 45 << 10
_READ = 1 << 18
Key = tuple[str, int, int]


@dataclass(frozen=True)
class _Checkpoint:
    """Reading goes on at byte `packed` of the file, and gives byte `unpacked` of its contents first."""

    unpacked: int
    packed: int
    state: Any


@dataclass(eq=False)
class _File:
    lock: Lock = field(default_factory=Lock)
    checkpoints: list[_Checkpoint] = field(default_factory=list[_Checkpoint])
    contents: bytearray | None = None


class GzipFiles:
    """What is kept of gzipped files, least recently used first to go; used from any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OrderedDict[Key, _File] = OrderedDict()

    def read(self, path: Path, start: int, stop: int, *, total: int) -> memoryview:
        """The bytes `start` to `stop` of the contents of `path`, of which the first `total` are of interest.

        Raises:
            UserError: cut off, damaged or no gzip.
        """
        entry = self._entry(path)
        with entry.lock:  # threads that want slices of one file wait for the first to unpack it
            if entry.contents is None and entry.checkpoints and stop - start < total // 2:
                return memoryview(_unpack_part(path, entry.checkpoints, start, stop))
            if entry.contents is None:
                entry.contents, entry.checkpoints = _unpack(path, total)
            contents = entry.contents
        self._forget()
        return memoryview(contents)[start:stop]

    def held(self) -> tuple[int, int]:
        """Bytes of unpacked files and of states that are kept."""
        files = list(self._files.values())
        return sum(len(file.contents or b"") for file in files), sum(len(f.checkpoints) * _STATE for f in files)

    def _entry(self, path: Path) -> _File:
        try:
            about = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
        key = (str(path), about.st_mtime_ns, about.st_size)
        with self._lock:
            entry = self._files.setdefault(key, _File())
            self._files.move_to_end(key)
            return entry

    def _forget(self) -> None:
        with self._lock:
            unpacked, states = self.held()
            newest = next(reversed(self._files), None)
            for key in list(self._files):
                if unpacked <= UNPACKED_BYTES or key == newest:
                    break
                file = self._files[key]
                unpacked -= len(file.contents or b"")
                file.contents = None
            for key in list(self._files):
                if states <= CHECKPOINT_BYTES or key == newest:
                    break
                states -= len(self._files.pop(key).checkpoints) * _STATE


def _unpack(path: Path, total: int) -> tuple[bytearray, list[_Checkpoint]]:
    """The first `total` bytes, and states along them."""
    contents = bytearray(total)
    checkpoints: list[_Checkpoint] = []
    position, packed, state = 0, 0, zlib.decompressobj(31)
    try:
        with path.open("rb") as file:
            waiting = b""
            while position < total:
                if not checkpoints or position - checkpoints[-1].unpacked >= SPACING:
                    checkpoints.append(_Checkpoint(position, packed, state.copy()))
                data = waiting or file.read(_READ)
                if not data:
                    raise UserError(
                        f"{path}: the file is cut off: {position:,} of {total:,} bytes could be unpacked; copy or download it "
                        "again."
                    )
                block = state.decompress(data, min(SPACING, total - position))
                contents[position : position + len(block)] = block
                waiting = state.unused_data if state.eof else state.unconsumed_tail
                position, packed = position + len(block), packed + len(data) - len(waiting)
                if state.eof and position < total:
                    state = zlib.decompressobj(31)  # gzip files may be several, one after another
            _go_to_checksum(path, file, state, waiting)
    except (OSError, zlib.error) as error:
        raise UserError(f"{path}: the file cannot be unpacked ({error}); copy or download it again.") from error
    return contents, checkpoints


def _go_to_checksum(path: Path, file: BinaryIO, state: Any, waiting: bytes) -> None:
    """Unpacks what follows the voxels up to the end, where the decompressor compares the checksum: without it a file that is
    damaged so that it becomes longer would be read."""
    beyond = 0
    while not state.eof:
        data = waiting or file.read(_READ)
        if not data:
            raise UserError(f"{path}: the file is cut off before its checksum; copy or download it again.")
        beyond += len(state.decompress(data, SPACING))
        waiting = b"" if state.eof else state.unconsumed_tail
        if beyond > MOST_BEYOND:
            raise UserError(
                f"{path}: after the voxels that the header declares come more than {MOST_BEYOND:,} other bytes; the file is "
                "damaged, or its header is that of another one."
            )


def _unpack_part(path: Path, checkpoints: list[_Checkpoint], start: int, stop: int) -> bytes:
    """The bytes `start` to `stop`, from the last state before them."""
    after = next((i for i, item in enumerate(checkpoints) if item.unpacked > start), len(checkpoints))
    begin = checkpoints[after - 1]
    state, position, parts, waiting = begin.state.copy(), begin.unpacked, list[bytes](), b""
    try:
        with path.open("rb") as file:
            file.seek(begin.packed)
            while position < stop:
                data = waiting or file.read(_READ)
                if not data:
                    raise UserError(f"{path}: the file changed while it was read.")
                block = state.decompress(data, min(SPACING, stop - position))
                waiting = state.unused_data if state.eof else state.unconsumed_tail
                if position + len(block) > start:
                    parts.append(block[max(0, start - position) :])
                position += len(block)
                if state.eof:
                    state = zlib.decompressobj(31)
    except (OSError, zlib.error) as error:
        raise UserError(f"{path}: the file changed while it was read ({error}).") from error
    return b"".join(parts)


GZIP_FILES = GzipFiles()
"""Those of this process."""

if "register_at_fork" in vars(os):
    # A lock that another thread holds while forking would never be given back in the child.
    os.register_at_fork(after_in_child=lambda: GZIP_FILES.__init__())
