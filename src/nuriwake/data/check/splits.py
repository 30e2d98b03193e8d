"""Findings about splits: what is trained on must not be validated on."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.survey import Survey
from nuriwake.data.nifti_address import stored_files

NEAR = 10
"""Bits of 256 in which the hashes of nearly the same image may differ."""

_BLOCK = 1 << 20
"""Hashes compared at once."""


def empty(survey: Survey) -> Finding | None:
    """No image in train or val. Test images alone are no mistake: a test set, or a draft that `predict --to` wrote."""
    missing = [split for split in ("train", "val") if not survey.splits.get(split)]
    if not missing or survey.partial:
        return None
    found = ", ".join(f"{split or 'without a split'} {len(facts)}" for split, facts in survey.splits.items()) or "none"
    what = f"There is no image in {' and '.join(missing)} (found: {found})."
    if set(survey.splits) == {"test"}:
        return Finding(
            "empty_split", "note", len(missing), (), "Nothing can be trained on it; it can be evaluated and looked at.",
            "Nothing is needed for a test set or a draft of predictions; rename the split to train with it.", what=what,
        )  # fmt: skip
    return Finding(
        "empty_split", "harmful" if "train" in missing else "doubtful", len(missing), (),
        "Training needs images to learn from and others to choose the best model by.",
        "Name the splits (train/ and val/ folders, or the field 'splits' of a YAML description).", what=what,
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
    """For each of `others` the nearest of `train`, where their hashes differ in at most `NEAR` bits: (i of train, j).

    Of `NEAR` + 1 parts of two such hashes one is the same, so that only those that share a part are compared (multi-index
    hashing; Norouzi, Punjani and Fleet, CVPR 2012). What shares parts with nearly everything is compared with everything.
    """
    if not train or not others:
        return []
    left, right = (np.stack([facts.hash for facts in part]) for part in (train, others))
    bands = [_Band.of(a, b) for a, b in zip(_parts(left), _parts(right), strict=True)]
    candidates = np.sum([band.end - band.begin for band in bands], axis=0)
    best = np.full(len(right), np.iinfo(np.int64).max)
    for band in bands:
        for rows in _blocks(np.where(candidates <= len(left), band.end - band.begin, 0)):
            counts = band.end[rows] - band.begin[rows]
            starts = np.cumsum(counts) - counts
            places = np.arange(counts.sum()) + np.repeat(band.begin[rows] - starts, counts)
            _keep_nearest(best, rows, left, right, band.order[places], starts)
    for rows in _blocks(np.where(candidates > len(left), len(left), 0)):
        _keep_nearest(
            best, rows, left, right, np.tile(np.arange(len(left)), len(rows)), np.arange(len(rows)) * len(left)
        )
    return [(int(best[j] & 0xFFFFFFFF), j) for j in np.flatnonzero(best >> 32 <= NEAR).tolist()]


class _Band(NamedTuple):
    """One part of all hashes: `order` sorts those of train, and `begin` to `end` there are equal to that of each other one."""

    order: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, left: np.ndarray, right: np.ndarray) -> "_Band":
        order = np.argsort(left, kind="stable")
        return cls(order, np.searchsorted(left[order], right, "left"), np.searchsorted(left[order], right, "right"))


def _parts(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """The bits of hashes (N, 4) in `NEAR` + 1 parts, as numbers (N,). Neighbouring bits are alike, so each part has some from
    everywhere."""
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    for start in range(NEAR + 1):
        packed = np.packbits(bits[:, start :: NEAR + 1], axis=1)
        yield np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)[:, 0]


def _blocks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that have any, in runs of about `_BLOCK` comparisons."""
    rows = np.flatnonzero(counts)
    which = np.cumsum(counts[rows]) // _BLOCK
    yield from np.split(rows, np.flatnonzero(np.diff(which)) + 1) if len(rows) else ()


def _keep_nearest(
    best: np.ndarray, rows: np.ndarray, left: np.ndarray, right: np.ndarray, against: np.ndarray, starts: np.ndarray
) -> None:
    """Into `best` (bits << 32 | number of train) of `rows`, whose candidates `against` begin at `starts`."""
    owner = np.repeat(rows, np.diff(np.append(starts, len(against))))
    bits = np.bitwise_count(left[against] ^ right[owner]).sum(axis=1, dtype=np.int64)
    best[rows] = np.minimum(best[rows], np.minimum.reduceat(bits << 32 | against, starts))


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
