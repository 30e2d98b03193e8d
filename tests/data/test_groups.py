"""Shapes of one group are one object, whatever number the group has, and shapes without a group are objects of their own."""

import json

import numpy as np
import pytest
from PIL import Image

from nuriwake.data.formats import open_data

SHARED = {"version": "5.0.1", "flags": {}, "imagePath": "a.png", "imageData": None, "imageHeight": 40, "imageWidth": 60}
CVAT = """<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="a.png" width="60" height="40">{boxes}</image></annotations>"""


def objects(root):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(root / "a.png")
    data = open_data(root)
    return [len(data.read_target(record)) for part in data.splits.values() for record in part]


@pytest.mark.parametrize(
    ("groups", "count"),
    [((None, -1), 2), ((None, -2), 2), ((None, True), 2), ((None, None), 2), ((-1, -1), 1), ((3, 3), 1)],
)
def test_groups_of_labelme(tmp_path, groups, count):
    """A group -1 was the same as the first shape without a group."""
    shapes = [
        {"label": "cat", "points": [[x, 2], [x + 9, 2], [x + 9, 9]], "shape_type": "polygon", "group_id": group}
        for x, group in zip((5, 30), groups, strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps({**SHARED, "shapes": shapes}))
    assert objects(tmp_path) == [count]


@pytest.mark.parametrize(("groups", "count"), [(("0", "-1"), 2), (("0", "0"), 2), (("-1", "-1"), 1)])
def test_groups_of_cvat(tmp_path, groups, count):
    boxes = [
        f'<box label="cat" xtl="{x}" ytl="1" xbr="{x + 9}" ybr="9" group_id="{group}"/>'
        for x, group in zip((1, 20), groups, strict=True)
    ]
    (tmp_path / "annotations.xml").write_text(CVAT.format(boxes="".join(boxes)))
    assert objects(tmp_path) == [count]
