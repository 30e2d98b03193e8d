"""Findings about splits: what is trained on must not be validated on."""

from collections import defaultdict

import numpy as np

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.survey import Survey
from nuriwake.data.nifti_address import stored_files

NEAR = 10
"""Bits of 256 in which the hashes of nearly the same image may differ."""

_BLOCK = 1 << 22


def empty(survey: Survey) -> Finding | None:
    """No image in train or val."""
    missing = [split for split in ("train", "val") if not survey.splits.get(split)]
    if not missing or survey.partial:
        return None
    found = ", ".join(f"{split or 'without a split'} {len(facts)}" for split, facts in survey.splits.items()) or "none"
    return Finding(
        "empty_split", "harmful" if "train" in missing else "doubtful", len(missing), (),
        "Training needs images to learn from and others to choose the best model by.",
        "Name the splits (train/ and val/ folders, or the field 'splits' of a YAML description).",
        what=f"There is no image in {' and '.join(missing)} (found: {found}).",
    )  # fmt: skip


def same_image(survey: Survey) -> Finding | None:
    """The same pixels in two splits."""
    groups: dict[bytes, list[Facts]] = defaultdict(list)
    for facts in survey.facts:
        if facts.digest and not _blank(survey, facts):
            groups[facts.digest].append(facts)
    pairs = [
        (first, other) for group in groups.values() for first in group[:1] for other in group[1:] if other.split != first.split
    ]  # fmt: skip
    if not pairs:
        return None
    return Finding(
        "same_image", "harmful", len(pairs), some([f"{a.image} is {b.image}" for a, b in pairs]),
        "What is trained on is validated on: scores are better than the model is.",
        "Take each of them out of one split; --fix takes them out of train.",
        what=f"{len(pairs):,} [image is|images are] in two splits.", samples=_names(pairs),
    )  # fmt: skip


def duplicates(survey: Survey) -> Finding | None:
    """The same pixels twice in one split."""
    seen: dict[tuple[str, bytes], Facts] = {}
    pairs: list[tuple[Facts, Facts]] = []
    for facts in survey.facts:
        if facts.digest and not _blank(survey, facts):
            first = seen.setdefault((facts.split, facts.digest), facts)
            if first is not facts:
                pairs.append((first, facts))
    if not pairs:
        return None
    return Finding(
        "duplicates", "doubtful", len(pairs), some([f"{a.image} is {b.image}" for a, b in pairs]),
        "They count twice, and where their annotations differ they contradict each other.",
        "Keep one of each.", what=f"{len(pairs):,} [image stands|images stand] twice in one split.", samples=_names(pairs),
    )  # fmt: skip


def similar_image(survey: Survey) -> Finding | None:
    """Nearly the same image in train and in another split: by difference hashes that differ in few bits."""
    train = [f for f in survey.splits.get("train", []) if f.digest and not f.flat]
    others = [f for split, part in survey.splits.items() if split != "train" for f in part if f.digest and not f.flat]
    pairs = [(train[i], others[j]) for i, j in near_pairs(train, others) if train[i].digest != others[j].digest]
    if not pairs:
        return None
    return Finding(
        "similar_image", "doubtful", len(pairs), some([f"{a.image} is like {b.image}" for a, b in pairs]),
        "Neighbouring frames, copies at another size or quality: what is validated on was seen in training, and scores are "
        "better than the model is.",
        "Split by scene, patient or day, not by image.",
        what=f"{len(pairs):,} [image of val or test is|images of val or test are] nearly the same as one of train.", samples=_names(pairs),
    )  # fmt: skip


def near_pairs(train: list[Facts], others: list[Facts]) -> list[tuple[int, int]]:
    """For each of `others` the nearest of `train`, where their hashes differ in at most `NEAR` bits: (i of train, j)."""
    if not train or not others:
        return []
    left, right = (np.stack([facts.hash for facts in part]) for part in (train, others))
    pairs: list[tuple[int, int]] = []
    step = max(1, _BLOCK // len(left))
    for start in range(0, len(right), step):
        part = right[start : start + step]
        bits = sum(np.bitwise_count(left[None, :, k] ^ part[:, None, k]).astype(np.uint16) for k in range(4))
        nearest = np.asarray(bits).argmin(axis=1)
        for j in np.flatnonzero(np.asarray(bits)[np.arange(len(part)), nearest] <= NEAR).tolist():
            pairs.append((int(nearest[j]), start + j))
    return pairs


def same_name(survey: Survey) -> Finding | None:
    """One file name in two splits, of different pictures."""
    where: dict[str, dict[str, Facts]] = defaultdict(dict)
    for facts in survey.facts:
        where[stored_files(facts.image)[0].name][facts.split] = facts
    found = [
        parts for parts in where.values() if len(parts) > 1 and len({facts.digest for facts in parts.values()}) == len(parts)
    ]  # fmt: skip
    if not found or not survey.listing.splits_given:
        return None
    pairs = [tuple(parts.values())[:2] for parts in found]
    return Finding(
        "same_name", "note", len(found), some([f"{a.image} and {b.image}" for a, b in pairs]),
        "Usually counting began anew in each split; sometimes one picture was edited and is in both.",
        "Look at a few pairs; rename one of each if files are ever put together.",
        what=f"{len(found):,} file [name is|names are] in two splits, with different pictures.",
        samples=tuple(f.name for pair in pairs for f in pair)[:10],
    )  # fmt: skip


def _blank(survey: Survey, facts: Facts) -> bool:
    return any(problem.kind == "image_blank" for problem in facts.problems)


def _names(pairs: list[tuple[Facts, Facts]]) -> tuple[str, ...]:
    return tuple(facts.name for pair in pairs[:5] for facts in pair)
