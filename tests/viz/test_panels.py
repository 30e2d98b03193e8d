import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.viz.difference import (
    CONFUSED,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    difference_kinds,
    picture_scores,
)
from nuriwake.viz.panels import figures_line, grid, make_tiles, panel

BINARY = LabelSpace(("background", "核"))
THREE = LabelSpace(("background", "cat", "dog"))
STUFF = LabelSpace(("sky", "road", "tree"))
LAYERS = LabelSpace(("a", "b"), exclusive=False)


def slow_scores(truth: np.ndarray, prediction: np.ndarray, label: int) -> tuple[float, float]:
    """The twin: sets of pixels."""
    true, claimed = set(), set()
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            if truth[row, column] != IGNORE:
                if truth[row, column] == label:
                    true.add((row, column))
                if prediction[row, column] == label:
                    claimed.add((row, column))
    if not true | claimed:
        return float("nan"), float("nan")
    return len(true & claimed) / len(true | claimed), 2 * len(true & claimed) / (len(true) + len(claimed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([BINARY, THREE, STUFF]))
def test_picture_scores_equal_the_sets(seed, space):
    random = np.random.default_rng(seed)
    values = np.array([*range(len(space)), IGNORE], np.uint8)
    truth, prediction = random.choice(values, (2, 5, 6))
    scores = picture_scores(SemanticMap(truth, space), SemanticMap(prediction, space))
    for label in range(len(space)):
        expected = slow_scores(truth, prediction, label)
        assert (scores.iou[label], scores.dice[label]) == pytest.approx(expected, nan_ok=True)


def test_picture_scores_of_layers():
    truth = np.zeros((2, 3, 2), np.uint8)
    truth[0, :, 0] = 1
    truth[1, 0, 1] = IGNORE
    prediction = np.zeros_like(truth)
    prediction[0, :2, 0] = 1
    prediction[1, 0, 1] = 1
    scores = picture_scores(SemanticMap(truth, LAYERS), SemanticMap(prediction, LAYERS))
    assert scores.iou[0] == pytest.approx(2 / 3)
    assert np.isnan(scores.iou[1]), "a claim on an ignored pixel counts nowhere"


def test_kinds_of_classes_with_and_without_background():
    truth = SemanticMap(np.array([[0, 0, 1, 1, 1, IGNORE]], np.uint8), THREE)
    prediction = SemanticMap(np.array([[0, 2, 0, 1, 2, 1]], np.uint8), THREE)
    expected = [0, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE, CONFUSED, IGNORE]
    assert difference_kinds(truth, prediction).tolist() == [expected]
    assert difference_kinds(truth, prediction, focus=1).tolist() == [
        [0, 0, FALSE_NEGATIVE, TRUE_POSITIVE, FALSE_NEGATIVE, IGNORE]
    ]
    stuff = difference_kinds(SemanticMap(truth.labels, STUFF), SemanticMap(prediction.labels, STUFF))
    assert stuff.tolist() == [[TRUE_POSITIVE, CONFUSED, CONFUSED, TRUE_POSITIVE, CONFUSED, IGNORE]]


def test_kinds_of_layers():
    truth = np.array([[[1, 0], [0, 0], [1, 1], [1, 0], [IGNORE, IGNORE], [0, 0]]], np.uint8)
    prediction = np.array([[[1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [0, 0]]], np.uint8)
    kinds = difference_kinds(SemanticMap(truth, LAYERS), SemanticMap(prediction, LAYERS))
    assert kinds.tolist() == [[TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, CONFUSED, IGNORE, 0]]


def test_other_sizes_are_refused():
    small, large = (SemanticMap(np.zeros((side, side), np.uint8), BINARY) for side in (4, 5))
    with pytest.raises(ValueError, match="4"):
        difference_kinds(small, large)


def test_a_prediction_without_a_mistake_has_no_wrong_colour():
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:40] = 1
    truth = SemanticMap(labels, BINARY)
    tiles = make_tiles(np.full((40, 60, 1), 50, np.uint16), truth, prediction=truth, longest=120)
    assert list(tiles.pictures) == ["Image", "Truth", "Prediction", "Difference"]
    assert {picture.shape for picture in tiles.pictures.values()} == {(80, 120, 3)}
    assert [entry.name for entry in tiles.entries] == ["核", "intersection"]
    assert tiles.figures == "Dice 1.000 · IoU 1.000 · intersection 400 of union 400 px"


def test_figures_are_counted_at_full_size():
    truth, prediction = np.zeros((2, 1000, 1000), np.uint8)
    truth[0, 0], truth[500, 500], prediction[0, 0] = 1, 1, 1  # lost when shrunk to 100 pixels
    maps = SemanticMap(truth, BINARY), SemanticMap(prediction, BINARY)
    tiles = make_tiles(np.zeros((1000, 1000, 3), np.uint8), maps[0], prediction=maps[1], longest=100)
    assert tiles.figures == "Dice 0.667 · IoU 0.500 · intersection 1 of union 2 px"


def test_empty_truth_and_prediction_are_absent_not_zero():
    empty = SemanticMap(np.zeros((8, 8), np.uint8), BINARY)
    assert figures_line(empty, empty).startswith("Dice absent · IoU absent")
    assert figures_line(empty, empty, focus=1) == "核: Dice absent · IoU absent"


@pytest.mark.parametrize("given_parts", [(False, False), (True, False), (False, True), (True, True)])
def test_panel_with_what_is_there(given_parts):
    labels = SemanticMap(np.eye(50, dtype=np.uint8), BINARY)
    truth, prediction = (labels if there else None for there in given_parts)
    shown = panel(np.zeros((50, 50, 4), np.float32), truth, prediction=prediction, caption="塗り分け", longest=64)
    tiles = 1 + sum(given_parts) + all(given_parts)
    assert shown.shape[1] == tiles * 64 + (tiles - 1) * 8
    assert shown.dtype == np.uint8


def test_grid_holds_panels_of_any_size():
    panels = [np.full((10 + index, 20 - index, 3), index, np.uint8) for index in range(3)]
    shown = grid(panels, columns=2)
    assert shown.shape[1] == 2 * 20 + 8
    for index in range(3):
        assert (shown == index).all(axis=2).sum() == panels[index][..., 0].size
    with pytest.raises(ValueError, match="at least one"):
        grid([])
