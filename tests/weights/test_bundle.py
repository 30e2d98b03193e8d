"""A bundle comes back whole, and everything that is not one is refused with a sentence."""

import errno
import hashlib
import json
import resource
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nuriwake.cli import run
from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.inference.rules import PostprocessingRule
from nuriwake.inference.settings import PredictSettings
from nuriwake.models import MODELS, build_model
from nuriwake.models.backbones import BACKBONES
from nuriwake.models.unet import UNet
from nuriwake.weights.bundle import (
    OTHER_SETTINGS,
    Bundle,
    ModelSpec,
    change_bundle,
    describe_bundle,
    load_predictor,
    read_bundle,
    resolved_options,
    save_bundle,
)
from nuriwake.weights.licence import weights_licence

SPEC = ModelSpec("unet", 3, 1, {"width": 4})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return build_model(SPEC.name, in_channels=3, classes=1, options=SPEC.options)


@pytest.fixture
def bundle():
    return Bundle(
        "semantic",
        SPEC,
        LabelSpace(("background", "細胞"), colours=((0, 0, 0), (250, 1, 2))),
        Preprocessing(resize=ResizeRule(shortest=48, longest=96)),
        PredictSettings(
            thresholds=(0.4,), scales=(1.0, 1.25), postprocessing=(PostprocessingRule("drop_small", area=9),)
        ),
        metrics={"dice": 0.93, "hd95": None, "per_class": [{"name": "細胞", "iou": np.float64(0.5)}]},
        licence="CC-BY-4.0",
        config={"data": {"root": "x"}, "epochs": 3},
        notes=("made in a test",),
    )


@pytest.fixture
def path(tmp_path, bundle, model):
    save_bundle(tmp_path / "run" / "bundle.safetensors", bundle, model)
    return tmp_path / "run" / "bundle.safetensors"


def rewrite(path, change_header=lambda header: header, change_state=lambda state: state):
    """The bundle at `path` with a changed header or changed arrays."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["nuriwake"])
    state = load_file(path)
    save_file(change_state(state), path, metadata={"nuriwake": json.dumps(change_header(header))})


def test_everything_comes_back(path, bundle, model):
    found, state = read_bundle(path)
    assert found.space == bundle.space
    assert found.preprocessing == bundle.preprocessing
    assert found.settings == bundle.settings
    assert (found.licence, found.notes, found.config) == (bundle.licence, bundle.notes, bundle.config)
    assert found.metrics["per_class"] == [{"name": "細胞", "iou": 0.5}]
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert [item.name for item in path.parent.iterdir()] == ["bundle.safetensors"]


def test_the_loaded_predictor_answers_the_same(path, bundle, model):
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    before = Predictor(model, space=bundle.space, preprocessing=bundle.preprocessing, settings=bundle.settings)
    for where in (path, path.parent, str(path)):
        after = load_predictor(where)
        np.testing.assert_array_equal(after.probabilities(image), before.probabilities(image))
        np.testing.assert_array_equal(after(image).labels, before(image).labels)
    assert not after.model.training
    assert load_predictor(path, settings=PredictSettings()).settings == PredictSettings()


def test_arrays_that_share_memory_are_written_once_and_tied_again(tmp_path, bundle, model):
    weight = torch.randn(3, 4)
    state = {"a": weight, "b": weight, "part": weight[1:], "turned": weight.T}
    save_bundle(tmp_path / "b.safetensors", bundle, model, state=state)
    _, found = read_bundle(tmp_path / "b.safetensors")
    assert found.keys() == state.keys()
    assert found["a"].data_ptr() == found["b"].data_ptr()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor)
    assert len(load_file(tmp_path / "b.safetensors")) == 3


def test_cut_off_and_damaged_files(path):
    whole = path.read_bytes()
    for data in (b"", b"nonsense", whole[:5], whole[:200], whole[: len(whole) // 2], whole[:-1], whole + b"x"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"bundle\.safetensors: no readable safetensors file"):
            read_bundle(path)


def test_foreign_files(tmp_path):
    with pytest.raises(UserError, match="there is no such bundle"):
        read_bundle(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"has no bundle\.safetensors"):
        load_predictor(tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="but no nuriwake bundle"):
        read_bundle(tmp_path / "a.safetensors")


def test_a_newer_format_says_how_to_read_it(path):
    rewrite(path, lambda header: {**header, "format": 99, "nuriwake": "7.1", "bundle": "of another shape"})
    with pytest.raises(UserError, match=r"written by nuriwake 7\.1 in format 99; this nuriwake reads up to format 1"):
        read_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: [],
        lambda header: {**header, "format": "x"},
        lambda header: {**header, "bundle": 3},
        lambda header: {**header, "aliases": {"extra": "nowhere"}},
        lambda header: {**header, "bundle": {**header["bundle"], "task": 3}},
        lambda header: {**header, "bundle": {**header["bundle"], "unknown": 3}},
        lambda header: {**header, "bundle": {**header["bundle"], "space": {"names": ["a", "a"]}}},
    ],
)
def test_a_damaged_header(path, change):
    rewrite(path, change)
    with pytest.raises(UserError, match=r"bundle\.safetensors: "):
        read_bundle(path)


def make_unet(in_channels: int, classes: int, width: int = 4) -> UNet:
    return UNet(in_channels, classes, width=width)


def make_anything(in_channels, classes, width=4):
    raise AssertionError("it was called")


@pytest.mark.parametrize("name", ["os:dup2", "os:kill", "builtins:range", f"{__name__}:make_anything", "json:dumps"])
def test_a_name_in_a_file_calls_nothing_but_models(path, name, monkeypatch):
    """`os:dup2` takes two numbers too, and would have closed a file of this process."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or import_this())
    rewrite(path, lambda header: header | {"bundle": header["bundle"] | {"model": model_of(name, {})}})
    with pytest.raises(
        UserError, match=rf"bundle\.safetensors: the bundle's model '{name}' is neither a class derived"
    ):
        load_predictor(path)


@pytest.mark.parametrize("name", ["nuriwake.models.unet:UNet", f"{__name__}:make_unet"])
def test_models_of_your_own_are_loaded_by_their_path(path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or import_this())
    rewrite(path, lambda header: header | {"bundle": header["bundle"] | {"model": model_of(name, {"width": 4})}})
    assert isinstance(load_predictor(path).model, UNet)


def test_the_model_of_a_bundle_is_not_looked_for_in_the_current_folder(path, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module_beside_it.py").write_text("raise AssertionError('it was run')\n")
    rewrite(
        path, lambda header: header | {"bundle": header["bundle"] | {"model": model_of("module_beside_it:Net", {})}}
    )
    with pytest.raises(UserError, match=r"No module named 'module_beside_it'.* put its folder on PYTHONPATH"):
        load_predictor(path)
    assert str(tmp_path) not in sys.path


def model_of(name, options):
    return {"name": name, "in_channels": 3, "classes": 1, "options": options}


def import_this():
    """This file as a module, which pytest need not have put where imports find it."""
    found = types.ModuleType(__name__)
    vars(found).update(globals())
    return found


def test_arrays_missing_extra_or_misshapen(path):
    first = sorted(load_file(path))[0]
    rewrite(path, change_state=lambda state: {name: value for name, value in state.items() if name != first})
    with pytest.raises(UserError, match=f"1 missing: {first}"):
        load_predictor(path)
    rewrite(path, change_state=lambda state: {**state, first: torch.zeros(7)})
    with pytest.raises(UserError, match=rf"1 of another shape: {first} \(expected .*, found 7\)"):
        load_predictor(path)


def test_extra_arrays(path):
    rewrite(path, change_state=lambda state: {**state, "more.weight": torch.zeros(7)})
    with pytest.raises(UserError, match=r"1 unexpected: more\.weight"):
        load_predictor(path)


def test_a_header_that_is_not_json_leaves_the_old_bundle(path, bundle, model):
    old = path.read_bytes()
    with pytest.raises(UserError, match="write undefined metrics as None"):
        save_bundle(path, replace(bundle, metrics={"dice": float("nan")}), model)
    assert path.read_bytes() == old
    assert len(list(path.parent.iterdir())) == 1


def full_disk(*arrays, **options):
    """safetensors' words on it; its error is no OSError."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_is_one_sentence_and_leaves_the_old_bundle(path, bundle, model, monkeypatch, capsys):
    old = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_bundle(path, bundle, model)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert run(["settings", str(path), "--thresholds", "0.3"]) == 1
    assert "bundle.safetensors: the disk is full; free some space" in capsys.readouterr().err
    assert path.read_bytes() == old
    assert len(list(path.parent.iterdir())) == 1


def test_a_bundle_that_may_not_grow_so_large(path, bundle, model):
    """The system's own refusal, through safetensors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_bundle(path, bundle, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


def test_a_description_reads_no_arrays(path, monkeypatch):
    whole, _ = read_bundle(path)
    path.write_bytes(path.read_bytes())
    assert describe_bundle(path) == whole


def test_settings_are_changed_in_place_and_nothing_else_is(path, model, bundle):
    found = change_bundle(path.parent, {"thresholds": [0.7], "postprocessing": [{"operation": "keep_largest"}]})
    read, state = read_bundle(path)
    assert read == found
    assert read.settings == replace(
        bundle.settings, thresholds=(0.7,), postprocessing=(PostprocessingRule("keep_largest"),)
    )
    assert read.notes == (*bundle.notes, OTHER_SETTINGS)
    assert (read.model, read.space, read.config) == (describe_bundle(path).model, bundle.space, bundle.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert [item.name for item in path.parent.iterdir()] == ["bundle.safetensors"]
    change_bundle(path, {"flips": "all"})
    assert describe_bundle(path).notes.count(OTHER_SETTINGS) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": [0.5]}, "Did you mean 'thresholds'"),
        ({"thresholds": [0.5, 0.5]}, "wants 1, found 2"),
        ({"postprocessing": [{"operation": "keep_largest", "classes": ["細砲"]}]}, "Known: background, 細胞"),
        ({"decoding": {"score_threshold": 0.5}}, r"settings\.decoding\.score_threshold"),
    ],
)
def test_settings_that_do_not_fit_leave_the_bundle(path, changes, words):
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        change_bundle(path, changes)
    assert path.read_bytes() == before


def test_the_same_settings_write_nothing(path, bundle):
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert change_bundle(path, {"thresholds": [0.4]}).settings == bundle.settings
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_a_default_that_changes_later_does_not_change_a_bundle(tmp_path, bundle, monkeypatch):
    options = resolved_options("unet", {"width": 4})
    model = build_model("unet", in_channels=3, classes=1, options=options)
    save_bundle(tmp_path / "b.safetensors", replace(bundle, model=ModelSpec("unet", 3, 1, options)), model)
    names = UNet.__init__.__kwdefaults__
    assert {"width": 4}.items() <= options.items() >= {"depth": names["depth"]}.items()
    monkeypatch.setitem(UNet.__init__.__kwdefaults__, "depth", names["depth"] - 1)
    monkeypatch.setitem(MODELS, "unet", replace(MODELS["unet"], defaults={"upsampling": "bilinear"}))
    found = load_predictor(tmp_path / "b.safetensors").model
    assert {key: item.shape for key, item in found.state_dict().items()} == {
        key: item.shape for key, item in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["unet_mobilenet_v2", "segformer_b0", "deeplabv3_mobilenet_v3_large"])
def test_resolved_options_survive_json(name):
    options = json.loads(json.dumps(resolved_options(name, {})))
    whole, usual = (build_model(name, in_channels=3, classes=2, options=given).state_dict() for given in (options, {}))
    assert {key: item.shape for key, item in whole.items()} == {key: item.shape for key, item in usual.items()}


def test_the_licence_of_the_weights_that_a_training_began_from(tmp_path, monkeypatch):
    entry = BACKBONES["mobilenet_v2"]
    content = b"weights"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(BACKBONES, "mobilenet_v2", replace(entry, published=f"https://example.org/{name}"))
    file = tmp_path / name
    file.write_bytes(content)
    known = f"backbone weights: {entry.licence}"
    assert weights_licence("unet_mobilenet_v2", None) == ""
    for weights in ("pretrained", f"https://example.org/{name}", str(file)):
        assert weights_licence("unet_mobilenet_v2", weights) == known
    file.write_bytes(b"others of this name")
    assert weights_licence("unet_mobilenet_v2", str(file)) == f"unknown: {name}"
    assert weights_licence("unet_mobilenet_v2", "/x/mine.pth") == "unknown: mine.pth"
    assert "apache-2.0" in weights_licence("unet_convnext_tiny", "pretrained")
