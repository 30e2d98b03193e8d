"""`nuriwake predict`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nuriwake.cli.options import NO_SETTINGS, SettingsFields, settings_changes


def predict(
    run: Path,
    *images: Path,
    out: Path,
    settings: Path | None = None,
    overlay: bool = True,
    to: str | None = None,
    task: str | None = None,
    device: str = "auto",
    fields: Annotated[SettingsFields, Parameter(name="*")] = NO_SETTINGS,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Predict images: a label PNG and an overlay per image, and predictions.json; of objects coco_results.json too.

    Args:
        run: a run folder or a bundle file.
        images: files, or folders that are searched for images with their subfolders.
        out: the folder for the results.
        settings: a YAML file with fields of the settings; the bundle's count below it, options typed here above it.
        overlay: write the picture with the prediction painted over it, too.
        to: a data format (nuriwake convert --help) in which the predictions are written as well, such as coco or labelme, so
            that an annotation tool opens them as a first draft.
        task: semantic, instance or panoptic, where the model answers more than what it was trained for.
        device: auto, cpu, cuda or cuda:N.
        fields: of the settings.
    """
    from nuriwake.api import load
    from nuriwake.cli.prediction import Wanted, find_images, predict_files

    predictor = load(run, device=device, task=task, settings=settings_changes(settings, fields))
    count, notes = predict_files(predictor, find_images(images), Wanted(out, overlay, to, run))
    for note in notes:
        print(note)
    print(f"{count} {'image' if count == 1 else 'images'} -> {out}")
