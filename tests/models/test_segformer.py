"""SegFormer: its decoder against the published order of operations, sizes, options, and its encoder as a backbone.

The parity with the published implementations is in tests/weights/published/test_segformer.py.
"""

import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models import build_model, count_parameters
from nuriwake.models.backbones import BACKBONES, build_backbone
from nuriwake.models.segformer import SIZES, Decoder, EfficientAttention, MixTransformerOptions, SegFormer

SMALL = MixTransformerOptions(widths=(8, 16, 20, 32), depths=(1, 2, 1, 1))


def decoder_as_published(decoder: Decoder, maps: list[torch.Tensor]) -> torch.Tensor:
    """Project, enlarge, concatenate, fuse."""
    enlarged = []
    for index, x in enumerate(maps):
        x = decoder.projections[index](x)
        if len(decoder.projection_norms):
            x = functional.relu(decoder.projection_norms[index](x))
        enlarged.append(functional.interpolate(x, maps[0].shape[-2:], mode="bilinear", align_corners=False))
    return functional.relu(decoder.norm(decoder.fuse(torch.cat(enlarged, dim=1))))


@pytest.mark.parametrize("map_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_fusing_before_enlarging_is_the_published_decoder(map_norm, training):
    torch.manual_seed(0)
    decoder = Decoder((8, 16, 24), 12, map_norm=map_norm).train(training)
    maps = [torch.randn(2, width, 16 >> level, 24 >> level) for level, width in enumerate((8, 16, 24))]
    for projection in decoder.projections:
        if projection.bias is not None:
            torch.nn.init.normal_(projection.bias)
    ours, expected = decoder(maps), decoder_as_published(decoder, maps)
    assert torch.allclose(ours, expected, atol=1e-5)
    parameters = list(decoder.parameters())
    for mine, other in zip(
        torch.autograd.grad(ours.square().mean(), parameters),
        torch.autograd.grad(expected.square().mean(), parameters),
        strict=True,
    ):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max() + 1e-6


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_is_the_textbooks(reduction):
    torch.manual_seed(0)
    attention = EfficientAttention(12, heads=3, reduction=reduction, epsilon=1e-5)
    x = torch.randn(2, 4, 6, 12)
    context = x
    if reduction > 1:
        context = attention.reduction_norm(attention.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    query, (key, value) = attention.query(x), attention.key_value(context).split(12, dim=-1)
    answer = torch.empty(2, 24, 12)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        q, k, v = (item.reshape(2, -1, 12)[..., part] for item in (query, key, value))
        answer[..., part] = torch.softmax(q @ k.transpose(1, 2) / 4**0.5, dim=-1) @ v
    assert torch.allclose(attention(x), attention.output(answer.reshape(x.shape)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("b0", 3.75), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)],
)
def test_parameters_are_as_published(name, millions):
    with torch.device("meta"):
        count = count_parameters(build_model(f"segformer_{name}", in_channels=3, classes=150))
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 10 else 0.005)


def test_logits_are_at_stride_4_or_enlarged():
    images = torch.randn(1, 4, 64, 96)
    assert SegFormer(4, 150, channels=16, encoder=SMALL).eval()(images).logits.shape == (1, 150, 16, 24)
    model = SegFormer(4, 1, channels=16, encoder=SMALL, aligned_upsampling=4).eval()
    assert model(images).logits.shape == (1, 1, 64, 96)


def test_odd_sizes_are_fitted():
    model = SegFormer(1, 2, channels=16, encoder=SMALL).eval()
    assert model.fit_size(33, 5) == (64, 32)
    assert model.fit_image(33, 5) == (33, 32)
    with pytest.raises(UserError, match="pad them to 33x32"):
        model(torch.zeros(1, 1, 33, 31))
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 33, 50)).logits.shape == (1, 2, 9, 13)
    # segmentation_models_pytorch enlarges so many times, which other sides do not bear.
    model = SegFormer(1, 2, channels=16, encoder=SMALL, aligned_upsampling=4).eval()
    with pytest.raises(UserError, match="pad them to 64x32"):
        model(torch.zeros(1, 1, 33, 32))


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    block = SegFormer(3, 2, encoder=MixTransformerOptions(drop_path=0.5)).encoder.levels[-1].blocks[-1]
    assert block.drop_path == pytest.approx(0.5)
    dropped = block.train()._dropped(torch.ones(4000, 2, 2, 3))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    assert (block.eval()._dropped(dropped) == dropped).all()


def test_drop_path_rises_from_nothing():
    levels = SegFormer(3, 2, encoder=MixTransformerOptions(depths=(1, 2, 1, 1), drop_path=0.4)).encoder.levels
    shares = [block.drop_path for level in levels for block in level.blocks]
    assert shares == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_epsilons_reach_their_norms():
    encoder = build_backbone(
        "mit_b0", in_channels=3, options={"options": MixTransformerOptions(epsilon=3e-6, embedding_epsilon=2e-5)}
    )
    norms = {key: part.eps for key, part in encoder.named_modules() if isinstance(part, torch.nn.LayerNorm)}
    for key, epsilon in norms.items():
        assert epsilon == (2e-5 if key.endswith(("embedding.norm", "reduction_norm")) else 3e-6), key
    assert set(norms.values()) == {2e-5, 3e-6}


def test_the_encoder_is_a_backbone_for_others():
    assert set(SIZES) <= set(BACKBONES)
    backbone = build_backbone("mit_b0", in_channels=2)
    maps = backbone(torch.randn(1, 2, 64, 32))
    assert [tuple(x.shape) for x in maps] == [(1, 32, 16, 8), (1, 64, 8, 4), (1, 160, 4, 2), (1, 256, 2, 1)]
    backbone.cut(2)
    assert [x.shape[1] for x in backbone(torch.randn(1, 2, 64, 32))] == [32, 64] == list(backbone.channels)
    assert backbone.strides == (4, 8)
    model = build_model("unet_mit_b0", in_channels=2, classes=3).eval()
    assert model(torch.randn(1, 2, 32, 32)).logits.shape == (1, 3, 32, 32)


def test_the_decoder_takes_other_backbones():
    model = build_model("segformer_mobilenet_v2", in_channels=3, classes=5, options={"channels": 8}).eval()
    assert model.used == (1, 2, 3, 4)
    assert model(torch.randn(1, 3, 64, 32)).logits.shape == (1, 5, 16, 8)


def test_the_licence_of_the_encoders_weights_is_recorded():
    assert all("no commercial use" in BACKBONES[name].licence for name in SIZES)


def test_encoder_weights_of_every_source_fill_the_backbone(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.encoders.get_encoder("mit_b0", weights=None).eval()
    state = {key: item.contiguous() for key, item in theirs.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(3, 256), "head.bias": torch.zeros(3)}, tmp_path / "mit.safetensors")
    ours = build_backbone("mit_b0", in_channels=3, weights=tmp_path / "mit.safetensors").eval()
    assert "left out (behind the last feature map): head" in ours.notes[0]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for mine, other in zip(ours(images), theirs(images)[2:], strict=True):
            assert torch.allclose(mine, other, atol=1e-4 * other.abs().max().item())
    del state["block1.0.attn.kv.weight"]
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match=r"1 missing: levels.0.blocks.0.attention.key_value.weight"):
        build_backbone("mit_b0", in_channels=3, weights=tmp_path / "torn.safetensors")


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"output stride of 'mit_b1' is 32, found 8"):
        build_backbone("mit_b1", in_channels=3, output_stride=8)
    with pytest.raises(UserError, match=r"four widths that divide by .*\(8, 16, 24, 32\)"):
        SegFormer(3, 2, encoder=MixTransformerOptions(widths=(8, 16, 24, 32)))
    with pytest.raises(UserError, match=r"four widths"):
        SegFormer(3, 2, encoder=MixTransformerOptions(depths=(1, 1, 1)))
    with pytest.raises(UserError, match=r"options 'encoder' are those of a Mix Transformer"):
        SegFormer(3, 2, backbone="mobilenet_v2", encoder=SMALL)
    with pytest.raises(UserError, match=r"no field 'options.encoder of 'segformer_b0'.droppath'.*drop_path"):
        build_model("segformer_b0", in_channels=3, classes=2, options={"encoder": {"droppath": 0.2}})
