"""Foreign checkpoints that are pickles, read without running anything that is in them.

A pickle is a program; what it can call is what its names resolve to. Here they resolve to a short list of our own
builders of tensors, arrays and plain containers (`ALLOWED`), never to an imported object, and every other name is refused
before it is used. Checkpoints of training frameworks keep foreign objects beside the arrays (`meta` of mm*): those are
read as inert placeholders, only below the top-level keys that the caller gives.

Read are: PyTorch's zip files and its older stream of pickles (pytorch/torch/serialization.py describes both), and plain
pickles with NumPy arrays (Detectron2's zoo).
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.builders import (
    ALLOWED,
    ArrayRecipe,
    Placeholder,
    RefusedError,
    Sealed,
    StorageKind,
    never,
    placeholder_class,
)

PROGRAM_LIMIT = 256 * 2**20
"""Bytes of a pickle inside a zip: it holds names and shapes, the numbers lie beside it."""

DEPTH_LIMIT = 200
"""Containers within containers; published checkpoints have fewer than ten."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
)


def read_pickle(path: str | Path, *, placeholders_under: Collection[str] = ()) -> Any:
    """The containers, tensors (torch, on the CPU) and arrays (NumPy) in the pickle or PyTorch file at `path`.

    Args:
        placeholders_under: top-level keys whose values may hold foreign objects; these come back as `Placeholder`, which
            knows the object's name and nothing else.

    Raises:
        UserError: no such file; cut off or damaged; compressed or overlapping zip entries (a zip bomb); or a name that is
            neither on the list nor below `placeholders_under`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint file.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        loaded = (
            _read_zip(path, placeholders_under) if start == b"PK\x03\x04" else _read_stream(path, placeholders_under)
        )
        return _finish(loaded, placeholders_under)
    except RefusedError as error:
        raise UserError(f"{path}: refused, nothing in it was run: {error}") from error
    except (*_ERRORS, zipfile.BadZipFile, OSError, struct.error, RecursionError, RuntimeError) as error:
        raise UserError(
            f"{path}: no readable checkpoint; it is cut off, damaged or of another format ({type(error).__name__}: {error})."
        ) from error


class _Reader(pickle.Unpickler):
    """An unpickler whose names resolve to `ALLOWED`, and to placeholders where `placeholders` says so."""

    def __init__(self, data: bytes, storage: Callable[[Any], Any], placeholders: bool) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._storage, self._placeholders = storage, placeholders

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name in ALLOWED:
            return ALLOWED[name]
        if not self._placeholders or never(module_name, global_name):
            raise RefusedError(f"it wants the object '{name}', which is no tensor, array or plain container.")
        return placeholder_class(name)

    def persistent_load(self, pid: Any, /) -> Any:
        return self._storage(pid)


def _read_zip(path: Path, placeholders_under: Collection[str]) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _refuse_bomb(entries, path.stat().st_size)
        programs = [entry.filename for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
        if len(programs) != 1:
            raise RefusedError("a zip file without exactly one 'data.pkl' is no PyTorch checkpoint.")
        root = programs[0][: -len("data.pkl")]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise RefusedError("its numbers are not little-endian.")
        loaded: dict[str, torch.Tensor] = {}

        def storage(pid: Any) -> Sealed:
            kind, key, count = _storage_request(pid)
            if key not in loaded:
                data = bytearray(archive.read(f"{root}data/{key}"))
                loaded[key] = _numbers(data, kind, count)
            return Sealed(loaded[key])

        data = archive.read(programs[0])
        _check_program(io.BytesIO(data))
        return _Reader(data, storage, bool(placeholders_under)).load()


def _refuse_bomb(entries: list[zipfile.ZipInfo], size: int) -> None:
    """PyTorch stores its entries uncompressed; anything that unpacks to more than the file itself is an attack."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RefusedError("it has compressed entries, which PyTorch never writes (a zip bomb?).")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError("its entries claim more bytes than the file has (a zip bomb?).")
    if any(entry.file_size > PROGRAM_LIMIT for entry in entries if entry.filename.endswith(".pkl")):
        raise RefusedError(f"its pickle is larger than {PROGRAM_LIMIT >> 20} MiB.")


def _read_stream(path: Path, placeholders_under: Collection[str]) -> Any:
    """A plain pickle, or PyTorch's older format: magic, version, system, object, storage keys, then the storages."""
    data = path.read_bytes()
    stream = io.BytesIO(data)
    stored: dict[str, torch.Tensor] = {}

    def storage(pid: Any) -> Sealed:
        kind, key, count = _storage_request(pid)
        if key not in stored:
            if count * kind.dtype.itemsize > len(data):
                raise RefusedError("an array claims more bytes than the file has.")
            stored[key] = torch.empty(count, dtype=kind.dtype)
        return Sealed(stored[key])

    def following() -> Any:
        start = stream.tell()
        _check_program(stream)
        return _Reader(data[start : stream.tell()], storage, bool(placeholders_under)).load()

    first = following()
    if first != _LEGACY_MAGIC:
        return first
    version, _, loaded, keys = (following() for _ in range(4))
    if version != 1001:
        raise RefusedError(f"its format version is {version!r}, known is 1001.")
    _fill_storages(stored, keys, memoryview(data)[stream.tell() :])
    return loaded


def _fill_storages(stored: dict[str, torch.Tensor], keys: list[str], data: memoryview) -> None:
    """Each storage is its count of numbers (int64) and the numbers, in the order of `keys`."""
    if set(stored) - set(keys):
        raise RefusedError("it lacks the numbers of an array.")
    for key in keys:
        (count,) = struct.unpack_from("<q", data)
        target = stored[key]
        if count != target.numel():
            raise RefusedError(f"the array '{key}' has {count} numbers instead of {target.numel()}.")
        size = count * target.dtype.itemsize
        target.copy_(_numbers(bytearray(data[8 : 8 + size]), StorageKind(target.dtype), count))
        data = data[8 + size :]


def _check_program(stream: io.BytesIO) -> None:
    """Read over the next pickle in `stream`, looking at every instruction without carrying it out.

    What no checkpoint needs is refused, and so is an instruction that would reserve memory which the pickle does not fill.
    """
    puts = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            # Memo places are numbered one by one; a huge number makes the C reader reserve as many.
            puts += 1
            if int(argument or 0) > 2 * puts + 1024:
                raise RefusedError("a memo number out of order would reserve memory without need.")
        elif opcode.name in ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"):
            raise RefusedError(f"it uses the instruction {opcode.name}, which no checkpoint needs.")


def _storage_request(pid: Any) -> tuple[StorageKind, str, int]:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise RefusedError("it asks for an external object that is no storage.")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, StorageKind) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise RefusedError("a storage is described wrongly.")
    if len(pid) > 5 and pid[5] is not None:
        raise RefusedError("it has views of storages, which PyTorch has not written since 2017.")
    return kind, key, count


def _numbers(data: bytearray, kind: StorageKind, count: int) -> torch.Tensor:
    if len(data) != count * kind.dtype.itemsize:
        raise RefusedError(f"an array has {len(data)} bytes instead of {count * kind.dtype.itemsize}.")
    return torch.frombuffer(data, dtype=kind.dtype) if count else torch.empty(0, dtype=kind.dtype)


def _finish(loaded: Any, placeholders_under: Collection[str]) -> Any:
    """Plain containers with the arrays built; placeholders refused unless they lie below an allowed key."""
    if not placeholders_under or not isinstance(loaded, dict):
        return _plain(loaded, False, {}, 0)
    return {key: _plain(value, key in placeholders_under, {}, 0) for key, value in dict.items(loaded)}


def _plain(value: Any, foreign: bool, done: dict[int, Any], depth: int) -> Any:
    if depth > DEPTH_LIMIT:
        raise RefusedError(f"containers lie more than {DEPTH_LIMIT} deep.")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, ArrayRecipe):
        done[id(value)] = value.array()
    elif isinstance(value, Sealed):
        done[id(value)] = value.tensor
    elif isinstance(value, dict):
        done[id(value)] = made = {}
        for key, item in dict.items(value):
            made[_key(key, foreign)] = _plain(item, foreign, done, depth + 1)
    elif isinstance(value, list):
        done[id(value)] = items = []
        items += [_plain(item, foreign, done, depth + 1) for item in value]
    elif type(value) is tuple:
        # Kept like the rest: tuples of shared tuples would otherwise be unfolded without end.
        done[id(value)] = tuple(_plain(item, foreign, done, depth + 1) for item in value)
    elif type(value) in (set, frozenset):
        return type(value)(_key(item, foreign) for item in value)
    elif type(value) in _LEAVES:
        return value
    elif isinstance(value, Placeholder):
        if not foreign:
            raise RefusedError(f"it wants the object '{value.name}', which is no tensor, array or plain container.")
        return value
    elif foreign:
        return Placeholder()
    else:
        raise RefusedError(f"it holds a {type(value).__name__} where a tensor, array or plain container belongs.")
    return done[id(value)]


def _key(key: Any, foreign: bool) -> Any:
    if type(key) in (str, int, float, bool, bytes, type(None)):
        return key
    if foreign:
        return str(type(key).__name__)
    raise RefusedError(f"a key or member of a set is a {type(key).__name__} instead of a text or number.")


_LEAVES = (
    str, bytes, int, float, bool, complex, type(None), torch.Size, torch.dtype,
)  # fmt: skip
