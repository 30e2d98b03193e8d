"""Survey: everything known of a data set after it was read once. What checks look at."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.data.check.entry import Listing
from nuriwake.data.check.finding import Finding, Problem, Severity, some
from nuriwake.data.check.looking import Facts, Look, MaskFacts
from nuriwake.data.check.processes import each_process
from nuriwake.data.coding import MaskCoding
from nuriwake.data.deciding import Decision, decide
from nuriwake.data.observing import LEAST_TINTED, Observed, share_of_ends, tint

Check = Callable[["Survey"], Finding | None]
"""One row of `CHECKS`."""


@dataclass(eq=False)
class Survey:
    """A data set, read once.

    Args:
        listing: what was listed.
        facts: of every entry, in the order of the listing.
        partial: only some images or headers were looked at.
    """

    listing: Listing
    facts: tuple[Facts, ...]
    partial: bool = field(default=False, kw_only=True)

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """By kind, those of the listing first."""
        found: dict[str, list[Problem]] = {}
        for problem in (*self.listing.problems, *(item for facts in self.facts for item in facts.problems)):
            found.setdefault(problem.kind, []).append(problem)
        return found

    @cached_property
    def masks(self) -> tuple[MaskFacts, ...]:
        """Of all entries."""
        return tuple(mask for facts in self.facts for mask in facts.masks)

    @cached_property
    def decision(self) -> Decision | str | None:
        """How the values of masks are read; the sentence of the refusal where they cannot be; None without masks."""
        if not self.masks or self.listing.layered:
            return None
        lossy = [mask for mask in self.masks if mask.header.kind == "jpeg"]
        try:
            return decide(
                self.listing.root,
                self._observed(lossy),
                self.listing.classes,
                threshold=self.listing.threshold,
                things=self.listing.things,
                instance_ids=self.listing.instance_ids,
            )
        except UserError as error:
            return str(error)

    @cached_property
    def space(self) -> LabelSpace | None:
        """The classes, where they are known."""
        return self.decision.space if isinstance(self.decision, Decision) else self.listing.space

    @cached_property
    def splits(self) -> dict[str, list[Facts]]:
        """The facts by split; train, val and test come first."""
        here = {facts.split for facts in self.facts}
        usual = [name for name in ("train", "val", "test") if name in here]
        found: dict[str, list[Facts]] = {name: [] for name in (*usual, *sorted(here.difference(usual)))}
        for facts in self.facts:
            found[facts.split].append(facts)
        return found

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """int64 (N, K) pixels of every class in every entry; (N, 0) where classes are not known."""
        table = np.zeros((len(self.facts), len(self.space) if self.space else 0), np.int64)
        for row, facts in enumerate(self.facts):
            for label, pixels in self.labels(facts).items():
                if 0 <= label < table.shape[1]:
                    table[row, label] += pixels
        return table

    def labels(self, facts: Facts) -> dict[int, int]:
        """Label -> pixels; `IGNORE` among them for masks."""
        if self.listing.truth in ("coco", "panoptic"):
            return {self.listing.numbers.get(key, -1): pixels for key, pixels in facts.labels.items()}
        if not isinstance(self.decision, Decision) or not facts.masks:
            return facts.labels
        values, counts = facts.masks[0].values, facts.masks[0].counts
        found: Counter[int] = Counter()
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[_label(self.decision.coding, value, facts.masks[0])] += count
        return dict(found)

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 (N, 2): height and width of all images that can be read."""
        rows = [facts.header.size for facts in self.facts if facts.header is not None]
        return np.array(rows, np.int64).reshape(-1, 2)

    @cached_property
    def objects(self) -> np.ndarray:
        """float64 (N, 2): area of every object in pixels, and of its image."""
        parts = [
            np.stack([facts.objects[:, 1], np.full(len(facts.objects), float(np.prod(facts.header.size)))], axis=1)
            for facts in self.facts
            if len(facts.objects) and facts.header is not None
        ]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 2))

    def _observed(self, lossy: Sequence[MaskFacts]) -> Observed:
        coloured = any(mask.coloured for mask in self.masks)
        firsts = {}
        for mask in self.masks:
            for value in mask.values.tolist():
                # Grey in a picture of three channels among coloured ones is a colour too.
                firsts.setdefault(value * 0x10101 if coloured and not mask.coloured else value, mask.path)
        ordered = {value: firsts[value] for value in sorted(firsts)}
        extremes, blended = share_of_ends([mask.ends for mask in self.masks])
        tinted = ((mask.path, tint(mask.values, mask.counts)) for mask in lossy if mask.coloured)
        return Observed(
            {} if coloured else ordered,
            ordered if coloured else {},
            len(self.masks),
            len(self.masks),
            any(mask.header.dtype == "uint16" or mask.values.max(initial=0) > 255 for mask in self.masks)
            and not coloured,
            any(mask.three for mask in self.masks) and not coloured,
            bool(lossy),
            extremes,
            tuple(int(mask.values.max(initial=0)) for mask in self.masks),
            blended,
            next((found for found in tinted if found[1] >= LEAST_TINTED), None),
        )


def survey(
    listing: Listing,
    look: Look | None = None,
    *,
    workers: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Reads every entry of `listing` once; `tick` is told how many of how many are done."""
    facts: list[Facts] = []
    for item in each_process(look or Look.at(listing), listing.entries, workers=workers):
        facts.append(item)
        tick(len(facts), len(listing.entries))
    return Survey(listing, tuple(facts))


def told(kind: str, severity: Severity, *, what: str, why: str, remedy: str) -> Check:
    """The check that gathers the problems of one kind. `what` may name the {count} and ends with a full stop."""

    def check(survey: Survey) -> Finding | None:
        found = survey.problems.get(kind, [])
        if not found:
            return None
        samples = tuple(dict.fromkeys(problem.sample for problem in found if problem.sample))[:10]
        text = what.format(count=f"{len(found):,}")
        return Finding(kind, severity, len(found), some(found), why, remedy, what=text, samples=samples)

    return check


def of_masks(
    kind: str, severity: Severity, found: Sequence[Facts], *, what: str, why: str, remedy: str, count: int | None = None
) -> Finding:
    """A finding that names the masks (or images) of `found`."""
    files = [facts.masks[0].path if facts.masks else facts.image for facts in found]
    names = tuple(facts.name for facts in found[:10])
    return Finding(
        kind, severity, len(found) if count is None else count, some(files), why, remedy, what=what, samples=names
    )


def _label(coding: MaskCoding | None, value: int, mask: MaskFacts) -> int:
    if coding is None:
        return 0 if value else -1
    if coding.threshold is not None:
        return int(value >= coding.threshold)
    if coding.colours:
        red, green, blue = (value >> 16, value >> 8 & 255, value & 255) if mask.coloured else (value,) * 3
        return next((label for colour, label in coding.colours if colour == (red, green, blue)), -1)
    return next((label for raw, label in coding.values if raw == value), -1)


__all__ = ["IGNORE", "Check", "Survey", "of_masks", "survey", "told"]
