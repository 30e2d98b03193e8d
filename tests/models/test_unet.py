"""The padded U-Net: published counts, sizes, options. Published outputs are in tests/weights/test_checkpoint.py."""

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import count_parameters
from nuriwake.models.unet import UNet, pad_to, textbook_name

VARIANTS = {
    "textbook__unet": ({}, 31_043_586),
    "milesial__unet": ({"bias": False}, 31_037_698),
    "milesial__unet_bilinear": ({"bias": False, "upsampling": "bilinear"}, 17_263_042),
}


@pytest.mark.parametrize("reference", VARIANTS)
def test_parameters_are_those_published(reference):
    options, expected = VARIANTS[reference]
    with torch.device("meta"):
        assert count_parameters(UNet(3, 2, **options)) == expected


def test_foreign_names_are_not_mapped():
    assert textbook_name("encoder.conv1.weight") is None
    assert textbook_name("down12.maxpool_conv.1.double_conv.3.bias") == "encoder.12.second.bias"


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "convolution"])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (45, 64)])
def test_any_size_comes_out_as_it_went_in(size, upsampling):
    model = UNet(2, 3, width=2, upsampling=upsampling).eval()
    assert model.fit_size(*size) == size
    assert model(torch.randn(1, 2, *size)).logits.shape == (1, 3, *size)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_and_width_scale_the_network(depth):
    model = UNet(1, 1, width=3, depth=depth).eval()
    assert model.encoder[-1].second.out_channels == 3 * 2**depth
    assert model.fit_size(1, 1) == (2**depth, 2**depth)
    assert model(torch.randn(1, 1, 2**depth, 2**depth + 1)).logits.shape == (1, 1, 2**depth, 2**depth + 1)


def test_too_small_an_image_is_refused_with_the_next_size():
    with pytest.raises(UserError, match=r"10x40 pixels.*pad them to 16x40"):
        UNet(3, 2, width=2)(torch.zeros(1, 3, 10, 40))


def test_odd_pixels_are_padded_at_the_bottom_and_right():
    padded = pad_to(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 3, 5))
    expected = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(padded[0, 0], expected.float())


def test_dropout_is_active_only_while_training():
    model, images = UNet(1, 1, width=2, dropout=0.5), torch.randn(2, 1, 32, 32)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)
