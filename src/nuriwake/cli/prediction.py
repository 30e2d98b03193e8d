"""From image files to files of predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json
from nuriwake.core.labels import LabelSpace
from nuriwake.core.serial import to_plain
from nuriwake.core.targets import SemanticMap, label_files
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.images import read_image
from nuriwake.engine.progress import Bar
from nuriwake.inference.predictor import Predictor


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files under `paths`: name of the prediction (relative, without suffix) -> file, sorted.

    Raises:
        UserError: nothing given, a path that does not exist, a folder without images, or two images of one name.
    """
    if not paths:
        raise UserError("Give at least one image or folder to predict.")
    found: dict[str, Path] = {}
    for path in paths:
        for file, name in _listed(path):
            if name in found:
                raise UserError(
                    f"{found[name]} and {file} would both be saved as '{name}'; predict them into two folders."
                )
            found[name] = file
    return dict(sorted(found.items()))


def predict_files(predictor: Predictor, images: Mapping[str, Path], *, out: Path, overlay: bool, source: Path) -> int:
    """Predict every image; write `NAME.png`, `NAME.overlay.jpg` and, last, `predictions.json` into `out`.

    Raises:
        UserError: a result would overwrite an image (nothing is predicted then), or an image cannot be read or does not
            suit the model; what was predicted before it stays, and predictions.json lists it.
    """
    _refuse_overwriting(images, out, predictor.space)
    entries: list[dict[str, Any]] = []
    try:
        with Bar(shown=True) as bar:
            for number, (name, file) in enumerate(images.items()):
                bar.show(number / len(images), file.name, doing="predict")
                entries.append(_predict_file(predictor, file, out / name, overlay=overlay, out=out))
    finally:
        if entries:
            about = {"model": str(source), "classes": to_plain(predictor.space), "images": entries}
            write_json(out / "predictions.json", about)
    return len(entries)


def _refuse_overwriting(images: Mapping[str, Path], out: Path, space: LabelSpace) -> None:
    given = {file.resolve() for file in images.values()}
    for name in images:
        labels = out / f"{name}.png"
        for target in (*label_files(labels, space), out / f"{name}.overlay.jpg"):
            if target.resolve() in given:
                raise UserError(
                    f"{target}: the prediction would overwrite this image; choose another folder with --out."
                )


def _listed(path: Path) -> list[tuple[Path, str]]:
    if path.is_file():
        return [(path, path.stem)]
    if not path.is_dir():
        raise UserError(f"{path}: there is no such file or folder.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{path}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))}).")
    return [(file, file.relative_to(path).with_suffix("").as_posix()) for file in files]


def _predict_file(predictor: Predictor, file: Path, target: Path, *, overlay: bool, out: Path) -> dict[str, Any]:
    image = predictor.preprocessing.checked(read_image(file), str(file))  # so that a refusal names the file
    prediction = predictor(image)
    files = prediction.save(target.with_name(f"{target.name}.png"))
    entry: dict[str, Any] = {
        "image": str(file),
        "size": list(prediction.size),
        "labels": [path.relative_to(out).as_posix() for path in files],
    }
    if overlay:
        picture = target.with_name(f"{target.name}.overlay.jpg")
        with atomic_path(picture) as temporary:
            Image.fromarray(prediction.overlay(image)).save(temporary, format="JPEG", quality=92)
        entry["overlay"] = picture.relative_to(out).as_posix()
    return {**entry, "classes": _class_shares(prediction)}


def _class_shares(prediction: SemanticMap) -> dict[str, dict[str, Any]]:
    """Class name -> pixels, regions (8-connected) and mean score, for the classes that occur."""
    out: dict[str, dict[str, Any]] = {}
    space = prediction.space
    for label, name in enumerate(space.names):
        where = prediction.labels == label if space.exclusive else prediction.labels[..., label] == 1
        if not where.any():
            continue
        scores = prediction.scores
        chosen = None if scores is None else scores if space.exclusive else scores[..., label]
        regions = cv2.connectedComponents(where.astype(np.uint8), connectivity=8)[0] - 1
        mean = None if chosen is None else round(float(chosen[where].mean()), 4)
        out[name] = {"pixels": int(where.sum()), "regions": regions, "mean_score": mean}
    return out
