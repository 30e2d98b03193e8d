"""Files of segmentation_models_pytorch: encoders, fields of config.json, what is assumed without one; outputs against smp's own."""

import json

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.published import smp as published

SIZE = 64


def build(kind, encoder, **options):
    """smp's model with statistics that a fresh one would not show."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **options).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return model


def write(folder, model, *, config=True):
    """As `save_pretrained` does, without its page; a plain file of the state dict without `config`."""
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if config:
        (folder / "config.json").write_text(json.dumps(model.config))
    return folder if config else folder / "pytorch_model.bin"


def off(theirs, imported):
    """The largest difference between the answers, in units of the largest value."""
    images = torch.randn(1, imported.bundle.model.in_channels, SIZE, SIZE)
    with torch.no_grad():
        expected = theirs(images)
        found = imported.model(images).logits
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("kind", "encoder", "options", "name"),
    [
        ("Unet", "tu-resnet18", {"in_channels": 4}, "unet_resnet18.a1_in1k"),
        ("FPN", "tu-resnet18", {}, "semantic_fpn_resnet18.a1_in1k"),
        ("PSPNet", "tu-resnet18", {}, "pspnet_resnet18.a1_in1k"),
        ("DeepLabV3", "tu-resnet18", {}, "deeplabv3_resnet18.a1_in1k"),
        ("DeepLabV3Plus", "tu-resnet18", {}, "deeplabv3plus_resnet18.a1_in1k"),
        ("Unet", "tu-vgg11_bn", {"decoder_channels": (32, 16, 16, 8, 8)}, "unet_vgg11_bn"),
        ("Unet", "tu-cspdarknet53", {"decoder_channels": (32, 16, 16, 8, 8)}, "unet_cspdarknet53"),
        ("Unet", "timm-mobilenetv3_small_075", {}, "unet_tf_mobilenetv3_small_075"),
        ("Unet", "mit_b0", {"in_channels": 4}, "unet_mit_b0"),
        ("FPN", "mit_b0", {}, "semantic_fpn_mit_b0"),
        ("PSPNet", "mit_b0", {}, "pspnet_mit_b0"),
        ("PSPNet", "mit_b0", {"encoder_depth": 5, "upsampling": 32}, "pspnet_mit_b0"),
        ("Segformer", "mit_b0", {"upsampling": 1, "aux_params": {"classes": 3}}, "segformer_b0"),
        ("Segformer", "tu-convnext_atto", {"decoder_segmentation_channels": 32}, "segformer_convnext_atto"),
        ("FPN", "resnet18", {"aux_params": {"classes": 3}}, "semantic_fpn_resnet18"),
        ("PSPNet", "resnet18", {"aux_params": {"classes": 3}}, "pspnet_resnet18"),
    ],
)
def test_answers_are_smps(tmp_path, kind, encoder, options, name):
    theirs = build(kind, encoder, **options)
    imported = read_checkpoint(write(tmp_path, theirs))
    assert imported.bundle.model.name == name
    assert off(theirs, imported) <= 1e-4
    unused = [key for key in imported.report.left_out if key.startswith("classification_head.")]
    assert bool(unused) == ("aux_params" in options)
    assert ("NVIDIA" in imported.bundle.licence) == name.startswith("segformer_b")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("Unet", {"output_stride": 16}, "output_stride=16"),
        ("Unet", {"decoder_use_norm": {"type": "batchnorm", "eps": 0.1}}, r"decoder_use_norm=\{.*0\.1"),
        ("Unet", {"decoder_use_norm": {"type": "instancenorm", "affine": True}}, "decoder_use_norm=.*instancenorm"),
        ("Unet", {"decoder_interpolation": "bilinear"}, "decoder_interpolation='bilinear'"),
        ("FPN", {"output_stride": 16}, "output_stride=16"),
        ("PSPNet", {"decoder_use_norm": False}, "decoder_use_norm=False"),
        ("Segformer", {}, "joins 5 maps of its encoder 'resnet18', among them one at stride 2"),
    ],
)
def test_fields_that_build_another_network_are_refused_by_name(tmp_path, kind, options, named):
    with pytest.raises(UserError, match=named):
        read_checkpoint(write(tmp_path, build(kind, "resnet18", **options)))


def test_encoders_that_we_do_not_have_are_named(tmp_path):
    other = {"encoder.layer1.0.conv1.weight": (64, 64, 1, 1)}
    for name in ("se_resnet50", "vgg16_bn", "densenet121"):
        with pytest.raises(UserError, match=f"is '{name}'; files with a ResNet"):
            published.backbone(other, {"encoder_name": name})
    with pytest.raises(UserError, match=r"global_pool='avg' .* handed to timm"):
        published.backbone({}, {"encoder_name": "tu-resnet18", "global_pool": "avg", "drop_rate": 0.1})
    with pytest.raises(UserError, match="smp DeepLab file is 'mit_b0', which smp dilates"):
        read_checkpoint(write(tmp_path, build("DeepLabV3Plus", "mit_b0")))


def test_what_a_plain_file_does_not_say_is_noted_and_can_be_given(tmp_path):
    options = {"encoder_output_stride": 8, "decoder_atrous_rates": (6, 12, 18)}
    theirs = build("DeepLabV3Plus", "resnet18", **options)
    file = write(tmp_path, theirs, config=False)
    assumed = read_checkpoint(file)
    notes = " ".join(assumed.report.notes)
    assert "does not say encoder_output_stride; 16, smp's default" in notes
    assert "--options '{\"output_stride\": 8}'" in notes
    assert "does not say decoder_atrous_rates; [12, 24, 36], smp's default" in notes
    assert "--options '{\"rates\": [6, 12, 18]}'" in notes
    assert off(theirs, assumed) > 0.01
    given = read_checkpoint(file, options={"output_stride": 8, "rates": [6, 12, 18]})
    assert "smp's default" not in " ".join(given.report.notes)
    assert off(theirs, given) <= 1e-4
    told = read_checkpoint(write(tmp_path, theirs))
    assert "smp's default" not in " ".join(told.report.notes)
    assert off(theirs, told) <= 1e-4


@pytest.mark.parametrize(
    ("kind", "encoder", "said"),
    [
        ("Unet", "resnet18", 'decoder_interpolation; "nearest"'),
        ("FPN", "resnet18", 'decoder_interpolation; "nearest"'),
        ("DeepLabV3", "resnet18", "encoder_output_stride; 8"),
        ("Segformer", "mit_b0", "upsampling; 4"),
    ],
)
def test_every_plain_file_says_what_was_assumed(tmp_path, kind, encoder, said):
    theirs = build(kind, encoder)
    plain = read_checkpoint(write(tmp_path, theirs, config=False))
    assert any(said in note for note in plain.report.notes)
    assert off(theirs, plain) <= 1e-4
