"""The licence of a file that only looks like a published one, and transformers' fields that change a SegFormer."""

import json
from pathlib import Path

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.contents import Contents
from nuriwake.weights.recognition import recognise
from nuriwake.weights.sources import all_sources


def torchvisions(classes, channels=3, *, aux_classes=None):
    """torchvision's arrays, without memory behind them."""
    segmentation = pytest.importorskip("torchvision").models.segmentation
    with torch.device("meta"):
        model = segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux_classes is not None
        )
        if aux_classes is not None:
            model.aux_classifier[-1] = torch.nn.Conv2d(10, aux_classes, 1)
        if channels != 3:
            model.backbone["0"][0] = torch.nn.Conv2d(channels, 16, 3, 2, 1, bias=False)
    return recognise(Contents(Path("weights.pth"), model.state_dict()))


def test_a_file_that_was_fine_tuned_has_not_torchvisions_licence():
    own, _ = torchvisions(21)
    assert own.licence.startswith("BSD-3-Clause (torchvision)")
    assert "whoever trained them" in own.licence
    for classes, channels, aux in ((5, 3, None), (21, 4, None), (5, 3, 21)):
        other, spec = torchvisions(classes, channels, aux_classes=aux)
        assert (spec.classes, spec.in_channels) == (classes, channels)
        assert other.licence.startswith("unknown, that of whoever trained it")
        assert "perhaps it began from torchvision's weights (BSD-3-Clause)" in other.licence


def test_every_stated_licence_says_that_others_files_have_another():
    for source in all_sources():
        if not source.licence:
            continue
        notes = source.notes_of({}, {})
        assert "whoever trained" in " ".join((source.licence, *notes)), (source.source, source.architecture)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strides", [4, 2, 2, 1]),
        ("hidden_act", "relu"),
        ("num_attention_heads", [1, 2, 4, 8]),
        ("patch_sizes", [7, 3, 3, 5]),
        ("sr_ratios", [8, 4, 2, 2]),
        ("mlp_ratios", [4, 4, 4, 2]),
    ],
)
def test_transformers_fields_that_build_another_segformer_are_refused_by_name(tmp_path, field, value):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=3, decoder_hidden_size=32)
    torch.save(transformers.SegformerForSemanticSegmentation(config).state_dict(), tmp_path / "pytorch_model.bin")
    said = config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert read_checkpoint(tmp_path).bundle.model.name == "segformer_b0"
    (tmp_path / "config.json").write_text(json.dumps(said | {field: value}))
    with pytest.raises(UserError, match=rf"config\.json: {field} of a SegFormer is"):
        read_checkpoint(tmp_path)


def test_fields_that_transformers_does_not_read_change_nothing(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=3, decoder_hidden_size=32, layer_norm_eps=1e-2)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = read_checkpoint(tmp_path).model(images).logits, theirs(images).logits
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
