"""The Lovász extension of the Jaccard loss."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuriwake.losses.pixels import PixelBatch, weighted_mean


@dataclass(frozen=True)
class Lovasz:
    """Lovász hinge (binary, and multilabel class by class) or Lovász softmax (multiclass); Berman 2018, eq. 9 to 12.

    Averaged over the classes, or the (image, class) pairs, that count, weighted by the class weights.

    Args:
        reduction: "batch" ranks the pixels of the batch together, "image" those of each image.
        absent: classes without a true pixel: "skip" leaves them out, "count" punishes their worst false positive;
            None does what the paper does: skip in multiclass mode, count otherwise.
    """

    reduction: Literal["batch", "image"] = "batch"
    absent: Literal["skip", "count"] | None = None

    def __call__(self, pixels: PixelBatch) -> Tensor:
        multiclass = pixels.mode == "multiclass"
        scores = (pixels.probabilities if multiclass else pixels.logits).unbind(1)
        losses: list[Tensor] = []
        counted: list[Tensor] = []
        # One class at a time: sorting all at once would hold 12 bytes per pixel and class, for classes mostly absent.
        for channel, score in enumerate(scores):
            valid = pixels.valid if multiclass else pixels.valid[:, channel]
            truth = (pixels.labels == channel) & valid if multiclass else pixels.labels[:, channel] > 0
            if self.reduction == "batch":
                score, truth, valid = score.reshape(1, -1), truth.reshape(1, -1), valid.reshape(1, -1)
            errors = torch.where(truth, 1 - score, score if multiclass else 1 + score)
            counts = truth.any(1) if self._skip(multiclass) else valid.any(1)
            counted.append(counts)
            if bool(counts.any()):
                losses.append(lovasz_extension(errors, truth, valid))
            else:
                losses.append(score.new_zeros(score.shape[0]))
        weights = torch.stack(counted, 1) * pixels.channel_weights
        loss = weighted_mean(torch.stack(losses, 1), weights)
        # Keeps a (zero) gradient when no class counts.
        return loss + 0 * pixels.logits.flatten()[0]

    def _skip(self, multiclass: bool) -> bool:
        return self.absent == "skip" or (self.absent is None and multiclass)


def lovasz_extension(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """(G,): the Lovász extension of the Jaccard loss at the positive parts of `errors`, for each of G groups of pixels.

    Args:
        errors: (G, N), float; errors below 0 cost nothing.
        truth: (G, N) bool, False where not valid.
        valid: (G, N) bool.
    """
    costs = functional.relu(errors) * valid
    return (costs * _slopes(costs.detach(), truth)).sum(1)


@torch.no_grad()
def _slopes(costs: Tensor, truth: Tensor) -> Tensor:
    """(G, N): the gradient of the extension at `costs`, 0 or more (Berman 2018, algorithm 1).

    With I and U the intersection and union after the k worst pixels became wrong, the Jaccard loss 1 - I / U grows by 1 / U at a
    true pixel and by I / (U (U - 1)) at a false one. This form, unlike a difference of neighbours, keeps its digits in float32.
    """
    # The bits of floats above 0 are ordered as they are, and integers sort twice as fast. `+ 0.0` turns -0.0 to 0.0.
    bits = (costs + 0.0).view(torch.int64 if costs.dtype == torch.float64 else torch.int32)
    bits = bits.neg()
    order = (
        bits.argsort(1) if len(bits) > 1 else bits[0].argsort()[None]
    )  # only one-dimensional integers get the radix sort
    wrong_truth = truth.gather(1, order)
    lost = wrong_truth.cumsum(1, dtype=torch.int32)
    total = lost[:, -1:]
    rank = torch.arange(1, costs.shape[1] + 1, device=costs.device, dtype=torch.int32)
    intersection = (total - lost).to(costs.dtype)
    union = (total + rank - lost).to(costs.dtype)
    false_step = intersection / union / (union - 1).clamp_min(1)
    steps = torch.where(wrong_truth, 1 / union, false_step)
    # Without a true pixel the loss jumps to 1 at the first false one.
    steps[:, :1] += total == 0
    return torch.empty_like(steps).scatter_(1, order, steps)
