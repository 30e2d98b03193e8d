"""`nuriwake predict` on NIfTI volumes: a label volume in the same place, a few pictures, millilitres."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nuriwake as nw
from nuriwake.cli import run
from nuriwake.cli.volumes import MOST_OVERLAYS
from nuriwake.core.labels import LabelSpace
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models import build_model
from nuriwake.weights.bundle import Bundle, ModelSpec, save_bundle

nib = pytest.importorskip("nibabel", reason='needs the extra "medical"')

AFFINE = np.array([[-0.8, 0.1, 0, 5], [0.1, 1.2, 0.3, -7], [0, -0.2, 3, 9], [0, 0, 0, 1]])


def bundle(path: Path, *, channels: int = 1, space: LabelSpace | None = None) -> Path:
    space = space or LabelSpace(("background", "liver", "tumour"))
    spec = ModelSpec("unet", channels, space.channels, {"width": 4, "depth": 1})
    model = build_model("unet", in_channels=channels, classes=space.channels, options=spec.options)
    wanted = Preprocessing(channels, (0.0,) * channels, (1.0,) * channels, 100.0, "float32")
    save_bundle(path, Bundle("semantic", spec, space, wanted), model)
    return path


def volume(path: Path, shape=(20, 18, 11), seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-200, 200, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return values


def test_a_volume_comes_back_as_labels_in_its_place(tmp_path, capsys):
    model, out = bundle(tmp_path / "m.safetensors"), tmp_path / "p"
    values = volume(tmp_path / "in" / "scan.v1.nii.gz")
    assert run(["predict", str(model), str(tmp_path / "in"), "--out", str(out), "--to", "nifti"]) == 0
    assert "11 slices across axis 2 (inferior to superior)" in " ".join(capsys.readouterr().out.split())
    found = nib.load(out / "scan.v1.nii.gz")
    assert (found.shape, found.get_data_dtype()) == (values.shape, np.uint8)
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "in" / "scan.v1.nii.gz").affine)
    labels, predictor = np.asarray(found.dataobj), nw.load(model)
    for index in (0, 5, 10):  # the first axis is stored from right to left, so that only rows are turned
        picture = values[:, ::-1, index].T.astype(np.float32)[..., None]
        np.testing.assert_array_equal(labels[:, ::-1, index].T, predictor(np.ascontiguousarray(picture)).labels)
    (entry,) = json.loads((out / "predictions.json").read_text())["images"]
    assert entry["labels"] == ["scan.v1.nii.gz"]
    assert entry["shape"] == [20, 18, 11]
    each = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    for label, name in enumerate(("background", "liver", "tumour")):
        count = int((labels == label).sum())
        if count:
            assert entry["classes"][name]["voxels"] == count
            assert entry["classes"][name]["millilitres"] == pytest.approx(count * each, rel=1e-3, abs=5e-5)
    assert len(entry["overlays"]) == MOST_OVERLAYS
    assert Image.open(out / entry["overlays"][-1]).size == (20, 18)
    again = nib.load(out / "nifti" / "labelsTs" / "scan.v1.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), labels)


def test_channels_in_files_of_their_own_and_another_axis(tmp_path):
    model, out = bundle(tmp_path / "m.safetensors", channels=2), tmp_path / "p"
    stack = np.stack([volume(tmp_path / "in" / f"case_000{c}.nii.gz", seed=c) for c in range(2)], -1)
    options = ["--slice-axis", "1", "--no-overlay"]
    assert run(["predict", str(model), str(tmp_path / "in"), "--out", str(out), *options]) == 0
    labels = np.asarray(nib.load(out / "case.nii.gz").dataobj)
    picture = stack[:, 4, ::-1].swapaxes(0, 1).astype(np.float32)
    np.testing.assert_array_equal(labels[:, 4, ::-1].T, nw.load(model)(np.ascontiguousarray(picture)).labels)
    (entry,) = json.loads((out / "predictions.json").read_text())["images"]
    assert len(entry["image"]) == 2
    assert "overlays" not in entry


def test_classes_that_overlap_become_a_volume_each(tmp_path):
    model = bundle(tmp_path / "m.safetensors", space=LabelSpace(("organ", "lesion"), exclusive=False))
    volume(tmp_path / "a.nii")
    options = ["--out", str(tmp_path / "p"), "--no-overlay", "--thresholds", "0.01", "0.99"]
    assert run(["predict", str(model), str(tmp_path / "a.nii"), *options]) == 0
    (entry,) = json.loads((tmp_path / "p" / "predictions.json").read_text())["images"]
    assert entry["labels"] == ["organ/a.nii.gz", "lesion/a.nii.gz"]
    organ = np.asarray(nib.load(tmp_path / "p" / "organ" / "a.nii.gz").dataobj)
    assert entry["classes"]["organ"]["voxels"] == np.count_nonzero(organ) > 0


@pytest.mark.parametrize("what", ["cut", "text", "channels", "overwrite"])
def test_one_sentence(tmp_path, capsys, what):
    model, out = bundle(tmp_path / "m.safetensors", channels=3 if what == "channels" else 1), tmp_path / "p"
    path = tmp_path / "scan.nii.gz"
    volume(path)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif what == "text":
        path.write_bytes(b"no volume")
    elif what == "channels":
        volume(path, (20, 18, 5, 2))
    elif what == "overwrite":
        out = tmp_path
    assert run(["predict", str(model), str(path), "--out", str(out)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "nuriwake: " in message
    assert "scan.nii.gz" in message
    assert "Traceback" not in message
