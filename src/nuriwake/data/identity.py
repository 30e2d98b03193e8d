"""The fingerprint of a data set: what decides its images and labels, without reading them whole.

Counted are names and splits, the classes, how the reader decodes (colours, values, threshold, ignore), the whole contents of
annotation files, and the size in bytes of every image and mask. Some of the bytes count as well, since masks of a few classes and
uncompressed images often have the same size: the end of a PNG, which holds checksums over all its pixels, and blocks spread over any
other file. Beyond `MOST_SAMPLED` files they are those of as many, evenly spaced, since opening a file costs many times what asking
for its size does. No times count, and no path above the root, so that a copied folder is the same data.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.nifti_address import stored_files
from nuriwake.data.parallel import each, spread

if TYPE_CHECKING:
    from nuriwake.data.dataset import DataSet

MOST_SAMPLED = 20_000
"""Of so many images, and of so many masks, some bytes are looked at."""

_BLOCK, _BLOCKS = 256, 16
_CHECKSUMS_LAST = (".png", ".gz")


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
    for found in ((record.image for record in records), (record.target for record in records)):
        files = sorted({path for item in found for path in paths_in(item)})
        for sample in each(_sample, spread(files, MOST_SAMPLED)):
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
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return _relative(path, root), digest.hexdigest()


def _sample(path: Path) -> bytes:
    """Blocks of `path`, evenly spaced, the first and the last among them; the last alone where it tells of all the others."""
    try:
        with path.open("rb", buffering=0) as file:
            last = max(file.seek(0, os.SEEK_END) - _BLOCK, 0)
            if path.suffix.lower() in _CHECKSUMS_LAST:
                starts = [last]
            else:
                starts = [last * number // (_BLOCKS - 1) for number in range(_BLOCKS)]
            return b"".join(file.read(_BLOCK) for start in starts if file.seek(start) == start)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
