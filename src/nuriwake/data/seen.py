"""A sample's target as a format's writer wants it: objects, segments or a label map."""

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.core.views import larger_first, panoptic_view
from nuriwake.data.regions import region_segments


def as_instances(sample: Sample) -> Instances:
    """The objects of the target; of a panoptic one its things. Raises UserError for a label map, and without a target."""
    target = sample.target
    if isinstance(target, Instances):
        return target
    if isinstance(target, Panoptic):
        return target.instances()
    raise UserError(
        f"{_who(sample)}: this format holds objects one by one; {_found(sample)}. Choose a format of label maps (mask_folder, "
        "ade20k, voc), or take each connected region of a class for an object: --regions (regions=True in Python)."
    )


def as_panoptic(sample: Sample, *, by_region: bool) -> tuple[Panoptic, str]:
    """The segments of the target, and what was made of it ("" of segments): of a label map every class becomes one segment, and
    objects lie one over another, smaller on top, with void between them.

    Args:
        by_region: the connected regions of a label map's things are its things; else a map with things is refused.

    Raises:
        UserError: a label map with things or with several classes a pixel, and no target.
    """
    target = target_of(sample)
    if isinstance(target, SemanticMap) and by_region and target.space.exclusive:
        return region_segments(
            target
        ), "Each connected region of a thing is one segment, and all of a class that is none."
    if isinstance(target, SemanticMap):
        return panoptic_view(
            target
        ), "Each class of a label map is one segment of its image; nothing tells objects apart."
    if isinstance(target, Instances):
        return panoptic_view(
            target
        ), "Pixels between objects are void; where objects overlap the smaller one lies on top."
    return target, ""


def target_of(sample: Sample) -> Target:
    """The target. Raises UserError where there is none."""
    if sample.target is None:
        raise UserError(f"{_who(sample)}: there is no target to write.")
    return sample.target


def object_numbers(target: Instances, most: int) -> np.ndarray | None:
    """The ids of the objects, where they are different numbers from 1 to `most`; else None."""
    ids = target.ids
    if ids is None or len(np.unique(ids)) < len(ids) or (len(ids) and not (ids.min() >= 1 and ids.max() <= most)):
        return None
    return ids


def paint_objects(target: Instances, numbers: np.ndarray) -> tuple[np.ndarray, bool]:
    """The objects as a map (H, W) of `numbers` (N,) and their dtype, smaller ones on top; and whether any overlap."""
    canvas = np.zeros(target.size, numbers.dtype)
    order = larger_first(target)
    target.masks[order].paint(canvas, numbers[order])
    return canvas, int(target.masks.areas().sum()) != int(np.count_nonzero(canvas))


def countable(space: LabelSpace) -> LabelSpace:
    """The things of `space`; all of it where it has no things."""
    if all(space.things) or not any(space.things):
        return space
    return space.part([label for label, thing in enumerate(space.things) if thing])


def _who(sample: Sample) -> str:
    return str(sample.source or sample.name or "The sample")


def _found(sample: Sample) -> str:
    if sample.target is None:
        return "there is no target"
    return "here is a class for every pixel (SemanticMap), which does not tell objects apart"
