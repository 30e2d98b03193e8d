"""Looking at masks: which values they hold and how, and truth that a format's own reader reads."""

from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE
from nuriwake.core.targets import Panoptic, SemanticMap, Target
from nuriwake.data.check.entry import Entry
from nuriwake.data.check.looking import Facts, MaskFacts
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.headers import ImageHeader, image_header
from nuriwake.data.images import read_mask
from nuriwake.data.observing import LEAST_TINTED, Ends, ends_of, pack, stand_between, tint_of
from nuriwake.data.statistics import count_classes

MOST_VALUES = 4096
"""So many different values of a mask are kept; more are no code of classes."""

MOST_COLOURS = 512
"""So many colours of a mask are kept, the most frequent ones: a mask that was JPEG once has thousands, and masks are many."""

_MOST_PARTS, _MOST_OBJECTS = 40, 2000


def look(entry: Entry, facts: Facts, *, objects: bool) -> None:
    """The masks of `entry`; with `objects` the second one numbers objects."""
    raws: list[np.ndarray] = []
    seen: list[MaskFacts] = []
    for path in entry.masks:
        try:
            header = image_header(path)
            raw = read_mask(path)
        except UserError as error:
            facts.tell("mask_unreadable", path, str(error).removeprefix(f"{path}: "))
            continue
        if facts.header is not None:
            _compare_sizes(entry, facts, path, (raw.shape[0], raw.shape[1]))
        seen.append(mask_facts(path, header, raw))
        raws.append(raw)
    if objects and len(raws) == 2:
        _compare_objects(entry, facts, raws[0], raws[1])
        seen = seen[:1]
    facts.masks, facts.known = tuple(seen), bool(seen) and len(raws) == len(entry.masks)
    if len(seen) == 1:
        facts.objects = _parts(raws[0], seen[0])


def mask_facts(path: Path, header: ImageHeader, raw: np.ndarray) -> MaskFacts:
    """What `raw` (H, W) or (H, W, 3), as `read_mask` gives it, holds."""
    three = raw.ndim == 3
    coloured = three and not bool(((raw[..., 0] == raw[..., 1]) & (raw[..., 0] == raw[..., 2])).all())
    if coloured and header.kind == "jpeg":
        coloured = tint_of(raw) >= LEAST_TINTED
    grey = np.ascontiguousarray(raw[..., 0]) if three else raw
    between = np.zeros(0, np.int64)
    if coloured:
        values, counts = np.unique(pack(raw), return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_COLOURS])
        values, counts = values[kept], counts[kept]
    else:
        histogram = value_counts(grey)
        values = np.flatnonzero(histogram)[:MOST_VALUES]
        counts = histogram[values]
        if grey.dtype == np.uint8 and len(values) > 2:
            between = value_counts(grey[stand_between(grey)])[values]
    if not len(between):
        between = np.zeros(len(values), np.int64)
    return MaskFacts(
        path,
        header,
        values.astype(np.int64),
        counts.astype(np.int64),
        between.astype(np.int64),
        coloured,
        three,
        Ends(0, 0) if coloured else ends_of(grey),
    )


def look_read(record: Record, facts: Facts, data: DataSet) -> None:
    """The target as the format's own reader has it."""
    try:
        target = data.read_target(record)
    except UserError as error:
        facts.tell("truth_unreadable", record.image, str(error).removeprefix(f"{record.image}: "))
        return
    if target is None:
        return
    facts.known = True
    if facts.header is not None and target.size != facts.header.size:
        turned = facts.header.orientation != 1 and target.size == facts.header.size[::-1]
        facts.tell("exif_rotation" if turned else "size_differs", record.image, _sizes(target.size, facts.header.size))
    counts = count_classes(target)
    facts.labels = {label: int(counts[label]) for label in np.flatnonzero(counts).tolist()}
    if isinstance(target, SemanticMap):
        facts.ignored = float((target.labels == IGNORE).mean())
    else:
        facts.objects = target_objects(target)
        facts.crowd = int(target.crowd.sum())
    if isinstance(target, Instances):
        _tell_of_objects(target, record, facts)


def _tell_of_objects(target: Instances, record: Record, facts: Facts) -> None:
    """Objects without a pixel, and objects of one class and one mask."""
    areas, boxes = target.masks.areas(), target.masks.boxes()
    for number in np.flatnonzero(areas == 0).tolist():
        facts.tell("no_area", record.image, f"object {number + 1}")
    marks = np.column_stack([target.labels, target.crowd, areas, boxes])
    _, groups, counts = np.unique(marks, axis=0, return_inverse=True, return_counts=True)
    alike = np.flatnonzero((counts[groups.ravel()] > 1) & (areas > 0))
    first: dict[tuple[int, str], int] = {}
    for number, runs in zip(alike.tolist(), target.masks[alike].to_coco(), strict=True):
        before = first.setdefault((int(groups.ravel()[number]), str(runs["counts"])), number)
        if before != number:
            facts.tell("annotation_twice", record.image, f"object {number + 1} is object {before + 1}")


def target_objects(target: Target) -> np.ndarray:
    """float32 (N, 2): label and area of the things of `target` that are no crowd."""
    if isinstance(target, SemanticMap):
        return np.zeros((0, 2), np.float32)
    areas = target.areas() if isinstance(target, Panoptic) else target.masks.areas()
    keep = ~target.crowd & np.array(target.space.things)[target.labels]
    return np.stack([target.labels[keep], areas[keep]], axis=1).astype(np.float32)


def _compare_sizes(entry: Entry, facts: Facts, path: object, size: tuple[int, int]) -> None:
    header = facts.header
    if header is None or size == header.size:
        return
    turned = header.orientation >= 5 and size == header.size[::-1]
    facts.tell("exif_rotation" if turned else "size_differs", path, _sizes(size, header.size))


def _compare_objects(entry: Entry, facts: Facts, classes: np.ndarray, objects: np.ndarray) -> None:
    path = entry.masks[1]
    if classes.shape != objects.shape:
        facts.tell("objects_disagree", path, f"{objects.shape} but classes {classes.shape}")
        return
    if classes.ndim == 3:
        return
    there, named = (objects > 0) & (objects != IGNORE), (classes > 0) & (classes != IGNORE)
    odd = int((there != named).sum())
    if odd:
        facts.tell("objects_disagree", path, f"{odd:,} pixels have an object but no class, or the reverse")
        return
    pairs = np.unique(objects[there].astype(np.int64) << 16 | classes[there])
    twice = np.flatnonzero(np.diff(pairs >> 16) == 0)
    if len(twice):
        facts.tell("objects_disagree", path, f"the object {pairs[twice[0]] >> 16} has several classes")


def _parts(raw: np.ndarray, seen: MaskFacts) -> np.ndarray:
    """Connected regions of every value but 0 and ignore; where values are many, they number objects."""
    if raw.ndim == 3:
        return np.zeros((0, 2), np.float32)
    ids = (seen.values > 0) & ((seen.values != IGNORE) | (len(seen.values) <= 2))
    values, counts = seen.values[ids], seen.counts[ids]
    if len(values) > _MOST_PARTS or raw.dtype == np.uint16:
        return np.stack([values, counts], axis=1)[:_MOST_OBJECTS].astype(np.float32)
    rows: list[np.ndarray] = []
    for value in values.tolist():
        there = (raw == value).view(np.uint8)
        left, top, width, height = cv2.boundingRect(there)
        part = np.ascontiguousarray(there[top : top + height, left : left + width])
        areas = cv2.connectedComponentsWithStats(part, connectivity=8)[2][1:, 4]
        rows.append(np.stack([np.full(len(areas), value), areas], axis=1))
    joined = np.concatenate(rows) if rows else np.zeros((0, 2))
    return joined[:_MOST_OBJECTS].astype(np.float32)


def _sizes(found: tuple[int, int], image: tuple[int, int]) -> str:
    return f"{found[0]}x{found[1]}, but the image is {image[0]}x{image[1]} (height x width)"
