"""The scores against sets of pixels, and the data-set metric as a whole."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.serial import to_plain
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.confusion import count_pixels
from nuriwake.metrics.scores import semantic_scores
from nuriwake.metrics.semantic import METRICS, Score, SemanticMetric, metric_names

FOUR = LabelSpace(("sky", "road", "car", "tree"))
BINARY = LabelSpace(("background", "cell"))
LAYERS = LabelSpace(("vessel", "lesion", "disc"), exclusive=False)


def maps(space, seed, size=(24, 31), right=0.7):
    """(prediction, target) SemanticMaps with some ignore in the truth."""
    generator = np.random.default_rng(seed)
    shape, classes = (size, len(space)) if space.exclusive else ((*size, len(space)), 2)
    target = generator.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(generator.random(shape) < right, target, generator.integers(0, classes, shape)).astype(
        np.uint8
    )
    target[generator.random(shape) < 0.1] = IGNORE
    return SemanticMap(prediction, space), SemanticMap(target, space)


def divide(a, b):
    return a / b if b else float("nan")


def sets_twin(prediction, target):
    """One yes-or-no question as sets of pixels: (iou, dice, precision, recall)."""
    kept = {i for i, label in enumerate(target.ravel()) if label != IGNORE}
    found = {i for i in kept if prediction.ravel()[i] == 1}
    truth = {i for i in kept if target.ravel()[i] == 1}
    both = len(found & truth)
    return (
        divide(both, len(found | truth)),
        divide(2 * both, len(found) + len(truth)),
        divide(both, len(found)),
        divide(both, len(truth)),
    )


def as_question(labels, index):
    return np.where(labels == IGNORE, IGNORE, labels == index).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), present=st.integers(1, 5))
def test_scores_are_those_of_sets(seed, present):
    generator = np.random.default_rng(seed)
    prediction, target = (generator.integers(0, present, (6, 7)).astype(np.uint8) for _ in range(2))
    target[generator.random((6, 7)) < 0.3] = IGNORE
    counts = count_pixels(prediction, target, classes=6)
    scores = semantic_scores(counts.matrix, counts.unanswered)
    table = np.array([sets_twin(as_question(prediction, k), as_question(target, k)) for k in range(6)])
    for column, found in enumerate((scores.iou, scores.dice, scores.precision, scores.recall)):
        np.testing.assert_allclose(found, table[:, column])
    if not np.isnan(table[:, 0]).all():
        assert scores.mean_iou == pytest.approx(np.nanmean(table[:, 0]))
    kept = target != IGNORE
    if kept.any():
        assert scores.pixel_accuracy == pytest.approx((prediction == target)[kept].mean())
        shares = np.bincount(target[kept], minlength=6) / kept.sum()
        assert scores.frequency_weighted_iou == pytest.approx(np.nansum(shares * table[:, 0]))


def test_absent_is_nan_and_invented_is_zero():
    target, prediction = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    prediction[0, 0] = 2
    scores = semantic_scores(count_pixels(prediction, target, classes=4).matrix)
    assert math.isnan(scores.iou[1])
    assert scores.iou[2] == 0
    assert math.isnan(scores.recall[2])
    assert scores.precision[2] == 0
    assert scores.mean_iou == pytest.approx((15 / 16 + 0) / 2)


def test_a_prediction_of_ignore_is_wrong():
    target, prediction = np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, IGNORE]], np.uint8)
    counts = count_pixels(prediction, target, classes=2)
    scores = semantic_scores(counts.matrix, counts.unanswered)
    assert (scores.iou[0], scores.recall[0], scores.precision[0], scores.pixel_accuracy) == (0.75, 0.75, 1.0, 0.75)
    assert math.isnan(scores.iou[1])


def test_names_are_those_of_the_table():
    for space in (FOUR, BINARY, LAYERS):
        metric = SemanticMetric(space)
        image = metric.update(*maps(space, 1))
        assert tuple(image) == tuple(metric.compute()) == metric_names(space)
        assert set(image) <= set(METRICS)
    assert set(metric_names(BINARY)) == set(METRICS)


def test_a_new_score_is_one_row(monkeypatch):
    monkeypatch.setitem(METRICS, "worst_iou", Score("the lowest IoU", lambda scores: float(np.nanmin(scores.iou))))
    metric = SemanticMetric(FOUR)
    metric.update(*maps(FOUR, 1))
    assert "worst_iou" in metric_names(FOUR)
    assert metric.report().headline["worst_iou"] == metric.scores().iou.min()


def test_dataset_mean_is_not_the_image_mean():
    metric = SemanticMetric(FOUR)
    images = [metric.update(*maps(FOUR, seed, right=right)) for seed, right in enumerate((0.2, 0.9, 0.95))]
    found = metric.compute()
    assert found["image_mean_iou"] == pytest.approx(np.mean([image["mean_iou"] for image in images]))
    whole = [
        np.concatenate([maps(FOUR, seed, right=right)[side].labels for seed, right in enumerate((0.2, 0.9, 0.95))])
        for side in (0, 1)
    ]
    assert found["mean_iou"] == semantic_scores(count_pixels(*whole, classes=4).matrix).mean_iou
    assert abs(found["mean_iou"] - found["image_mean_iou"]) > 0.01


def test_binary_headline_is_the_foreground():
    metric = SemanticMetric(BINARY)
    prediction, target = maps(BINARY, 4)
    metric.update(prediction, target)
    found = metric.compute()
    expected = sets_twin(prediction.labels, target.labels)
    assert [found[name] for name in ("iou", "dice", "precision", "recall")] == pytest.approx(list(expected))
    assert found["mean_iou"] != pytest.approx(found["iou"])


def test_binary_image_without_foreground_has_no_foreground_score():
    metric = SemanticMetric(BINARY)
    empty = SemanticMap(np.zeros((5, 5), np.uint8), BINARY)
    assert math.isnan(metric.update(empty, empty)["dice"])
    one = maps(BINARY, 2)
    dice = metric.update(*one)["dice"]
    assert metric.compute()["image_dice"] == pytest.approx(dice)
    assert metric.counts()["image_dice"].tolist() == pytest.approx([dice, 1])


def test_multi_label_is_one_question_per_class():
    metric = SemanticMetric(LAYERS)
    prediction, target = maps(LAYERS, 9)
    metric.update(prediction, target)
    expected = [sets_twin(prediction.labels[..., k], target.labels[..., k]) for k in range(3)]
    rows = metric.per_class()
    for name, row in zip(LAYERS.names, expected, strict=True):
        assert [rows[name][key] for key in ("iou", "dice", "precision", "recall")] == pytest.approx(list(row))
    found = metric.compute()
    assert found["mean_iou"] == pytest.approx(np.mean([row[0] for row in expected]))
    kept = target.labels != IGNORE
    assert found["pixel_accuracy"] == pytest.approx((prediction.labels == target.labels)[kept].mean())
    assert metric.matrix.shape == (3, 2, 2)


@pytest.mark.parametrize("space", [FOUR, BINARY, LAYERS])
def test_merge_equals_whole(space):
    whole, parts = SemanticMetric(space), [SemanticMetric(space) for _ in range(3)]
    for seed in range(7):
        pair = maps(space, seed)
        whole.update(*pair)
        parts[seed % 3].update(*pair)
    total = SemanticMetric(space)
    total.load_sum([part.counts() for part in parts])
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    for found in (total, parts[0]):
        np.testing.assert_array_equal(found.matrix, whole.matrix)
        assert found.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_all_ignore_scores_nothing_and_reports_null():
    metric = SemanticMetric(BINARY)
    target = SemanticMap(np.full((6, 6), IGNORE, np.uint8), BINARY)
    image = metric.update(SemanticMap(np.ones((6, 6), np.uint8), BINARY), target)
    assert all(math.isnan(value) for value in (*image.values(), *metric.compute().values()))
    report = metric.report()
    assert set(report.headline.values()) == {None}
    assert report.details["ignored_pixels"] == 36
    json.dumps(to_plain(report), allow_nan=False)


def test_nothing_counted_is_nan():
    assert all(math.isnan(value) for value in SemanticMetric(BINARY).compute().values())


def test_wrong_input():
    metric = SemanticMetric(FOUR)
    with pytest.raises(UserError, match="has 2 exclusive classes, this metric counts 4"):
        metric.update(*maps(BINARY, 0))
    with pytest.raises(UserError, match="same size"):
        metric.update(maps(FOUR, 0, size=(5, 5))[0], maps(FOUR, 0)[1])
    with pytest.raises(UserError, match="do not merge"):
        metric.merge(SemanticMetric(BINARY))
    with pytest.raises(UserError, match="another metric"):
        metric.load(SemanticMetric(BINARY).counts())
