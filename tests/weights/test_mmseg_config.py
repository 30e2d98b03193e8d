"""The configuration in mmsegmentation's files decides how their arrays are used; it is read and never executed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nuriwake.cli import run
from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import ResizeRule
from nuriwake.models import build_model
from nuriwake.weights.bundle import Bundle, ModelSpec, describe_bundle
from nuriwake.weights.checkpoint import read_checkpoint
from nuriwake.weights.contents import Contents, read_contents
from nuriwake.weights.mmseg_config import MmsegConfig, parse_config, read_mmseg_config
from nuriwake.weights.published.base import IMAGENET
from nuriwake.weights.recognition import fit, recognise

OLD = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=50, dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), norm_cfg=norm_cfg,
                  style='pytorch', contract_dilation=True),
    decode_head=dict(type='ASPPHead', dilations=(1, 6, 12, 18), align_corners=True, dropout_ratio=0.1),
    test_cfg=dict(mode='slide', crop_size=(769, 769), stride=(513, 513)))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
data = dict(test=dict(type='ADE20KDataset', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1024, 256), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Normalize', **img_norm_cfg) if 0 else dict(type='Pad'),
        dict(type='ImageToTensor', keys=['img'])])]))
"""
NEW = """
crop_size = (512, 512)
data_preprocessor = dict(bgr_to_rgb=True, mean=[127.5, 127.5, 127.5], std=[51.0, 51.0, 51.0], size=crop_size)
model = dict(
    backbone=dict(type='mmseg.models.backbones.ResNetV1c', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
    data_preprocessor=data_preprocessor,
    decode_head=[dict(align_corners=True), dict(align_corners=False)],
    test_cfg=dict(mode='whole'))
test_cfg = dict(type='TestLoop')
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(640, 320))]))
"""


def contents(parity, name, config=None):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    arrays = {key: torch.empty(tuple(shape), device="meta") for key, shape in keys.items()}
    return Contents(parity / f"{name}.pth", arrays, {}, {"mmseg": config} if config else {})


def test_an_old_configuration_is_read():
    # One step of its pipeline is no literal, which leaves the whole pipeline unsaid.
    config = read_mmseg_config(OLD)
    assert (config.output_stride, config.rates, config.align_corners) == (16, (6, 12, 18), True)
    assert config.tiling == (769, pytest.approx(1 / 3, abs=0.001))
    assert not config.sized
    prepared = config.prepare(IMAGENET)
    assert (prepared.order, prepared.resize) == ("bgr", None)
    np.testing.assert_allclose(prepared.mean, np.array([103.53, 116.28, 123.675]) / 255, atol=1e-7)
    config = read_mmseg_config(OLD.replace("dict(type='Normalize', **img_norm_cfg) if 0 else ", ""))
    assert config.resize == ResizeRule(shortest=256, longest=1024, rounding="half_up")


def test_a_new_configuration_is_read():
    config = read_mmseg_config(NEW)
    assert (config.output_stride, config.align_corners, config.tiling) == (8, False, (None, 0.25))
    prepared = config.prepare(IMAGENET)
    assert (prepared.mean, prepared.deviation, prepared.order) == ((0.5,) * 3, (0.2,) * 3, "rgb")
    assert prepared.resize.exact == (320, 640)  # mmcv 2 stretches unless told otherwise
    kept = read_mmseg_config(NEW.replace("scale=(640, 320)", "scale=(640, 320), keep_ratio=True"))
    assert kept.resize.size((100, 100)) == (320, 320)
    assert (
        read_mmseg_config(NEW.replace(", dict(type='Resize', scale=(640, 320))", "")).prepare(IMAGENET).resize is None
    )


def test_texts_are_parsed_and_never_run(tmp_path):
    mark = tmp_path / "ran"
    text = f"import os\na = os.system('touch {mark}')\nb = [1, -2.5, (None, 'x')]\nc = dict(d=b, e=__import__('os'))\nc.f = 1\n"
    assert parse_config(text) == {"b": [1, -2.5, (None, "x")], "c": {"d": [1, -2.5, (None, "x")]}}
    torch.save(
        {"meta": {"config": f"{OLD}\nx = __import__('os').system('touch {mark}')"}, "state_dict": {"a": torch.ones(1)}},
        tmp_path / "a.pth",
    )
    assert read_contents(tmp_path / "a.pth").config["mmseg"].output_stride == 16
    assert not mark.exists()
    for foreign in (
        "",
        "a = (",
        "model: unet",
        "lr = 1",
        "a=" + "-" * 50_000 + "1",
        "model = dict(decode_head=dict(" + "#" * 2**18,
    ):
        assert read_mmseg_config(foreign) is None
    torch.save({"meta": {"cfg": "epochs = 3"}, "state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    assert read_contents(tmp_path / "a.pth").config == {}


def test_what_a_configuration_says_replaces_what_was_assumed(parity):
    name = "mmseg__deeplabv3plus_r50-d8"
    source, spec = recognise(contents(parity, name))
    assert spec.options["output_stride"] == 8
    assert any("--options '{\"output_stride\": 16}'" in note for note in source.notes_of({}, {}))
    assert source.notes_of({}, {"output_stride": 16}) == ()
    whole = contents(parity, name, read_mmseg_config(OLD))
    source, spec = recognise(whole)
    assert (spec.options["output_stride"], spec.options["rates"]) == (16, (6, 12, 18))
    assert not fit(source, spec, whole).misfit
    (note,) = source.notes_of(whole.config, {})
    assert "align_corners=True" in note
    assert source.tiling_of(whole.shapes, whole.config)[0] == 769
    assert source.preprocessing_of(whole.shapes, whole.config).order == "bgr"
    flat = OLD.replace("(1, 2, 2, 1)", "(1, 2, 2, 2)").replace("dilations=(1, 1, 1, 2)", "dilations=(1, 1, 1, 1)")
    _, spec = recognise(contents(parity, "mmseg__pspnet_r50-d8", read_mmseg_config(flat)))
    assert spec.options["output_stride"] == 32
    assert "bins" not in spec.options
    pooled = flat.replace("dilations=(1, 6, 12, 18)", "pool_scales=(1, 2, 4, 8)")
    _, spec = recognise(contents(parity, "mmseg__pspnet_r50-d8", read_mmseg_config(pooled)))
    assert spec.options["bins"] == (1, 2, 4, 8)
    _, spec = recognise(contents(parity, "mmseg__fpn_r50", read_mmseg_config(flat)))
    assert spec.options["align_corners"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("strides=(1, 2, 2, 1)", "strides=(1, 2, 2, 1), multi_grid=(1, 2, 4)"),
        ("contract_dilation=True", "contract_dilation=False"),
        ("dilations=(1, 1, 1, 2)", "dilations=(1, 1, 1, 4)"),
        ("style='pytorch'", "style='caffe'"),
    ],
)
def test_backbones_that_compute_otherwise_are_refused(old, new, parity):
    config = read_mmseg_config(OLD.replace(old, new))
    with pytest.raises(UserError, match="builds a backbone with strides"):
        recognise(contents(parity, "mmseg__deeplabv3plus_r50-d8", config))
    with pytest.raises(UserError, match="Semantic FPN here has 32"):
        recognise(contents(parity, "mmseg__fpn_r50", read_mmseg_config(OLD)))


def test_tiles_that_are_no_squares_are_told():
    config = MmsegConfig(crop=(512, 1024), step=(341, 683))
    assert config.tiling == (1024, pytest.approx(1 / 3, abs=0.001))
    (note,) = config.limits(aligns=True)
    assert "512x1024" in note
    assert MmsegConfig(crop=(512, 512), step=(341, 341)).limits(aligns=True) == ()


def hrnet(folder, channels=3):
    """A tiny file of HRNet's authors, and a folder of transformers' SegFormer beside it."""
    options = {"layout": {"width": 4, "modules": [1, 1, 1], "blocks": 1, "first_width": 4, "first_blocks": 1}}
    state = build_model("hrnet_w48", in_channels=channels, classes=3, options=options).state_dict()
    names = {key: key.removeprefix("encoder.").replace("head.", "last_layer.") for key in state}
    torch.save({names[key]: item for key, item in state.items()}, folder / "hrnet.pth")
    return folder / "hrnet.pth"


def test_options_of_the_model_are_given_by_the_user(tmp_path, capsys):
    path, bundle = hrnet(tmp_path), tmp_path / "b.safetensors"
    imported = read_checkpoint(path)
    assert not imported.model.align_corners
    assert imported.bundle.settings.tile is None  # its authors test on whole images
    assert any("--options '{\"align_corners\": true}'" in note for note in imported.report.notes)
    aligned = read_checkpoint(path, options={"align_corners": True})
    assert aligned.model.align_corners
    assert aligned.report.notes == ()
    with pytest.raises(UserError, match="Did you mean 'align_corners'"):
        read_checkpoint(path, options={"align_corner": True})
    assert run(["import", str(path), "--out", str(bundle), "--options", '{"align_corners": true}']) == 0
    assert describe_bundle(bundle).model.options["align_corners"] is True
    capsys.readouterr()
    assert run(["import", str(path), "--out", str(bundle), "--options", "align_corners"]) == 2
    assert "--options: expected a mapping" in capsys.readouterr().err


def test_preprocessing_has_as_many_channels_as_the_model(tmp_path):
    state = torch.load(hrnet(tmp_path, channels=4))
    save_file(state, tmp_path / "model.safetensors")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 64}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    imported = read_checkpoint(tmp_path)
    found = imported.bundle.preprocessing
    assert (found.channels, found.mean, found.resize.exact) == (4, (0.0,) * 4, (64, 64))
    assert any("is for images of 3" in note for note in imported.report.notes)
    with pytest.raises(UserError, match="as many channels as its model has, 4, found 3"):
        Bundle("semantic", ModelSpec("unet", 4, 1), imported.bundle.space, IMAGENET)
