"""ResNet: torchvision's outputs at every output stride, the styles, foreign names."""

import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import BACKBONES, build_backbone
from nuriwake.models.backbones.resnet import ResNet, Style, deep_stem_name, detectron2_name

torchvision = pytest.importorskip("torchvision")


def dilations(backbone: ResNet, stage: str) -> list[int]:
    return [part.dilation[0] for part in getattr(backbone, stage).modules() if is_spatial(part)]


def is_spatial(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet18", 32), ("resnet50", 32), ("resnet50", 8), ("resnext50_32x4d", 8)],
)
def test_maps_are_torchvisions(tmp_path, name, output_stride):
    torch.manual_seed(0)
    instead = [False, output_stride == 8, output_stride <= 16]
    options = {} if output_stride == 32 else {"replace_stride_with_dilation": instead}
    theirs = torchvision.models.get_model(name, weights=None, **options).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    ours = build_backbone(name, in_channels=3, weights=tmp_path / "file.pth", output_stride=output_stride).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
        maps = ours(images)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (channels, 64 // stride, 96 // stride) for channels, stride in zip(ours.channels, ours.strides, strict=True)
    ]
    assert torch.allclose(maps[-1], expected, atol=1e-4 * expected.abs().max().item())
    assert "left out (behind the last feature map): fc" in ours.notes[0]


def test_where_the_styles_begin_to_dilate():
    with torch.device("meta"):
        for style, first, last in (
            ("torchvision", 1, 2),
            ("v1c", 1, 2),
            ("smp", 2, 4),
            ("semseg", 2, 4),
            ("caffe", 1, 2),
        ):
            backbone = ResNet(3, output_stride=8, style=style)
            assert dilations(backbone, "layer3") == [first, 2, 2, 2, 2, 2]
            assert dilations(backbone, "layer4") == [last, 4, 4]
            assert backbone.strides == (2, 4, 8, 8, 8)
        assert dilations(ResNet(3, output_stride=16), "layer4") == [1, 2, 2]
        assert dilations(ResNet(3, output_stride=16, depth=18, style="v1c"), "layer4") == [1, 1, 2, 1]
        assert dilations(ResNet(3, output_stride=16, depth=18, style="smp"), "layer4") == [2, 2, 2, 2]
        grid = ResNet(3, output_stride=16, style=Style(last_dilations=(2, 4, 8)))
        assert dilations(grid, "layer4") == [2, 4, 8]


def test_the_stride_of_caffes_bottleneck_is_in_its_first_convolution():
    with torch.device("meta"):
        block = ResNet(3, style="caffe").layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
        block = ResNet(3).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("reference", "name", "prefix", "rename"),
    [
        ("mmseg__pspnet_r50-d8", "resnet50_v1c", "backbone.", str),
        ("semseg__pspnet50", "resnet50_semseg", "", deep_stem_name),
        ("detectron2__semantic_R_50_FPN_1x", "resnet50_caffe", "backbone.bottom_up.", detectron2_name),
        ("smp__fpn_resnet50", "resnet50_smp", "encoder.", str),
    ],
)
def test_published_names_and_shapes_of_the_styles(parity, reference, name, prefix, rename):
    import json

    keys = json.loads((parity / f"{reference}.json").read_text())["keys"]
    found = {rename(key.removeprefix(prefix)): tuple(shape) for key, shape in keys.items() if key.startswith(prefix)}
    with torch.device("meta"):
        own = {key: tuple(item.shape) for key, item in build_backbone(name, in_channels=3).state_dict().items()}
    own = {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    assert {key: found.get(key) for key in own} == own


def test_files_of_others_fill_it(tmp_path):
    donor = build_backbone("resnet50_semseg", in_channels=3)
    names = {"stem.0": "conv1", "stem.1": "bn1", "stem.3": "conv2", "stem.4": "bn2", "stem.6": "conv3", "stem.7": "bn3"}
    state = dict(donor.state_dict())
    for own, theirs in names.items():
        state = {
            key.replace(f"{own}.", f"{theirs}.") if key.startswith(own) else key: item for key, item in state.items()
        }
    torch.save(state, tmp_path / "semseg.pth")
    ours = build_backbone("resnet50_semseg", in_channels=4, weights=tmp_path / "semseg.pth")
    assert torch.equal(ours.stem[3].weight, donor.stem[3].weight)
    assert ours.stem[0].weight.shape == (64, 4, 3, 3)
    with pytest.raises(UserError, match="output stride of resnet50 is 8, 16 or 32, found 4"):
        ResNet(3, output_stride=4)


def test_parameters_are_the_published():
    counts = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160}
    counts |= {"resnet152": 60_192_808, "resnext50_32x4d": 25_028_904, "resnext101_32x8d": 88_791_336}
    for name, count in counts.items():
        with torch.device("meta"):
            backbone = build_backbone(name, in_channels=3)
        found = sum(parameter.numel() for parameter in backbone.parameters())
        assert found == count - 1000 * (backbone.channels[-1] + 1), name
    assert all(BACKBONES[name].published for name in counts)


def test_what_lies_behind_the_wanted_maps_can_be_cut():
    backbone = build_backbone("resnet18", in_channels=3).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(images)[:3]
        backbone.cut(3)
        maps = backbone(images)
    assert (backbone.channels, backbone.strides) == ((64, 64, 128), (2, 4, 8))
    assert len(maps) == 3
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
    assert not any(key.startswith(("layer3", "layer4")) for key in backbone.state_dict())
