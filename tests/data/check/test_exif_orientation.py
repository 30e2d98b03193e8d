"""EXIF orientations: found where sizes disagree, known to fit where they decide it, and said to be open where they do not."""

import json

import numpy as np
import pytest
from PIL import Image

from nuriwake.data.check import check_data

CASES = {
    "a square image": ((40, 40), 6, "exif_undecided"),
    "half a turn": ((40, 60), 3, "exif_undecided"),
    "a mirror": ((40, 60), 2, "exif_undecided"),
    "a quarter turn that the truth follows": ((40, 60), 8, "exif_present"),
}


def images(root, size, orientation, masks_upright=True):
    """Stored pixels of `size` with the tag; masks of the size that the upright image has."""
    rng = np.random.default_rng(0)
    upright = size[::-1] if orientation >= 5 and masks_upright else size
    for split in ("train", "val"):
        for number in range(2):
            for kind in ("images", "masks"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8))
            tags = image.getexif()
            tags[274] = orientation
            image.save(root / "images" / split / f"{number}.png", exif=tags)
            mask = np.zeros(upright, np.uint8)
            mask[3:9, 4 + number : 12] = 1
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["background", "cat"]}))
    return root


@pytest.mark.parametrize("name", CASES)
def test_orientations(tmp_path, name):
    size, orientation, kind = CASES[name]
    found = {item.kind: item for item in check_data(images(tmp_path, size, orientation), workers=1).findings}
    assert {each for each in found if each.startswith("exif")} == {kind}
    assert found[kind].count == 4
    assert found[kind].severity == ("note" if kind == "exif_present" else "doubtful")
    assert len(found[kind].samples) == 4  # with pictures in the report
    assert ("fits" in found[kind].what) == (kind == "exif_present")


def test_a_quarter_turn_of_yolo_is_open(tmp_path):
    root = images(tmp_path, (40, 60), 6)
    for mask in (root / "masks").rglob("*.png"):
        label = root / "labels" / mask.parent.name / f"{mask.stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    found = {item.kind: item for item in check_data(root / "data.yaml", workers=1).findings}
    assert found["exif_undecided"].count == 4
    assert "exif_present" not in found
