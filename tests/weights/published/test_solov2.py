"""Published SOLOv2 files: recognised, read whole through the file, and with the published outputs and objects."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.inference.decoders.kernels import KernelDecoder, peaks
from nuriwake.inference.decoding import Pass, Request
from nuriwake.inference.tiling import Grid
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.contents import Contents
from nuriwake.weights.published import solov2
from nuriwake.weights.recognition import fit

NAMES = ("mmdet__solov2_r50_fpn", "mmdet__solov2-light_r50_fpn")
EVERY = pytest.mark.parametrize("name", NAMES)
(SOURCE,) = solov2.SOURCES


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def shapes_of(parity, name):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def write(path, state):
    """As mmengine saves it, with objects of a package that is gone when the file is read."""
    module = types.ModuleType("mmgone")
    module.ConfigDict = type("ConfigDict", (dict,), {"__module__": "mmgone", "__qualname__": "ConfigDict"})
    sys.modules["mmgone"] = module
    meta = {"cfg": module.ConfigDict(a=1), "mmdet_version": "3.3.0", "epoch": 36}
    torch.save({"meta": meta, "message_hub": module.ConfigDict(b=2), "state_dict": state}, path)
    del sys.modules["mmgone"]
    return path


def off(found, expected):
    """The largest difference in units of the largest value."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def peaks_off(logits, expected):
    """As `off`, for scores from which all but the peaks were struck out: equally high neighbours may trade places."""
    scores = logits.sigmoid()
    found = peaks(scores).reshape(*expected.shape)
    raw = scores.permute(1, 2, 0).numpy()
    traded = (found.numpy() == 0) != (expected == 0)
    highest = functional.max_pool2d(scores[None], 2, stride=1, padding=1)[0, :, :-1, :-1].permute(1, 2, 0).numpy()
    assert traded.mean() < 1e-3
    assert (highest - raw)[traded].max(initial=0) < 1e-5
    return off(np.where(traded, expected, found), expected)


@EVERY
@pytest.mark.filterwarnings("ignore:There are more objects")
def test_outputs_and_objects_of_the_file_are_the_published_ones(name, parity, formula, tmp_path):
    state = {key: torch.from_numpy(item) for key, item in formula.state_dict(parity / f"{name}.json").items()}
    imported = read_checkpoint(write(tmp_path / f"{name}.pth", state))
    bundle, model = imported.bundle, imported.model
    assert (bundle.task, bundle.model.name, len(bundle.space)) == ("instance", "solov2_resnet50", 80)
    assert (bundle.space.names[0], bundle.space.names[-1], all(bundle.space.things)) == ("person", "toothbrush", True)
    assert (imported.report.used, imported.report.left_out) == (len(state), {})
    assert bundle.settings.tile is None
    expected = np.load(parity / f"{name}.npz")
    images = torch.from_numpy(formula.normalised(name, 160, 192))
    with torch.no_grad():
        output = model(images)
        pyramid = model.pyramid(model.encoder(images)[model.first :])
    differences = {f"fpn.{level}": off(x, expected[f"fpn.{level}"]) for level, x in enumerate(pyramid)}
    differences |= {f"kernels.{level}": off(x, expected[f"kernels.{level}"]) for level, x in enumerate(output.kernels)}
    differences |= {
        f"class_logits.{level}": peaks_off(x[0], expected[f"class_logits.{level}"][0])
        for level, x in enumerate(output.class_logits)
    }
    differences["mask_features"] = off(output.mask_features, expected["mask_features"])
    # The reference has 20 of the 100 objects.
    decoder = KernelDecoder()
    request = Request((160, 192), "instance", bundle.space, bundle.settings)
    with pytest.warns(UserWarning, match="candidates"):
        found = decoder([Pass(Grid((160, 192), (160, 192), 0, (0,), (0,)), ("none",), iter([(output, 0)]))], request)
    found = found[np.arange(len(expected["detections.scores"]))]
    differences["scores"] = off(found.scores, expected["detections.scores"])
    print(name, {key: f"{value:.1e}" for key, value in differences.items()})
    assert max(differences.values()) <= 1e-4
    assert found.labels.tolist() == expected["detections.labels"].tolist()
    wrong = (found.masks.dense() != expected["detections.masks"]).mean()
    print(name, f"pixels that differ: {wrong:.1e}")
    assert wrong <= 1e-5


@EVERY
def test_the_preprocessing_is_the_published_one(name, parity):
    found = SOURCE.preprocessing_of(shapes_of(parity, name), {})
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    assert np.allclose(found.tensor(image), ((image - mean) / deviation).transpose(2, 0, 1), atol=1e-5)
    assert found.padding == "zero"
    sizes = [found.geometry(size).size for size in ((480, 640), (427, 640), (300, 1200))]
    light = "light" in name
    assert sizes == ([(448, 597), (448, 671), (192, 768)] if light else [(800, 1067), (800, 1199), (333, 1333)])


@EVERY
def test_a_missing_an_extra_and_a_misshapen_array_are_named(name, parity, tmp_path):
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(parity, name).items()}

    def misfit(arrays):
        contents = Contents(tmp_path / "solov2.pth", arrays)
        return str(fit(SOURCE, SOURCE.spec(contents.shapes, {}), contents).misfit)

    victim = "mask_head.kernel_convs.1.gn.bias"
    assert f"1 missing: {victim}" in misfit({key: item for key, item in state.items() if key != victim})
    assert "surplus" in misfit(state | {"surplus": torch.empty(1)})
    assert "found 3" in misfit(state | {victim: torch.empty(3)})


def test_other_sizes_are_told_from_the_arrays(parity):
    shapes = shapes_of(parity, NAMES[1])
    spec = SOURCE.spec(shapes, {})
    assert spec.options["convolutions"] == 2
    assert (spec.options["channels"], spec.options["kernel_channels"]) == (256, 128)
    own = shapes | {"mask_head.conv_cls.weight": (3, 256, 3, 3), "mask_head.conv_cls.bias": (3,)}
    assert SOURCE.spec(own, {}).classes == 3
    with pytest.raises(UserError, match="deformable convolutions"):
        SOURCE.spec(shapes | {"backbone.layer2.0.conv2.conv_offset.weight": (18, 128, 3, 3)}, {})


def test_other_files_are_not_taken_for_it(parity):
    for name in ("mmseg__fpn_r50", "detectron2__semantic_R_50_FPN_1x"):
        assert not SOURCE.recognise(shapes_of(parity, name))
