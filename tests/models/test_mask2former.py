"""Mask2Former: shapes, deep supervision, masked attention against its definition, sizes, export, and fresh weights.

The parity with the published implementation is in tests/weights/published/test_mask2former.py.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models import MODELS, build_model, count_parameters
from nuriwake.models.backbones import resnet, swin
from nuriwake.models.mask2former import Attention, Mask2Former
from nuriwake.models.outputs import QueryOutput
from nuriwake.models.pixel_decoder import PixelDecoder, sine_positions

NAMES = [name for name in MODELS if name.startswith("mask2former_")]
SMALL = {"channels": 32, "queries": 7, "pixel_layers": 2, "decoder_layers": 4}


@pytest.fixture
def small(monkeypatch):
    """Shallow backbones and narrow decoders: these tests are about structure and not about patience."""
    for depth in (50, 101):
        monkeypatch.setitem(resnet.DEPTHS, depth, (1, 1, 1, 1))
    for name in swin.SIZES:
        monkeypatch.setitem(swin.SIZES, name, (12, (2, 1, 1, 1), (1, 2, 3, 4), 4))
    torch.manual_seed(0)

    def build(name="mask2former_r50", in_channels=3, classes=5, **options):
        return build_model(name, in_channels=in_channels, classes=classes, options=SMALL | options)

    return build


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 2), (4, 80), (12, 5)])
def test_images_in_output_out(small, name, channels, classes):
    model = small(name, channels, classes)
    size = model.fit_size(33, 70)
    assert size == (64, 96)
    images = torch.randn(2, channels, *size)
    output = model.train()(images)
    assert isinstance(output, QueryOutput)
    assert output.class_logits.shape == (2, 7, classes + 1)
    assert output.mask_logits.shape == (2, 7, 16, 24)
    assert len(output.auxiliary) == 4  # of the untouched queries, and of all layers but the last
    for class_logits, mask_logits in output.auxiliary:
        assert class_logits.shape == output.class_logits.shape
        assert mask_logits.shape == output.mask_logits.shape
    with torch.no_grad():
        answer = model.eval()(images)
    assert answer.auxiliary == ()
    assert answer.mask_logits.isfinite().all()


def test_eval_is_the_last_answer_of_training(small):
    model = small("mask2former_swin_tiny").train()
    for part in model.modules():
        if isinstance(part, swin.Block):
            part.drop_path = 0
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trained, answered = model(images), model.eval()(images)
    assert torch.equal(trained.class_logits, answered.class_logits)
    assert torch.equal(trained.mask_logits, answered.mask_logits)


def test_each_layer_looks_inside_the_mask_before_it(small):
    """The published order: full masks, shrunk, through the sigmoid, under 0.5 is out, and all of an empty mask is in."""
    model = small().eval()
    features, levels = torch.randn(2, 32, 16, 24), [torch.randn(2, 32, 16 >> n, 24 >> n) for n in (3, 2, 1)]
    decoder, kept = model.decoder, []

    def keep(part, arguments):
        kept.append(arguments)

    for layer in decoder.layers:
        layer.register_forward_pre_hook(keep)
    decoder(features, levels)
    assert len(kept) == 4
    for index, (x, asking, seen, places, allowed) in enumerate(kept):
        size = levels[index % 3].shape[-2:]
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask(decoder.norm(x)), features)
        shrunk = functional.interpolate(masks, size, mode="bilinear", align_corners=False).sigmoid().flatten(2)
        outside = shrunk < 0.5
        outside[outside.all(dim=-1)] = False
        clear = (shrunk - 0.5).abs() > 1e-5
        assert torch.equal(allowed[:, 0][clear], ~outside[clear])
        assert allowed.any(dim=-1).all()
        expected = levels[index % 3].flatten(2).transpose(1, 2) + decoder.level_positions.weight[index % 3]
        assert torch.equal(seen, expected)
        assert torch.equal(places, sine_positions(tuple(size), 32, x.device))
        assert asking is decoder.query_positions.weight


def test_an_empty_mask_looks_everywhere(small):
    decoder = small().eval().decoder
    nn.init.zeros_(decoder.mask[-1].weight)
    nn.init.zeros_(decoder.mask[-1].bias)
    x = decoder.queries.weight[None]
    with torch.no_grad():
        decoder.mask[-1].bias[0] = 1.0
    features = -torch.ones(1, 32, 4, 4)
    assert decoder._allowed(x, features).all()  # every logit is -1: nothing is inside
    features[0, 0, 0, 0] = 1.0
    assert decoder._allowed(x, features).sum(dim=-1).unique().tolist() == [1]


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    ours, theirs = Attention(8, heads=2, dropout=0.0), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([nn.init.normal_(part.bias) for part in parts]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(nn.init.normal_(ours.output.bias))
    x, query, key, value = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    allowed = torch.rand(2, 1, 3, 5) > 0.5
    allowed[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~allowed.repeat(1, 2, 1, 1).flatten(0, 1))
    assert torch.allclose(ours(x, query, key, value, allowed), ours.norm(x + expected), atol=1e-6)


def test_positions_are_the_papers():
    """DETR's: a sine and a cosine per pair of channels, rows in the first half, at (n + 1) / N of 2 pi."""
    found = sine_positions((3, 5), 16, torch.device("cpu")).view(3, 5, 16)
    for row in range(3):
        for column in range(5):
            for half, (place, side) in enumerate(((row, 3), (column, 5))):
                for pair in range(4):
                    angle = (place + 1) / side * 2 * math.pi / 10000 ** (2 * pair / 8)
                    first, second = found[row, column, 8 * half + 2 * pair : 8 * half + 2 * pair + 2].tolist()
                    assert first == pytest.approx(math.sin(angle), abs=1e-5)
                    assert second == pytest.approx(math.cos(angle), abs=1e-5)


def test_the_pixel_decoder_keeps_resolutions_and_their_order():
    torch.manual_seed(0)
    decoder = PixelDecoder((4, 8, 12, 16), 32, heads=1, hidden=64, layers=2, dropout=0.0)
    maps = [torch.randn(2, width, 24 >> level, 40 >> level) for level, width in enumerate((4, 8, 12, 16))]
    features, levels = decoder(maps)
    assert features.shape == (2, 32, 24, 40)
    assert [tuple(x.shape[-2:]) for x in levels] == [(3, 5), (6, 10), (12, 20)]
    # Every level hears of every other.
    for level in range(1, 4):
        changed = [x + (index == level) * torch.randn_like(x) for index, x in enumerate(maps)]
        assert all((mine - other).abs().max() > 1e-6 for mine, other in zip(decoder(changed)[1], levels, strict=True))


def test_one_step_reaches_every_parameter(small):
    model = small().train()
    output = model(torch.randn(2, 3, 64, 64))
    answers = [output[:2], *output.auxiliary]
    sum(part.square().mean() for answer in answers for part in answer).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key
    staged = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in model.parameters())
    assert model.backbone() is model.encoder


def test_masks_that_choose_where_to_look_carry_no_gradient(small):
    model = small(decoder_layers=1).train()
    output = model(torch.randn(1, 3, 64, 64))
    output.class_logits.sum().backward()
    assert model.decoder.mask[0].weight.grad is None
    assert model.pixels.masks.weight.grad is None


@pytest.mark.parametrize("name", ["mask2former_r50", "mask2former_swin_tiny"])
def test_it_exports(small, name):
    model = small(name, pixel_layers=1, decoder_layers=3).eval()
    images = torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (images,), strict=False)
    with torch.no_grad():
        ours, theirs = model(images), program.module()(images)
    assert torch.allclose(theirs.class_logits, ours.class_logits, atol=1e-4)
    assert torch.allclose(theirs.mask_logits, ours.mask_logits, atol=1e-4)


@pytest.mark.parametrize("name", ["mask2former_r50", "mask2former_swin_tiny"])
def test_bf16_gives_about_the_same(small, name):
    model = small(name).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = model(images)
        last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    assert torch.allclose(plain.mask_logits, last.mask_logits, atol=1e-4 * plain.mask_logits.abs().max().item())
    for mine, other in zip(half[:2], plain[:2], strict=True):
        assert mine.isfinite().all()
        assert (mine.float() - other).abs().mean() < 0.1 * other.abs().max()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The published references' counts, at COCO's 133 classes; Swin's less a norm of 2 * 768 that nothing reads.
        ("mask2former_r50", 44_036_998),
        ("mask2former_swin_tiny", 47_436_800 - 2 * 768),
        # Table I of the paper, in millions: 63, 69, 107 and 216.
        ("mask2former_r101", 63_029_126),
        ("mask2former_swin_small", 68_753_168),
        ("mask2former_swin_base", 106_917_822),
        ("mask2former_swin_large", 215_535_610),
        ("mask2former_mobilenet_v2", 5_046_838),
    ],
)
def test_parameters(name, expected):
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=133)
    assert count_parameters(model) == expected


def test_fresh_weights_are_drawn_as_published(small):
    model = small(channels=256, queries=100)
    layer = model.decoder.layers[0].image_attention
    stacked = torch.cat([layer.query.weight, layer.key.weight, layer.value.weight])
    assert 0.95 * math.sqrt(6 / 1024) < stacked.abs().max() <= math.sqrt(6 / 1024)  # Xavier over 256 to 768
    assert 0.95 * math.sqrt(6 / 512) < layer.output.weight.abs().max() <= math.sqrt(6 / 512)
    for part in (layer.query, layer.output, model.pixels.masks, model.pixels.projections[0][0]):
        assert not part.bias.any()
    for embedding in (model.decoder.queries, model.decoder.query_positions):
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.02)
    assert model.pixels.level_positions.std().item() == pytest.approx(1, abs=0.1)
    feed = model.pixels.layers[0].feed.widen.weight
    assert 0.95 * math.sqrt(6 / 1280) < feed.abs().max() <= math.sqrt(6 / 1280)
    smooth = model.pixels.smooth[0].weight
    assert smooth.std().item() == pytest.approx(math.sqrt(1 / 2304), rel=0.02)  # variance 1 / fan-in


def test_frozen_norms_stay(small):
    model = small(frozen_norm=True).train()
    norm = model.encoder.bn1
    before = norm.running_mean.clone()
    model(torch.randn(2, 3, 64, 64)).mask_logits.mean().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad is None
    assert model.encoder.conv1.weight.grad is not None
    other = small().train()
    other(torch.randn(2, 3, 64, 64))
    assert not torch.equal(other.encoder.bn1.running_mean, before)


def test_what_it_cannot_be_is_refused(small):
    with pytest.raises(UserError, match="'channels' of a Mask2Former is a multiple of 32, found 40"):
        small(channels=40)
    with pytest.raises(UserError, match="at least one query"):
        small(queries=0)
    with pytest.raises(UserError, match=r"maps at the strides \(4, 8, 16, 32\), 'dinov2_small' has"):
        Mask2Former(3, 5, backbone="dinov2_small")
    with pytest.raises(UserError, match="does not take images of 64x65 pixels"):
        small()(torch.zeros(1, 3, 64, 65))


def test_any_backbone_with_these_strides_will_do():
    model = build_model("mask2former_resnet18", in_channels=4, classes=2, options=SMALL)
    assert model.eval()(torch.randn(1, 4, 64, 64)).mask_logits.shape == (1, 7, 16, 16)
