"""SOLOv2: the published sizes, other channels and classes, precision, export."""

import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.catalogue import MODELS
from nuriwake.models.solov2 import GRIDS, SOLOv2, add_coordinates

SMALL = {"pyramid_channels": 16, "channels": 32, "convolutions": 1, "mask_channels": 32, "kernel_channels": 32}
NAMES = ["solov2_mobilenet_v2", "solov2_light_r50_fpn", "solov2_r50_fpn", "solov2_r101_fpn"]


def small(in_channels: int = 3, classes: int = 4, **options) -> SOLOv2:
    torch.manual_seed(0)
    return SOLOv2(in_channels, classes, **{"backbone": "mobilenet_v2", **SMALL, **options})


@pytest.mark.parametrize(("name", "expected"), [("solov2_r50_fpn", 46_592_912), ("solov2_light_r50_fpn", 31_340_560)])
def test_parameters_are_those_published(name, expected):
    with torch.device("meta"):
        assert count_parameters(build_model(name, in_channels=3, classes=80)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_builds_and_answers_instances(name):
    assert MODELS[name].task == "instance"
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=80)
    assert model.backbone() is model.encoder


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (128, 32)])
def test_shapes(height, width):
    model = small().eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, height, width))
    assert [tuple(level.shape) for level in output.class_logits] == [(2, 4, grid, grid) for grid in GRIDS]
    assert [tuple(level.shape) for level in output.kernels] == [(2, 32, grid, grid) for grid in GRIDS]
    assert output.mask_features.shape == (2, 32, height // 4, width // 4)
    assert output.mask_features.min() >= 0


def test_any_size_fits_after_padding():
    model = small()
    assert model.fit_size(1, 33) == (32, 64)
    with pytest.raises(UserError, match="pad them to 64x96"):
        model(torch.zeros(1, 3, 33, 70))


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("classes", [1, 2, 80])
def test_channels_and_classes_are_free(in_channels, classes):
    model = small(in_channels, classes)
    images = torch.randn(2, in_channels, 64, 64)
    for mode in (True, False):
        output = model.train(mode)(images)
        assert output.class_logits[0].shape == (2, classes, 40, 40)
        assert all(x.isfinite().all() for x in (*output.class_logits, *output.kernels, output.mask_features))


def test_a_fresh_model_finds_hardly_anything():
    output = small().eval()(torch.randn(1, 3, 64, 64))
    probability = torch.cat([level.sigmoid().flatten() for level in output.class_logits])
    assert 0.003 < probability.mean() < 0.03


def test_every_parameter_learns_and_lies_in_one_stage():
    model = small()
    output = model(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for x in (*output.class_logits, *output.kernels, output.mask_features)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())


def test_coordinates_come_last_and_go_from_minus_one_to_one():
    x = add_coordinates(torch.zeros(2, 3, 4, 5))
    assert x.shape == (2, 5, 4, 5)
    assert x[1, 3, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert torch.allclose(x[0, 4, :, 3], torch.tensor([-1, -1 / 3, 1 / 3, 1]))


def test_the_grid_is_read_at_the_centres_of_its_cells():
    """Slow twin of the way into the grid: bilinear with half-pixel centres, cell by cell."""
    x = torch.randn(1, 1, 8, 8)
    found = functional.interpolate(x, (5, 5), mode="bilinear", align_corners=False)
    for row in range(5):
        for column in range(5):
            y, z = (row + 0.5) * 8 / 5 - 0.5, (column + 0.5) * 8 / 5 - 0.5
            top, left = int(y), int(z)
            expected = sum(
                x[0, 0, top + i, left + j] * (1 - abs(y - top - i)) * (1 - abs(z - left - j))
                for i in (0, 1)
                for j in (0, 1)
            )
            assert found[0, 0, row, column] == pytest.approx(float(expected), abs=1e-5)


def test_other_backbones_and_grids():
    model = small(backbone="convnext_atto", grids=(10, 8, 6, 4, 2)).eval()
    assert model.first == 0
    with torch.no_grad():
        output = model(torch.randn(1, 3, 32, 64))
    assert [level.shape[-1] for level in output.kernels] == [10, 8, 6, 4, 2]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="strides 4, 8, 16"):
        small(backbone="vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"'channels' of SOLOv2 is a multiple of 32.*found 48"):
        small(channels=48)
    with pytest.raises(UserError, match="five grids"):
        small(grids=(40, 36))


def test_it_exports_and_answers_the_same():
    model, images = small().eval(), torch.randn(1, 3, 64, 32)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        found, expected = program.module()(images), model(images)
    for a, b in zip(found.kernels, expected.kernels, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(found.mask_features, expected.mask_features, atol=1e-5)


def test_bfloat16_keeps_the_answer():
    model, images = small().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    with torch.no_grad():
        expected = model(images)
    for a, b in ((found.mask_features, expected.mask_features), (found.kernels[0], expected.kernels[0])):
        assert a.isfinite().all()
        assert (a.float() - b).abs().max() < 0.1 * b.abs().max() + 0.02
