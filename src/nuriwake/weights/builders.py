"""What a name in a foreign pickle may stand for: our own builders, which check everything they are given."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch


class RefusedError(Exception):
    """A pickle wants something that is not on the list. The message completes "refused: ..."."""


class StorageKind(NamedTuple):
    """The type of the numbers in a storage. A tuple, because a pickle could write into an object's `__dict__`."""

    dtype: torch.dtype


class Sealed:
    """A tensor while the pickle is read. `Tensor.__setstate__` would do too much, so a pickle never holds the tensor."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it tries to change a tensor after it was built.")


class Builder:
    """A callable that stands for an allowed name. It has no attributes that a pickle could set."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it tries to change how objects are built.")


class OddKey:
    """Stands for a key or a member of a set that is neither a text nor a number of usual size; it knows only of which type."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


def hashable(key: Any) -> Any:
    """`key` where it is quick to hash, an `OddKey` for it otherwise: hashing a tuple of tuples may take for ever, or end the
    process, and that of a huge number is counted anew each time."""
    small = type(key) is not int or -(2**63) <= key < 2**63
    return key if small and type(key) in (str, int, float, bool, bytes, type(None)) else OddKey(type(key).__name__)


def shown(value: Any) -> str:
    """`value` for a message: nothing that a pickle could make long or deep."""
    return repr(value[:40]) if isinstance(value, str | bytes) else f"a {type(value).__name__}"


class Placeholder:
    """A foreign class or object that was not built: it knows its name, and nothing else of what the pickle tells it."""

    __slots__ = ("name",)

    def __init__(self, name: str = "object") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Placeholder({self.name})"


_NEVER = """
io _io os posix nt subprocess sys shutil importlib runpy pickle _pickle ctypes socket pty commands code codeop webbrowser
multiprocessing threading asyncio builtins __builtin__ operator functools timeit pdb bdb cProfile profile pip
signal marshal imp pkgutil zipimport atexit urllib http requests tempfile
"""
_NEVER_MODULES = frozenset(_NEVER.split())
_HARMLESS = ("object", "getattr", "slice", "range", "bytes", "bytearray", "str", "complex")


def never(module: str, name: str) -> bool:
    """Names that no checkpoint has in good faith: refused even where placeholders are allowed."""
    if module in ("builtins", "__builtin__") and name in _HARMLESS:
        return False
    return module in ("torch.hub", "torch.serialization") or module.partition(".")[0] in _NEVER_MODULES


class Inert:
    """Stands for what is neither a number nor an array of numbers (a NumPy text). It knows why it would be refused, and
    nothing of what the pickle tells it: training programs keep such things beside the arrays, where nobody reads them."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal


class DTypeRecipe:
    """A NumPy dtype in the making. One of numbers or truth values has an empty `refusal`; any other is inert, as `Inert`."""

    __slots__ = ("code", "order", "refusal")

    def __init__(self, code: Any, *_: Any) -> None:
        try:
            known = np.dtype(code) if isinstance(code, str) and len(code) <= 8 else None
        except TypeError:
            known = None
        usable = known is not None and known.kind in "biufc"
        self.code, self.order = known if usable else None, "="
        self.refusal = "" if usable else f"it has an array of {shown(code)}, which are no numbers."

    def __setstate__(self, state: Any) -> None:
        if self.refusal:
            return
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise RefusedError("a NumPy number type is described wrongly.")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """The finished number type. Raises RefusedError where it is none."""
        if self.code is None:
            raise RefusedError(self.refusal)
        return self.code if self.order in "=|" else np.dtype(f"{self.order}{self.code.str[1:]}")


class ArrayRecipe:
    """A NumPy array in the making; `array()` builds it. One of no numbers is inert, as `Inert`: it keeps nothing."""

    __slots__ = ("_state", "refusal")

    def __init__(self, *_: Any) -> None:
        self._state: Any = None
        self.refusal = ""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], DTypeRecipe):
            raise RefusedError("a NumPy array is described wrongly.")
        self._state, self.refusal = None, state[2].refusal
        if self.refusal:
            return
        if not isinstance(state[4], bytes | bytearray | str):
            raise RefusedError("a NumPy array's bytes are no bytes.")
        _check_shape(state[1])
        self._state = state

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return 0 if self._state is None else math.prod(self._state[1]) * self._state[2].dtype.itemsize

    def array(self) -> np.ndarray:
        """The array in native byte order: of a large one with that order a view, which cannot be written to."""
        if self._state is None:
            raise RefusedError(self.refusal or "a NumPy array has no content.")
        _, shape, recipe, column_major, data = self._state
        if isinstance(data, str):  # Python 2 pickles, read as latin-1
            data = data.encode("latin1")
        if len(data) != self.size:
            raise RefusedError("a NumPy array's bytes do not fit its shape.")
        flat = np.frombuffer(data, recipe.dtype)
        if len(data) < _SMALL or not flat.dtype.isnative:
            flat = flat.astype(recipe.dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if column_major else "C")


_SMALL = 1 << 16
"""Bytes up to which an array is copied: Python shares short texts of bytes, and a few of these weigh nothing."""


def _from_buffer(data: Any, recipe: Any, shape: Any, order: Any) -> ArrayRecipe:
    # How protocol 5 writes a contiguous array.
    made = ArrayRecipe()
    made.__setstate__((1, shape, recipe, order == "F", data))
    return made


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**48 for n in shape):
        raise RefusedError("an array's shape is described wrongly.")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Sealed | Placeholder:
    """A view of `storage` that stays inside it; a storage of an unknown kind makes no tensor and stays what it is."""
    if isinstance(storage, Placeholder):
        return storage
    if not isinstance(storage, Sealed) or not isinstance(offset, int) or not 0 <= offset < 2**48:
        raise RefusedError("a tensor is described wrongly.")
    _check_shape(size)
    _check_shape(stride)
    numbers = storage.tensor.view(-1)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= numbers.numel() or math.prod(size) > numbers.numel()):
        raise RefusedError("a tensor reaches beyond its numbers.")
    return Sealed(torch.as_strided(numbers, size, stride, offset) if math.prod(size) else numbers.new_empty(size))


def _parameter(data: Any, *_: Any) -> Sealed | Placeholder:
    if not isinstance(data, Sealed | Placeholder):
        raise RefusedError("a parameter holds no tensor.")
    return data


def _scalar(recipe: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    if isinstance(recipe, DTypeRecipe) and recipe.refusal:
        return Inert(recipe.refusal)
    if not isinstance(recipe, DTypeRecipe) or not isinstance(data, bytes) or len(data) != recipe.dtype.itemsize:
        raise RefusedError("a NumPy number is described wrongly.")
    return np.frombuffer(data, recipe.dtype)[0].item()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    # How protocol 2 writes bytes; no other codec is needed, and some of them decompress.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"it encodes text as {shown(encoding)}.")
    return text.encode("latin1")


def _of(kind: Callable[..., Any], *accepted: type) -> Builder:
    def build(*arguments: Any) -> Any:
        if len(arguments) > 1 or not all(isinstance(item, accepted) for item in arguments):
            raise RefusedError("a plain container is described wrongly.")
        return kind(*arguments)

    return Builder(build)


def _set_of(kind: Callable[..., Any]) -> Builder:
    """Of hashable members only: see `hashable`."""

    def build(items: Any = ()) -> Any:
        return kind(map(hashable, items))

    return _of(build, list, tuple)


def _mapping_of(kind: Callable[..., Any]) -> Builder:
    """Of pairs with hashable keys only: see `hashable`."""

    def build(pairs: Any = ()) -> Any:
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise RefusedError("a mapping is described wrongly.")
        return kind((hashable(key), value) for key, value in pairs)

    return _of(build, list, tuple)


def _names(modules: str, names: str) -> list[str]:
    return [f"{module}.{name}" for module in modules.split() for name in names.split()]


_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
}  # fmt: skip
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64"

ALLOWED: dict[str, Any] = {
    **{f"torch.{name}": StorageKind(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": getattr(torch, name) for name in _DTYPES.split()},
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_parameter": Builder(_parameter),
    "torch.Size": _of(torch.Size, tuple, list),
    "torch.device": Builder(lambda *arguments: "cpu"),
    "collections.OrderedDict": _mapping_of(OrderedDict),
    "_codecs.encode": Builder(_encoded),
    **dict.fromkeys(_names("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"), Builder(ArrayRecipe)),
    **dict.fromkeys(_names("numpy.core.multiarray numpy._core.multiarray", "scalar"), Builder(_scalar)),
    **dict.fromkeys(_names("numpy.core.numeric numpy._core.numeric", "_frombuffer"), Builder(_from_buffer)),
    "numpy.ndarray": Builder(ArrayRecipe),
    "numpy.dtype": Builder(DTypeRecipe),
    # Protocol 2 writes empty bytes as a call without arguments; a call with any is an error.
    **dict.fromkeys(_names("builtins __builtin__", "bytes"), Builder(lambda: b"")),
    **dict.fromkeys(_names("builtins __builtin__", "set"), _set_of(set)),
    **dict.fromkeys(_names("builtins __builtin__", "frozenset"), _set_of(frozenset)),
    **dict.fromkeys(_names("builtins __builtin__", "list"), _of(list, list, tuple)),
    **dict.fromkeys(_names("builtins __builtin__", "dict"), _mapping_of(dict)),
}
"""Every name that a pickle may use -> what it gets. Nothing here imports, opens, or calls what the pickle brings."""
