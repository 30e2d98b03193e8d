"""Mask2Former's published checkpoints: recognised, read whole through their files, and with the published outputs."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nuriwake.core.errors import UserError
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.contents import Contents
from nuriwake.weights.published.mask2former import SOURCES
from nuriwake.weights.recognition import recognise

REFERENCES = {
    "transformers__mask2former_resnet50": "mask2former_r50",
    "transformers__mask2former_swin_tiny": "mask2former_swin_tiny",
}
EVERY = pytest.mark.parametrize("name", sorted(REFERENCES))


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def shapes_of(parity, name):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def published_for(shapes):
    (found,) = [item for item in SOURCES if item.recognise(shapes)]
    return found


def saved(folder, arrays, **files):
    """A folder as the Hugging Face hub has it."""
    folder.mkdir()
    save_file({key: torch.from_numpy(item.copy()) for key, item in arrays.items()}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def as_the_authors(arrays):
    """transformers' arrays as the authors' files have them: Detectron2's ResNet or Microsoft's Swin, and projections in one."""
    state = {}
    for key, item in arrays.items():
        if key.endswith("num_batches_tracked") or ".swin.layernorm." in key:
            continue
        key = key.removeprefix("model.")
        if key.startswith("pixel_level_module.encoder"):
            key = key.removeprefix("pixel_level_module.encoder.")
            key = key.replace("embedder.embedder.convolution", "stem.conv1").replace(
                "embedder.embedder.normalization", "stem.conv1.norm"
            )
            key = re.sub(r"encoder\.stages\.(\d)\.layers", lambda m: f"res{int(m[1]) + 2}", key)
            key = re.sub(r"\.layer\.(\d)\.", lambda m: f".conv{int(m[1]) + 1}.", key)
            key = key.replace("convolution.", "").replace("normalization.", "norm.").removeprefix("encoder.")
            key = re.sub(r"hidden_states_norms\.stage(\d)", lambda m: f"norm{int(m[1]) - 1}", key)
            for theirs, other in (
                ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
                ("embeddings.norm", "patch_embed.norm"),
                ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
                ("attention.self.relative", "attn.relative"),
                ("attention.output.dense", "attn.proj"),
                ("intermediate.dense", "mlp.fc1"),
                ("output.dense", "mlp.fc2"),
            ):
                key = key.replace(theirs, other)
            state[f"backbone.{key}"] = item
        elif key.startswith("pixel_level_module.decoder"):
            key = key.removeprefix("pixel_level_module.decoder.")
            key = re.sub(r"(adapter_1|layer_1)\.0", r"\1", key)
            key = re.sub(r"(adapter_1|layer_1)\.1", r"\1.norm", key)
            key = re.sub(r"^(encoder|level_embed)", r"transformer.\1", key)
            for theirs, other in (
                ("input_projections", "input_proj"),
                ("mask_projection", "mask_features"),
                ("self_attn_layer_norm", "norm1"),
                ("final_layer_norm", "norm2"),
                ("fc", "linear"),
            ):
                key = key.replace(theirs, other)
            state[f"sem_seg_head.pixel_decoder.{key}"] = item
        else:
            key = key.removeprefix("transformer_module.").removeprefix("decoder.")
            for theirs, other in (
                (r"queries_features", "query_feat"),
                (r"queries_embedder", "query_embed"),
                (r"class_predictor", "class_embed"),
                (r"layernorm", "decoder_norm"),
                (r"mask_predictor\.mask_embedder\.(\d)\.0", r"mask_embed.layers.\1"),
                (r"layers\.(\d)\.cross_attn_layer_norm", r"transformer_cross_attention_layers.\1.norm"),
                (r"layers\.(\d)\.cross_attn", r"transformer_cross_attention_layers.\1.multihead_attn"),
                (r"layers\.(\d)\.self_attn_layer_norm", r"transformer_self_attention_layers.\1.norm"),
                (r"layers\.(\d)\.self_attn", r"transformer_self_attention_layers.\1.self_attn"),
                (r"layers\.(\d)\.final_layer_norm", r"transformer_ffn_layers.\1.norm"),
                (r"layers\.(\d)\.fc", r"transformer_ffn_layers.\1.linear"),
            ):
                key = re.sub(rf"^{theirs}", other, key)
            state[key if key.startswith("criterion") else f"sem_seg_head.predictor.{key}"] = item
    return joined(joined(state, r"self_attn\.{}_proj\.", "qkv", "self_attn.in_proj_"), *SWIN)


SWIN = (r"attention\.self\.{}\.", ("query", "key", "value"), "attn.qkv.")


def joined(state, pattern, parts, name):
    """`state` with three arrays that lie under `pattern` in one under `name`."""
    found = dict(state)
    first = re.compile(pattern.format(parts[0]))
    for key in state:
        if first.search(key):
            three = [found.pop(first.sub(pattern.replace("\\", "").format(part), key)) for part in parts]
            found[first.sub(name, key)] = np.concatenate(three)
    return found


@EVERY
def test_every_output_is_the_published_one(name, parity, formula, tmp_path):
    arrays = formula.state_dict(parity / f"{name}.json")
    imported = read_checkpoint(saved(tmp_path / "hub", arrays))
    assert imported.bundle.model.name == REFERENCES[name]
    assert imported.bundle.task == "panoptic"
    assert sum(imported.bundle.space.things) == 80
    image = json.loads((parity / f"{name}.json").read_text())["input"]
    with torch.no_grad():
        output = imported.model(torch.from_numpy(formula.normalised(image["image"], image["height"], image["width"])))
    expected = np.load(parity / f"{name}.npz")
    assert set(expected.files) == {"class_logits", "mask_logits"}
    for part in expected.files:
        found = getattr(output, part).numpy()
        assert found.shape == expected[part].shape
        # Measured: 4e-6 at most.
        assert np.abs(found - expected[part]).max() <= 2e-5 * np.abs(expected[part]).max(), part
    left_out = set(imported.report.left_out)
    norms = {f"model.pixel_level_module.encoder.swin.layernorm.{kind}" for kind in ("weight", "bias")}
    assert left_out == {"criterion.empty_weight"} | (norms if "swin" in name else set())

    # The authors' file of the same weights holds the same.
    file = tmp_path / "model_final.pth"
    torch.save({"model": {key: torch.from_numpy(item) for key, item in as_the_authors(arrays).items()}}, file)
    theirs = read_checkpoint(file)
    assert theirs.bundle.model == imported.bundle.model
    assert theirs.bundle.task == "panoptic"
    other = theirs.model.state_dict()
    for key, item in imported.model.state_dict().items():
        assert torch.equal(item, other[key]), key


def test_tasks_are_told_from_the_numbers(parity):
    shapes = shapes_of(parity, "transformers__mask2former_resnet50")
    counts = {
        (133, 100): "panoptic",
        (150, 200): "panoptic",
        (80, 100): "instance",
        (8, 200): "instance",
        (100, 100): "instance",
        (150, 100): "semantic",
        (19, 100): "semantic",
        (4, 100): "semantic",
    }
    for (classes, queries), task in counts.items():
        changed = shapes | {
            "class_predictor.weight": (classes + 1, 256),
            "class_predictor.bias": (classes + 1,),
            "model.transformer_module.queries_features.weight": (queries, 256),
            "model.transformer_module.queries_embedder.weight": (queries, 256),
        }
        published = published_for(changed)
        assert published.task == task
        spec = published.spec(changed, {})
        assert (spec.classes, spec.options["queries"]) == (classes, queries)
    assert "no commercial use" in published.licence
    assert any("predict --task" in note for note in published.notes)


def test_the_task_can_be_given_or_stands_in_the_configuration(parity):
    """Mask2Former over ResNet-50 for Cityscapes has 19 classes and 100 queries for the semantic and for the panoptic task."""
    shapes = shapes_of(parity, "transformers__mask2former_resnet50")
    shapes |= {"class_predictor.bias": (20,), "class_predictor.weight": (20, 256), "criterion.empty_weight": (20,)}
    authors = as_the_authors({key: np.empty(shape) for key, shape in shapes.items()})
    arrays = {key: torch.empty(item.shape, device="meta") for key, item in authors.items()}
    plain = Contents(parity / "model_final.pkl", arrays)
    assert recognise(plain)[0].task == "semantic"
    assert recognise(plain, task="instance")[0].task == "instance"
    for mapper, task in (
        ("mask_former_panoptic", "panoptic"),
        ("coco_instance_lsj", "instance"),
        ("other", "semantic"),
    ):
        told = replace(plain, config={"INPUT": {"DATASET_MAPPER_NAME": mapper}})
        assert recognise(told)[0].task == task
        assert recognise(told, task="panoptic")[0].task == "panoptic"


def test_sizes_are_those_of_the_authors(parity):
    shapes = shapes_of(parity, "transformers__mask2former_resnet50")
    published = published_for(shapes)
    preprocessing = published.preprocessing_of(shapes, {})
    # transformers stretches 800 x 1066 to multiples of 32.
    assert preprocessing.resize.size((480, 640)) == (800, 1088)
    assert preprocessing.padding == "zero"
    cityscapes = shapes | {"class_predictor.bias": (20,), "class_predictor.weight": (20, 256)}
    assert published_for(cityscapes).preprocessing_of(cityscapes, {}).resize.size((1024, 2048)) == (1024, 2048)
    ade = shapes | {"class_predictor.bias": (151,), "class_predictor.weight": (151, 256)}
    assert published_for(ade).preprocessing_of(ade, {}).resize.size((300, 400)) == (512, 704)
    authors = {key: item.shape for key, item in as_the_authors({k: np.empty(s) for k, s in shapes.items()}).items()}
    found = published_for(authors)
    assert found.source == "detectron2"
    assert found.preprocessing_of(authors, {}).resize.size((480, 640)) == (800, 1067)
    assert found.preprocessing_of(authors, {}).order == "rgb"


def test_the_folders_processor_and_names_count(parity, formula, tmp_path):
    arrays = formula.state_dict(parity / "transformers__mask2former_swin_tiny.json")
    # As the hub's files for COCO have it: a square, although the sides are divisible anyway; and buffers of older versions.
    processor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "size": {"height": 384, "width": 384},
        "size_divisor": 32,
    }
    index = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    arrays[index] = np.zeros((49, 49), np.int64)
    config = {"id2label": {str(n): f"kind {n}" for n in range(133)}, "num_attention_heads": 8}
    imported = read_checkpoint(saved(tmp_path / "hub", arrays, preprocessor_config=processor, config=config))
    assert imported.bundle.preprocessing.resize.size((480, 640)) == (384, 384)
    assert imported.bundle.preprocessing.padding == "zero"
    assert imported.bundle.preprocessing.mean == (0.5, 0.5, 0.5)
    assert imported.bundle.space.names[132] == "kind 132"
    assert imported.report.left_out[index] == "follows from the side of the windows"
    shortest = processor | {"size": {"shortest_edge": 800, "longest_edge": 1333}}
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(shortest))
    resize = read_checkpoint(tmp_path / "hub").bundle.preprocessing.resize
    assert resize.size((480, 640)) == (800, 1088)


def test_what_is_no_published_mask2former_is_refused(parity, formula, tmp_path):
    shapes = shapes_of(parity, "transformers__mask2former_resnet50")
    published = published_for(shapes)
    with pytest.raises(UserError, match="pre_norm of a Mask2Former is False, found True"):
        published.spec(shapes, {"pre_norm": True})
    with pytest.raises(UserError, match="num_attention_heads of a Mask2Former is 8, found 4"):
        published.spec(shapes, {"num_attention_heads": 4})
    with pytest.raises(UserError, match="downsample_in_bottleneck"):
        published.spec(shapes, {"backbone_config": {"downsample_in_bottleneck": True}})
    narrow = shapes | {"model.pixel_level_module.decoder.encoder.layers.0.fc1.weight": (512, 256)}
    with pytest.raises(UserError, match=r"'pixels\.layers\.0\.feed\.widen\.weight' would be 1024x256, found 512x256"):
        published.spec(narrow, {})
    wide = shapes_of(parity, "transformers__mask2former_swin_tiny")
    table = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
    with pytest.raises(UserError, match=r"96 channels, \(2, 2, 6, 2\) blocks and windows of 12; known are swin_tiny"):
        published_for(wide).spec(wide | {table: (529, 3)}, {})
    arrays = formula.state_dict(parity / "transformers__mask2former_resnet50.json")
    del arrays["model.transformer_module.decoder.layernorm.bias"]
    arrays["model.transformer_module.input_projections.0.weight"] = np.zeros((256, 256, 1, 1), np.float32)
    with pytest.raises(
        UserError, match=r"missing: [\w.]+\.decoder\.layernorm\.bias.*unexpected: model\.transformer_module\.input"
    ):
        read_checkpoint(saved(tmp_path / "hub", arrays))
