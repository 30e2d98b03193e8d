"""Published PSPNets and Semantic FPNs: recognised, read whole, and with the published outputs."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model
from nuriwake.models.outputs import fit_logits
from nuriwake.models.state import load_strictly
from nuriwake.weights.published import pspnet, semantic_fpn

SOURCES = (*pspnet.SOURCES, *semantic_fpn.SOURCES)

REFERENCES = {
    "semseg__pspnet50": ("semseg", "pspnet_resnet50_semseg", 21),
    "smp__pspnet_resnet50": ("smp", "pspnet_resnet50", 7),
    "mmseg__pspnet_r50-d8": ("mmseg", "pspnet_resnet50_v1c", 19),
    "smp__fpn_resnet50": ("smp", "semantic_fpn_resnet50", 7),
    "mmseg__fpn_r50": ("mmseg", "semantic_fpn_resnet50_v1c", 19),
    "detectron2__semantic_R_50_FPN_1x": ("detectron2", "semantic_fpn_resnet50_caffe", 54),
}
EVERY = pytest.mark.parametrize("name", REFERENCES)


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


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


def tensors(arrays):
    return {key: torch.from_numpy(item) for key, item in arrays.items()}


def off(found, expected):
    """The largest difference in units of the largest value."""
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


@EVERY
def test_outputs_are_the_published_ones(name, parity, formula):
    source, model_name, classes = REFERENCES[name]
    description = json.loads((parity / f"{name}.json").read_text())
    published, spec, model = read(tensors(formula.state_dict(parity / f"{name}.json")))
    assert (published.source, spec.name, spec.in_channels, spec.classes) == (source, model_name, 3, classes)
    image = description["input"]
    size = (image["height"], image["width"])
    expected = np.load(parity / f"{name}.npz")
    if source == "detectron2":
        preprocessing = published.preprocessing_of({}, {})
        images = torch.from_numpy(preprocessing.tensor(formula.image(image["image"], *size)))[None]
    else:
        images = torch.from_numpy(formula.normalised(image["image"], *size))
    with torch.no_grad():
        logits = model(images).logits
        if source == "detectron2":
            pyramid = model.pyramid(model.encoder(images)[model.first :])
            assert max(off(x, expected[f"features.p{level}"]) for level, x in enumerate(pyramid, 2)) <= 1e-4
            found = fit_logits(logits, size)[0, :, ::4, ::4]
            reference = expected["sem_seg_strided4"]
        else:
            found, reference = logits, expected[next(iter(expected))]
    assert found.shape == reference.shape
    print(f"{name}: {off(found, reference):.1e}")
    assert off(found, reference) <= 1e-4


@EVERY
def test_files_are_recognised_by_one_source_and_wholly_accounted_for(name, parity):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    published = published_for(shapes)
    without = [key for key in keys if published.rename(key) is None]
    if name == "smp__pspnet_resnet50":
        assert without == [key for key in keys if "layer3" in key or "layer4" in key]
        assert all("never runs" in published.why_left_out(key) for key in without)
    else:
        assert without == []
    assert not any(item.recognise({"conv1.weight": (64, 3, 7, 7)}) for item in SOURCES)


@EVERY
def test_a_missing_an_extra_and_a_misshapen_array_are_named(name, parity):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    changed = dict(state)
    victim = next(key for key in state if key.endswith("layer2.1.conv2.weight") or "res3.1.conv2.weight" in key)
    del changed[victim]
    with pytest.raises(UserError, match=r"1 missing: encoder\.layer2\.1\.conv2\.weight"):
        read(changed)
    with pytest.raises(UserError, match="1 unexpected: surplus"):
        read(state | {"surplus": torch.empty(1)})
    with pytest.raises(UserError, match=r"encoder\.layer2\.1\.conv2\.weight \(expected 128x128x3x3, found 2x3\)"):
        read(state | {victim: torch.empty(2, 3)})


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
