"""MobileNetV3-Large: torchvision's outputs, plain and dilated; both choices of maps; cutting."""

import pytest
import torch
from torch import nn

from nuriwake.models.backbones import build_backbone
from nuriwake.models.backbones.mobilenet_v3 import TAPS

torchvision = pytest.importorskip("torchvision")


@pytest.mark.parametrize(("name", "taps"), [("mobilenet_v3_large", "last"), ("mobilenet_v3_large_first", "first")])
def test_maps_are_torchvisions(tmp_path, name, taps):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_large(weights=None).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):  # fresh statistics would hide a mistake in them
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    ours = build_backbone(name, in_channels=3, weights=tmp_path / "file.pth").eval()
    x = images = torch.randn(1, 3, 64, 96)
    expected = []
    with torch.no_grad():
        for index, block in enumerate(theirs.features):
            x = block(x)
            if index in TAPS[taps]:
                expected.append(x)
        maps = ours(images)
    assert [tuple(each.shape) for each in maps] == [
        (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(ours.channels, ours.strides, strict=True)
    ]
    for found, wanted in zip(maps, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4 * wanted.abs().max().item())


def test_dilation_replaces_strides_and_cutting_keeps_the_first_maps():
    backbone = build_backbone("mobilenet_v3_large", in_channels=1, output_stride=8).eval()
    assert backbone.strides == (2, 4, 8, 8, 8)
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        whole = backbone(images)
        assert [len(each[0, 0]) for each in whole] == [32, 16, 8, 8, 8]
        backbone.cut(2)
        maps = backbone(images)
    assert (len(maps), len(backbone.features), backbone.channels) == (2, 4, (16, 24))
    assert torch.equal(maps[1], whole[1])
