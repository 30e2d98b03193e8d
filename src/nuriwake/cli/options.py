"""The fields of a frozen configuration as command-line options of which any may be left out."""

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import yaml


@cache
def partial(kind: type, leave_out: tuple[str, ...] = ()) -> type:
    """A dataclass like `kind` whose fields, nested dataclasses included, are all optional.

    A default says nothing about what the user typed; here None means "not typed", so that YAML below it counts.

    Args:
        kind: a dataclass.
        leave_out: dotted names of fields that the command takes in another way.
    """
    hints = get_type_hints(kind)
    parts: list[tuple[str, Any, Any]] = []
    for item in fields(kind):
        hint = hints[item.name]
        if item.name in leave_out:
            continue
        if is_dataclass(hint):
            head = f"{item.name}."
            inner = partial(hint, tuple(name.removeprefix(head) for name in leave_out if name.startswith(head)))
            parts.append((item.name, inner, field(default_factory=inner)))
        elif get_origin(hint) is Mapping:
            parts.append((item.name, dict[get_args(hint)], field(default_factory=dict)))
        else:
            parts.append((item.name, hint | None, field(default=None)))
    made = make_dataclass(kind.__name__, parts, frozen=True)
    # cyclopts opens up a class only when its module is not Python's own; make_dataclass says "types".
    made.__doc__, made.__module__ = kind.__doc__, kind.__module__
    return made


def given(options: Any) -> dict[str, Any]:
    """What was typed, nested: {"optim": {"learning_rate": 3e-4}}. Texts of free mappings are read as YAML scalars."""
    out: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            value = given(value)
        elif isinstance(value, dict):
            value = {key: yaml.safe_load(text) if isinstance(text, str) else text for key, text in value.items()}
        if value is not None and value != {}:
            out[item.name] = value
    return out
