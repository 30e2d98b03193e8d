"""NIfTI volumes as a data set of slices: which way up, how far apart, in which split, with which classes; and what is refused."""

import gzip
import itertools
import json
import pickle
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.data.check import check_data
from nuriwake.data.formats import open_data
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_image
from nuriwake.data.nifti_address import SliceAddress, slice_address
from nuriwake.data.nifti_volume import Volume, open_volume

nib = pytest.importorskip("nibabel", reason='needs the extra "medical"')

SPACING = (1.0, 1.25, 5.0)
SHAPE = (14, 12, 6)
NAMES = ("background", "liver", "tumour")
DECATHLON = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}
NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".nii.gz"}


def oblique(spacing=SPACING, angle=0.3) -> np.ndarray:
    """An affine that is turned about two axes."""
    cosine, sine = np.cos(angle), np.sin(angle)
    first = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ np.diag(spacing)
    affine[:3, 3] = (-30.5, 12.25, 77)
    return affine


def ellipsoids(seed: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(values int16, labels uint8) of two ellipsoids in noise."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    labels, values = np.zeros(shape, np.uint8), rng.normal(-200, 30, shape)
    for label in (1, 2):
        centre, radius = np.array(shape) * rng.uniform(0.3, 0.7, 3), np.array(shape) * rng.uniform(0.2, 0.4, 3)
        inside = (((places - centre) / radius) ** 2).sum(-1) < 1
        labels[inside] = label
        values[inside] += 250 * label
    return values.astype(np.int16), labels


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, oblique() if affine is None else affine)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def write_set(root: Path, *, count=5, folders=("imagesTr", "labelsTr"), about=DECATHLON, end=".nii.gz") -> Path:
    for seed in range(count):
        values, labels = ellipsoids(seed)
        save(root / folders[0] / f"case_{seed:02d}{end}", values)
        save(root / folders[1] / f"case_{seed:02d}{end}", labels)
    if about is not None:
        (root / "dataset.json").write_text(json.dumps(about))
    return root


def canonical_picture(whole: np.ndarray, axis: int, index: int) -> np.ndarray:
    """The slow way: of the volume that nibabel turned as a whole the slice is laid down as radiologists see it."""
    return np.flip(np.take(whole, index, axis=axis), (0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_slices_stand_the_right_way_up_and_go_back_to_their_place(tmp_path, order):
    rng = np.random.default_rng(0)
    for number, signs in enumerate(itertools.product((1, -1), repeat=3)):
        affine = oblique(angle=0.2)
        affine[:3, :3] = affine[:3, order] * signs
        values = rng.integers(-900, 900, (5, 4, 3)).astype(np.int16)
        path = save(tmp_path / f"v{number}.nii{'.gz' * (number % 2)}", values, affine)
        volume, turned = open_volume(path), nib.as_closest_canonical(nib.load(path))
        for axis in range(3):
            back = volume.empty(np.int16)
            for index in range(volume.turned_shape[axis]):
                picture = volume.picture(axis, index)[..., 0]
                np.testing.assert_array_equal(picture, canonical_picture(turned.get_fdata(), axis, index))
                assert picture.shape == volume.picture_size(axis)
                volume.place(back, axis, index, picture)
            np.testing.assert_array_equal(back, values)
        np.testing.assert_allclose(volume.turned_affine, turned.affine, atol=1e-5)
        np.testing.assert_allclose(volume.spacing, turned.header.get_zooms(), rtol=1e-5)


def test_an_axial_slice_has_anterior_at_the_top_and_the_right_hand_at_the_left(tmp_path):
    values = np.zeros((4, 4, 2), np.uint8)
    values[3, 3, 1] = 9  # right, anterior, superior in a volume stored so
    volume = open_volume(save(tmp_path / "v.nii", values, np.eye(4)))
    assert volume.picture(2, 1)[0, 0, 0] == 9
    assert volume.picture(1, 3)[0, 0, 0] == 9  # coronal: superior at the top
    assert volume.picture(0, 3)[0, 0, 0] == 9  # sagittal: superior at the top, anterior at the left


@pytest.mark.parametrize(
    ("folders", "about", "end"),
    [
        (("imagesTr", "labelsTr"), DECATHLON, ".nii.gz"),
        (("imagesTr", "labelsTr"), NNUNET, ".nii"),
        (("images", "masks"), None, ".nii.gz"),
        (("images", "labels"), {"labels": {"background": [0], "liver": [1], "tumour": 2}}, ".nii.gz"),
    ],
)
def test_every_layout_opens_as_slices_split_by_volume(tmp_path, folders, about, end):
    data = open_data(write_set(tmp_path, folders=folders, about=about, end=end))
    assert data.format == "nifti"
    assert data.space.names == (NAMES if about else ("class_0", "class_1", "class_2"))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 24, "val": 6}
    volumes = {split: {record.name.split("/")[0] for record in part} for split, part in data.splits.items()}
    assert not volumes["train"] & volumes["val"]
    assert any("1 of 5 volumes are val" in note for note in data.notes)
    assert (data.channels, data.dtype) == (1, "float32")
    for seed in range(5):
        values, labels = ellipsoids(seed)
        records = [r for part in data.splits.values() for r in part if r.name.startswith(f"case_{seed:02d}/")]
        assert [record.name for record in records] == [f"case_{seed:02d}/{index}" for index in range(6)]
        for index, record in enumerate(records):
            sample = data.read(record)
            np.testing.assert_array_equal(sample.image[..., 0], values[::-1, ::-1, index].T)
            np.testing.assert_array_equal(sample.target.labels, labels[::-1, ::-1, index].T)
            assert sample.spacing == (1.25, 1.0)
            assert image_header(record.image).size == sample.size == (12, 14)
            assert str(sample.source).startswith(str(tmp_path / folders[0] / f"case_{seed:02d}{end}"))
    assert pickle.loads(pickle.dumps(data)).read(records[0]).name == records[0].name


def test_the_fingerprint_follows_the_files(tmp_path):
    root = write_set(tmp_path, count=2)
    before = open_data(root).fingerprint()
    assert open_data(root).fingerprint() == before
    (tmp_path / "d.yaml").write_text("slice_axis: 0")
    assert open_data(tmp_path / "d.yaml").fingerprint() != before
    save(root / "labelsTr" / "case_00.nii.gz", ellipsoids(7)[1])
    assert open_data(root).fingerprint() != before


def test_scaled_values_and_microns(tmp_path):
    affine = np.diag([500.0, 250.0, 100.0, 1.0])
    raw = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    image = nib.Nifti1Image(raw, affine)
    image.header.set_slope_inter(0.5, -3.25)
    image.header.set_xyzt_units("micron")
    path = tmp_path / "v.nii.gz"
    # to_bytes would scale anew: the header with its slope and the stored numbers are put together by hand.
    path.write_bytes(gzip.compress(image.header.binaryblock + b"\0" * 4 + raw.tobytes("F")))
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[108:112] = np.float32(352).tobytes()
    path.write_bytes(gzip.compress(bytes(header)))
    volume = open_volume(path)
    assert volume.spacing == (0.5, 0.25, 0.1)
    assert volume.voxel_millilitres == pytest.approx(0.5 * 0.25 * 0.1 / 1000)
    found = read_image(SliceAddress(path, 0, 1).path)
    np.testing.assert_array_equal(found[..., 0], (raw[1, ::-1, ::-1].T * 0.5 - 3.25).astype(np.float32))


def test_the_axis_is_the_coarsest_the_flat_one_or_the_one_described(tmp_path):
    values, labels = ellipsoids(0)
    for name, spacing, shape, expected in (
        ("sagittal", (4.0, 1.0, 1.0), SHAPE, 0),
        ("equal", (1.0, 1.0, 1.0), SHAPE, 2),
        ("flat", (0.5, 1.0, 5.0), (14, 1, 6), 1),
    ):
        root = tmp_path / name
        save(root / "images" / "a.nii", values[: shape[0], : shape[1], : shape[2]], np.diag([*spacing, 1]))
        save(root / "masks" / "a.nii", labels[: shape[0], : shape[1], : shape[2]], np.diag([*spacing, 1]))
        data = open_data(root)
        records = [record for part in data.splits.values() for record in part]
        assert len(records) == shape[expected]
        assert slice_address(records[0].image).axis == expected
        rest = [step for axis, step in enumerate(spacing) if axis != expected]
        assert data.read(records[0]).spacing == (rest[1], rest[0])
    assert records[0].name == "a"  # a single slice has the name of its volume
    (tmp_path / "d.yaml").write_text("root: equal\nslice_axis: 1\nval_share: 0")
    assert len(open_data(tmp_path / "d.yaml").records("train")) == SHAPE[1]


def test_channels_of_a_fourth_axis_and_of_files(tmp_path):
    values, labels = ellipsoids(0)
    stack = np.stack([values, values + 1, values * 2], -1)
    save(tmp_path / "a" / "images" / "x.nii.gz", stack)
    save(tmp_path / "a" / "masks" / "x.nii.gz", labels)
    for channel in range(3):
        save(tmp_path / "b" / "imagesTr" / f"x_000{channel}.nii.gz", stack[..., channel])
    save(tmp_path / "b" / "labelsTr" / "x.nii.gz", labels)
    samples = []
    for name in "ab":
        data = open_data(tmp_path / name)
        samples.append(data.read(data.records("train")[3]))
        assert data.channels == 3
        assert samples[-1].name == "x/3"
    np.testing.assert_array_equal(samples[0].image, stack[::-1, ::-1, 3].swapaxes(0, 1).astype(np.float32))
    np.testing.assert_array_equal(samples[0].image, samples[1].image)
    (tmp_path / "b" / "imagesTr" / "x_0001.nii.gz").unlink()
    with pytest.raises(UserError, match=r"count from _0000 without gaps"):
        open_data(tmp_path / "b")


def test_numbered_volumes_with_labels_of_their_own_are_no_channels(tmp_path):
    for number in range(2):
        values, labels = ellipsoids(number)
        save(tmp_path / "images" / f"scan_000{number}.nii.gz", values)
        save(tmp_path / "masks" / f"scan_000{number}.nii.gz", labels)
    data = open_data(tmp_path)
    assert (data.channels, len(data.splits["train"]), len(data.splits["val"])) == (1, 6, 6)


def test_ignore_values_and_folds(tmp_path):
    root = write_set(tmp_path, about={"labels": {"background": 0, "liver": 1, "ignore": 2}})
    (root / "splits_final.json").write_text(
        json.dumps([{"train": ["case_00", "case_01", "case_02"], "val": ["case_03", "case_04"]}])
    )
    data = open_data(root)
    assert data.space.names == ("background", "liver")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 18, "val": 12}
    found = np.unique(np.stack([data.read_target(record).labels for record in data.records("train")]))
    assert found.tolist() == [0, 1, IGNORE]
    (root / "d.yaml").write_text("splits: {train: ['case_0[0-2]'], val: [case_03], test: [case_04.nii.gz]}")
    described = open_data(root / "d.yaml")
    assert {split: len(part) for split, part in described.splits.items()} == {"train": 18, "val": 6, "test": 6}


def test_names_of_volumes_may_be_composed_or_not(tmp_path):
    write_set(tmp_path, count=3)
    for path in sorted(tmp_path.glob("*Tr/*")):
        form = "NFD" if path.parent.name == "imagesTr" else "NFC"
        path.rename(path.with_name(unicodedata.normalize(form, f"ガ{path.name}")))
    names = [unicodedata.normalize("NFD", f"ガcase_{seed:02d}") for seed in range(3)]
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": names[:2], "val": names[2:]}]))
    data = open_data(tmp_path)
    assert {record.name.partition("/")[0] for record in data.splits["val"]} == {"ガcase_02"}


def test_test_images_without_labels_are_said_to_be_left_out(tmp_path):
    root = write_set(tmp_path)
    save(root / "imagesTs" / "x.nii.gz", ellipsoids(9)[0])
    data = open_data(root)
    assert "test" not in data.splits
    assert any(note.startswith("imagesTs/ has no labels") for note in data.notes)
    save(root / "labelsTs" / "x.nii.gz", ellipsoids(9)[1])
    assert len(open_data(root).records("test")) == 6
    (root / "imagesTr" / "._case_00.nii.gz").write_bytes(b"what macOS leaves in the archives of the Decathlon")
    assert len(open_data(root).records("train")) == 24


def read_all(root: Path) -> None:
    data = open_data(root)
    for record in itertools.chain(*data.splits.values()):
        data.read(record)


def change(root: Path, what: str) -> None:
    """Spoils one thing in a good data set."""
    values, labels = ellipsoids(1)
    image, label = root / "imagesTr" / "case_01.nii.gz", root / "labelsTr" / "case_01.nii.gz"
    if what == "shape":
        save(label, labels[:, :, :-1])
    elif what == "affine":
        moved = oblique()
        moved[0, 3] += 3
        save(label, labels, moved)
    elif what == "fraction":
        save(label, labels.astype(np.float32) * 0.5)
    elif what == "beyond":
        save(label, labels * 3)
    elif what == "negative":
        save(label, -labels.astype(np.int16))
    elif what == "alone":
        label.unlink()
    elif what == "cut":
        image.write_bytes(image.read_bytes()[:-100])
    elif what == "magic":
        image.write_bytes(gzip.compress(b"no volume at all" * 100))
    elif what == "plain":
        image.write_bytes(b"not even gzip" * 100)
    elif what == "huge":
        header = nib.Nifti1Header()
        header.set_data_shape((2500, 2500, 2500))
        header.set_data_dtype(np.int16)
        image.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4))
    elif what == "singular":
        stored = bytearray(gzip.decompress(image.read_bytes()))
        stored[280:296] = bytes(16)  # srow_x
        image.write_bytes(gzip.compress(bytes(stored)))
    elif what == "colours":
        rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        save(image, rgb)
    elif what == "channels":
        save(image, np.stack([values, values], -1))
    elif what == "regions":
        (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}))
    elif what == "json":
        (root / "dataset.json").write_text("{")
    elif what == "fold":
        (root / "splits_final.json").write_text(json.dumps([{"train": ["case_77"], "val": ["case_01"]}]))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", ["case_01.nii.gz", "14x12x5", "14x12x6"]),
        ("affine", ["labelsTr/case_01.nii.gz", "3 mm"]),
        ("fraction", ["labelsTr/case_01.nii.gz", "0.5", "nearest neighbour"]),
        ("beyond", ["labelsTr/case_01.nii.gz", "expected 0..2, found 3, 6"]),
        ("negative", ["labelsTr/case_01.nii.gz", "found -"]),
        ("alone", ["1 image has no mask: case_01"]),
        ("cut", ["imagesTr/case_01.nii.gz", "cut off"]),
        ("magic", ["imagesTr/case_01.nii.gz", "no NIfTI"]),
        ("plain", ["imagesTr/case_01.nii.gz", "no NIfTI"]),
        ("huge", ["imagesTr/case_01.nii.gz", "2,500 x 2,500 x 2,500"]),
        ("singular", ["imagesTr/case_01.nii.gz", "affine"]),
        ("colours", ["imagesTr/case_01.nii.gz", "RGB"]),
        ("channels", ["1 of 2", "case_01.nii.gz"]),
        ("regions", ["dataset.json", "whole"]),
        ("json", ["dataset.json"]),
        ("fold", ["splits_final.json", "case_77"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, what, words):
    root = write_set(tmp_path)
    change(root, what)
    with pytest.raises(UserError) as caught:
        read_all(root)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_huge_header_allocates_nothing(tmp_path):
    import tracemalloc

    header = nib.Nifti1Header()
    header.set_data_shape((4000, 2000, 2000))
    header.set_data_dtype(np.int16)
    path = tmp_path / "v.nii"
    path.write_bytes(header.binaryblock + b"\0" * 100_000)
    nib.Nifti1Header()  # whatever is imported late is not counted
    tracemalloc.start()
    with pytest.raises(UserError, match=r"32,000,000,\d+ bytes, but the file has 100,348"):
        open_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_without_the_library_it_is_one_sentence(tmp_path, monkeypatch):
    root = write_set(tmp_path, count=2)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r'pip install "nuriwake\[medical\]"'):
        open_data(root)


def test_the_check_finds_nothing_grave_in_a_good_set_and_the_cut_file_in_a_bad_one(tmp_path):
    root = write_set(tmp_path, count=3)
    result = check_data(root, workers=1)
    assert result.harmful == ()
    assert "same_name" not in {finding.kind for finding in result.findings}
    assert result.plain()["images"] == 18
    change(root, "cut")
    harmful = check_data(root, workers=1).harmful
    assert any("case_01.nii.gz" in file for finding in harmful for file in finding.files)


def test_a_plain_file_is_mapped_and_not_read_whole(tmp_path):
    path = tmp_path / "v.nii"
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 4000))
    header.set_data_dtype(np.int16)
    with path.open("wb") as file:  # 2 GB with nothing in them
        file.write(header.binaryblock)
        file.truncate(352 + 512 * 512 * 4000 * 2)
    volume: Volume = open_volume(path)
    assert volume.picture(2, 3999).max() == 0
