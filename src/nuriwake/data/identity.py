"""The fingerprint of a data set: what decides its images and labels, without reading them whole.

Counted are names and splits, the classes, how the reader decodes (colours, values, threshold, ignore), the whole contents of
annotation files, and the size in bytes of every image and mask. Some of their bytes count as well, since masks of a few classes and
uncompressed images often have the same size:

- of a PNG and of what gzip packed the end, which holds checksums over all its pixels;
- of masks and annotation files of any other kind all bytes: a region that was labelled anew may lie anywhere. Where there are so
  many or so large ones that they hold more than `MOST_READ` bytes, each has an equal share of these, in blocks spread over the file;
- of images of any other kind 16 blocks spread over the file: another image is told, a few pixels that were retouched may not be.

Beyond `MOST_SAMPLED` files they are those of as many, evenly spaced, since opening a file costs many times what asking for its size
does. No times count, and no path above the root, so that a copied folder is the same data.
"""

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.nifti_address import stored_files
from nuriwake.data.parallel import each, spread

if TYPE_CHECKING:
    from nuriwake.data.dataset import DataSet

MOST_SAMPLED = 20_000
"""Of so many images, and of so many masks, some bytes are looked at."""

MOST_READ = 4 << 30
"""Of all masks and annotation files without checksums so many bytes are read at most: 429 kB of each, where they are 10,000."""

_BLOCK, _BLOCKS = 256, 16
_WIDE_BLOCK = 4096
_CHECKSUMS_LAST = {".png": b"\x89PNG\r\n\x1a\n", ".gz": b"\x1f\x8b"}
"""Suffix -> what such a file begins with."""


def fingerprint(data: "DataSet") -> str:
    """32 hex digits. Raises UserError when a file cannot be read."""
    root = data.root
    digest = blake2b(repr((data.format, data.space, data.channels, data.dtype)).encode(), digest_size=16)

    @cache  # a reader often names its sources once more
    def contents(path: Path) -> tuple[str, str]:
        return _contents(path, root)

    digest.update(repr(plain(data.reader, contents)).encode())
    for path in data.sources:
        digest.update(repr(contents(path)).encode())
    for split in sorted(data.splits):
        for record in data.splits[split]:
            truth = plain(record.target, lambda path: _size(path, root))
            digest.update(repr((split, record.name, _size(record.image, root), truth)).encode())
    records = [record for part in data.splits.values() for record in part]
    for sample in each(_sample, _chosen(record.image for record in records)):
        digest.update(sample)
    truths = _chosen(record.target for record in records)
    for sample in each(partial(_truth, most=MOST_READ // max(1, len(truths))), truths):
        digest.update(sample)
    return digest.hexdigest()


def plain(value: Any, of_path: Callable[[Path], Any]) -> Any:
    """`value` as nested tuples whose text depends on nothing but its contents; arrays become digests.

    Dataclasses are taken field by field, functions and other objects by their type's name; paths become `of_path(path)`.
    """
    if isinstance(value, Path):
        return of_path(value)
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), blake2b(np.ascontiguousarray(value).data, digest_size=16).hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, tuple(
            (item.name, plain(getattr(value, item.name), of_path)) for item in fields(value)
        )
    if isinstance(value, Mapping):
        return tuple((str(key), plain(item, of_path)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return tuple(plain(item, of_path) for item in value)
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    return type(value).__qualname__


def paths_in(target: Any) -> list[Path]:
    """The files that a record's image or target names, also inside tuples and dataclasses."""
    if isinstance(target, Path):
        return list(stored_files(target))
    if is_dataclass(target) and not isinstance(target, type):
        target = [getattr(target, item.name) for item in fields(target)]
    return [path for item in target for path in paths_in(item)] if isinstance(target, tuple | list) else []


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _size(path: Path, root: Path) -> tuple[str, int]:
    try:
        return _relative(path, root), sum(file.stat().st_size for file in stored_files(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _contents(path: Path, root: Path) -> tuple[str, str]:
    digest = blake2b(digest_size=16)
    with _opened(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return _relative(path, root), digest.hexdigest()


def _chosen(values: Iterable[Any]) -> list[Path]:
    return spread(sorted({path for value in values for path in paths_in(value)}), MOST_SAMPLED)


def _sample(path: Path) -> bytes:
    """Blocks of `path`; the last alone where it tells of all the others."""
    with _opened(path) as file:
        return _spaced(file, _BLOCK, 1 if path.suffix.lower() in _CHECKSUMS_LAST else _BLOCKS)


def _truth(path: Path, most: int) -> bytes:
    """The end of `path` where that tells of all bytes; else all of them or their checksum, or that of about `most`."""
    begin = _CHECKSUMS_LAST.get(path.suffix.lower())
    with _opened(path) as file:
        if begin is not None and file.read(len(begin)) == begin:
            return _spaced(file, _BLOCK, 1)
        size = file.seek(0, os.SEEK_END)
        if size <= _BLOCK * _BLOCKS:
            return _spaced(file, _BLOCK, _BLOCKS)
        if size > most:
            return crc32(_spaced(file, _WIDE_BLOCK, max(most // _WIDE_BLOCK, _BLOCKS))).to_bytes(4)
        # As PNG has it, against mistakes and not against forgers: four times as fast as a digest.
        found = file.seek(0)
        while block := file.read(1 << 20):
            found = crc32(block, found)
        return found.to_bytes(4)


def _spaced(file: FileIO, width: int, count: int) -> bytes:
    """`count` blocks of `width` bytes, evenly spaced, the first and the last among them; one alone is the last."""
    last = max(file.seek(0, os.SEEK_END) - width, 0)
    starts = [last] if count == 1 else [last * number // (count - 1) for number in range(count)]
    return b"".join(file.read(width) for start in starts if file.seek(start) == start)


@contextmanager
def _opened(path: Path) -> Generator[FileIO]:
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
