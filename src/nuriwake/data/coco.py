"""COCO instances: one JSON per split with the outlines or run lengths of every object (Lin et al. 2014; cocodataset.org)."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import BACKGROUND_NAMES, LabelSpace
from nuriwake.core.targets import Size
from nuriwake.data.assembly import assemble
from nuriwake.data.coco_files import (
    AnnotationFile,
    Category,
    ImageFolder,
    category_space,
    common_categories,
    described_files,
    locate_images,
    reason,
)
from nuriwake.data.coco_index import CocoFile, CocoIndex, read_coco
from nuriwake.data.coco_write import taken, write_coco
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.headers import image_header
from nuriwake.data.segmentation import read_segmentations
from nuriwake.data.texts import counted


@dataclass(frozen=True, eq=False)
class CocoReader:
    """record.target is (number of the file, number of the image in it). No mask is held, nor any outline.

    Args:
        space: the classes, all of them things.
        category_ids: of the classes, in their order.
        files: the index of every file.
    """

    space: LabelSpace
    category_ids: tuple[int, ...]
    files: tuple[CocoIndex, ...]

    def __call__(self, record: Record) -> Instances:
        """The objects of the image, in the order of the file. Raises UserError with file, image and annotation."""
        number, image = record.target
        index = self.files[number]
        rows = index.rows(image)
        ids = index.ids[rows]
        height, width = index.sizes[image].tolist()
        size: Size = (height, width) if height and width else image_header(record.image).size

        def who(row: int) -> str:
            return f"{index.path}: annotation {ids[row]} of {record.image.name}"

        masks = read_segmentations(_parsed(index.segmentations(image), who), size, who)
        stated, areas = index.boxes[rows], index.areas[rows]
        labels = np.searchsorted(np.array(self.category_ids), index.categories[rows])
        return Instances(
            masks,
            labels.astype(np.int32),
            self.space,
            boxes=np.where(np.isnan(stated), masks.boxes(), stated),
            crowd=index.crowd[rows],
            areas=np.where(np.isnan(areas), masks.areas(), areas),
            ids=ids,
        )


def recognise(root: Path) -> str | None:
    """Because there is a JSON file with the word "segmentation" in it."""
    return reason(root, "instances")


def open_coco(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`: annotations/instances_<split>.json, a JSON beside its images, or as described.

    Raises:
        UserError: files or images that are not there, and whatever `read_coco` refuses.
    """
    refuse_fields(description, "coco", "images", "annotations")
    found = described_files(root, description, "instances")
    files = [read_coco(file.path) for file in found]
    categories, notes = _without_background(files)
    space = category_space(files[0].index.path, categories, [category.thing is not False for category in categories])
    notes += [note for file in files for note in file.notes]
    notes += _category_notes(files, categories)
    records: list[tuple[AnnotationFile, list[Record]]] = []
    for number, (file, read) in enumerate(zip(found, files, strict=True)):
        images = locate_images(root, file, read.names, description.images)
        keep = kept_images(file.path, read.names, images, description, notes)
        records.append((file, [Record(stem(read.names[i]), path, (number, i)) for i, path in keep]))
    return assemble(
        root,
        "coco",
        space,
        unique_names(records),
        reader=CocoReader(space, tuple(category.id for category in categories), tuple(file.index for file in files)),
        description=description,
        notes=(f"{_objects(files)} in {listed([file.index.path.name for file in files])}.", *notes),
        sources=tuple(file.index.path for file in files),
    )


FORMAT = Format(recognise, open_coco, write_coco, holds="objects", keeps_colours=True, taken=taken)


def stem(file_name: str) -> str:
    """The name of a record: the file name without its suffix, with `/`."""
    name = file_name.replace("\\", "/")
    return name.rpartition(".")[0] or name


def unique_names(parts: Sequence[tuple[AnnotationFile, Sequence[Record]]]) -> dict[str, list[Record]]:
    """Records by split; where one name stands in two splits, the split goes before the names."""
    names = [record.name for _, records in parts for record in records]
    if len(set(names)) == len(names) or len(parts) == 1:
        return {file.split: list(records) for file, records in parts}
    return {
        file.split: [Record(f"{file.split}/{record.name}", record.image, record.target) for record in records]
        for file, records in parts
    }


def kept_images(
    path: Path, names: Sequence[str], images: ImageFolder, description: DataDescription, notes: list[str]
) -> list[tuple[int, Path]]:
    """(number, path) of the images that are there.

    Raises:
        UserError: some are not, and the description does not say to skip them.
    """
    missing = [name for name, found in zip(names, images.paths, strict=True) if found is None]
    if missing and description.unpaired == "refuse":
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} images are not in {images.folder}: {listed(missing)}; complete them, or "
            "write 'unpaired: skip' in a YAML description to leave them out."
        )
    if missing:
        notes.append(
            f"{path.name}: {len(missing)} {counted('[image is not there and is|images are not there and are]', len(missing))} left "
            f"out, as described: {listed(missing)}."
        )
    if images.others:
        text = f"[image in {images.folder.name}/ is not in {path.name} and is|images in {images.folder.name}/ are not in {path.name} and are]"
        notes.append(f"{images.others} {counted(text, images.others)} left out.")
    return [(number, found) for number, found in enumerate(images.paths) if found is not None]


def _parsed(texts: Sequence[bytes], who: Callable[[int], str]) -> list[Any]:
    values: list[Any] = []
    for row, text in enumerate(texts):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UserError(f"{who(row)}: segmentation: this is no JSON ({error}).") from error
        values.append(value if isinstance(value, list | Mapping) else [])
    return values


def _without_background(files: Sequence[CocoFile]) -> tuple[list[Category], list[str]]:
    """The categories of all files. Some tools list a background that no object has; it is no class of objects."""
    categories = common_categories([(file.index.path, file.categories) for file in files])
    first = categories[0]
    if first.name not in BACKGROUND_NAMES or len(categories) == 1:
        return categories, []
    for file in files:
        if (file.index.categories == first.id).any():
            raise UserError(
                f"{file.index.path}: the category {first.id} is '{first.name}', yet objects have it; rename it."
            )
    return categories[1:], [
        f"The category {first.id} ('{first.name}') is no class of objects and has none; it is left out."
    ]


def _objects(files: Iterable[CocoFile]) -> str:
    indices = [file.index for file in files]
    objects, crowd = sum(len(index.ids) for index in indices), sum(int(index.crowd.sum()) for index in indices)
    empty = sum(int((np.diff(index.offsets) == 0).sum()) for index in indices)
    return f"{objects:,} objects ({crowd:,} of them crowd regions; {empty:,} images without any)"


def _category_notes(files: Sequence[CocoFile], categories: Sequence[Category]) -> list[str]:
    used = {int(value) for file in files for value in np.unique(file.index.categories)}
    absent = [category.name for category in categories if category.id not in used]
    notes = [f"{len(categories)} classes from 'categories', in the order of their ids."]
    if absent and used:
        notes.append(f"{len(absent)} classes have no object: {listed(absent)}.")
    return notes
