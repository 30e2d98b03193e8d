"""Folders of masks and VOC: clean ones report nothing, and each planted fault is found and named."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.labels import palette
from nuriwake.data.check import CHECKS, check_data, quick_check, refuse_harmful
from nuriwake.data.check.finding import SEVERITIES
from nuriwake.data.check.fixing import write_fixed
from nuriwake.data.check.looking_masks import MOST_COLOURS, mask_facts
from nuriwake.data.check.processes import each_process
from nuriwake.data.formats import open_data
from nuriwake.data.headers import ImageHeader

SIZE = (48, 64)
NAMES = ["background", "disc", "square"]


def picture(seed: int, size=SIZE, channels=3) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, channels)).astype(np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)


def labels(seed: int, size=SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros(size, np.uint8)
    y, x = rng.integers(10, 20, 2)
    out[y : y + 16, x : x + 20] = 2
    cv2.circle(out, (int(x) + 30, int(y)), 9, 1, -1)
    return out


def write(path: Path, array: np.ndarray, *options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array, list(options))
    return path


@dataclass
class Folder:
    root: Path
    names: dict[str, list[str]] = field(
        default_factory=lambda: {"train": [f"t{i}" for i in range(5)], "val": ["v0", "v1"]}
    )

    def image(self, name: str, suffix: str = ".png") -> Path:
        return self.root / "images" / ("train" if name[0] == "t" else "val") / f"{name}{suffix}"

    def mask(self, name: str, suffix: str = ".png") -> Path:
        return self.root / "masks" / ("train" if name[0] == "t" else "val") / f"{name}{suffix}"

    @property
    def all(self) -> list[str]:
        return [name for part in self.names.values() for name in part]

    def each_mask(self, change, suffix: str = ".png", only=None) -> None:
        for name in only or self.all:
            array = change(cv2.imread(str(self.mask(name)), cv2.IMREAD_UNCHANGED))
            if suffix != ".png":
                self.mask(name).unlink()
            write(self.mask(name, suffix), array)

    def classes(self, *names: str, **more) -> None:
        (self.root / "classes.json").write_text(json.dumps({"classes": names, **more}))

    def findings(self):
        return {finding.kind: finding for finding in check_data(self.root, workers=1).findings}

    def harmful(self):
        return {kind for kind, finding in self.findings().items() if finding.severity == "harmful"}


@pytest.fixture
def clean(tmp_path) -> Folder:
    folder = Folder(tmp_path / "data")
    for number, name in enumerate(folder.all):
        write(folder.image(name), picture(number))
        write(folder.mask(name), labels(number))
    folder.classes(*NAMES)
    return folder


def only(folder: Folder, kind: str, severity: str = "harmful"):
    """The finding of `kind`; no other one is harmful."""
    found = folder.findings()
    assert kind in found, found
    assert found[kind].severity == severity
    assert {k for k, f in found.items() if f.severity == "harmful"} <= {kind}
    finding = found[kind]
    assert finding.what
    assert finding.why
    assert finding.remedy
    assert len(finding.files) <= 10
    return finding


def test_clean_data_report_nothing(clean):
    result = check_data(clean.root, workers=1)
    assert result.findings == ()
    assert result.plain()["splits"] == {"train": 5, "val": 2}
    assert [row["name"] for row in result.plain()["classes"]] == NAMES
    assert quick_check(open_data(clean.root)) == ()


def test_masks_of_0_and_255(clean):
    (clean.root / "classes.json").unlink()
    clean.each_mask(lambda mask: np.where(mask, 255, 0).astype(np.uint8))
    assert only(clean, "zero_255", "note").count == 7


def test_0_and_255_where_255_is_ignored(clean):
    clean.classes("background", "disc", ignore=255)
    clean.each_mask(lambda mask: np.where(mask, 255, 0).astype(np.uint8))
    found = clean.findings()
    assert found["zero_255"].severity == "harmful"
    assert "IoU 0" in found["zero_255"].why


def test_rgb_masks_without_and_with_their_colours(clean):
    colours = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)
    clean.each_mask(lambda mask: colours[mask])
    finding = only(clean, "rgb_colours")
    assert "[200, 10, 10]" in finding.what
    clean.classes(*NAMES, colours={"background": [0, 0, 0], "disc": [200, 10, 10], "square": [10, 200, 10]})
    assert clean.findings() == {}


def test_numbers_of_objects_in_8_bits_are_no_ringing(tmp_path):
    """One object is large, the numbers of the others follow: values around a few, as JPEG leaves them."""
    for number in range(4):
        mask = np.zeros(SIZE, np.uint8)
        mask[:20] = 1
        for index in range(14):
            mask[30 + 2 * (index // 7), 4 + 8 * (index % 7)] = 2 + index
        write(tmp_path / "images" / f"{number}.png", picture(number))
        write(tmp_path / "masks" / f"{number}.png", mask)
    assert "ringing" in {finding.kind for finding in check_data(tmp_path).findings}
    (tmp_path / "ids.yaml").write_text("instance_ids: true\n")
    assert not {finding.kind for finding in check_data(tmp_path / "ids.yaml").harmful}


def test_jpeg_masks_and_their_ringing_in_png(clean):
    (clean.root / "classes.json").unlink()
    originals = {name: cv2.imread(str(clean.mask(name)), 0) for name in clean.all}
    for name, mask in originals.items():
        clean.mask(name).unlink()
        write(clean.mask(name, ".jpg"), np.where(mask, 255, 0).astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 60)
    found = clean.findings()
    assert found["jpeg_masks"].severity in ("doubtful", "harmful")
    for name in originals:
        write(clean.mask(name), cv2.imread(str(clean.mask(name, ".jpg")), 0))
        clean.mask(name, ".jpg").unlink()
    found = clean.findings()
    assert found["ringing"].severity == "doubtful"
    assert "threshold of 128" in found["ringing"].why
    assert clean.harmful() == set()
    clean.classes(*NAMES)
    assert "ringing" in clean.harmful()


def test_anti_aliased_edges(clean):
    clean.each_mask(lambda mask: cv2.GaussianBlur(mask * 100, (5, 5), 1.2))
    assert "anti_aliased" in clean.harmful()


def test_smoothed_black_and_white_masks_are_read_and_said(clean):
    (clean.root / "classes.json").unlink()
    for number, name in enumerate(clean.all):
        write(clean.image(name), picture(number, (240, 320)))

    def smoothed(mask):
        large = np.where(mask, 255, 0).astype(np.uint8).repeat(5, 0).repeat(5, 1)
        return cv2.GaussianBlur(large, (5, 5), 0.8)

    clean.each_mask(smoothed)
    assert "threshold of 128" in only(clean, "anti_aliased", "doubtful").why
    assert quick_check(open_data(clean.root)) == ()


def test_jpeg_masks_with_colours(clean):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    (clean.root / "classes.json").unlink()
    clean.each_mask(lambda mask: colours[mask], ".jpg")
    assert "jpeg_masks" in clean.harmful()
    assert "black and white" not in clean.findings()["jpeg_masks"].why


def test_values_beyond_the_classes(clean):
    clean.each_mask(lambda mask: np.where(mask == 2, 7, mask).astype(np.uint8), only=["t1"])
    finding = only(clean, "beyond_classes")
    assert finding.count == 1
    assert "t1.png" in finding.files[0]
    assert "7" in finding.what


def test_labels_shifted_by_one(clean):
    clean.each_mask(lambda mask: mask + np.uint8(1))
    only(clean, "shifted")


def test_all_background_and_all_ignore(clean):
    clean.each_mask(np.zeros_like, only=["t1"])
    clean.each_mask(lambda mask: np.full_like(mask, 255), only=["t2"])
    found = clean.findings()
    assert found["all_background"].severity == "note"
    assert found["all_background"].samples == ("train/t1",)
    assert found["all_ignore"].samples == ("train/t2",)
    clean.each_mask(np.zeros_like)
    assert "all_background" in clean.harmful()
    assert "all_background" in {finding.kind for finding in quick_check(open_data(clean.root))}


def test_palette_and_grey_mixed(clean):
    for name in ("t0", "t1", "v0"):
        picture = Image.fromarray(cv2.imread(str(clean.mask(name)), 0), "L")
        picture.putpalette([part for colour in palette(256) for part in colour])
        picture.save(clean.mask(name))
    assert clean.findings()["palette_and_grey"].severity == "doubtful"


def test_8_bit_labels_stretched_to_16(clean):
    clean.each_mask(lambda mask: mask.astype(np.uint16) * 257)
    assert "cut_to_8_bit" in clean.harmful()


def test_ids_cut_to_8_bit(clean):
    (clean.root / "classes.json").unlink()
    ids = np.random.default_rng(0).permutation(256).astype(np.uint8).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    for number, name in enumerate(clean.all):
        write(clean.image(name), picture(number, ids.shape))
    clean.each_mask(lambda mask: ids)
    assert "cut_to_8_bit" in clean.harmful()


def test_sizes_that_differ(clean):
    clean.each_mask(lambda mask: mask[:-4], only=["t3"])
    assert "t3" in only(clean, "size_differs").files[0]


def exif(path: Path, array: np.ndarray, orientation: int) -> None:
    picture = Image.fromarray(array)
    tags = picture.getexif()
    tags[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, exif=tags, quality=95)


def test_exif_rotation_that_the_mask_ignores_or_follows(clean):
    clean.image("t0").unlink()
    exif(clean.image("t0", ".jpg"), picture(0), 6)
    assert "t0" in only(clean, "exif_rotation").files[0]
    clean.each_mask(lambda mask: np.rot90(mask, -1), only=["t0"])
    assert set(clean.findings()) == {"exif_present"}


def test_truncated_unreadable_and_misnamed_files(clean):
    data = clean.image("t0").read_bytes()
    clean.image("t0").write_bytes(data[: len(data) // 2])
    clean.image("t1").write_bytes(b"no image at all")
    clean.mask("t2").write_bytes(clean.mask("t2").read_bytes()[:60])
    data = cv2.imencode(".jpg", picture(3))[1].tobytes()
    clean.image("t3").write_bytes(data)
    found = clean.findings()
    assert "t0" in found["image_truncated"].files[0]
    assert "t1" in found["image_unreadable"].files[0]
    assert "t2" in found["mask_unreadable"].files[0]
    assert "named PNG, holds JPEG" in found["format_differs"].files[0]
    assert found["format_differs"].severity == "doubtful"


def test_a_tiny_file_that_declares_a_huge_image(clean):
    data = bytearray(clean.image("t0").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    clean.image("t0").write_bytes(data)
    assert "image_unreadable" in clean.harmful()


def test_what_has_no_counterpart_or_two(clean):
    clean.mask("t0").unlink()
    clean.image("t1").unlink()
    write(clean.image("t2", ".jpg"), picture(2))
    found = clean.findings()
    assert "t0" in found["images_unpaired"].files[0]
    assert "t1" in found["masks_unpaired"].files[0]
    assert "t2" in found["name_twice"].files[0]


def test_one_image_in_two_splits_exactly_and_nearly(clean):
    clean.image("v0").write_bytes(clean.image("t0").read_bytes())
    near = np.clip(picture(1).astype(int) + 3, 0, 255).astype(np.uint8)
    write(clean.image("v1"), near)
    found = clean.findings()
    assert "t0.png is" in found["same_image"].files[0]
    assert found["same_image"].severity == "harmful"
    first, _, second = found["similar_image"].files[0].partition(" is like ")
    assert (Path(first).name, Path(second).name) == ("t1.png", "v1.png")


def test_same_names_and_duplicates(clean):
    clean.image("t1").write_bytes(clean.image("t0").read_bytes())
    for kind in ("image", "mask"):
        path = getattr(clean, kind)("v0")
        path.rename(path.with_name("t2.png"))
    found = clean.findings()
    assert found["duplicates"].count == 1
    assert "t2.png" in found["same_name"].files[0]


def test_classes_never_seen_in_one_split_and_rare(clean):
    clean.classes(*NAMES, "star", "moon", "dot")

    def add(mask):
        mask[:10, :10] = 3
        mask[0, 0] = 5
        return mask

    clean.each_mask(add, only=["v0"])
    found = clean.findings()
    assert "moon" in found["never_seen"].what
    assert "star" in found["one_split_only"].what
    clean.each_mask(add, only=["t0"])
    assert "dot" in clean.findings()["imbalance"].files[0]


def test_sizes_depths_channels_and_grey(clean):
    grey = picture(0, channels=1)[..., 0]
    write(clean.image("t0"), grey)
    write(clean.image("t1"), np.dstack([grey[::-1]] * 3))
    found = clean.findings()
    assert set(found) == {"grey_among_colour"}
    assert found["grey_among_colour"].count == 2
    write(clean.image("t2"), picture(2).astype(np.uint16) * 200)
    assert clean.findings()["bit_depths"].severity == "harmful"


def test_values_from_0_to_1_are_no_blank_image(clean):
    for number, name in enumerate(clean.all):
        clean.image(name).unlink()
        write(clean.image(name).with_suffix(".tif"), (picture(number) / 256).astype(np.float32))
    assert "image_blank" not in clean.findings()
    write(clean.image("t0").with_suffix(".tif"), np.full((*SIZE, 3), 0.5, np.float32))
    assert clean.findings()["image_blank"].count == 1


def test_of_very_many_colours_the_most_frequent_are_kept():
    raw = np.full((100, 100, 3), 250, np.uint8)
    raw[:, :, 2] = 10
    raw[:40] = np.random.default_rng(0).integers(0, 200, (40, 100, 3))
    facts = mask_facts(Path("a.png"), ImageHeader((100, 100), 3, "uint8", "png"), raw)
    assert len(facts.values) == len(facts.counts) == MOST_COLOURS
    assert facts.counts.max() == 6000
    assert facts.values[facts.counts.argmax()] == 250 << 16 | 250 << 8 | 10
    assert (np.diff(facts.values) > 0).all()


def test_very_different_sizes_and_specks(clean):
    write(clean.image("t0"), picture(0, (480, 640)))
    specks = np.zeros((480, 640), np.uint8)
    specks[::40, ::40] = 1
    specks[100:140, 100:200] = 2
    write(clean.mask("t0"), specks)
    found = clean.findings()
    assert "640" in found["image_sizes"].what
    assert found["small_objects"].count > 100


def test_masks_of_layers(tmp_path):
    for number, name in enumerate(("a", "b", "c", "d")):
        write(tmp_path / "images" / f"{name}.png", picture(number))
        for kind in ("road", "tree"):
            write(tmp_path / "masks" / kind / f"{name}.png", np.where(labels(number), 255, 0).astype(np.uint8))
    assert check_data(tmp_path, workers=1).findings == ()
    write(tmp_path / "masks" / "tree" / "b.png", labels(1) * 60)
    assert "layers" in {finding.kind for finding in check_data(tmp_path, workers=1).findings}


@pytest.fixture
def voc(tmp_path) -> Path:
    root = tmp_path / "voc"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for number, name in enumerate("abcd"):
        write(root / "JPEGImages" / f"{name}.jpg", picture(number))
        write(root / "SegmentationClass" / f"{name}.png", labels(number))
        write(root / "SegmentationObject" / f"{name}.png", labels(number))
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("d\n")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def test_voc(voc):
    assert check_data(voc, workers=1).findings == ()
    write(voc / "SegmentationObject" / "b.png", np.roll(labels(1), 5, axis=1))
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nd\nz\n")
    found = {finding.kind: finding for finding in check_data(voc, workers=1).findings}
    assert "b.png" in found["objects_disagree"].files[0]
    assert "'a' is in 'train' too" in found["listed_twice"].files[0]
    assert "'z'" in found["images_unpaired"].files[0]


def test_quick_check_refuses_with_how_to_go_on(clean):
    clean.each_mask(lambda mask: mask * 0 + np.uint8(255))
    findings = quick_check(open_data(clean.root))
    assert findings[0].kind == "all_ignore"
    with pytest.raises(UserError, match=r"ignore everywhere.*To train anyway, write --data\.check false\."):
        refuse_harmful(findings, go_on="write --data.check false")
    refuse_harmful((), go_on="x")


def test_fixed_copy_of_a_folder(clean, tmp_path):
    clean.each_mask(lambda mask: mask + np.uint8(1))
    data = clean.image("t0").read_bytes()
    clean.image("t0").write_bytes(data[: len(data) // 2])
    clean.image("t3").write_bytes(cv2.imencode(".jpg", picture(3))[1].tobytes())
    clean.image("v0").write_bytes(clean.image("t1").read_bytes())
    before = {path: path.read_bytes() for path in clean.root.rglob("*") if path.is_file()}
    lines = write_fixed(check_data(clean.root, workers=1), tmp_path / "fixed")
    assert any("count from 0" in line for line in lines)
    assert {path: path.read_bytes() for path in clean.root.rglob("*") if path.is_file()} == before
    again = check_data(tmp_path / "fixed", workers=1)
    assert again.findings == ()
    assert [facts.name for facts in again.survey.facts] == ["train/t2", "train/t3", "train/t4", "val/v0", "val/v1"]
    assert (tmp_path / "fixed/images/train/t3.jpg").is_file()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "fixed/masks/train/t2.png"), 0), labels(2))
    with pytest.raises(UserError, match="already exists"):
        write_fixed(check_data(clean.root, workers=1), tmp_path / "fixed")
    with pytest.raises(UserError, match="outside"):
        write_fixed(check_data(clean.root, workers=1), clean.root / "fixed")


def test_fixed_copy_of_0_and_255(clean, tmp_path):
    (clean.root / "classes.json").unlink()
    clean.each_mask(lambda mask: np.where(mask, 255, 0).astype(np.uint8))
    write_fixed(check_data(clean.root, workers=1), tmp_path / "fixed")
    assert check_data(tmp_path / "fixed", workers=1).findings == ()
    assert set(np.unique(cv2.imread(str(tmp_path / "fixed/masks/train/t2.png"), 0))) == {0, 1}


def test_every_row_is_a_check_and_severities_are_ordered():
    assert all(callable(check) for check in CHECKS.values())
    assert SEVERITIES == ("harmful", "doubtful", "note")


def double(number: int) -> int:
    return 2 * number


def test_processes_keep_the_order():
    assert list(each_process(double, range(150), workers=2)) == [2 * i for i in range(150)]


@pytest.mark.parametrize("where", ["camvid", "isbi2012", "nuclei"])
def test_real_sets_have_no_grave_finding(shared, where):
    result = check_data(shared / "data" / where)
    assert result.harmful == ()
    if where == "isbi2012":
        assert "zero_255" in {finding.kind for finding in result.findings}
