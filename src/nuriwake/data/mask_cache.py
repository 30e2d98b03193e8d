"""Decoded masks on disk, so that PNG and outlines are decoded once and not in every epoch.

The folder holds one collection per data set and purpose, `masks-<24 hex digits>`, and that one file per image. An entry counts only
when all that decides the target is as it was: the annotation and image files (size and times), what the reader is made of, and this
program's own code. A damaged or outdated entry is decoded and written again, so that an answer never depends on the cache.

The rule of size: the files of the folder take at most a given number of bytes together. Where one more would not fit, whole
collections go that were opened before this one, the one opened longest ago first; when there are none, the mask is not kept. Every
process looks at the folder again after a sixty-fourth of the limit, and may exceed it by so much.

Writes are atomic, so that any number of processes may share a folder. They are not forced onto the disk: what a power cut leaves half
written is found out by its checksum.
"""

import os
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

import nuriwake.core
import nuriwake.data
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Target
from nuriwake.data.dataset import DataSet, Record, TargetReader
from nuriwake.data.identity import plain
from nuriwake.data.mask_entry import VERSION, pack_target, unpack_target

MOST_BYTES = 8 * 2**30
"""What a folder of decoded masks takes at most. Cityscapes' 5,000 are about 0.2 GiB, COCO's 118,000 panoptic ones about 1."""

_PREFIX, _ENTRY, _UNFINISHED = "masks-", ".mask", ".part"
_OPENED = "opened"
_FORGOTTEN_SECONDS = 3600.0


class MaskCache:
    """A `TargetKeeper`: targets from `collection`, or from the reader and then kept there. Picklable.

    Args:
        collection: the folder of one data set, in the folder that `limit` is for.
        state: what decides all its targets, as a digest.
        space: the classes of its targets.
        limit: bytes.
    """

    def __init__(self, collection: Path, *, state: bytes, space: LabelSpace, limit: int) -> None:
        self.collection, self.state, self.space, self.limit = collection, state, space, limit
        self._room = 0
        self._closed = False

    def __call__(self, record: Record, reader: TargetReader) -> Target | None:
        """What `reader(record)` gives. Raises what it raises."""
        try:
            state = self._state(record)  # before it is read: what changes meanwhile is found to have changed
        except OSError:
            return reader(record)  # a missing file; the reader says so in its own words
        path = self._path(record)
        kept = self._kept(path, state)
        if kept is not None:
            return kept
        target = reader(record)
        if target is not None and target.scores is None and target.space == self.space:
            self._keep(path, pack_target(target, state))
        return target

    def _state(self, record: Record) -> bytes:
        truth = plain(record.target, _file_state)
        text = repr((record.name, _file_state(record.image), truth))
        return blake2b(text.encode(), digest_size=16, key=self.state).digest()

    def _path(self, record: Record) -> Path:
        name = blake2b(record.name.encode(), digest_size=16).hexdigest()
        return self.collection / name[:2] / f"{name[2:]}{_ENTRY}"

    def _kept(self, path: Path, state: bytes) -> Target | None:
        try:
            return unpack_target(np.fromfile(path, np.uint8), state, self.space)
        except (OSError, ValueError, MemoryError):  # not there, or damaged: it is written again
            return None

    def _keep(self, path: Path, data: bytes) -> None:
        if self._closed:
            return
        temporary = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
        try:
            if not self._admits(len(data)):
                self._closed = True
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:  # read-only, or the disk is full: go on without
            self._closed = True
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _admits(self, size: int) -> bool:
        if self._room < size:
            free = self._make_room(size)
            self._room = min(free, max(size, self.limit // 64))
        self._room -= size
        return self._room >= 0

    def _make_room(self, size: int) -> int:
        """The bytes that are free, after removing what was opened before this collection where they are fewer than `size`."""
        folders = _collections(self.collection.parent)
        free = self.limit - sum(_measured(folder) for folder in folders)
        opened = _opened(self.collection)
        for folder in sorted(folders, key=_opened):
            if free >= size or folder == self.collection or _opened(folder) >= opened:
                break
            _remove(folder)
            free = self.limit - sum(_measured(folder) for folder in folders)
        return free


def with_mask_cache(
    data: DataSet, folder: Path, *, purpose: str = "", limit: int = MOST_BYTES
) -> tuple[DataSet, str | None]:
    """`data` whose decoded targets are kept in `folder`, and a sentence to say when they cannot be.

    Args:
        purpose: sets data apart whose reader differs in nothing but what it does with the same files (the task).
        limit: the most bytes of all files in `folder`, those of other data sets included.
    """
    root = data.root.absolute()
    name = _digest([str(root), data.format, data.space, purpose], 12)
    collection = folder.expanduser().absolute() / f"{_PREFIX}{name.hex()}"
    decides = [VERSION, purpose, _code(), plain(data.reader, _file_state), [_file_state(path) for path in data.sources]]
    cache = MaskCache(collection, state=_digest(decides, 16), space=data.space, limit=limit)
    try:
        collection.mkdir(parents=True, exist_ok=True)
        (collection / _OPENED).touch()
    except OSError as error:
        problem = f"{folder}: decoded masks cannot be kept here ({error.strerror or error})"
        return replace(data, keeper=cache), f"{problem}; what is there already is used, the rest is decoded every time."
    return replace(data, keeper=cache), None


def _opened(collection: Path) -> int:
    """When the collection was opened last, in nanoseconds."""
    try:
        return (collection / _OPENED).stat().st_mtime_ns
    except OSError:
        return 0


def _digest(values: Sequence[Any], size: int) -> bytes:
    return blake2b(repr(values).encode(), digest_size=size).digest()


def _code() -> list[str]:
    """Digests of the files of this program that decode: another version of it may decode differently."""
    files = sorted(path for room in (nuriwake.core, nuriwake.data) for path in Path(room.__path__[0]).glob("*.py"))
    return [blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files]


def _file_state(path: Path) -> tuple[str, int, int, int]:
    """Changes with every ordinary way to change a file, also those that keep its size and its time of change. Of a folder the name."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        return str(path), 0, 0, 0
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _collections(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(_PREFIX) and entry.is_dir()]


def _files(collection: Path) -> list[os.DirEntry[str]]:
    """The entries, finished or not. Nothing else is ever looked at or removed."""
    out: list[os.DirEntry[str]] = []
    with suppress(OSError):  # another process removes it meanwhile
        for part in os.scandir(collection):
            if part.is_dir(follow_symlinks=False):
                out += [file for file in os.scandir(part.path) if file.name.endswith((_ENTRY, _UNFINISHED))]
    return out


def _measured(collection: Path) -> int:
    """The bytes of its files; what a killed process left unfinished is removed."""
    total, now = 0, time.time()
    for file in _files(collection):
        with suppress(OSError):
            found = file.stat()
            if file.name.endswith(_UNFINISHED) and now - found.st_mtime > _FORGOTTEN_SECONDS:
                Path(file.path).unlink()
            else:
                total += found.st_size
    return total


def _remove(collection: Path) -> None:
    files = _files(collection)
    for path in [*(Path(file.path) for file in files), collection / _OPENED]:
        with suppress(OSError):
            path.unlink()
    for folder in [*{Path(file.path).parent for file in files}, collection]:
        with suppress(OSError):  # not empty: it holds something that is not ours
            folder.rmdir()
