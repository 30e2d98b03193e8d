"""How far a run is (0..1) and what that means for the learning rate and the evaluations."""

import math
from dataclasses import dataclass, field
from typing import Literal

from nuriwake.engine.config import ScheduleConfig

EVALUATION_SHARE = 0.1
"""Evaluations between the first and the last step take at most about this share of the time."""

EXCESS_SHARE = 0.05
"""A budget that is exceeded by less is not worth a word."""


def rate_factor(schedule: ScheduleConfig, step: int, progress: float) -> float:
    """The learning rate of step `step` (from 0) as a share of the highest; `progress` in 0..1 of the run.

    Linear warm-up over `warmup_steps` or a tenth of the run, whichever is shorter, times the fall.
    """
    rise = 1.0
    if schedule.warmup_steps > 0:
        rise = min(1.0, max((step + 1) / schedule.warmup_steps, progress / 0.1))
    left = 1.0 - min(max(progress, 0.0), 1.0)
    fall = {
        "constant": 1.0,
        "cosine": 0.5 + 0.5 * math.cos(math.pi * (1.0 - left)),
        "poly": left**schedule.power,
    }[schedule.name]
    return rise * (schedule.minimum + (1.0 - schedule.minimum) * fall)


def backbone_factor(schedule: ScheduleConfig, step: int, progress: float) -> float:
    """The rate of a backbone that begins with weights, as a share of what `rate_factor` gives the rest.

    0 until the warm-up of the rest is over, then a linear rise over `backbone_warmup_steps` or a tenth of the run, whichever is
    shorter. A freshly drawn head would otherwise send its noise into the weights (Kerssies et al. 2025, appendix A).
    """
    if schedule.backbone_warmup_steps == 0:
        return 1.0
    by_steps = (step + 1 - schedule.warmup_steps) / schedule.backbone_warmup_steps
    # Without a warm-up of the rest there is nothing to wait for.
    by_progress = (progress - (0.1 if schedule.warmup_steps else 0.0)) / 0.1
    return min(1.0, max(by_steps, by_progress, 0.0))


@dataclass
class Plan:
    """When the run evaluates and when it ends: by steps, or by seconds with a reserve for the last evaluations.

    Everything is a function of (step, elapsed) and of the measured seconds of an evaluation; with `steps` set the clock
    decides nothing, so that a resumed run takes the same decisions.

    Attributes:
        steps: the length in steps; None when `budget` decides.
        budget: seconds for everything.
        every: steps between evaluations; None: spread over the run by cost.
        evaluation_seconds: of the slowest evaluation so far, or an estimate.
        warned: what `warning` has been said of: nothing yet, a guess, or an evaluation that was timed.
        final_cost: seconds of the final evaluation, in float32, relative to the others.
        further_seconds: of the metrics that only the final evaluation has, an estimate.
        evaluated: progress at the last evaluation.
        reached: the highest progress so far, which never falls.
    """

    steps: int | None = None
    budget: float | None = None
    every: int | None = None
    evaluation_seconds: float = 0.0
    evaluated: float = 0.0
    reached: float = field(default=0.0)
    final_cost: float = 1.0
    further_seconds: float = 0.0
    warned: Literal["", "guess", "timed"] = ""

    def progress(self, step: int, elapsed: float) -> float:
        """0..1 before step `step` (from 0) after `elapsed` seconds; 1 means that the run is over."""
        if self.budget is None:
            assert self.steps is not None
            return min(step / self.steps, 1.0)
        self.reached = max(self.reached, min(elapsed / max(self.budget - self.reserve, 1e-3), 1.0))
        return self.reached

    @property
    def reserve(self) -> float:
        """Seconds of the budget kept for the last evaluation, the final one, and the bundle and report: half of it at most."""
        assert self.budget is not None
        return min(self._ending(), 0.5 * self.budget)

    def warning(self, elapsed: float, *, timed: bool = True, evaluated: bool = False) -> str:
        """What a person should know as soon as the end of the run is seen not to fit into its budget; else "".

        It is said once, and once more with the true figure where a guess said it first.

        Args:
            elapsed: seconds so far.
            timed: there has been an evaluation; else what is known of its cost is a guess.
            evaluated: the last evaluation is done, and the final one is still to come.
        """
        kind = "timed" if timed else "guess"
        if self.budget is None or self.warned in ("timed", kind) or not self.evaluation_seconds:
            return ""
        begins = elapsed if evaluated else max(elapsed, self.budget - self.reserve)
        excess = begins + self._ending(evaluated=evaluated) - self.budget
        if excess < EXCESS_SHARE * self.budget:
            return ""
        self.warned = kind
        enough = max(2 * self._ending(), self.budget + excess)
        more = f", with {self.further_seconds:.0f} s for the further metrics" if self.further_seconds >= 1 else ""
        return (
            f"The budget of {self.budget:.0f} s will be exceeded by about {excess:.0f} s: an evaluation of the validation images "
            f"{'takes' if timed else 'is guessed to take'} about {self.evaluation_seconds:.0f} s, and two of them end every run"
            f"{more}; give {enough:.0f} s or more, or fewer validation images."
        )

    def _ending(self, *, evaluated: bool = False) -> float:
        """Seconds from the last step on; from the last evaluation on, where that is done."""
        assert self.budget is not None
        evaluations = self.final_cost + (not evaluated)
        scoring = evaluations * self.evaluation_seconds + self.further_seconds
        return 1.1 * scoring + 1.0 + min(0.02 * self.budget, 20.0)

    def evaluation_due(self, step: int, progress: float) -> bool:
        """After `step` steps: is an evaluation due? The end of a run always is."""
        if progress >= 1.0:
            return True
        if self.every is not None:
            return step % self.every == 0
        # Not so near the end, where the last evaluation follows anyway.
        return progress - self.evaluated >= self.gap and 1.0 - progress >= self.gap / 2

    @property
    def gap(self) -> float:
        """The least progress between two evaluations of a run that spreads them by cost.

        A budget is spent on steps rather: the weights of its first half are hardly ever the best.
        """
        if self.budget is None:
            return 0.1
        usual = 0.25 if self.evaluated < 0.5 else 0.125
        return max(usual, self.evaluation_seconds / (EVALUATION_SHARE * self.budget))
