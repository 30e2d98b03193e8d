"""A corrected copy of a data set, as far as nothing has to be guessed. The data themselves are never touched."""

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_bytes, write_text
from nuriwake.core.labels import IGNORE
from nuriwake.data.check.entry import Entry, Listing
from nuriwake.data.check.finding import Finding
from nuriwake.data.check.looking import Facts, MaskFacts, real_suffix
from nuriwake.data.check.survey import Survey
from nuriwake.data.deciding import Decision
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.images import read_mask
from nuriwake.data.written import refuse_existing

if TYPE_CHECKING:
    from nuriwake.data.check import CheckResult

LEFT_OUT = {
    "image_truncated": "cut off", "image_unreadable": "unreadable", "mask_unreadable": "without a readable mask",
    "name_twice": "of a name that two files have",
}  # fmt: skip
"""Samples with these problems are left out of the copy."""

_NEEDS_NOTHING = ("images_unpaired", "masks_unpaired", "image_missing", "image_unknown", "same_image", "format_differs")


def write_fixed(result: "CheckResult", folder: Path) -> tuple[str, ...]:
    """Write a corrected copy to `folder`, which is new or empty.

    Returns:
        What was corrected, and last what was not, as sentences.

    Raises:
        UserError: the folder holds something, or the format is one that is only read by its own reader.
    """
    from nuriwake.data.check.fixing_coco import fix_json

    survey = result.survey
    if survey.listing.truth == "read" or survey.listing.layered:
        raise UserError(
            f"{survey.listing.root}: --fix corrects folders of masks, Pascal VOC and COCO; convert the data set to one of them."
        )
    root = survey.listing.root.resolve()
    if folder.resolve() == root or folder.resolve().is_relative_to(root):
        raise UserError(f"{folder}: a corrected copy lies outside of the data set; choose another folder.")
    refuse_existing(folder)
    left_out = dropped(survey)
    done: Counter[str] = Counter()
    for entry in survey.listing.entries:
        if entry.name in left_out:
            done[f"samples left out, {left_out[entry.name]}"] += 1
        else:
            copy_image(entry, survey.listing, folder, done)
    if survey.listing.truth in ("mask", "voc"):
        _fix_masks(survey, left_out, folder, done)
    else:
        fix_json(survey, left_out, folder, done)
    kept = _not_corrected(result, done)
    lines = [f"{number:,} {what}." for what, number in done.items() if number]
    return (*(lines or ["nothing; the copy is like the original."]), *kept)


def dropped(survey: Survey) -> dict[str, str]:
    """Name of the sample -> why it is left out."""
    found: dict[str, str] = {}
    for kind, why in LEFT_OUT.items():
        found |= {problem.sample: why for problem in survey.problems.get(kind, []) if problem.sample}
    ambiguous = {Path(problem.where).with_suffix("") for problem in survey.problems.get("name_twice", [])}
    for entry in survey.listing.entries:
        if any(path.with_suffix("") in ambiguous for path in (entry.image, *entry.masks)):
            found[entry.name] = LEFT_OUT["name_twice"]
    # What is in train and elsewhere too leaves train.
    elsewhere = {facts.digest for facts in survey.facts if facts.split != "train" and facts.digest}
    if _found(survey, "same_image"):
        found |= {
            facts.name: "that val or test has too"
            for facts in survey.facts
            if facts.split == "train" and facts.digest in elsewhere
        }
    return found


def copy_image(entry: Entry, listing: Listing, folder: Path, done: Counter[str]) -> None:
    """The image file to its place, under the suffix of what it holds (JSON files name images: there it keeps its own)."""
    suffix = real_suffix(entry.image) if listing.truth in ("mask", "voc") else entry.image.suffix
    if suffix != entry.image.suffix:
        done["images renamed to the format they hold"] += 1
    _copy(entry.image, place(listing, entry.image, folder).with_suffix(suffix))


def place(listing: Listing, path: Path, folder: Path) -> Path:
    """Where the copy of `path` lies."""
    root = listing.root.resolve()
    here = path.resolve() if path.resolve().is_relative_to(root) else path
    return folder / (here.relative_to(root) if here.is_relative_to(root) else Path("images") / path.name)


def _fix_masks(survey: Survey, left_out: dict[str, str], folder: Path, done: Counter[str]) -> None:
    rule = _rule(survey)
    for entry, facts in zip(survey.listing.entries, survey.facts, strict=True):
        if entry.name not in left_out:
            for number, path in enumerate(entry.masks):
                _fix_mask(survey, facts if number == 0 else None, path, folder, rule, done)
    _copy_lists(survey.listing, left_out, folder)


def _fix_mask(survey: Survey, facts: Facts | None, path: Path, folder: Path, rule: str, done: Counter[str]) -> None:
    to, mask = place(survey.listing, path, folder), facts.masks[0] if facts and facts.masks else None
    labels = None if mask is None else _corrected(survey, mask, rule)
    if labels is None:
        _copy(path, to)
        return
    done[rule or "masks stored as RGB written with one channel"] += 1
    write_bytes(to.with_suffix(".png"), cv2.imencode(".png", labels)[1].tobytes())


def _rule(survey: Survey) -> str:
    """What is done to all masks, as the words that tell it; "" for nothing."""
    decision, findings = (
        survey.decision,
        {f.kind: f.severity for f in _found(survey, "shifted", "zero_255", "jpeg_masks")},
    )
    if findings.get("shifted") == "harmful":
        return "masks whose labels count from 0 now"
    if not isinstance(decision, Decision) or decision.coding is None or survey.listing.classes.values:
        return ""
    if findings.get("zero_255") == "note":
        return "masks with 1 in place of 255"
    return "JPEG masks written as PNG of 0 and 1" if findings.get("jpeg_masks") == "doubtful" else ""


def _corrected(survey: Survey, mask: MaskFacts, rule: str) -> np.ndarray | None:
    """The new labels; None where the file is copied as it is."""
    if not rule:
        return read_mask(mask.path)[..., 0] if mask.three and not mask.coloured and mask.header.kind != "jpeg" else None
    raw = read_mask(mask.path)
    if rule.startswith("masks whose labels"):
        grey = raw[..., 0] if raw.ndim == 3 else raw
        return np.where(grey == IGNORE, IGNORE, grey - np.uint8(1)).astype(np.uint8)
    decision = survey.decision
    assert isinstance(decision, Decision)
    return decision.coding(raw, mask.path) if decision.coding is not None else None


def _copy_lists(listing: Listing, left_out: dict[str, str], folder: Path) -> None:
    """Class lists and the like beside the data; the lists of VOC without what is left out."""
    for path in sorted(listing.root.iterdir()):
        if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES and path.stat().st_size < 1 << 22:
            _copy(path, folder / path.name)
    names = {entry.name for entry in listing.entries} - set(left_out)
    for path in sorted(listing.root.glob("**/ImageSets/Segmentation/*.txt")) if listing.truth == "voc" else []:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if line.split() and line.split()[0] in names]
        write_text(place(listing, path, folder), "".join(f"{line}\n" for line in kept))


def _copy(path: Path, to: Path) -> None:
    with atomic_path(to) as temporary:
        shutil.copyfile(path, temporary)


def _found(survey: Survey, *kinds: str) -> list[Finding]:
    from nuriwake.data.check.checks import CHECKS

    return [finding for kind in kinds if (finding := CHECKS[kind](survey)) is not None]


def _not_corrected(result: "CheckResult", done: Counter[str]) -> tuple[str, ...]:
    solved = {*LEFT_OUT, *_NEEDS_NOTHING}
    if any("count from 0" in what for what in done):
        solved |= {"shifted"}
    solved |= {kind for kind in _SOLVED if any(_SOLVED[kind] in what for what in done)}
    left = [f"{finding.kind} ({finding.count:,})" for finding in result.findings if finding.severity != "note"]
    left = [item for item in left if item.rpartition(" (")[0] not in solved]
    return (f"not corrected, as it would have to be guessed: {', '.join(left)}.",) if left else ()


_SOLVED = {
    "jpeg_masks": "JPEG masks", "annotation_twice": "stand twice", "annotation_ids_repeat": "numbered anew",
    "box_disagrees": "boxes computed", "no_area": "without a pixel", "polygon_points": "cannot be drawn",
    "polygon_outside": "cannot be drawn", "segmentation_unreadable": "cannot be drawn",
    "segmentation_missing": "cannot be drawn", "panoptic_disagrees": "segments",
}  # fmt: skip
