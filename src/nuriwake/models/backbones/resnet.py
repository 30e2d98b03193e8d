"""ResNet and ResNeXt (He et al. 2016, arXiv:1512.03385; Xie et al. 2017, arXiv:1611.05431), in the styles of those who
published weights for it. Array names are torchvision's, so that its files load as they are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published

# Table 1 of the paper: blocks per stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class Style:
    """In what published ResNets of one depth differ.

    Args:
        stem: channels of the first convolutions: one of 7x7, or three of 3x3.
        stride_in_first: the stride of a bottleneck lies in its first 1x1 convolution (the paper, Caffe, Detectron2) and
            not in its 3x3 (torchvision).
        contracted: the first block of a dilated stage keeps the dilation of the stage before it (torchvision, timm,
            mmsegmentation's `contract_dilation`); otherwise it dilates like its stage (segmentation_models_pytorch,
            semseg).
        second_dilated: the second 3x3 convolution of a basic block dilates too; in mmsegmentation it does not.
        last_dilations: of each block of the last stage, instead of what the output stride gives ("multi-grid").
    """

    stem: tuple[int, ...] = (64,)
    stride_in_first: bool = False
    contracted: bool = True
    second_dilated: bool = True
    last_dilations: tuple[int, ...] | None = None


STYLES = {
    "torchvision": Style(),
    "smp": Style(contracted=False),
    "v1b": Style(second_dilated=False),
    "v1c": Style(stem=(32, 32, 64), second_dilated=False),
    "semseg": Style(stem=(64, 64, 128), contracted=False),
    "caffe": Style(stride_in_first=True),
}


@dataclass(frozen=True)
class _Step:
    """The place of one block: its channels, its stride and the dilation of its first and second 3x3 convolution."""

    inputs: int
    planes: int
    stride: int
    dilations: tuple[int, int]


class BasicBlock(nn.Module):
    """(B, inputs, h, w) -> (B, planes, h/stride, w/stride): two 3x3 convolutions and the short cut."""

    expansion = 1

    def __init__(self, step: _Step) -> None:
        super().__init__()
        self.conv1 = _convolution(step.inputs, step.planes, 3, stride=step.stride, dilation=step.dilations[0])
        self.bn1 = nn.BatchNorm2d(step.planes)
        self.conv2 = _convolution(step.planes, step.planes, 3, dilation=step.dilations[1])
        self.bn2 = nn.BatchNorm2d(step.planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _short_cut(step, step.planes)

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + kept)


class Bottleneck(nn.Module):
    """(B, inputs, h, w) -> (B, 4 planes, h/stride, w/stride): narrow by 1x1, filter by 3x3, widen by 1x1, and the short cut.

    Args:
        groups, group_width: of the 3x3 convolution: 1 and 64 for ResNet, 32 and 4 for ResNeXt 32x4d.
    """

    expansion = 4

    def __init__(self, step: _Step, *, groups: int, group_width: int, stride_in_first: bool) -> None:
        super().__init__()
        width, outputs = step.planes * group_width // 64 * groups, step.planes * self.expansion
        first, second = (step.stride, 1) if stride_in_first else (1, step.stride)
        self.conv1 = _convolution(step.inputs, width, 1, stride=first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride=second, dilation=step.dilations[0], groups=groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _short_cut(step, outputs)

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + kept)


class ResNet(Backbone):
    """Feature maps at strides 2, 4, 8, 16 and 32: the stem's, before its pooling, and one per stage.

    Channels: the stem's, then 64, 128, 256, 512 (depths 18 and 34) or four times these.

    Args:
        output_stride: 32, 16 or 8; below 32 the later strides become dilation.
        depth: a key of `DEPTHS`.
        style: a key of `STYLES`, or a `Style`.
        groups, group_width: 32 and 4 for ResNeXt 32x4d; depths 18 and 34 have no groups.

    Raises:
        UserError: another output stride.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        output_stride: int = 32,
        depth: int = 50,
        style: str | Style = "torchvision",
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"The output stride of resnet{depth} is 8, 16 or 32, found {output_stride}.")
        style = style if isinstance(style, Style) else STYLES[style]
        blocks = _plan(DEPTHS[depth], style, expansion=1 if depth < 50 else 4, output_stride=output_stride)
        self.deep = len(style.stem) == 3
        if self.deep:
            self.stem = _deep_stem(in_channels, style.stem)
        else:
            self.conv1 = nn.Conv2d(in_channels, style.stem[0], 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(style.stem[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        def stage(steps: Sequence[_Step]) -> nn.Sequential:
            if depth < 50:
                return nn.Sequential(*(BasicBlock(step) for step in steps))
            first = style.stride_in_first
            return nn.Sequential(
                *(Bottleneck(step, groups=groups, group_width=group_width, stride_in_first=first) for step in steps)
            )

        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(steps) for steps in blocks)
        planes = tuple(steps[0].planes * (1 if depth < 50 else 4) for steps in blocks)
        self.channels = (style.stem[-1], *planes)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> five maps, see the class."""
        x = self.stem(images) if self.deep else self.relu(self.bn1(self.conv1(images)))
        maps = [x]
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[: len(self.channels) - 1]:
            x = stage(x)
            maps.append(x)
        return maps

    def cut(self, maps: int) -> None:
        for index in range(maps, len(self.channels)):
            self.set_submodule(f"layer{index}", nn.Sequential())
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def early(self) -> Sequence[nn.Module]:
        stem = [self.stem] if self.deep else [self.conv1, self.bn1]
        return [*stem, *self.layer1]

    def stages(self) -> Sequence[nn.Module]:
        stem = [self.stem] if self.deep else [self.conv1, self.bn1]
        return [*stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def published(self) -> Published:
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        first = "stem.0.weight" if self.deep else "conv1.weight"
        cut = (f"layer{index}." for index in range(len(self.channels), 5))
        return Published({key: key for key in shapes}, shapes, ("fc.", *cut), (first,))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state` under our names: Detectron2's and semseg's differ from torchvision's."""
        if any(re.match(r"res2\.", key) for key in state):
            return {detectron2_name(key): item for key, item in state.items()}
        if self.deep:
            return {deep_stem_name(key): item for key, item in state.items()}
        return state


def detectron2_name(key: str) -> str:
    """The name in a `ResNet` of the array `key` of a Detectron2 ResNet (`stem.conv1.norm.weight`, `res2.0.shortcut.weight`);
    other names come back as they are."""
    key = re.sub(r"^stem\.conv1\.norm\.", "bn1.", key)
    key = re.sub(r"^stem\.conv1\.", "conv1.", key)
    key = re.sub(r"^res([2-5])\.", lambda found: f"layer{int(found[1]) - 1}.", key)
    key = re.sub(r"\.shortcut\.norm\.", ".downsample.1.", key)
    key = re.sub(r"\.shortcut\.", ".downsample.0.", key)
    return re.sub(r"\.conv([1-3])\.norm\.", r".bn\1.", key)


def deep_stem_name(key: str) -> str:
    """The name in a `ResNet` of a deep stem's array as semseg has it: `conv1` to `conv3`, `bn1` to `bn3`, and `layer0.3` in
    its segmentation models; other names, mmsegmentation's among them, come back as they are."""
    key = re.sub(r"^conv([123])\.", lambda found: f"stem.{3 * int(found[1]) - 3}.", key)
    key = re.sub(r"^bn([123])\.", lambda found: f"stem.{3 * int(found[1]) - 2}.", key)
    return re.sub(r"^layer0\.", "stem.", key)


def _plan(depths: Sequence[int], style: Style, *, expansion: int, output_stride: int) -> list[list[_Step]]:
    """Where every block of the four stages stands."""
    stages: list[list[_Step]] = []
    inputs, total, dilation = style.stem[-1], 4, 1
    for index, count in enumerate(depths):
        planes, stride, before = 64 << index, 1 if index == 0 else 2, dilation
        if stride == 2 and total == output_stride:
            stride, dilation = 1, dilation * 2
        total *= stride
        dilations = [(before if style.contracted else dilation, dilation), *[(dilation, dilation)] * (count - 1)]
        if index == 3 and style.last_dilations is not None:
            dilations = [(each, each) for each in style.last_dilations]
        stages.append([])
        for position, pair in enumerate(dilations):
            pair = pair if style.second_dilated else (pair[0], 1)
            stages[-1].append(_Step(inputs, planes, stride if position == 0 else 1, pair))
            inputs = planes * expansion
    return stages


def _deep_stem(in_channels: int, channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip((in_channels, *channels), channels, strict=False)):
        layers += [
            _convolution(inputs, outputs, 3, stride=2 if index == 0 else 1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False)


def _short_cut(step: _Step, outputs: int) -> nn.Sequential | None:
    """None where the block leaves channels and resolution as they are."""
    if step.stride == 1 and step.inputs == outputs:
        return None
    return nn.Sequential(_convolution(step.inputs, outputs, 1, stride=step.stride), nn.BatchNorm2d(outputs))
