"""U-Net over a backbone: parity with segmentation_models_pytorch, resolutions, refusals."""

import json
import sys

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.state import load_strictly
from nuriwake.models.unet_backbone import FAST_DECODER, SMP_DECODER, UNetBackbone, smp_name


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def test_outputs_are_those_of_smps_unet_over_resnet34(parity, formula):
    reference = parity / "smp__unet_resnet34"
    model = UNetBackbone(3, 7, backbone="resnet34", decoder_channels=SMP_DECODER).eval()
    spec = json.loads(reference.with_suffix(".json").read_text())
    assert count_parameters(model) == spec["parameters"]
    arrays = formula.state_dict(reference.with_suffix(".json"))
    load_strictly(model, {smp_name(key): torch.from_numpy(item) for key, item in arrays.items()}, "the reference")
    image = spec["input"]
    with torch.no_grad():
        logits = model(torch.from_numpy(formula.normalised(image["image"], image["height"], image["width"]))).logits
    expected = np.load(reference.with_suffix(".npz"))["output"]
    assert np.abs(logits.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_outputs_are_those_of_smps_unet_over_mobilenet_v2():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet("mobilenet_v2", encoder_weights=None, classes=5).eval()
    ours = UNetBackbone(3, 5, backbone="mobilenet_v2_1280", decoder_channels=SMP_DECODER).eval()
    load_strictly(ours, {smp_name(key): item for key, item in theirs.state_dict().items()}, "smp's")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert torch.allclose(ours(images).logits, expected, atol=1e-4 * expected.abs().max().item())


def test_foreign_names_are_not_mapped():
    assert smp_name("inc.double_conv.0.weight") is None


@pytest.mark.parametrize(("decoder", "stride"), [(FAST_DECODER, 2), (SMP_DECODER, 1), ((8, 8), 8)])
def test_the_decoders_length_sets_the_resolution(decoder, stride):
    model = UNetBackbone(3, 4, backbone="mobilenet_v2", decoder_channels=decoder, sharpen=1).eval()
    images = torch.randn(1, 3, 32, 64)
    assert model(images).logits.shape == (1, 4, 32 // stride, 64 // stride)
    if stride <= 2:
        assert UNetBackbone(3, 4, backbone="mobilenet_v2", decoder_channels=decoder)(images).logits.shape[-2:] == (
            32,
            64,
        )


def test_many_classes_are_not_sharpened_and_one_channel_is_each_pixels_own():
    many = UNetBackbone(3, 33, backbone="mobilenet_v2").eval()
    assert many(torch.randn(1, 3, 32, 32)).logits.shape == (1, 33, 16, 16)
    model = UNetBackbone(3, 1, backbone="mobilenet_v2", sharpen=4).eval()
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.arange(16.0)
    logits = model(torch.randn(1, 3, 32, 32)).logits
    assert logits.shape == (1, 1, 64, 64)
    assert logits[0, 0, :4, :4].tolist() == torch.arange(16.0).view(4, 4).tolist()
    with pytest.raises(UserError, match="'sharpen'"):
        UNetBackbone(3, 1, backbone="mobilenet_v2", sharpen=0)


def test_backbones_that_begin_at_stride_4_leave_out_a_skip():
    model = build_model("unet_convnext_atto", in_channels=3, classes=2).eval()
    assert model.joins == (2, 1, 0, None)
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 2, 64, 64)


def test_what_cannot_be_a_unet_is_refused():
    with pytest.raises(UserError, match=r"halve in resolution.*\(16, 16, 16\)"):
        UNetBackbone(3, 2, backbone="vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"1 to 5 entries.*found 6"):
        UNetBackbone(3, 2, backbone="mobilenet_v2", decoder_channels=(8,) * 6)
    with pytest.raises(UserError, match=r"48x64 pixels.*pad them to 64x64"):
        UNetBackbone(3, 2, backbone="mobilenet_v2")(torch.zeros(1, 3, 48, 64))


def test_notes_say_which_weights_were_used(tmp_path):
    donor = UNetBackbone(3, 2, backbone="mobilenet_v2")
    torch.save(donor.encoder.state_dict(), tmp_path / "donor.pth")
    model = UNetBackbone(3, 2, backbone="mobilenet_v2", backbone_weights=tmp_path / "donor.pth")
    assert len(model.notes) == 1
    assert model.notes[0].startswith("donor.pth: 306 arrays")
    assert torch.equal(model.encoder.features[0][0].weight, donor.encoder.features[0][0].weight)
