"""YOLACT: sizes, channels, classes, the published counts; what it learns from is in tests/losses/test_prototypes.py."""

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import MODELS, build_model, count_parameters
from nuriwake.models.outputs import PrototypeOutput
from nuriwake.models.yolact import BilinearPyramid, PrototypeHead, Yolact


def small(in_channels: int = 3, classes: int = 4, **options) -> Yolact:
    torch.manual_seed(0)
    return Yolact(in_channels, classes, **{"backbone": "resnet18", "pyramid_channels": 8, "prototypes": 6, **options})


@pytest.mark.parametrize(("name", "expected"), [("yolact_resnet50", 31_164_943), ("yolact_resnet101", 50_157_071)])
def test_parameters_are_those_published(name, expected):
    with torch.device("meta"):
        assert count_parameters(build_model(name, in_channels=3, classes=80)) == expected


def test_550_pixels_have_the_published_priors_and_prototypes():
    with torch.device("meta"):
        model = small().eval()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        output = model(torch.zeros(1, 3, 550, 550))
    assert output.priors.shape == (19_248, 4)
    assert output.prototypes.shape == (1, 6, 138, 138)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 70), (97, 64)])
@pytest.mark.parametrize("training", [False, True])
def test_any_size_works(height, width, training):
    model = small().train(training)
    assert model.fit_size(height, width) == (height, width)
    assert model.fit_size(1, 40) == (32, 40)
    with torch.no_grad():
        output = model(torch.randn(2, 3, height, width))
    assert isinstance(output, PrototypeOutput)
    eighth = (-(-height // 8), -(-width // 8))
    count = len(output.priors)
    sizes, total = eighth, 0
    for _ in range(5):
        total += 3 * sizes[0] * sizes[1]
        sizes = (-(-sizes[0] // 2), -(-sizes[1] // 2))
    assert count == total
    assert output.class_logits.shape == (2, count, 5)
    assert output.deltas.shape == (2, count, 4)
    assert output.coefficients.shape == (2, count, 6)
    assert output.prototypes.shape == (2, 6, 2 * eighth[0], 2 * eighth[1])
    assert output.semantic.shape == (2, 4 if training else 0, *eighth)
    assert output.coefficients.abs().max() <= 1
    assert output.prototypes.min() >= 0


@pytest.mark.parametrize(("in_channels", "classes"), [(1, 1), (4, 2), (3, 80)])
def test_channels_and_classes_are_free(in_channels, classes):
    output = small(in_channels, classes).eval()(torch.randn(1, in_channels, 40, 40))
    assert output.class_logits.shape[2] == classes + 1


def test_too_small_an_image_is_refused():
    with pytest.raises(UserError, match="pad them to 32x40"):
        small()(torch.zeros(1, 3, 20, 40))


def test_bad_options_are_refused():
    with pytest.raises(UserError, match=r"strides 8, 16 and 32; 'vit_tiny_patch16_224' has \(16, 16, 16\)"):
        Yolact(3, 2, backbone="vit_tiny_patch16_224")
    with pytest.raises(UserError, match="at least 3 prior sizes"):
        small(prior_sizes=(24.0, 48.0))
    with pytest.raises(UserError, match="above 0"):
        small(prior_ratios=(1.0, 0.0))
    with pytest.raises(UserError, match="one prior scale"):
        small(prior_scales=())


@pytest.mark.parametrize("size", [(64, 64), (96, 352)])
def test_priors_in_pixels_stand_where_the_cells_are(size):
    """A map of 6 cells of 64 pixels reaches beyond an input of 352: as shares of it they would stand ever further to the left."""
    with torch.no_grad():
        priors = small(prior_pixels=True).eval()(torch.zeros(1, 3, *size)).priors
    centres = priors[::3, :2] * torch.tensor(size[::-1])  # three ratios to a cell
    expected = []
    for stride in (8, 16, 32, 64, 128):
        rows, columns = (torch.arange(-(-side // stride)) * stride + stride / 2 for side in size)
        expected.append(torch.cartesian_prod(rows, columns).flip(1))
    assert torch.allclose(centres, torch.cat(expected))


def test_every_level_has_priors_of_each_scale():
    plain, model = small(prior_pixels=True).eval(), small(prior_pixels=True, prior_scales=(1.0, 1.5)).eval()
    with torch.no_grad():
        one, output = plain(torch.zeros(1, 3, 64, 96)), model(torch.zeros(1, 3, 64, 96))
    assert output.class_logits.shape[1] == output.priors.shape[0] == 2 * one.priors.shape[0]
    shapes = output.priors.reshape(-1, 2, 3, 4)  # cells of all levels, scales, ratios
    assert torch.equal(shapes[:, 0].reshape(-1, 4), one.priors)
    assert torch.allclose(shapes[:, 1, :, 2:], shapes[:, 0, :, 2:] * 1.5)
    assert torch.equal(shapes[:, 1, :, :2], shapes[:, 0, :, :2])


def test_the_priors_keep_their_share_of_the_image():
    model = small().eval()
    with torch.no_grad():
        small_image, large = model(torch.zeros(1, 3, 64, 64)).priors, model(torch.zeros(1, 3, 128, 128)).priors
    assert torch.allclose(small_image[0, 2:], large[0, 2:])
    assert small_image[0, 2] == pytest.approx(24 / 550)
    assert small_image[2, 2] / small_image[2, 3] == pytest.approx(2)
    with torch.no_grad():
        square = small(square_priors=True).eval()(torch.zeros(1, 3, 64, 64)).priors
    assert torch.equal(square[:, 2], square[:, 3])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_priors_in_pixels_are_as_large_in_every_image(height, width):
    """A network that is trained on crops meets objects of the same pixels in whole images."""
    with torch.no_grad():
        priors = small(prior_pixels=True).eval()(torch.zeros(1, 3, height, width)).priors
    assert torch.allclose(priors[0, 2:] * torch.tensor([width, height]), torch.tensor([24.0, 24.0]))
    assert torch.allclose(priors[-1, 2:] * torch.tensor([width, height]), torch.tensor([384 * 2**0.5, 384 / 2**0.5]))


def test_rows_of_the_head_follow_the_priors():
    """The channels of a cell are split prior by prior, cells row by row, levels from the finest on."""
    model = small().eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        output = model(images)
        maps = model.encoder(images)
        levels = model.pyramid([maps[index] for index in model.taken])
        second = torch.relu(model.head.shared(levels[1]))
        raw = model.head.offset(second)
    before = levels[0].shape[2] * levels[0].shape[3] * 3
    y, x, prior = 2, 4, 1
    row = before + (y * levels[1].shape[3] + x) * 3 + prior
    assert torch.allclose(output.deltas[0, row], raw[0, 4 * prior : 4 * prior + 4, y, x], atol=1e-5)


def test_the_pyramid_interpolates_and_rectifies():
    pyramid = BilinearPyramid((2, 3), 4, extra=2)
    maps = [torch.randn(1, 2, 5, 7), torch.randn(1, 3, 3, 4)]
    levels = pyramid(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(5, 7), (3, 4), (2, 2), (1, 1)]
    deep = pyramid.lateral[1](maps[1])
    side = pyramid.lateral[0](maps[0]) + torch.nn.functional.interpolate(deep, size=(5, 7), mode="bilinear")
    assert torch.allclose(levels[0], pyramid.smooth[0](side).relu(), atol=1e-6)
    assert torch.allclose(levels[1], pyramid.smooth[1](deep).relu(), atol=1e-6)
    assert torch.allclose(levels[2], pyramid.extra[0](levels[1]), atol=1e-6)
    assert PrototypeHead(4, 3)(levels[0]).shape == (1, 3, 10, 14)


def test_every_parameter_lies_in_one_stage():
    model = small()
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    assert model.backbone() is model.encoder


@pytest.mark.parametrize("prior_pixels", [False, True])
def test_it_exports_and_answers_the_same(prior_pixels):
    model, images = small(prior_pixels=prior_pixels).eval(), torch.randn(1, 3, 64, 40)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        for found, expected in zip(program.module()(images), model(images), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


def test_bfloat16_keeps_the_answer():
    model, images = small().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images)
    assert found.priors.dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        if b.numel():
            assert (a.float() - b).abs().max() <= 0.1 * b.abs().max() + 0.02


def test_the_catalogue_has_a_light_one_and_the_published():
    names = ("yolact_mobilenet_v2", "yolact_resnet50", "yolact_resnet101")
    assert all(MODELS[name].task == "instance" for name in names)
    with torch.device("meta"):
        assert count_parameters(build_model(names[0], in_channels=3, classes=1)) < 4_500_000
