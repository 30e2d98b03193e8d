"""What a format cannot carry of a target and of its classes, as sentences: said for every format in one place.

What only one format does (ids beyond its numbers, outlines that lose pixels) its own writer says.
"""

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.dataset import listed
from nuriwake.data.description import Format
from nuriwake.data.texts import counted

VOID = "[image|images]: ignored pixels (void) are left behind; whoever trains on this takes them for background"
OVERLAP = (
    "[image|images]: objects of different classes overlap, which a label map cannot hold; the smaller one is on top"
)


def target_losses(target: Target, entry: Format) -> tuple[str, ...]:
    """What one target loses in the format, for `count_note`."""
    if entry.holds == "objects" and _has_void(target):
        return (VOID,)
    if entry.holds == "classes" and isinstance(target, Instances) and _classes_overlap(target):
        return (OVERLAP,)
    return ()


def space_losses(space: LabelSpace, entry: Format) -> list[str]:
    """What the classes of a data set lose in the format, as sentences."""
    notes: list[str] = []
    stuff = [
        name
        for label, (name, thing) in enumerate(zip(space.names, space.things, strict=True))
        if not thing and not (label == 0 and space.has_background)
    ]
    if entry.holds == "objects" and stuff and any(space.things):
        text = f"{len(stuff)} [class of stuff is|classes of stuff are] left behind: {listed(stuff)}."
        notes.append("This format holds objects alone; " + counted(text, len(stuff)))
    if not entry.keeps_colours and space.colours != LabelSpace(space.names).colours:
        notes.append("The colours of the classes are left behind.")
    return notes


def _has_void(target: Target) -> bool:
    if isinstance(target, SemanticMap):
        return bool((target.labels == IGNORE).any())
    return isinstance(target, Panoptic) and bool((target.ids == 0).any())


def _classes_overlap(target: Instances) -> bool:
    """Whether a pixel has objects of two classes."""
    taken = np.zeros(target.size, bool)
    for label in np.unique(target.labels).tolist() if len(np.unique(target.labels)) > 1 else ():
        of_class = np.zeros(target.size, np.uint8)
        masks = target.masks[np.flatnonzero(target.labels == label)]
        masks.paint(of_class, np.ones(len(masks), np.uint8))
        there = of_class.astype(bool)
        if (taken & there).any():
            return True
        taken |= there
    return False
