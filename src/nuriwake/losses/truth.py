"""From targets to tensors of truth, for losses of objects."""

from collections.abc import Sequence

import numpy as np
import torch

from nuriwake.core.instances import Instances
from nuriwake.core.layering import layered
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.models.truth import ObjectTruth, PanopticTruth


def stack_instances(targets: Sequence[Instances]) -> tuple[ObjectTruth, ...]:
    """One `ObjectTruth` per image, on the CPU. Objects without a pixel are left out: nothing can be learnt from them."""
    return tuple(_objects(target.masks, target.labels, target.crowd) for target in targets)


def stack_panoptic(targets: Sequence[Panoptic]) -> PanopticTruth:
    """Panoptic targets of one size -> segments per image and one map of classes, IGNORE where void. On the CPU."""
    segments = tuple(
        _objects(RunMasks.from_labels(target.ids, target.segment_ids), target.labels, target.crowd)
        for target in targets
    )
    labels = np.stack([target.semantic().labels for target in targets])
    return PanopticTruth(segments, torch.from_numpy(labels).long())


def _objects(masks: RunMasks, labels: np.ndarray, crowd: np.ndarray) -> ObjectTruth:
    there = masks.areas() > 0
    masks = masks[there]
    maps, layer = layered(masks)
    kind = np.int16 if len(masks) <= np.iinfo(np.int16).max else np.int32
    return ObjectTruth(
        boxes=torch.from_numpy(masks.boxes()),
        labels=torch.from_numpy(labels[there].astype(np.int64)),
        crowd=torch.from_numpy(crowd[there].astype(bool)),
        layers=torch.from_numpy(maps.astype(kind)),
        layer=torch.from_numpy(layer),
    )
