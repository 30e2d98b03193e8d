"""LabelMe: one JSON of shapes beside each image (labelme.io, versions 3 to 5), in one folder or in split folders."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Size
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.classes import find_classes
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.headers import IMAGE_SUFFIXES, image_header
from nuriwake.data.json_scan import JsonFile, read_json
from nuriwake.data.outlines import measured_loss, outlines
from nuriwake.data.parallel import each
from nuriwake.data.polygon_records import Shape, instances_of, loss_notes, object_space
from nuriwake.data.seen import as_instances
from nuriwake.data.texts import on_disk
from nuriwake.data.written import ImageWriter, WriteSettings, Written, count_note, counted_notes, refuse_existing

_ROUND = 64
"""Corners of the polygon that stands for a circle."""

_NO_AREA = ("point", "points", "line", "linestrip")
"""Shapes that are no objects: left out and counted in the notes, as the other tools' are, so that the rest of the image is used."""

_NO_CLASS = ("__ignore__", "_background_")
"""LabelMe's own names for what is no object."""


@dataclass(frozen=True)
class LabelmeReader:
    """record.target is the JSON file."""

    space: LabelSpace

    def __call__(self, record: Record) -> Instances:
        """The objects; shapes of one label and one group_id are one object. Raises UserError with file and shape."""
        file = read_json(record.target)
        size = image_header(record.image).size
        stated = (file.member("imageHeight"), file.member("imageWidth"))
        if None not in stated and stated != size:
            raise UserError(
                f"{file.path}: the shapes were drawn on {stated[0]}x{stated[1]} but {record.image.name} is {size[0]}x{size[1]} "
                "(height x width); was it resized or rotated?"
            )
        groups: dict[tuple[str, str, int], Shape] = {}
        for number, shape in enumerate(_shapes(file), 1):
            where = f"{file.path}: shape {number}"
            label = str(shape.get("label"))
            if label in _NO_CLASS or shape.get("shape_type") in _NO_AREA:
                continue
            if label not in self.space.names:
                raise UserError(f"{where}: the label '{label}' is none of the classes ({listed(self.space.names)}).")
            group = shape.get("group_id")
            key = (label, "shape", number)
            if isinstance(group, int) and not isinstance(group, bool):
                key = (label, "group", group)
            outline = _outline(shape, size, where)
            if key in groups and not (isinstance(outline, list) and isinstance(groups[key].segmentation, list)):
                raise UserError(f"{where}: a mask cannot share its group_id {group} with another shape.")
            before = groups[key].segmentation if key in groups else []
            groups[key] = Shape(self.space.index(label), [*before, *outline] if isinstance(outline, list) else outline)  # type: ignore[misc]
        return instances_of(list(groups.values()), size, self.space, str(file.path))


def recognise(root: Path) -> str | None:
    """Because a JSON file beside an image has 'shapes' and 'imagePath'."""
    first = next(iter(_files(root, most=1)), None)
    return None if first is None else f"{first.relative_to(root)} has 'shapes' and 'imagePath'"


def open_labelme(root: Path, description: DataDescription) -> DataSet:
    """Every JSON file of shapes in `root` and in its split folders. Classes come from a class list, else from the labels.

    Raises:
        UserError: files that are no JSON, images that are not there, labels beyond the class list.
    """
    refuse_fields(description, "labelme", "classes")
    paths = _files(root)
    if not paths:
        raise UserError(f"{root}: there is no JSON file with 'shapes' and 'imagePath'.")
    read = each(_look, paths)
    counts = Counter(label for _, labels, _ in read for label in labels)
    passed = {label: counts.pop(label) for label in _NO_CLASS if label in counts}
    found = sorted(counts)
    classes = find_classes(root, description)
    names = tuple(name for name in classes.names if name not in _NO_CLASS) or tuple(found)
    space = object_space(names, str(root))
    notes = [f"{len(space)} classes from {classes.source or 'the labels of the shapes'}: {listed(names)}."]
    if passed:
        texts = [f"{number} '{label}'" for label, number in passed.items()]
        notes.append(f"Shapes that are no objects are left out, and their pixels count as background: {listed(texts)}.")
    lines = Counter(kind for _, _, kinds in read for kind in kinds)
    if lines:
        texts = [f"{number} {kind}" for kind, number in lines.items()]
        where = [path.name for path, (_, _, kinds) in zip(paths, read, strict=True) if kinds]
        notes.append(
            f"Shapes without area are no objects and are left out: {listed(texts)} in {listed(where, most=5)}; draw them as "
            "polygons where they mean an object."
        )
    unknown = [label for label in found if label not in names]
    if unknown:
        path = next(path for path, (_, labels, _) in zip(paths, read, strict=True) if unknown[0] in labels)
        raise UserError(
            f"{path}: the labels {listed(unknown)} are not in {classes.source}; add them or correct the shapes."
        )
    splits: dict[str, list[Record]] = {}
    for path, (image, _, _) in zip(paths, read, strict=True):
        inner = path.relative_to(root)
        splits.setdefault(split_name(inner.parts[0]) or "" if len(inner.parts) > 1 else "", []).append(
            Record(inner.with_suffix("").as_posix(), image, path)
        )
    return assemble(root, "labelme", space, splits, reader=LabelmeReader(space), description=description, notes=notes)


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / split,)


def write_labelme(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes <split>/<name>.json beside the image. The parts of an object share a group_id; holes are bridged.

    Raises:
        UserError: the split is there already, or a sample without objects one by one.
    """
    del space  # shapes carry the names of their classes
    refuse_existing(*taken(folder, settings.split))
    writer = ImageWriter(folder / settings.split, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    losses: list[float] = []
    for sample in samples:
        target = as_instances(sample)
        name = writer.name(sample)
        image = writer.write(sample, name)
        found = outlines(target.masks, tolerance=settings.tolerance)
        losses += measured_loss(target.masks, found).tolist()
        plain = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_shape(target, i, part, len(parts)) for i, parts in enumerate(found) for part in parts],
            "imagePath": Path(image).name,
            "imageData": None,
            "imageHeight": sample.size[0],
            "imageWidth": sample.size[1],
        }
        files.append(folder / settings.split / f"{name}.json")
        write_text(files[-1], json.dumps(plain, ensure_ascii=False, indent=1) + "\n")
        if target.crowd.any():
            count_note(notes, "[image|images]: crowd regions are written like objects")
        if (target.masks.areas() == 0).any():
            count_note(notes, "[image|images]: masks without a pixel are left out")
    texts = counted_notes(notes)
    return Written((*files, *writer.files), (*texts, *loss_notes(losses, "objects"), *writer.notes))


FORMAT = Format(recognise, open_labelme, write_labelme, holds="objects", taken=taken)


def _shape(target: Instances, index: int, part: np.ndarray, parts: int) -> dict[str, Any]:
    text = "" if target.scores is None else f"score {float(target.scores[index]):.3f}"
    return {
        "label": target.space.names[int(target.labels[index])],
        "points": part.reshape(-1, 2).tolist(),
        "group_id": index + 1 if parts > 1 else None,
        "description": text,
        "shape_type": "polygon",
        "flags": {},
    }


def _files(root: Path, *, most: int | None = None) -> list[Path]:
    folders = [
        root,
        *sorted(child for child in root.iterdir() if child.is_dir() and split_name(child.name) is not None),
    ]
    found: list[Path] = []
    for folder in folders:
        for path in sorted(folder.rglob("*.json") if folder is not root else folder.glob("*.json")):
            with path.open("rb") as file:
                head = file.read(1 << 20)
            if b'"shapes"' in head or b'"imagePath"' in head:
                found.append(path)
                if most is not None:
                    return found
    return found


def _look(path: Path) -> tuple[Path, list[str], list[str]]:
    """The image of a file, the labels of its shapes, and the kinds of those without area, which have none."""
    file = read_json(path)
    shapes = _shapes(file)
    labels = [str(shape.get("label")) for shape in shapes if shape.get("shape_type") not in _NO_AREA]
    lines = [str(shape.get("shape_type")) for shape in shapes if shape.get("shape_type") in _NO_AREA]
    stated = file.member("imagePath")
    names = [Path(str(stated).replace("\\", "/"))] if stated else []
    names += [Path(path.stem + suffix) for suffix in sorted(IMAGE_SUFFIXES)]
    for name in names:
        for candidate in (path.parent / name, path.parent / name.name):
            if (image := on_disk(candidate)) is not None:
                return image, labels, lines
    raise UserError(f"{path}: its image '{stated}' is not there; put it beside the JSON file.")


def _shapes(file: JsonFile) -> list[Mapping[str, Any]]:
    shapes = file.member("shapes")
    if not isinstance(shapes, list) or not all(isinstance(shape, Mapping) for shape in shapes):
        raise UserError(f"{file.path}: 'shapes' is a list of objects, found {type(shapes).__name__}.")
    return shapes


def _outline(shape: Mapping[str, Any], size: Size, where: str) -> list[Any] | dict[str, Any]:
    """A list of polygons, or run lengths."""
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape.get("points"), where)
    if kind == "polygon":
        return [points.ravel().tolist()]
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle" and len(points) == 2:
        angle = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)
        radius = float(np.hypot(*(points[1] - points[0])))
        return [(points[0] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).ravel().tolist()]
    if kind == "mask" and len(points) == 2:
        return _mask(shape.get("mask"), points, size, where)
    raise UserError(
        f"{where}: a shape of the type '{kind}' with {len(points)} points has no area; draw it as a polygon."
    )


def _points(value: Any, where: str) -> np.ndarray:
    try:
        points = np.array(value, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: 'points' is a list of [x, y], found {value!r:.60}.") from error
    return points


def _mask(text: Any, points: np.ndarray, size: Size, where: str) -> dict[str, Any]:
    """A base64 PNG whose top left corner lies at the first point."""
    try:
        crop = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (TypeError, ValueError, cv2.error):
        crop = None
    if crop is None:
        raise UserError(f"{where}: 'mask' is a PNG in base64, found {text!r:.40}.")
    if not np.isfinite(points).all():
        raise UserError(f"{where}: 'points' of a mask are finite numbers, found {points.ravel().tolist()}.")
    left, top = (int(value) for value in points[0])
    canvas = np.zeros((1, *size), np.uint8)
    inside = canvas[0, top : top + crop.shape[0], left : left + crop.shape[1]]
    if top < 0 or left < 0 or inside.shape != crop.shape:
        raise UserError(f"{where}: the mask of {crop.shape[0]}x{crop.shape[1]} at ({left}, {top}) leaves the image.")
    inside[:] = crop != 0
    return RunMasks.from_dense(canvas).to_coco()[0]
