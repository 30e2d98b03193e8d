"""Step: model and loss as one module, which is what torch.compile and DistributedDataParallel wrap."""

from typing import Any

from torch import Tensor, nn

from nuriwake.models.base import Model


class Step(nn.Module):
    """(images float32 (B, C, H, W), truth) -> the named terms of the loss, which sum to it.

    It has nothing of its own to learn: the optimiser, the average and the checkpoints know the model alone.
    """

    def __init__(self, model: Model, criterion: nn.Module) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, images: Tensor, truth: Any) -> dict[str, Tensor]:
        return self.criterion(self.model.forward_training(images, truth), truth)
