"""Which true and predicted objects are the same: the difference picture of instances and segments, and its figures."""

from dataclasses import dataclass

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.viz.difference import FALSE_NEGATIVE, FALSE_POSITIVE, KINDS, TRUE_POSITIVE
from nuriwake.viz.legend import Entry
from nuriwake.viz.objects import paint_ids

MATCHED = 0.5
"""IoU from which two objects of a class are the same."""

NAMES = {TRUE_POSITIVE: "found", FALSE_POSITIVE: "false", FALSE_NEGATIVE: "missed"}


@dataclass(frozen=True, eq=False)
class Matches:
    """The objects of one picture, told apart.

    Args:
        found: int64 (M, 2), pairs (true, predicted) of one class with an IoU of at least `MATCHED`.
        missed: int64, the true ones without a partner, crowd regions left out.
        false: int64, the predicted ones without a partner, those mostly inside crowd regions of their class left out.
        iou: float64 (M,), of the pairs.
    """

    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray
    iou: np.ndarray


def match_objects(truth: Instances | Panoptic, prediction: Instances | Panoptic) -> Matches:
    """Pairs by falling score of the prediction (of segments by falling IoU), each object once, as the COCO tools do."""
    true, claimed = masks_of(truth), masks_of(prediction)
    overlap = true.iou(claimed) if len(true) and len(claimed) else np.zeros((len(true), len(claimed)))
    overlap = np.where(truth.labels[:, None] == prediction.labels[None], overlap, 0.0)
    scores = prediction.scores
    order = np.argsort(-(overlap.max(0, initial=0) if scores is None else scores), kind="stable")
    free = ~truth.crowd.copy()
    pairs: list[tuple[int, int]] = []
    for index in order.tolist():
        candidates = np.where(free, overlap[:, index], 0.0)
        if len(candidates) and candidates.max() >= MATCHED:
            best = int(candidates.argmax())
            free[best] = False
            pairs.append((best, index))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    rest = np.setdiff1d(np.arange(len(prediction)), found[:, 1])
    crowds = np.flatnonzero(truth.crowd)
    if len(crowds) and len(rest):
        inside = claimed[rest].iou(true[crowds], np.ones(len(crowds), bool))
        same = prediction.labels[rest][:, None] == truth.labels[crowds][None]
        rest = rest[(inside * same).max(1) < MATCHED]
    return Matches(found, np.flatnonzero(free), rest, overlap[found[:, 0], found[:, 1]])


def match_picture(shown: np.ndarray, truth: RunMasks, prediction: RunMasks, matches: Matches) -> np.ndarray:
    """`shown` uint8 RGB (h, w, 3) greyed, with the found, false and missed objects in the colours of `KINDS`.

    Args:
        truth, prediction: the masks, resized to the picture.
    """
    grey = shown.mean(axis=2, dtype=np.float32)[..., None] * 0.75
    canvas = np.repeat(grey.astype(np.uint8), 3, axis=2)
    ids = np.zeros(truth.size, np.int32)
    parts = [prediction[matches.found[:, 1]], prediction[matches.false], truth[matches.missed]]
    masks = RunMasks.concatenate(parts)
    kinds = np.repeat(
        [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE],
        [len(matches.found), len(matches.false), len(matches.missed)],
    )
    masks.paint(ids, np.arange(1, len(masks) + 1))
    colours = np.array([KINDS[kind][1] for kind in kinds.tolist()], np.uint8).reshape(-1, 3)
    paint_ids(canvas, ids, colours, 0.6)
    return canvas


def match_entries(matches: Matches) -> list[Entry]:
    """Legend entries of what there is."""
    counts = {TRUE_POSITIVE: matches.found, FALSE_POSITIVE: matches.false, FALSE_NEGATIVE: matches.missed}
    return [
        Entry(f"{NAMES[kind]} ({len(part)})", KINDS[kind][1], len(part)) for kind, part in counts.items() if len(part)
    ]


def match_line(matches: Matches) -> str:
    """The figures in words."""
    mean = f" · mean IoU of the found {matches.iou.mean():.3f}" if len(matches.iou) else ""
    return (
        f"found {len(matches.found)} of {len(matches.found) + len(matches.missed)} at IoU {MATCHED} · "
        f"false {len(matches.false)}{mean}"
    )


def masks_of(target: Instances | Panoptic) -> RunMasks:
    """One mask per object or segment."""
    return target.masks() if isinstance(target, Panoptic) else target.masks
