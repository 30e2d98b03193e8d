"""MobileNetV3-Large (Howard et al. 2019, arXiv:1905.02244), array names as in torchvision, so that its files load as they
are."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published


class Row(NamedTuple):
    """One line of the paper's table 1."""

    kernel: int
    hidden: int
    outputs: int
    excite: bool
    hard: bool
    stride: int


ROWS = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)

Taps = Literal["last", "first"]
# The block whose output is the map of strides 2, 4, 8, 16 and 32.
TAPS: dict[Taps, tuple[int, ...]] = {"last": (1, 3, 6, 12, 16), "first": (0, 2, 4, 7, 16)}


def _unit(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and batch norm with the paper's constants."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=1e-2),
    )


def _active(unit: nn.Sequential, *, hard: bool) -> nn.Sequential:
    return unit.append(nn.Hardswish(inplace=True) if hard else nn.ReLU(inplace=True))


class Excitation(nn.Module):
    """x (B, C, h, w) times a factor per channel from the channels' means (squeeze and excite, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _by_eight(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * functional.hardsigmoid(factor)


class InvertedResidual(nn.Module):
    """(B, inputs, h, w) -> (B, row.outputs, h/stride, w/stride): widen, filter per channel, excite, narrow."""

    def __init__(self, inputs: int, row: Row, *, stride: int, dilation: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        if row.hidden != inputs:
            parts.append(_active(_unit(inputs, row.hidden, 1), hard=row.hard))
        spatial = _unit(row.hidden, row.hidden, row.kernel, stride=stride, dilation=dilation, groups=row.hidden)
        parts.append(_active(spatial, hard=row.hard))
        if row.excite:
            parts.append(Excitation(row.hidden))
        self.block = nn.Sequential(*parts, _unit(row.hidden, row.outputs, 1))
        # torchvision asks the row's own stride: where dilation replaces a stride there is no short cut.
        self.residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3Large(Backbone):
    """Feature maps of 16, 24, 40, 112 (taps "first": 80) and 960 channels at strides 2, 4, 8, 16 and 32.

    Args:
        output_stride: 32, 16 or 8; below 32 the later strides become dilation, of every filter of the stage.
        taps: a map is the output of the last block of its resolution, which has seen most, or of the first, as
            torchvision's segmentation models take it.

    Raises:
        UserError: another output stride.
    """

    def __init__(self, in_channels: int, *, output_stride: int = 32, taps: Taps = "last") -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"The output stride of mobilenet_v3_large is 8, 16 or 32, found {output_stride}.")
        blocks: list[nn.Module] = [_active(_unit(in_channels, 16, 3, stride=2), hard=True)]
        width, total, dilation = 16, 2, 1
        for row in ROWS:
            stride = row.stride
            if stride == 2 and total == output_stride:
                stride, dilation = 1, dilation * 2
            total *= stride
            blocks.append(InvertedResidual(width, row, stride=stride, dilation=dilation))
            width = row.outputs
        blocks.append(_active(_unit(width, 6 * width, 1), hard=True))
        self.features = nn.Sequential(*blocks)
        self._taps = TAPS[taps]
        self.channels = (*(16 if tap == 0 else ROWS[tap - 1].outputs for tap in self._taps[:-1]), 6 * width)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> five maps, see the class."""
        maps: list[Tensor] = []
        x = images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self._taps:
                maps.append(x)
        return maps

    def cut(self, maps: int) -> None:
        self._taps = self._taps[:maps]
        self.features = self.features[: self._taps[-1] + 1]
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def stages(self) -> Sequence[nn.Module]:
        return list(self.features)

    def published(self) -> Published:
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        cut = (f"features.{index}." for index in range(len(self.features), 17))
        return Published({key: key for key in shapes}, shapes, ("classifier.", *cut), ("features.0.0.weight",))


def _by_eight(value: float) -> int:
    """The multiple of 8 nearest to `value`, and not below nine tenths of it."""
    near = max(8, int(value + 4) // 8 * 8)
    return near + 8 if near < 0.9 * value else near
