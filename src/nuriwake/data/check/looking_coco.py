"""Looking at the objects of COCO, one by one, and at panoptic PNG beside their JSON."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import decode_ids
from nuriwake.core.runs import RunMasks
from nuriwake.core.size import Size
from nuriwake.data.check.entry import Annotation, Entry
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.outlines import beyond, crosses_itself, outline_area
from nuriwake.data.coco_panoptic import compare
from nuriwake.data.images import read_mask
from nuriwake.data.segmentation import read_segmentations

MOST = 1e8
"""Coordinates are smaller than this, as `RunMasks.from_polygons` has it; NaN and what is infinite are not."""

SAME = 0.9
"""Two masks of one image with this IoU are one object annotated twice."""

_BOX_PIXELS, _BOX_SHARE = 3.0, 0.1  # by how much a box may miss its mask: tools round, and some add a pixel
_AREA_RIM, _AREA_SHARE = 6.0, 0.2  # a rim of one pixel and a half around a square; slim shapes have more
_PAIRS = 1 << 21  # pairs of boxes compared at once: an image may hold tens of thousands of objects
_OUTSIDE = 2.0  # pixels beyond the image that rounding explains


def look(entry: Entry, facts: Facts) -> None:
    """The annotations of `entry`, against the image's size and against each other."""
    size = entry.stated or (facts.header.size if facts.header else None)
    if entry.stated and facts.header and entry.stated != facts.header.size:
        turned = facts.header.orientation >= 5 and entry.stated == facts.header.size[::-1]
        text = f"the JSON says {_size(entry.stated)}, the image is {_size(facts.header.size)} (height x width)"
        facts.tell("exif_rotation" if turned else "size_differs", entry.image, text)
    if size is None:
        return
    good: list[Annotation] = []
    parts: list[RunMasks] = []
    for annotation in entry.annotations:
        mask = read_mask_of(annotation, entry, facts, size)
        if mask is not None:
            good.append(annotation)
            parts.append(mask)
    facts.known = True
    facts.crowd = sum(annotation.crowd for annotation in entry.annotations)
    if not good:
        return
    masks = RunMasks.concatenate(parts)
    areas, boxes = masks.areas(), masks.boxes()
    for n, annotation in enumerate(good):
        if not annotation.crowd:
            label = annotation.category
            facts.labels[label] = facts.labels.get(label, 0) + int(areas[n])
        if areas[n] == 0:
            who = _who(entry, annotation)
            if not any(problem.kind == "no_area" and problem.where == who for problem in facts.problems):
                facts.tell("no_area", who, "no pixel lies inside")
        else:
            _compare_box(annotation, boxes[n], entry, facts)
            if annotation.area is not None and not area_fits(annotation.area, int(areas[n])):
                text = f"area {annotation.area:g}, the mask has {int(areas[n]):,} pixels"
                facts.tell("area_disagrees", _who(entry, annotation), text)
    keep = np.array([not annotation.crowd for annotation in good]) & (areas > 0)
    facts.objects = np.array([(good[n].category, areas[n]) for n in np.flatnonzero(keep)], np.float32).reshape(-1, 2)
    _compare_pairs(good, masks, boxes, entry, facts)


def look_panoptic(entry: Entry, facts: Facts, known: Sequence[int]) -> None:
    """The PNG of `entry` against its `segments_info` and the `known` category ids."""
    png = entry.masks[0]
    try:
        raw = read_mask(png)
    except UserError as error:
        facts.tell("mask_unreadable", png, str(error).removeprefix(f"{png}: "))
        return
    if raw.ndim != 3:
        facts.tell("panoptic_disagrees", png, "panoptic ids are stored as RGB, found a grey PNG")
        return
    ids = decode_ids(raw)
    if facts.header is not None and ids.shape != facts.header.size:
        turned = facts.header.orientation >= 5 and ids.shape == facts.header.size[::-1]
        text = f"{ids.shape[0]}x{ids.shape[1]}, but the image is {_size(facts.header.size)} (height x width)"
        facts.tell("exif_rotation" if turned else "size_differs", png, text)
    for segment in entry.segments:
        if segment.category not in known:
            facts.tell("category_unknown", png, f"segment {segment.id} has the category {segment.category}")
    listed = np.array([segment.id for segment in entry.segments], np.int64)
    areas = np.array([segment.area for segment in entry.segments], np.float64)
    try:
        compare(ids, listed, areas, png.name, png)
    except UserError as error:
        facts.tell("panoptic_disagrees", png, str(error).removeprefix(f"{png.name}: "))
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    facts.known = True
    facts.ignored = pixels.get(0, 0) / ids.size
    facts.crowd = sum(segment.crowd for segment in entry.segments)
    rows: list[tuple[int, int]] = []
    for segment in entry.segments:
        area = pixels.get(segment.id, 0)
        if area and not segment.crowd:
            facts.labels[segment.category] = facts.labels.get(segment.category, 0) + area
            rows.append((segment.category, area))
    facts.objects = np.array(rows, np.float32).reshape(-1, 2)


def read_mask_of(annotation: Annotation, entry: Entry, facts: Facts, size: Size) -> RunMasks | None:
    """The mask of one annotation, or None and a problem told to `facts`."""
    who = _who(entry, annotation)
    try:
        item: Any = json.loads(annotation.segmentation)
    except ValueError as error:
        facts.tell("segmentation_unreadable", who, f"no JSON ({error})")
        return None
    if not item or not isinstance(item, list | dict):
        facts.tell("segmentation_missing", who, "no segmentation")
        return None
    if isinstance(item, list) and not _look_at_polygons(item, who, facts, size):
        return None
    if isinstance(item, dict):
        stated = item.get("size")
        if stated != list(size):
            facts.tell("rle_size", who, f"run lengths of {stated}, but the image is {list(size)} (height, width)")
            return None
    elif annotation.crowd:
        facts.tell("crowd_polygons", who, "a crowd region as polygons")
    try:
        return read_segmentations([item], size, lambda _: who)
    except UserError as error:
        text = str(error).removeprefix(f"{who}: segmentation: ")
        kind = "polygon_outside" if "outside the image" in text else "segmentation_unreadable"
        facts.tell("rle_size" if "cover" in text and isinstance(item, dict) else kind, who, text)
        return None


def _look_at_polygons(item: list[Any], who: str, facts: Facts, size: Size) -> bool:
    """False where nothing can be drawn."""
    furthest, crossed, thin = 0.0, False, False
    for polygon in item:
        numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
        if not numbers or len(polygon) % 2 or not all(abs(value) < MOST for value in polygon):
            facts.tell("segmentation_unreadable", who, f"a polygon is a list [x, y, x, y, ...], found {polygon!r:.50}")
            return False
        if len(polygon) < 6:
            facts.tell("polygon_points", who, f"a polygon of {len(polygon) // 2} points")
            return False
        points = np.array(polygon, np.float64).reshape(-1, 2)
        furthest = max(furthest, beyond(points, size))
        thin = thin or outline_area(points) == 0
        crossed = crossed or crosses_itself(points)
    if thin:
        facts.tell("no_area", who, "a polygon encloses nothing")
    if furthest > _OUTSIDE:
        facts.tell("polygon_leaves", who, f"{furthest:.0f} pixels beyond the image")
    if crossed:
        facts.tell("polygon_crosses", who, "a polygon crosses itself")
    return True


def area_fits(stated: float, pixels: int) -> bool:
    """Whether `stated` may be the area of a mask of so many `pixels`: an outline's area and its pixels differ by its rim."""
    return abs(stated - pixels) <= max(_AREA_RIM * pixels**0.5, _AREA_SHARE * pixels)


def _compare_box(annotation: Annotation, box: np.ndarray, entry: Entry, facts: Facts) -> None:
    if annotation.box is None:
        return
    left, top, width, height = annotation.box
    stated = np.array([left, top, left + width, top + height])
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    if (np.abs(stated - box) > np.maximum(_BOX_PIXELS, _BOX_SHARE * sides)).any():
        found = [round(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
        facts.tell("box_disagrees", _who(entry, annotation), f"bbox {list(annotation.box)}, the mask lies in {found}")


def _compare_pairs(good: Sequence[Annotation], masks: RunMasks, boxes: np.ndarray, entry: Entry, facts: Facts) -> None:
    """Annotations that stand twice, word by word or as two masks of one object."""
    written: dict[tuple[int, bytes], Annotation] = {}
    twice: set[int] = set()
    for n, annotation in enumerate(good):
        before = written.setdefault((annotation.category, annotation.segmentation), annotation)
        if before is not annotation:
            twice.add(n)
            facts.tell("annotation_twice", _who(entry, annotation), f"the same as annotation {before.id}")
    if len(good) < 2:
        return
    for i, j in _near(boxes):
        if i not in twice and j not in twice and not good[i].crowd and not good[j].crowd:
            overlap = float(masks[i].iou(masks[j])[0, 0])
            if overlap >= SAME:
                text = f"covers annotation {good[i].id} (IoU {overlap:.2f})"
                facts.tell("object_twice", _who(entry, good[j]), text)


def _near(boxes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j of `boxes` (N, 4) whose IoU is so high that their masks may be the same."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    pairs: list[tuple[int, int]] = []
    step = max(1, _PAIRS // max(len(boxes), 1))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step]
        corner = np.maximum(part[:, None, :2], boxes[None, :, :2])
        sides = np.clip(np.minimum(part[:, None, 2:], boxes[None, :, 2:]) - corner, 0, None)
        common = sides.prod(axis=2)
        overlap = common / np.maximum(areas[start : start + step, None] + areas[None] - common, 1e-9)
        pairs += [(start + i, j) for i, j in np.argwhere(np.triu(overlap > 0.7, start + 1)).tolist()]
    return pairs


def _who(entry: Entry, annotation: Annotation) -> str:
    return f"{entry.image.name}, annotation {annotation.id}"


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
