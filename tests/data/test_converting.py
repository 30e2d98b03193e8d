"""Data sets from one format to another: nothing is overwritten or half written, and what is lost is said."""

import json

import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.converting import convert_data
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (20, 26)
OBJECTS = LabelSpace(("cat", "dog"), (True, True))


def mask_folder(root, names=("0001", "0002"), splits=("train", "val")):
    """Images and masks of two classes, no two alike; the same names in every split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in names:
            image, mask = rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8), np.zeros(SIZE, np.uint8)
            top, left = rng.integers(0, 9, 2)
            mask[top : top + 5, left : left + 6] = 1
            mask[top + 7 : top + 9, left + 8 : left + 12] = 2
            for kind, array in (("images", image), ("masks", mask)):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (root / "classes.json").write_text(json.dumps({"classes": ["background", "cat", "dog"]}))
    return root


def convert(source, target, *, to, format=None, regions=False):  # noqa: A002
    data = open_data(source, format=format)
    return convert_data(data, target, format=to, settings=WriteSettings(regions=regions), say=lambda line: None)


def pictures(data):
    """Split -> the set of (image, truth) as bytes: what must survive whatever the names become."""
    found = {}
    for split, records in data.splits.items():
        for record in records:
            sample = data.read(record)
            truth = sample.target
            if isinstance(truth, Instances):
                order = np.argsort(truth.labels, kind="stable")
                truth = truth.masks.dense()[order]
            else:
                truth = truth.labels
            found.setdefault(split, set()).add((sample.image.tobytes(), truth.tobytes()))
    return found


@pytest.mark.parametrize("to", ["voc", "nifti", "cityscapes", "coco_panoptic", "mask_folder", "ade20k"])
def test_equal_names_in_two_splits_overwrite_nothing(tmp_path, to):
    source = mask_folder(tmp_path / "a")
    if to == "cityscapes":
        (source / "classes.json").write_text(json.dumps({"classes": ["road", "sidewalk", "building"]}))
    notes = convert(source, tmp_path / "b", to=to, format="mask_folder")
    data = open_data(tmp_path / "b", format=to)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 2}
    if to not in ("nifti", "coco_panoptic"):  # whose images or truth are of another kind
        assert pictures(data) == pictures(open_data(source, format="mask_folder"))
    told = [note for note in notes if "the split goes before every name" in note]
    assert bool(told) == (to in ("voc", "nifti"))
    if told:
        assert told[0].startswith("2 names stand for images of different splits")
        assert "train/0001 becomes train_0001, val/0001 becomes val_0001" in told[0]


@pytest.mark.parametrize("to", ["voc", "nifti"])
def test_a_second_split_of_the_same_names_is_refused_whole(tmp_path, to):
    target = tmp_path / "b"
    convert(mask_folder(tmp_path / "a", splits=("val",)), target, to=to)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    other = mask_folder(tmp_path / "c", splits=("",))
    description = tmp_path / "c.yaml"
    description.write_text(f"root: {other}\nformat: mask_folder\nsplits: {{extra: ['0001', '0002']}}\n")
    with pytest.raises(UserError, match=r"0001.*already exists"):
        convert(description, target, to=to)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_names_that_become_one_are_refused_before_anything_is_written(tmp_path):
    source = mask_folder(tmp_path / "a", names=("x/0001", "x__0001"), splits=("train", "val"))
    with pytest.raises(UserError, match=r"train/x/0001, train/x__0001 would be written as one file of this format"):
        convert(source, tmp_path / "b", to="nifti")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "to", ["yolo", "labelme", "cvat", "label_studio", "coco", "coco_panoptic", "geotiff", "ade20k"]
)
def test_a_later_split_that_is_there_is_seen_before_the_first_is_written(tmp_path, to):
    regions = to in ("yolo", "labelme", "cvat", "label_studio", "coco")
    val = mask_folder(tmp_path / "v", splits=("val",))
    description = tmp_path / "v.yaml"
    description.write_text(f"root: {val}\nformat: mask_folder\nsplits: {{val: ['*']}}\n")
    convert(description, tmp_path / "b", to=to, regions=regions)
    before = {path for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already exists"):
        convert(mask_folder(tmp_path / "a"), tmp_path / "b", to=to, regions=regions)
    assert {path for path in (tmp_path / "b").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("to", ["voc", "ade20k", "yolo", "mask_folder", "geotiff", "nifti"])
def test_a_split_with_other_classes_leaves_the_list_and_the_folder_as_they_are(tmp_path, to):
    """VOC and ADE20K wrote the new list over the old one, by which the masks that were there meant something else."""
    sample = Sample(
        np.zeros((*SIZE, 3), np.uint8), SemanticMap(np.zeros(SIZE, np.uint8), LabelSpace(("background", "a")))
    )
    other = Sample(sample.image, SemanticMap(np.zeros(SIZE, np.uint8), LabelSpace(("background", "b"))), name="o")
    for each, split in ((sample, "train"), (other, "val")):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        settings, space = WriteSettings(split=split, regions=to == "yolo"), each.target.space
        if split == "train":
            write_data([each], tmp_path, format=to, space=space, settings=settings)
            continue
        with pytest.raises(UserError, match="one list of classes, and this one has another already"):
            write_data([each], tmp_path, format=to, space=space, settings=settings)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_images_that_are_there_are_not_overwritten(tmp_path):
    there = tmp_path / "b" / "images" / "train" / "0001.png"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"0001\.png: this already exists"):
        convert(mask_folder(tmp_path / "a"), tmp_path / "b", to="mask_folder")
    assert there.read_bytes() == b"mine"


def test_a_folder_that_is_a_data_set_is_no_target(tmp_path):
    source = mask_folder(tmp_path / "a")
    files = sorted(source.rglob("*"))
    for target in (source, source / "voc", tmp_path / "x" / ".." / "a"):
        with pytest.raises(UserError, match="this is the data set that is converted, or lies in it"):
            convert(source, target, to="voc")
    assert sorted(source.rglob("*")) == files
    mask_folder(tmp_path / "other")
    with pytest.raises(UserError, match=r"this is a data set already \('mask_folder' because .*choose another folder"):
        convert(source, tmp_path / "other", to="voc")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="this is a file"):
        convert(source, tmp_path / "file", to="voc")


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "label_studio", "yolo"])
def test_regions_of_label_maps_become_objects(tmp_path, to):
    source = mask_folder(tmp_path / "a")
    with pytest.raises(UserError, match="--regions"):
        convert(source, tmp_path / "no", to=to)
    notes = convert(source, tmp_path / "b", to=to, regions=True)
    assert "Each connected region of a class is written as one object; objects that touch are one." in notes
    data, maps = open_data(tmp_path / "b"), open_data(source)
    assert data.space.names == ("cat", "dog")
    for split, records in maps.splits.items():
        for record, other in zip(records, data.splits[split], strict=True):
            labels = maps.read_target(record).labels
            found = data.read_target(other)
            painted = np.zeros(SIZE, np.uint8)
            found.masks.paint(painted, (found.labels + 1).astype(np.uint8))
            np.testing.assert_array_equal(painted, labels)


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "label_studio", "yolo", "mask_folder", "geotiff", "voc"])
@pytest.mark.parametrize("names", [("x/0001", "y/0001"), ("x/0001", "x/0002")])
def test_folders_in_names_are_read_back(tmp_path, to, names):
    source = mask_folder(tmp_path / "a", names=names, splits=("train", "val") if to != "voc" else ("",))
    convert(source, tmp_path / "b", to=to, regions=to in ("coco", "cvat", "labelme", "label_studio", "yolo"))
    data = open_data(tmp_path / "b")
    for split, records in open_data(source).splits.items():
        images = {r.name.removeprefix(f"{split}/"): r.image.read_bytes() for r in records}
        found = {r.name.removeprefix(f"{split}/"): r.image for r in data.splits[split]}
        assert set(found) == set(images)
        assert to == "geotiff" or {name: path.read_bytes() for name, path in found.items()} == images


def test_regions_where_they_mean_nothing_are_refused(tmp_path):
    source = mask_folder(tmp_path / "a")
    with pytest.raises(UserError, match="'mask_folder' holds a map of classes as it is; leave --regions out"):
        convert(source, tmp_path / "b", to="mask_folder", regions=True)
    convert(source, tmp_path / "c", to="coco", regions=True)
    with pytest.raises(UserError, match="told apart already"):
        convert(tmp_path / "c", tmp_path / "d", to="yolo", regions=True)


def objects(*boxes):
    masks = RunMasks.from_boxes(np.array([box[:4] for box in boxes], float), SIZE)
    return Instances(masks, np.array([box[4] for box in boxes], np.int32), OBJECTS)


def written(folder, target, to, **settings):
    sample = Sample(np.zeros((*SIZE, 3), np.uint8), target, name="a")
    found = write_data([sample], folder, format=to, space=target.space, settings=WriteSettings(**settings))
    return " ".join(found.notes)


@pytest.mark.parametrize("to", ["mask_folder", "ade20k", "nifti"])
def test_overlaps_that_a_map_loses_are_said(tmp_path, to):
    over, apart = objects((1, 1, 15, 15, 0), (3, 3, 6, 6, 1)), objects((1, 1, 5, 5, 0), (8, 8, 12, 12, 1))
    same = objects((1, 1, 15, 15, 0), (3, 3, 6, 6, 0))
    assert "1 image: objects of different classes overlap" in written(tmp_path / "a", over, to)
    assert "overlap" not in written(tmp_path / "b", apart, to)
    assert "overlap" not in written(tmp_path / "c", same, to)  # the map of classes is whole


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "label_studio", "yolo"])
def test_stuff_and_void_that_objects_lose_are_said(tmp_path, to):
    space = LabelSpace(("sky", "road", "cat"), (False, False, True))
    ids = np.ones(SIZE, np.int32)
    ids[5:], ids[5:9, :4] = 2, 3
    whole = Panoptic(ids, np.array([1, 2, 3], np.int32), np.array([0, 1, 2], np.int32), space)
    text = written(tmp_path / "a", whole, to)
    assert "2 classes of stuff are left behind: sky, road." in text
    assert "void" not in text
    holed = np.where(np.arange(SIZE[1]) > 20, 0, ids).astype(np.int32)
    target = Panoptic(holed, whole.segment_ids, whole.labels, space)
    assert "1 image: ignored pixels (void) are left behind" in written(tmp_path / "b", target, to)
    labels = np.full(SIZE, 255, np.uint8)
    labels[:9] = 1
    plain = SemanticMap(labels, LabelSpace(("background", "cat")))
    assert "ignored pixels (void)" in written(tmp_path / "c", plain, to, regions=True)


def test_colours_that_are_lost_are_said(tmp_path):
    space = LabelSpace(("cat", "dog"), (True, True), ((1, 2, 3), (9, 8, 7)))
    target = Instances(RunMasks.from_boxes(np.array([[1, 1, 5, 5]], float), SIZE), np.zeros(1, np.int32), space)
    assert "The colours of the classes are left behind." in written(tmp_path / "a", target, "yolo")
    assert "colours" not in written(tmp_path / "b", target, "coco")
    assert "colours" not in written(tmp_path / "c", objects((1, 1, 5, 5, 0)), "yolo")


def crowded(root, count=300):
    """COCO: one image with few objects, and after it one with `count`."""
    samples = []
    for name, number in (("few", 2), ("many", count)):
        ids = np.arange(40 * 40, dtype=np.int32).reshape(40, 40)
        masks = RunMasks.from_labels(ids, np.arange(1, number + 1, dtype=np.int32))
        target = Instances(masks, np.zeros(number, np.int32), OBJECTS)
        samples.append(Sample(np.zeros((40, 40, 3), np.uint8), target, name=name))
    write_data(samples, root, format="coco", space=OBJECTS, settings=WriteSettings())
    return root


@pytest.mark.parametrize("empty_folder", [False, True])
def test_a_sample_refused_in_the_middle_leaves_nothing(tmp_path, empty_folder):
    source, target = crowded(tmp_path / "source"), tmp_path / "target"
    if empty_folder:
        target.mkdir()
    with pytest.raises(UserError, match=r"many: Pascal VOC tells 254 objects apart, found 300"):
        convert(source, target, to="voc")
    assert {path.name for path in tmp_path.iterdir()} == ({"source", "target"} if empty_folder else {"source"})
    assert not empty_folder or not any(target.iterdir())


def test_the_folder_appears_when_all_of_it_is_there(tmp_path):
    source, target = mask_folder(tmp_path / "source"), tmp_path / "new" / "target"
    seen = []
    data = open_data(source)
    settings = WriteSettings(regions=True)
    convert_data(data, target, format="coco", settings=settings, say=lambda line: seen.append(target.exists()))
    assert seen == [False, False]
    assert pictures(open_data(target)).keys() == {"train", "val"}
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_messages_name_the_folder_that_was_asked_for(tmp_path):
    source, target = mask_folder(tmp_path / "source"), tmp_path / "target"
    (source / "classes.json").write_text(json.dumps({"classes": ["cat", "dog", "cow"]}))
    with pytest.raises(UserError, match="target: Pascal VOC has one class per pixel") as caught:
        convert(source, target, to="voc")
    assert ".part" not in str(caught.value)
