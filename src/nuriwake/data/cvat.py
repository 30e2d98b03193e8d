"""CVAT for images 1.1: one annotations.xml with polygons, boxes, ellipses and masks of all images (docs.cvat.ai, formats)."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Size
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.coco import kept_images, stem
from nuriwake.data.coco_files import AnnotationFile, locate_images
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.outlines import measured_loss, outlines
from nuriwake.data.polygon_records import Shape, instances_of, loss_notes, object_space
from nuriwake.data.seen import as_instances, countable
from nuriwake.data.written import ImageWriter, WriteSettings, Written, count_note, counted_notes, refuse_existing

_ROUND = 64
SHAPES = ("polygon", "box", "mask", "ellipse")
_PASSED_OVER = ("polyline", "points", "tag", "skeleton", "cuboid")


@dataclass(frozen=True)
class CvatReader:
    """record.target is (name of the XML file, size there, the image's shapes: kind and attributes as texts)."""

    space: LabelSpace

    def __call__(self, record: Record) -> Instances:
        """The objects; shapes of one label and one group_id (not 0) are one object. Raises UserError with file and shape."""
        file, size, rows = record.target
        where = f"{file}: image {record.image.name}"
        groups: dict[tuple[str, str, str], Shape] = {}
        for number, (kind, row) in enumerate(rows, 1):
            attributes = dict(row)
            try:
                outline = outline_of(kind, attributes, size)
            except (KeyError, ValueError, OverflowError) as error:
                if isinstance(error, UserError):
                    raise UserError(f"{where}: shape {number}: {error}") from error
                raise UserError(f"{where}: shape {number}: the {kind} is not understood ({error}).") from error
            group = attributes.get("group_id", "0")
            grouped = group != "0" and isinstance(outline, list)
            key = (attributes["label"], "group" if grouped else "shape", group if grouped else str(number))
            before = groups[key].segmentation if key in groups else []
            joined = [*before, *outline] if isinstance(outline, list) and isinstance(before, list) else outline
            groups[key] = Shape(self.space.index(attributes["label"]), joined)
        return instances_of(list(groups.values()), size, self.space, where)


@dataclass
class _Image:
    name: str
    subset: str
    size: Size
    rows: list[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=list)


def recognise(root: Path) -> str | None:
    """Because an XML file begins with <annotations> and <version>1.1."""
    paths = _find(root)
    return f"{paths[0].relative_to(root)} begins with <annotations> and <version>1.1" if paths else None


def open_cvat(root: Path, description: DataDescription) -> DataSet:
    """The data set of the XML files in `root`, in its annotations/ or split folders; the splits are CVAT's subsets.

    Raises:
        UserError: no such file, broken XML, labels that the task does not list, images that are not there.
    """
    refuse_fields(description, "cvat", "images", "annotations")
    given = description.annotations
    paths = [root / given] if isinstance(given, str) else _find(root)
    if not paths or not paths[0].is_file():
        raise UserError(
            f"{root}: there is no XML file of CVAT for images 1.1 ({paths[0] if paths else 'annotations.xml'})."
        )
    read = [_parsed(path) for path in paths]
    space = object_space(tuple(dict.fromkeys(label for labels, _, _ in read for label in labels)), str(paths[0]))
    notes = [f"{len(space)} classes from {listed([path.name for path in paths])}."]
    splits: dict[str, list[Record]] = {}
    for path, (_, images, passed) in zip(paths, read, strict=True):
        _check_labels(path, images, space)
        if passed:
            texts = [f"{count} {kind}" for kind, count in passed.items()]
            notes.append(f"{path.name}: shapes without area are no objects and are left out: {listed(texts)}.")
        folder = split_name(path.parent.name) or split_name(path.stem.rpartition("_")[2]) or ""
        names = [image.name for image in images]
        found = locate_images(root, AnnotationFile(folder, path.parent.name, path), names, description.images)
        for number, image_path in kept_images(path, names, found, description, notes):
            image = images[number]
            split = split_name(image.subset) or image.subset or folder
            record = Record(stem(image.name), image_path, (path.name, image.size, tuple(image.rows)))
            splits.setdefault(split, []).append(record)
    if len(splits) > 1 and "" in splits:
        splits["default"] = splits.pop("")
    if len({record.name for part in splits.values() for record in part}) < sum(map(len, splits.values())):
        splits = {
            split: [Record(f"{split}/{record.name}", record.image, record.target) for record in part]
            for split, part in splits.items()
        }
    return assemble(
        root, "cvat", space, splits, reader=CvatReader(space), description=description, notes=notes, sources=paths
    )


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / split,)


def write_cvat(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes <split>/annotations.xml and <split>/images/. Masks as CVAT's run lengths, which lose nothing, or as polygons.

    Raises:
        UserError: the split is there already, or a sample without objects one by one.
    """
    (home,) = taken(folder, settings.split)
    refuse_existing(home)
    classes = countable(space)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    listing = ElementTree.SubElement(task, "labels")
    for name, colour in zip(classes.names, classes.colours, strict=True):
        label = ElementTree.SubElement(listing, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*colour)
    writer = ImageWriter(home / "images", settings)
    notes: dict[str, int] = {}
    losses: list[float] = []
    for number, sample in enumerate(samples):
        target = as_instances(sample)
        name = writer.write(sample, writer.name(sample))
        height, width = sample.size
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=name, subset=settings.split, width=str(width), height=str(height)
        )
        _add_shapes(image, target, settings, losses)
        for flag, what in (
            (target.crowd.any(), "crowd regions are written like objects"),
            (target.scores is not None, "scores are left behind"),
            ((target.masks.areas() == 0).any(), "masks without a pixel are left out"),
        ):
            if flag:
                count_note(notes, f"[image|images]: {what}")
    ElementTree.indent(root)
    write_bytes(home / "annotations.xml", ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    texts = counted_notes(notes)
    return Written((home / "annotations.xml", *writer.files), (*texts, *loss_notes(losses, "objects"), *writer.notes))


FORMAT = Format(recognise, open_cvat, write_cvat, holds="objects", keeps_colours=True, taken=taken)


def _add_shapes(image: ElementTree.Element, target: Instances, settings: WriteSettings, losses: list[float]) -> None:
    found = outlines(target.masks, tolerance=settings.tolerance) if settings.polygons else None
    if found is not None:
        losses += measured_loss(target.masks, found).tolist()
    boxes = target.masks.boxes().astype(int)
    for i in np.flatnonzero(target.masks.areas() > 0).tolist():
        shared = {
            "label": target.space.names[int(target.labels[i])],
            "source": "file",
            "occluded": "0",
            "z_order": str(i),
        }
        if found is None:
            left, top, right, bottom = boxes[i].tolist()
            runs = encode_rows(target.masks.crop_dense(i, boxes[i]))
            place = {"left": str(left), "top": str(top), "width": str(right - left), "height": str(bottom - top)}
            ElementTree.SubElement(image, "mask", shared | {"rle": ", ".join(map(str, runs))} | place)
            continue
        for part in found[i]:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in part.reshape(-1, 2).tolist())
            group = str(i + 1) if len(found[i]) > 1 else "0"
            ElementTree.SubElement(image, "polygon", shared | {"points": points, "group_id": group})


def encode_rows(crop: np.ndarray) -> list[int]:
    """CVAT's run lengths of `crop` (h, w) of 0 and 1: along the rows, background first."""
    flat = np.concatenate([[0], crop.ravel(), [2]])
    return np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1])])).tolist()


def decode_rows(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """The inverse of `encode_rows`, uint8 (height, width). Raises UserError where the runs do not cover it."""
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise UserError(f"the run lengths cover {sum(runs)} pixels, expected {height}x{width} = {height * width}.")
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)


def _find(root: Path) -> list[Path]:
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and split_name(child.name) is not None]
    found: list[Path] = []
    for folder in (root, root / "annotations", *folders):
        for path in sorted(folder.glob("*.xml")):
            with path.open("rb") as file:
                head = file.read(4096)
            if b"<annotations>" in head and b"<version>1.1" in head:
                found.append(path)
    return found


def _check_labels(path: Path, images: Sequence[_Image], space: LabelSpace) -> None:
    for image in images:
        for number, (_, row) in enumerate(image.rows, 1):
            label = dict(row).get("label")
            if label not in space.names:
                raise UserError(
                    f"{path}: image {image.name}: shape {number}: the label '{label}' is none of the task's."
                )


def _parsed(path: Path) -> tuple[tuple[str, ...], list[_Image], dict[str, int]]:
    """(labels of the task, images, shapes without area that were passed over), element by element."""
    labels: list[str] = []
    images: list[_Image] = []
    passed: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            if b"<!ENTITY" in file.read(65536):
                raise UserError(f"{path}: the XML defines entities, which CVAT does not; it is not read.")
            file.seek(0)
            for _, element in ElementTree.iterparse(file):
                if element.tag == "label" and element.find("name") is not None:
                    labels.append(str(element.findtext("name")).strip())
                elif element.tag == "image":
                    images.append(_image(element, path, passed))
                    element.clear()
                elif element.tag == "track":
                    raise UserError(
                        f"{path}: these are tracks of CVAT for video, which are not read; export as 'CVAT for images 1.1'."
                    )
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UserError(
            f"{path}: this is no XML at line {line}, column {column} ({error}); is the file cut off?"
        ) from error
    except (LookupError, UnicodeError) as error:
        raise UserError(f"{path}: the XML declares an encoding that cannot be read ({error}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not labels:
        raise UserError(f"{path}: the task lists no labels (annotations/meta/task/labels/label/name).")
    return tuple(dict.fromkeys(labels)), images, passed


def _image(element: ElementTree.Element, path: Path, passed: dict[str, int]) -> _Image:
    name = element.get("name", "")
    try:
        size = int(element.get("height", "")), int(element.get("width", ""))
    except ValueError as error:
        raise UserError(f"{path}: image '{name}': width and height are whole numbers ({error}).") from error
    image = _Image(name, element.get("subset", ""), size)
    for shape in element:
        if shape.tag in SHAPES:
            image.rows.append((shape.tag, tuple(shape.attrib.items())))
        elif shape.tag in _PASSED_OVER:
            passed[shape.tag] = passed.get(shape.tag, 0) + 1
        else:
            raise UserError(f"{path}: image '{name}': there is no shape '{shape.tag}' in CVAT 1.1.")
    return image


def outline_of(kind: str, row: Mapping[str, str], size: Size) -> list[Any] | dict[str, Any]:
    """A list of polygons, or COCO's run lengths."""
    if kind == "polygon":
        return [[float(value) for point in row["points"].split(";") for value in point.split(",")]]
    if kind == "box":
        left, top, right, bottom = (float(row[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        return [_turned(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), row)]
    if kind == "ellipse":
        x, y, rx, ry = (float(row[key]) for key in ("cx", "cy", "rx", "ry"))
        angle = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)
        return [_turned(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1), row)]
    left, top, width, height = (int(float(row[key])) for key in ("left", "top", "width", "height"))
    crop = decode_rows([int(part) for part in row["rle"].split(",")], height, width)
    canvas = np.zeros((1, *size), np.uint8)
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise UserError(f"the mask of {height}x{width} at ({left}, {top}) leaves the image of {size[0]}x{size[1]}.")
    canvas[0, top : top + height, left : left + width] = crop
    return RunMasks.from_dense(canvas).to_coco()[0]


def _turned(points: np.ndarray, row: Mapping[str, str]) -> list[float]:
    """`points` (P, 2), turned around their middle by the attribute rotation: degrees, clockwise as the image is seen."""
    angle = np.deg2rad(float(row.get("rotation", 0)))
    if angle:
        middle = points.mean(axis=0)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = (points - middle) @ turn + middle
    return points.ravel().tolist()
