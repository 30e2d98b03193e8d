"""`nuriwake predict`."""

from pathlib import Path
from typing import Annotated, Literal

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
    slice_axis: Literal[0, 1, 2] | None = None,
    device: str = "auto",
    fields: Annotated[SettingsFields, Parameter(name="*")] = NO_SETTINGS,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Predict images: a label PNG and an overlay per image, and predictions.json; of objects coco_results.json too.

    A NIfTI volume is predicted slice by slice and becomes NAME.nii.gz, a label volume in the same place.

    Args:
        run: a run folder or a bundle file.
        images: files, or folders that are searched for images and NIfTI volumes with their subfolders; what a
            predictions.json there names as written by predict is left out, unless it is given by name.
        out: the folder for the results.
        settings: a YAML file with fields of the settings; the bundle's count below it, options typed here above it.
        overlay: write the picture with the prediction painted over it, too.
        to: a data format (nuriwake convert --help) in which the predictions are written as well, such as coco or labelme, so
            that an annotation tool opens them as a first draft (geotiff: GeoJSON polygons beside the masks); of a semantic model the connected regions are the objects there.
        task: semantic, instance or panoptic, where the model answers more than what it was trained for.
        slice_axis: across which volumes are cut: 0, 1 or 2 (to the patient's right, anterior, superior); by default the axis with
            the coarsest spacing, as when training.
        device: auto, cpu, cuda or cuda:N.
        fields: of the settings.
    """
    from nuriwake.api import load
    from nuriwake.cli.finding import find_images
    from nuriwake.cli.prediction import Wanted, predict_files

    predictor = load(run, device=device, task=task, settings=settings_changes(settings, fields))
    wanted = Wanted(out, overlay, to, run, slice_axis)
    found = find_images(images, channels=predictor.preprocessing.channels)
    count, notes = predict_files(predictor, found.files, wanted)
    for note in (*found.notes, *notes):
        print(note)
    print(f"{count} {'image' if count == 1 else 'images'} -> {out}")
