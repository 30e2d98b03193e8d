"""Weights whose licence forbids commercial use are trained from only by who says so, each time."""

from dataclasses import replace

import pytest
import torch
import yaml

import nuriwake as nw
from nuriwake.cli import run
from nuriwake.models.backbones import BACKBONES, build_backbone
from nuriwake.models.backbones import weights as fetching
from nuriwake.recipes.demo_data import draw_demo_data

SMALL = ["--steps", "1", "--batch-size", "2", "--augmentation.crop-size", "64", "--device", "cpu"]
PRETRAINED = ["--model.backbone-weights", "pretrained"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_demo_data(tmp_path_factory.mktemp("data") / "shapes", train=3, val=2, size=(64, 64))


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """MobileNetV2's weights lie at an address and are for research only; what was asked of the network."""
    published = build_backbone("mobilenet_v2", in_channels=3)
    names = published.published().names
    state = published.state_dict()
    file = tmp_path / "mobilenet.pth"
    torch.save({theirs: state[ours] for theirs, ours in names.items()}, file)
    entry = replace(BACKBONES["mobilenet_v2"], published="owner/weights", licence="research only", commercial=False)
    monkeypatch.setitem(BACKBONES, "mobilenet_v2", entry)
    found = []

    def fetch(name, who):
        found.append(name)
        return file

    monkeypatch.setattr(fetching, "_fetch_hub", fetch)
    return found


def test_training_asks_for_consent_and_keeps_none(data, asked, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", str(data), "--out", str(out), "--model", "unet_mobilenet_v2", *SMALL, *PRETRAINED]
    assert run(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "The weights 'owner/weights' forbid commercial use (research only); repeat with --accept-license" in said
    assert not asked
    assert not out.exists()
    assert run([*command, "--accept-license"]) == 0
    assert asked == ["owner/weights"]
    assert "accept" not in (out / "config.yaml").read_text()
    assert nw.load(out).model
    # Whoever goes on with the run, or trains with its configuration, is asked again.
    again = ["train", str(data), "--out", str(out), "--resume"]
    assert run(again) == 2
    assert run([*again, "--accept-license"]) == 0
    stored = yaml.safe_load((out / "config.yaml").read_text())
    stored["out"] = str(tmp_path / "other")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(stored))
    assert run(["train", str(data), "--out", str(tmp_path / "other"), "--config", str(tmp_path / "other.yaml")]) == 2


def test_python_can_accept(data, asked, tmp_path):
    named = {"steps": 1, "batch_size": 2, "augmentation.crop_size": 64, "device": "cpu"}
    named["model.backbone_weights"] = "pretrained"
    with pytest.raises(nw.UserError, match="accept_license=True in Python"):
        nw.train(data, out=tmp_path / "run", overrides=named, say=lambda line: None)
    nw.train(data, out=tmp_path / "run", overrides=named, accept_license=True, say=lambda line: None)
    assert asked == ["owner/weights"]
