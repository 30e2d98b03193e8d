"""Watching the loss: is it finite, and if not, for which images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Failure:
    """A step whose loss or gradient was not finite.

    Attributes:
        step: its number, from 0.
        value: the loss; the scale of the loss for an `overflow`.
        names: the images of this process's batches.
        overflow: it was no single step: fp16 gave up one after the other, up to this one, whatever the scale.
    """

    step: int
    value: float
    names: tuple[str, ...]
    overflow: bool = False

    def __str__(self) -> str:
        if self.overflow:
            return (
                f"up to step {self.step} the gradient was not finite in so many steps of fp16, which changed nothing, that "
                f"the scale of the loss fell to {self.value:g}"
            )
        shown = ", ".join(self.names[:16]) + (f" and {len(self.names) - 16} more" if len(self.names) > 16 else "")
        kind = f"the loss was {self.value}" if not math.isfinite(self.value) else "the gradient was not finite"
        return f"at step {self.step} {kind} for the batch of {shown}"

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        if self.overflow:
            return "Start again with precision fp32"
        return "Look at these images and masks, or start again with a lower optim.learning_rate"


@dataclass
class Watch:
    """Collects the loss terms of the steps; reads them only now and then where reading would wait for a GPU.

    Attributes:
        patience: steps between two looks; 1 on the CPU.
    """

    patience: int
    _pending: list[tuple[int, tuple[str, ...], Tensor, Tensor]] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=dict[str, float])
    _steps: int = 0
    _terms: list[dict[str, Tensor]] = field(default_factory=list)

    def note(self, step: int, names: Sequence[str], terms: dict[str, Tensor], check: Tensor) -> None:
        """Remember a step: its terms, and `check`, a scalar that is finite when all is well."""
        total = torch.stack(list(terms.values())).sum()
        self._pending.append((step, tuple(names), total, check))
        self._terms.append(terms)

    def look(self, *, now: bool = False) -> Failure | None:
        """The first failure among the steps since the last look; None when all is well or it is not time yet."""
        if not self._pending or (len(self._pending) < self.patience and not now):
            return None
        checks = torch.stack([check.detach().float() for *_, check in self._pending]).tolist()
        for (step, names, total, _), check in zip(self._pending, checks, strict=True):
            if not math.isfinite(check):
                self.forget()
                return Failure(step, float(total.detach()), names)
        self._pending.clear()
        for terms in self._terms:
            for name, value in terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
            self._steps += 1
        self._terms.clear()
        return None

    def forget(self) -> None:
        """Drop everything: the run goes back."""
        self._pending.clear()
        self._terms.clear()
        self._sums.clear()
        self._steps = 0

    def means(self) -> dict[str, float]:
        """The mean of every term, and `loss`, their sum, over the steps since the last call; {} when there were none."""
        if not self._steps:
            return {}
        means = {name: value / self._steps for name, value in self._sums.items()}
        self._sums.clear()
        self._steps = 0
        return {"loss": sum(means.values()), **means}
