"""Semantic FPN: the pyramid, variants, sizes, other channels and classes."""

import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.fpn import FeaturePyramid
from nuriwake.models.semantic_fpn import SemanticFPN

VARIANTS = {
    "detectron2": {},
    "mmseg": {"norm": "batch"},
    "smp": {"smooth": False, "align_corners": True},
    "smp, side by side": {"smooth": False, "align_corners": True, "merge": "cat"},
}


def small(in_channels: int = 3, classes: int = 4, **options) -> SemanticFPN:
    return SemanticFPN(
        in_channels, classes, **{"backbone": "mobilenet_v2", "pyramid_channels": 16, "channels": 32, **options}
    )


@pytest.mark.parametrize(
    ("backbone", "options", "classes", "expected"),
    [
        ("resnet50_v1c", {"norm": "batch"}, 19, 28_497_907),
        ("resnet50", {"smooth": False, "align_corners": True}, 7, 26_116_807),
    ],
)
def test_parameters_are_those_published(backbone, options, classes, expected):
    with torch.device("meta"):
        assert count_parameters(SemanticFPN(3, classes, backbone=backbone, **options)) == expected


def test_the_pyramid_adds_the_deep_to_the_shallow():
    """The slow twin, for one pixel of the finest map."""
    torch.manual_seed(0)
    channels = (2, 3, 4)
    pyramid = FeaturePyramid(channels, 5, smooth=False)
    maps = [torch.randn(1, width, 8 >> level, 12 >> level) for level, width in enumerate(channels)]
    with torch.no_grad():
        found = pyramid(maps)
        expected = torch.zeros(5)
        for level, x in enumerate(maps):
            expected += pyramid.lateral[level].weight[:, :, 0, 0] @ x[0, :, 5 >> level, 7 >> level]
    assert [tuple(x.shape) for x in found] == [(1, 5, 8, 12), (1, 5, 4, 6), (1, 5, 2, 3)]
    assert torch.allclose(found[0][0, :, 5, 7], expected, atol=1e-5)


def test_smoothing_comes_after_the_sums():
    plain, smooth = FeaturePyramid((2, 3), 4, smooth=False), FeaturePyramid((2, 3), 4)
    smooth.load_state_dict(plain.state_dict(), strict=False)
    for part in smooth.smooth:
        nn.init.dirac_(part.weight)
    maps = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 2)]
    for a, b in zip(plain(maps), smooth(maps), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_size_fits_after_padding(variant):
    model = small(**VARIANTS[variant]).eval()
    assert model.fit_size(33, 70) == (64, 96)
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 64, 96)).logits
    assert logits.shape == ((1, 4, 64, 96) if "smp" in variant else (1, 4, 16, 24))
    with pytest.raises(UserError, match="pad them to 64x96"):
        model(torch.zeros(1, 3, 33, 70))


@pytest.mark.parametrize("in_channels", [1, 4, 12])
@pytest.mark.parametrize("classes", [1, 2, 150])
def test_channels_and_classes_are_free(in_channels, classes):
    model = small(in_channels, classes)
    images = torch.randn(2, in_channels, 32, 64)
    for mode in (True, False):
        output = model.train(mode)(images)
        assert output.logits.shape == (2, classes, 8, 16)
        assert output.auxiliary == ()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns_and_lies_in_one_stage(variant):
    model = small(**VARIANTS[variant])
    model(torch.randn(2, 3, 32, 32)).logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    assert model.backbone() is model.encoder


def test_backbones_that_begin_at_stride_4_fit_too():
    model = build_model("semantic_fpn_convnext_atto", in_channels=3, classes=2).eval()
    assert model.first == 0
    assert model(torch.randn(1, 3, 32, 64)).logits.shape == (1, 2, 8, 16)


def test_what_cannot_be_a_pyramid_is_refused():
    with pytest.raises(UserError, match=r"strides 4, 8, 16.*\(16, 16, 16\)"):
        SemanticFPN(3, 2, backbone="vit_tiny_patch16_224")
    with pytest.raises(UserError, match="multiple of 32, found 48"):
        small(channels=48)
    assert small(channels=48, norm="batch").head.classify.in_channels == 48


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_exports_and_answers_the_same(variant):
    model, images = small(**VARIANTS[variant]).eval(), torch.randn(1, 3, 64, 32)
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
