"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), array names as in torchvision, so that its files load as they are."""

from collections.abc import Sequence

from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published

# Table 2 of the paper: expansion, output channels, repeats, stride of the first.
SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# The last block at strides 2, 4, 8, 16, 32.
ENDS = (1, 3, 6, 13, 17)


def mobilenet_v2(in_channels: int, *, output_stride: int = 32) -> "MobileNetV2":
    """Deepest map of 320 channels: the final 1x1 convolution, made for classification, is left out."""
    return MobileNetV2(in_channels, output_stride=output_stride)


def mobilenet_v2_1280(in_channels: int, *, output_stride: int = 32) -> "MobileNetV2":
    """Deepest map of 1280 channels, as segmentation_models_pytorch takes it."""
    return MobileNetV2(in_channels, output_stride=output_stride, last=True)


def _unit(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """(B, inputs, h, w) -> (B, outputs, h/stride, w/stride): widen by 1x1, filter by 3x3 per channel, narrow by 1x1."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int, dilation: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [_unit(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _unit(hidden, hidden, 3, stride=stride, groups=hidden, dilation=dilation),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Backbone):
    """Feature maps of 16, 24, 32, 96 and 320 channels at strides 2, 4, 8, 16 and 32.

    Args:
        output_stride: 32, 16 or 8; below 32 the later strides become dilation (of every 3x3 convolution of the stage,
            its first included, as in torchvision's and smp's dilated backbones).
        last: with the final 1x1 convolution: 1280 instead of 320 channels.

    Raises:
        UserError: another output stride.
    """

    def __init__(self, in_channels: int, *, output_stride: int = 32, last: bool = False) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"The output stride of mobilenet_v2 is 8, 16 or 32, found {output_stride}.")
        blocks: list[nn.Module] = [_unit(in_channels, 32, 3, stride=2)]
        width, total, dilation = 32, 2, 1
        for expansion, channels, repeats, stride in SETTINGS:
            if stride == 2 and total == output_stride:
                stride, dilation = 1, dilation * 2
            total *= stride
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(width, channels, stride=step, expansion=expansion, dilation=dilation))
                width = channels
        if last:
            blocks.append(_unit(width, 1280, 1))
        self.features = nn.Sequential(*blocks)
        self.channels = (16, 24, 32, 96, 1280 if last else 320)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        self._ends = (*ENDS[:-1], len(blocks) - 1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> five maps, see the class."""
        maps: list[Tensor] = []
        x = images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self._ends:
                maps.append(x)
        return maps

    def cut(self, maps: int) -> None:
        self._ends = self._ends[:maps]
        self.features = self.features[: self._ends[-1] + 1]
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def early(self) -> Sequence[nn.Module]:
        return list(self.features[: ENDS[1] + 1])

    def stages(self) -> Sequence[nn.Module]:
        return list(self.features)

    def published(self) -> Published:
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        beyond = ("classifier.",) if len(self.features) == 19 else ("classifier.", "features.18.")
        return Published({key: key for key in shapes}, shapes, beyond, ("features.0.0.weight",))
