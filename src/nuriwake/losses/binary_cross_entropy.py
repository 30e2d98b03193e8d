"""Binary cross entropy of every channel."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.pixels import PixelBatch, weighted_mean


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Every channel against its own yes or no, averaged over valid pixels and channels.

    Class weights: the weighted mean; of the true class (binary, multiclass) or of the channel (multilabel). Multiclass
    means one against the rest: the label's channel is a yes, all others a no, and all have the weight of the pixel.

    Args:
        positive_weight: factor of the yes part, one number or one per channel; torch's `pos_weight`. It does not enter the
            denominator.
    """

    positive_weight: float | tuple[float, ...] = 1.0

    def __call__(self, pixels: PixelBatch) -> Tensor:
        positive_weight = self._positive_weight(pixels)
        if pixels.mode == "multiclass":
            losses = _one_against_rest(pixels, positive_weight)
        else:
            losses = -pixels.true_log_probability
            if self.positive_weight != 1.0:
                losses = losses * (1 + (positive_weight[:, None] - 1) * pixels.labels)
        return weighted_mean(losses, pixels.label_weights)

    def _positive_weight(self, pixels: PixelBatch) -> Tensor:
        """(C,)"""
        channels = pixels.logits.shape[1]
        values = self.positive_weight if isinstance(self.positive_weight, tuple) else (self.positive_weight,) * channels
        if len(values) != channels:
            raise UserError(f"positive_weight needs one number or {channels}, one per channel; found {len(values)}.")
        return pixels.logits.new_tensor(values)


def _one_against_rest(pixels: PixelBatch, positive_weight: Tensor) -> Tensor:
    """(B, N): the mean over the channels; of any value where ignored."""
    # Every channel as a "no", then the label's channel corrected to a "yes": no one-hot map.
    labels = pixels.labels
    negative = functional.softplus(pixels.logits).sum(1)
    true_logit = pixels.logits.gather(1, labels[:, None])[:, 0]
    positive = positive_weight[labels] * functional.softplus(-true_logit) - functional.softplus(true_logit)
    return (negative + positive) / pixels.logits.shape[1]
