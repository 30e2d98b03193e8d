"""The data check: reads everything once and says, in order of harm, what is wrong, why it matters and what to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.serial import to_plain
from nuriwake.data.check.checks import CHECKS
from nuriwake.data.check.entry import Entry, Listing
from nuriwake.data.check.finding import SEVERITIES, Finding, some
from nuriwake.data.check.listing import list_data
from nuriwake.data.check.looking import Facts, Look
from nuriwake.data.check.processes import each_process
from nuriwake.data.check.survey import Survey, survey
from nuriwake.data.check.wholeness import cut_off
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.formats import open_data
from nuriwake.data.parallel import spread

__all__ = ["CHECKS", "CheckResult", "Finding", "check_data", "quick_check", "refuse_harmful"]

MOST_READ_AGAIN = 2000
"""Folders of more masks are not opened once more at the end to see whether training would take them."""

_QUICK, _QUICK_SECONDS = 64, 10.0
"""Images of each split that the quick check reads in any case, and how long it goes on with the others."""

_QUICK_CHECKS = (
    "image_unreadable", "image_truncated", "mask_unreadable", "truth_unreadable", "exif_rotation", "size_differs",
    "all_background", "all_ignore", "same_image", "channels", "bit_depths", "refused",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What was found.

    Args:
        findings: in order of harm.
        survey: everything that was seen, for a report.
    """

    findings: tuple[Finding, ...]
    survey: Survey

    @property
    def harmful(self) -> tuple[Finding, ...]:
        """The findings that spoil a training."""
        return tuple(finding for finding in self.findings if finding.severity == "harmful")

    def plain(self) -> dict[str, Any]:
        """Everything as dicts, lists and numbers that JSON can hold."""
        seen, space = self.survey, self.survey.space
        splits = {split: len(facts) for split, facts in seen.splits.items()}
        pixels = seen.class_pixels.sum(axis=0).tolist()
        images = (seen.class_pixels > 0).sum(axis=0).tolist()
        classes = [
            {"name": name, "pixels": pixels[i], "images": images[i]}
            for i, name in enumerate(space.names if space else ())
        ]
        return {
            "data": str(seen.listing.root),
            "format": seen.listing.format,
            "images": len(seen.facts),
            "splits": splits,
            "objects": len(seen.objects),
            "classes": classes,
            "sizes": {f"{h}x{w}": int(n) for (h, w), n in zip(*_unique_rows(seen.sizes), strict=True)},
            "findings": [to_plain(finding) for finding in self.findings],
        }


def check_data(
    path: Path | str,
    *,
    format: str | None = None,  # noqa: A002 (the contract's word)
    workers: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> CheckResult:
    """Read the data set at `path` once, whatever is wrong with it, and say what is.

    Args:
        path, format: as in `open_data`.
        workers: processes; by default one per processor, at most 16.
        tick: told how many of how many images are done.

    Raises:
        UserError: there is nothing, or no format fits.
    """
    path = Path(path)
    listing = list_data(path, format)
    seen = survey(listing, workers=workers, tick=tick)
    findings = run_checks(seen)
    if not any(finding.severity == "harmful" for finding in findings) and _is_quick_to_open(seen):
        findings += _refusal(path, format)
    return CheckResult(_ordered(findings), seen)


def quick_check(data: DataSet, *, train: str = "train", val: str = "val") -> tuple[Finding, ...]:
    """What surely spoils a training of `data`, in seconds: from the headers and targets of all images of `train` and `val` or, where
    they are too many, of as many as `_QUICK_SECONDS` allow; and from where each of their files ends.

    Returns:
        Findings in order of harm; a training should not begin with a harmful one.
    """
    first: list[Entry] = []
    rest: list[Entry] = []
    seen: dict[str, tuple[Record, str]] = {}
    both: list[str] = []
    records: list[Record] = []
    for split in (train, val):
        part = data.splits.get(split, ())
        records += part
        for record in part:
            if seen.setdefault(str(record.image), (record, split))[1] != split:
                both.append(str(record.image))
        entries = [Entry(record.name, split, record.image, record=record) for record in part]
        sample = spread(entries, _QUICK)
        chosen = {entry.image for entry in sample}
        first += sample
        rest += [entry for entry in entries if entry.image not in chosen]
    # Of the rest, those that are far apart come first: not only the beginning of a set too large to be read whole.
    order = sorted(range(len(rest)), key=lambda index: int(f"{index:032b}"[::-1], 2))
    entries = [*first, *(rest[index] for index in order)]
    facts: list[Facts] = []
    end = time.perf_counter() + _QUICK_SECONDS
    for item in each_process(Look("read", data, pixels=False), entries, workers=1):
        facts.append(item)
        if len(facts) >= len(first) and time.perf_counter() > end:
            break
    told = {(problem.kind, problem.sample) for item in facts for problem in item.problems}
    cut = tuple(problem for problem in cut_off(data, records) if (problem.kind, problem.sample) not in told)
    looked = tuple(entries[: len(facts)])
    listing = Listing(data.root, data.format, "read", looked, space=data.space, data=data, problems=cut)
    found = Survey(listing, tuple(facts))
    found.partial = len(looked) < sum(map(len, data.splits.values()))
    findings = [finding for kind in _QUICK_CHECKS if (finding := CHECKS[kind](found)) is not None]
    if both:
        findings.append(
            Finding(
                "same_image",
                "harmful",
                len(both),
                some(both),
                "What is trained on is validated on: scores are better than the model is.",
                "Take each of them out of one split.",
                what=f"{len(both):,} [image is|images are] in train and in val.",
            )
        )
    return _ordered(findings)


def refuse_harmful(findings: tuple[Finding, ...], *, go_on: str) -> None:
    """Raises UserError for the first harmful finding, with the number of others.

    Args:
        go_on: how to go on anyway, as the end of the sentence "To train anyway, ...".
    """
    harmful = [finding for finding in findings if finding.severity == "harmful"]
    if harmful:
        first = harmful[0]
        more = f" ({len(harmful) - 1} more harmful findings)" if len(harmful) > 1 else ""
        shown = f" Such as: {first.files[0]}." if first.files else ""
        raise UserError(
            f"{first.what} {first.why} {first.remedy}{shown}{more} 'nuriwake check' shows all. To train anyway, {go_on}."
        )


def run_checks(seen: Survey) -> list[Finding]:
    """What the rows of `CHECKS` find."""
    return [finding for check in CHECKS.values() if (finding := check(seen)) is not None]


def _ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    rows = list(CHECKS)
    return tuple(sorted(findings, key=lambda item: (SEVERITIES.index(item.severity), rows.index(item.kind))))


def _is_quick_to_open(seen: Survey) -> bool:
    return seen.listing.data is None and (
        seen.listing.truth in ("coco", "panoptic") or len(seen.facts) <= MOST_READ_AGAIN
    )


def _refusal(path: Path, format: str | None) -> list[Finding]:  # noqa: A002
    """Whatever else keeps the data set from being opened: nothing that training refuses may pass as clean."""
    try:
        open_data(path, format=format)
    except UserError as error:
        text = "Training refuses the data set as it is."
        what = "The data set cannot be opened."
        return [Finding("refused", "harmful", 1, (str(error),), text, "Do what the sentence says.", what=what)]
    return []


def _unique_rows(sizes: np.ndarray) -> tuple[list[list[int]], list[int]]:
    values, counts = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:50]
    return values[order].tolist(), counts[order].tolist()
