"""HRNetV2: four branches from stride 4 to stride 32 side by side, exchanging what they know after every module.

Wang et al. 2019, "Deep High-Resolution Representation Learning for Visual Recognition", arXiv:1908.07919. Array names are
those of the authors' files, which timm and mmsegmentation share.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.layers import initialise


@dataclass(frozen=True)
class HRNetLayout:
    """Width and depth.

    Attributes:
        width: channels of the branch at stride 4; every further branch has twice its neighbour's.
        modules: exchange modules of stages 2, 3 and 4, which have as many branches as their number says.
        blocks: residual blocks per branch and module.
        first_width: bottleneck channels of stage 1, which has one branch and gives four times as many.
        first_blocks: bottleneck blocks of stage 1.

    Raises:
        UserError: a number below 1.
    """

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    first_width: int = 64
    first_blocks: int = 4

    def __post_init__(self) -> None:
        if min(self.width, *self.modules, self.blocks, self.first_width, self.first_blocks) < 1:
            raise UserError(f"Every number of an HRNet layout is at least 1, found {self}.")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Of the four branches."""
        return self.width, self.width * 2, self.width * 4, self.width * 8


LAYOUTS: dict[str, HRNetLayout] = {
    "hrnetv2_w18_small_v1": HRNetLayout(16, (1, 1, 1), blocks=2, first_width=32, first_blocks=1),
    "hrnetv2_w18_small_v2": HRNetLayout(18, (1, 3, 2), blocks=2, first_blocks=2),
    "hrnetv2_w18": HRNetLayout(18),
    "hrnetv2_w32": HRNetLayout(32),
    "hrnetv2_w48": HRNetLayout(48),
}
"""The published ones (small: the authors' experiments/cityscapes/seg_hrnet_w18_small_*.yaml)."""

_STEM = 64
# Names behind the last map in the authors' classification and segmentation files.
_BEYOND = (
    "incre_modules.",
    "downsamp_modules.",
    "final_layer.",
    "classifier.",
    "last_layer.",
    "aux_head.",
    "cls_head.",
)
_BEYOND_OCR = ("conv3x3_ocr.", "ocr_distri_head.")


class BasicBlock(nn.Module):
    """(B, C, h, w) -> the same shape: two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + x, inplace=True)


class Bottleneck(nn.Module):
    """(B, inputs, h, w) -> (B, 4 * width, h, w): 1x1, 3x3 and 1x1 convolutions beside the identity or a 1x1 one."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        same = inputs == 4 * width
        self.downsample = nn.Identity() if same else _normed(inputs, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ExchangeModule(nn.Module):
    """Branches (B, channels[i], h/2**i, w/2**i) -> the same shapes: residual blocks, then each branch hears all others.

    Args:
        align_corners: how coarser branches are enlarged, bilinearly; see `models.hrnet.HRNet`.
    """

    def __init__(self, channels: Sequence[int], blocks: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(blocks))) for width in channels)
        # fuse_layers[i][j] brings branch j to the channels and, where it is the finer one, to the size of branch i.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        return [self._fused(branches, target, paths) for target, paths in enumerate(self.fuse_layers)]  # pyright: ignore[reportArgumentType]

    def _fused(self, branches: list[Tensor], target: int, paths: Iterable[nn.Module]) -> Tensor:
        size = branches[target].shape[-2:]
        total = branches[target]
        for source, path in enumerate(paths):
            if source != target:
                total = total + resize(path(branches[source]), size, align_corners=self.align_corners)
        return functional.relu(total)


class HighResolutionNet(Backbone):
    """Feature maps of `layout.channels` at strides 4, 8, 16 and 32, for images of any size (sides are rounded up).

    Args:
        align_corners: see `ExchangeModule`.
    """

    def __init__(self, in_channels: int, layout: HRNetLayout, *, align_corners: bool = False) -> None:
        super().__init__()
        self.channels, self.strides = layout.channels, (4, 8, 16, 32)
        self.conv1 = _convolution(in_channels, _STEM, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.conv2 = _convolution(_STEM, _STEM, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(_STEM)
        first = 4 * layout.first_width
        inputs = [_STEM, *[first] * (layout.first_blocks - 1)]
        self.layer1 = nn.Sequential(*(Bottleneck(width, layout.first_width) for width in inputs))
        stage = partial(_stage, self.channels, blocks=layout.blocks, align_corners=align_corners)
        self.transition1 = _transition([first], self.channels[:2])
        self.stage2 = stage(2, layout.modules[0])
        self.transition2 = _transition(self.channels[:2], self.channels[:3])
        self.stage3 = stage(3, layout.modules[1])
        self.transition3 = _transition(self.channels[:3], self.channels)
        self.stage4 = stage(4, layout.modules[2])
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> four maps, see the class."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.relu(self.bn2(self.conv2(x)), inplace=True)
        branches = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # The new, coarsest branch starts from the coarsest there is.
            sources = [*branches, branches[-1]]
            branches = [step(source) for step, source in zip(transition, sources, strict=True)]
            for module in stage:
                branches = module(branches)
        return branches

    def stages(self) -> Sequence[nn.Module]:
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, *self.layer1]
        exchange = [self.transition1, *self.stage2, self.transition2, *self.stage3, self.transition3, *self.stage4]
        return [*stem, *exchange]

    def published(self) -> Published:
        shapes = {key: item.shape for key, item in self.state_dict().items()}
        return Published({key: key for key in shapes}, shapes, (*_BEYOND, *_BEYOND_OCR), ("conv1.weight",))


def hrnetv2(
    in_channels: int,
    *,
    name: str,
    output_stride: int = 32,
    layout: HRNetLayout | None = None,
    align_corners: bool = False,
) -> HighResolutionNet:
    """The HRNetV2 `name` of `LAYOUTS`, or one of that `layout`. Raises UserError for an output stride other than 32."""
    if output_stride != 32:
        raise UserError(f"'{name}' keeps stride 4 beside 32 and is not dilated; its output stride is 32.")
    return HighResolutionNet(in_channels, layout or LAYOUTS[name], align_corners=align_corners)


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """`x` (B, C, h, w) -> (B, C, *size), bilinear; untouched where the size is right."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _stage(channels: Sequence[int], branches: int, modules: int, *, blocks: int, align_corners: bool) -> nn.Sequential:
    parts = (ExchangeModule(channels[:branches], blocks, align_corners=align_corners) for _ in range(modules))
    return nn.Sequential(*parts)


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """From the branches of one stage to those of the next, which has one more at half the resolution."""
    kept = [
        nn.Identity() if source == target else _unit(source, target)
        for source, target in zip(before, after, strict=False)
    ]
    return nn.ModuleList([*kept, nn.Sequential(_unit(before[-1], after[-1], stride=2))])


def _path(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """From branch `source` to the channels of branch `target`; downwards to its size as well."""
    if source == target:
        return nn.Identity()
    if source > target:
        return _normed(channels[source], channels[target], 1)
    halvings = [_unit(channels[source], channels[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, _normed(channels[source], channels[target], 3, stride=2))


def _unit(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_normed(inputs, outputs, 3, stride=stride), nn.ReLU(inplace=True))


def _normed(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, kernel, stride=stride), nn.BatchNorm2d(outputs))


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
