"""Which data set an annotation file belongs to, and in which format: told by its content, for training and for the check alike."""

from pathlib import Path
from typing import NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.data.assembly import split_name
from nuriwake.data.coco_files import content
from nuriwake.data.layout import IMAGE_FOLDERS

ANNOTATION_SUFFIXES = (".json", ".geojson", ".xml")

_HEAD = 1 << 20


class AnnotationPlace(NamedTuple):
    """Where the data set of an annotation file lies.

    Args:
        root: its folder.
        format: its name in `FORMATS`; None leaves it to the folder.
        alone: this file is all of its annotations; else the file is one of many, and all are read.
        notes: to print.
    """

    root: Path
    format: str
    alone: bool = True
    notes: tuple[str, ...] = ()


def place_of_annotations(path: Path, format: str | None = None) -> AnnotationPlace:  # noqa: A002 (the contract's word)
    """The data set that the file at `path` belongs to; `format` where it is not to be recognised.

    Raises:
        UserError: the file holds no annotations that are known.
    """
    if path.suffix.lower() == ".geojson":
        return _of_polygons(path)
    root = _home(path)
    format = format or format_of_annotations(path, root)  # noqa: A001
    if format not in ("labelme", "nifti"):
        return AnnotationPlace(root, format)
    within = [parent for parent in path.parents if split_name(parent.name) is not None]
    root = within[0].parent if within and format == "labelme" else path.parent
    return AnnotationPlace(root, format, False, _whole(path, root) if format == "labelme" else ())


def format_of_annotations(path: Path, root: Path) -> str:
    """The format of the file at `path` of the data set at `root`. Raises UserError where it is none that is known."""
    if path.suffix.lower() == ".geojson":
        return "geotiff"
    kind = content(path)
    if kind is not None:
        # Cityscapes' panoptic files are COCO's, but for the images' names in them.
        return "cityscapes" if kind == "panoptic" and (root / "leftImg8bit").is_dir() else _COCO[kind]
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    for name, (start, words) in _SIGNS.items():
        if head.startswith(start) and all(any(word in head for word in either) for either in words):
            return name
    raise UserError(
        f"{path}: this is no annotation file of a known kind: it holds neither 'segmentation' nor 'segments_info' (COCO), nor "
        "'shapes' (LabelMe), nor tasks with 'annotations' (Label Studio), nor <annotations> of version 1.1 (CVAT)."
    )


_COCO = {"instances": "coco", "panoptic": "coco_panoptic"}
_SIGNS: dict[str, tuple[bytes, tuple[tuple[bytes, ...], ...]]] = {
    "labelme": (b"{", ((b'"shapes"', b'"imagePath"'),)),
    "label_studio": (b"[", ((b'"annotations"',), (b'"data"', b'"result"'))),
    "cvat": (b"<", ((b"<annotations>",), (b"<version>1.1",))),
    "nifti": (b"{", ((b'"labels"',), (b'"channel_names"', b'"modality"'))),
}
"""Format -> what its files begin with, and words of which one of each group is in them."""


def _home(path: Path) -> Path:
    """The folder of the data set that the annotation file `path` belongs to."""
    above = path.parent.parent
    cityscapes = path.stem.startswith("cityscapes_panoptic_") and (above / "leftImg8bit").is_dir()
    return above if cityscapes or path.parent.name.lower() == "annotations" else path.parent


def _of_polygons(path: Path) -> AnnotationPlace:
    """GeoJSON beside the folder of images is that of all of them; below another folder it is the file of one image."""
    root = next(
        (home for home in path.parents[:4] if any((home / name).is_dir() for name in IMAGE_FOLDERS)), path.parent
    )
    alone = root == path.parent
    return AnnotationPlace(root, "geotiff", alone, () if alone else _whole(path, root))


def _whole(path: Path, root: Path) -> tuple[str, ...]:
    return (f"{path.name} is the file of one image; all of {root.name or root}/ is read.",)
