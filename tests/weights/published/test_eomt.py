"""EoMT's published checkpoints: recognised, read whole, and with the published outputs."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nuriwake.core.errors import UserError
from nuriwake.models import count_parameters
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.published.eomt import SOURCES

NAME = "transformers__eomt_small_256"


@pytest.fixture(scope="module")
def published(parity, tmp_path_factory):
    """The reference as transformers would have saved it, read by our reader."""
    sys.path.insert(0, str(parity))
    formula = __import__("formula")
    arrays = formula.state_dict(parity / f"{NAME}.json")
    image = formula.normalised(NAME, 256, 256)
    sys.path.remove(str(parity))
    sys.modules.pop("formula", None)
    folder = tmp_path_factory.mktemp("eomt")
    save_file({key: torch.from_numpy(item) for key, item in arrays.items()}, folder / "model.safetensors")
    config = {"model_type": "eomt", "num_attention_heads": 6, "id2label": {str(i): f"name {i}" for i in range(133)}}
    (folder / "config.json").write_text(json.dumps(config))
    return read_checkpoint(folder), arrays, image


def test_outputs_are_the_published_ones(published, parity):
    imported, _, image = published
    with torch.no_grad():
        output = imported.model(torch.from_numpy(image))
    expected = np.load(parity / f"{NAME}.npz")
    for name in ("class_logits", "mask_logits"):
        found = getattr(output, name).numpy()
        assert found.shape == expected[name].shape
        # Measured: 3e-6 at most.
        assert np.abs(found - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()
    assert count_parameters(imported.model) == json.loads((parity / f"{NAME}.json").read_text())["parameters"]


def test_the_bundle_says_what_was_published(published):
    bundle, report = published[0].bundle, published[0].report
    assert bundle.task == "panoptic"
    assert bundle.model.name == "eomt_small"
    assert bundle.model.options["query_blocks"] == 3
    assert bundle.space.names[132] == "name 132"
    assert sum(bundle.space.things) == 80
    assert bundle.settings.tile is None
    # 640x480 shrinks to 256x192, and what lacks to the trained square is black.
    assert bundle.preprocessing.resize.size((480, 640)) == (192, 256)
    assert published[0].model.fit_size(192, 256) == (256, 256)
    window = bundle.preprocessing.window(np.full((2, 2, 3), 255, np.uint8), 0, 0, (2, 3))
    assert window[:, 0, 2] == pytest.approx(-np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225]))
    assert "MIT" in bundle.licence
    assert report.left_out.keys() == {"criterion.empty_weight"}


def as_the_authors(arrays):
    """transformers' arrays under the names of the authors' files, from which they were made."""
    state = {"network.encoder.pixel_mean": np.zeros((1, 3, 1, 1), np.float32)}
    for key, item in arrays.items():
        if ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            item = np.concatenate([arrays[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for theirs, other in (
            ("embeddings.cls_token", "network.encoder.backbone.cls_token"),
            ("embeddings.register_tokens", "network.encoder.backbone.reg_token"),
            ("embeddings.position_embeddings.weight", "network.encoder.backbone.pos_embed"),
            ("embeddings.patch_embeddings.projection", "network.encoder.backbone.patch_embed.proj"),
            ("layers.", "network.encoder.backbone.blocks."),
            ("attention.q_proj", "attn.qkv"),
            ("attention.out_proj", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("layernorm2d", "norm"),
            ("layernorm.", "network.encoder.backbone.norm."),
            ("query.weight", "network.q.weight"),
            ("class_predictor", "network.class_head"),
            ("mask_head.fc1", "network.mask_head.0"),
            ("mask_head.fc2", "network.mask_head.2"),
            ("mask_head.fc3", "network.mask_head.4"),
            ("upscale_block.block.", "network.upscale."),
            ("attn_mask_probs", "network.attn_mask_probs"),
        ):
            if key.startswith(theirs) or theirs in key.partition("blocks.")[2] or theirs == "layernorm2d":
                key = key.replace(theirs, other)
        state[key] = item[None] if key.endswith("pos_embed") else item
    return {key: torch.from_numpy(item) for key, item in state.items()}


def test_the_authors_files_hold_the_same(published, tmp_path):
    imported, arrays, _ = published
    torch.save(as_the_authors(arrays), tmp_path / "pytorch_model.bin")
    other = read_checkpoint(tmp_path / "pytorch_model.bin")
    assert other.report.recognised == "eomt of EoMT's repository"
    assert other.bundle.model == imported.bundle.model
    assert other.report.left_out.keys() == {"criterion.empty_weight", "network.encoder.pixel_mean"}
    state = imported.model.state_dict()
    for key, item in other.model.state_dict().items():
        assert torch.equal(item, state[key]), key


@pytest.mark.parametrize(
    ("classes", "queries", "task"),
    [
        (133, 200, "panoptic"),
        (80, 200, "instance"),
        (150, 200, "panoptic"),
        (150, 100, "semantic"),
        (19, 100, "semantic"),
    ],
)
def test_the_task_is_told_from_the_numbers(parity, classes, queries, task):
    keys = json.loads((parity / f"{NAME}.json").read_text())["keys"]
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    shapes |= {"class_predictor.bias": (classes + 1,), "class_predictor.weight": (classes + 1, 384)}
    shapes |= {"query.weight": (queries, 384)}
    (found,) = [source for source in SOURCES if source.recognise(shapes)]
    assert found.task == task
    resize = found.preprocessing_of(shapes, {}).resize
    assert resize.size((300, 600)) == ((256, 512) if task == "semantic" else (128, 256))
    assert found.spec(shapes, {}).options["queries"] == queries
    assert found.tiling(shapes) == ((256, 0.0) if task == "semantic" else (None, 0.25))


def test_the_task_can_be_given(published, parity, tmp_path):
    imported, arrays, _ = published
    assert "Task: panoptic, told from the numbers" in "\n".join(imported.lines())
    assert "Things: 80 of 133 classes, as in the panoptic task of COCO (told from their number)." in imported.lines()
    state = {key: torch.from_numpy(item) for key, item in arrays.items()}
    rows = {19: 20, 5: 6}
    for classes, things in ((19, 8), (5, 0)):
        for key in ("class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"):
            state[key] = torch.from_numpy(arrays[key])[: rows[classes]].clone()
        torch.save(state, tmp_path / "pytorch_model.bin")
        told = read_checkpoint(tmp_path)
        assert told.bundle.task == "semantic"
        assert sum(told.bundle.space.things) == things
        given = read_checkpoint(tmp_path, task="panoptic")
        assert given.bundle.task == "panoptic"
        assert "Task: panoptic, as given." in given.lines()
        assert sum(given.bundle.space.things) == things
        assert given.bundle.preprocessing.resize.size((480, 640)) == (192, 256)
        assert read_checkpoint(tmp_path, task="instance").bundle.space.things == (True,) * classes
    assert "Things: none of the classes is known to be one (name them with --things)." in given.lines()
    named = read_checkpoint(tmp_path, task="panoptic", classes=tuple("abcde"), things=("b", "e"))
    assert named.bundle.space.things == (False, True, False, False, True)
    assert "Things: 2 of 5 classes, as given." in named.lines()
    with pytest.raises(
        UserError, match=r"known tasks are panoptic, instance, semantic, not 'panoptc'.* Did you mean 'panoptic'"
    ):
        read_checkpoint(tmp_path, task="panoptc")
    with pytest.raises(UserError, match="no class 'sky'"):
        read_checkpoint(tmp_path, classes=tuple("abcde"), things=("sky",))


def test_what_is_no_published_eomt_is_refused(parity):
    keys = json.loads((parity / f"{NAME}.json").read_text())["keys"]
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    (found,) = [source for source in SOURCES if source.recognise(shapes)]
    with pytest.raises(UserError, match="hidden_act of an EoMT is gelu, found relu"):
        found.spec(shapes, {"hidden_act": "relu"})
    with pytest.raises(UserError, match="with DINOv2's heads, found 384 and 12"):
        found.spec(shapes, {"num_attention_heads": 12})
    del shapes["attn_mask_probs"]
    assert not any(source.recognise(shapes) for source in SOURCES)
