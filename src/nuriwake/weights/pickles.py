"""Foreign checkpoints that are pickles, read without running anything that is in them.

A pickle is a program; what it can call is what its names resolve to. Our own `Machine` carries it out, in which they resolve to
a short list of our own builders of tensors, arrays and plain containers (`ALLOWED`), never to an imported object, and every
other name is refused before it is used. Checkpoints of training frameworks keep foreign objects beside the arrays (`meta` of mm*): those are
read as inert placeholders, only below the top-level keys that the caller gives.

Read are: PyTorch's zip files and its older stream of pickles (pytorch/torch/serialization.py describes both), and plain
pickles with NumPy arrays (Detectron2's zoo).
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.builders import (
    ArrayRecipe,
    DTypeRecipe,
    Inert,
    OddKey,
    Placeholder,
    RefusedError,
    Sealed,
    StorageKind,
    shown,
)
from nuriwake.weights.machine import Budget, Machine

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


_Done = dict[int, Any]
"""What was built already, by the `id` of what it was built from."""


def read_pickle(path: str | Path, *, placeholders_under: Collection[str] = ()) -> Any:
    """The containers, tensors (torch, on the CPU) and arrays (NumPy) in the pickle or PyTorch file at `path`.

    Args:
        placeholders_under: top-level keys whose values may hold foreign objects; these come back as `Placeholder`, which
            knows the object's name and nothing else.

    Raises:
        UserError: no such file; cut off or damaged; a TorchScript program; compressed or overlapping zip entries (a zip
            bomb); or a name or array of no numbers that is neither on the list nor below `placeholders_under`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint file.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        read, budget = _read_zip if start == b"PK\x03\x04" else _read_stream, Budget(path.stat().st_size)
        return _finish(read(path, budget, bool(placeholders_under)), budget, placeholders_under)
    except RefusedError as error:
        raise UserError(f"{path}: refused, nothing in it was run: {error}") from error
    except (*_ERRORS, zipfile.BadZipFile, OSError, struct.error, RecursionError, RuntimeError) as error:
        raise UserError(
            f"{path}: no readable checkpoint; it is cut off, damaged or of another format ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _read_zip(path: Path, budget: Budget, placeholders: bool) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _refuse_program(entries)
        _refuse_bomb(entries, path.stat().st_size)
        programs = [entry.filename for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
        if len(programs) != 1:
            raise RefusedError("a zip file without exactly one 'data.pkl' is no PyTorch checkpoint.")
        root = programs[0][: -len("data.pkl")]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise RefusedError("its numbers are not little-endian.")
        loaded: dict[str, torch.Tensor] = {}

        def storage(pid: Any) -> Sealed | Placeholder:
            if unknown := _unknown_storage(pid):
                return unknown
            kind, key, count = _storage_request(pid)
            if key not in loaded:
                data = bytearray(archive.read(f"{root}data/{key}"))
                loaded[key] = _numbers(data, kind, count)
            return _sealed(loaded[key], kind, count)

        program = io.BytesIO(archive.read(programs[0]))
        return Machine(storage, budget, placeholders=placeholders).run(program)


def _refuse_program(entries: list[zipfile.ZipInfo]) -> None:
    """`torch.jit.save` lays the code of the model, compressed, beside its arrays."""
    # Below the folder that PyTorch names after the file.
    inner = [entry.filename.partition("/")[2] for entry in entries]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise RefusedError("it is a TorchScript program; save model.state_dict() instead.")


def _refuse_bomb(entries: list[zipfile.ZipInfo], size: int) -> None:
    """PyTorch stores its entries uncompressed; anything that unpacks to more than the file itself is an attack."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RefusedError("it has compressed entries, which PyTorch never writes (a zip bomb?).")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError("its entries claim more bytes than the file has (a zip bomb?).")
    if any(entry.file_size > PROGRAM_LIMIT for entry in entries if entry.filename.endswith(".pkl")):
        raise RefusedError(f"its pickle is larger than {PROGRAM_LIMIT >> 20} MiB.")


def _read_stream(path: Path, budget: Budget, placeholders: bool) -> Any:
    """A plain pickle, or PyTorch's older format: magic, version, system, object, storage keys, then the storages."""
    data = path.read_bytes()
    stream = io.BytesIO(data)
    stored: dict[str, torch.Tensor] = {}
    left = len(data)

    def storage(pid: Any) -> Sealed:
        nonlocal left
        if unknown := _unknown_storage(pid):
            # Its numbers lie among the others, and how many bytes they take nobody knows.
            raise RefusedError(f"it has numbers of the kind '{unknown.name}', which is not known.")
        kind, key, count = _storage_request(pid)
        if key not in stored:
            left -= count * kind.dtype.itemsize
            if left < 0:
                raise RefusedError("an array claims more bytes than the file has.")
            stored[key] = torch.empty(count, dtype=kind.dtype)
        return _sealed(stored[key], kind, count)

    def following() -> Any:
        return Machine(storage, budget, placeholders=placeholders).run(stream)

    first = following()
    if first != _LEGACY_MAGIC:
        return first
    version, _, loaded, keys = (following() for _ in range(4))
    if version != 1001:
        raise RefusedError(
            f"its format version is {version if type(version) is int else shown(version)}, known is 1001."
        )
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise RefusedError("its list of arrays is described wrongly.")
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


def _unknown_storage(pid: Any) -> Placeholder | None:
    """The kind of a storage where it is a foreign one (`torch.storage.UntypedStorage`): it stands for the storage, unread."""
    kind = pid[1] if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "storage" else None
    return kind if isinstance(kind, Placeholder) else None


def _storage_request(pid: Any) -> tuple[StorageKind, str, int]:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise RefusedError("it asks for an external object that is no storage.")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, StorageKind) or not isinstance(key, str) or type(count) is not int:
        raise RefusedError("a storage is described wrongly.")
    if not 0 <= count < 2**48:
        raise RefusedError("an array claims more bytes than the file has.")
    if len(pid) > 5 and pid[5] is not None:
        raise RefusedError("it has views of storages, which PyTorch has not written since 2017.")
    return kind, key, count


def _sealed(numbers: torch.Tensor, kind: StorageKind, count: int) -> Sealed:
    if (numbers.dtype, numbers.numel()) != (kind.dtype, count):
        raise RefusedError("a storage is described in two ways.")
    return Sealed(numbers)


def _numbers(data: bytearray, kind: StorageKind, count: int) -> torch.Tensor:
    if len(data) != count * kind.dtype.itemsize:
        raise RefusedError(f"an array has {len(data)} bytes instead of {count * kind.dtype.itemsize}.")
    return torch.frombuffer(data, dtype=kind.dtype) if count else torch.empty(0, dtype=kind.dtype)


def _finish(loaded: Any, budget: Budget, placeholders_under: Collection[str]) -> Any:
    """Plain containers with the arrays built; placeholders refused unless they lie below an allowed key."""
    done: tuple[_Done, _Done] = {}, {}
    if not placeholders_under or not isinstance(loaded, dict):
        return _plain(loaded, False, done[False], budget, 0)
    return {
        _key(key, False): _plain(value, foreign := key in placeholders_under, done[foreign], budget, 0)
        for key, value in loaded.items()
    }


def _plain(value: Any, foreign: bool, done: _Done, budget: Budget, depth: int) -> Any:
    if depth > DEPTH_LIMIT:
        raise RefusedError(f"containers lie more than {DEPTH_LIMIT} deep.")
    if id(value) in done:
        return done[id(value)]
    if refusal := _refusal(value):
        if not foreign:
            raise RefusedError(refusal)
        done[id(value)] = Placeholder()
    elif isinstance(value, ArrayRecipe):
        budget.spend(value.size)
        done[id(value)] = value.array()
    elif isinstance(value, Sealed):
        done[id(value)] = value.tensor
    elif isinstance(value, dict):
        done[id(value)] = made = {}
        for key, item in value.items():
            made[_key(key, foreign)] = _plain(item, foreign, done, budget, depth + 1)
    elif isinstance(value, list):
        done[id(value)] = items = []
        items += [_plain(item, foreign, done, budget, depth + 1) for item in value]
    elif type(value) is tuple:
        # Kept like the rest: tuples of shared tuples would otherwise be unfolded without end.
        done[id(value)] = tuple(_plain(item, foreign, done, budget, depth + 1) for item in value)
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


def _refusal(value: Any) -> str:
    """Why `value` cannot be used, where it is known to be no number; empty otherwise."""
    return value.refusal if isinstance(value, ArrayRecipe | DTypeRecipe | Inert) else ""


def _key(key: Any, foreign: bool) -> Any:
    if not isinstance(key, OddKey):
        return key
    if foreign:
        return key.kind
    raise RefusedError(f"a key or member of a set is a {key.kind} instead of a text or number of usual size.")


_LEAVES = (
    str, bytes, int, float, bool, complex, type(None), torch.Size, torch.dtype,
)  # fmt: skip
