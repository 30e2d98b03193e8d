"""PSPNet: conventions, sizes, the auxiliary head, other channels and classes."""

import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.pspnet import CONVENTIONS, Details, PSPNet, PyramidPooling


def small(in_channels: int = 3, classes: int = 4, **options) -> PSPNet:
    return PSPNet(
        in_channels, classes, **{"backbone": "mobilenet_v2", "channels": 16, "auxiliary_channels": 8, **options}
    )


# The first two: the parity references; ResNet-101 has 17 more blocks of 1,117,184.
@pytest.mark.parametrize(
    ("backbone", "convention", "classes", "expected"),
    [
        ("resnet50_v1c", "mmseg", 19, 48_975_494),
        ("resnet50_semseg", "semseg", 21, 49_081_578),
        ("resnet101_v1c", "mmseg", 19, 67_967_622),
    ],
)
def test_parameters_are_those_published(backbone, convention, classes, expected):
    with torch.device("meta"):
        assert count_parameters(PSPNet(3, classes, backbone=backbone, convention=convention)) == expected


@pytest.mark.parametrize(
    ("options", "size", "fit", "logits"),
    [
        ({}, (33, 70), (40, 72), (5, 9)),
        ({"output_stride": 16}, (33, 70), (48, 80), (3, 5)),
        ({"convention": "semseg"}, (33, 70), (33, 73), (33, 73)),
        ({"convention": "semseg"}, (1, 34), (9, 41), (9, 41)),
        ({"convention": "smp", "dilate": False}, (33, 70), (40, 72), (40, 72)),
        ({"dilate": False, "output_stride": 16}, (33, 70), (48, 80), (3, 5)),
    ],
)
def test_any_size_fits_after_padding(options, size, fit, logits):
    model = small(**options).eval()
    assert model.fit_size(*size) == fit
    with torch.no_grad():
        assert model(torch.randn(1, 3, *fit)).logits.shape == (1, 4, *logits)
    if size != fit:
        with pytest.raises(UserError, match=f"pad them to {fit[0]}x{fit[1]}"):
            model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("in_channels", [1, 4, 12])
@pytest.mark.parametrize("classes", [1, 2, 150])
def test_channels_and_classes_are_free(in_channels, classes):
    model = small(in_channels, classes)
    images = torch.randn(2, in_channels, 32, 40)
    output = model(images)
    assert output.logits.shape == output.auxiliary[0].shape == (2, classes, 4, 5)
    assert model.eval()(images).auxiliary == ()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_parameter_learns_and_lies_in_one_stage(convention):
    model = small(convention=convention)
    output = model(torch.randn(2, 3, *model.fit_size(32, 32)))
    (output.logits.square().mean() + output.auxiliary[0].square().mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    assert model.backbone() is model.encoder


def test_the_auxiliary_head_costs_nothing_when_left_out():
    model = small(auxiliary_channels=0)
    assert not any("auxiliary" in key for key in model.state_dict())
    assert model(torch.randn(2, 3, 32, 32)).auxiliary == ()


def test_the_pyramid_averages_over_parts():
    """The slow twin: means over the parts of a map whose sides the bins divide, through identities, spread out."""
    pyramid = PyramidPooling(2, 2, (1, 2, 3), Details()).eval()
    for branch in pyramid.branches:
        nn.init.dirac_(branch[0].weight)
    x = torch.rand(1, 2, 6, 12) + 0.5
    with torch.no_grad():
        found = pyramid(x)
    assert torch.equal(found[:, :2], x)
    for index, parts in enumerate((1, 2, 3)):
        means = torch.zeros(1, 2, parts, parts)
        height, width = 6 // parts, 12 // parts
        for row in range(parts):
            for column in range(parts):
                part = x[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
                means[..., row, column] = part.mean((-2, -1))
        spread = nn.functional.interpolate(means, size=(6, 12), mode="bilinear", align_corners=False)
        assert torch.allclose(found[:, 2 + 2 * index : 4 + 2 * index], spread, atol=1e-4)


def test_a_cut_backbone_is_the_shallow_part_of_the_whole():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64)
    for name in ("mobilenet_v2", "resnet18", "resnet10t"):
        whole = build_model(f"pspnet_{name}", in_channels=3, classes=2, options={"output_stride": 32}).encoder.eval()
        cut = build_model(f"pspnet_{name}", in_channels=3, classes=2, options={"dilate": False}).encoder.eval()
        cut.load_state_dict({key: item for key, item in whole.state_dict().items() if key in cut.state_dict()})
        assert cut.strides == (2, 4, 8)
        assert cut.channels == whole.channels[:3]
        assert count_parameters(cut) < count_parameters(whole)
        with torch.no_grad():
            found, expected = cut(images), whole(images)
        assert [torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True)] == [True] * 3
        staged = [id(parameter) for stage in cut.stages() for parameter in stage.parameters()]
        assert sorted(staged) == sorted(id(parameter) for parameter in cut.parameters())


def test_a_cut_without_a_map_there_is_refused():
    with pytest.raises(UserError, match=r"cut at stride 64.*\(2, 4, 8, 16, 32\)"):
        small(dilate=False, output_stride=64)


def test_a_batch_of_one_image_trains():
    model = small()
    norm = model.pyramid.branches[0][1]
    before = norm.running_mean.clone()
    output = model(torch.randn(1, 3, 32, 32))
    output.logits.square().mean().backward()
    assert torch.equal(norm.running_mean, before)
    assert not torch.equal(model.pyramid.branches[1][1].running_mean, torch.zeros(80))
    assert norm.weight.grad is not None


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_it_exports_and_answers_the_same(convention):
    model = small(convention=convention).eval()
    images = torch.randn(1, 3, *model.fit_size(64, 48))
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        assert torch.allclose(program.module()(images).logits, model(images).logits, atol=1e-5)


def test_bfloat16_keeps_the_answer():
    model, images = small().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(images).logits
    with torch.no_grad():
        expected = model(images).logits
    assert found.isfinite().all()
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max() + 0.02
