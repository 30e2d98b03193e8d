"""SegFormer's published checkpoints: every source's names, other sizes, refusals. Their outputs: test_checkpoint.py."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model
from nuriwake.models.segformer_names import convert_encoder
from nuriwake.models.state import load_strictly
from nuriwake.weights.contents import Contents
from nuriwake.weights.published.segformer import SOURCES
from nuriwake.weights.recognition import fit, spec_of

EVERY = pytest.mark.parametrize(
    "name",
    ["transformers__segformer_b0", "transformers__segformer_b2", "smp__segformer_mit_b0", "mmseg__segformer_mit-b0"],
)


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def published_for(shapes):
    (found,) = [item for item in SOURCES if item.recognise(shapes)]
    return found


def read(arrays, config=None):
    """The model filled with `arrays`, as a reader does it: every array is used or left out for a reason."""
    state = {key: torch.from_numpy(item) for key, item in arrays.items()}
    shapes = {key: tuple(item.shape) for key, item in state.items()}
    published = published_for(shapes)
    spec = published.spec(shapes, config or {})
    model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options).eval()
    ours = {}
    for key, item in (published.arrange(state) if published.arrange else state).items():
        own = published.rename(key)
        assert (own is None) == (published.why_left_out(key) is not None)
        if own is not None:
            assert own not in ours
            ours[own] = published.transform(own, item)
    load_strictly(model, ours, "the reference")
    return published, spec, model


def as_the_authors(arrays):
    """transformers' arrays under the names and in the cut of the authors' files (which transformers was made from)."""
    state = {}
    for key, item in arrays.items():
        if ".attention.self.value." in key:
            continue
        if ".attention.self.key." in key:
            item = np.concatenate([item, arrays[key.replace(".key.", ".value.")]])
        key = re.sub(r"segformer\.encoder\.block\.(\d)", lambda m: f"backbone.block{int(m[1]) + 1}", key)
        key = re.sub(
            r"segformer\.encoder\.patch_embeddings\.(\d)", lambda m: f"backbone.patch_embed{int(m[1]) + 1}", key
        )
        key = re.sub(r"segformer\.encoder\.layer_norm\.(\d)", lambda m: f"backbone.norm{int(m[1]) + 1}", key)
        key = re.sub(r"linear_c\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}", key)
        for theirs, other in (
            ("attention.self.query", "attn.q"),
            ("attention.self.key", "attn.kv"),
            ("attention.self.sr", "attn.sr"),
            ("attention.self.layer_norm", "attn.norm"),
            ("attention.output.dense", "attn.proj"),
            ("layer_norm_", "norm"),
            ("layer_norm", "norm"),
            ("dense", "fc"),
            ("linear_fuse", "linear_fuse.conv"),
            ("batch_norm", "linear_fuse.bn"),
            ("classifier", "linear_pred"),
        ):
            key = key.replace(theirs, other)
        state[key] = item
    return state | {"decode_head.conv_seg.weight": np.zeros((19, 128, 1, 1), np.float32)}


def test_the_authors_files_hold_the_same_as_transformers(parity, formula):
    arrays = formula.state_dict(parity / "transformers__segformer_b0.json")
    _, _, theirs = read(arrays)
    published, spec, ours = read(as_the_authors(arrays))
    assert published.source == "mmseg"
    assert "never uses" in published.why_left_out("decode_head.conv_seg.weight")
    assert spec.options["encoder"] == {"epsilon": 1e-6, "embedding_epsilon": 1e-5}
    other = theirs.state_dict()
    for key, item in ours.state_dict().items():
        assert torch.equal(item, other[key]), key


def as_the_modules_of_transformers_5(arrays):
    """transformers' arrays under the names that its version 5 gives its modules, in the order of its conversion_mapping.py."""
    renamings = (
        (r"encoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
        (r"encoder\.block\.(\d+)\.", r"stages.\1.blocks."),
        (r"encoder\.layer_norm\.(\d+)", r"stages.\1.layer_norm"),
        (r"attention\.self\.query", "attention.q_proj"),
        (r"attention\.self\.key", "attention.k_proj"),
        (r"attention\.self\.value", "attention.v_proj"),
        (r"attention\.self\.sr", "attention.sequence_reduction.sequence_reduction"),
        (r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"mlp\.dense(\d)", r"mlp.fc\1"),
        (r"layer_norm_1", "layernorm_before"),
        (r"layer_norm_2", "layernorm_after"),
        (r"decode_head\.linear_c", "decode_head.linear_projections"),
    )
    state = {}
    for key, item in arrays.items():
        for theirs, newer in renamings:
            key = re.sub(theirs, newer, key)
        state[key] = item
    return state


def test_the_module_names_of_transformers_5_are_read_as_its_published_ones(parity, formula):
    arrays = formula.state_dict(parity / "transformers__segformer_b0.json")
    _, spec, expected = read(arrays)
    newer = as_the_modules_of_transformers_5(arrays)
    published, found, model = read(newer)
    assert (published.source, found) == ("transformers", spec)
    other = expected.state_dict()
    assert all(torch.equal(item, other[key]) for key, item in model.state_dict().items())
    bare = {key.removeprefix("segformer."): torch.from_numpy(item) for key, item in newer.items()}
    converted = convert_encoder(bare)
    assert all(torch.equal(converted[key], item) for key, item in model.encoder.state_dict().items())


@EVERY
def test_encoder_files_convert_to_the_same_arrays(name, parity, formula):
    """The encoder's part of any checkpoint, with the source's prefix or without, fills a Mix Transformer."""
    arrays = formula.state_dict(parity / f"{name}.json")
    _, _, model = read(arrays)
    beginning = re.compile(
        r"(segformer\.(?=encoder\.block|encoder\.patch|encoder\.layer)|encoder\.(?=block\d)|backbone\.)"
    )
    for prefixed in (True, False):
        state = {key if prefixed else beginning.sub("", key): torch.from_numpy(item) for key, item in arrays.items()}
        converted = convert_encoder(state)
        for key, item in model.encoder.state_dict().items():
            assert torch.equal(converted[key], item), key


def renamed_levels(shapes, depth):
    """`shapes` of transformers with `depth` blocks in the third level."""
    extra = {}
    for key, shape in shapes.items():
        if ".block.2.1." in key:
            extra |= {key.replace(".block.2.1.", f".block.2.{index}."): shape for index in range(1, depth)}
    return {**shapes, **extra}


def test_other_depths_are_read_too(parity):
    keys = json.loads((parity / "transformers__segformer_b0.json").read_text())["keys"]
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    spec = published_for(shapes).spec(renamed_levels(shapes, 5), {"num_attention_heads": [1, 2, 5, 8]})
    assert spec.options["encoder"]["depths"] == (2, 2, 5, 2)
    assert spec.options["encoder"]["widths"] == (32, 64, 160, 256)
    model = build_model(spec.name, in_channels=3, classes=spec.classes, options=spec.options)
    assert len(model.encoder.levels[2].blocks) == 5


def test_what_is_no_published_segformer_is_refused(parity):
    keys = json.loads((parity / "transformers__segformer_b0.json").read_text())["keys"]
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    published = published_for(shapes)
    with pytest.raises(UserError, match=r"num_attention_heads of a SegFormer is \[1, 2, 5, 8\], found \[1, 1, 1, 1\]"):
        published.spec(shapes, {"num_attention_heads": [1, 1, 1, 1]})
    coarse = {
        key: (32, 32, 4, 4) if key.endswith("block.0.0.attention.self.sr.weight") else shape
        for key, shape in shapes.items()
    }
    with pytest.raises(UserError, match=r"Level 1 of this SegFormer has the reduction 4"):
        published.spec(coarse, {})
    del shapes["segformer.encoder.patch_embeddings.3.proj.weight"]
    with pytest.raises(KeyError, match=r"encoder\.levels\.3\.embedding\.convolution\.weight"):
        published.spec(shapes, {})
    assert not any(item.recognise({"encoder.conv1.weight": (64, 3, 7, 7)}) for item in SOURCES)


def test_preprocessing_licence_and_classes():
    by_source = {item.source: item for item in reversed(SOURCES)}
    for item in SOURCES:
        if item.licence:  # smp's files over other encoders have none of NVIDIA's weights
            assert "no commercial use" in item.licence
        assert item.space == {150: "ade20k", 19: "cityscapes"}
    resize = by_source["transformers"].preprocessing_of({"decode_head.classifier.weight": (150, 256, 1, 1)}, {}).resize
    assert resize.size((300, 700)) == (512, 512)
    resize = by_source["mmseg"].preprocessing_of({"decode_head.conv_seg.weight": (150, 256, 1, 1)}, {}).resize
    assert resize.size((300, 600)) == (512, 1024)
    shapes = {"decode_head.conv_seg.weight": (150, 256, 1, 1), "backbone.layers.2.1.39.norm1.weight": (320,)}
    assert by_source["mmseg"].preprocessing_of(shapes, {}).resize.size((300, 600)) == (640, 1280)
    assert by_source["mmseg"].preprocessing_of({"decode_head.conv_seg.weight": (7, 256, 1, 1)}, {}).resize is None


@EVERY
@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_missing_reduction_is_named_as_the_file_would_have_it(name, level, parity):
    """It is what tells the variants apart, so that its absence must not be taken for another variant."""
    shapes = {key: tuple(shape) for key, shape in json.loads((parity / f"{name}.json").read_text())["keys"].items()}
    source = published_for(shapes)
    ours = {source.rename(key): key for key in shapes}
    key = ours.get(f"encoder.levels.{level}.blocks.0.attention.reduction.weight", "")
    if level == 3:
        assert not key  # the last level has none
        key = ours[f"encoder.levels.{level}.blocks.0.feed.depthwise.weight"]
    arrays = {other: torch.empty(shape, device="meta") for other, shape in shapes.items() if other != key}
    contents = Contents(parity / "file.pth", arrays)
    if level == 3:
        with pytest.raises(UserError, match=f"the array '{re.escape(key)}' is missing"):
            spec_of(source, contents)
    else:
        assert str(fit(source, spec_of(source, contents), contents).misfit) == f"1 missing: {key}"
