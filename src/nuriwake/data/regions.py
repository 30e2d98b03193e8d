"""The connected regions of a label map as objects or segments: what a semantic model's prediction is in a format of these."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap


def region_space(space: LabelSpace) -> LabelSpace:
    """The classes of `space` but its background, all of them things."""
    return space.part(range(int(space.has_background or space.binary), len(space)))


def with_regions(samples: Iterable[Sample], space: LabelSpace) -> Iterator[Sample]:
    """The same samples; a `SemanticMap` becomes the objects of `regions`.

    Args:
        space: from `region_space`.
    """
    for sample in samples:
        target = sample.target
        yield replace(sample, target=regions(target, space)) if isinstance(target, SemanticMap) else sample


def regions(target: SemanticMap, space: LabelSpace) -> Instances:
    """Every connected region (8 neighbours) of every class but the background; two objects that touch are one.

    Args:
        space: from `region_space`.
    """
    first = len(target.space) - len(space)
    parts, labels = [RunMasks.empty(target.size)], [np.zeros(0, np.int32)]
    for label in range(len(space)):
        there = target.labels == first + label if target.space.exclusive else target.labels[..., first + label] == 1
        count, ids = cv2.connectedComponents(there.view(np.uint8), connectivity=8)
        if count > 1:
            parts.append(RunMasks.from_labels(ids, np.arange(1, count)))
            labels.append(np.full(count - 1, label, np.int32))
    return Instances(RunMasks.concatenate(parts), np.concatenate(labels), space)


def region_segments(target: SemanticMap) -> Panoptic:
    """Every connected region (8 neighbours) of a thing and every class of stuff is a segment, numbered from 1; ignored pixels are
    void.

    Args:
        target: with one class for each pixel.
    """
    ids = np.zeros(target.size, np.int32)
    labels: list[int] = []
    for label, thing in enumerate(target.space.things):
        there = target.labels == label
        count, parts = 2, there
        if thing:
            count, parts = cv2.connectedComponents(there.view(np.uint8), connectivity=8)
        if there.any():
            ids[there] = parts[there].astype(np.int32) + len(labels)
            labels += [label] * (count - 1)
    return Panoptic(ids, np.arange(1, len(labels) + 1, dtype=np.int32), np.array(labels, np.int32), target.space)
