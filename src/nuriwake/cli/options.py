"""The fields of a frozen configuration as command-line options of which any may be left out; settings from two places."""

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from cyclopts import Parameter

from nuriwake.core.errors import UserError
from nuriwake.inference.settings import PredictSettings


@cache
def partial(kind: type, leave_out: tuple[str, ...] = ()) -> type:
    """A dataclass like `kind` whose fields, nested dataclasses included, are all optional.

    A default says nothing about what the user typed; here None means "not typed", so that YAML below it counts. Lists of
    dataclasses or mappings (post-processing rules) are texts, one option each, in YAML: '{operation: open, radius: 2}'.

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
            free = dict[get_args(hint)]  # pyright: ignore[reportInvalidTypeArguments]
            parts.append((item.name, free, field(default_factory=dict)))
        else:
            hint = tuple[str, ...] if _is_nested(hint) else hint
            # --thresholds 0.4 0.6, not only --thresholds 0.4 --thresholds 0.6
            kept = Annotated[hint | None, Parameter(consume_multiple=True)] if _is_list(hint) else hint | None
            parts.append((item.name, kept, field(default=None)))
    made = make_dataclass(kind.__name__, parts, frozen=True)
    # cyclopts opens up a class only when its module is not Python's own; make_dataclass says "types".
    made.__doc__, made.__module__ = kind.__doc__, kind.__module__
    return made


def given(options: Any) -> dict[str, Any]:
    """What was typed, nested: {"optim": {"learning_rate": 3e-4}}. Texts in mappings and lists are read as YAML."""
    out: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            value = given(value)
        elif isinstance(value, dict):
            value = {key: _read(text, f"--{item.name}.{key}") for key, text in value.items()}
        elif isinstance(value, tuple):
            value = [_read(text, f"--{item.name}") for text in value]
        if value is not None and value != {}:
            out[item.name] = value
    return out


def settings_changes(file: Path | None, fields: Any) -> dict[str, Any]:
    """The fields of `PredictSettings` in the YAML file, with the options typed over them."""
    from nuriwake.api import read_settings

    below, typed = read_settings(file) if file else {}, given(fields)
    if isinstance(below.get("decoding"), Mapping) and "decoding" in typed:
        typed["decoding"] = {**below["decoding"], **typed["decoding"]}
    return {**below, **typed}


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1] is ...


def _is_nested(hint: Any) -> bool:
    """A tuple of dataclasses or mappings, alone or in a union."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return any(is_dataclass(item) or _holds_mapping(item) for item in arguments)
    return any(get_origin(item) is tuple and _is_nested(item) for item in arguments)


def _holds_mapping(hint: Any) -> bool:
    return get_origin(hint) is Mapping or any(get_origin(item) is Mapping for item in get_args(hint))


def _read(text: Any, option: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"{option}: expected YAML, such as '{{operation: open, radius: 2}}', found {text!r}."
        ) from error


SettingsFields = partial(PredictSettings)
NO_SETTINGS = SettingsFields()
