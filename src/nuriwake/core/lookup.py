"""Names to objects: one visible dict, an import path `package.module:Name`, or an entry point; else "did you mean"."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from nuriwake.core.errors import UserError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: " Did you mean 'x'?" or the whole list when nothing is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def import_object(path: str) -> Any:
    """The object at `package.module:Name`.

    Raises:
        UserError: the module does not import or has no such name.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"'{path}': the module '{module_name}' does not import ({error}).") from error
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(f"'{path}': the module '{module_name}' has no '{name}'.{did_you_mean(name, public)}")
    return vars(module)[name]


def lookup(name: str, table: Mapping[str, Any], kind: str) -> Any:
    """What `name` stands for. A table value that is a string `package.module:Name` is imported on first use.

    Args:
        name: a key of `table`, an import path `package.module:Name`, or the name of an entry point in `nuriwake.<kind>`.
        table: the visible dict (`MODELS`, `FORMATS`, `LOSSES`).
        kind: what it is, for the message and the entry-point group: "model", "format", "loss".

    Raises:
        UserError: nothing of that name; the message names the nearest.
    """
    if name in table:
        value = table[name]
        return import_object(value) if isinstance(value, str) else value
    if ":" in name:
        return import_object(name)
    for entry in entry_points(group=f"nuriwake.{kind}", name=name):
        return entry.load()
    raise UserError(f"There is no {kind} named '{name}'.{did_you_mean(name, table)}")
