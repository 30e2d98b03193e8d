"""Frozen dataclasses <-> plain dicts (JSON, YAML), strictly: an unknown field is an error that names the nearest one."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean


def to_plain(value: Any) -> Any:
    """`value` (dataclass, tuple, mapping, path, number, text) as dicts, lists and scalars that JSON can hold."""
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: Any, value: Any, where: str = "") -> Any:
    """`value` (from JSON or YAML) as the annotated type `kind`; dataclass fields left out take their defaults.

    Args:
        kind: a frozen dataclass, or any annotation made of dataclasses, tuples, mappings, unions, literals and scalars.
        where: dotted path of `value`, for messages ("optim.learning_rate").

    Raises:
        UserError: unknown field, missing field, or a value of another type; with `where`, the expected and the found.
    """
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where or 'value'}: found {value!r}.{did_you_mean(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin in (dict, Mapping):
        _expect(isinstance(value, Mapping), "a mapping", value, where)
        return {str(key): from_plain(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    _expect(isinstance(value, Mapping), f"a mapping of {kind.__name__} fields", value, where)
    hints, known = get_type_hints(kind), {item.name: item for item in fields(kind) if item.init}
    dotted = f"{where}." if where else ""
    for name in value:
        if name not in known:
            raise UserError(f"There is no field '{dotted}{name}'.{did_you_mean(str(name), known)}")
    for name, item in known.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"The field '{dotted}{name}' is missing.")
    return kind(**{name: from_plain(hints[name], item, f"{dotted}{name}") for name, item in value.items()})


def _union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in arguments:
        return None
    errors: list[UserError] = []
    for argument in arguments:
        if argument is not NoneType:
            try:
                return from_plain(argument, value, where)
            except UserError as error:
                errors.append(error)
    raise errors[0]


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, Sequence) and not isinstance(value, str), "a list", value, where)
    if len(arguments) == 2 and arguments[1] is ...:
        return tuple(from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(arguments), f"a list of {len(arguments)}", value, where)
    return tuple(
        from_plain(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as text
            return float(value)
        except ValueError:
            pass
    if kind is Path and isinstance(value, str):
        return Path(value)
    _expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), _named(kind), value, where)
    return value


def _named(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _expect(condition: bool, expected: str, value: Any, where: str) -> None:
    if not condition:
        raise UserError(f"{where or 'value'}: expected {expected}, found {value!r}.")
