"""Published YOLACT files: recognised, read whole through the file, and with the published outputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.contents import Contents
from nuriwake.weights.published import yolact
from nuriwake.weights.recognition import fit

NAME = "yolact__yolact_resnet50"
(SOURCE,) = yolact.SOURCES


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


@pytest.fixture
def shapes(parity):
    keys = json.loads((parity / f"{NAME}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def off(found, expected):
    """The largest difference in units of the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_outputs_of_the_file_are_the_published_ones(parity, formula, tmp_path):
    state = {key: torch.from_numpy(item) for key, item in formula.state_dict(parity / f"{NAME}.json").items()}
    file = tmp_path / "yolact_resnet50_54_800000.pth"
    torch.save(state, file)
    imported = read_checkpoint(file)
    assert (imported.bundle.task, imported.bundle.model.name) == ("instance", "yolact_resnet50")
    assert len(imported.bundle.space) == 80
    assert (imported.bundle.space.names[0], imported.bundle.space.names[-1]) == ("person", "toothbrush")
    assert imported.bundle.space.ids == tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))
    assert imported.report.used == len(state)
    assert imported.report.left_out == {}
    expected = np.load(parity / f"{NAME}.npz")
    kept = torch.from_numpy(expected["kept"])
    with torch.no_grad():
        output = imported.model(torch.from_numpy(formula.normalised(NAME, 550, 550)))
    differences = {
        "loc": off(output.deltas[:, kept], expected["loc"]),
        "conf": off(output.class_logits.softmax(-1)[:, kept], expected["conf"]),
        "mask": off(output.coefficients[:, kept], expected["mask"]),
        "priors": off(output.priors[kept], expected["priors"]),
        "proto": off(output.prototypes[:, :, ::3, ::3].permute(0, 2, 3, 1), expected["proto"]),
    }
    print(differences)
    assert max(differences.values()) <= 1e-4


def test_the_preprocessing_is_the_published_one():
    image = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    means, deviations = np.array((103.94, 116.78, 123.68)), np.array((57.38, 57.12, 58.40))
    theirs = ((image[..., ::-1] - means) / deviations)[..., ::-1]  # blue first, and back again
    assert np.allclose(yolact.PREPROCESSING.tensor(image), theirs.transpose(2, 0, 1), atol=1e-5)
    assert yolact.PREPROCESSING.geometry((480, 640)).size == (550, 550)


def test_sizes_are_told_from_the_arrays(shapes):
    deeper = dict(shapes)
    for block in range(6, 23):
        deeper |= {
            key.replace("layers.2.5", f"layers.2.{block}"): shape
            for key, shape in shapes.items()
            if "layers.2.5" in key
        }
    assert SOURCE.spec(deeper, {}).name == "yolact_resnet101"
    assert SOURCE.spec(shapes, {}).options["square_priors"] is True
    pascal = shapes | {"prediction_layers.0.conf_layer.weight": (63, 256, 3, 3)}
    spec = SOURCE.spec(pascal, {})
    assert (spec.classes, spec.options["square_priors"]) == (20, False)
    assert spec.options["prior_sizes"] == (32.0, 64.0, 128.0, 256.0, 512.0)
    assert SOURCE.space[20] == "voc"


def test_every_array_has_a_place(shapes):
    own = [SOURCE.rename(key) for key in shapes]
    assert None not in own
    assert len(set(own)) == len(own)
    for key in ("backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.bias"):
        assert SOURCE.rename(key) is None
        assert "version 1.0" in SOURCE.why_left_out(key)
    assert not SOURCE.recognise({"conv1.weight": (64, 3, 7, 7)})


def test_plus_plus_and_other_backbones_are_refused_by_name(shapes):
    with pytest.raises(UserError, match=r"YOLACT\+\+"):
        SOURCE.spec(shapes | {"maskiou_net.0.weight": (8, 1, 3, 3)}, {})
    darknet = {key: shape for key, shape in shapes.items() if not key.startswith("backbone.layers.3")}
    with pytest.raises(UserError, match="YOLACT file is no ResNet"):
        SOURCE.spec(darknet, {})
    nine = shapes | {"prediction_layers.0.bbox_layer.weight": (36, 256, 3, 3)}
    with pytest.raises(UserError, match="9 priors per cell"):
        SOURCE.spec(nine, {})


def test_a_missing_a_surplus_and_a_misshapen_array_are_named(shapes):
    arrays = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    arrays["surplus.weight"] = torch.empty(1, device="meta")
    arrays["semantic_seg_conv.bias"] = torch.empty(7, device="meta")
    del arrays["proto_net.10.bias"]
    misfit = str(fit(SOURCE, SOURCE.spec(shapes, {}), Contents(Path("weights.pth"), arrays)).misfit)
    assert "1 missing: proto_net.10.bias" in misfit
    assert "1 unexpected: surplus.weight" in misfit
    assert "semantic_seg_conv.bias (expected 80, found 7)" in misfit
