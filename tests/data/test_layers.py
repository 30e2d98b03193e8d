"""Folders of masks of one class each: what the description says of them holds, or is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.data.check import check_data
from nuriwake.data.formats import open_data


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def smooth(radius: int = 15) -> np.ndarray:
    drawn = np.zeros((64, 64), np.uint8)
    cv2.circle(drawn, (30, 30), radius, 255, -1, lineType=cv2.LINE_AA)
    assert len(np.unique(drawn)) > 5
    return drawn


def layers(root: Path, *masks: np.ndarray, suffix: str = ".png") -> Path:
    """Three images, each with these masks in masks/c0, masks/c1, ..."""
    rng = np.random.default_rng(0)
    for name in "abc":
        save(root / "images" / f"{name}.png", rng.integers(0, 255, (*masks[0].shape[:2], 3)).astype(np.uint8))
        for number, mask in enumerate(masks):
            save(root / "masks" / f"c{number}" / f"{name}{suffix}", mask)
    return root


def described(root: Path, text: str) -> Path:
    (root.parent / "data.yaml").write_text(f"root: {root.name}\n{text}\n")
    return root.parent / "data.yaml"


def labels(data):
    return data.read(data.splits["train"][0]).target.labels


def values(*found: int, dtype=np.uint8) -> np.ndarray:
    return np.resize(np.array(found, dtype), (16, 20))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_pictures_are_thresholded_as_the_message_says(tmp_path, suffix):
    root = layers(tmp_path / "data", smooth(), smooth(9), suffix=suffix)
    with pytest.raises(UserError, match=r"c./a.*0 and 255, or 0, 1 and 255 \(ignore\); found \d+\..*'threshold: 128'"):
        open_data(root)
    finding = next(finding for finding in check_data(root, workers=1).findings if finding.kind == "layers")
    assert "threshold: 128" in finding.remedy
    data = open_data(described(root, "threshold: 128"))
    assert any("thresholded at 128" in note for note in data.notes)
    found = labels(data)
    for number, radius in enumerate((15, 9)):
        expected = smooth(radius) >= 128
        wrong = (found[..., number] != expected).sum()
        assert wrong == 0 if suffix == ".png" else wrong < 5
    harmful = [
        item for item in check_data(described(root, "threshold: 128"), workers=1).findings if item.severity == "harmful"
    ]
    assert harmful == []
    assert data.fingerprint() != open_data(described(root, "threshold: 100")).fingerprint()


def test_wide_masks_are_told_a_threshold_that_fits(tmp_path):
    root = layers(tmp_path / "data", values(0, 65535, dtype=np.uint16))
    with pytest.raises(UserError, match=r"found 65535\..*'threshold: 32768'"):
        open_data(root)
    np.testing.assert_array_equal(labels(open_data(described(root, "threshold: 32768")))[..., 0], values(0, 1))


@pytest.mark.parametrize(
    ("found", "text", "expected"),
    [
        ((0, 1, 7), "ignore: 7", (0, 1, 255)),
        ((0, 255, 7), "ignore: 7", (0, 1, 255)),
        ((0, 255, 7, 9), "ignore: [7, 9]", (0, 1, 255, 255)),
        ((0, 1, 255), "ignore: 255", (0, 1, 255)),
        ((0, 255), "ignore: []", (0, 1)),
        ((0, 255), "ignore: 255", (0, 255)),
        ((0, 1, 255), "", (0, 1, 255)),
        ((0, 255), "", (0, 1)),
    ],
)
def test_what_is_ignored_may_be_said(tmp_path, found, text, expected):
    path = described(layers(tmp_path / "data", values(*found)), text)
    data = open_data(path)
    np.testing.assert_array_equal(labels(data)[..., 0], values(*expected))
    assert any("No mask that was looked at says yes" in note for note in data.notes) == (1 not in expected)
    assert "layers" not in {finding.kind for finding in check_data(path, workers=1).findings}


def test_the_ignored_value_of_classes_json_holds_too(tmp_path):
    root = layers(tmp_path / "data", values(0, 1, 9))
    (root / "classes.json").write_text('{"classes": ["c0"], "ignore_index": 9}')
    np.testing.assert_array_equal(labels(open_data(root))[..., 0], values(0, 1, 255))


@pytest.mark.parametrize(
    ("found", "text", "message"),
    [
        ((0, 1, 255), "ignore: []", r"holds 0 and 255, or 0 and 1; found 255\."),
        ((0, 1, 7, 9), "ignore: 7", r"holds 0 and 255, or 0 and 1, and 7 \(ignore\); found 9\."),
        ((0, 1), "ignore: 1", r"say yes with 1 or 255, but 1 are ignored"),
        ((0, 1), "threshold: 1\nignore: 255", r"'threshold: 1' makes every value .* 'ignore' \(255\)"),
        ((0, 255), "values: {0: none, 255: c0}", r"field 'values' .* means nothing .*one folder of masks per class"),
        ((0, 255), "colours: {c0: [1, 2, 3]}", r"field 'colours' .* means nothing"),
        ((0, 255), "things: [c0]", r"field 'things' .* means nothing"),
        ((0, 255), "instance_ids: true", r"field 'instance_ids' .* means nothing"),
        ((0, 255), "mask_suffix: _m", r"field 'mask_suffix' .* means nothing"),
    ],
)
def test_what_does_not_hold_is_refused_by_opening_and_found_by_the_check(tmp_path, found, text, message):
    path = described(layers(tmp_path / "data", values(*found)), text)
    with pytest.raises(UserError, match=message):
        open_data(path)
    try:
        findings = check_data(path, workers=1).findings
    except UserError as error:
        assert "take" in str(error)  # noqa: PT017
    else:
        assert "harmful" in {finding.severity for finding in findings}


@pytest.mark.parametrize("text", ["", "threshold: 128"])
def test_colours_are_refused(tmp_path, text):
    colours = np.zeros((16, 20, 3), np.uint8)
    colours[:8] = (0, 0, 255)  # red, for OpenCV
    path = described(layers(tmp_path / "data", colours), text)
    with pytest.raises(UserError, match=r"a\.png: the mask of one class is grey, found the colour \[255, 0, 0\]"):
        open_data(path)
    assert "layers" in {finding.kind for finding in check_data(path, workers=1).findings}
