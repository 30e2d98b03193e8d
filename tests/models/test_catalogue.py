"""What every model promises, for every entry of the table; and how names and options resolve."""

import itertools

import pytest
import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.models import FAMILIES, MODELS, Model, build_model, count_parameters, list_models, model_options
from nuriwake.models.backbones import resnet
from nuriwake.models.catalogue import entry_constructor
from nuriwake.models.outputs import PixelLogits

# Narrow and shallow, so that the promise is tested and not the processor: one of every architecture and kind of backbone. The
# others of a family differ in numbers only; test_matrix.py runs them on the device "meta", which knows shapes and no values.
SMALL_HRNET = {"width": 4, "modules": [1, 1, 1], "blocks": 1, "first_width": 8, "first_blocks": 1}
SMALL_SEGFORMER = {"channels": 16, "encoder": {"widths": (8, 16, 20, 32), "depths": (1, 2, 1, 1)}}
NARROW = {
    "deeplabv3_resnet50": {"channels": 8, "auxiliary_channels": 8},
    "deeplabv3_mobilenet_v3_large": {"channels": 8},
    "deeplabv3plus_resnet50": {"channels": 8},
    "deeplabv3plus_mobilenet_v2": {"channels": 8},
    "hrnet_w18": {"layout": SMALL_HRNET},
    "hrnet_ocr_w18": {"layout": SMALL_HRNET, "channels": 16},
    "pspnet_mobilenet_v2": {"channels": 8, "auxiliary_channels": 8},
    "pspnet_resnet50": {"channels": 8, "auxiliary_channels": 8},
    "segformer_b0": SMALL_SEGFORMER,
    "semantic_fpn_mobilenet_v2": {"pyramid_channels": 32, "channels": 64},
    "semantic_fpn_resnet50": {"pyramid_channels": 32, "channels": 64},
    "unet": {"width": 4},
    "unet_valid": {"width": 4, "depth": 2},
    "unet_mobilenet_v2": {"decoder_channels": (8, 8, 8, 8)},
    "unet_resnet34": {"decoder_channels": (8, 8, 8, 8)},
}
SEMANTIC = sorted(name for name, entry in MODELS.items() if entry.task == "semantic")
# Those of other tasks put out something else; their promises stand in the tests of each architecture.
EVERY = pytest.mark.parametrize("name", SEMANTIC)
EACH = pytest.mark.parametrize("name", sorted(NARROW))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets of one block per stage: enough for a promise, a tenth of the time."""
    for depth in (34, 50):
        monkeypatch.setitem(resnet.DEPTHS, depth, (1, 1, 1, 1))


quick = pytest.mark.usefixtures("shallow")


def built(name: str, *, in_channels: int = 3, classes: int = 2, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(name, in_channels=in_channels, classes=classes, options=NARROW[name])


def test_every_architecture_is_among_those_run():
    assert {MODELS[name].build for name in NARROW} == {MODELS[name].build for name in SEMANTIC}


def image(model: Model, channels: int, height: int, width: int, batch: int = 2) -> torch.Tensor:
    size = model.fit_size(height + 2 * model.margin, width + 2 * model.margin)
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def covers(logits: torch.Tensor, images: torch.Tensor, model: Model) -> bool:
    """The logits have one scale, the same in both directions, over the input less the margin."""
    scales = [(images.shape[i] - 2 * model.margin) / logits.shape[i] for i in (2, 3)]
    return scales[0] == scales[1] and scales[0] >= 1


@EACH
@quick
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 1), (4, 2), (12, 150)])
def test_images_in_output_out(name, in_channels, classes):
    model = built(name, in_channels=in_channels, classes=classes)
    for training, (height, width) in ((True, (37, 51)), (False, (20, 65))):
        model.train(training)
        images = image(model, in_channels, height, width)
        with torch.no_grad():
            output = model(images)
        assert_answers(model, output, images, classes)
        assert output.logits.isfinite().all()


def assert_answers(model, output, images, classes):
    assert isinstance(output, PixelLogits)
    assert output.logits.shape[:2] == (2, classes)
    assert covers(output.logits, images, model)
    assert all(auxiliary.shape[:2] == (2, classes) for auxiliary in output.auxiliary)
    assert model.training or output.auxiliary == ()


@EVERY
def test_every_parameter_has_one_stage(name):
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=2)
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    own = {id(parameter) for parameter in model.parameters()}
    backbone = model.backbone()
    assert (backbone is None) == (MODELS[name].backbone is None)
    assert backbone is None or {id(parameter) for parameter in backbone.parameters()} < own


@EACH
@quick
def test_every_parameter_learns(name):
    model = built(name).train()
    output = model(image(model, 3, 64, 64))
    # A quadratic and not a sum: behind a batch norm the gradient of a plain sum vanishes.
    sum(logits.square().mean() for logits in (output.logits, *output.auxiliary)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key


@EACH
@quick
def test_fresh_weights_are_a_function_of_the_seed(name):
    first, again, other = built(name).state_dict(), built(name).state_dict(), built(name, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].ndim == 4]
    assert drawn
    for key in drawn:
        assert not torch.equal(first[key], other[key]), key
        assert 0 < first[key].std() < 2, key


@EACH
@quick
def test_fresh_logits_are_neither_flat_nor_wild(name):
    model = built(name).eval()
    for part in model.modules():  # as in training, where the batch's own statistics normalise
        if isinstance(part, nn.BatchNorm2d):
            part.train()
    with torch.no_grad():
        deviation = model(image(model, 3, 64, 64)).logits.std()
    assert 1e-3 < deviation < 20


@EACH
@quick
def test_it_exports(name):
    model = built(name).eval()
    images = image(model, 3, 32, 32, batch=1)
    program = torch.export.export(model, (images,), strict=False)
    with torch.no_grad():
        assert torch.allclose(program.module()(images).logits, model(images).logits, atol=1e-5)


@EACH
@quick
def test_bf16_and_channels_last_give_about_the_same(name):
    model = built(name).eval()
    images = image(model, 3, 64, 64)
    with torch.no_grad():
        plain = model(images).logits
        moved = model.to(memory_format=torch.channels_last)
        last = moved(images.to(memory_format=torch.channels_last)).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = moved(images.to(memory_format=torch.channels_last)).logits
    assert torch.allclose(plain, last, atol=1e-4 * plain.abs().max().item())
    assert half.isfinite().all()
    assert (half.float() - plain).abs().mean() < 0.1 * plain.abs().max()


@EVERY
def test_fit_size_is_a_rounding_up(name):
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=2)
    for height, width in itertools.product((1, 31, 32, 33, 188, 573), repeat=2):
        fit = model.fit_size(height, width)
        assert fit[0] >= height
        assert fit[1] >= width
        assert model.fit_size(*fit) == fit
        assert model.fit_size(width, height) == fit[::-1]
        assert min(fit) > 2 * model.margin


@EVERY
def test_entries_are_complete(name):
    entry = MODELS[name]
    assert entry.summary
    assert entry.paper
    assert set(entry.defaults) <= set(model_options(name))
    assert entry_constructor(entry).__doc__


def parameters(name, classes, options=None):
    with torch.device("meta"):
        return count_parameters(build_model(name, in_channels=3, classes=classes, options=options))


def test_default_parameters():
    """A change here is a change of every bundle made with the defaults."""
    expected = {"unet": 31_043_586, "unet_valid": 31_031_810, "unet_mobilenet_v2": 2_454_344}
    assert {name: parameters(name, 2) for name in expected} == expected


# torchvision's documentation (to the parameter, with the auxiliary head); table 1 of the SegFormer paper and, for the two first
# HRNets, the README of its authors' repository (millions).
PUBLISHED_COUNTS = [
    ("deeplabv3_resnet50", 21, 42.004074, 1e-6),
    ("deeplabv3_resnet101", 21, 60.996202, 1e-6),
    ("deeplabv3_mobilenet_v3_large", 21, 11.029328, 1e-6),
    ("segformer_b0", 150, 3.8, 0.05),
    ("segformer_b1", 150, 13.7, 0.05),
    ("segformer_b2", 150, 27.5, 0.05),
    ("segformer_b3", 150, 47.3, 0.05),
    ("segformer_b4", 150, 64.1, 0.05),
    ("segformer_b5", 150, 84.7, 0.05),
    ("hrnet_w48", 19, 65.86, 0.01),
    ("hrnet_ocr_w48", 19, 70.37, 0.01),
]


@pytest.mark.parametrize(("name", "classes", "millions", "within"), PUBLISHED_COUNTS)
def test_parameters_are_as_many_as_published(name, classes, millions, within):
    assert parameters(name, classes) / 1e6 == pytest.approx(millions, abs=within)


def test_misspelt_names_and_options_name_the_nearest():
    with pytest.raises(UserError, match=r"no model named 'unet_mobilnet_v2'.*Did you mean 'unet_mobilenet_v2'"):
        build_model("unet_mobilnet_v2", in_channels=3, classes=2)
    with pytest.raises(UserError, match=r"Did you mean 'unet'"):
        build_model("unett", in_channels=3, classes=2)
    with pytest.raises(UserError, match=r"'unet' has no option 'widht'.*Did you mean 'width'"):
        build_model("unet", in_channels=3, classes=2, options={"widht": 8})
    with pytest.raises(UserError, match=r"no option 'backbone'"):
        build_model("unet_resnet34", in_channels=3, classes=2, options={"backbone": "resnet18"})


def test_options_are_checked_against_the_constructor():
    with pytest.raises(UserError, match=r"options.width of 'unet'.*expected a whole number, found 'wide'"):
        build_model("unet", in_channels=3, classes=2, options={"width": "wide"})
    with pytest.raises(UserError, match=r"options.upsampling of 'unet'"):
        build_model("unet", in_channels=3, classes=2, options={"upsampling": "nearest"})
    model = build_model("unet_mobilenet_v2", in_channels=3, classes=2, options={"decoder_channels": [8, 8]})
    assert len(model.decoder) == 2


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="'classes' of a model is at least 1, found 0"):
        build_model("unet", in_channels=3, classes=0)
    with pytest.raises(UserError, match=r"'unet' has no backbone"):
        build_model("unet", in_channels=3, classes=1, backbone_weights="w.pth")


def test_families_take_any_backbone():
    assert "unet" in FAMILIES
    model = build_model("unet_resnet26", in_channels=3, classes=2, options={"decoder_channels": (8, 8)})
    assert model.backbone().name == "resnet26"


def test_import_paths_are_models_too():
    model = build_model("nuriwake.models.unet:UNet", in_channels=3, classes=2, options={"width": 2})
    assert isinstance(model, Model)


def test_the_list():
    assert list_models() == sorted(MODELS)
    assert list_models("unet_v") == ["unet_valid"]
    options = {"width": 64, "depth": 4, "bias": True, "upsampling": "transposed", "refine_channels": 0, "dropout": 0.0}
    assert model_options("unet") == options
