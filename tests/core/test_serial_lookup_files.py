"""Strict configuration fields, names with "did you mean", atomic files."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json, write_text
from nuriwake.core.lookup import lookup
from nuriwake.core.serial import from_plain, to_plain


@dataclass(frozen=True)
class Optim:
    learning_rate: float = 1e-3
    name: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True)
class Config:
    epochs: int
    optim: Optim = field(default_factory=Optim)
    size: tuple[int, int] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    layers: tuple[str, ...] = ()


def test_there_and_back():
    config = Config(3, Optim(0.1, "sgd"), (4, 5), {"dice": 1.0}, Path("a/b"), ("x",))
    assert from_plain(Config, to_plain(config)) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epochs": 1, "optim": {"learnin_rate": 1}}, "no field 'optim.learnin_rate'. Did you mean 'learning_rate'"),
        ({}, "'epochs' is missing"),
        ({"epochs": "many"}, "epochs: expected a whole number, found 'many'"),
        ({"epochs": True}, "epochs: expected a whole number"),
        ({"epochs": 1, "optim": {"name": "adamv"}}, "optim.name: found 'adamv'. Did you mean 'adamw'"),
        ({"epochs": 1, "size": [1, 2, 3]}, "size: expected a list of 2"),
        ({"epochs": 1, "optim": 3}, "optim: expected a mapping"),
        ({"epochs": 1, "weights": {"dice": "x"}}, "weights.dice: expected a number"),
    ],
)
def test_errors_name_the_field(value, message):
    with pytest.raises(UserError) as caught:
        from_plain(Config, value)
    assert message in str(caught.value)


def test_numbers_that_yaml_reads_as_text():
    assert from_plain(Config, {"epochs": 1, "optim": {"learning_rate": "3e-4"}}).optim.learning_rate == 3e-4


def test_lookup_by_name_and_path():
    table = {"join": "os.path:join", "four": 4}
    assert lookup("join", table, "thing") is os.path.join
    assert lookup("four", table, "thing") == 4
    assert lookup("os.path:split", table, "thing") is os.path.split


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("joim", "no thing named 'joim'. Did you mean 'join'"),
        ("no_such_package_x:y", "does not import"),
        ("os.path:joinn", "has no 'joinn'. Did you mean 'join'"),
    ],
)
def test_lookup_says_what_was_near(name, message):
    with pytest.raises(UserError) as caught:
        lookup(name, {"join": "os.path:join"}, "thing")
    assert message in str(caught.value)


def test_a_file_of_the_current_folder_is_found_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module_of_this_folder.py").write_text("answer = 42\n")
    (tmp_path / "json.py").write_text("answer = 43\n")
    with pytest.raises(UserError, match="does not import"):
        lookup("module_of_this_folder:answer", {}, "thing")
    assert str(tmp_path) not in sys.path
    assert lookup("module_of_this_folder:answer", {}, "thing", here=True) == 42
    assert lookup("json:dumps", {}, "thing", here=True) is json.dumps
    sys.modules.pop("module_of_this_folder")


@pytest.mark.parametrize("path", [":name", "json:", ".json:dumps"])
def test_what_is_no_import_path_is_said(path):
    with pytest.raises(UserError, match=r"expected an import path such as 'package.module:Name'"):
        lookup(path, {}, "thing", here=True)


def _fill_the_disk(path):
    path.write_text("ne")
    raise OSError("the disk is full")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a" / "result.txt"
    write_text(target, "old")
    with pytest.raises(OSError, match="full"), atomic_path(target) as temporary:
        _fill_the_disk(temporary)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["result.txt"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_written_files_follow_the_umask(tmp_path):
    write_text(tmp_path / "x", "y")
    (tmp_path / "plain").write_text("y")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
