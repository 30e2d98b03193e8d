"""PixelCriterion: from a model's per-pixel logits and the truth to named, weighted terms."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.core.lookup import did_you_mean
from nuriwake.losses.pixels import Mode, prepare_pixels
from nuriwake.losses.terms import build_loss, parse_terms
from nuriwake.models.outputs import PixelLogits, fit_logits


class PixelCriterion(nn.Module):
    """The loss of every semantic architecture: a weighted sum of terms, kept apart by name.

    Args:
        terms: name -> weight, or text such as "dice+bce" (see `parse_terms`).
        mode: "binary" (one logit), "multiclass" or "multilabel".
        class_weights: (C,), or (2,) in binary mode (background, foreground). Pixel losses take the mean weighted by the true
            class, as torch's `cross_entropy`; overlap losses the mean over classes weighted by class. Only ratios matter.
        auxiliary_weight: what each auxiliary head counts; 0.4 as PSPNet (Zhao 2017).
        ignore: the label that counts nowhere.
        options: term name -> options of that loss, such as {"dice": {"squared": True}}.

    Raises:
        UserError: an unknown term, mode or option (with the nearest), or a value out of range.
    """

    def __init__(
        self,
        terms: str | Mapping[str, float],
        *,
        mode: Mode,
        class_weights: Tensor | None = None,
        auxiliary_weight: float = 0.4,
        ignore: int = IGNORE,
        options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise UserError(f"There is no loss mode '{mode}'.{did_you_mean(mode, get_args(Mode))}")
        self.weights = parse_terms(terms)
        for name in options:
            if name not in self.weights:
                raise UserError(
                    f"Options are given for '{name}', which is no term of the loss.{did_you_mean(name, self.weights)}"
                )
        self.losses = {name: build_loss(name, options.get(name, {})) for name in self.weights}
        self.mode: Mode = mode
        self.auxiliary_weight = auxiliary_weight
        self.ignore = ignore
        self.class_weights: Tensor | None
        # Not persistent: the weights belong to the configuration, and a model's checkpoint must not depend on its loss.
        self.register_buffer("class_weights", _checked(class_weights), persistent=False)

    def forward(self, output: PixelLogits, target: Tensor) -> dict[str, Tensor]:
        """Named terms, already weighted: their sum is the loss. Scalars, float32; "auxiliary" where there are such heads.

        Args:
            output: logits at any resolution, brought to the target's size; computed in float32 whatever autocast says.
            target: (B, H, W) integer, or (B, C, H, W) of 0 and 1 in multilabel mode; `ignore` where unknown.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            named = self._terms(output.logits, target)
            if output.auxiliary:
                heads = [self._terms(logits, target) for logits in output.auxiliary]
                named["auxiliary"] = self.auxiliary_weight * torch.stack([sum_terms(head) for head in heads]).sum()
        return named

    def _terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        fitted = fit_logits(logits, (target.shape[-2], target.shape[-1]))
        pixels = prepare_pixels(fitted, target, mode=self.mode, ignore=self.ignore, class_weights=self.class_weights)
        return {name: self.weights[name] * loss(pixels) for name, loss in self.losses.items()}

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items()) + f", mode={self.mode}"


def sum_terms(named: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of the weighted terms, a scalar."""
    return torch.stack(list(named.values())).sum()


def _checked(class_weights: Tensor | None) -> Tensor | None:
    if class_weights is None:
        return None
    class_weights = torch.as_tensor(class_weights).detach().clone()
    if class_weights.ndim != 1 or not bool((torch.isfinite(class_weights) & (class_weights >= 0)).all()):
        raise UserError(f"Class weights are a row of finite numbers, 0 or more; found {class_weights.tolist()}.")
    return class_weights
