"""Post-processing: the rules of `rules.py` applied to a label map at full size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.inference.regions import Regions, at_border, find_regions, paint, sole_neighbours, surrounding_labels
from nuriwake.inference.rules import Operation, PostprocessingRule, fillable


@dataclass(frozen=True)
class _Work:
    """A rule on a map: the labels it works on, the label of the background (None: there is none), and how many classes."""

    rule: PostprocessingRule
    targets: tuple[int, ...]
    background: int | None
    classes: int


def postprocess(labels: np.ndarray, space: LabelSpace, rules: Sequence[PostprocessingRule]) -> np.ndarray:
    """`labels` uint8, (H, W) or multi-label (H, W, classes), after `rules` in their order; the input is not changed.

    Scores are not touched: they say how sure the network was of what *it* chose.

    Raises:
        UserError: a rule names a class that `space` lacks, or does not suit the space.
    """
    if not rules:
        return labels
    labels = labels.copy()
    for rule in rules:
        wanted = rule.labels(space)
        if space.exclusive:
            _OPERATIONS[rule.operation](labels, _Work(rule, wanted, fillable(space), len(space)))
            continue
        for label in wanted:
            layer = np.ascontiguousarray(labels[:, :, label])
            _OPERATIONS[rule.operation](layer, _Work(rule, (1,), 0, 2))
            labels[:, :, label] = layer
    return labels


def _drop_small(labels: np.ndarray, work: _Work) -> None:
    regions = find_regions(labels, work.targets, connectivity=work.rule.connectivity)
    _remove(labels, regions, regions.areas < work.rule.area, work)


def _keep_largest(labels: np.ndarray, work: _Work) -> None:
    regions = find_regions(labels, work.targets, connectivity=work.rule.connectivity)
    removed = np.ones(regions.areas.size, np.bool_)
    for label in work.targets:
        areas = np.where(regions.labels == label, regions.areas, 0)
        if areas.any():
            removed[areas.argmax()] = False
    _remove(labels, regions, removed, work)


def _fill_holes(labels: np.ndarray, work: _Work) -> None:
    if work.background is None:
        for target in work.targets:
            others = tuple(label for label in range(work.classes) if label != target)
            _fill(labels, others, (target,), work)
    else:
        _fill(labels, (work.background,), work.targets, work)


def _fill(labels: np.ndarray, holes: tuple[int, ...], targets: tuple[int, ...], work: _Work) -> None:
    """Holes among the regions of the labels `holes` become the one label around them, if it is one of `targets`."""
    regions = find_regions(labels, holes, connectivity=12 - work.rule.connectivity)
    runs = (regions.rows, regions.starts, regions.stops, regions.region)
    if len(holes) == 1 and work.classes == 2 and labels.max(initial=0) < 2:
        # Around one label that is not at the border there is nothing but the other: no need to look.
        around = np.int16(1 - holes[0] if 1 - holes[0] in targets else -1)
        become = np.where(at_border(labels.shape, *runs, regions.areas.size), np.int16(-1), around)
    else:
        around = sole_neighbours(labels, *runs, regions.areas.size)
        become = np.where(np.isin(around, targets), around, np.int16(-1))
    if work.rule.area:
        become[regions.areas > work.rule.area] = -1
    paint(labels, *runs, become)


def _open(labels: np.ndarray, work: _Work) -> None:
    for target in work.targets:
        mask = (labels == target).view(np.uint8)
        opened = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(work.rule.radius)))
        thin = (mask > opened).view(np.uint8)
        regions = find_regions(thin, (1,), connectivity=8)
        _remove(labels, regions, np.ones(regions.areas.size, np.bool_), work, own=target)


def _close(labels: np.ndarray, work: _Work) -> None:
    for target in work.targets:
        mask = (labels == target).view(np.uint8)
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(work.rule.radius)).view(np.bool_)
        free = labels != IGNORE if work.background is None else labels == work.background
        labels[closed & free] = target


def _remove(labels: np.ndarray, regions: Regions, removed: np.ndarray, work: _Work, *, own: int | None = None) -> None:
    """The regions marked in `removed` become what the rule says; `own` is their label where a part of a region goes."""
    runs = (regions.rows, regions.starts, regions.stops, regions.region)
    only_foreground = work.classes == 2 and work.background is not None and work.background not in work.targets
    if work.rule.removed == "background" or only_foreground:
        # Around foreground there is nothing but background: no need to look.
        paint(labels, *runs, np.where(removed, np.int16(work.background or 0), np.int16(-1)))
        return
    become = surrounding_labels(labels, regions, removed, exclude=IGNORE if own is None else own)
    left = regions.labels.astype(np.int16)
    fallback = own if work.background is None else work.background
    if fallback is not None:
        left[:] = fallback
    paint(labels, *runs, np.where(removed & (become < 0), left, np.int16(-1)))


def _disc(radius: int) -> np.ndarray:
    """uint8 (2r + 1, 2r + 1): 1 within `radius` of the centre."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)


_OPERATIONS: dict[Operation, Callable[[np.ndarray, _Work], None]] = {
    "open": _open,
    "close": _close,
    "fill_holes": _fill_holes,
    "drop_small": _drop_small,
    "keep_largest": _keep_largest,
}
