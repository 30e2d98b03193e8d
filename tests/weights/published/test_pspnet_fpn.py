"""Published PSPNets and Semantic FPNs: smp's whole family, refusals. Outputs of the published weights: test_checkpoint.py."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model
from nuriwake.models.state import load_strictly
from nuriwake.weights.published import pspnet, semantic_fpn

SOURCES = (*pspnet.SOURCES, *semantic_fpn.SOURCES)


def published_for(shapes):
    (found,) = [item for item in SOURCES if item.recognise(shapes)]
    return found


def read(state, config=None):
    """The model filled with `state`, as a reader does it: every array is used, or left out for a reason."""
    shapes = {key: tuple(item.shape) for key, item in state.items()}
    published = published_for(shapes)
    spec = published.spec(shapes, config or {})
    with torch.device("meta"):
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    model = model.to_empty(device="cpu").eval()
    ours = {}
    for key, item in state.items():
        own = published.rename(key)
        assert (own is None) == (published.why_left_out(key) is not None)
        if own is not None:
            assert own not in ours
            ours[own] = published.transform(own, item) if published.transform else item
    load_strictly(model, ours, "the reference")
    return published, spec, model


def off(found, expected):
    """The largest difference in units of the largest value."""
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


def test_stages_that_smp_never_runs_are_left_out(parity):
    shapes = with_(parity, "smp__pspnet_resnet50")
    published = published_for(shapes)
    without = [key for key in shapes if published.rename(key) is None]
    assert without == [key for key in shapes if "layer3" in key or "layer4" in key]
    assert all("never runs" in published.why_left_out(key) for key in without)


smp = pytest.importorskip if importlib.util.find_spec("segmentation_models_pytorch") is None else None
needs_smp = pytest.mark.skipif(smp is not None, reason="needs segmentation_models_pytorch")


@needs_smp
@pytest.mark.parametrize(
    ("kind", "encoder", "options", "name"),
    [
        ("PSPNet", "resnet18", {}, "pspnet_resnet18"),
        ("PSPNet", "mobilenet_v2", {"psp_out_channels": 64}, "pspnet_mobilenet_v2"),
        ("PSPNet", "mobilenet_v2", {"encoder_depth": 4, "upsampling": 16}, "pspnet_mobilenet_v2"),
        ("PSPNet", "mobilenet_v2", {"encoder_depth": 5, "upsampling": 32}, "pspnet_mobilenet_v2_1280"),
        ("PSPNet", "tu-mobilenetv3_small_050", {}, "pspnet_mobilenetv3_small_050"),
        ("FPN", "resnet18", {"decoder_merge_policy": "cat", "in_channels": 4}, "semantic_fpn_resnet18"),
        ("FPN", "mobilenet_v2", {"decoder_segmentation_channels": 64}, "semantic_fpn_mobilenet_v2_1280"),
        ("FPN", "tu-convnext_atto", {"decoder_pyramid_channels": 32}, "semantic_fpn_convnext_atto"),
    ],
)
def test_other_models_of_smps_families_agree_with_it(kind, encoder, options, name):
    import segmentation_models_pytorch

    torch.manual_seed(0)
    build = getattr(segmentation_models_pytorch, kind)
    theirs = build(encoder, encoder_weights=None, classes=3, **options).eval()
    for part in theirs.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
    _, spec, model = read(theirs.state_dict(), {"encoder_name": encoder, **options})
    assert spec.name == name
    images = torch.randn(1, spec.in_channels, 96, 64)
    with torch.no_grad():
        assert off(model(images).logits, theirs(images).numpy()) <= 1e-4


def with_(parity, name):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def test_what_a_file_cannot_say_is_asked_for(parity):
    shapes = with_(parity, "smp__fpn_resnet50")
    published = published_for(shapes)
    with pytest.raises(UserError, match="decoder_interpolation='bilinear'"):
        published.spec(shapes, {"decoder_interpolation": "bilinear"})
    decoder = {key: shape for key, shape in shapes.items() if not key.startswith("encoder.")}
    with pytest.raises(UserError, match=r"no config\.json"):
        published.spec(decoder, {})
    with pytest.raises(UserError, match="'timm-regnety_002'"):
        published.spec(decoder, {"encoder_name": "timm-regnety_002"})
    shapes = with_(parity, "smp__pspnet_resnet50")
    with pytest.raises(UserError, match="4/8 of the image's size"):
        published_for(shapes).spec(shapes, {"upsampling": 4})
    shapes = with_(parity, "mmseg__pspnet_r50-d8")
    strange = {key: shape for key, shape in shapes.items() if "layer3.5" not in key}
    with pytest.raises(UserError, match=r"mmsegmentation file is no ResNet of 18, 34, 50"):
        published_for(strange).spec(strange, {})


def test_depth_stem_and_width_are_told_from_the_arrays(parity):
    shapes = with_(parity, "mmseg__pspnet_r50-d8")
    deeper = dict(shapes)
    for block in range(6, 23):
        deeper |= {
            key.replace("layer3.5", f"layer3.{block}"): shape for key, shape in shapes.items() if "layer3.5" in key
        }
    assert published_for(deeper).spec(deeper, {}).name == "pspnet_resnet101_v1c"
    plain = {key: shape for key, shape in shapes.items() if ".stem." not in key} | {
        "backbone.conv1.weight": (64, 4, 7, 7)
    }
    spec = published_for(plain).spec(plain, {})
    assert (spec.name, spec.in_channels) == ("pspnet_resnet50", 4)
    spec = published_for(shapes).spec(shapes | {"decode_head.psp_modules.0.1.conv.weight": (128, 2048, 1, 1)}, {})
    assert spec.options["branch_channels"] == 128


def test_panoptic_fpn_and_upernet_are_other_architectures(parity):
    shapes = with_(parity, "detectron2__panoptic_fpn_R_50_3x")
    assert not any(item.recognise(shapes) for item in SOURCES)
    shapes = with_(parity, "mmseg__pspnet_r50-d8") | {"decode_head.lateral_convs.0.conv.weight": (512, 256, 1, 1)}
    assert not any(item.recognise(shapes) for item in SOURCES)
