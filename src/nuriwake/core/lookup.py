"""Names to objects: one visible dict, an import path `package.module:Name`, or an entry point; else "did you mean"."""

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
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
        UserError: the module does not import or has no such name, or the path is none.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name) or module_name.startswith("."):
        raise UserError(f"'{path}': expected an import path such as 'package.module:Name'.")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"'{path}': the module '{module_name}' does not import ({error}).") from error
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(f"'{path}': the module '{module_name}' has no '{name}'.{did_you_mean(name, public)}")
    return vars(module)[name]


def import_here(path: str) -> Any:
    """As `import_object`, where the module may also be a file of the current working folder.

    For names that a person types or writes into a configuration. A name that comes with a file (a bundle's model) must not
    lead to whatever lies in the folder beside it.
    """
    package = path.partition(":")[0].partition(".")[0]
    here = str(Path.cwd())
    if here not in sys.path and package and package not in sys.modules and find_spec(package) is None:
        # At the end, so that no file here hides an installed package; it stays, for processes that unpickle what was found.
        sys.path.append(here)
    return import_object(path)


def lookup(name: str, table: Mapping[str, Any], kind: str, *, here: bool = False) -> Any:
    """What `name` stands for. A table value that is a string `package.module:Name` is imported on first use.

    Args:
        name: a key of `table`, an import path `package.module:Name`, or the name of an entry point in `nuriwake.<kind>`.
        table: the visible dict (`MODELS`, `FORMATS`, `LOSSES`).
        kind: what it is, for the message and the entry-point group: "model", "format", "loss".
        here: an import path may lead to a file of the current working folder, see `import_here`.

    Raises:
        UserError: nothing of that name; the message names the nearest.
    """
    if name in table:
        value = table[name]
        return import_object(value) if isinstance(value, str) else value
    if ":" in name:
        return import_here(name) if here else import_object(name)
    for entry in entry_points(group=f"nuriwake.{kind}", name=name):
        return entry.load()
    raise UserError(f"There is no {kind} named '{name}'.{did_you_mean(name, table)}")
