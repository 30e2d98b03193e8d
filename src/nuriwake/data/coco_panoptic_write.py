"""COCO panoptic, written: annotations/panoptic_<split>.json, the PNG of ids beside it, and images/<split>/."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes, write_text
from nuriwake.core.id_maps import encode_ids
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.data.coco_write import categories, image_identifiers
from nuriwake.data.seen import as_panoptic
from nuriwake.data.written import ImageWriter, WriteSettings, Written, refuse_existing


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    path = folder / "annotations" / f"panoptic_{split}.json"
    return path, path.with_suffix("")


def write_coco_panoptic(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one split; nothing of a panoptic target is lost: ids, classes, crowd, void and scores. Of other targets
    see `as_panoptic`.

    Raises:
        UserError: the split is there already, a sample whose target has no segments, or classes that are not in `space`.
    """
    path, _ = found = taken(folder, settings.split)
    refuse_existing(*found)
    numbers = dict(zip(space.names, settings.numbers(space), strict=True))
    writer = ImageWriter(folder / "images" / settings.split, settings)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    pngs: list[Path] = []
    made_of: set[str] = set()
    for sample in samples:
        target, made = as_panoptic(sample, by_region=settings.regions)
        made_of |= {made} - {""}
        unknown = sorted({target.space.names[label] for label in target.labels.tolist()} - set(numbers))
        if unknown:
            raise UserError(f"The classes {', '.join(unknown)} of the segments are not in the classes to write.")
        names.append(writer.name(sample))
        file = writer.write(sample, names[-1])
        pngs.append(path.with_suffix("") / f"{names[-1]}.png")
        _write_png(pngs[-1], encode_ids(target.ids))
        images.append({"file_name": file, "height": sample.size[0], "width": sample.size[1]})
        annotations.append({"file_name": f"{names[-1]}.png", "segments_info": _segments(target, numbers)})
    for image, annotation, identifier in zip(images, annotations, image_identifiers(names), strict=True):
        image["id"] = annotation["image_id"] = identifier
    plain = {"images": images, "annotations": annotations, "categories": categories(space, settings, things=True)}
    write_text(path, json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
    return Written((path, *pngs, *writer.files), (*sorted(made_of), *writer.notes))


def _segments(target: Panoptic, numbers: dict[str, int]) -> list[dict[str, Any]]:
    areas, boxes = target.areas(), _boxes(target)
    rows: list[dict[str, Any]] = []
    for i, identifier in enumerate(target.segment_ids.tolist()):
        row: dict[str, Any] = {
            "id": identifier,
            "category_id": numbers[target.space.names[int(target.labels[i])]],
            "iscrowd": int(target.crowd[i]),
            "bbox": boxes[i],
            "area": int(areas[i]),
        }
        if target.scores is not None:
            row["score"] = float(np.format_float_positional(target.scores[i], unique=True))
        rows.append(row)
    return rows


def _boxes(target: Panoptic) -> list[list[int]]:
    """[left, top, width, height] of every segment."""
    corners = target.masks().boxes().astype(int)
    return [[left, top, right - left, bottom - top] for left, top, right, bottom in corners.tolist()]


def _write_png(path: Path, rgb: np.ndarray) -> None:
    write_bytes(path, cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes())
