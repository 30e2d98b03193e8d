"""Cityscapes' panoptic files: gtFine/cityscapes_panoptic_<split>.json, and beside it a folder of its name with PNG of ids.

They are COCO panoptic files with label ids for categories and the numbers of instanceIds for segments, as
cityscapesscripts/preparation/createPanopticImgs.py makes them. The images' names in them are of no use: that program writes
"..._gtFine_leftImg8bit.png". So images are found by the names of the PNG.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes, write_text
from nuriwake.core.id_maps import encode_ids
from nuriwake.core.runs import RunMasks
from nuriwake.data.assembly import split_name
from nuriwake.data.cityscapes_classes import CLASSES, SPACE
from nuriwake.data.coco_files import Category
from nuriwake.data.coco_panoptic import CocoPanopticReader, PanopticIndex, labelled, read_panoptic_file
from nuriwake.data.dataset import Record, listed
from nuriwake.data.description import DataDescription
from nuriwake.data.texts import composed

STEM = "cityscapes_panoptic_"
_PNG = "_gtFine_panoptic.png"
_TRAIN_IDS = "_trainId"
"""At the end of the name of files whose categories are numbered from 0 to 18."""


def find_panoptic_files(root: Path, truth: Path, description: DataDescription) -> dict[str, Path]:
    """Split -> JSON file: those of the field `annotations`, or else those in `truth` (gtFine/).

    Raises:
        UserError: a file that is described and not there.
    """
    given = description.annotations
    if isinstance(given, Mapping):
        files = {split_name(split) or split: root / path for split, path in given.items()}
    elif given is not None:
        files = {_split_of(root / given): root / given}
    else:
        # Files with train ids come first, so that those with label ids take their place.
        found = sorted(truth.glob(f"{STEM}*.json"), key=lambda path: not path.stem.endswith(_TRAIN_IDS))
        files = {_split_of(path): path for path in found}
    for path in files.values():
        if not path.is_file():
            raise UserError(f"annotations: there is no file {path}.")
    return files


def _split_of(path: Path) -> str:
    word = path.stem.removeprefix(STEM).removesuffix(_TRAIN_IDS)
    return split_name(word) or word


def panoptic_records(
    files: Mapping[str, Path], images: Mapping[str, Path]
) -> tuple[CocoPanopticReader, dict[str, list[Record]], list[str]]:
    """Reader, records by split, and notes for the JSON `files` (split -> path) and all `images` (split/city/name -> path).

    Raises:
        UserError: a file that is not understood, categories that are not Cityscapes', PNG or images that are not there.
    """
    splits: dict[str, list[Record]] = {}
    indices: list[PanopticIndex] = []
    for number, (split, path) in enumerate(files.items()):
        file = read_panoptic_file(path)
        indices.append(labelled(file.index, *_labels_of(path, file.categories)))
        records = [(number, row, png) for row, png in enumerate(file.pngs) if png]
        splits[split] = _records(split, path, images, records)
    segments = sum(len(index.ids) for index in indices)
    shown = listed([path.name for path in files.values()])
    notes = [f"The 19 evaluated classes of Cityscapes; {segments:,} segments in {shown}."]
    label_ids = tuple(item.label_id for item in CLASSES)
    return CocoPanopticReader(SPACE, label_ids, tuple(indices)), splits, notes


def _labels_of(path: Path, categories: tuple[Category, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Category ids, ascending, and their labels. Raises UserError for a category that is not Cityscapes' own."""
    for category in categories:
        if category.name not in SPACE.names:
            raise UserError(
                f"{path}: Cityscapes has 19 classes of its own; the category {category.id} ('{category.name}') is none of them. "
                "Open the file with format=coco_panoptic if it is another data set."
            )
        if category.thing != SPACE.things[SPACE.index(category.name)]:
            kind = "stuff" if category.thing else "a thing"
            raise UserError(
                f"{path}: the category {category.id} ('{category.name}') is {kind} in Cityscapes; correct 'isthing'."
            )
    ordered = sorted(categories, key=lambda category: category.id)
    labels = [SPACE.index(category.name) for category in ordered]
    return np.array([category.id for category in ordered]), np.array(labels, np.int32)


def _records(split: str, path: Path, images: Mapping[str, Path], rows: list[tuple[int, int, str]]) -> list[Record]:
    folder = path.with_suffix("")
    by_name = {key.rpartition("/")[2]: key for key in images if split_name(key.partition("/")[0]) in (split, None)}
    bare = [composed(Path(png).name.removesuffix(_PNG)) for _, _, png in rows]
    absent = [name for name in bare if name not in by_name]
    if absent:
        raise UserError(
            f"{path}: {len(absent)} of its {len(rows)} images are not in leftImg8bit/{split}/ (*_leftImg8bit.png): "
            f"{listed(absent)}."
        )
    missing = [png for _, _, png in rows if not (folder / png).is_file()]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(rows)} PNG files are not in {folder}: {listed(missing)}.")
    return [
        Record(by_name[name], images[by_name[name]], (folder / png, number, row))
        for name, (number, row, png) in zip(bare, rows, strict=True)
    ]


class PanopticSplit:
    """One split's panoptic files while they are written: PNG by PNG, the JSON at the end.

    Args:
        truth: the folder gtFine/.
        split: its name.
    """

    def __init__(self, truth: Path, split: str) -> None:
        self.path = truth / f"{STEM}{split}.json"
        self.folder = self.path.with_suffix("")
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str, instance_ids: np.ndarray) -> Path:
        """Writes the PNG of the image `name` ("aachen_000000_000019") from its instanceIds, uint16 (H, W), where 0 is void."""
        height, width = instance_ids.shape
        ids = instance_ids.astype(np.int32)
        png = f"{name}{_PNG}"
        encoded = cv2.imencode(".png", np.ascontiguousarray(encode_ids(ids)[..., ::-1]))[1].tobytes()
        write_bytes(self.folder / png, encoded)
        self._images.append({"id": name, "width": width, "height": height, "file_name": f"{name}_leftImg8bit.png"})
        self._annotations.append({"image_id": name, "file_name": png, "segments_info": _segments(ids)})
        return self.folder / png

    def finish(self) -> list[Path]:
        """Writes the JSON; nothing where no image was added. Returns what was written."""
        if not self._images:
            return []
        categories = [
            {
                "id": item.label_id,
                "name": item.name,
                "color": list(item.colour),
                "supercategory": item.group,
                "isthing": int(item.thing),
            }
            for item in CLASSES
        ]
        plain = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_text(self.path, json.dumps(plain) + "\n")
        return [self.path]


def _segments(ids: np.ndarray) -> list[dict[str, Any]]:
    """One per id on the map (H, W) int32; an id below 1000 is a label id, which stands for a group where it is a thing's."""
    things = {item.label_id for item in CLASSES if item.thing}
    numbers = np.unique(ids[ids > 0])
    masks = RunMasks.from_labels(ids, numbers)
    rows: list[dict[str, Any]] = []
    for identifier, area, box in zip(numbers.tolist(), masks.areas().tolist(), masks.boxes().tolist(), strict=True):
        left, top, right, bottom = map(int, box)
        group = identifier < 1000
        rows.append(
            {
                "id": identifier,
                "category_id": identifier if group else identifier // 1000,
                "area": int(area),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": int(group and identifier in things),
            }
        )
    return rows
