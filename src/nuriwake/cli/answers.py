"""What is kept of one prediction: files beside each other, and an entry in predictions.json. One row per type of target."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.instances import Instances
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Target

Answer = tuple[tuple[Path, ...], dict[str, Any]]
"""The files written, and what predictions.json says of them."""


def keep_map(target: SemanticMap, path: Path) -> Answer:
    """Label PNG; class name -> pixels, regions (8-connected) and mean score, for the classes that occur."""
    classes: dict[str, dict[str, Any]] = {}
    space, scores = target.space, target.scores
    for label, name in enumerate(space.names):
        where = target.labels == label if space.exclusive else target.labels[..., label] == 1
        if not where.any():
            continue
        chosen = None if scores is None else scores if space.exclusive else scores[..., label]
        regions = cv2.connectedComponents(where.astype(np.uint8), connectivity=8)[0] - 1
        mean = None if chosen is None else round(float(chosen[where].mean()), 4)
        classes[name] = {"pixels": int(where.sum()), "regions": regions, "mean_score": mean}
    return target.save(path), {"classes": classes}


def keep_instances(target: Instances, path: Path) -> Answer:
    """16-bit label PNG in which n is the n-th of the objects listed; where they overlap the surer one is seen, and `hidden` says
    how many pixels of an object are not. The whole masks are in coco_results.json.

    Raises:
        UserError: more than 65535 objects.
    """
    count = len(target)
    if count > np.iinfo(np.uint16).max:
        raise UserError(f"{path}: a 16-bit label PNG holds 65535 objects, found {count}; raise --score-threshold.")
    canvas = target.label_map()
    with atomic_path(path) as temporary:
        Image.fromarray(canvas).save(temporary, format="PNG")
    areas, seen = target.masks.areas(), np.bincount(canvas.reshape(-1), minlength=count + 1)[1:]
    objects = [
        {
            "class": target.space.names[label],
            "score": None if target.scores is None else round(float(target.scores[index]), 4),
            "box": [round(float(value), 2) for value in target.boxes[index]],
            "area": int(areas[index]),
            "hidden": int(areas[index] - seen[index]),
        }
        for index, label in enumerate(target.labels.tolist())
    ]
    return (path,), {"classes": _counted(target), "objects": objects}


def keep_panoptic(target: Panoptic, path: Path) -> Answer:
    """COCO's panoptic PNG (id = R + 256 G + 65536 B) with its JSON; the segments are listed here too."""
    files = target.save(path)
    areas = target.areas()
    segments = [
        {
            "id": int(target.segment_ids[index]),
            "class": target.space.names[label],
            "thing": target.space.things[label],
            "score": None if target.scores is None else round(float(target.scores[index]), 4),
            "area": int(areas[index]),
        }
        for index, label in enumerate(target.labels.tolist())
    ]
    return files, {"classes": _counted(target), "segments": segments}


KEPT: Mapping[type, Callable[[Any, Path], Answer]] = {
    SemanticMap: keep_map,
    Instances: keep_instances,
    Panoptic: keep_panoptic,
}
"""Type of target -> function(target, path of the PNG) -> files and entry."""


def keep(target: Target, path: Path) -> Answer:
    """Write `target` as its type is kept, each file atomically."""
    return KEPT[type(target)](target, path)


def _counted(target: Instances | Panoptic) -> dict[str, int]:
    """Class name -> how many, for the classes that occur."""
    counts = np.bincount(target.labels, minlength=len(target.space))
    return {name: int(count) for name, count in zip(target.space.names, counts, strict=True) if count}
