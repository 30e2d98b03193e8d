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

# Narrow, so that the promise is tested and not the processor; a model without an entry here is tested as it is.
SMALL_SEGFORMER = {"channels": 16, "encoder": {"widths": (8, 16, 20, 32), "depths": (1, 2, 1, 1)}}
NARROW = {
    "deeplabv3_resnet50": {"channels": 8, "auxiliary_channels": 8},
    "deeplabv3_resnet101": {"channels": 8, "auxiliary_channels": 8},
    "deeplabv3_mobilenet_v3_large": {"channels": 8},
    "deeplabv3plus_resnet50": {"channels": 8},
    "deeplabv3plus_mobilenet_v2": {"channels": 8},
    "unet": {"width": 4},
    "unet_valid": {"width": 4, "depth": 2},
    "unet_mobilenet_v2": {"decoder_channels": (8, 8, 8, 8)},
    "unet_resnet34": {"decoder_channels": (8, 8, 8, 8)},
    **{f"segformer_b{size}": SMALL_SEGFORMER for size in range(6)},
}


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets of one block per stage: enough for a promise, a tenth of the time."""
    for depth in (50, 101):
        monkeypatch.setitem(resnet.DEPTHS, depth, (1, 1, 1, 1))


pytestmark = pytest.mark.usefixtures("shallow")
# Those of other tasks put out something else; their promises stand in the tests of each architecture.
EVERY = pytest.mark.parametrize("name", sorted(name for name, entry in MODELS.items() if entry.task == "semantic"))


def built(name: str, *, in_channels: int = 3, classes: int = 2, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(name, in_channels=in_channels, classes=classes, options=NARROW.get(name))


def image(model: Model, channels: int, height: int, width: int, batch: int = 2) -> torch.Tensor:
    size = model.fit_size(height + 2 * model.margin, width + 2 * model.margin)
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def covers(logits: torch.Tensor, images: torch.Tensor, model: Model) -> bool:
    """The logits have one scale, the same in both directions, over the input less the margin."""
    scales = [(images.shape[i] - 2 * model.margin) / logits.shape[i] for i in (2, 3)]
    return scales[0] == scales[1] and scales[0] >= 1


@EVERY
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 1), (3, 2), (4, 1), (12, 5)])
def test_images_in_output_out(name, in_channels, classes):
    model = built(name, in_channels=in_channels, classes=classes)
    for training, (height, width) in ((True, (37, 51)), (False, (20, 41)), (False, (64, 32))):
        model.train(training)
        images = image(model, in_channels, height, width)
        with torch.no_grad():
            output = model(images)
        assert isinstance(output, PixelLogits)
        assert output.logits.shape[:2] == (2, classes)
        assert covers(output.logits, images, model)
        assert output.logits.isfinite().all()
        assert training or output.auxiliary == ()


@EVERY
def test_every_parameter_learns_and_has_one_stage(name):
    model = built(name).train()
    output = model(image(model, 3, 64, 64))
    # A quadratic and not a sum: behind a batch norm the gradient of a plain sum vanishes.
    sum(logits.square().mean() for logits in (output.logits, *output.auxiliary)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    own = {id(parameter) for parameter in model.parameters()}
    backbone = model.backbone()
    assert (backbone is None) == (MODELS[name].backbone is None)
    assert backbone is None or {id(parameter) for parameter in backbone.parameters()} < own


@EVERY
def test_fresh_weights_are_a_function_of_the_seed(name):
    first, again, other = built(name).state_dict(), built(name).state_dict(), built(name, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].ndim == 4]
    assert drawn
    for key in drawn:
        assert not torch.equal(first[key], other[key]), key
        assert 0 < first[key].std() < 2, key


@EVERY
def test_fresh_logits_are_neither_flat_nor_wild(name):
    model = built(name).eval()
    for part in model.modules():  # as in training, where the batch's own statistics normalise
        if isinstance(part, nn.BatchNorm2d):
            part.train()
    with torch.no_grad():
        deviation = model(image(model, 3, 64, 64)).logits.std()
    assert 1e-3 < deviation < 20


@EVERY
def test_it_exports(name):
    model = built(name).eval()
    images = image(model, 3, 32, 32, batch=1)
    program = torch.export.export(model, (images,), strict=False)
    with torch.no_grad():
        assert torch.allclose(program.module()(images).logits, model(images).logits, atol=1e-5)


@EVERY
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
        model = built(name)
    for height, width in itertools.product((1, 31, 32, 33, 188, 189, 572, 900), repeat=2):
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


def test_default_parameters():
    """A change here is a change of every bundle made with the defaults."""
    expected = {"unet": 31_043_586, "unet_valid": 31_031_810, "unet_mobilenet_v2": 2_452_610}
    for name, count in expected.items():
        with torch.device("meta"):
            assert count_parameters(build_model(name, in_channels=3, classes=2)) == count


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
