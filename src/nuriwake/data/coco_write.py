"""COCO instances, written: annotations/instances_<split>.json and images/<split>/; and detections as COCO result files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.data.outlines import outlines
from nuriwake.data.seen import as_instances, countable
from nuriwake.data.written import ImageWriter, WriteSettings, Written, refuse_existing


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / "annotations" / f"instances_{split}.json",)


def write_coco(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one COCO split; masks as compressed run lengths, or as outlines that COCO fills to the same masks.

    Ids, crowd flags, stated areas and scores are kept; boxes to a thousandth of a pixel. A panoptic target gives its things.

    Raises:
        UserError: the split is there already, a sample without a target or with a label map.
    """
    (path,) = taken(folder, settings.split)
    refuse_existing(path)
    classes = countable(space)
    numbers = dict(zip(classes.names, settings.numbers(classes), strict=True))
    writer = ImageWriter(folder / "images" / settings.split, settings)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    stated: list[int] = []
    notes: list[str] = []
    names: list[str] = []
    for sample in samples:
        target = as_instances(sample)
        names.append(writer.name(sample))
        file = writer.write(sample, names[-1])
        images.append({"file_name": file, "height": sample.size[0], "width": sample.size[1]})
        annotations += [{"image": len(images) - 1, **row} for row in _rows(target, numbers, settings)]
        stated += [] if target.ids is None else target.ids.tolist()
    identifiers = image_identifiers(names)
    for image, identifier in zip(images, identifiers, strict=True):
        image["id"] = identifier
    _number(annotations, stated, notes)
    for annotation in annotations:
        annotation["image_id"] = identifiers[annotation.pop("image")]
    plain = {"images": images, "annotations": annotations, "categories": categories(classes, settings)}
    write_text(path, json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
    return Written((path, *writer.files), (*notes, *writer.notes))


ResultKind = Literal["mask", "box"]


def categories(space: LabelSpace, settings: WriteSettings, *, things: bool = False) -> list[dict[str, Any]]:
    """The entries of `categories`; with `things`, each says whether it is one."""
    rows = zip(settings.numbers(space), space.names, space.things, space.colours, strict=True)
    return [
        {"id": number, "name": name, "supercategory": "", "color": list(colour)}
        | ({"isthing": int(thing)} if things else {})
        for number, name, thing, colour in rows
    ]


def image_identifiers(names: Sequence[str]) -> list[int]:
    """An id per image: the number that its name is, where all are different numbers ("000000000139"), else 1, 2, ..."""
    if names and all(name.isascii() and name.isdigit() and len(name) <= 15 for name in names):
        numbers = [int(name) for name in names]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))


def coco_results(
    predictions: Iterable[tuple[int | str, Instances]], category_ids: Mapping[str, int], *, of: ResultKind = "mask"
) -> list[dict[str, Any]]:
    """Detections as the entries of a COCO result file, which evaluation servers and pycocotools' loadRes take.

    Masks and boxes are files of their own: where an entry has both, pycocotools takes its area, by which it is small or large,
    from the box, also when it scores masks.

    Args:
        predictions: (image id, detections with scores).
        category_ids: class name -> category id.
        of: what the entries hold.

    Raises:
        UserError: detections without scores, or of a class without an id.
    """
    rows: list[dict[str, Any]] = []
    for image_id, found in predictions:
        if found.scores is None:
            raise UserError(f"Image {image_id}: a COCO result file holds scores, but these objects have none (truth?).")
        numbers = _category_numbers(found, category_ids)
        if of == "mask":
            values: list[Any] = found.masks.to_coco()
        else:
            # Not rounded: a box that lies at a threshold must not change sides.
            boxes = found.boxes.astype(np.float64)
            values = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        field = "segmentation" if of == "mask" else "bbox"
        for number, value, score in zip(numbers, values, _scores(found.scores), strict=True):
            rows.append({"image_id": image_id, "category_id": number, field: value, "score": score})
    return rows


def write_results(
    path: Path,
    predictions: Iterable[tuple[int | str, Instances]],
    category_ids: Mapping[str, int],
    *,
    of: ResultKind = "mask",
) -> Path:
    """`coco_results` as a file, atomically."""
    write_text(path, json.dumps(coco_results(predictions, category_ids, of=of), allow_nan=False))
    return path


def _category_numbers(target: Instances, numbers: Mapping[str, int]) -> list[int]:
    names = [target.space.names[label] for label in target.labels.tolist()]
    unknown = sorted(set(names) - set(numbers))
    if unknown:
        raise UserError(f"The classes {', '.join(unknown)} of the objects have no category id.")
    return [numbers[name] for name in names]


def _scores(scores: np.ndarray) -> list[float]:
    """With the fewest digits that give the same float32."""
    return [float(np.format_float_positional(score, unique=True)) for score in scores]


def _rows(target: Instances, numbers: Mapping[str, int], settings: WriteSettings) -> list[dict[str, Any]]:
    categories = _category_numbers(target, numbers)
    scores = None if target.scores is None else _scores(target.scores)
    rows: list[dict[str, Any]] = []
    outlined = outlines(target.masks, tolerance=settings.tolerance) if settings.polygons else [[]] * len(target)
    for i, runs in enumerate(target.masks.to_coco()):
        left, top, right, bottom = (float(value) for value in target.boxes[i])
        row: dict[str, Any] = {
            "category_id": categories[i],
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            # COCO keeps crowds as run lengths, and a mask without a pixel has no outline.
            "segmentation": [part.tolist() for part in outlined[i]] if outlined[i] and not target.crowd[i] else runs,
            "area": _short(float(target.areas[i])),
            "iscrowd": int(target.crowd[i]),
        }
        if target.ids is not None:
            row["id"] = int(target.ids[i])
        if scores is not None:
            row["score"] = scores[i]
        rows.append(row)
    return rows


def _number(annotations: Sequence[dict[str, Any]], stated: Sequence[int], notes: list[str]) -> None:
    """Keeps ids that are unique over all images; else counts from 1."""
    if len(stated) == len(annotations) and len(set(stated)) == len(stated):
        return
    if stated:
        notes.append(
            "Ids of objects are not unique over all images, as COCO wants them; they are numbered anew from 1."
        )
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number


def _short(value: float) -> int | float:
    return int(value) if value.is_integer() else value
