"""A corrected copy of a data set, as far as nothing has to be guessed. The data themselves are never touched."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes, write_text
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap
from nuriwake.data.check.entry import Entry, Listing
from nuriwake.data.check.finding import Finding
from nuriwake.data.check.fixing_files import FORMATS, SHAPED, copy_file, copy_rest
from nuriwake.data.check.fixing_shapes import fix_files, mend
from nuriwake.data.check.fixing_volumes import copy_volumes, whole_volumes
from nuriwake.data.check.looking import Facts, MaskFacts, real_suffix
from nuriwake.data.check.survey import Survey
from nuriwake.data.check.upright import without_orientation
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.deciding import LEAST_EXTREMES, Decision
from nuriwake.data.geotiff_place import read_place
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.images import read_mask
from nuriwake.data.texts import counted
from nuriwake.data.written import refuse_existing

if TYPE_CHECKING:
    from nuriwake.data.check import CheckResult

LEFT_OUT = {
    "image_truncated": "cut off", "image_unreadable": "unreadable", "mask_unreadable": "without a readable mask",
    "name_twice": "of a name that two files have", "truth_unreadable": "whose truth cannot be read",
}  # fmt: skip
"""Samples with these problems are left out of the copy."""

ELSEWHERE, COPY = "that val or test has too", "with the image and the truth of another one"

SHIFTED = "[mask|masks] whose labels count from 0 now"
CUT = "black and white [mask|masks] with blurred edges cut at 128 and written as 0 and 1"
STRETCHED = "[mask|masks] of 16 bits divided back to 8-bit labels"

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
    listing = survey.listing
    if listing.truth == "read" and (listing.format not in FORMATS or not listing.root.is_dir()):
        raise UserError(
            f"{listing.root}: --fix corrects folders of masks, Pascal VOC, COCO, {', '.join(FORMATS)}, found {listing.format} "
            "as a description or a file of its own lists it; convert the data set to one of them."
        )
    root = survey.listing.root.resolve()
    if folder.resolve() == root or folder.resolve().is_relative_to(root):
        raise UserError(f"{folder}: a corrected copy lies outside of the data set; choose another folder.")
    refuse_existing(folder)
    left_out = dropped(survey)
    done: Counter[str] = Counter()
    if listing.format == "nifti":
        partly = set(left_out.values())
        left_out = whole_volumes(survey, left_out)
        copy_volumes(survey, left_out, lambda path: place(listing, path, folder), done)
        return _told(result, done, unsolved=_unsolved(partly - set(left_out.values())))
    flags = mend(survey, left_out) if listing.truth == "read" else {}
    for entry, facts in zip(survey.listing.entries, survey.facts, strict=True):
        if entry.name in left_out:
            done[f"[sample|samples] left out, {left_out[entry.name]}"] += 1
        else:
            copy_image(entry, facts, survey.listing, folder, done)
    if survey.listing.truth == "read":
        copy_rest(survey, left_out, lambda path: place(listing, path, folder), done)
        if listing.format in SHAPED:
            flags = {name: each for name, each in flags.items() if name not in left_out}
            fix_files(survey, flags, lambda path: place(listing, path, folder), done)
    elif survey.listing.truth in ("mask", "voc"):
        _fix_masks(survey, left_out, folder, done)
    else:
        fix_json(survey, left_out, folder, done)
    return _told(result, done)


def _unsolved(reasons: Collection[str]) -> set[str]:
    """The kinds of findings behind `reasons` that no sample was left out for after all."""
    whys = {**LEFT_OUT, "same_image": ELSEWHERE, "duplicates": COPY}
    return {kind for kind, why in whys.items() if why in reasons}


def _told(result: "CheckResult", done: Counter[str], *, unsolved: Collection[str] = ()) -> tuple[str, ...]:
    kept = _not_corrected(result, done, unsolved)
    lines = [f"{number:,} {counted(what, number)}." for what, number in done.items() if number]
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
    # What is in train and elsewhere too leaves train; pictures of one value are alike without being the same.
    blank = _blank(survey)
    told = [facts for facts in survey.facts if facts.digest and facts.name not in blank]
    elsewhere = {facts.digest for facts in told if facts.split != "train"}
    if _found(survey, "same_image"):
        found |= {facts.name: ELSEWHERE for facts in told if facts.split == "train" and facts.digest in elsewhere}
    return {**found, **_copies(survey)}


def _blank(survey: Survey) -> set[str]:
    return {problem.sample for problem in survey.problems.get("image_blank", [])}


def _copies(survey: Survey) -> dict[str, str]:
    """Samples whose image and truth stand in the same split before. With another truth, one would have to be chosen."""
    first: dict[tuple[str, bytes], int] = {}
    found: dict[str, str] = {}
    blank = _blank(survey)
    for row, (entry, facts) in enumerate(zip(survey.listing.entries, survey.facts, strict=True)):
        if facts.digest and entry.name not in blank:
            before = first.setdefault((facts.split, facts.digest), row)
            if before != row and _same_truth(survey.listing.entries[before], entry, survey.listing.data):
                found[entry.name] = COPY
    return found


def _same_truth(entry: Entry, other: Entry, data: DataSet | None) -> bool:
    if entry.record is not None and other.record is not None and data is not None:
        return _reads_same(entry.record, other.record, data)
    if len(entry.masks) != len(other.masks):
        return False
    try:
        masks = all(np.array_equal(read_mask(a), read_mask(b)) for a, b in zip(entry.masks, other.masks, strict=True))
    except UserError:
        return False
    objects = [sorted((item.category, item.segmentation) for item in each.annotations) for each in (entry, other)]
    segments = [sorted((item.id, item.category) for item in each.segments) for each in (entry, other)]
    return masks and objects[0] == objects[1] and segments[0] == segments[1]


def _reads_same(record: Record, other: Record, data: DataSet) -> bool:
    """Two records of one image; on a map they must lie in one place, too."""
    if data.format == "geotiff" and read_place(record.image) != read_place(other.image):
        return False
    try:
        first, second = data.read_target(record), data.read_target(other)
    except UserError:
        return False
    if isinstance(first, Instances) and isinstance(second, Instances):
        same = np.array_equal(first.labels, second.labels) and np.array_equal(first.crowd, second.crowd)
        return same and first.masks.to_coco() == second.masks.to_coco()
    if isinstance(first, Panoptic) and isinstance(second, Panoptic):
        same = np.array_equal(first.ids, second.ids) and np.array_equal(first.segment_ids, second.segment_ids)
        return same and np.array_equal(first.labels, second.labels)
    if isinstance(first, SemanticMap) and isinstance(second, SemanticMap):
        return np.array_equal(first.labels, second.labels)
    return False


def copy_image(entry: Entry, facts: Facts, listing: Listing, folder: Path, done: Counter[str]) -> None:
    """The image file to its place, under the suffix of what it holds.

    Where the truth has the size of the pixels as they are stored, it was drawn on those: the EXIF orientation is set to
    upright, and no pixel is changed. (Turning the pixels would mean to encode them anew, and to turn polygons.)
    """
    suffix = real_suffix(entry.image)
    if suffix.lower() != entry.image.suffix.lower():
        done["[image|images] renamed to the format that [it holds|they hold]"] += 1
    to = place(listing, entry.image, folder).with_suffix(suffix)
    turned = any(problem.kind == "exif_rotation" for problem in facts.problems)
    upright = without_orientation(entry.image.read_bytes()) if turned else None
    if upright is None:
        copy_file(entry.image, to)
        return
    done[
        "[image whose EXIF orientation its|images whose EXIF orientation their] truth does not follow, set to upright"
    ] += 1
    write_bytes(to, upright)


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
        copy_file(path, to)
        return
    done[rule or "[mask|masks] stored as RGB written with one channel"] += 1
    write_bytes(to.with_suffix(".png"), cv2.imencode(".png", labels)[1].tobytes())


def _rule(survey: Survey) -> str:
    """What is done to all masks, as the words that tell it; "" for nothing."""
    decision = survey.decision
    findings = {
        finding.kind: finding.severity
        for finding in _found(survey, "shifted", "zero_255", "jpeg_masks", "ringing", "anti_aliased", "cut_to_8_bit")
    }
    if findings.get("shifted") == "harmful":
        return SHIFTED
    if ("ringing" in findings or "anti_aliased" in findings) and _black_and_white(survey):
        return CUT
    if "cut_to_8_bit" in findings and stretch(survey):
        return STRETCHED
    if not isinstance(decision, Decision) or decision.coding is None or survey.listing.classes.values:
        return ""
    if findings.get("zero_255") == "note":
        return "[mask|masks] with 1 in place of 255"
    return "JPEG [mask|masks] written as PNG of 0 and 1" if findings.get("jpeg_masks") == "doubtful" else ""


def _corrected(survey: Survey, mask: MaskFacts, rule: str) -> np.ndarray | None:
    """The new labels; None where the file is copied as it is."""
    if not rule:
        return read_mask(mask.path)[..., 0] if mask.three and not mask.coloured and mask.header.kind != "jpeg" else None
    raw = read_mask(mask.path)
    grey = raw[..., 0] if raw.ndim == 3 else raw
    if rule == SHIFTED:
        return np.where(grey == IGNORE, IGNORE, grey - np.uint8(1)).astype(np.uint8)
    if rule == CUT:
        return (grey >= 128).astype(np.uint8)
    if rule == STRETCHED:
        return (grey // stretch(survey)).astype(np.uint8)
    decision = survey.decision
    assert isinstance(decision, Decision)
    return decision.coding(raw, mask.path) if decision.coding is not None else None


def _black_and_white(survey: Survey) -> bool:
    """Whether nearly all pixels of every mask are near 0 or 255, and no more than two classes are listed."""
    masks, classes = survey.masks, survey.listing.classes
    plain = all(mask.ends.near >= LEAST_EXTREMES * mask.pixels and not mask.coloured for mask in masks)
    return plain and len(classes.names) in (0, 2) and not classes.values and all(m.header.bits == 8 for m in masks)


def stretch(survey: Survey) -> int:
    """By what 8-bit labels were multiplied to fill 16 bits: 257 or 256 where that makes labels of the classes; else 0."""
    names = survey.listing.classes.names
    values = (
        np.unique(np.concatenate([mask.values for mask in survey.masks])) if survey.masks else np.zeros(0, np.int64)
    )
    if not names or not all(mask.header.bits == 16 and not mask.coloured for mask in survey.masks):
        return 0
    for factor in (257, 256):
        labels = values // factor
        if not (values % factor).any() and ((labels < len(names)) | (labels == IGNORE)).all():
            return factor
    return 0


def _copy_lists(listing: Listing, left_out: dict[str, str], folder: Path) -> None:
    """Class lists and the like beside the data; the lists of VOC without what is left out."""
    for path in sorted(listing.root.iterdir()):
        if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES and path.stat().st_size < 1 << 22:
            copy_file(path, folder / path.name)
    names = {entry.name for entry in listing.entries} - set(left_out)
    for path in sorted(listing.root.glob("**/ImageSets/Segmentation/*.txt")) if listing.truth == "voc" else []:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if line.split() and line.split()[0] in names]
        write_text(place(listing, path, folder), "".join(f"{line}\n" for line in kept))


def _found(survey: Survey, *kinds: str) -> list[Finding]:
    from nuriwake.data.check.checks import CHECKS

    return [finding for kind in kinds if (finding := CHECKS[kind](survey)) is not None]


def _not_corrected(result: "CheckResult", done: Counter[str], unsolved: Collection[str]) -> tuple[str, ...]:
    solved = {*LEFT_OUT, *_NEEDS_NOTHING}
    solved |= {kind for kind in _SOLVED if any(_SOLVED[kind] in what for what in done)}
    solved -= set(unsolved)
    left = [f"{finding.kind} ({finding.count:,})" for finding in result.findings if finding.severity != "note"]
    left = [item for item in left if item.rpartition(" (")[0] not in solved]
    return (f"not corrected, as it would have to be guessed: {', '.join(left)}.",) if left else ()


_SOLVED = {
    "shifted": SHIFTED, "ringing": CUT, "anti_aliased": CUT, "cut_to_8_bit": STRETCHED, "zero_255": "in place of 255",
    "exif_rotation": "EXIF orientation", "area_disagrees": "areas computed",
    "duplicates": "with the image and the truth of another one",
    "jpeg_masks": "written as PNG of 0 and 1", "annotation_twice": "twice left out", "annotation_ids_repeat": "numbered anew",
    "box_disagrees": "boxes computed", "no_area": "without a pixel", "polygon_points": "cannot be drawn",
    "polygon_outside": "cannot be drawn", "segmentation_unreadable": "cannot be drawn",
    "segmentation_missing": "cannot be drawn", "panoptic_disagrees": "segments",
}  # fmt: skip
