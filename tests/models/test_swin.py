"""The Swin transformer: its windows against loops, its maps against timm and torchvision, and the files of its publishers."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import BACKBONES, build_backbone, swin
from nuriwake.models.backbones.swin import Merge, Swin, WindowAttention
from nuriwake.models.backbones.weights import load_backbone

NAMES = [name for name in BACKBONES if name.startswith("swin_")]


@pytest.fixture
def small(monkeypatch):
    """The tiny size made smaller: two levels of two blocks and two of one."""
    monkeypatch.setitem(swin.SIZES, "swin_tiny", (12, (2, 2, 1, 1), (1, 2, 3, 4), 4))
    torch.manual_seed(0)


def attention_by_loops(layer, x):
    """Each cell looks at the cells of its shifted window that really are its neighbours, or at the padding."""
    height, width, channels = x.shape[1:]
    window, heads = layer.window, layer.heads
    padded = functional.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = padded.shape[1:3]
    query, key, value = layer.query_key_value(padded).unflatten(-1, (3, heads, channels // heads)).unbind(3)
    table = layer.position_bias.view(2 * window - 1, 2 * window - 1, heads)
    answer = torch.zeros(rows, columns, heads, channels // heads)

    def place(row, column):
        """The shifted window, and which side of a border that was rolled over."""
        moved = ((row - layer.shift) % rows, (column - layer.shift) % columns)
        return moved[0] // window, moved[1] // window, row < layer.shift, column < layer.shift

    for row in range(rows):
        for column in range(columns):
            others = [(r, c) for r in range(rows) for c in range(columns) if place(r, c) == place(row, column)]
            for head in range(heads):
                scores = torch.stack(
                    [
                        (query[0, row, column, head] @ key[0, r, c, head]) / (channels // heads) ** 0.5
                        + table[row - r + window - 1, column - c + window - 1, head]
                        for r, c in others
                    ]
                ).softmax(0)
                seen = torch.stack([value[0, r, c, head] for r, c in others])
                answer[row, column, head] = scores @ seen
    return layer.output(answer.flatten(2))[None, :height, :width]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 2)])
def test_windows_are_the_papers(size, shift):
    torch.manual_seed(0)
    layer = WindowAttention(6, heads=2, window=4, shift=shift)
    torch.nn.init.normal_(layer.position_bias)
    x = torch.randn(1, *size, 6)
    with torch.no_grad():
        assert torch.allclose(layer(x), attention_by_loops(layer, x), atol=1e-5)
        twice = torch.cat([torch.randn(1, *size, 6), x])
        assert torch.allclose(layer(twice)[1:], layer(x), atol=1e-5)


def test_merging_joins_two_by_two_neighbours():
    merge = Merge(3)
    x = torch.randn(1, 3, 5, 3)
    padded = functional.pad(x, (0, 0, 0, 1, 0, 1))
    four = [padded[:, row::2, column::2] for column in range(2) for row in range(2)]
    assert torch.allclose(merge(x), merge.linear(merge.norm(torch.cat(four, dim=-1))))
    assert merge(x).shape == (1, 2, 3, 6)


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 3)])
def test_any_size_and_channels(small, channels, size):
    backbone = build_backbone("swin_tiny", in_channels=channels)
    maps = backbone.eval()(torch.randn(2, channels, *size))
    for x, width, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert x.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
        assert x.isfinite().all()


def timm_names(backbone):
    """`backbone`'s arrays under timm's names, without the norms of the maps."""
    state = {}
    for key, item in backbone.state_dict().items():
        if re.match(r"levels\.\d\.norm\.", key):
            continue
        key = key.replace("levels.0.entry.convolution", "patch_embed.proj").replace("levels.0.entry", "patch_embed")
        key = re.sub(r"levels\.(\d)\.entry\.linear", r"layers.\1.downsample.reduction", key)
        key = re.sub(r"levels\.(\d)\.entry", r"layers.\1.downsample", key).replace("levels.", "layers.")
        for ours, theirs in (
            ("attention_norm", "norm1"),
            ("attention.position_bias", "attn.relative_position_bias_table"),
            ("attention.query_key_value", "attn.qkv"),
            ("attention.output", "attn.proj"),
            ("feed_norm", "norm2"),
            ("feed.0", "mlp.fc1"),
            ("feed.2", "mlp.fc2"),
        ):
            key = key.replace(ours, theirs)
        state[key] = item
    return state


def normed(maps):
    return [functional.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2) for x in maps]


def test_maps_are_timms(small, tmp_path):
    """At a size of whole windows: timm shifts before it pads, the authors after."""
    timm = pytest.importorskip("timm")
    width, depths, heads, window = swin.SIZES["swin_tiny"]
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224",
        features_only=True,
        always_partition=True,
        img_size=128,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        window_size=window,
    ).eval()
    ours = build_backbone("swin_tiny", in_channels=3).eval()
    state = {re.sub(r"^layers_(\d)\.", r"layers.\1.", key): item for key, item in theirs.state_dict().items()}
    load_backbone(ours, state | {"head.fc.weight": torch.zeros(2, 768)}, file=tmp_path / "swin.pth", who="swin_tiny")
    assert "left out (behind the last feature map): head.fc" in ours.notes[0]
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        for mine, other in zip(ours(images), normed(theirs(images)), strict=True):
            assert torch.allclose(mine, other, atol=2e-4)


def test_maps_are_torchvisions(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.swin_t().eval()
    ours = build_backbone("swin_tiny", in_channels=3).eval()
    load_backbone(ours, theirs.state_dict(), file=tmp_path / "swin_t.pth", who="swin_tiny")
    # Every map has more than one window each way: otherwise torchvision does not shift.
    images, expected = torch.randn(1, 3, 256, 288), []
    with torch.no_grad():
        x = images
        for index, part in enumerate(theirs.features):
            x = part(x)
            if index % 2:
                expected.append(x)
        for mine, other in zip(ours(images), normed(expected), strict=True):
            assert torch.allclose(mine, other, atol=2e-4)


def as_the_authors(state):
    """timm's arrays as Microsoft's files have them: the merging belongs to the level before, and buffers lie beside."""
    moved = {
        re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key): item
        for key, item in state.items()
    }
    return moved | {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16),
        "norm.weight": torch.zeros(96),
    }


def as_transformers(state):
    """The authors' arrays as transformers has them."""
    renamed = {}
    for key, item in state.items():
        for other, theirs in (
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("patch_embed.norm", "embeddings.norm"),
            ("layers.", "encoder.layers."),
            ("norm1", "layernorm_before"),
            ("attn.relative", "attention.self.relative"),
            ("attn.proj", "attention.output.dense"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            key = key.replace(other, theirs)
        if "attn.qkv" not in key:
            renamed[f"swin.{key}"] = item
            continue
        for part, third in zip(("query", "key", "value"), item.chunk(3), strict=True):
            renamed[f"swin.{key.replace('attn.qkv', f'attention.self.{part}')}"] = third
    return renamed


@pytest.mark.parametrize("arranged", [dict, as_the_authors, lambda state: as_transformers(as_the_authors(state))])
def test_files_of_all_publishers_fill_it(small, arranged, tmp_path):
    first, second = (build_backbone("swin_tiny", in_channels=3) for _ in range(2))
    load_backbone(second, arranged(timm_names(first)), file=tmp_path / "file.pth", who="swin_tiny")
    other = second.state_dict()
    for key, item in first.state_dict().items():
        assert torch.equal(item, other[key]), key


def test_norms_of_the_maps_are_read_where_a_file_has_them(small, tmp_path):
    first, second = (build_backbone("swin_tiny", in_channels=4) for _ in range(2))
    state = timm_names(first) | {f"norm{level}.weight": torch.full((12 << level,), 3.0) for level in range(4)}
    state |= {f"norm{level}.bias": torch.zeros(12 << level) for level in range(4)}
    load_backbone(second, state, file=tmp_path / "file.pth", who="swin_tiny")
    assert second.levels[2].norm.weight.unique().tolist() == [3.0]
    del state["norm2.bias"]
    with pytest.raises(UserError, match=r"levels\.2\.norm\.bias"):
        load_backbone(second, state, file=tmp_path / "file.pth", who="swin_tiny")


def test_it_can_be_cut(small):
    backbone = build_backbone("swin_tiny", in_channels=3)
    backbone.cut(2)
    assert [x.shape[1] for x in backbone(torch.randn(1, 3, 32, 32))] == [12, 24] == list(backbone.channels)
    other = build_backbone("swin_tiny", in_channels=3)
    load_backbone(backbone, timm_names(other), file=Path("file.pth"), who="swin_tiny")
    assert torch.equal(backbone.levels[1].entry.linear.weight, other.levels[1].entry.linear.weight)


def test_stochastic_depth_only_while_training(small):
    backbone = Swin(3, name="swin_tiny", drop_path=0.9)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(backbone.train()(images)[-1], backbone(images)[-1])
    assert torch.equal(backbone.eval()(images)[-1], backbone(images)[-1])
    shares = [block.drop_path for level in backbone.levels for block in level.blocks]
    assert shares == pytest.approx([0, 0.18, 0.36, 0.54, 0.72, 0.9])


@pytest.mark.parametrize(
    ("name", "published", "blocks"),
    [
        # torchvision's and timm's counts of the classifiers with windows of 7; heads times blocks, for wider windows.
        ("swin_tiny", 28_288_354, 0),
        ("swin_small", 49_606_258, 0),
        ("swin_base", 87_768_224, 4 * 2 + 8 * 2 + 16 * 18 + 32 * 2),
        ("swin_large", 196_532_476, 6 * 2 + 12 * 2 + 24 * 18 + 48 * 2),
    ],
)
def test_parameters(name, published, blocks):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=3)
    last = backbone.channels[-1]
    expected = published - 1000 * (last + 1) - 2 * last + 2 * sum(backbone.channels) + blocks * (23**2 - 13**2)
    assert sum(item.numel() for item in backbone.parameters()) == expected


def test_another_output_stride_is_refused():
    with pytest.raises(UserError, match="output stride of 'swin_tiny' is 32, found 16"):
        build_backbone("swin_tiny", in_channels=3, output_stride=16)


def test_every_parameter_has_one_stage(small):
    backbone = build_backbone("swin_tiny", in_channels=3)
    staged = [id(item) for stage in backbone.stages() for item in stage.parameters()]
    assert sorted(staged) == sorted(id(item) for item in backbone.parameters())
