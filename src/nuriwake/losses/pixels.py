"""What every per-pixel loss starts from: float logits, labels without ignored values, the valid mask, the class weights.

Shape letters of this room: B images, C channels of logits, N pixels of an image (H x W, flattened).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuriwake.core.errors import UserError

Mode = Literal["binary", "multiclass", "multilabel"]
"""binary: one logit, sigmoid. multiclass: one class per pixel, softmax. multilabel: a yes-or-no question per class."""


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Logits and truth of a batch, made ready once and shared by all terms of a criterion.

    Attributes:
        mode: how the channels are to be read.
        logits: (B, C, N), float32 (float64 stays).
        labels: multiclass (B, N) int64, 0..C-1; else (B, C, N) of the logits' dtype, 0 or 1. Ignored pixels hold 0.
        valid: bool, of the labels' shape; False where the truth is `ignore`.
        class_weights: (C,) of the logits' dtype, (2,) in binary mode (background, foreground); None means all 1.
    """

    mode: Mode
    logits: Tensor
    labels: Tensor
    valid: Tensor
    class_weights: Tensor | None

    @cached_property
    def label_weights(self) -> Tensor:
        """Of the labels' shape: the class weight of every pixel's true class (multilabel: of its channel), 0 if ignored."""
        valid = self.valid.to(self.logits.dtype)
        if self.class_weights is None:
            return valid
        if self.mode == "multiclass":
            return self.class_weights[self.labels] * valid
        if self.mode == "binary":
            background, foreground = self.class_weights
            return torch.lerp(background, foreground, self.labels) * valid
        return self.class_weights[:, None] * valid

    @cached_property
    def channel_weights(self) -> Tensor:
        """(C,): the weight of every channel. A binary model has one channel, and one weight relative to nothing: 1."""
        if self.class_weights is None or self.mode == "binary":
            return self.logits.new_ones(self.logits.shape[1])
        return self.class_weights

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(B, C, N), multiclass: log softmax, for the few losses that need every class at every pixel."""
        return functional.log_softmax(self.logits, dim=1)

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, C, N): softmax over the channels or sigmoid of each; not masked."""
        return self.log_probabilities.exp() if self.mode == "multiclass" else self.logits.sigmoid()

    @cached_property
    def signed_logits(self) -> Tensor:
        """(B, C, N), binary and multilabel: the logit of the true answer, +z where the label is 1 and -z where it is 0."""
        return self.logits * (2 * self.labels - 1)

    @cached_property
    def true_log_probability(self) -> Tensor:
        """Of the labels' shape: log probability of the truth, 0 where ignored."""
        if self.mode == "multiclass":
            return self._softmax_sums[0]
        # Not logsigmoid: its CPU kernel is five times slower.
        return -functional.softplus(-self.signed_logits) * self.valid

    @cached_property
    def volume(self) -> Tensor:
        """(B, C): the probability mass of every channel over the valid pixels."""
        return self._softmax_sums[1] if self.mode == "multiclass" else (self.probabilities * self.valid).sum(2)

    @cached_property
    def _softmax_sums(self) -> tuple[Tensor, Tensor]:
        return SoftmaxSums.apply(self.logits, self.labels, self.valid)  # pyright: ignore[reportReturnType]


class SoftmaxSums(torch.autograd.Function):
    """(logits (B, C, N), labels (B, N), valid (B, N)) -> log probability of the label (B, N), probability mass (B, C).

    Written out by hand because softmax, cross entropy and the sums of the overlap losses otherwise hold five arrays of
    the logits' size between forward and backward; this holds one, and no one-hot map at any time.
    With p masked, t the gradient of the first output and v that of the second:
    d/dz_c = p_c * (v_c - sum_k v_k p_k - t) + t [c is the label].
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = functional.log_softmax(logits, dim=1)
        index = labels[:, None]
        truth = log_probabilities.gather(1, index)[:, 0] * valid
        masked = log_probabilities.exp_().mul_(valid[:, None])
        ctx.save_for_backward(masked, index, valid)
        ctx.set_materialize_grads(False)
        return truth, masked.sum(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        masked, index, valid = ctx.saved_tensors
        truth, volume = gradients
        shared = masked.new_zeros(1, 1, 1) if volume is None else torch.bmm(volume[:, None], masked)
        if truth is not None:
            truth = (truth * valid)[:, None]
            shared = shared + truth
        gradient = masked * -shared if volume is None else (volume[:, :, None] - shared).mul_(masked)
        if truth is not None:
            # Every pixel has one index, so set, not add: this is deterministic on a GPU too.
            gradient.scatter_(1, index, gradient.gather(1, index) + truth)
        return gradient, None, None


def prepare_pixels(
    logits: Tensor, target: Tensor, *, mode: Mode, ignore: int, class_weights: Tensor | None = None
) -> PixelBatch:
    """A batch for the losses from logits (B, C, H, W), any float dtype, and a target of the same size.

    Args:
        target: (B, H, W) integer for binary and multiclass, (B, C, H, W) integer for multilabel; `ignore` counts nowhere.

    Raises:
        UserError: the shapes of logits, target and class weights do not belong together in this mode.
    """
    _check(logits, target, mode, class_weights)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    valid = target != ignore
    if mode == "multiclass":
        labels = target.long() * valid
    else:
        labels = (target * valid).to(logits.dtype).reshape(logits.shape).flatten(2)
        valid = valid.reshape(logits.shape)
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    pixel_axes = 1 if mode == "multiclass" else 2
    return PixelBatch(mode, logits.flatten(2), labels.flatten(pixel_axes), valid.flatten(pixel_axes), class_weights)


def _check(logits: Tensor, target: Tensor, mode: Mode, class_weights: Tensor | None) -> None:
    batch, channels, *size = logits.shape
    if mode == "binary" and channels != 1:
        raise UserError(
            f"A binary loss needs logits of 1 channel, found {channels}; use mode 'multiclass' for a softmax of 2 classes."
        )
    expected = (batch, channels, *size) if mode == "multilabel" else (batch, *size)
    if tuple(target.shape) != expected:
        raise UserError(f"A {mode} loss needs a target of shape {expected}, found {tuple(target.shape)}.")
    weights = 2 if mode == "binary" else channels
    if class_weights is not None and tuple(class_weights.shape) != (weights,):
        raise UserError(f"A {mode} loss needs {weights} class weights, found {tuple(class_weights.shape)}.")


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(values * weights) / sum(weights), a scalar; 0 (with gradient 0) where the weights sum to 0."""
    return ratio((values * weights).sum(), weights.sum())


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and numerator alone where the denominator is 0."""
    return numerator / torch.where(denominator > 0, denominator, torch.ones_like(denominator))
