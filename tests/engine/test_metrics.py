"""Further metrics of an evaluation: asked for by name, in the units of the data, merged across processes."""

import json
import time
import warnings
from dataclasses import replace

import pytest

import nuriwake as nw
from nuriwake.cli import run as command
from nuriwake.core.errors import UserError
from nuriwake.core.sample import Sample
from nuriwake.data.formats import open_data
from nuriwake.engine.distribution import join_team
from nuriwake.engine.evaluate import ALONE, EvaluationRequest, evaluate, tell_limits
from nuriwake.engine.lock import Lock
from nuriwake.engine.setup import prepare_job
from nuriwake.engine.train import train
from nuriwake.metrics.boundary_metric import BoundaryMetric
from nuriwake.metrics.metric import MetricSettings
from nuriwake.tasks import get_task

HD95 = ("hd95_directed_max", "hd95_pooled", "hd95_surface_weighted")


@pytest.fixture
def trained(tiny_config):
    return train(tiny_config({"steps": 30, "optim.learning_rate": 0.02, "evaluation.metrics": ["surface"]}))


def test_the_same_from_the_run_python_and_the_command_line(trained, disc_data, capsys):
    assert {*HD95, "nsd_1", "average_surface_distance"} <= set(trained.scores)
    assert "hd95_pooled" in trained.evaluation["per_class"][trained.data["space"]["names"][1]]
    found = nw.evaluate(trained.folder, disc_data, metrics=("surface", "boundary"), tolerance=2.0)
    assert {name: found.scores[name] for name in HD95} == {name: trained.scores[name] for name in HD95}
    assert {"nsd_2", "mean_boundary_iou", "boundary_iou"} <= set(found.scores)
    asked = ["--metrics", "surface", "boundary", "--tolerance", "2.0", "--json"]
    assert command(["evaluate", str(trained.folder), str(disc_data), *asked]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == found.scores
    assert command(["evaluate", str(trained.folder), str(disc_data), "--metrics", "surfce"]) == 2
    assert "Did you mean 'surface'" in " ".join(capsys.readouterr().err.split())
    plain = nw.evaluate(trained.folder, disc_data).scores
    assert plain == {name: found.scores[name] for name in plain}
    assert not set(plain) & set(HD95)


def test_distances_follow_the_spacing_of_the_samples_and_merge(trained, disc_data):
    task, data = get_task("semantic"), open_data(disc_data)
    request = EvaluationRequest(task, "dice", metrics=("surface",), settings=MetricSettings(3.0))
    predictor, records = nw.load(trained.folder, device="cpu"), data.records("val")
    pixels = evaluate(predictor, data, records, request=request).scores
    assert isinstance(data.read(records[0]), Sample)
    wide = evaluate(predictor, replace(data, spacing=(3.0, 3.0)), records, request=request)
    assert wide.scores["average_surface_distance"] == pytest.approx(3 * pixels["average_surface_distance"])

    class Half(type(ALONE)):
        """One of two processes; `gather` finds what the other has left."""

        def gather(self, value):
            left.setdefault(self.rank, []).append(value)
            other = left.get(1 - self.rank, [])
            return [value, other[len(left[self.rank]) - 1]] if len(other) >= len(left[self.rank]) else [value]

    left: dict[int, list] = {}
    for rank in (0, 1):
        found = evaluate(predictor, data, records, request=replace(request, team=Half(rank, 2, ALONE.device)))
    assert found.scores == pytest.approx(pixels)
    assert [image.name for image in found.images] == [record.name for record in records]


def test_objects_beyond_the_limit_of_average_precision_are_said():
    details = {"mask_counts": {"objects": 120, "beyond_limit": 3}, "other": 1}
    with pytest.warns(UserWarning, match="Average precision counts the 100 surest objects of a class in an image"):
        tell_limits(details)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_limits({"mask_counts": {"beyond_limit": 0}, "pixels": 5})


def test_a_misspelt_metric_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'boundary'"):
        train(tiny_config({"evaluation.metrics": ["bondary"]}))
    assert not (tmp_path / "run").exists()


def test_a_budget_knows_what_the_metrics_at_its_end_cost(tiny_config, monkeypatch):
    usual = BoundaryMetric.update

    def slow(self, *values, **named):
        time.sleep(0.2)
        return usual(self, *values, **named)

    monkeypatch.setattr(BoundaryMetric, "update", slow)
    config = tiny_config({"budget": 300.0, "evaluation.metrics": ["boundary"]})
    lock = Lock(config.out)
    job = prepare_job(config, join_team("cpu"), lock=lock, resume=False, report=lambda line: None)
    lock.release()
    assert job.plan.further_seconds >= 0.2 * len(job.data.records("val"))
    assert job.plan.reserve > 0.2 * len(job.data.records("val"))
