"""The corrected copy of files of shapes: CVAT, Label Studio, LabelMe, YOLO and GeoJSON.

Shapes that no reader could use, that cover no pixel or that stand twice are left out, and nothing else is changed: whatever else
the files hold (attributes, tags, drafts) stays as it is.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes, write_text
from nuriwake.core.targets import Size
from nuriwake.data import cvat, label_studio
from nuriwake.data.assembly import split_name
from nuriwake.data.check.entry import Entry
from nuriwake.data.check.looking import real_suffix
from nuriwake.data.check.survey import Survey
from nuriwake.data.coco import stem
from nuriwake.data.headers import image_header
from nuriwake.data.segmentation import read_segmentations
from nuriwake.data.texts import read_text

UNDRAWN = "[shape|shapes] that cannot be drawn left out"
EMPTY = "[shape|shapes] without a pixel left out"
TWICE = "[shape that stands|shapes that stand] twice left out"

Flags = list[str]
"""Of every shape of an image why it is left out; "" where it stays."""


def mend(survey: Survey, left_out: dict[str, str]) -> dict[str, Flags]:
    """Sample -> its flags, of CVAT and Label Studio; samples that can be read without the flagged shapes leave `left_out`."""
    find = _FLAGS.get(survey.listing.format)
    unreadable = {problem.sample for problem in survey.problems.get("truth_unreadable", [])}
    others = {
        problem.sample for kind in ("image_truncated", "image_unreadable") for problem in survey.problems.get(kind, [])
    }
    found: dict[str, Flags] = {}
    for entry in survey.listing.entries if find is not None else ():
        if find is None or entry.name in others or (entry.name in left_out and entry.name not in unreadable):
            continue
        flags, target = find(entry)
        if entry.name in left_out:
            if not _readable(survey, entry, target):
                continue
            del left_out[entry.name]
        found[entry.name] = flags
    return found


def fix_files(survey: Survey, flags: Mapping[str, Flags], folder: Callable[[Path], Path], done: Counter[str]) -> None:
    """Every annotation file of CVAT and Label Studio, with the samples in `flags` alone; `folder` says where its copy lies."""
    entries = {entry.name: entry for entry in survey.listing.entries if entry.name in flags}
    for kept in flags.values():
        done.update(why for why in kept if why)
    for path in survey.listing.sources:
        write = {"cvat": _fix_cvat, "label_studio": _fix_tasks}[survey.listing.format]
        write(path, folder(path), entries, flags)


def without_twice(path: Path, done: Counter[str]) -> str | None:
    """The text of a YOLO, LabelMe or GeoJSON file without what stands in it word by word before; None where nothing does."""
    if path.suffix == ".txt":
        lines = read_text(path).splitlines()
        kept = [
            line for i, line in enumerate(lines) if not line.strip() or line.split() not in map(str.split, lines[:i])
        ]
        done[TWICE] += len(lines) - len(kept)
        return "".join(f"{line}\n" for line in kept) if len(kept) < len(lines) else None
    key, ids = ("shapes", ()) if path.suffix == ".json" else ("features", ("id", "fid"))
    plain: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    items = plain.get(key) if isinstance(plain, dict) else None
    if not isinstance(items, list):
        return None
    first = {_words(item, ids): number for number, item in reversed(list(enumerate(items)))}
    plain[key] = [items[number] for number in sorted(first.values())]
    done[TWICE] += len(items) - len(first)
    return json.dumps(plain, ensure_ascii=False, indent=1) + "\n" if len(first) < len(items) else None


def _words(item: Any, ids: Sequence[str]) -> str:
    """What an item says, but for its number."""
    if isinstance(item, dict) and isinstance(item.get("properties"), dict):
        item = {**item, "properties": {key: value for key, value in item["properties"].items() if key not in ids}}
    plain = {key: value for key, value in item.items() if key not in ids} if isinstance(item, dict) else item
    return json.dumps(plain, sort_keys=True)


def _flags_cvat(entry: Entry) -> tuple[Flags, Any]:
    assert entry.record is not None
    file, size, rows = entry.record.target
    marks = [(dict(row).get("label"), dict(row).get("group_id", "0")) for _, row in rows]
    flags = _flagged(size, marks, lambda number: cvat.outline_of(rows[number][0], dict(rows[number][1]), size))
    return flags, (file, size, tuple(row for row, why in zip(rows, flags, strict=True) if not why))


def _flags_label_studio(entry: Entry) -> tuple[Flags, Any]:
    assert entry.record is not None
    (file, text), size = entry.record.target, image_header(entry.image).size
    results = json.loads(text)
    marks = [(label_studio.label_of(result), "0") for result in results]
    flags = _flagged(size, marks, lambda number: label_studio.outline_of(results[number], size))
    return flags, (file, json.dumps([result for result, why in zip(results, flags, strict=True) if not why]))


_FLAGS: dict[str, Callable[[Entry], tuple[Flags, Any]]] = {"cvat": _flags_cvat, "label_studio": _flags_label_studio}


def _flagged(size: Size, marks: Sequence[tuple[Any, str]], outline: Callable[[int], Any]) -> Flags:
    """Of shapes with (label, group): parts of one group are one object, and stay together."""
    flags: Flags = []
    seen: set[tuple[Any, str]] = set()
    for number, (label, group) in enumerate(marks):
        try:
            mask = read_segmentations([outline(number)], size, lambda _: "shape")
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ):  # as the readers have it; UserError is one
            flags.append(UNDRAWN)
            continue
        key = (label, json.dumps(mask.to_coco()[0]["counts"]))
        alone = group == "0"
        flags.append(EMPTY if alone and not mask.areas()[0] else TWICE if alone and key in seen else "")
        if alone:
            seen.add(key)
    return flags


def _readable(survey: Survey, entry: Entry, target: Any) -> bool:
    data = survey.listing.data
    assert data is not None
    assert entry.record is not None
    try:
        data.reader(replace(entry.record, target=target))
    except UserError:
        return False
    return True


def _fix_cvat(path: Path, to: Path, entries: Mapping[str, Entry], flags: Mapping[str, Flags]) -> None:
    root = ElementTree.parse(path).getroot()
    folder = split_name(path.parent.name) or split_name(path.stem.rpartition("_")[2]) or ""
    for image in root.findall("image"):
        name, subset = image.get("name", ""), image.get("subset", "")
        split = split_name(subset) or subset or folder or "default"
        entry = _owner(entries, path, split, stem(name))
        if entry is None:
            root.remove(image)
            continue
        image.set("name", str(PurePosixPath(name).with_suffix(real_suffix(entry.image))))
        shapes = [shape for shape in image if shape.tag in cvat.SHAPES]
        for shape, why in zip(shapes, flags[entry.name], strict=True):
            if why:
                image.remove(shape)
    write_bytes(to, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _fix_tasks(path: Path, to: Path, entries: Mapping[str, Entry], flags: Mapping[str, Flags]) -> None:
    kept: list[Any] = []
    for task in json.loads(path.read_bytes()):
        key, link = label_studio.link_of(task)
        name = PurePosixPath(label_studio.file_name(link)).name
        entry = _owner(entries, path, split_name(path.parent.name) or "", stem(name))
        if entry is None:
            continue
        suffix = PurePosixPath(name).suffix
        if link.endswith(suffix):
            task["data"][key] = link.removesuffix(suffix) + real_suffix(entry.image)
        why = iter(flags[entry.name])
        for annotation in label_studio.truth_of(task)[:1]:
            results = annotation.get("result") or []
            annotation["result"] = [
                item for item in results if item.get("type") not in label_studio.LABELS or not next(why)
            ]
        kept.append(task)
    write_text(to, json.dumps(kept, ensure_ascii=False))


def _owner(entries: Mapping[str, Entry], path: Path, split: str, name: str) -> Entry | None:
    """The sample of an image in the file `path`; names carry their split where the same stand in several."""
    for key in (f"{split}/{name}", name):
        entry = entries.get(key)
        if entry is not None and entry.record is not None and entry.record.target[0] == path.name:
            return entry
    return None
