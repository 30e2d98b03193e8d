import json

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.recipes.demo_data import NAMES, draw_demo_data, draw_scene


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_demo_data(tmp_path_factory.mktemp("demo") / "data", train=12, val=3, size=(96, 112))


def test_files(folder):
    files = contents(folder)
    assert len(files) == 2 * 15 + 1
    assert json.loads(files["classes.json"]) == {"classes": list(NAMES), "ignore_index": IGNORE}
    for split, count in (("train", 12), ("val", 3)):
        images, masks = sorted((folder / "images" / split).iterdir()), sorted((folder / "masks" / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(images) == count
        for image, mask in zip(images, masks, strict=True):
            assert cv2.imread(str(image)).shape == (96, 112, 3)
            labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            assert labels.shape == (96, 112)
            assert set(np.unique(labels)) <= {0, 1, 2, 3, IGNORE}


def test_deterministic_and_idempotent(folder, tmp_path):
    before = contents(folder)
    assert contents(draw_demo_data(folder, train=12, val=3, size=(96, 112))) == before
    other = contents(draw_demo_data(tmp_path / "other", train=12, val=3, size=(96, 112), seed=1))
    assert other.keys() == before.keys()
    assert other != before
    longer = contents(draw_demo_data(tmp_path / "longer", train=14, val=3, size=(96, 112)))
    assert all(longer[name] == data for name, data in before.items()), "more images leave the first ones as they are"


def test_strange_files_and_numbers_are_refused(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"mine\.png"):
        draw_demo_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    with pytest.raises(UserError, match="32 pixels"):
        draw_demo_data(tmp_path / "small", size=(8, 8))


def test_mean_colour_helps_and_is_not_enough():
    scenes = [draw_scene(np.random.default_rng([7, index]), (96, 112)) for index in range(60)]
    means = {label: [] for label in range(len(NAMES))}
    for image, mask in scenes:
        for label, found in means.items():
            if (mask == label).sum() > 50:
                found.append(image[mask == label].mean(axis=0))
    centres = np.stack([np.mean(found, axis=0) for found in means.values()])
    correct = [
        np.argmin(np.linalg.norm(centres - colour, axis=1)) == label
        for label, found in means.items()
        for colour in found
    ]
    balanced = np.mean([np.mean([correct.pop(0) for _ in found]) for found in means.values()])
    assert all(len(found) >= 15 for found in means.values()), "every class is there often enough to be learnt"
    assert 0.6 < balanced < 0.85, "chance is 0.25; a region's mean colour must not be enough"
