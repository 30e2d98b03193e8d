"""What all metrics share: the same names per image and over the data set, sums of states, joined reports."""

import json
import math
import pickle

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.serial import to_plain
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.boundary import BoundaryIoU
from nuriwake.metrics.boundary_metric import BoundaryMetric
from nuriwake.metrics.metric import MetricReport, MetricSettings, joined, summed
from nuriwake.metrics.semantic import SemanticMetric
from nuriwake.metrics.surface_metric import SurfaceMetric

FOUR = LabelSpace(("sky", "road", "car", "tree"))
BINARY = LabelSpace(("background", "cell"))
LAYERS = LabelSpace(("vessel", "lesion", "disc"), exclusive=False)
METRICS = [SemanticMetric, BoundaryMetric, SurfaceMetric]


def maps(space, seed):
    """(prediction, target): blocks of 8 pixels, of which some differ."""
    generator = np.random.default_rng(seed)
    shape, classes = ((4, 5), len(space)) if space.exclusive else ((4, 5, len(space)), 2)
    target = generator.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(generator.random(shape) < 0.8, target, generator.integers(0, classes, shape))
    return [SemanticMap(part.astype(np.uint8).repeat(8, 0).repeat(8, 1), space) for part in (prediction, target)]


@pytest.mark.parametrize("space", [FOUR, BINARY, LAYERS])
@pytest.mark.parametrize("build", METRICS)
def test_shards_add_up_to_the_whole(space, build):
    whole, parts, total = build(space), [build(space) for _ in range(3)], build(space)
    for seed in range(6):
        image = whole.update(*maps(space, seed), spacing=(2.0, 1.0))
        parts[seed % 3].update(*maps(space, seed), spacing=(2.0, 1.0))
    total.load_sum([part.counts() for part in parts])
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    expected = whole.report()
    assert tuple(image) == tuple(expected.headline)
    for found in (total.report(), parts[0].report()):
        assert found.headline == pytest.approx(expected.headline)
        assert list(found.per_class) == list(expected.per_class)
    json.dumps(to_plain(expected), allow_nan=False)


@pytest.mark.parametrize("build", METRICS)
def test_other_maps_and_other_states_are_refused(build):
    metric = build(FOUR)
    with pytest.raises(UserError, match="has 2 exclusive classes, this metric counts 4"):
        metric.update(*maps(BINARY, 0))
    with pytest.raises(UserError, match="same size"):
        metric.update(SemanticMap(np.zeros((3, 3), np.uint8), FOUR), maps(FOUR, 0)[1])
    with pytest.raises(UserError, match="do not merge"):
        metric.load_sum([metric.counts(), build(BINARY).counts()])
    with pytest.raises(UserError, match="another metric"):
        metric.load_sum([build(BINARY).counts()])


def test_boundary_scores_are_those_of_the_layers():
    metric, plain = BoundaryMetric(BINARY), BoundaryIoU(2)
    for seed in range(3):
        prediction, target = maps(BINARY, seed)
        image = metric.update(prediction, target)
        expected = plain.update(prediction.labels, target.labels)
        assert image == pytest.approx({"mean_boundary_iou": expected.mean(), "boundary_iou": expected[1]})
    assert metric.report().headline["boundary_iou"] == plain.iou()[1]
    assert metric.report().per_class["background"] == {"boundary_iou": plain.iou()[0]}
    layered, one = BoundaryMetric(LAYERS), BoundaryIoU(2)
    prediction, target = maps(LAYERS, 5)
    layered.update(prediction, target)
    one.update(prediction.labels[..., 1], target.labels[..., 1])
    assert layered.iou()[1] == one.iou()[1]
    assert all(math.isnan(value) for value in BoundaryMetric(FOUR).iou())


def test_reports_are_joined_class_by_class():
    first = MetricReport({"a": 1.0}, {"x": {"a": 1.0}, "y": {"a": None}}, {"confusion": [1]})
    found = joined([first, MetricReport({"b": None}, {"y": {"b": 2.0}})])
    assert found == MetricReport(
        {"a": 1.0, "b": None}, {"x": {"a": 1.0}, "y": {"a": None, "b": 2.0}}, {"confusion": [1]}
    )
    assert first.per_class["y"] == {"a": None}


def test_the_tolerance_is_in_the_name():
    names = [SurfaceMetric.build(BINARY, MetricSettings(value)).names[-1] for value in (0, 0.5, 2.0)]
    assert names == ["nsd_0", "nsd_0.5", "nsd_2"]
    with pytest.raises(UserError, match="at least 0"):
        SurfaceMetric.build(BINARY, MetricSettings(-1.0))


def test_sums_keep_whole_numbers_whole():
    assert summed([{"n": np.array([2**60])}, {"n": np.array([1])}])["n"].tolist() == [2**60 + 1]


def test_builders_travel_to_other_processes():
    build = pickle.loads(pickle.dumps(SurfaceMetric.build))
    assert build(BINARY, MetricSettings()).classes == (1,)
