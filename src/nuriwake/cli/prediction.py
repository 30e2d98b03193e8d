"""From image files to files of predictions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nuriwake.cli.answers import keep
from nuriwake.cli.earlier import LISTING, OTHERS, earlier_predictions, entry_files
from nuriwake.cli.volumes import VolumeWanted, predict_volume, volume_note
from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.serial import to_plain
from nuriwake.core.targets import SemanticMap, Target, label_files
from nuriwake.data.coco_ids import ImageIds, image_ids
from nuriwake.data.coco_write import ResultKind, coco_results
from nuriwake.data.images import read_image
from nuriwake.data.layout import visible_files
from nuriwake.data.nifti_address import volume_name
from nuriwake.data.writing import refuse_unsuitable, write_data
from nuriwake.data.written import WriteSettings
from nuriwake.engine.progress import Bar
from nuriwake.inference.predictor import Predictor

ANSWERS: Mapping[str, type[Target]] = {"semantic": SemanticMap, "instance": Instances, "panoptic": Panoptic}
"""Task -> the type of what a predictor answers."""

RESULTS: Mapping[ResultKind, str] = {"mask": "coco_results.json", "box": "coco_results_boxes.json"}
"""The files of COCO's format for detections."""


@dataclass(frozen=True)
class Wanted:
    """What `predict_files` writes.

    Attributes:
        out: the folder.
        overlay: a picture with the prediction over the image, too.
        to: a format in `FORMATS` in which the predictions are written as well, for other programs; None for none.
        source: of the model, named in predictions.json.
        slice_axis: across which volumes are cut; None takes the axis with the coarsest spacing.
    """

    out: Path
    overlay: bool
    to: str | None
    source: Path
    slice_axis: int | None = None


def predict_files(predictor: Predictor, images: Mapping[str, Path], wanted: Wanted) -> tuple[int, tuple[str, ...]]:
    """Predict every image; write `NAME.png`, `NAME.overlay.jpg` and, last, `predictions.json` into the folder, for objects
    the files in `RESULTS` too, and in `to/` what another format holds of them. A volume becomes `NAME.nii.gz`.

    Predictions of other images that the folder holds stay, and stay listed. All labels and pictures that are written are
    listed, relative to the folder, and those of earlier calls as long as they are there: none of them is taken for an image.

    Returns:
        The number of images, what the other format could not carry, and what was made of volumes.

    Raises:
        UserError: a result would overwrite an image or a file that is no earlier prediction, earlier ones cannot be listed beside
            the new ones, or the format cannot hold such answers (nothing is predicted then); an image cannot be read or does
            not suit the model: what was predicted before it stays, and predictions.json lists it.
    """
    _refuse_overwriting(images, wanted.out, predictor)
    settings = WriteSettings(split="test", regions=predictor.task == "semantic")
    if wanted.to is not None:
        channels = predictor.preprocessing.channels
        refuse_unsuitable(wanted.to, ANSWERS[predictor.task], predictor.answers, channels=channels, settings=settings)
    entries: list[dict[str, Any]] = []
    results: dict[ResultKind, list[dict[str, Any]]] = {kind: [] for kind in RESULTS}
    notes: tuple[str, ...] = ()
    told: list[str] = []
    ids = image_ids(images) if predictor.task == "instance" else None
    about: dict[str, Any] = {"model": str(wanted.source), "classes": to_plain(predictor.answers)}
    earlier = earlier_predictions(
        wanted.out,
        [path for name, file in images.items() for path in _label_files(wanted.out, name, file, predictor)],
        about=about,
        ids=[] if ids is None else ids.numbers,
        results=list(RESULTS.values()),
    )
    # Of these files no entry tells, or only once a volume is done.
    apart = [wanted.out / f"{name}.slices" for name, file in images.items() if volume_name(file) is not None]
    apart += [wanted.out / wanted.to] if wanted.to is not None else []
    before = _files_in(apart)
    samples = _predicted(predictor, images, wanted, ids=ids, entries=entries, results=results, told=told)
    try:
        if wanted.to is None:
            for _ in samples:
                pass
        else:
            notes = write_data(
                samples, wanted.out / wanted.to, format=wanted.to, space=predictor.answers, settings=settings
            ).notes
    finally:
        written = {file.relative_to(wanted.out).as_posix() for file in _files_in(apart) - before}
        if entries or written:
            about |= _numbering(predictor, ids) if ids is not None else {}
            about["images"] = [*earlier.entries, *entries]
            others = {*earlier.files, *written} - {name for entry in about["images"] for name in entry_files(entry)}
            write_json(wanted.out / LISTING, {**about, **({OTHERS: sorted(others)} if others else {})})
        if ids is not None and entries:
            for kind, rows in results.items():
                write_json(wanted.out / RESULTS[kind], [*earlier.rows.get(RESULTS[kind], ()), *rows])
            told.append(
                f"{', '.join(RESULTS.values())}: {'; '.join(_numbering(predictor, ids)['coco_results'].values())}."
            )
    return len(entries), (*notes, *told)


def _predicted(
    predictor: Predictor,
    images: Mapping[str, Path],
    wanted: Wanted,
    *,
    ids: ImageIds | None,
    entries: list[dict[str, Any]],
    results: Mapping[ResultKind, list[dict[str, Any]]],
    told: list[str],
) -> Iterator[Sample]:
    """Image by image, written and listed in `entries` and `results` before it is handed on; volumes slice by slice."""
    categories = category_ids(predictor.answers)
    numbers = list(range(len(images))) if ids is None else ids.numbers
    with Bar(shown=True) as bar:
        for index, (name, file) in enumerate(images.items()):
            bar.show(index / len(images), file.name, doing="predict")
            if volume_name(file) is not None:
                place = VolumeWanted(
                    wanted.out,
                    wanted.overlay,
                    wanted.slice_axis,
                    lambda part, done=index, title=file.name: bar.show(
                        (done + part) / len(images), title, doing="predict"
                    ),
                )
                answer: dict[str, Any] = {}
                yield from predict_volume(predictor, file, name, wanted=place, entry=answer)
                entries.append(answer)
                told.append(volume_note(file, answer, objects=predictor.task != "semantic"))
                continue
            image = predictor.preprocessing.checked(read_image(file), str(file))  # so that a refusal names the file
            prediction = predictor(image)
            entry = _write_one(prediction, image, file, wanted.out / name, wanted)
            if isinstance(prediction, Instances):
                entry = {"image_id": numbers[index], **entry}
                for kind, rows in results.items():
                    rows += coco_results([(numbers[index], prediction)], categories, of=kind)
            entries.append(entry)
            yield Sample(image, prediction, name=name, source=file)


def category_ids(space: LabelSpace) -> dict[str, int]:
    """Class name -> the category id that the data set had for it; 1, 2, ... where it had none."""
    return dict(zip(space.names, space.ids or range(1, len(space) + 1), strict=True))


def _numbering(predictor: Predictor, ids: ImageIds) -> dict[str, dict[str, Any]]:
    """What predictions.json says of the files of results."""
    space, least = predictor.answers, predictor.settings.score_threshold
    origin = "those of the data that the model was trained on" if space.ids else "1, 2, ... in the order of the classes"
    told = {"image_ids": f"image ids are {ids.origin}", "category_ids": f"category ids are {origin}"}
    if least:
        told["scores"] = f"scores are {least:g} and more; average precision needs all of them (--score-threshold 0)"
    return {"category_ids": category_ids(space), "coco_results": told}


def _refuse_overwriting(images: Mapping[str, Path], out: Path, predictor: Predictor) -> None:
    given = {file.resolve() for file in images.values()}
    for name, file in images.items():
        for target in (*_label_files(out, name, file, predictor), out / f"{name}.overlay.jpg"):
            if target.resolve() in given:
                raise UserError(
                    f"{target}: the prediction would overwrite this image; choose another folder with --out."
                )


def _files_in(folders: Sequence[Path]) -> set[Path]:
    return {Path(parent) / name for folder in folders for parent, names in visible_files(folder) for name in names}


def _label_files(out: Path, name: str, file: Path, predictor: Predictor) -> list[Path]:
    """What is written of the labels of an image or a volume."""
    volume = volume_name(file) is not None
    segments = [out / f"{name}.json"] if predictor.task == "panoptic" and not volume else []
    return [*label_files(out / f"{name}{'.nii.gz' if volume else '.png'}", predictor.answers), *segments]


def _write_one(prediction: Target, image: np.ndarray, file: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    files, details = keep(prediction, target.with_name(f"{target.name}.png"))
    entry: dict[str, Any] = {
        "image": str(file),
        "size": list(prediction.size),
        "labels": [path.relative_to(wanted.out).as_posix() for path in files],
    }
    if wanted.overlay:
        picture = target.with_name(f"{target.name}.overlay.jpg")
        with atomic_path(picture) as temporary:
            Image.fromarray(prediction.overlay(image)).save(temporary, format="JPEG", quality=92)
        entry["overlay"] = picture.relative_to(wanted.out).as_posix()
    return {**entry, **details}
