"""What writing a data set takes and gives, and the parts that every format's writer shares: names, images, refusals."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.data.headers import image_header
from nuriwake.data.nifti_address import slice_address
from nuriwake.data.texts import counted


@dataclass(frozen=True)
class WriteSettings:
    """How samples are written.

    Args:
        split: what the samples are called in the folder: "train", "val", "test".
        images: "copy" puts the images beside the truth: the file they came from, or a PNG (TIFF for what PNG cannot hold);
            "none" writes the truth alone.
        polygons: outlines in place of run lengths, where a format has both; along the edges of pixels, they lose nothing.
        tolerance: pixels that outlines may stray for having fewer points, in formats of one outline or more per object; the
            loss is measured and noted.
        category_ids: of the classes in order, in formats that number them; by default those of the label space, else 1, 2, ...
        regions: the connected regions of label maps are the objects, in formats of objects and segments; else maps of things are
            refused there.
    """

    split: str = "train"
    images: Literal["copy", "none"] = "copy"
    polygons: bool = False
    tolerance: float = 0.0
    category_ids: tuple[int, ...] = ()
    regions: bool = False

    def numbers(self, space: LabelSpace) -> tuple[int, ...]:
        """The category id of every class. Raises UserError when `category_ids` are not as many, or repeat."""
        ids = self.category_ids or space.ids or tuple(range(1, len(space) + 1))
        if len(set(ids)) != len(space):
            raise UserError(f"category_ids: expected {len(space)} different numbers, one per class, found {list(ids)}.")
        return ids


class Written(NamedTuple):
    """The files written, and what the format could not carry or what was changed, as sentences to print."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


Writer = Callable[[Iterable[Sample], Path, LabelSpace, WriteSettings], Written]
"""Samples (with truth, or with predictions as their target) into a folder. Raises UserError."""


class ImageWriter:
    """Names samples and puts their images into one folder.

    Args:
        folder: where images go.
        settings: of the writing.
    """

    def __init__(self, folder: Path, settings: WriteSettings) -> None:
        self.folder, self.settings = folder, settings
        self.files: list[Path] = []
        self._names: set[str] = set()
        self._turned = 0

    def name(self, sample: Sample) -> str:
        """The sample's name without its split in front, unique in this writing; may hold `/`.

        Raises:
            UserError: two samples of one name, or a name that leads out of the folder.
        """
        name = sample.name or (sample.source.stem if sample.source else f"{len(self._names):06d}")
        name = name.removeprefix(f"{self.settings.split}/")
        if name.startswith("/") or ".." in Path(name).parts:
            raise UserError(f"The sample '{name}' cannot be written: its name leads out of the folder.")
        if name in self._names:
            raise UserError(f"Two samples are called '{name}'; names are unique in one split.")
        self._names.add(name)
        return name

    def write(self, sample: Sample, name: str) -> str:
        """Writes the image, where images are wanted; returns its file name, relative to the folder."""
        turned = sample.source is not None and image_header(sample.source).orientation != 1
        sliced = sample.source is not None and slice_address(sample.source) is not None
        if sample.source is not None and not turned and not sliced:
            file = name + sample.source.suffix
        else:
            file = name + (".png" if _fits_png(sample.image) else ".tif")
        if self.settings.images == "none":
            return file if sample.source is None or sliced else name + sample.source.suffix
        path = self.folder / file
        refuse_existing(path)
        with atomic_path(path) as temporary:
            if sample.source is not None and not turned and not sliced:
                shutil.copyfile(sample.source, temporary)
            else:
                _write_image(temporary, sample.image)
        self._turned += turned
        self.files.append(path)
        return file

    @property
    def notes(self) -> list[str]:
        """What happened to images."""
        if not self._turned:
            return []
        return counted_notes(
            {"[image|images] carried an EXIF orientation; [it is|they are] written upright": self._turned}
        )


def refuse_existing(*paths: Path) -> None:
    """Raises UserError where one of `paths` exists, and is more than an empty folder: what is there is never written over."""
    for path in paths:
        if path.is_dir() and not any(path.iterdir()):
            continue
        if path.exists():
            raise UserError(f"{path}: this already exists; choose another folder or split, or move it away.")


def refuse_other_classes(path: Path, found: object, wanted: object) -> None:
    """Raises UserError where the classes `found` in the file `path`, None for no such file, are others than those `wanted`: to be
    asked before the first file of a split is written, so that none is left behind."""
    if found is not None and found != wanted:
        raise UserError(f"{path}: the splits of one folder have one list of classes, and this one has another already.")


def count_note(notes: dict[str, int], text: str) -> None:
    """One more image of which `text` is true: what follows the number, as `counted` has it, without the full stop."""
    notes[text] = notes.get(text, 0) + 1


def counted_notes(notes: Mapping[str, int]) -> list[str]:
    """What `count_note` counted, as sentences."""
    return [f"{number} {counted(text, number)}." for text, number in notes.items()]


def _fits_png(image: np.ndarray) -> bool:
    return image.shape[2] in (1, 3) and image.dtype != np.float32


def _write_image(path: Path, image: np.ndarray) -> None:
    if path.suffix == ".png":
        array = image[..., ::-1] if image.shape[2] == 3 else image
        path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(array))[1].tobytes())
        return
    import tifffile

    plain = image[..., 0] if image.shape[2] == 1 else image
    colours = "rgb" if image.shape[2] == 3 else "minisblack"
    tifffile.imwrite(path, plain, photometric=colours, planarconfig="contig" if plain.ndim == 3 else None)
