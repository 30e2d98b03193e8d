"""`nuriwake predict`."""

from pathlib import Path
from typing import Literal


def predict(
    run: Path,
    *images: Path,
    out: Path,
    tile: int | None = None,
    flips: Literal["none", "horizontal", "all"] | None = None,
    scales: tuple[float, ...] | None = None,
    overlay: bool = True,
    device: str = "auto",
) -> None:
    """Predict images: a label PNG and an overlay per image, and predictions.json.

    Args:
        run: a run folder or a bundle file.
        images: files, or folders that are searched for images with their subfolders.
        out: the folder for the results.
        tile: images with a longer side are taken in overlapping tiles of this many pixels; 0 never.
        flips: mirrored copies that are averaged: none, horizontal or all.
        scales: sizes whose predictions are averaged, such as 0.75 1 1.25.
        overlay: write the picture with the classes painted over it, too.
        device: auto, cpu, cuda or cuda:N.
    """
    from nuriwake.api import load
    from nuriwake.cli.prediction import find_images, predict_files, with_options

    predictor = load(run, device=device)
    predictor = predictor.with_settings(with_options(predictor.settings, tile=tile, flips=flips, scales=scales))
    count = predict_files(predictor, find_images(images), out=out, overlay=overlay, source=run)
    print(f"{count} images -> {out}")
