"""Which format a folder is in, and opening it. A new format is one file and one line in `FORMATS`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import lookup
from nuriwake.data.annotation_files import ANNOTATION_SUFFIXES, format_of_annotations, place_of_annotations
from nuriwake.data.dataset import DataSet
from nuriwake.data.description import DataDescription, Format, read_description
from nuriwake.data.yolo import is_yolo_yaml

FORMATS: dict[str, str] = {
    "ade20k": "nuriwake.data.ade20k:FORMAT",
    "cityscapes": "nuriwake.data.cityscapes:FORMAT",
    "coco": "nuriwake.data.coco:FORMAT",
    "coco_panoptic": "nuriwake.data.coco_panoptic:FORMAT",
    "cvat": "nuriwake.data.cvat:FORMAT",
    "geotiff": "nuriwake.data.geotiff:FORMAT",
    "labelme": "nuriwake.data.labelme:FORMAT",
    "label_studio": "nuriwake.data.label_studio:FORMAT",
    "mask_folder": "nuriwake.data.mask_folder:FORMAT",
    "nifti": "nuriwake.data.nifti:FORMAT",
    "voc": "nuriwake.data.voc:FORMAT",
    "yolo": "nuriwake.data.yolo:FORMAT",
}
"""Format name -> its `Format`."""


def open_data(
    path: Path | str,
    *,
    format: str | None = None,  # noqa: A002 (the contract's word)
    val_share: float = 0.2,
    seed: int = 0,
) -> DataSet:
    """The data set at `path`: a folder or an annotation file (.json, .geojson, .xml), whose format is recognised, or a YAML file.

    What the YAML file may say is in `DataDescription`.

    Args:
        format: a name in `FORMATS`, where it is not to be recognised.
        val_share, seed: of the split that is made where none is given.

    Raises:
        UserError: nothing there, no format fits or more than one, or the format's own complaints.
    """
    path = Path(path)
    home = find_home(path, format)
    try:
        data = _format(home.format).open(home.root, _complete(home.description, val_share, seed))
    except UserError as error:
        if not path.is_file() or str(home.root) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    return replace(data, notes=(*home.notes, *data.notes)) if home.notes else data


class Home(NamedTuple):
    """What a path that stands for a data set means: its folder, what is said of it, its format, and notes to print."""

    root: Path
    description: DataDescription
    format: str
    notes: tuple[str, ...] = ()


def find_home(path: Path, format: str | None = None) -> Home:  # noqa: A002
    """Folder and format of the data set at `path`, which nothing is read of but what tells them.

    Raises:
        UserError: nothing there, a YAML description that is wrong, no format fits or more than one.
    """
    description, notes, told = DataDescription(), (), format
    root = path
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix in (".yaml", ".yml") and is_yolo_yaml(path):
        root, told = path.parent, format or "yolo"
    elif suffix in (".yaml", ".yml"):
        description = read_description(path)
        root, told = description.root or path.parent, format or description.format
    elif suffix in ANNOTATION_SUFFIXES:
        place = place_of_annotations(path, format)
        root, notes = place.root, place.notes
        if place.alone:
            description = replace(description, annotations=path.relative_to(root).as_posix())
        told = format or place.format
    if not root.exists():
        raise UserError(f"{root}: there is no such folder.")
    if not root.is_dir():
        raise UserError(
            f"{root}: a data set is a folder, a YAML file (.yaml) or an annotation file (.json, .geojson, .xml), found another file."
        )
    return Home(root, description, told or _recognised(root, description), notes)


def recognise(root: Path) -> dict[str, str]:
    """Every format that fits the folder `root`: name -> the reason, as the end of "because ..."."""
    reasons = {name: _format(name).recognise(root) for name in FORMATS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _recognised(root: Path, description: DataDescription) -> str:
    if str(description.annotations).endswith(".geojson"):
        return "geotiff"
    if description.annotations is not None:
        return _by_annotations(root, description)
    fitting = recognise(root)
    if not fitting and description.images and description.masks:
        return "mask_folder"  # folders of any name, given in the description
    if not fitting:
        _refuse_cut_json(root)
        raise UserError(_nothing_fits(root))
    if len(fitting) > 1:
        reasons = "; ".join(f"'{name}' because {reason}" for name, reason in fitting.items())
        raise UserError(
            f"{root}: more than one format fits: {reasons}. Choose one: --format NAME on the command line, format=NAME in "
            "Python, 'format: NAME' in a YAML file; or give the annotation file itself."
        )
    return next(iter(fitting))


def _by_annotations(root: Path, description: DataDescription) -> str:
    given = description.annotations
    first = next(iter(given.values()), "") if isinstance(given, Mapping) else given or ""
    path = root / first
    path = next(iter(sorted(path.glob("*.json"))), path) if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: this is no annotation file: there is no such file.")
    return format_of_annotations(path, root)


def _refuse_cut_json(root: Path) -> None:
    """Raises UserError where annotations end in the middle: what would tell their format may be missing."""
    for path in sorted([*root.glob("*.json"), *root.glob("annotations/*.json")]):
        size = path.stat().st_size
        with path.open("rb") as stream:
            stream.seek(max(0, size - 256))
            end = stream.read().strip()
        if end[-1:] not in (b"}", b"]"):
            raise UserError(
                f"{path}: the file is cut off: after {size:,} bytes it ends in the middle of its JSON, without a closing "
                "bracket; get the whole file again."
            )


def _nothing_fits(root: Path) -> str:
    children = sorted(child.name + "/" * child.is_dir() for child in root.iterdir() if not child.name.startswith("."))
    if not children:
        return f"{root}: the folder is empty; expected images/ and masks/, or another format of {', '.join(FORMATS)}."
    more = f" and {len(children) - 8} more" if len(children) > 8 else ""
    return (
        f"{root}: no format fits what is in it ({', '.join(children[:8])}{more}); expected images/ and masks/ (with or "
        f"without train/ and val/), or another format of {', '.join(FORMATS)}. A YAML file with the fields 'images' and "
        "'masks' can name other folders."
    )


def _format(name: str) -> Format:
    return lookup(name, FORMATS, "format")


def _complete(description: DataDescription, val_share: float, seed: int) -> DataDescription:
    return replace(
        description,
        val_share=val_share if description.val_share is None else description.val_share,
        seed=seed if description.seed is None else description.seed,
    )
