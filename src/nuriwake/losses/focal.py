"""Focal loss."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.pixels import PixelBatch, weighted_mean


@dataclass(frozen=True)
class Focal:
    """-alpha_t (1 - p_t)^gamma log p_t, p_t the probability of the truth (Lin 2017, eq. 5), averaged over valid pixels.

    The mean is weighted by the class weights (see `CrossEntropy`); alpha does not enter the denominator.
    Multiclass: p_t from the softmax; class weights take the place of alpha, which is refused there.

    Args:
        gamma: 0 is cross entropy; the paper uses 2.
        alpha: None, or the factor in 0..1 of yes pixels, 1 - alpha that of no pixels; the paper uses 0.25.
    """

    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise UserError(f"The gamma of the focal loss is 0 or more, found {self.gamma}.")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UserError(f"The alpha of the focal loss is 0 to 1, found {self.alpha}.")

    def __call__(self, pixels: PixelBatch) -> Tensor:
        losses = -pixels.true_log_probability * self._difficulty(pixels)
        if self.alpha is not None:
            if pixels.mode == "multiclass":
                raise UserError(
                    "The focal loss has alpha in binary and multilabel mode only; use class weights instead."
                )
            losses = losses * (1 - self.alpha + (2 * self.alpha - 1) * pixels.labels)
        return weighted_mean(losses, pixels.label_weights)

    def _difficulty(self, pixels: PixelBatch) -> Tensor:
        """(1 - p_t)^gamma, of the labels' shape."""
        if pixels.mode == "multiclass":
            # With gamma below 1 the power has an infinite slope at 0, where log p_t is 0 too.
            return (-pixels.true_log_probability.expm1()).clamp_min(1e-7) ** self.gamma
        return (-self.gamma * functional.softplus(pixels.signed_logits)).exp()
