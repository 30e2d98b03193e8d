"""Any annotation file stands for its data set, for training and for the check alike."""

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
from nuriwake.data.check.listing import list_data
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (20, 26)
SPACE = LabelSpace(("cat", "dog"), (True, True))
OBJECTS = Instances(
    RunMasks.from_boxes(np.array([[1, 1, 9, 9], [12, 3, 20, 15]], float), SIZE), np.arange(2, dtype=np.int32), SPACE
)


def written(root, to, target=OBJECTS):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = [rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(2)]
        samples = [Sample(image, target, name=f"s{i}") for i, image in enumerate(images)]
        write_data(samples, root, format=to, space=target.space, settings=WriteSettings(split=split))
    return root


FILES = {
    "annotations/instances_train.json": "coco",
    "train/annotations.xml": "cvat",
    "train/tasks.json": "label_studio",
    "train/s0.json": "labelme",
    "polygons/train/s0.geojson": "geotiff",
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_stands_for_its_data_set(tmp_path, file):
    kind = FILES[file]
    if kind == "geotiff":
        pytest.importorskip("rasterio", reason="needs the extra geo")
    path = written(tmp_path, kind) / file
    data, listing = open_data(path), list_data(path)
    assert (data.format, listing.format, data.root) == (kind, kind, listing.root)
    assert len(listing.entries) == sum(map(len, data.splits.values()))
    whole = kind in ("labelme", "geotiff")
    assert len(listing.entries) == (4 if whole else 2)
    assert whole == any("is the file of one image; all of" in note for note in data.notes)
    for records in data.splits.values():
        np.testing.assert_array_equal(data.read_target(records[0]).masks.dense(), OBJECTS.masks.dense())


def test_cityscapes_panoptic_files(tmp_path):
    """The check took them for COCO's, and found every image missing."""
    space = LabelSpace(("road", "car"), (False, True))
    ids = np.full(SIZE, 7, np.int32)
    ids[3:9, 3:9] = 26000
    target = Panoptic(ids, np.array([7, 26000], np.int32), np.array([0, 1], np.int32), space)
    path = written(tmp_path, "cityscapes", target) / "gtFine" / "cityscapes_panoptic_train.json"
    data, listing = open_data(path), list_data(path)
    assert (data.format, listing.format) == ("cityscapes", "cityscapes")
    assert data.root == listing.root == tmp_path
    assert len(listing.entries) == sum(map(len, data.splits.values()))
    assert not listing.problems


def test_what_holds_no_annotations_is_refused_by_both(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"colour": "red"}))
    for look in (open_data, list_data):
        with pytest.raises(UserError, match=r"settings\.json: this is no annotation file of a known kind"):
            look(path)


def test_ade20k_names_the_files_that_it_saw(tmp_path):
    home = tmp_path / "sampleData"
    for kind in ("images", "annotations"):
        (home / kind).mkdir(parents=True)
        Image.fromarray(np.ones(SIZE, np.uint8)).save(home / kind / "a.png")
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0\t0\t0\twall\n2\t0\t0\t0\tsky\n")
    from nuriwake.data.formats import recognise

    assert recognise(home) == {"ade20k": "it has annotations/, and objectInfo150.txt in the folder above"}
    assert recognise(tmp_path)["ade20k"] == "it has sampleData/annotations/, and objectInfo150.txt"
