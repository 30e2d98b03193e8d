"""What is said of data without stuff, once a task looks at them."""

import json

import numpy as np
import pytest
from PIL import Image

from nuriwake.data.formats import open_data
from nuriwake.engine.view import viewed
from nuriwake.tasks import get_task


@pytest.fixture
def things(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    runs = {"size": [8, 9], "counts": [10, 5, 57]}
    item = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": runs, "iscrowd": 0}
    plain = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 9}],
        "annotations": [item],
        "categories": [{"id": 3, "name": "disc"}],
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(plain))
    return open_data(tmp_path)


@pytest.mark.parametrize(
    ("task", "words"), [("panoptic", "invented there cost nothing"), ("semantic", "is background"), ("instance", None)]
)
def test_void_of_things_alone_is_said(things, task, words):
    notes = viewed(things, get_task(task)).notes[len(things.notes) :]
    assert len(notes) == (words is not None)
    assert all(words in note for note in notes)
