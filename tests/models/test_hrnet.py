"""HRNet with and without object context: published counts, sizes, channels, export, and what the parts compute."""

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.backbones import build_backbone
from nuriwake.models.backbones.hrnet import LAYOUTS, HRNetLayout
from nuriwake.models.hrnet import HRNet
from nuriwake.models.ocr import HRNetOCR, ObjectContext, region_representations
from nuriwake.models.outputs import fit_logits

TINY = HRNetLayout(4, (1, 1, 1), blocks=1, first_width=4, first_blocks=2)


def tiny(kind, in_channels=3, classes=2, **options):
    torch.manual_seed(0)
    extra = {"channels": 16} if kind is HRNetOCR else {}
    return kind(in_channels, classes, layout=TINY, **extra, **options)


# Cityscapes, 19 classes. The first two to the digit as the authors' code counts them (65.86 M and 70.37 M), the third as
# mmsegmentation's; the small ones as in the authors' README (1.5 M and 3.9 M).
@pytest.mark.parametrize(
    ("name", "options", "expected", "within"),
    [
        ("hrnet_w48", {}, 65_859_379, 0),
        ("hrnet_ocr_w48", {}, 70_372_678, 0),
        ("hrnet_w18", {"head_bias": False}, 9_640_849, 0),
        ("hrnet_w18_small_v1", {}, 1_500_000, 50_000),
        ("hrnet_w18_small_v2", {}, 3_900_000, 50_000),
    ],
)
def test_parameters_are_those_published(name, options, expected, within):
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=19, options=options)
    assert abs(count_parameters(model) - expected) <= within


@pytest.mark.parametrize("kind", [HRNet, HRNetOCR])
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 2), (12, 150)])
def test_any_channels_classes_and_sizes(kind, channels, classes):
    model = tiny(kind, channels, classes, align_corners=True).eval()
    assert model.fit_size(37, 50) == (37, 50)
    with torch.no_grad():
        assert model(torch.randn(2, channels, 37, 50)).logits.shape == (2, classes, 37, 50)
    output = model.train()(torch.randn(2, channels, 64, 33))
    assert output.logits.shape == (2, classes, 64, 33)
    sum(item.square().mean() for item in (output.logits, *output.auxiliary)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", [HRNet, HRNetOCR])
def test_without_align_corners_the_logits_stay_at_stride_4(kind):
    model = tiny(kind, align_corners=False).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 38, 61)).logits
    assert logits.shape == (1, 2, 10, 16)
    assert fit_logits(logits, (38, 61)).shape == (1, 2, 38, 61)


def test_images_seen_whole_keep_their_size_and_crops_lie_on_the_maps():
    model = tiny(HRNet, align_corners=False).eval()
    assert (model.fit_size(38, 61), model.fit_image(38, 61)) == ((64, 64), (38, 61))


@pytest.mark.parametrize("kind", [HRNet, HRNetOCR])
def test_enlarging_twice_differs_only_where_sides_are_no_multiples_of_32(kind):
    at_once, twice = (tiny(kind, align_corners=False, enlarge_twice=value).eval() for value in (False, True))
    assert at_once.state_dict().keys() == twice.state_dict().keys()
    twice.load_state_dict(at_once.state_dict())
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 96)
        assert torch.equal(at_once(images).logits, twice(images).logits)
        images = images[..., :38, :61]
        assert not torch.allclose(at_once(images).logits, twice(images).logits, atol=1e-3)


def test_branches_are_enlarged_twice_as_mmsegmentation_does():
    exchange = tiny(HRNet, enlarge_twice=True).eval().encoder.stage3[0]
    branches = [torch.randn(1, 4, 9, 13), torch.randn(1, 8, 5, 7), torch.randn(1, 16, 3, 4)]
    deep = [blocks(x) for blocks, x in zip(exchange.branches, branches, strict=True)]
    total = deep[0]
    for source in (1, 2):
        convolution, norm, _ = exchange.fuse_layers[0][source]
        path = norm(convolution(deep[source]))
        for target in ({"scale_factor": 2**source}, {"size": (9, 13)}):
            path = torch.nn.functional.interpolate(path, **target, mode="bilinear", align_corners=False)
        total = total + path
    assert torch.allclose(exchange(branches)[0], total.relu(), atol=1e-5)


def test_align_corners_puts_corner_on_corner():
    model = tiny(HRNet, align_corners=True).eval()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        small, large = model.scores(images), model(images).logits
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(small[:, :, *corner], large[:, :, *corner], atol=1e-5)


def test_the_auxiliary_logits_are_for_training_only():
    model, images = tiny(HRNetOCR, classes=5), torch.randn(2, 3, 32, 32)
    assert [item.shape for item in model.train()(images).auxiliary] == [(2, 5, 32, 32)]
    assert model.eval()(images).auxiliary == ()
    assert tiny(HRNet).train()(images).auxiliary == ()


def test_a_region_is_its_weighted_mean_pixel():
    features, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    found = region_representations(features, logits)
    for image in range(2):
        for region in range(6):
            weights = logits[image, region].exp() / logits[image, region].exp().sum()
            expected = (features[image] * weights).sum(dim=(1, 2))
            assert torch.allclose(found[image, :, region], expected, atol=1e-5)


def test_with_one_logit_the_background_is_the_second_region():
    features, logit = torch.randn(1, 3, 4, 4), torch.randn(1, 1, 4, 4)
    both = region_representations(features, torch.cat([-logit, logit], dim=1))
    assert torch.equal(region_representations(features, logit), both)
    alone = region_representations(features, logit, background_region=False)
    assert torch.allclose(alone, both[..., 1:], atol=1e-6)


def test_pixels_attend_to_regions_as_the_paper_writes_it():
    torch.manual_seed(0)
    block = ObjectContext(8, key_channels=4, dropout=0.5).eval()
    features, logits = torch.randn(1, 8, 3, 5), torch.randn(1, 6, 3, 5)
    regions = region_representations(features, logits)[..., None]
    query, key = block.pixel_query(features).flatten(2)[0], block.region_key(regions).flatten(2)[0]
    value = block.region_value(regions).flatten(2)[0]
    context = torch.stack([value @ (key.T @ query[:, pixel] / 4**0.5).softmax(0) for pixel in range(15)], dim=1)
    context = block.context(context.reshape(1, 4, 3, 5))
    expected = block.merge(torch.cat([context, features], dim=1))
    assert torch.allclose(block(features, logits), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [HRNet, HRNetOCR])
def test_export_and_bf16(kind):
    model, images = tiny(kind).eval(), torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        expected = model(images).logits
        exported = torch.export.export(model, (images,)).module()
        assert torch.allclose(exported(images).logits, expected, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images).logits
    assert (half.float() - expected).abs().max() <= 0.1 * expected.abs().max()


@pytest.mark.parametrize("kind", [HRNet, HRNetOCR])
def test_stages_hold_every_parameter_once(kind):
    model = tiny(kind)
    listed = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert model.backbone() is model.encoder


@pytest.mark.parametrize(("ours", "theirs"), [(name, name.replace("v2_", "_").replace("_v1", "")) for name in LAYOUTS])
def test_the_backbones_names_and_shapes_are_those_of_timms_files(ours, theirs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        published = build_backbone(ours, in_channels=3).published()
        found = {key: item.shape for key, item in timm.create_model(theirs).state_dict().items()}
    assert {key: found.get(key) for key in published.shapes} == published.shapes
    assert all(key.startswith(published.beyond) for key in found.keys() - published.shapes.keys())


def test_the_encoder_takes_a_file_and_serves_a_unet(tmp_path):
    donor = build_backbone("hrnetv2_w18_small_v1", in_channels=3)
    torch.save({**donor.state_dict(), "classifier.weight": torch.zeros(10, 2048)}, tmp_path / "donor.pth")
    model = build_model("hrnet_w18_small_v1", in_channels=1, classes=2, backbone_weights=tmp_path / "donor.pth")
    assert torch.equal(model.encoder.conv2.weight, donor.conv2.weight)
    assert "adapted from 3 to 1" in model.notes[0]
    unet = build_model("unet_hrnetv2_w18_small_v1", in_channels=3, classes=2).eval()
    assert unet(torch.randn(1, 3, 64, 64)).logits.shape == (1, 2, 64, 64)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"no backbone 'hrnetv2_w47'.*Did you mean 'hrnetv2_w48'"):
        HRNet(3, 2, backbone="hrnetv2_w47")
    with pytest.raises(UserError, match="output stride is 32"):
        build_backbone("hrnetv2_w18", in_channels=3, output_stride=8)
    with pytest.raises(UserError, match="at least 1"):
        HRNetLayout(0)
