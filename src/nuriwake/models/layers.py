"""What several architectures share: how fresh weights are drawn, and the auxiliary head."""

import torch
from torch import Tensor, nn


def initialise(module: nn.Module) -> None:
    """Draw fresh weights for every convolution and batch norm inside `module`, in place, from PyTorch's global generator.

    Convolutions: normal of variance 2 / fan-in (He et al. 2015, arXiv:1502.01852; the U-Net paper's section 3), bias 0.
    Batch norm: weight 1, bias 0.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.ConvTranspose2d):
            # Stride equals kernel here: each output pixel hears one kernel position of every input channel.
            nn.init.normal_(part.weight, std=(2.0 / part.in_channels) ** 0.5)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def initialise_head(convolution: nn.Conv2d) -> None:
    """Xavier weights and zero bias, so that the first logits of every class are small and alike."""
    nn.init.xavier_uniform_(convolution.weight)
    if convolution.bias is not None:
        torch.nn.init.zeros_(convolution.bias)


class AuxiliaryHead(nn.Module):
    """x (B, inputs, h, w) -> logits (B, classes, h, w): a 3x3 convolution of `channels` and the classification."""

    def __init__(self, inputs: int, classes: int, channels: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.unit = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv2d(channels, classes, 1)
        initialise(self.unit)
        initialise_head(self.classify)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.dropout(self.unit(x)))
