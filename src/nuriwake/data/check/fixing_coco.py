"""The corrected copy of COCO's JSON files. What is left out is what no reader could use."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_json, write_text
from nuriwake.core.id_maps import decode_ids
from nuriwake.data.check.entry import Annotation, Entry
from nuriwake.data.check.fixing import place
from nuriwake.data.check.fixing_files import copy_file
from nuriwake.data.check.looking import Facts, real_suffix
from nuriwake.data.check.looking_coco import area_fits, read_mask_of
from nuriwake.data.check.survey import Survey
from nuriwake.data.coco import stem
from nuriwake.data.images import read_mask

_UNDRAWN = {"polygon_points", "polygon_outside", "segmentation_unreadable", "segmentation_missing"}


def fix_json(survey: Survey, left_out: Mapping[str, str], folder: Path, done: Counter[str]) -> None:
    """Every annotation file to its place in `folder`, corrected; panoptic PNG beside."""
    entries = {entry.name: entry for entry in survey.listing.entries if entry.name not in left_out}
    unreadable = {problem.where for problem in survey.problems.get("annotations_unreadable", [])}
    for path in survey.listing.sources:
        if str(path) in unreadable:  # told as a finding; there is nothing to correct
            continue
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        owners = _owners(plain, entries, path)
        images = {key: item for item in plain["images"] if (key := _key(item, "id")) in owners}
        plain["images"] = list(images.values())
        for item in plain["images"]:
            # The copy lies under the suffix of what it holds.
            item["file_name"] = str(
                PurePosixPath(item["file_name"]).with_suffix(real_suffix(owners[_key(item, "id")].image))
            )
        if survey.listing.truth == "coco":
            _fix_objects(plain, owners, survey, done)
        else:
            _fix_segments(plain, owners, survey, folder, done)
        to = place(survey.listing, path, folder)
        if len(plain["annotations"]) < 100_000:
            write_json(to, plain)
        else:
            write_text(to, json.dumps(plain, ensure_ascii=False))


def _owners(plain: Mapping[str, Any], entries: Mapping[str, Entry], path: Path) -> dict[Any, Entry]:
    """Image id -> its entry, of the images that stay."""
    from nuriwake.data.assembly import split_name

    split = split_name(path.stem.replace("-", "_").rpartition("_")[2]) or path.stem
    owners: dict[Any, Entry] = {}
    for item in plain["images"]:
        name = stem(item["file_name"])
        entry = entries.get(name) or entries.get(f"{split}/{name}")
        if entry is not None:
            owners.setdefault(_key(item, "id"), entry)
    return owners


def _key(item: Mapping[str, Any], name: str) -> Any:
    """What stands in `item` under `name`, as a key of dicts whatever it is."""
    value = item.get(name)
    return str(value) if isinstance(value, list | dict) else value


def _fix_objects(plain: dict[str, Any], owners: Mapping[Any, Entry], survey: Survey, done: Counter[str]) -> None:
    kept: list[Any] = []
    written: set[tuple[Any, Any, str]] = set()
    for item in plain["annotations"]:
        entry = owners.get(_key(item, "image_id"))
        if entry is None:
            done["[annotation|annotations] of images that are not there left out"] += 1
            continue
        segmentation = json.dumps(item.get("segmentation"))
        key = (_key(item, "image_id"), _key(item, "category_id"), segmentation)
        if key in written:
            done["[annotation that stands|annotations that stand] twice left out"] += 1
            continue
        written.add(key)
        if _fix_object(item, segmentation, entry, done):
            kept.append(item)
    ids = [_key(item, "id") for item in kept]
    if len(set(ids)) < len(ids):
        done["[annotation|annotations] numbered anew"] += len(ids)
        for number, item in enumerate(kept, 1):
            item["id"] = number
    plain["annotations"] = kept


def _fix_object(item: dict[str, Any], segmentation: str, entry: Entry, done: Counter[str]) -> bool:
    """Corrects the box; False where the object cannot be used."""
    facts = Facts(entry.name, entry.split, entry.image)
    annotation = Annotation(0, 0, bool(item.get("iscrowd")), None, None, segmentation.encode())
    size = entry.stated
    mask = read_mask_of(annotation, entry, facts, size) if size else None
    if any(problem.kind in _UNDRAWN for problem in facts.problems):
        done["[annotation|annotations] that cannot be drawn left out"] += 1
        return False
    if mask is None:
        return True
    if int(mask.areas()[0]) == 0:
        done["[annotation|annotations] without a pixel left out"] += 1
        return False
    pixels = int(mask.areas()[0])
    if isinstance(item.get("area"), int | float) and not area_fits(item["area"], pixels):
        item["area"] = pixels
        done["[area computed from its mask|areas computed from their masks]"] += 1
    left, top, right, bottom = mask.boxes()[0].tolist()
    new, stated = [left, top, right - left, bottom - top], item.get("bbox")
    box: list[Any] = stated if isinstance(stated, list) else []
    numbers = [value for value in box if type(value) in (int, float)]
    if len(numbers) != 4 or len(box) != 4 or np.abs(np.subtract(numbers, new)).max() > 3:
        item["bbox"] = new
        done["[box computed from its mask|boxes computed from their masks]"] += 1
    return True


def _fix_segments(
    plain: dict[str, Any], owners: Mapping[Any, Entry], survey: Survey, folder: Path, done: Counter[str]
) -> None:
    kept: list[Any] = []
    for item in plain["annotations"]:
        entry = owners.get(_key(item, "image_id"))
        if entry is None or not entry.masks[0].is_file():
            continue
        to = place(survey.listing, entry.masks[0], folder)
        copy_file(entry.masks[0], to)
        with suppress(UserError):  # told as a finding
            _fix_image(item, decode_ids(read_mask(entry.masks[0])), done)
        kept.append(item)
    plain["annotations"] = kept


def _fix_image(item: dict[str, Any], ids: np.ndarray, done: Counter[str]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    segments = item.get("segments_info") or []
    if set(pixels) - {0} - {_key(segment, "id") for segment in segments}:
        return  # what an id that is not listed means would have to be guessed
    there = [segment for segment in segments if _key(segment, "id") in pixels]
    done["[segment|segments] without a pixel left out"] += len(segments) - len(there)
    for segment in there:
        if "area" in segment and segment["area"] != pixels[segment["id"]]:
            rows, columns = np.nonzero(ids == segment["id"])
            left, top = int(columns.min()), int(rows.min())
            segment["area"] = pixels[segment["id"]]
            segment["bbox"] = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
            done["[area of a segment|areas of segments] computed from the PNG"] += 1
    item["segments_info"] = there
