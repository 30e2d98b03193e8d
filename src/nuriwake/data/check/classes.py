"""Findings about classes: never seen, seen in one split only, rare beyond learning."""

import numpy as np

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.survey import Survey
from nuriwake.data.dataset import listed
from nuriwake.data.texts import counted

RARE = 1000
"""A class with this many times fewer pixels than the most frequent one."""

_FEW_IMAGES = 5


def one_class(survey: Survey) -> Finding | None:
    """A single class where pixels are told apart."""
    if survey.space is None or survey.partial or not survey.space.exclusive or all(survey.space.things):
        return None
    seen = survey.class_pixels.sum(axis=0) > 0
    if not any(facts.known for facts in survey.facts) or (len(survey.space) > 1 and seen.sum() > 1):
        return None
    names = [survey.space.names[i] for i in np.flatnonzero(seen)]
    return Finding(
        "one_class", "harmful", 1, (), "Two classes are needed at least; with one, every answer is right.",
        "Look at the masks: are they empty, or is a class missing in the class list?",
        what=f"All masks show one class ({listed(names) or 'none'}).",
    )  # fmt: skip


def never_seen(survey: Survey) -> Finding | None:
    """Classes that are listed and occur nowhere."""
    if survey.space is None or survey.partial or not len(survey.facts):
        return None
    absent = [
        name for name, count in zip(survey.space.names, survey.class_pixels.sum(axis=0), strict=True) if not count
    ]
    if not absent or len(absent) == len(survey.space):
        return None
    return Finding(
        "never_seen", "note" if survey.listing.truth in ("coco", "panoptic", "voc") else "doubtful", len(absent), (),
        "They cannot be learned, have no score, and pull means over classes down in tools that count them as 0.",
        "Take them out of the class list, or look whether their label was lost in an export.",
        what=f"{len(absent)} of {len(survey.space)} classes never [occurs|occur]: {listed(absent)}.",
    )  # fmt: skip


def one_split_only(survey: Survey) -> Finding | None:
    """Classes in validation that training never sees, and the reverse."""
    if survey.space is None or survey.partial:
        return None
    rows = np.array([facts.split for facts in survey.facts])
    seen = {
        split: survey.class_pixels[rows == split].sum(axis=0) > 0 for split in ("train", "val") if (rows == split).any()
    }
    if len(seen) < 2:
        return None
    names = np.array(survey.space.names)
    unlearned = names[seen["val"] & ~seen["train"]].tolist()
    unscored = names[seen["train"] & ~seen["val"]].tolist()
    if not unlearned and not unscored:
        return None
    parts = [f"in val only: {listed(unlearned)}"] * bool(unlearned) + [f"in train only: {listed(unscored)}"] * bool(
        unscored
    )
    return Finding(
        "one_split_only", "doubtful" if unlearned else "note", len(unlearned) + len(unscored), (),
        "A class that training never sees has IoU 0 in validation; one that validation never sees has no score.",
        "Move images of these classes to the other split"
        + ("." if survey.listing.splits_given else ", or choose another seed for the split ('seed' in a YAML description)."),
        what=f"{len(unlearned) + len(unscored)} [class is|classes are] seen in one split only ({'; '.join(parts)}).",
    )  # fmt: skip


def imbalance(survey: Survey) -> Finding | None:
    """Classes with a thousandth of the pixels of the most frequent one, or in fewer than five images of training."""
    if survey.space is None or survey.partial or len(survey.space) < 2:
        return None
    rows = np.array([facts.split != "val" for facts in survey.facts], bool)
    table = survey.class_pixels[rows] if rows.any() else survey.class_pixels
    pixels, images = table.sum(axis=0), (table > 0).sum(axis=0)
    rare = np.flatnonzero(
        (pixels > 0) & ((pixels * RARE < pixels.max()) | ((images < _FEW_IMAGES) & (len(table) >= 50)))
    )
    if not len(rare):
        return None
    total = pixels.sum()
    order = rare[np.argsort(pixels[rare])]
    lines = [
        counted(
            f"{survey.space.names[i]}: {pixels[i] / total:.4%} of the pixels, in {images[i]:,} [image|images]",
            images[i],
        )
        for i in order
    ]
    return Finding(
        "imbalance", "note", len(rare), some(lines),
        "Such a class is overruled by the others unless training weighs or draws it more often.",
        "nuriwake weighs classes by itself where it helps; collect more images of these classes if they matter.",
        what=f"{len(rare)} [class is|classes are] very rare.",
    )  # fmt: skip
