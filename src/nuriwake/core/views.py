"""One target seen as another: objects and segments as classes per pixel, segments as objects, and back where nothing is invented.

Of the three spaces, that of `SemanticMap` may begin with a background class, that of `Instances` holds things without a
background, that of `Panoptic` things and stuff. `semantic_space` and `instance_space` say what becomes of the classes of a
data set; the views give targets in these spaces.
"""

from dataclasses import replace

import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import id_areas, rename_ids
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Target

BACKGROUND = "background"


def semantic_space(space: LabelSpace) -> LabelSpace:
    """The classes of a map: `space`, after a background where all classes are things (what is no object must be something)."""
    return _with_background(space) if all(space.things) and not space.has_background else space


def instance_space(space: LabelSpace) -> LabelSpace:
    """The things of `space` alone.

    Raises:
        UserError: there is none.
    """
    kept = [index for index, thing in enumerate(space.things) if thing]
    if not kept:
        raise UserError(
            "None of the classes is a thing, so that there are no objects to tell apart; expected things in the label space. Where the "
            "values of masks number the objects, a YAML file with 'root' and 'instance_ids: true' says so."
        )
    if len(kept) == len(space):
        return space
    return space.part(kept)


def semantic_view(target: Target, space: LabelSpace | None = None) -> SemanticMap:
    """The class of every pixel.

    Objects become their class (crowds too) on background, larger ones first, so that small ones stay on top. Void becomes
    `IGNORE`; where all classes of the segments are things and `space` has a background, it becomes that: void is then all
    that is no object, and without it nothing would teach or judge the background. Scores are dropped.

    Args:
        target: any; a map of classes is what it is.
        space: the classes of the answer, found by name; None takes those of the target, of objects after a background.

    Raises:
        UserError: `space` lacks a class of the target, or a background for objects.
    """
    if isinstance(target, SemanticMap):
        return target
    if isinstance(target, Panoptic):
        names, wanted = _classes(target.space, space or target.space)
        order = np.argsort(target.segment_ids)
        labels = names[target.labels[order]].astype(np.uint8)
        void = 0 if wanted.has_background and all(target.space.things) and not target.space.has_background else IGNORE
        return SemanticMap(rename_ids(target.ids, target.segment_ids[order], labels, void), wanted)
    names, wanted = _classes(target.space, space or _with_background(target.space))
    if not wanted.has_background:
        raise UserError(
            "A map of the classes of objects needs a background as class 0, found a label space without one."
        )
    canvas, order = np.zeros(target.size, np.uint8), larger_first(target)
    target.masks[order].paint(canvas, names[target.labels[order]])
    return SemanticMap(canvas, wanted)


def instance_view(target: Target, space: LabelSpace | None = None) -> Instances:
    """The objects: of a panoptic map its things.

    Args:
        target: objects or segments; objects are what they are.
        space: the classes of the answer, found by name; None takes the things of the target.

    Raises:
        UserError: a map of classes, which does not tell objects of a class apart; or `space` lacks a thing of the target.
    """
    if isinstance(target, Instances):
        return target
    if isinstance(target, SemanticMap):
        raise UserError(
            "A map of classes does not tell the objects of a class apart; expected objects (instances) or segments (panoptic)."
        )
    things = np.array(target.space.things, bool)
    kept = np.flatnonzero(things[target.labels])
    names, wanted = _classes(instance_space(target.space), space or instance_space(target.space))
    return Instances(
        RunMasks.from_labels(target.ids, target.segment_ids[kept]),
        names[(np.cumsum(things) - 1)[target.labels[kept]]].astype(np.int32),
        wanted,
        scores=None if target.scores is None else target.scores[kept],
        crowd=target.crowd[kept],
        ids=target.segment_ids[kept].astype(np.int64),
    )


def panoptic_view(target: Target, space: LabelSpace | None = None) -> Panoptic:
    """Every pixel in one segment: objects are numbered from 1 in their order, smaller ones lie over larger ones.

    Objects of which nothing is left to see are dropped. Of a map of classes every class becomes one segment, its label + 1.

    Args:
        target: any; segments are what they are.
        space: the classes of the answer, found by name; None takes those of the target.

    Raises:
        UserError: a map of classes with things, which it does not tell apart, or a multi-label map; or `space` lacks a class.
    """
    if isinstance(target, Panoptic):
        return target
    names, wanted = _classes(target.space, space or target.space)
    if isinstance(target, SemanticMap):
        ids, present = _stuff_segments(target)
        return Panoptic(ids, (present + 1).astype(np.int32), names[present].astype(np.int32), wanted)
    ids, order = np.zeros(target.size, np.int32), larger_first(target)
    target.masks[order].paint(ids, order + 1)
    numbers = np.arange(1, len(target) + 1, dtype=np.int32)
    seen = np.flatnonzero(id_areas(ids, numbers)[0])
    scores = None if target.scores is None else target.scores[seen]
    labels = names[target.labels[seen]].astype(np.int32)
    return Panoptic(ids, numbers[seen], labels, wanted, crowd=target.crowd[seen], scores=scores)


def larger_first(target: Instances) -> np.ndarray:
    """The order in which objects are painted, int64 (N,): by the pixels of their masks, the first of equal ones first."""
    return np.argsort(-target.masks.areas(), kind="stable")


def _stuff_segments(target: SemanticMap) -> tuple[np.ndarray, np.ndarray]:
    """Label + 1 of every pixel, int32 (H, W), 0 where ignored; and the labels that there are."""
    space = target.space
    if not space.exclusive:
        raise UserError(
            "A multi-label map has no segments, since its classes overlap; expected one class for each pixel."
        )
    present = np.flatnonzero(value_counts(target.labels)[:IGNORE])
    for label in present[: None if any(space.things) else 0]:
        if space.things[label]:
            raise UserError(f"A map of classes does not tell the objects of the thing '{space.names[label]}' apart.")
    ids = np.where(target.labels == IGNORE, 0, target.labels.astype(np.int32) + 1).astype(np.int32)
    return ids, present


def _classes(space: LabelSpace, wanted: LabelSpace) -> tuple[np.ndarray, LabelSpace]:
    """The index in `wanted` of every class of `space`, int64 (K,), and `wanted`."""
    return np.array([wanted.index(name) for name in space.names], np.int64), wanted


def _with_background(space: LabelSpace) -> LabelSpace:
    name = BACKGROUND
    while name in space.names:
        name += "_"
    free = 0 if 0 not in space.ids else max(space.ids) + 1
    return replace(
        space,
        names=(name, *space.names),
        things=(False, *space.things),
        colours=((0, 0, 0), *space.colours),
        ids=(free, *space.ids) if space.ids else (),
    )
