"""`nuriwake convert`."""

from pathlib import Path
from typing import Literal


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    format: str | None = None,  # noqa: A002 (the contract's word)
    images: Literal["copy", "none"] = "copy",
    polygons: bool = False,
    tolerance: float = 0.0,
    regions: bool = False,
) -> None:
    """Write a data set in another format, every split; what it cannot carry is said, and what outlines lose is measured.

    Args:
        source: a folder whose format is recognised, or a YAML file that describes the data.
        target: the folder to write; nothing in it is overwritten.
        to: ade20k, cityscapes, coco, coco_panoptic, cvat, geotiff, label_studio, labelme, mask_folder, nifti, voc or yolo.
        format: of the source, where it is not to be recognised.
        images: copy them beside the truth, or none: the truth alone.
        polygons: outlines in place of run lengths, where the format has both.
        tolerance: pixels that outlines may stray for having fewer points.
        regions: of label maps each connected region of a class becomes an object, in formats of objects (coco, yolo, ...).
    """
    from nuriwake.api import convert as convert_data

    notes = convert_data(
        source,
        target,
        to=to,
        format=format,
        images=images,
        polygons=polygons,
        tolerance=tolerance,
        regions=regions,
        say=print,
    )
    for note in notes:
        print(note)
