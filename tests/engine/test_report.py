"""The report of a run, gathered from its folder."""

import weakref

from nuriwake.engine.report import write_run_report
from nuriwake.engine.train import train
from nuriwake.engine.view import viewed
from nuriwake.tasks import get_task
from nuriwake.weights.bundle import load_predictor


def test_examples_are_predicted_once_and_one_at_a_time(tiny_config, disc_data):
    from nuriwake.data.formats import open_data

    run = train(tiny_config())
    predictor, made, alive = load_predictor(run.folder), [], []

    def predict(image):
        alive.append(sum(earlier() is not None for earlier in made))
        answer = predictor(image)
        made.extend((weakref.ref(answer), weakref.ref(image)))
        return answer

    write_run_report(run, viewed(open_data(disc_data), get_task("semantic")), predict)
    assert alive == [0, 0, 0]  # each of the three is among the best and the worst
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("val/val00") >= 2
