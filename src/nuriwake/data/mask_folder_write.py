"""Mask folders, written: images/<split>/, masks/<split>/ as label PNG, and classes.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.seen import object_numbers, paint_objects, target_of
from nuriwake.data.texts import read_text
from nuriwake.data.written import (
    ImageWriter,
    WriteSettings,
    Written,
    count_note,
    counted_notes,
    refuse_existing,
    refuse_other_classes,
)

MOST_OBJECTS = 65535


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return (folder / "masks" / split,)


def write_mask_folder(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one split.

    Objects of one class become 16-bit PNG of their ids (overlaps go to the smaller object); objects of several classes,
    and segments, become 8-bit palette PNG of classes. A multi-label map becomes one folder of masks per class.

    Raises:
        UserError: the split is there already, other classes are there already, or a sample without a target.
    """
    (masks,) = taken(folder, settings.split)
    refuse_existing(masks)
    writer = ImageWriter(folder / "images" / settings.split, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    kinds: set[bool] = set()
    listing, written = folder / "classes.json", _listed(space)
    for sample in samples:
        target = target_of(sample)
        numbered = isinstance(target, Instances) and len(target.space) == 1
        if not kinds:
            written = _listed(target.space if numbered else semantic_view(target).space, numbered=numbered)
            refuse_other_classes(listing, _read(listing), written)
        name = writer.name(sample)
        writer.write(sample, name)
        path = masks / f"{name}.png"
        kinds.add(numbered)
        if isinstance(target, Instances) and len(target.space) == 1:
            files.append(_write_ids(path, target, notes))
            continue
        seen = semantic_view(target)
        if not isinstance(target, SemanticMap):
            count_note(notes, "[image|images]: the map of classes does not tell objects apart, which is left behind")
        files += seen.save(path)
    if kinds == {True, False}:
        raise UserError(f"{folder}: objects of one class and maps of classes cannot be written to one folder of masks.")
    refuse_other_classes(listing, _read(listing), written)
    write_json(listing, written)
    files.append(listing)
    return Written((*files, *writer.files), (*counted_notes(notes), *writer.notes))


def _write_ids(path: Path, target: Instances, notes: dict[str, int]) -> Path:
    ids = object_numbers(target, MOST_OBJECTS)
    if ids is None:
        if len(target) > MOST_OBJECTS:
            raise UserError(
                f"{path}: a 16-bit label PNG holds {MOST_OBJECTS} objects, found {len(target)}; write COCO instances."
            )
        ids = np.arange(1, len(target) + 1)
        if target.ids is not None:
            count_note(notes, "[image|images]: ids do not fit 16 bits; objects are numbered from 1")
    canvas, hidden = paint_objects(target, ids.astype(np.uint16))
    if hidden:
        count_note(notes, "[image|images]: objects overlap, which a label map cannot hold; the smaller one is on top")
    if target.crowd.any():
        count_note(notes, "[image|images]: crowd regions are written like objects")
    with atomic_path(path) as temporary:
        Image.fromarray(canvas).save(temporary, format="PNG")
    return path


def _listed(space: LabelSpace, *, numbered: bool = False) -> dict[str, Any]:
    """What classes.json says."""
    about: dict[str, Any] = {"instance_ids": True} if numbered else {"ignore_index": IGNORE} if space.exclusive else {}
    return {"classes": list(space.names), **about}


def _read(path: Path) -> Any:
    return json.loads(read_text(path)) if path.exists() else None
