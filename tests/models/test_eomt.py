"""EoMT: shapes, masked attention and its annealing, any image size, and its backbone beside timm's."""

import math

import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.backbones import vit
from nuriwake.models.backbones.vit import SIZES, Attention, VisionTransformer, VisionTransformerSize
from nuriwake.models.backbones.vit_names import convert_vit, fit_kernel
from nuriwake.models.eomt import EoMT


@pytest.fixture
def tiny(monkeypatch):
    """The small size made tiny, so that these tests are about structure and not about patience."""
    monkeypatch.setitem(vit.SIZES, "dinov2_small", VisionTransformerSize(48, 3, 5))
    torch.manual_seed(0)

    def build(in_channels=3, classes=5, **options):
        options = {"image_size": 64, "queries": 7} | options
        return build_model("eomt_small", in_channels=in_channels, classes=classes, options=options)

    return build


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 2), (4, 80)])
def test_shapes(tiny, channels, classes):
    model = tiny(channels, classes)
    images = torch.randn(2, channels, 64, 96)
    output = model.train()(images)
    assert output.class_logits.shape == (2, 7, classes + 1)
    assert output.mask_logits.shape == (2, 7, 16, 24)
    assert [tuple(masks.shape) for _, masks in output.auxiliary] == [(2, 7, 16, 24)] * 3
    answer = model.eval()(images)
    assert answer.auxiliary == ()
    assert answer.mask_logits.shape == (2, 7, 16, 24)


def test_sizes(tiny):
    model = tiny()
    assert model.fit_size(33, 100) == (48, 112)
    assert tiny(padded=True).fit_size(33, 100) == (64, 112)
    with pytest.raises(UserError, match="does not take images of 33x64 pixels"):
        model(torch.zeros(1, 3, 33, 64))
    with pytest.raises(UserError, match="multiple of its patches of 16, found 100"):
        tiny(image_size=100)
    with pytest.raises(UserError, match="at least 1 query and 1 to 5 blocks"):
        tiny(query_blocks=6)
    with pytest.raises(UserError, match=r"plain vision transformer .* not on 'resnet50'"):
        EoMT(3, 5, backbone="resnet50")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # The count of the published reference; the others are DINOv2's sizes (tables 8 and 17 of its paper) plus the head.
        ("eomt_small", {"queries": 100, "image_size": 256}, 23_421_446),
        ("eomt_base", {}, 93_663_110),
        ("eomt_large", {}, 316_695_686),
        ("eomt_giant", {}, 1_163_622_022),
    ],
)
def test_parameter_counts(name, options, expected):
    with torch.device("meta"):
        model = build_model(name, in_channels=3, classes=133, options=options)
    assert count_parameters(model) == expected


def test_stages_hold_every_parameter_once(tiny):
    model = tiny()
    found = [id(parameter) for stage in model.stages() for parameter in stage.parameters()]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    assert len(model.stages()) == 5
    # As published: patches and positions learn as the first block, the head and the last norm as the last.
    first, last = model.stages()[0], model.stages()[-1]
    assert model.encoder.embedding.positions is next(p for p in first.parameters() if p.shape == (4, 4, 48))
    assert any(parameter is model.head.queries for parameter in last.parameters())
    assert any(parameter is model.encoder.norm.weight for parameter in last.parameters())


def test_positions_of_another_size_are_interpolated(tiny):
    embedding = tiny().encoder.embedding
    images = torch.zeros(1, 3, 32, 128)
    with torch.no_grad():
        embedding.projection.bias.zero_()
        tokens = embedding(images)[:, 5:].transpose(1, 2).unflatten(-1, (2, 8))
        expected = functional.interpolate(
            embedding.positions.permute(2, 0, 1)[None], size=(2, 8), mode="bicubic", align_corners=False
        )
    torch.testing.assert_close(tokens, expected)


def test_masked_attention_is_that_of_a_full_mask():
    torch.manual_seed(0)
    attention, x = Attention(24, 3), torch.randn(2, 9, 24)
    allowed = torch.rand(2, 4, 9) > 0.5
    allowed[..., 0] = True
    full = torch.ones(2, 9, 9, dtype=torch.bool)
    full[:, :4] = allowed
    query, key, value = attention.query_key_value(x).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.masked_fill(~full, -torch.inf).softmax(-1) @ value[..., part])
    torch.testing.assert_close(attention(x, allowed), attention.output(torch.cat(heads, dim=-1)))
    torch.testing.assert_close(attention(x, torch.ones_like(allowed)), attention(x))


def test_annealing_lifts_one_block_after_the_other(tiny):
    model = tiny()
    expected = {
        0.0: (1, 1, 1),
        2 / 12: (1, 1, 1),
        3 / 12: (0.5**0.9, 1, 1),
        5 / 12: (0, 1, 1),
        6 / 12: (0, 0.5**0.9, 1),
        9 / 12: (0, 0, 0.5**0.9),
        10 / 12: (0, 0, 0),
        1.0: (0, 0, 0),
    }
    for share, shares in expected.items():
        model.set_progress(share)
        torch.testing.assert_close(model.mask_share, torch.tensor(shares, dtype=torch.float32), atol=1e-6, rtol=0)
    four = tiny(query_blocks=4)
    four.set_progress(3.5 / 6)
    torch.testing.assert_close(four.mask_share, torch.tensor([0, 0, 0.5**0.9, 1]), atol=1e-6, rtol=0)
    fixed = tiny(annealing=False)
    fixed.set_progress(1.0)
    assert fixed.mask_share.tolist() == [1, 1, 1]


def test_limits_while_training_and_in_eval_mode(tiny):
    model, images = tiny(), torch.randn(1, 3, 64, 64)
    mask_logits = model(images).mask_logits
    for share, most in ((0.0, True), (0.55, None), (1.0, False)):
        model.set_progress(share)
        torch.manual_seed(3)
        allowed = model.train()._allowed(mask_logits, (4, 4), 1)
        assert allowed.shape == (1, 7, 7 + 5 + 16)
        assert bool(allowed[..., :12].all())
        inside = functional.interpolate(mask_logits, size=(4, 4), mode="bilinear").flatten(2) > 0
        free = allowed[..., 12:].all(-1)
        assert torch.equal(allowed[..., 12:], inside | free[..., None])
        if most is not None:
            assert bool(free.all()) is not most
    model.eval()
    answers = {}
    for name, share in (("limited", 0.0), ("free", 1.0)):
        model.set_progress(share)
        answers[name] = model(images).mask_logits
        assert torch.equal(model(images).mask_logits, answers[name])
    assert not torch.allclose(answers["limited"], answers["free"])
    # The state lies in the weights: a copy that was filled from a file answers alike.
    other = tiny()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images).mask_logits, answers["free"])


def test_training_draws_from_the_global_generator_alone(tiny):
    model, images = tiny().train(), torch.randn(1, 3, 64, 64)
    model.set_progress(0.3)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(model(images).mask_logits)
    assert torch.equal(*found)


def test_a_step_gives_every_parameter_a_finite_gradient(tiny):
    model = tiny().train()
    output = model(torch.randn(2, 3, 64, 64))
    parts = (output[:2], *output.auxiliary)
    sum(logits.square().mean() for pair in parts for logits in pair).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_bfloat16(tiny):
    model, images = tiny().eval(), torch.randn(1, 3, 64, 64)
    model.set_progress(1.0)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images)
    assert (exact.class_logits - rounded.class_logits.float()).abs().max() < 0.1 * exact.class_logits.abs().max()


def test_export(tiny):
    model, images = tiny().eval(), torch.randn(1, 3, 64, 96)
    model.set_progress(1.0)
    with torch.no_grad():
        exported = torch.export.export(model, (images,))
        found, expected = exported.module()(images), model(images)
    torch.testing.assert_close(found.class_logits, expected.class_logits)
    torch.testing.assert_close(found.mask_logits, expected.mask_logits)


@pytest.mark.parametrize("gated", [False, True])
def test_backbone_is_timms(monkeypatch, gated):
    timm = pytest.importorskip("timm")
    monkeypatch.setitem(SIZES, "tiny", VisionTransformerSize(48, 3, 2, gated=gated))
    torch.manual_seed(0)
    options = {"mlp_ratio": 2.66667 * 2, "mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=3, reg_tokens=4, no_embed_class=True,
        init_values=0.5, num_classes=0, **(options if gated else {}),
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = VisionTransformer(3, name="tiny", grid=(4, 4)).eval()
    ours.load_state_dict(convert_vit(theirs.state_dict(), patch=16, grid=(4, 4)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (found,) = ours(images)
        expected = theirs.forward_features(images)[:, 5:].transpose(1, 2).unflatten(-1, (4, 4))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_weights_of_other_names_and_patches(monkeypatch):
    """DINOv2's own files and transformers': a class position before the others, patches of 14, split projections."""
    monkeypatch.setitem(SIZES, "tiny", VisionTransformerSize(48, 3, 1))
    ours = VisionTransformer(3, name="tiny", grid=(4, 4))
    state = ours.state_dict()
    block = {
        "norm1": "attention_norm", "norm2": "feed_norm", "attn.qkv": "attention.query_key_value",
        "attn.proj": "attention.output", "mlp.fc1": "feed.widen", "mlp.fc2": "feed.narrow",
    }  # fmt: skip
    authors = {
        f"blocks.0.{name}.{kind}": state[f"blocks.0.{own}.{kind}"]
        for name, own in block.items()
        for kind in ("weight", "bias")
    }
    authors |= {
        "cls_token": torch.randn(1, 1, 48), "register_tokens": torch.randn(1, 4, 48), "mask_token": torch.zeros(1, 48),
        "pos_embed": torch.randn(1, 1 + 6 * 6, 48), "patch_embed.proj.weight": torch.randn(48, 3, 14, 14),
        "patch_embed.proj.bias": torch.randn(48), "norm.weight": torch.randn(48), "norm.bias": torch.randn(48),
        "blocks.0.ls1.gamma": torch.randn(48), "blocks.0.ls2.gamma": torch.randn(48),
    }  # fmt: skip
    found = ours.convert(authors)
    assert set(found) - {"mask_token"} == set(state)
    assert {key: item.shape for key, item in found.items() if key in state} == {k: v.shape for k, v in state.items()}
    torch.testing.assert_close(found["embedding.class_token"], authors["cls_token"] + authors["pos_embed"][:, 0])
    split = {}
    for key, item in authors.items():
        if ".qkv." in key:
            for name, part in zip(("query", "key", "value"), item.chunk(3), strict=True):
                split[f"encoder.layer.0.attention.attention.{name}.{key.rpartition('.')[2]}"] = part
        elif key.startswith("blocks.0.attn.proj"):
            split[key.replace("blocks.0.attn.proj", "encoder.layer.0.attention.output.dense")] = item
        elif key.startswith("blocks.0."):
            key = key.replace("blocks.0.", "encoder.layer.0.").replace("ls1.gamma", "layer_scale1.lambda1")
            split[key.replace("ls2.gamma", "layer_scale2.lambda1")] = item
        else:
            names = {"pos_embed": "position_embeddings", "patch_embed.proj": "patch_embeddings.projection"}
            for theirs, other in names.items():
                key = key.replace(theirs, other)
            split[key if key.startswith("norm") else f"embeddings.{key}"] = item
    split = {key.replace("norm.", "layernorm.") if key.startswith("norm.") else key: i for key, i in split.items()}
    same = ours.convert(split)
    for key in state:
        assert torch.equal(same[key], found[key]), key


def test_a_resized_kernel_answers_for_resized_patches():
    torch.manual_seed(0)
    kernel, patches = torch.randn(5, 3, 14, 14), torch.randn(6, 3, 14, 14)
    larger = functional.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    found = torch.einsum("nihw,oihw->no", larger, fit_kernel(kernel, 16))
    torch.testing.assert_close(found, torch.einsum("nihw,oihw->no", patches, kernel), atol=1e-3, rtol=1e-3)
