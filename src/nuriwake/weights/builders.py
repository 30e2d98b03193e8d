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


class Placeholder:
    """A foreign object that was not built: it knows the name it had, takes whatever the pickle tells it, and keeps none."""

    __slots__ = ()
    name: str = "object"

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """An empty one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Placeholder":
        """A call of a foreign object is a placeholder again."""
        return self

    def __repr__(self) -> str:
        return f"Placeholder({self.name})"

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Forgets `value`."""

    def extend(self, values: Any) -> None:
        """Forgets `values`."""

    def add(self, value: Any) -> None:
        """Forgets `value`."""


def placeholder_class(name: str) -> type[Placeholder]:
    """A class for foreign objects called `name`; nothing is imported."""
    return type("Placeholder", (Placeholder,), {"name": name, "__slots__": ()})


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


class DTypeRecipe:
    """A NumPy dtype in the making: numbers and truth values only."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        try:
            known = np.dtype(code) if isinstance(code, str) and len(code) <= 8 else None
        except TypeError:
            known = None
        if known is None or known.kind not in "biufc":
            raise RefusedError(f"it has an array of {code!r}, which are no numbers.")
        self.code, self.order = known, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise RefusedError("a NumPy number type is described wrongly.")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """The finished number type."""
        return self.code if self.order in "=|" else np.dtype(f"{self.order}{self.code.str[1:]}")


class ArrayRecipe:
    """A NumPy array in the making; `array()` builds it."""

    __slots__ = ("_state",)

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], DTypeRecipe):
            raise RefusedError("a NumPy array is described wrongly.")
        self._state = state

    def array(self) -> np.ndarray:
        """A fresh array in native byte order."""
        if self._state is None:
            raise RefusedError("a NumPy array has no content.")
        _, shape, recipe, column_major, data = self._state
        _check_shape(shape)
        if isinstance(data, str):  # Python 2 pickles, read as latin-1
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * recipe.dtype.itemsize:
            raise RefusedError("a NumPy array's bytes do not fit its shape.")
        flat = np.frombuffer(data, recipe.dtype).astype(recipe.dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if column_major else "C")


def _from_buffer(data: Any, recipe: Any, shape: Any, order: Any) -> ArrayRecipe:
    # How protocol 5 writes a contiguous array.
    made = ArrayRecipe()
    made.__setstate__((1, shape, recipe, order == "F", data))
    return made


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**48 for n in shape):
        raise RefusedError("an array's shape is described wrongly.")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Sealed:
    """A view of `storage` that stays inside it."""
    if not isinstance(storage, Sealed) or not isinstance(offset, int) or offset < 0:
        raise RefusedError("a tensor is described wrongly.")
    numbers, size, stride = storage.tensor.view(-1), tuple(size), tuple(stride)
    _check_shape(size)
    _check_shape(stride)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= numbers.numel() or math.prod(size) > numbers.numel()):
        raise RefusedError("a tensor reaches beyond its numbers.")
    return Sealed(torch.as_strided(numbers, size, stride, offset) if math.prod(size) else numbers.new_empty(size))


def _parameter(data: Any, *_: Any) -> Sealed:
    if not isinstance(data, Sealed):
        raise RefusedError("a parameter holds no tensor.")
    return data


def _scalar(recipe: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(recipe, DTypeRecipe) or not isinstance(data, bytes) or len(data) != recipe.dtype.itemsize:
        raise RefusedError("a NumPy number is described wrongly.")
    return np.frombuffer(data, recipe.dtype)[0].item()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    # How protocol 2 writes bytes; no other codec is needed, and some of them decompress.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"it encodes text as {encoding!r}.")
    return text.encode("latin1")


def _of(kind: Callable[..., Any], *accepted: type) -> Builder:
    def build(*arguments: Any) -> Any:
        if len(arguments) > 1 or not all(isinstance(item, accepted) for item in arguments):
            raise RefusedError("a plain container is described wrongly.")
        return kind(*arguments)

    return Builder(build)


def _ordered(*arguments: Any) -> Any:
    if len(arguments) > 1 or not all(isinstance(item, list | tuple) for item in arguments):
        raise RefusedError("an ordered mapping is described wrongly.")
    return OrderedDict(*arguments)


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
    "collections.OrderedDict": Builder(_ordered),
    "_codecs.encode": Builder(_encoded),
    **dict.fromkeys(_names("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"), Builder(ArrayRecipe)),
    **dict.fromkeys(_names("numpy.core.multiarray numpy._core.multiarray", "scalar"), Builder(_scalar)),
    **dict.fromkeys(_names("numpy.core.numeric numpy._core.numeric", "_frombuffer"), Builder(_from_buffer)),
    "numpy.ndarray": Builder(ArrayRecipe),
    "numpy.dtype": Builder(DTypeRecipe),
    # Protocol 2 writes empty bytes as a call without arguments; a call with any is an error.
    **dict.fromkeys(_names("builtins __builtin__", "bytes"), Builder(lambda: b"")),
    **dict.fromkeys(_names("builtins __builtin__", "set"), _of(set, list, tuple)),
    **dict.fromkeys(_names("builtins __builtin__", "frozenset"), _of(frozenset, list, tuple)),
    **dict.fromkeys(_names("builtins __builtin__", "list"), _of(list, list, tuple)),
    **dict.fromkeys(_names("builtins __builtin__", "dict"), _of(dict, list, tuple)),
}
"""Every name that a pickle may use -> what it gets. Nothing here imports, opens, or calls what the pickle brings."""
