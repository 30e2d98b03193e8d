"""DataDescription: what a YAML file may say about a data set when it cannot be guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from nuriwake.core.errors import UserError
from nuriwake.core.serial import from_plain
from nuriwake.data.dataset import DataSet
from nuriwake.data.texts import read_text
from nuriwake.data.written import Writer


@dataclass(frozen=True)
class DataDescription:
    """The fields of the YAML file; every one may be left out.

    Args:
        root: the folder of the data, relative to the YAML file; by default the folder of the YAML file.
        format: a name in `FORMATS`; by default recognised.
        classes: class names; class i has label i unless `values` or `colours` say otherwise.
        images, masks: the folders, relative to `root`.
        annotations: the annotation file, or split name -> annotation file, relative to `root` (COCO and its kind).
        mask_suffix: what mask names have more than image names ("_mask"); by default recognised.
        ignore: raw mask values that count nowhere; by default 255 in masks that do not use it otherwise.
        values: raw mask value -> class name, or "ignore" ({0: background, 255: membrane}).
        colours: class name, or "ignore" -> RGB of RGB-coded masks.
        instance_ids: mask values number objects (0 is none of them); by default recognised in masks of 16 bits.
        threshold: masks are grey pictures: from this value on it is foreground (two classes; of `multi_label` masks yes).
        things: names of the classes that are countable objects.
        class_property: the property of GeoJSON polygons that names their class; by default "class" or one like it.
        splits: split name -> names, or patterns ("a_*"), or one text file of names, relative to `root`.
        unpaired: what to do with images without a mask and masks without an image.
        multi_label: masks/<class>/<name>.png, one yes-or-no mask per class; by default recognised.
        spacing: the size of a pixel, (height, width).
        slice_axis: across which volumes are cut: 0, 1 or 2 (to the patient's right, anterior, superior).
        val_share, seed: of the split that is made when none is given; by default those of `open_data`.
    """

    root: Path | None = None
    format: str | None = None
    classes: tuple[str, ...] = ()
    images: str | None = None
    masks: str | None = None
    annotations: Mapping[str, str] | str | None = None
    mask_suffix: str | None = None
    ignore: int | tuple[int, ...] | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    instance_ids: bool | None = None
    threshold: int | None = None
    things: tuple[str, ...] = ()
    class_property: str | None = None
    splits: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    unpaired: Literal["refuse", "skip"] = "refuse"
    multi_label: bool = False
    spacing: tuple[float, float] = (1.0, 1.0)
    slice_axis: Literal[0, 1, 2] | None = None
    val_share: float | None = None
    seed: int | None = None

    @property
    def ignored(self) -> tuple[int, ...] | None:
        """The raw values that count nowhere; None when the description does not say."""
        return (self.ignore,) if isinstance(self.ignore, int) else self.ignore


def _in_split(name: str, image: Path, split: str) -> str:
    del image
    return f"{split}/{name}"


class Format(NamedTuple):
    """One entry of `FORMATS`: how a layout on disk is recognised and opened."""

    recognise: Callable[[Path], str | None]
    """Why the folder looks like this format, as the end of "because ...", or None when it does not. Must be quick."""

    open: Callable[[Path, DataDescription], DataSet]
    """The data set in the folder. Raises UserError."""

    write: Writer | None = None
    """Samples into a folder; None where the format is only read."""

    holds: Literal["anything", "objects", "segments", "classes"] = "anything"
    """What it has of a sample and nothing else: objects one by one, one segment or one class for every pixel."""

    keeps_colours: bool = False
    """The colours of classes are in what is written, or it has colours of its own."""

    taken: Callable[[Path, str], tuple[Path, ...]] | None = None
    """What a split has for itself in the folder: none of it may be there when the split is written."""

    truth_file: Callable[[str, Path, str], str] = _in_split
    """What (a sample's name without its split, its image file, the split) is written as, below the folder: two samples share it
    only where they are slices of one volume."""


def refuse_fields(description: DataDescription, format: str, *meant: str) -> None:  # noqa: A002 (the contract's word)
    """Raises UserError for a field that is filled in but means nothing in this format; those of `meant` and the usual do."""
    usual = {"root", "format", "splits", "unpaired", "spacing", "val_share", "seed"}
    default = DataDescription()
    for item in fields(description):
        if item.name not in usual and item.name not in meant:
            value = getattr(description, item.name)
            if value != getattr(default, item.name):
                raise UserError(
                    f"The field '{item.name}' of the description means nothing in the format '{format}'; take it out. "
                    f"Beside the usual ones it knows {', '.join(meant) or 'none'}."
                )


def read_description(path: Path) -> DataDescription:
    """The description in the YAML file `path`; its `root` is made absolute.

    Raises:
        UserError: no YAML, an unknown field (the nearest is named), or a value of another type.
    """
    try:
        plain: Any = yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    try:
        read: DataDescription = from_plain(DataDescription, plain)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    root = Path(read.root or ".").expanduser()
    return from_plain(DataDescription, {**vars(read), "root": (path.parent / root).resolve()})
