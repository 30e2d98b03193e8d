"""The running average of the weights, which is what gets evaluated and kept."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a model's parameters and floating-point buffers.

    `module` is a second model in eval mode that always holds the average. The decay of step t is
    min(decay, (1 + t) / (10 + t)), so that a short run is not held back by its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._sources = [source for mean, source in pairs if mean.is_floating_point()]
        self._counters = [(mean, source) for mean, source in pairs if not mean.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` (from 0): mean <- mean + (1 - decay) (weights - mean)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # One kernel for all tensors; torch.optim.swa_utils uses the same.
        torch._foreach_lerp_(self._means, self._sources, 1.0 - decay)  # pyright: ignore
        for mean, source in self._counters:
            mean.copy_(source)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [item.detach() for item in (*model.parameters(), *model.buffers())]
