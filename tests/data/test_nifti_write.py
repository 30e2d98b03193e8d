"""NIfTI volumes, written: the same voxels in the same place, or a sentence that says why not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuriwake import convert
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

nib = pytest.importorskip("nibabel", reason='needs the extra "medical"')

SPACE = LabelSpace(("background", "liver", "tumour"))


def quiet(_: str) -> None:
    """Says nothing."""


def write_volumes(root: Path, *, channels: int = 1, order: str = "RAS", end: str = ".nii.gz") -> Path:
    """Three volumes with an oblique affine, stored in `order`, and their labels."""
    cosine, sine = np.cos(0.3), np.sin(0.3)
    affine = np.array([[cosine, -sine, 0, -30.5], [1.25 * sine, 1.25 * cosine, 0, 12], [0, 0, 4, 77], [0, 0, 0, 1]])
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        rng = np.random.default_rng(number)
        values = rng.integers(-1000, 1000, (9, 8, 5, channels)).astype(np.int16)
        labels = rng.integers(0, 3, (9, 8, 5)).astype(np.float32)
        wanted = nib.orientations.axcodes2ornt(tuple(order))
        image = nib.Nifti1Image(values[..., 0] if channels == 1 else values, affine)
        truth = nib.Nifti1Image(labels, affine)
        image, truth = (item.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), wanted))
                        for item in (image, truth))  # fmt: skip
        nib.save(image, root / "imagesTr" / f"case_{number}{end}")
        nib.save(truth, root / "labelsTr" / f"case_{number}{end}")
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "tumour"}}))
    return root


@pytest.mark.parametrize(("order", "end"), [("RAS", ".nii.gz"), ("LPS", ".nii"), ("SAL", ".nii.gz")])
def test_a_round_trip_gives_the_same_volumes_in_the_same_place(tmp_path, order, end):
    source = write_volumes(tmp_path / "a", order=order, end=end)
    convert(source, tmp_path / "b", to="nifti", say=quiet)
    for number in range(3):
        for before, after in (
            (f"imagesTr/case_{number}{end}", f"imagesTr/case_{number}_0000.nii.gz"),
            (f"labelsTr/case_{number}{end}", f"labelsTr/case_{number}.nii.gz"),
        ):
            one, other = nib.load(source / before), nib.load(tmp_path / "b" / after)
            np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
            np.testing.assert_array_equal(one.affine, other.affine)
            assert one.header.get_zooms() == other.header.get_zooms()
            for code in ("qform_code", "sform_code", "xyzt_units"):
                assert one.header[code] == other.header[code]
        assert other.get_data_dtype() == np.uint8
    first, second = open_data(source), open_data(tmp_path / "b")
    assert first.space == second.space
    for split, records in first.splits.items():
        assert [record.name for record in records] == [record.name for record in second.records(split)]
        for one, other in zip(map(first.read, records), map(second.read, second.records(split)), strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.target.labels, other.target.labels)
            assert one.spacing == other.spacing
    plain = json.loads((tmp_path / "b" / "dataset.json").read_text())
    assert plain["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert (plain["numTraining"], plain["file_ending"]) == (3, ".nii.gz")
    with pytest.raises(UserError, match="already exists"):
        convert(source, tmp_path / "b", to="nifti", say=quiet)


def test_channels_become_files(tmp_path):
    source = write_volumes(tmp_path / "a", channels=2, order="LPS")
    notes = convert(source, tmp_path / "b", to="nifti", say=quiet)
    assert any("_0000, _0001" in note for note in notes)
    whole = np.asarray(nib.load(source / "imagesTr" / "case_1.nii.gz").dataobj)
    for channel in range(2):
        part = nib.load(tmp_path / "b" / "imagesTr" / f"case_1_000{channel}.nii.gz")
        np.testing.assert_array_equal(np.asarray(part.dataobj), whole[..., channel])
        assert part.get_data_dtype() == np.int16
    first, second = open_data(source), open_data(tmp_path / "b")
    for one, other in zip(first.records("val"), second.records("val"), strict=True):
        np.testing.assert_array_equal(first.read(one).image, second.read(other).image)


def test_plain_images_become_volumes_of_one_slice(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "a" / folder).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8)).save(tmp_path / "a" / "images" / f"{number}.png")
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (12, 17))
        Image.fromarray(mask).save(tmp_path / "a" / "masks" / f"{number}.png")
    (tmp_path / "a" / "d.yaml").write_text("classes: [background, liver, tumour]\nspacing: [0.5, 0.25]")
    notes = convert(tmp_path / "a" / "d.yaml", tmp_path / "b", to="nifti", say=quiet)
    assert any("volume of one slice" in note for note in notes)
    assert not any("not known" in note for note in notes)
    assert json.loads((tmp_path / "b" / "dataset.json").read_text())["labels"]["ignore"] == 3
    first, second = open_data(tmp_path / "a" / "d.yaml"), open_data(tmp_path / "b")
    assert second.space.names == first.space.names
    for split in ("train", "val"):
        for one, other in zip(first.records(split), second.records(split), strict=True):
            before, after = first.read(one), second.read(other)
            assert before.name == after.name
            np.testing.assert_array_equal(before.image, after.image)
            np.testing.assert_array_equal(before.target.labels, after.target.labels)
            assert before.spacing == after.spacing == (0.5, 0.25)
    assert nib.load(tmp_path / "b" / "imagesTr" / "0_0000.nii.gz").shape == (17, 12, 1)
    assert nib.load(tmp_path / "b" / "imagesTr" / "0_0000.nii.gz").get_data_dtype() == np.uint8


def test_slices_go_to_other_formats_as_images(tmp_path):
    source = write_volumes(tmp_path / "a")
    convert(source, tmp_path / "b", to="mask_folder", say=quiet)
    first, second = open_data(source), open_data(tmp_path / "b")
    for one, other in zip(first.records("val"), second.records("val"), strict=True):
        before, after = first.read(one), second.read(other)
        np.testing.assert_array_equal(before.image, after.image)
        np.testing.assert_array_equal(before.target.labels, after.target.labels)


def test_what_a_volume_cannot_hold_is_said(tmp_path):
    image, labels = np.zeros((6, 7, 1), np.float32), np.zeros((6, 7), np.uint8)
    scored = Sample(image, SemanticMap(labels, SPACE, scores=np.ones((6, 7), np.float32)), name="a")
    settings = WriteSettings(split="test")
    written = write_data([scored], tmp_path / "s", format="nifti", space=SPACE, settings=settings)
    assert {path.parent.name for path in written.files} == {"imagesTs", "labelsTs", "s"}
    assert any("scores" in note for note in written.notes)
    assert any("not known" in note for note in written.notes)
    things = LabelSpace(("cell",), (True,))
    objects = Instances(RunMasks.from_labels(labels + np.uint8(1), np.array([1])), np.zeros(1, np.int32), things)
    written = write_data([Sample(image, objects, name="a")], tmp_path / "o", format="nifti", space=things)
    assert any("objects apart" in note for note in written.notes)
    assert any("colours" in note for note in written.notes)
    many = LabelSpace(("a", "b"), exclusive=False)
    layers = SemanticMap(np.zeros((6, 7, 2), np.uint8), many)
    with pytest.raises(UserError, match="one class per voxel"):
        write_data([Sample(image, layers, name="a")], tmp_path / "m", format="nifti", space=many)


def test_a_volume_is_written_whole_or_not_at_all(tmp_path):
    source = open_data(write_volumes(tmp_path / "a"))
    samples = [source.read(record) for record in source.records("val")]
    with pytest.raises(UserError, match=r"4 slices in a row .* of 5"):
        write_data(samples[:-1], tmp_path / "b", format="nifti", space=source.space)
    other = replace(samples[2], name="elsewhere/2")
    with pytest.raises(UserError, match="slices in a row"):
        write_data([*samples[:2], other, *samples[3:]], tmp_path / "c", format="nifti", space=source.space)


def test_ignored_pixels_get_the_number_after_the_last_class(tmp_path):
    labels = np.full((4, 4), IGNORE, np.uint8)
    labels[0] = 2
    sample = Sample(np.zeros((4, 4, 1), np.uint16), SemanticMap(labels, SPACE), name="x/y", spacing=(2.0, 3.0))
    write_data([sample], tmp_path, format="nifti", space=SPACE)
    stored = nib.load(tmp_path / "labelsTr" / "x__y.nii.gz")
    assert np.unique(np.asarray(stored.dataobj)).tolist() == [2, 3]
    assert stored.header.get_zooms() == (3.0, 2.0, 1.0)
    assert stored.header.get_xyzt_units()[0] == "mm"
