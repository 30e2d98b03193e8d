"""The end of a run: the best weights, their thresholds, the bundle, and the evaluation of exactly that."""

from dataclasses import replace

from nuriwake.core.errors import RunError
from nuriwake.core.files import write_json
from nuriwake.core.serial import to_plain
from nuriwake.engine.checkpoint import read_torch
from nuriwake.engine.evaluate import Evaluation, evaluate
from nuriwake.engine.setup import Job, output_classes
from nuriwake.weights.bundle import SHOWN_SCORE, Bundle, ModelSpec, resolved_options, save_bundle


def finish(job: Job) -> None:
    """Restore the best weights, evaluate them through the predictor with their thresholds, write bundle and evaluation.

    The evaluation is in float32, as whoever loads the bundle will have it: its scores are those of the bundle.

    A run that is killed in here does it again when resumed: evaluation.json is written last.

    Raises:
        RunError: the disk is full or read-only.
    """
    best = job.position.best
    thresholds: tuple[float, ...] = ()
    if best is not None:
        job.evaluated.load_state_dict(read_torch(job.run.last.parent / best.file, job.team.device)["weights"])
        thresholds = tuple(best.thresholds)
    records = job.data.records(job.config.data.val)
    predictor = job.predictor(thresholds, precision="float32")
    found = evaluate(predictor, job.data, records, request=job.request(final=True), read=job.read_val)
    if not job.team.leader:
        return
    found = replace(found, thresholds=predictor.settings.thresholds)
    try:
        save_bundle(job.run.bundle, _bundle(job, found), job.evaluated)
        write_json(
            job.run.folder / "evaluation.json", {"step": best.step if best else job.position.step, **found.plain()}
        )
    except OSError as error:
        raise RunError(
            f"{job.run.folder}: the bundle cannot be written ({error.strerror}); is the disk full?"
        ) from error
    job.report(f"best weights, step {best.step if best else job.position.step}: {_headline(found)}")
    job.report(f"bundle: {job.run.bundle}")


def _bundle(job: Job, found: Evaluation) -> Bundle:
    config = job.config
    return Bundle(
        task=job.task.name,
        model=ModelSpec(
            config.model.name,
            in_channels=job.data.channels,
            classes=output_classes(config, job.data.space),
            options=resolved_options(config.model.name, config.model.options),
        ),
        space=job.data.space,
        preprocessing=job.preprocessing,
        settings=replace(config.predict, thresholds=found.thresholds, score_threshold=_score_threshold(job)),
        metrics={"split": config.data.val, "images": len(found.images), **found.scores},
        licence=config.licence or job.run.data.get("licence", ""),
        config=to_plain(config),
        notes=tuple(job.model.notes),
    )


def _score_threshold(job: Job) -> float | None:
    asked = job.config.predict.score_threshold
    return SHOWN_SCORE if asked is None and job.task.name == "instance" else asked


def _headline(found: Evaluation) -> str:
    value = found.scores.get(found.metric)
    cuts = ", ".join(f"{value:.3f}" for value in found.thresholds)
    number = "not defined" if value is None else f"{value:.4f}"
    return f"{found.metric} {number} on {len(found.images)} images" + (f", thresholds {cuts}" if cuts else "")
