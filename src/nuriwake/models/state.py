"""Reading arrays from files without executing anything that is in them, and fitting them to a module strictly."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuriwake.core.errors import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""The endings of files that `read_state` is meant for."""

CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model")
"""Keys under which training programs wrap the arrays, in the order they are looked for."""


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The named arrays of a `.safetensors` or PyTorch (`.pth`, `.pt`, `.bin`, `.ckpt`) file, on the CPU.

    A wrapper dict (`CONTAINERS`) is opened and the prefix `module.` of data-parallel training is dropped. Pickles are
    read by PyTorch's restricted reader, which builds tensors and plain containers and executes nothing.

    Raises:
        UserError: no such file; truncated or of another kind; holds other objects than arrays (named); a zip bomb.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no file '{path}' to read weights from{' (it is a folder)' if path.is_dir() else ''}."
        )
    with path.open("rb") as file:
        head = file.read(16)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _arrays(_read_pickle(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"'{path}' is no readable safetensors file ({error}); is the download complete?") from error


def _read_pickle(path: Path) -> Any:
    _refuse_zip_bomb(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            raise UserError(
                f"'{path}' holds an object of another program ({foreign[1]}); rebuilding it could execute code, so the file "
                "is refused: save the state dict alone (arrays by name) and give that."
            ) from error
        # PyTorch's own advice here is to switch its protection off; nobody should follow it.
        raise UserError(f"'{path}' is no PyTorch file of plain arrays, or a damaged one.") from error
    except Exception as error:
        # A damaged file surfaces as whatever the zip and pickle readers trip over (RuntimeError, EOFError, KeyError...).
        raise UserError(f"'{path}' is damaged or no file of weights ({_first_line(error)}).") from error


def _refuse_zip_bomb(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(item.file_size for item in archive.infolist())
    packed = path.stat().st_size
    if unpacked > 2 * packed + 1_000_000:  # PyTorch stores without compression
        raise UserError(
            f"'{path}' would unpack from {packed:,} to {unpacked:,} bytes; no file of weights does, so it is refused."
        )


def _arrays(value: Any, path: Path) -> dict[str, Tensor]:
    """`value` as a flat dict of tensors, opened from the usual wrappers."""
    for key in CONTAINERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"'{path}' holds no named arrays; expected a state dict, found {_kind(value)}.")
    other = {str(key): item for key, item in value.items() if not isinstance(item, Tensor)}
    if other:
        kinds = listed(sorted({type(item).__name__ for item in other.values()}))
        raise UserError(f"'{path}' is no state dict (arrays by name): {listed(other)} are no arrays but {kinds}.")
    prefix = "module."
    if all(str(key).startswith(prefix) for key in value):
        return {str(key).removeprefix(prefix): item for key, item in value.items()}
    return {str(key): item for key, item in value.items()}


@dataclass(frozen=True)
class Misfit:
    """How arrays differ from what was expected; all empty when they fit.

    Attributes:
        missing, unexpected: names.
        misshapen: "name (expected 64x3x7x7, found 64x1x7x7)".
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        parts = ((self.missing, "missing"), (self.unexpected, "unexpected"), (self.misshapen, "of another shape"))
        return "; ".join(f"{len(names)} {what}: {listed(names)}" for names, what in parts if names)


def compare_state(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> Misfit:
    """Names and shapes of `found` against `expected`. A missing `num_batches_tracked` (a counter) is no misfit."""
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    misshapen = [
        f"{key} (expected {_shape(expected[key])}, found {_shape(item.shape)})"
        for key, item in found.items()
        if key in expected and item.shape != expected[key]
    ]
    return Misfit(tuple(missing), tuple(key for key in found if key not in expected), tuple(misshapen))


def load_strictly(module: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill every parameter and buffer of `module` with `state`, in place, or nothing at all.

    Args:
        source: who the arrays come from, as it should stand in the message.

    Raises:
        UserError: arrays missing, unexpected or of another shape, named.
    """
    own = module.state_dict()
    misfit = compare_state({key: item.shape for key, item in own.items()}, state)
    if misfit:
        raise UserError(f"{source} does not fit {type(module).__name__}: {misfit}.")
    module.load_state_dict(dict(state), strict=False)


def listed(names: Iterable[str], most: int = 4) -> str:
    """ "a, b, c, d and 17 more" """
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _kind(value: Any) -> str:
    return "an empty dict" if value == {} else f"a value of type {type(value).__name__}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:160]
