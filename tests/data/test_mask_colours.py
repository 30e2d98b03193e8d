"""Colours of RGB-coded masks: one colour is one class."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.data.check import check_data
from nuriwake.data.formats import open_data

RED, BLUE, BLACK = [255, 0, 0], [0, 0, 255], [0, 0, 0]


def folder(root: Path) -> Path:
    """Four masks, the upper half blue and the lower half black."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for name in "abcd":
        mask = np.zeros((32, 32, 3), np.uint8)
        mask[:16] = (255, 0, 0)  # blue, for OpenCV
        assert cv2.imwrite(str(root / "images" / f"{name}.png"), rng.integers(0, 255, (32, 32, 3)).astype(np.uint8))
        assert cv2.imwrite(str(root / "masks" / f"{name}.png"), mask)
    return root


def say(root: Path, where: str, colours: list[tuple[str, list[int]]], classes: list[str]) -> Path:
    if where == "json":
        (root / "classes.json").write_text(json.dumps({"classes": classes, "colours": dict(colours)}))
    elif where == "entries":
        entries = [{"name": name, "color": dict(colours)[name]} for name in classes]
        (root / "classes.json").write_text(json.dumps({"classes": entries}))
    elif where == "csv":
        rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in colours]
        (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    else:
        text = json.dumps({"root": ".", "classes": classes, "colours": dict(colours)})
        (root / "data.yaml").write_text(text)
        return root / "data.yaml"
    return root


@pytest.mark.parametrize("where", ["json", "entries", "csv", "yaml"])
def test_two_classes_of_one_colour_are_refused(tmp_path, where):
    path = say(folder(tmp_path), where, [("road", BLUE), ("lane", BLUE), ("sky", BLACK)], ["road", "lane", "sky"])
    with pytest.raises(UserError, match=r"classes 'road' and 'lane' of \S.* have one colour, \[0, 0, 255\]"):
        open_data(path)
    findings = check_data(path, workers=1).findings
    finding = next(finding for finding in findings if finding.severity == "harmful")
    assert "'road' and 'lane'" in finding.files[0]


def test_a_class_and_ignore_of_one_colour_are_refused(tmp_path):
    path = say(folder(tmp_path), "json", [("road", BLUE), ("sky", BLACK), ("ignore", BLACK)], ["road", "sky"])
    with pytest.raises(UserError, match=r"'sky' and 'ignore' .* \[0, 0, 0\]"):
        open_data(path)


def test_names_of_one_label_may_share_a_colour_or_have_several(tmp_path):
    colours = [("road", BLUE), ("ignore", BLACK), ("void", BLACK), ("__ignore__", RED)]
    data = open_data(say(folder(tmp_path), "json", colours, ["road"]))
    found = data.read(data.splits["train"][0]).target.labels
    assert (found[:16] == 0).all()
    assert (found[16:] == 255).all()


def test_colours_of_masks_that_are_no_colours_are_free(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        cv2.imwrite(str(path), np.resize(np.array([0, 1], np.uint8), (32, 32)))
    data = open_data(say(tmp_path, "json", [("road", BLUE), ("lane", BLUE)], ["road", "lane"]))
    assert data.space.names == ("road", "lane")
