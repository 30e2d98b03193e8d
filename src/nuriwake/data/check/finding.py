"""Finding: one kind of mistake, how often, where, why it matters and what to do. What every check gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nuriwake.data.texts import counted

Severity = Literal["harmful", "doubtful", "note"]

SEVERITIES: tuple[Severity, ...] = ("harmful", "doubtful", "note")
"""In order of harm. Harmful: training is refused, or learns something wrong. Doubtful: look at it. Note: good to know."""

MOST_NAMED = 10
"""So many files a finding names."""


@dataclass(frozen=True)
class Finding:
    """One kind of mistake in a data set.

    Args:
        kind: a key of `CHECKS`.
        severity: see `SEVERITIES`.
        count: how often.
        files: up to ten, each with what was found there.
        why: what it does to a training.
        remedy: what to do, exactly.
        what: what was found, as one sentence; see `counted`.
        samples: names of up to ten samples that show it.
    """

    kind: str
    severity: Severity
    count: int
    files: tuple[str, ...]
    why: str
    remedy: str
    what: str = field(default="", kw_only=True)
    samples: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", counted(self.what, self.count))

    def __str__(self) -> str:
        return f"{self.severity}: {self.what} {self.why} {self.remedy}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one file or annotation: the kind of finding it belongs to, where, what, and the sample's name."""

    kind: str
    where: str
    text: str = ""
    sample: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.text else self.where


def some(items: Sequence[object]) -> tuple[str, ...]:
    """Up to ten of `items` as text."""
    return tuple(str(item) for item in items[:MOST_NAMED])
