"""Label Studio: one JSON list of tasks with polygons, boxes, ellipses and brush strokes, in percent of the image."""

import json
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Size
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.brush import decode_brush, encode_brush
from nuriwake.data.classes import find_classes
from nuriwake.data.coco import kept_images, stem
from nuriwake.data.coco_files import AnnotationFile, locate_images
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.headers import image_header
from nuriwake.data.layout import distinct_names
from nuriwake.data.outlines import measured_loss, one_outline, outlines
from nuriwake.data.polygon_records import Shape, instances_of, loss_notes, object_space
from nuriwake.data.seen import as_instances, countable
from nuriwake.data.written import ImageWriter, WriteSettings, Written, count_note, counted_notes, refuse_existing

_ROUND = 64
LABELS = {"polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels"}
_OPENING = (
    "To open it in Label Studio: label_config.xml is the labelling interface, tasks.json is imported; start Label Studio with "
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=<the folder of tasks.json>, and "
    "add its images folder as a local storage."
)
_IMAGE_KEYS = ("image", "img", "image_url", "url")


@dataclass(frozen=True)
class LabelStudioReader:
    """record.target is (name of the JSON file, the results of the image as JSON text)."""

    space: LabelSpace

    def __call__(self, record: Record) -> Instances:
        """The objects of the first annotation that was not cancelled. Raises UserError with file, image and result."""
        file, text = record.target
        size = image_header(record.image).size
        where = f"{file}: image {record.image.name}"
        shapes: list[Shape] = []
        for number, result in enumerate(json.loads(text), 1):
            who = f"{where}: shape {number}"
            if result.get("image_rotation"):
                raise UserError(
                    f"{who}: the image was turned by {result['image_rotation']} degrees while it was drawn, which is not read; "
                    "turn the image file itself and draw it again."
                )
            stated = result.get("original_height"), result.get("original_width")
            if None not in stated and stated != size:
                raise UserError(
                    f"{who}: it was drawn on {stated[0]}x{stated[1]}, but the image is {size[0]}x{size[1]} (height x width)."
                )
            try:
                outline = outline_of(result, size)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                if isinstance(error, UserError):
                    raise UserError(f"{who}: {error}") from error
                raise UserError(f"{who}: the {result.get('type')} is not understood ({error!r}).") from error
            shapes.append(Shape(self.space.index(label_of(result)), outline))
        return instances_of(shapes, size, self.space, where)


def recognise(root: Path) -> str | None:
    """Because a JSON file is a list of tasks with 'annotations' and 'data'."""
    paths = _find(root)
    return f"{paths[0].relative_to(root)} is a list of tasks with 'data' and 'annotations'" if paths else None


def open_label_studio(root: Path, description: DataDescription) -> DataSet:
    """The data set of the JSON files in `root` and in its split folders.

    Raises:
        UserError: no such file, no JSON, labels beyond the class list, images that are not there.
    """
    refuse_fields(description, "label_studio", "images", "annotations", "classes")
    given = description.annotations
    paths = [root / given] if isinstance(given, str) else _find(root)
    if not paths:
        raise UserError(
            f"{root}: there is no JSON file of Label Studio (a list of tasks with 'data' and 'annotations')."
        )
    notes: list[str] = []
    read = [(path, _tasks(path, notes)) for path in paths]
    try:
        found = sorted({label_of(result) for _, tasks in read for _, results in tasks for result in results})
    except UserError as error:
        raise UserError(f"{paths[0]}: {error}") from error
    classes = find_classes(root, description)
    if not found and not classes.names:
        raise UserError(
            f"{paths[0]}: no task holds an annotation with an area (predictions are drafts, and no truth); annotate them in Label "
            "Studio and export again."
        )
    space = object_space(classes.names or found, str(paths[0]))
    unknown = [label for label in found if label not in space.names]
    if unknown:
        raise UserError(
            f"{paths[0]}: the labels {listed(unknown)} are not in {classes.source}; add them or correct the shapes."
        )
    notes.insert(0, f"{len(space)} classes from {classes.source or 'the labels of the shapes'}: {listed(space.names)}.")
    splits: dict[str, list[Record]] = {}
    for path, tasks in read:
        split = split_name(path.parent.name) or ""
        names = [name for name, _ in tasks]
        images = locate_images(root, AnnotationFile(split, path.parent.name, path), names, description.images)
        kept = kept_images(path, names, images, description, notes)
        inner = distinct_names([(_name(image, path.parent / "images"), image) for _, image in kept])
        for name, (number, image) in zip(inner, kept, strict=True):
            record = Record(name, image, (path.name, json.dumps(tasks[number][1])))
            splits.setdefault(split, []).append(record)
    if len(splits) > 1:
        splits = {
            split: [Record(f"{split}/{record.name}", record.image, record.target) for record in part]
            for split, part in splits.items()
        }
    reader = LabelStudioReader(space)
    return assemble(
        root, "label_studio", space, splits, reader=reader, description=description, notes=notes, sources=paths
    )


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / split,)


def write_label_studio(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes <split>/tasks.json and <split>/images/: brush strokes, which lose nothing, or polygons; and label_config.xml, the
    labelling interface that shows them.

    Raises:
        UserError: the split is there already, or a sample without objects one by one.
    """
    (home,) = taken(folder, settings.split)
    refuse_existing(home)
    writer = ImageWriter(home / "images", settings)
    notes: dict[str, int] = {}
    losses: list[float] = []
    tasks: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        target = as_instances(sample)
        file = writer.write(sample, writer.name(sample))
        kind = "annotations" if target.scores is None else "predictions"
        results = _results(target, settings, losses)
        link = f"/data/local-files/?d=images/{urllib.parse.quote(file)}"
        tasks.append(
            {"id": number, "data": {"image": link}, "annotations": []} | {kind: [{"id": number, "result": results}]}
        )
        if target.crowd.any():
            count_note(notes, "[image|images]: crowd regions are written like objects")
        if (target.masks.areas() == 0).any():
            count_note(notes, "[image|images]: masks without a pixel are left out")
    write_text(home / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    write_text(home / "label_config.xml", _interface(countable(space), polygons=settings.polygons))
    texts = counted_notes(notes)
    return Written(
        (home / "tasks.json", home / "label_config.xml", *writer.files),
        (*texts, *loss_notes(losses, "objects"), *writer.notes, _OPENING),
    )


FORMAT = Format(recognise, open_label_studio, write_label_studio, holds="objects", keeps_colours=True, taken=taken)


def _interface(space: LabelSpace, *, polygons: bool) -> str:
    kind = "PolygonLabels" if polygons else "BrushLabels"
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, kind, name="label", toName="image")
    for name, colour in zip(space.names, space.colours, strict=True):
        ElementTree.SubElement(labels, "Label", value=name, background="#{:02x}{:02x}{:02x}".format(*colour))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _results(target: Instances, settings: WriteSettings, losses: list[float]) -> list[dict[str, Any]]:
    height, width = target.size
    found = outlines(target.masks, tolerance=settings.tolerance) if settings.polygons else None
    final = [[one_outline(parts)] if parts else [] for parts in found] if found is not None else []
    if found is not None:
        losses += measured_loss(target.masks, final).tolist()
    rows: list[dict[str, Any]] = []
    for i in np.flatnonzero(target.masks.areas() > 0).tolist():
        label = [target.space.names[int(target.labels[i])]]
        if final:
            points = (final[i][0].reshape(-1, 2) / (width, height) * 100).round(6).tolist()
            kind, value = "polygonlabels", {"points": points, "closed": True, "polygonlabels": label}
        else:
            strokes = encode_brush(target.masks.dense(i)[0])
            kind, value = "brushlabels", {"format": "rle", "rle": strokes, "brushlabels": label}
        row: dict[str, Any] = {"id": f"r{i}", "type": kind, "value": value, "from_name": "label", "to_name": "image"}
        row |= {"original_width": width, "original_height": height, "image_rotation": 0}
        if target.scores is not None:
            row["score"] = round(float(target.scores[i]), 6)
        rows.append(row)
    return rows


def _find(root: Path) -> list[Path]:
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and split_name(child.name) is not None]
    found: list[Path] = []
    for folder in (root, *folders):
        for path in sorted(folder.glob("*.json")):
            with path.open("rb") as file:
                head = file.read(1 << 16)
            # Exports write annotations first: the brush strokes of one task may be longer than the head.
            known = b'"annotations"' in head and (b'"data"' in head or b'"result"' in head)
            if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and known:
                found.append(path)
    return found


def _name(image: Path, home: Path) -> str:
    """Of a record: the image's path in the folder `home`, else its file name; without suffix."""
    return stem(image.relative_to(home).as_posix() if image.is_relative_to(home) else image.name)


def _tasks(path: Path, notes: list[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(image, results with an area) of every task."""
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this is no JSON ({error}).") from error
    tasks: list[tuple[str, list[dict[str, Any]]]] = []
    passed: dict[str, int] = {}
    more = 0
    if not isinstance(plain, list):
        raise UserError(f"{path}: expected a list of tasks, found {type(plain).__name__}.")
    for row, task in enumerate(plain):
        link = link_of(task)[1]
        if not isinstance(link, str):
            raise UserError(f"{path}: task {row + 1}: there is no image in 'data' (one of {', '.join(_IMAGE_KEYS)}).")
        where = f"{path}: task {row + 1}"
        given = truth_of(task, where)
        more += max(len(given) - 1, 0)
        results: list[dict[str, Any]] = []
        for result in _mappings(given[0], "result", where) if given else []:
            if result.get("type") in LABELS:
                results.append(result)
            else:
                passed[str(result.get("type"))] = passed.get(str(result.get("type")), 0) + 1
        tasks.append((file_name(link), results))
    if more:
        notes.append(f"{path.name}: {more} annotations of images that have another one before are left out.")
    if passed:
        texts = [f"{count} {kind}" for kind, count in passed.items()]
        notes.append(f"{path.name}: results that are no objects with an area are left out: {listed(texts)}.")
    return tasks


def link_of(task: Any) -> tuple[str, Any]:
    """The name of the member of 'data' that is the image, and what stands there; ("", None) where there is none."""
    data = task.get("data") if isinstance(task, Mapping) else None
    key = next((key for key in _IMAGE_KEYS if key in data), None) if isinstance(data, Mapping) else None
    return ("", None) if key is None or data is None else (key, data[key])


def truth_of(task: Mapping[str, Any], where: str = "task") -> list[dict[str, Any]]:
    """The annotations that were not cancelled; the first is the truth. Raises UserError, with `where`, for no list of objects."""
    return [item for item in _mappings(task, "annotations", where) if not item.get("was_cancelled")]


def _mappings(owner: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = owner.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{where}: '{key}' is a list of objects, found {found!r:.60}.")
    return found


def file_name(link: str) -> str:
    """The image's file name in a path, an address, or Label Studio's ?d= form; uploads begin with eight digits and a dash."""
    parts = urllib.parse.urlsplit(link)
    inner = urllib.parse.parse_qs(parts.query).get("d", [])
    path = urllib.parse.unquote(inner[0] if inner else parts.path)
    return path.removeprefix("/data/upload/").removeprefix("/data/local-files/").lstrip("/")


def label_of(result: Mapping[str, Any]) -> str:
    value = result.get("value") or {}
    names = (value.get(str(result.get("type"))) if isinstance(value, Mapping) else None) or []
    if not isinstance(names, list) or len(names) != 1:
        raise UserError(f"A result of Label Studio has one label, found {names!r:.60} (id {result.get('id')}).")
    return str(names[0])


def outline_of(result: Mapping[str, Any], size: Size) -> list[Any] | dict[str, Any]:
    height, width = size
    kind, value = result["type"], result["value"]
    if kind == "brushlabels":
        return RunMasks.from_dense(decode_brush(value["rle"], size)[None]).to_coco()[0]
    if value.get("rotation"):
        raise UserError(f"the shape is turned by {value['rotation']} degrees, which is not read; draw it as a polygon.")
    scale = np.array([width, height]) / 100
    if kind == "polygonlabels":
        return [(np.array(value["points"], np.float64).reshape(-1, 2) * scale).ravel().tolist()]
    x, y = float(value["x"]), float(value["y"])
    if kind == "rectanglelabels":
        right, bottom = x + float(value["width"]), y + float(value["height"])
        corners = np.array([[x, y], [right, y], [right, bottom], [x, bottom]])
    else:
        angle = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)
        rx, ry = float(value["radiusX"]), float(value["radiusY"])
        corners = np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)
    return [(corners * scale).ravel().tolist()]
