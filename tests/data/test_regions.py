"""Label maps as objects: their connected regions, beside scipy's, and through every format of objects."""

import numpy as np
import pytest
from scipy import ndimage

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.formats import open_data
from nuriwake.data.regions import region_space, regions
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

SIZE = (30, 40)
IMAGE = np.full((*SIZE, 3), 70, np.uint8)
SPACES = [
    LabelSpace(("background", "cell", "rim")),
    LabelSpace(("road", "cell", "rim")),
    LabelSpace(("healthy", "ill")),
    LabelSpace(("cell", "rim"), exclusive=False),
]


def drawn(space, seed=0):
    rng = np.random.default_rng(seed)
    blobs = ndimage.zoom(rng.random((8, 10, len(space))), (SIZE[0] / 8, SIZE[1] / 10, 1), order=1)
    if not space.exclusive:
        return SemanticMap((blobs > 0.6).astype(np.uint8), space)
    labels = blobs.argmax(axis=2).astype(np.uint8)
    labels[:3, :3] = IGNORE
    return SemanticMap(labels, space)


@pytest.mark.parametrize("space", SPACES)
def test_regions_are_those_of_scipy(space):
    target = drawn(space)
    seen = region_space(space)
    found = regions(target, seen)
    expected = []
    for label, name in enumerate(seen.names):
        index = space.index(name)
        there = target.labels == index if space.exclusive else target.labels[..., index] == 1
        ids, count = ndimage.label(there, np.ones((3, 3)))
        expected += [(label, (ids == n).tobytes()) for n in range(1, count + 1)]
    dense = found.masks.dense().astype(bool)
    assert len(expected) > len(seen)
    assert sorted(expected) == sorted((int(n), mask.tobytes()) for n, mask in zip(found.labels, dense, strict=True))


def test_the_background_is_no_object():
    assert [region_space(space).names for space in SPACES] == [
        ("cell", "rim"), ("road", "cell", "rim"), ("ill",), ("cell", "rim"),
    ]  # fmt: skip
    empty = regions(SemanticMap(np.zeros(SIZE, np.uint8), SPACES[0]), region_space(SPACES[0]))
    assert (len(empty), empty.size) == (0, SIZE)


@pytest.mark.parametrize("format_name", ["coco", "cvat", "label_studio", "labelme", "yolo"])
def test_written_and_read_back(tmp_path, format_name):
    space = SPACES[2]
    target = drawn(space)
    samples = [Sample(IMAGE, target, name="a")]
    with pytest.raises(UserError, match=r"does not tell objects apart\. Choose a format of label maps"):
        write_data(samples, tmp_path / "refused", format=format_name, space=space)
    written = write_data(
        samples, tmp_path / "out", format=format_name, space=space, settings=WriteSettings(regions=True)
    )
    assert "Each connected region of a class is written as one object; objects that touch are one." in written.notes
    data = open_data(tmp_path / "out", val_share=0)
    found = data.read_target(data.splits["train"][0])
    assert data.space.names == ("ill",)
    expected = regions(target, region_space(space)).masks.dense()
    np.testing.assert_array_equal(found.masks.dense(), expected)


def test_formats_of_label_maps_are_written_as_before(tmp_path):
    target = drawn(SPACES[0])
    settings = WriteSettings(regions=True)
    write_data([Sample(IMAGE, target, name="a")], tmp_path, format="mask_folder", space=SPACES[0], settings=settings)
    data = open_data(tmp_path, val_share=0)
    np.testing.assert_array_equal(data.read_target(data.splits["train"][0]).labels, target.labels)
