"""Listing COCO's JSON files leniently: what does not fit together is left out of the entries and kept as a problem."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import BACKGROUND_NAMES, LabelSpace
from nuriwake.data.check.entry import Annotation, Entry, Listing, Segment
from nuriwake.data.check.finding import Problem
from nuriwake.data.coco import stem
from nuriwake.data.coco_files import AnnotationFile, Kind, described_files, locate_images
from nuriwake.data.description import DataDescription
from nuriwake.data.json_kernels import EXACT, parse_integers, parse_number_rows, parse_numbers
from nuriwake.data.json_scan import JsonFile, JsonTable, read_json

_FIELDS = ("id", "image_id", "category_id", "iscrowd", "bbox", "area", "segmentation")
_NO = -(2**62)
"""Stands for a whole number that is not there or is none."""


def list_coco(root: Path, description: DataDescription) -> Listing:
    """The images of the instances files with their annotations as they stand there."""
    return _list(root, description, "instances")


def list_panoptic(root: Path, description: DataDescription) -> Listing:
    """The images of the panoptic files with their PNG and segments."""
    return _list(root, description, "panoptic")


def _list(root: Path, description: DataDescription, kind: Kind) -> Listing:
    entries: list[Entry] = []
    problems: list[Problem] = []
    names: dict[int, tuple[str, bool]] = {}
    files = described_files(root, description, kind)
    for file in files:
        try:
            found = _File(root, file, description, problems)
            names |= {key: value for key, value in found.categories.items() if key not in names}
            entries += found.instances() if kind == "instances" else found.panoptic()
        except UserError as error:
            problems.append(Problem("annotations_unreadable", str(file.path), _short(error, file.path)))
    ordered = [key for key in sorted(names) if kind == "panoptic" or names[key][0] not in BACKGROUND_NAMES]
    space = None
    if ordered and len(ordered) <= 255 and len({names[key][0] for key in ordered}) == len(ordered):
        space = LabelSpace(tuple(names[key][0] for key in ordered), tuple(names[key][1] for key in ordered))
    return Listing(
        root,
        "coco" if kind == "instances" else "coco_panoptic",
        "coco" if kind == "instances" else "panoptic",
        tuple(_unique(entries)),
        tuple(problems),
        space=space,
        numbers={key: label for label, key in enumerate(ordered)},
        sources=tuple(file.path for file in files),
    )


def _unique(entries: list[Entry]) -> list[Entry]:
    """Names with their split in front where a name stands in two splits."""
    if len({entry.name for entry in entries}) == len(entries):
        return entries
    return [replace(entry, name=f"{entry.split}/{entry.name}") for entry in entries]


class _File:
    """One JSON file being listed."""

    def __init__(self, root: Path, file: AnnotationFile, description: DataDescription, problems: list[Problem]) -> None:
        self.root, self.file, self.description, self.problems = root, file, description, problems
        self.json: JsonFile = read_json(file.path)
        self.categories = self._categories()
        self._images()

    def instances(self) -> list[Entry]:
        """The entries with their annotations."""
        table = self.json.objects("annotations", _FIELDS)
        ids, categories = self._ids(table), _integers(table, "category_id")
        crowd, boxes, areas = _integers(table, "iscrowd"), _rows(table, "bbox"), _numbers(table, "area")
        places, rows = table.places("segmentation"), self._owners(table)
        known = np.isin(categories, list(self.categories))
        self._tell(table, "category_unknown", ~known, lambda row: f"category_id {_told(categories[row])}")
        self._tell(table, "segmentation_missing", places[:, 0] < 0, lambda _: "no segmentation")
        odd = (crowd != _NO) & (crowd != 0) & (crowd != 1)
        self._tell(table, "crowd_flag", odd, lambda row: f"iscrowd is {crowd[row]}")
        keep = known & (places[:, 0] >= 0) & (rows >= 0)
        groups: list[list[Annotation]] = [[] for _ in self.names]
        for row in np.flatnonzero(keep).tolist():
            start, end = places[row].tolist()
            box = None if np.isnan(boxes[row]).any() else tuple(boxes[row].tolist())
            area = None if np.isnan(areas[row]) else float(areas[row])
            text = bytes(self.json.data[start:end])
            groups[rows[row]].append(
                Annotation(int(ids[row]), int(categories[row]), bool(crowd[row] == 1), box, area, text)
            )
        return [
            Entry(stem(name), self.file.split, path, annotations=tuple(groups[i]), stated=self.sizes[i])
            for i, name in enumerate(self.names)
            if (path := self.paths[i]) is not None
        ]

    def panoptic(self) -> list[Entry]:
        """The entries with their PNG and segments."""
        table = self.json.objects("annotations", ("image_id", "file_name", "segments_info"))
        segments, starts = self.json.nested(table, "segments_info", ("id", "category_id", "area", "iscrowd"))
        ids, categories, areas = (
            _integers(segments, "id"),
            _integers(segments, "category_id"),
            _numbers(segments, "area"),
        )
        crowd = _integers(segments, "iscrowd") == 1
        rows = self._owners(table)
        texts = table.texts("file_name") if table.present("file_name").all() else None
        folder = self._png_folder(texts or [stem(name) + ".png" for name in self.names])
        entries: list[Entry] = []
        seen: set[int] = set()
        for row in np.flatnonzero(rows >= 0).tolist():
            image = int(rows[row])
            path = self.paths[image]
            if image in seen:
                self.problems.append(Problem("image_listed_twice", table.who(row), "a second panoptic annotation"))
            elif path is not None:
                png = folder / (texts[row] if texts else stem(self.names[image]) + ".png")
                part = range(int(starts[row]), int(starts[row + 1]))
                listed = tuple(Segment(int(ids[i]), int(categories[i]), float(areas[i]), bool(crowd[i])) for i in part)
                entries.append(Entry(stem(self.names[image]), self.file.split, path, (png,), segments=listed))
            seen.add(image)
        return entries

    def _categories(self) -> dict[int, tuple[str, bool]]:
        plain: Any = self.json.member("categories")
        found: dict[int, tuple[str, bool]] = {}
        names: set[str] = set()
        for row, item in enumerate(plain if isinstance(plain, list) else []):
            who = f"{self.file.path}: categories[{row}]"
            if (
                not isinstance(item, Mapping)
                or type(item.get("id")) is not int
                or not isinstance(item.get("name"), str)
            ):
                self.problems.append(Problem("categories_wrong", who, "expected a whole number 'id' and a text 'name'"))
                continue
            if item["id"] in found or item["name"] in names:
                self.problems.append(Problem("categories_wrong", who, f"{item['id']} '{item['name']}' stands twice"))
                continue
            names.add(item["name"])
            found[item["id"]] = (item["name"], bool(item.get("isthing", 1)))
        if not found:
            self.problems.append(Problem("categories_wrong", str(self.file.path), "there are no categories"))
        return found

    def _images(self) -> None:
        table = self.json.objects("images", ("id", "file_name", "height", "width"))
        self.names = table.texts("file_name")
        self.keys = _keys(table, "id")
        heights, widths = _integers(table, "height"), _integers(table, "width")
        self.sizes = [
            (h, w) if h > 0 and w > 0 else None for h, w in zip(heights.tolist(), widths.tolist(), strict=True)
        ]
        first: dict[Any, int] = {}
        for row, key in enumerate(self.keys):
            if first.setdefault(key, row) != row:
                self.problems.append(Problem("image_ids_repeat", table.who(row), f"also {self.names[first[key]]}"))
        self.first = first
        named: dict[str, int] = {}
        for row, name in enumerate(self.names):
            if named.setdefault(name, row) != row:
                self.problems.append(Problem("image_listed_twice", table.who(row), f"'{name}' is listed twice"))
        located = locate_images(self.root, self.file, self.names, self.description.images)
        self.paths = [path if named[self.names[row]] == row else None for row, path in enumerate(located.paths)]
        if self.description.unpaired == "refuse":
            self.problems += [
                Problem("image_missing", table.who(row), f"'{self.names[row]}' is not in {located.folder}")
                for row, path in enumerate(located.paths)
                if path is None
            ]

    def _owners(self, table: JsonTable) -> np.ndarray:
        """int64 (N,): the number of the image of every row, -1 where there is none."""
        keys = _keys(table, "image_id")
        rows = np.array([self.first.get(key, -1) for key in keys], np.int64)
        self._tell(table, "image_unknown", rows < 0, lambda row: f"image_id {keys[row]} is not in 'images'")
        return rows

    def _ids(self, table: JsonTable) -> np.ndarray:
        if not table.present("id").any():
            return np.arange(1, len(table) + 1)
        ids = _integers(table, "id")
        order = np.argsort(ids, kind="stable")
        repeated = np.zeros(len(ids), bool)
        repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
        self._tell(table, "annotation_ids_repeat", repeated, lambda row: f"the id {_told(ids[row])} stands before")
        return ids

    def _png_folder(self, wanted: list[str]) -> Path:
        path, given = self.file.path, self.description.masks
        beside = [
            path.with_suffix(""),
            self.root / path.stem,
            self.root / "masks" / self.file.word,
            self.root / "masks",
        ]
        described = [self.root / given / path.stem, self.root / given] if given else []
        candidates = [*described, *beside, path.parent, self.root]
        return max(candidates, key=lambda folder: sum((folder / name).is_file() for name in wanted[:50]))

    def _tell(self, table: JsonTable, kind: str, where: np.ndarray, text: Callable[[int], str]) -> None:
        self.problems += [Problem(kind, table.who(row), text(row)) for row in np.flatnonzero(where).tolist()]


def _integers(table: JsonTable, key: str) -> np.ndarray:
    """int64 (N,); `_NO` where there is no whole number."""
    places = table.places(key)
    values, states = np.zeros(len(places), np.int64), np.zeros(len(places), np.uint8)
    parse_integers(table.file.bytes, places, values, states)
    for row in np.flatnonzero(states != EXACT).tolist():
        value = _value(table, key, row)
        fine = isinstance(value, bool | int | float) and value == value and abs(value) < 2**62 and int(value) == value
        values[row] = int(value) if fine else _NO
    return values


def _numbers(table: JsonTable, key: str) -> np.ndarray:
    places = table.places(key)
    values, states = np.zeros(len(places), np.float64), np.zeros(len(places), np.uint8)
    parse_numbers(table.file.bytes, places, values, states)
    for row in np.flatnonzero(states != EXACT).tolist():
        value = _value(table, key, row)
        values[row] = float(value) if isinstance(value, int | float) else np.nan
    return values


def _rows(table: JsonTable, key: str) -> np.ndarray:
    places = table.places(key)
    values, states = np.full((len(places), 4), np.nan), np.zeros(len(places), np.uint8)
    parse_number_rows(table.file.bytes, places, values, states)
    for row in np.flatnonzero(states != EXACT).tolist():
        value = _value(table, key, row)
        fine = isinstance(value, list) and len(value) == 4 and all(isinstance(item, int | float) for item in value)
        values[row] = value if fine else np.nan
    return values


def _keys(table: JsonTable, key: str) -> list[Any]:
    values = _integers(table, key)
    return [_value(table, key, row) if value == _NO else value for row, value in enumerate(values.tolist())]


def _value(table: JsonTable, key: str, row: int) -> Any:
    try:
        value = table.value(key, row) if table.present(key)[row] else None
    except UserError:
        return None
    return str(value) if isinstance(value, list | dict) and key != "bbox" else value


def _told(value: Any) -> str:
    return "none" if value == _NO else str(value)


def _short(error: UserError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
