"""Reading weights: the usual wrappers open, everything foreign or damaged is refused in one sentence, nothing executes."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nuriwake.core.errors import UserError
from nuriwake.models.state import compare_state, load_strictly, read_state

ARRAYS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}


class Malicious:
    """Unpickling it would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == ARRAYS.keys() and all(torch.equal(found[key], ARRAYS[key]) for key in ARRAYS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: arrays,
        lambda arrays: {"state_dict": arrays, "epoch": 3},
        lambda arrays: {"model": arrays, "optimizer": {"lr": 0.1}},
        lambda arrays: {f"module.{key}": item for key, item in arrays.items()},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_open_with_their_usual_wrappers(tmp_path, wrap, legacy):
    torch.save(wrap(ARRAYS), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert same(read_state(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_open_whatever_they_are_called(tmp_path, name):
    save_file(ARRAYS, tmp_path / name)
    assert same(read_state(tmp_path / name))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_by_name_and_not_executed(tmp_path, how):
    value = {"state_dict": ARRAYS, "meta": Malicious(tmp_path / "executed")}
    if how == "torch":
        torch.save(value, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps({"meta": value["meta"]}, protocol=2))
    with pytest.raises(UserError, match=r"w\.pth.*(posix|nt)\.mkdir.*refused"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_a_foreign_object_is_named(tmp_path):
    torch.save({"arguments": argparse.Namespace(a=1), "model": ARRAYS}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_state(tmp_path / "w.pth")


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"w.{suffix}"
    arrays = {"a": torch.randn(500, 20)}
    save_file(arrays, path) if suffix == "safetensors" else torch.save(arrays, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"w\.{suffix}"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x02}q\x00.", bytes(range(256)) * 9])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_files_are_refused(tmp_path, content, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.{suffix}"):
        read_state(tmp_path / f"w.{suffix}")


def test_absent_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_state(tmp_path / "w.pth")
    with pytest.raises(UserError, match="folder"):
        read_state(tmp_path)


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(50_000_000))
    with pytest.raises(UserError, match="unpack"):
        read_state(tmp_path / "w.pth")


def test_what_is_no_array_is_named(tmp_path):
    torch.save({"weight": torch.ones(1), "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"lr.*float"):
        read_state(tmp_path / "w.pth")


def test_a_misfit_names_every_kind_of_array_and_changes_nothing():
    module = torch.nn.Linear(3, 2)
    before = module.weight.clone()
    state = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(UserError, match=r"1 missing: bias; 1 unexpected: scale; .*weight \(expected 2x3, found 2x4\)"):
        load_strictly(module, state, "'w.pth'")
    assert torch.equal(module.weight, before)


def test_absent_counters_are_no_misfit():
    norm = torch.nn.BatchNorm2d(4)
    expected = {key: item.shape for key, item in norm.state_dict().items()}
    state = {key: item + 1 for key, item in norm.state_dict().items() if key != "num_batches_tracked"}
    assert not compare_state(expected, state)
    load_strictly(norm, state, "it")
    assert torch.equal(norm.running_mean, torch.ones(4))
