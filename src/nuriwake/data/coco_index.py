"""One COCO instances file as columns of numbers and places in the file: what is checked and known without a mask decoded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.coco_files import Category, read_categories
from nuriwake.data.dataset import listed
from nuriwake.data.json_kernels import segmentation_kinds
from nuriwake.data.json_scan import JsonTable, read_json

_ANNOTATION = ("id", "image_id", "category_id", "area", "iscrowd", "bbox", "segmentation")
_NOTHING, _POLYGONS, _RUNS = 0, 1, 2


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """The annotations of I images, A of them, those of one image one after the other in the file's order.

    Args:
        path: the file, read again for the segmentations of an image when it is asked for.
        length: its bytes, to notice that it was changed.
        sizes: int32 (I, 2), height and width as stated; zeros where they are not.
        offsets: int64 (I + 1,), the annotations of image i are offsets[i] to offsets[i + 1].
        starts, lengths: int64 and int32 (A,), where in the file the segmentation lies.
        categories: int64 (A,), category ids.
        crowd: bool (A,).
        areas: float64 (A,) as stated, NaN where not.
        boxes: float32 (A, 4), xyxy as stated; NaN where there is none with an area.
        ids: int64 (A,).
    """

    path: Path
    length: int
    sizes: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    ids: np.ndarray

    def rows(self, image: int) -> slice:
        """The annotations of `image`."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def segmentations(self, image: int) -> list[bytes]:
        """The JSON text of the segmentations of `image`. Raises UserError where the file is not what it was."""
        rows = self.rows(image)
        places = zip(self.starts[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        try:
            with self.path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != self.length:
                    raise UserError(f"{self.path}: the file was changed since it was opened; open the data set again.")
                return [_read(file, start, length) for start, length in places]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error}).") from error


@dataclass(frozen=True)
class CocoFile:
    """What one file says: its index, the names of its images in the index's order, its categories, and what to note."""

    index: CocoIndex
    names: tuple[str, ...]
    ids: tuple[int | str, ...]
    categories: tuple[Category, ...]
    notes: tuple[str, ...]


def read_coco(path: Path) -> CocoFile:
    """The COCO instances file at `path`.

    Raises:
        UserError: no JSON or cut off, fields that are missing or of another kind, ids that repeat, annotations of an
            unknown image or category, or without a segmentation; file, field and id are named.
    """
    file = read_json(path)
    categories = read_categories(file)
    images = file.objects("images", ("id", "file_name", "height", "width"))
    table = file.objects("annotations", _ANNOTATION)
    sizes = np.stack([images.integers(side, default=0) for side in ("height", "width")], axis=1)
    for row in np.flatnonzero(((sizes < 0) | (sizes > 2**31 - 1)).any(axis=1)).tolist():
        raise UserError(f"{images.who(row)}: height and width are positive, found {sizes[row].tolist()}.")
    image_ids, owners = image_keys(images, table, "image_id")
    refuse_repeated(images, image_ids)
    notes: list[str] = []
    _, order, offsets = grouped(images, image_ids, table, owners)
    ids = _annotation_ids(table, notes)
    labels = table.integers("category_id")
    _refuse_unknown_categories(table, labels, categories)
    crowd = _flags(table)
    _check_kinds(table, ids, crowd, notes)
    boxes = _boxes(table, ids, notes)
    areas = _areas(table, ids, notes)
    places = table.places("segmentation")
    index = CocoIndex(
        path,
        len(file.data),
        sizes.astype(np.int32),
        offsets,
        places[order, 0],
        (places[order, 1] - places[order, 0]).astype(np.int32),
        labels[order],
        crowd[order],
        areas[order],
        boxes[order],
        ids[order],
    )
    names = tuple(images.texts("file_name"))
    identifiers = tuple(_identifiers(images))
    return CocoFile(index, names, identifiers, tuple(categories), tuple(f"{path.name}: {note}" for note in notes))


def image_keys(images: JsonTable, table: JsonTable, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of `images` and those that `table` refers to by `key`, as int64; ids that are texts are numbered."""
    first = images.places("id")[:1, 0]
    if len(first) == 0 or first[0] < 0 or images.file.bytes[first[0]] != ord('"'):
        return images.integers("id"), table.integers(key)
    texts = images.texts("id")
    numbers = {text: number for number, text in enumerate(texts)}
    wanted = [numbers.get(text, -1) for text in table.texts(key)]
    return np.array([numbers[text] for text in texts], np.int64), np.array(wanted, np.int64)


def refuse_repeated(table: JsonTable, ids: np.ndarray) -> None:
    """Raises UserError when `ids` (N,) of the rows of `table` repeat."""
    ordered = np.sort(ids)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        row = int(np.flatnonzero(ids == repeated[0])[1])
        raise UserError(
            f"{table.who(row)}: {len(repeated)} ids of '{table.name}' stand more than once, such as "
            f"{listed([str(value) for value in repeated.tolist()])}; ids are unique."
        )


def grouped(
    images: JsonTable, image_ids: np.ndarray, table: JsonTable, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of `table` by image.

    Returns:
        For every row the number of its image, the order that puts rows of one image together, and offsets (I + 1,) int64.

    Raises:
        UserError: a row of an unknown image.
    """
    sorting = np.argsort(image_ids, kind="stable")
    known = image_ids[sorting]
    places = np.minimum(np.searchsorted(known, owners), max(len(known) - 1, 0))
    unknown = np.flatnonzero(known[places] != owners) if len(known) else np.arange(len(owners))
    if len(unknown):
        row = int(unknown[0])
        raise UserError(
            f"{table.who(row)}: {len(unknown)} of {len(table)} annotations belong to an image that is not in 'images' (this one to "
            f"{table.value('image_id', row)}); add the image or take them out."
        )
    rows = sorting[places] if len(known) else places
    offsets = np.zeros(len(images) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(images)), out=offsets[1:])
    return rows, np.argsort(rows, kind="stable"), offsets


def _identifiers(images: JsonTable) -> Sequence[int | str]:
    first = images.places("id")[:1, 0]
    text = len(first) > 0 and images.file.bytes[first[0]] == ord('"')
    return images.texts("id") if text else images.integers("id").tolist()


def _annotation_ids(table: JsonTable, notes: list[str]) -> np.ndarray:
    if len(table) and not table.present("id").any():
        notes.append("annotations have no ids; they are numbered from 1 in their order.")
        return np.arange(1, len(table) + 1, dtype=np.int64)
    ids = table.integers("id")
    refuse_repeated(table, ids)
    return ids


def _refuse_unknown_categories(table: JsonTable, labels: np.ndarray, categories: Sequence[Category]) -> None:
    unknown = np.flatnonzero(~np.isin(labels, [category.id for category in categories]))
    if len(unknown):
        found = listed([str(value) for value in np.unique(labels[unknown]).tolist()])
        raise UserError(
            f"{table.who(int(unknown[0]))}: {len(unknown)} of {len(table)} annotations have a category that is not in "
            f"'categories' ({found}); add it or correct them."
        )


def _flags(table: JsonTable) -> np.ndarray:
    flags = table.integers("iscrowd", default=0)
    for row in np.flatnonzero((flags != 0) & (flags != 1)).tolist():
        raise UserError(f"{table.who(row)}: the field 'iscrowd' is 0 or 1, found {flags[row]}.")
    return flags.astype(bool)


def _check_kinds(table: JsonTable, ids: np.ndarray, crowd: np.ndarray, notes: list[str]) -> None:
    kinds = np.zeros(len(table), np.uint8)
    segmentation_kinds(table.file.bytes, table.places("segmentation"), kinds)
    empty = np.flatnonzero(kinds == _NOTHING)
    if len(empty):
        rest = "the file holds boxes alone, which say nothing of masks" if len(empty) == len(table) else "take them out"
        raise UserError(
            f"{table.who(int(empty[0]))}: {len(empty)} of {len(table)} annotations have no segmentation, such as "
            f"{_some(ids, empty)}; {rest}."
        )
    for row in np.flatnonzero(kinds > _RUNS).tolist():
        raise UserError(
            f"{table.who(row)}: the field 'segmentation' is a list of polygons, each a list [x, y, x, y, ...], or run lengths "
            f'{{"size", "counts"}}; found {str(table.value("segmentation", row))[:60]}.'
        )
    outlined = np.flatnonzero(crowd & (kinds == _POLYGONS))
    if len(outlined):
        notes.append(
            f"{len(outlined)} crowd annotations are polygons, where COCO has run lengths ({_some(ids, outlined)}); they are read "
            "as the crowd region that the polygons outline."
        )


def _boxes(table: JsonTable, ids: np.ndarray, notes: list[str]) -> np.ndarray:
    """xywh -> xyxy float32; a box without area becomes NaN and is noted."""
    boxes = table.number_rows("bbox", 4)
    for row in np.flatnonzero((boxes[:, 2:] < 0).any(axis=1)).tolist():
        raise UserError(
            f"{table.who(row)}: the field 'bbox' is [left, top, width, height], found a negative width or height: "
            f"{boxes[row].tolist()}."
        )
    # Of float32, in which boxes are kept; NaN stands for no box.
    beyond = np.abs(boxes) > np.finfo(np.float32).max / 2
    for row in np.flatnonzero(beyond.any(axis=1)).tolist():
        raise UserError(f"{table.who(row)}: the field 'bbox' is finite numbers of pixels, found {boxes[row].tolist()}.")
    flat = np.flatnonzero((boxes[:, 2:] == 0).any(axis=1))
    if len(flat):
        notes.append(f"{len(flat)} boxes have no area ({_some(ids, flat)}); they are taken from the masks instead.")
        boxes[flat] = np.nan
    boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def _areas(table: JsonTable, ids: np.ndarray, notes: list[str]) -> np.ndarray:
    """float64; an area that none can have becomes NaN and is noted: AP leaves out objects by it, the true ones, too."""
    areas = table.numbers("area", default=np.nan)
    wrong = np.flatnonzero((areas < 0) | np.isinf(areas))
    if len(wrong):
        notes.append(
            f"{len(wrong)} areas are negative or infinite ({_some(ids, wrong)}); they are taken from the masks instead."
        )
        areas[wrong] = np.nan
    return areas


def _some(ids: np.ndarray, rows: np.ndarray) -> str:
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return "id " + ", ".join(map(str, ids[rows[:5]].tolist())) + more


def _read(file: Any, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise OSError("the file is shorter than before")
    return data
