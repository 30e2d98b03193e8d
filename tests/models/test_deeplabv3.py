"""DeepLabV3 and DeepLabV3+: parity with the published implementations, read from their keys; output strides; details."""

import json
import sys

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.deeplabv3 import ImagePooling, default_rates, filter_unit
from nuriwake.models.outputs import fit_logits
from nuriwake.models.state import load_strictly
from nuriwake.weights.published import deeplabv3, deeplabv3plus

SOURCES = (*deeplabv3.SOURCES, *deeplabv3plus.SOURCES)
REFERENCES = {
    "torchvision__deeplabv3_resnet50": "deeplabv3_resnet50",
    "torchvision__deeplabv3_mobilenet_v3_large": "deeplabv3_mobilenet_v3_large",
    "smp__deeplabv3plus_resnet50": "deeplabv3plus_resnet50_smp",
    "smp__deeplabv3plus_mobilenet_v2": "deeplabv3plus_mobilenet_v2_1280",
    "mmseg__deeplabv3plus_r50-d8": "deeplabv3plus_resnet50_v1c",
}


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def shapes_of(state):
    return {key: tuple(item.shape) for key, item in state.items()}


def read(state, config=None):
    """The model that the published arrays `state` describe, filled with them."""
    fitting = [source for source in SOURCES if source.recognise(shapes_of(state))]
    assert len(fitting) == 1
    source = fitting[0]
    spec = source.spec(shapes_of(state), config or {})
    model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    own = {source.rename(key): item for key, item in state.items() if source.rename(key) is not None}
    if source.transform is not None:
        own = {key: source.transform(key, item) for key, item in own.items()}
    load_strictly(model, own, source.source)
    return spec, model.eval()


@pytest.mark.parametrize(("reference", "name"), REFERENCES.items())
def test_outputs_are_those_of_the_published(parity, formula, reference, name):
    published = json.loads((parity / f"{reference}.json").read_text())
    state = {key: torch.from_numpy(item) for key, item in formula.state_dict(parity / f"{reference}.json").items()}
    spec, model = read(state)
    assert spec.name == name
    assert count_parameters(model) == published["parameters"]
    image, expected = published["input"], np.load(parity / f"{reference}.npz")
    images = torch.from_numpy(formula.normalised(image["image"], image["height"], image["width"]))
    with torch.no_grad():
        found = {"main": model(images).logits}
        if "aux" in expected:
            found["aux"] = model.auxiliary(model.encoder(images)[model.auxiliary_map])
    for name in expected:
        logits = fit_logits(found["aux" if name == "aux" else "main"], expected[name].shape[-2:]).numpy()
        assert np.abs(logits - expected[name]).max() <= 1e-4 * np.abs(expected[name]).max()


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("DeepLabV3", {"encoder_name": "resnet18", "decoder_channels": 16}, "deeplabv3_resnet18_smp"),
        ("DeepLabV3", {"encoder_name": "mobilenet_v2", "encoder_output_stride": 16}, "deeplabv3_mobilenet_v2_1280"),
        ("DeepLabV3Plus", {"encoder_name": "resnet34", "encoder_output_stride": 8}, "deeplabv3plus_resnet34_smp"),
        ("DeepLabV3Plus", {"encoder_name": "resnet18", "in_channels": 4}, "deeplabv3plus_resnet18_smp"),
        ("DeepLabV3Plus", {"encoder_name": "resnet18", "decoder_aspp_separable": False}, "deeplabv3plus_resnet18_smp"),
        ("DeepLabV3", {"encoder_name": "resnet18", "decoder_aspp_separable": True}, "deeplabv3_resnet18_smp"),
    ],
)
def test_the_family_of_smp_is_read_with_its_config(kind, options, name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    config = {"decoder_atrous_rates": (2, 4, 6), **options}
    theirs = smp.create_model(kind, encoder_weights=None, classes=3, **config).eval()
    spec, ours = read(theirs.state_dict(), config)
    assert spec.name == name
    images = torch.randn(1, options.get("in_channels", 3), 64, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert torch.allclose(ours(images).logits, expected, atol=1e-4 * expected.abs().max().item())
    with pytest.raises(UserError, match="upsampling"):
        read(theirs.state_dict(), {**config, "upsampling": 2})


def test_smps_older_names_and_its_classification_head_are_known():
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.DeepLabV3("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 2})
    state = theirs.state_dict()
    older = {"aspp": "0", "conv": "1", "bn": "2"}
    renamed = {}
    for key, item in state.items():
        parts = key.split(".")
        renamed[".".join([parts[0], older[parts[1]], *parts[2:]]) if parts[0] == "decoder" else key] = item
    state = {key: item for key, item in state.items() if not key.startswith("classification_head")}
    first, second = read(state)[1].state_dict(), read(renamed)[1].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    source = next(source for source in SOURCES if source.recognise(shapes_of(renamed)))
    assert "classification" in source.why_left_out("classification_head.3.weight")


def test_the_family_of_torchvision_is_read_without_its_auxiliary_head():
    segmentation = pytest.importorskip("torchvision").models.segmentation
    torch.manual_seed(0)
    theirs = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    spec, ours = read(theirs.state_dict())
    assert (spec.classes, ours.auxiliary) == (4, None)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)["out"]
        assert torch.allclose(
            fit_logits(ours(images).logits, (64, 96)), expected, atol=1e-4 * expected.abs().max().item()
        )


def test_a_file_that_lacks_an_array_or_has_another_is_refused(parity, formula):
    state = formula.state_dict(parity / "smp__deeplabv3plus_mobilenet_v2.json")
    state = {key: torch.from_numpy(item) for key, item in state.items()}
    with pytest.raises(UserError, match=r"1 unexpected: decoder\.more\.weight"):
        read({**state, "decoder.more.weight": torch.zeros(1)})
    del state["decoder.block2.1.bias"]
    with pytest.raises(UserError, match=r"1 missing: decoder\.0\.2\.bias"):
        read(state)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("name", "stride"),
    [("deeplabv3_mobilenet_v2", None), ("deeplabv3plus_mobilenet_v3_large", 4), ("deeplabv3plus_resnet18", 4)],
)
def test_output_strides_over_any_backbone(name, stride, output_stride):
    options = {"channels": 8, "output_stride": output_stride, "auxiliary_channels": 4}
    model = build_model(name, in_channels=2, classes=5, options=options)
    height, width = model.fit_size(60, 41)
    output = model.train()(torch.randn(1, 2, height, width))
    stride = stride or output_stride
    assert output.logits.shape == (1, 5, height // stride, width // stride)
    assert len(output.auxiliary) == 1
    assert model.eval()(torch.randn(1, 2, height, width)).auxiliary == ()


def test_any_size_gives_logits_rounded_up():
    for name, shape in (("deeplabv3_mobilenet_v2", (1, 3, 5, 7)), ("deeplabv3plus_mobilenet_v2", (1, 3, 10, 13))):
        model = build_model(name, in_channels=3, classes=3, options={"channels": 8}).eval()
        assert model(torch.randn(1, 3, 37, 51)).logits.shape == shape


def test_rates_reach_as_far_at_every_stride():
    assert [default_rates(stride) for stride in (8, 16)] == [(12, 24, 36), (6, 12, 18)]
    model = build_model("deeplabv3_mobilenet_v2", in_channels=3, classes=2, options={"rates": [3, 5]})
    assert [branch[0].dilation[0] for branch in model.pyramid.branches] == [1, 3, 5]


def test_separable_costs_less_and_bare_has_one_norm():
    def parameters(**options):
        return sum(parameter.numel() for parameter in filter_unit(64, 32, **options).parameters())

    assert parameters() == 64 * 32 * 9 + 2 * 32
    assert parameters(separable=True, bare=True) == 64 * 9 + 64 * 32 + 2 * 32
    assert parameters(separable=True) == 64 * 9 + 2 * 64 + 64 * 32 + 2 * 32


def test_one_image_trains_on_running_statistics():
    torch.manual_seed(0)
    pooling = ImagePooling(4, 3).train()
    before = pooling.norm.running_mean.clone()
    x = torch.randn(1, 4, 5, 6, requires_grad=True)
    found = pooling(x)
    assert torch.allclose(found, pooling.eval()(x))
    assert torch.equal(pooling.norm.running_mean, before)
    found.sum().backward()
    assert x.grad.abs().sum() > 0
    pooling.train()(torch.randn(2, 4, 5, 6))
    assert not torch.equal(pooling.norm.running_mean, before)


def test_a_backbone_without_a_map_at_stride_4_is_refused():
    with pytest.raises(UserError, match=r"map at stride 4; 'vit_tiny_patch16_224' has \(16, 16"):
        build_model("deeplabv3plus_vit_tiny_patch16_224", in_channels=3, classes=2, options={"output_stride": 32})


def test_parameters_are_the_published():
    counts = {
        ("deeplabv3_resnet50", 21): 42_004_074,
        ("deeplabv3_resnet101", 21): 60_996_202,
        ("deeplabv3_mobilenet_v3_large", 21): 11_029_328,
    }
    for (name, classes), count in counts.items():
        with torch.device("meta"):
            assert count_parameters(build_model(name, in_channels=3, classes=classes)) == count
