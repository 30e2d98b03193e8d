"""YOLO polygons: data.yaml with names and splits; labels/<split>/<name>.txt, an object a line: class x y x y .. in 0..1."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.headers import IMAGE_SUFFIXES, image_header
from nuriwake.data.layout import distinct_names, image_files
from nuriwake.data.outlines import measured_loss, one_outline, outlines
from nuriwake.data.polygon_records import Shape, instances_of, loss_notes, object_space
from nuriwake.data.seen import as_instances, countable
from nuriwake.data.texts import on_disk, read_text
from nuriwake.data.written import (
    ImageWriter,
    WriteSettings,
    Written,
    count_note,
    counted_notes,
    refuse_existing,
    refuse_other_classes,
)

_SPLITS = ("train", "val", "valid", "test")
_DECIMALS = 6
_BEYOND = 0.02
"""Outlines may leave the image by this share of its side: tools round, and draw across the edge."""


@dataclass(frozen=True)
class YoloReader:
    """record.target is the text file, or None: an image without a file has no object."""

    space: LabelSpace

    def __call__(self, record: Record) -> Instances:
        """The objects of the image. Raises UserError with file and line."""
        height, width = size = image_header(record.image).size
        shapes: list[Shape] = []
        for number, line in enumerate(_lines(record.target), 1):
            where = f"{record.target}: line {number}"
            label, points = _parsed(line, where, len(self.space))
            shapes.append(Shape(label, [(points.reshape(-1, 2) * (width, height)).ravel()]))
        return instances_of(shapes, size, self.space, str(record.target))


def find_yaml(root: Path) -> Path | None:
    """The YAML file in `root` that has the fields of a YOLO data set."""
    return next((path for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]) if is_yolo_yaml(path)), None)


def is_yolo_yaml(path: Path) -> bool:
    """Whether `path` has 'names' and a split."""
    try:
        plain: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(plain, Mapping) and "names" in plain and any(split in plain for split in _SPLITS)


def recognise(root: Path) -> str | None:
    """Because a YAML file has 'names' and 'train' or 'val'."""
    path = find_yaml(root)
    return None if path is None else f"{path.name} has the fields 'names' and 'train' or 'val'"


def open_yolo(root: Path, description: DataDescription) -> DataSet:
    """The data set of the YAML file in `root`.

    Raises:
        UserError: no such file, folders that are not there, names that are no list without gaps.
    """
    refuse_fields(description, "yolo")
    path = find_yaml(root)
    if path is None:
        raise UserError(f"{root}: there is no YAML file with the fields 'names' and 'train' or 'val'.")
    plain: Mapping[str, Any] = yaml.safe_load(read_text(path))
    space = object_space(_names(plain["names"], path), str(path))
    notes = [f"{len(space)} classes from {path.name}."]
    splits: dict[str, list[Record]] = {}
    for split in _SPLITS:
        if not plain.get(split):
            continue
        found = _images(path, plain, split)
        keys = {image: on_disk(_label_path(image)) for _, image in found}
        splits[split_name(split) or split] = [
            Record(f"{split_name(split)}/{name}", image, keys[image])
            for name, (_, image) in zip(distinct_names(found), found, strict=True)
        ]
        empty = sum(label is None for label in keys.values())
        if empty == len(keys):
            wanted = _label_path(next(iter(keys)))
            raise UserError(f"{path}: no image of the split '{split}' has a text file, such as {wanted}.")
        if empty:
            notes.append(f"{empty} of {len(keys)} images of '{split}' have no text file: they hold no object.")
    return assemble(
        root, "yolo", space, splits, reader=YoloReader(space), description=description, notes=notes, sources=(path,)
    )


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / "labels" / split,)


def write_yolo(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes images/<split>/, labels/<split>/ and data.yaml. An object of several parts, or with holes, is one outline
    whose parts are joined by bridges; filled by COCO's rule it is the mask again.

    Raises:
        UserError: the split is there already, data.yaml has other classes, or a sample without objects one by one.
    """
    (labels,) = taken(folder, settings.split)
    refuse_existing(labels)
    classes, listing = countable(space), folder / "data.yaml"
    refuse_other_classes(
        listing, _names(_yaml(listing).get("names"), listing) if listing.exists() else None, classes.names
    )
    writer = ImageWriter(folder / "images" / settings.split, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    losses: list[float] = []
    for sample in samples:
        target = as_instances(sample)
        name = writer.name(sample)
        writer.write(sample, name)
        files.append(labels / f"{name}.txt")
        write_text(files[-1], "".join(f"{line}\n" for line in _written(target, classes, settings, losses)))
        for flag, what in (
            (target.crowd.any(), "crowd regions are written like objects"),
            (target.scores is not None, "scores are left behind"),
        ):
            if flag:
                count_note(notes, f"[image|images]: {what}")
        if (target.masks.areas() == 0).any():
            count_note(notes, "[image|images]: masks without a pixel have no outline and are left out")
    files.append(_write_yaml(listing, classes, settings))
    texts = counted_notes(notes)
    return Written((*files, *writer.files), (*texts, *loss_notes(losses, "objects"), *writer.notes))


FORMAT = Format(recognise, open_yolo, write_yolo, holds="objects", taken=taken)


def _written(target: Instances, classes: LabelSpace, settings: WriteSettings, losses: list[float]) -> list[str]:
    height, width = target.size
    lines: list[str] = []
    final: list[list[np.ndarray]] = []
    for i, parts in enumerate(outlines(target.masks, tolerance=settings.tolerance)):
        if not parts:
            final.append([])
            continue
        points = np.round(one_outline(parts).reshape(-1, 2) / (width, height), _DECIMALS)
        final.append([(points * (width, height)).ravel()])
        label = classes.index(target.space.names[int(target.labels[i])])
        lines.append(
            " ".join([str(label), *(f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".") for value in points.ravel())])
        )
    losses += measured_loss(target.masks, final).tolist()
    return lines


def _yaml(path: Path) -> dict[str, Any]:
    try:
        plain: Any = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    return plain if isinstance(plain, dict) else {}


def _write_yaml(path: Path, classes: LabelSpace, settings: WriteSettings) -> Path:
    plain: dict[str, Any] = {"path": ".", "names": dict(enumerate(classes.names))}
    if path.exists():
        plain = _yaml(path)
    plain[settings.split] = f"images/{settings.split}"
    write_text(path, yaml.safe_dump(plain, allow_unicode=True, sort_keys=False))
    return path


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        try:
            value = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            value = {}
        if sorted(value) != list(range(len(value))):
            raise UserError(
                f"{path}: the numbers of 'names' run from 0 without gaps, found {listed([str(key) for key in value])}."
            )
        value = [value[number] for number in sorted(value)]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(f"{path}: 'names' is a list of class names, or number: name; found {value!r:.60}.")
    return tuple(str(name) for name in value)


def _images(path: Path, plain: Mapping[str, Any], split: str) -> list[tuple[str, Path]]:
    """(name, file): the name is the path in the folder, or that of the file in a list, without suffix."""
    given = plain[split]
    images: list[tuple[str, Path]] = []
    entries: list[Any] = given if isinstance(given, list) else [given]
    for entry in entries:
        if not isinstance(entry, str):
            raise UserError(f"{path}: {split}: expected a folder, a text file or a list of them, found {entry!r:.60}.")
        base = Path(str(plain.get("path") or "."))
        # Tools write ../train/images for the folder beside the YAML file.
        inner = Path(*[part for part in Path(entry).parts if part != ".."])
        candidates = [path.parent / base / entry, path.parent / entry, path.parent / inner]
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            raise UserError(
                f"{path}: {split}: there is no {entry} (looked for {listed([str(c) for c in candidates])})."
            )
        if found.is_dir():
            images += image_files(found).items()
        else:
            lines = [line.strip() for line in read_text(found).splitlines() if line.strip()]
            images += [(Path(line).stem, found.parent / line) for line in lines]
    if not images:
        raise UserError(f"{path}: {split}: there is no image in {given}.")
    once = {image: name for name, image in reversed(images) if image.suffix.lower() in IMAGE_SUFFIXES}
    return [(name, image) for image, name in reversed(once.items())]


def _label_path(image: Path) -> Path:
    """The last folder called images becomes labels."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    return read_text(path).rstrip().splitlines()


def _parsed(line: str, where: str, classes: int) -> tuple[int, np.ndarray]:
    """(label, x y x y .. in 0..1)."""
    words = line.split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise UserError(
            f"{where}: expected a class and coordinates, all numbers, found '{line[:60]}' ({error})."
        ) from error
    if len(values) == 5:
        raise UserError(
            f"{where}: five numbers are a box (class, x, y, width, height), which says nothing of the mask."
        )
    if len(values) < 7 or len(values) % 2 == 0:
        raise UserError(
            f"{where}: expected a class and the x and y of at least three points, found {len(values)} numbers."
        )
    if not 0 <= values[0] < classes or values[0] % 1:
        raise UserError(f"{where}: the class is one of 0..{classes - 1}, found {words[0]}.")
    points = values[1:]
    bad = points[~((points >= -_BEYOND) & (points <= 1 + _BEYOND))]
    if len(bad):
        raise UserError(
            f"{where}: coordinates are shares of the width and the height in 0..1, found {bad[0]:g}; are they pixels?"
        )
    return int(values[0]), points
