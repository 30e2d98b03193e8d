"""Class lists beside the data: classes.json, classes.txt, class_names.txt, labels.txt, class_dict.csv."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.labels import Colour
from nuriwake.data.description import DataDescription

JSON_FILES = ("classes.json", "labels.json")
TEXT_FILES = ("classes.txt", "class_names.txt", "labels.txt")
TABLE_FILES = ("class_dict.csv", "classes.csv")

IGNORE_NAMES = frozenset({"ignore", "__ignore__", "void"})
"""In `values` and `colours` these mean `IGNORE` where no class has the name."""


@dataclass(frozen=True)
class ClassList:
    """What is said of the classes; all may be empty.

    Args:
        names: class i has label i.
        colours: class name (or "ignore") -> RGB in RGB-coded masks.
        ignore: raw values that count nowhere; None when nothing is said.
        values: raw value -> class name (or "ignore").
        source: where this was read, for notes and messages.
        instance_ids: whether mask values number objects; None when nothing is said.
    """

    names: tuple[str, ...] = ()
    colours: Mapping[str, Colour] = field(default_factory=dict)
    ignore: tuple[int, ...] | None = None
    values: Mapping[int, str] = field(default_factory=dict)
    source: str = ""
    instance_ids: bool | None = None


def find_classes(root: Path, description: DataDescription) -> ClassList:
    """The class list of the first file found in `root`; what the description says goes before it.

    Raises:
        UserError: a file or field that cannot be understood.
    """
    found = ClassList()
    readers = ((JSON_FILES, _from_json), (TABLE_FILES, _from_table), (TEXT_FILES, _from_text))
    path = next((root / name for names, _ in readers for name in names if (root / name).is_file()), None)
    if path is not None and not description.classes:
        reader = next(read for names, read in readers if path.name in names)
        try:
            found = replace(reader(path), source=path.name)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError, csv.Error) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: the class list cannot be read ({error}).") from error
    if description.classes:
        found = ClassList(description.classes, source="the description")
    if description.values:
        found = replace(found, values=_numbered(description.values))
        order = [name for _, name in sorted(found.values.items()) if name not in IGNORE_NAMES]
        found = replace(found, names=found.names or tuple(dict.fromkeys(order)))
    if description.colours:
        names = found.names or tuple(name for name in description.colours if name not in IGNORE_NAMES)
        found = replace(found, colours=dict(description.colours), names=names)
    if description.threshold is not None and description.ignored:
        raise UserError(
            f"the description: 'threshold: {description.threshold}' makes every value background or foreground, so the values "
            f"of 'ignore' ({', '.join(map(str, description.ignored))}) would count; take one of the two fields out."
        )
    found = found if description.ignored is None else replace(found, ignore=description.ignored)
    beyond = [value for value in (*found.values, *(found.ignore or ())) if not 0 <= value <= 65535]
    if beyond:
        where = "the description" if path is None or description.ignored or description.values else path
        raise UserError(
            f"{where}: values of masks lie in 0..65535, found {beyond[0]} in 'values' or 'ignore'; correct it."
        )
    return found


def class_label(name: str, names: Sequence[str], ignore: int) -> int | None:
    """The label of `name`, `ignore` for the ignore names, None when it is unknown."""
    if name in names:
        return names.index(name)
    return ignore if name in IGNORE_NAMES else None


def _numbered(values: Mapping[str, str]) -> dict[int, str]:
    try:
        return {int(value): name for value, name in values.items()}
    except ValueError as error:
        raise UserError(f"values: raw mask values are whole numbers ({error}).") from error


def _from_json(path: Path) -> ClassList:
    plain: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    fields: Mapping[str, Any] = plain if isinstance(plain, Mapping) else {"classes": plain}
    classes = next((fields[key] for key in ("classes", "names", "labels", "categories") if key in fields), None)
    if classes is None and fields and all(key.isdigit() for key in fields):
        classes = fields
    if not classes:
        raise UserError(
            f'{path}: expected {{"classes": ["name", ...]}}, found the fields {", ".join(fields) or "none"}.'
        )
    if isinstance(classes, Mapping):  # {"0": "sky"}; the keys must count up, or labels would shift
        numbers = sorted(int(key) for key in classes)
        if numbers != list(range(len(numbers))):
            raise UserError(f"{path}: class numbers must be 0..{len(numbers) - 1} without gaps, found {numbers[:12]}.")
        classes = [classes[str(number)] for number in numbers]
    names = tuple(str(item["name"]) if isinstance(item, Mapping) else str(item) for item in classes)
    colours = {
        name: _colour(item.get("colour", item.get("color")), path)
        for name, item in zip(names, classes, strict=True)
        if isinstance(item, Mapping) and ("color" in item or "colour" in item)
    }
    listed = fields.get("colours", fields.get("colors"))
    if isinstance(listed, Mapping):
        colours = {str(name): _colour(value, path) for name, value in listed.items()}
    elif listed:
        colours = {name: _colour(value, path) for name, value in zip(names, listed, strict=True)}
    ignore = fields.get("ignore_index", fields.get("ignore"))
    ignored = None if ignore is None else tuple(int(v) for v in (ignore if isinstance(ignore, list) else [ignore]))
    return ClassList(names, colours, ignored, instance_ids=fields.get("instance_ids"))


def _from_text(path: Path) -> ClassList:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    # labelme's converters write '__ignore__' first: it is label -1, stored as 255.
    return ClassList(tuple(name for name in names if name != "__ignore__"))


def _from_table(path: Path) -> ClassList:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [{str(key).strip().lower(): value for key, value in row.items()} for row in csv.DictReader(file)]
    names = tuple(str(row["name"]).strip() for row in rows)
    colours = {name: _colour([int(row[key]) for key in "rgb"], path) for name, row in zip(names, rows, strict=True)}
    return ClassList(names, colours)


def _colour(value: Any, path: Path) -> Colour:
    if isinstance(value, str) and len(value.lstrip("#")) == 6:
        value = list(bytes.fromhex(value.lstrip("#")))
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(0 <= int(part) <= 255 for part in value):
        raise UserError(f"{path}: a colour is [red, green, blue], each 0..255, found {value!r}.")
    red, green, blue = (int(part) for part in value)
    return red, green, blue
