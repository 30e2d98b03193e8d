"""What a report shows of a survey: a few samples read again, with whatever truth can be read."""

from dataclasses import dataclass

import cv2
import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import decode_ids
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import Panoptic, SemanticMap, Target
from nuriwake.data.check.entry import Entry
from nuriwake.data.check.survey import Survey
from nuriwake.data.deciding import Decision
from nuriwake.data.images import read_image, read_mask
from nuriwake.data.parallel import spread

_MOST_CLASSES = 254


@dataclass(frozen=True, eq=False)
class Shown:
    """A sample for a report: image uint8, uint16 or float32 (H, W, C), None where it cannot be read; target where it can."""

    name: str
    split: str
    image: np.ndarray | None
    target: Target | None


def wall(survey: Survey, count: int) -> list[Shown]:
    """`count` samples, evenly spaced."""
    return [show(survey, entry) for entry in spread(survey.listing.entries, count)]


def named(survey: Survey, names: tuple[str, ...], count: int) -> list[Shown]:
    """The first `count` of the samples called `names`."""
    entries = {entry.name: entry for entry in survey.listing.entries}
    return [show(survey, entries[name]) for name in names[:count] if name in entries]


def show(survey: Survey, entry: Entry) -> Shown:
    """The sample of `entry`, as far as it can be shown."""
    try:
        image = read_image(entry.image)
    except UserError:
        return Shown(entry.name, entry.split, None, None)
    try:
        target = _target(survey, entry, (image.shape[0], image.shape[1]))
    except (UserError, ValueError, KeyError):
        target = None
    if target is not None and target.size != image.shape[:2]:
        target = None
    return Shown(entry.name, entry.split, image, target)


def _target(survey: Survey, entry: Entry, size: tuple[int, int]) -> Target | None:
    listing = survey.listing
    if listing.data is not None and entry.record is not None:
        return listing.data.read_target(entry.record)
    if listing.truth == "coco" and survey.space is not None:
        return _objects(survey, entry, size)
    if listing.truth == "panoptic" and survey.space is not None:
        return _segments(survey, entry)
    if listing.truth in ("mask", "voc") and entry.masks:
        return _map(survey, entry)
    return None


def _map(survey: Survey, entry: Entry) -> Target:
    path = entry.masks[0]
    raw = read_mask(path)
    decision = survey.decision
    if isinstance(decision, Decision):
        if decision.coding is not None:
            return SemanticMap(decision.coding(raw, path), decision.space)
        ids = np.flatnonzero(value_counts(raw)[1:]) + 1
        return Instances(RunMasks.from_labels(raw, ids), np.zeros(len(ids), np.int32), decision.space)
    # Not understood: every value (or colour) is shown as one class.
    if raw.ndim == 3:
        raw = cv2.transform(raw, np.array([[1, 3, 7]], np.float32)).reshape(raw.shape[:2])
    values, places = np.unique(raw, return_inverse=True)
    labels = places.reshape(raw.shape)
    labels = np.where(labels > _MOST_CLASSES, IGNORE, labels).astype(np.uint8)
    names = tuple(f"value {value}" for value in values[: _MOST_CLASSES + 1].tolist())
    return SemanticMap(labels, LabelSpace(names))


def _objects(survey: Survey, entry: Entry, size: tuple[int, int]) -> Target | None:
    from nuriwake.data.check.looking import Facts
    from nuriwake.data.check.looking_coco import read_mask_of

    facts = Facts(entry.name, entry.split, entry.image)
    numbers = survey.listing.numbers
    found = [
        (numbers[item.category], item.crowd, mask)
        for item in entry.annotations
        if item.category in numbers and (mask := read_mask_of(item, entry, facts, entry.stated or size)) is not None
    ]
    masks = RunMasks.concatenate([mask for *_, mask in found]) if found else RunMasks.empty(entry.stated or size)
    labels = np.array([label for label, *_ in found], np.int32)
    space = survey.space
    return (
        None
        if space is None
        else Instances(masks, labels, _things(space), crowd=np.array([c for _, c, _ in found], bool))
    )


def _segments(survey: Survey, entry: Entry) -> Target | None:
    ids = decode_ids(read_mask(entry.masks[0]))
    there = np.unique(ids)
    numbers, space = survey.listing.numbers, survey.space
    listed = {item.id: item for item in entry.segments if item.category in numbers}
    keep = [listed[value] for value in there.tolist() if value in listed]
    ids = np.where(np.isin(ids, [item.id for item in keep]), ids, 0).astype(np.int32)
    if space is None:
        return None
    return Panoptic(
        ids,
        np.array([item.id for item in keep], np.int32),
        np.array([numbers[item.category] for item in keep], np.int32),
        space,
        crowd=np.array([item.crowd for item in keep], bool),
    )


def _things(space: LabelSpace) -> LabelSpace:
    return LabelSpace(space.names, (True,) * len(space), space.colours)
