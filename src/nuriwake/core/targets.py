"""Targets: what is true, or predicted, of an image. The same type for truth and for prediction."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, IGNORE_COLOUR, Colour, LabelSpace
from nuriwake.core.lookup import import_object
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.size import Size

__all__ = [
    "Instances",
    "Panoptic",
    "SemanticMap",
    "Size",
    "Target",
    "label_files",
    "unknown_labels",
    "write_palette_png",
]


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """A class for every pixel.

    Args:
        labels: uint8. Exclusive space: (H, W), values 0..len(space)-1 or `IGNORE`.
            Multi-label space: (H, W, len(space)), values 0, 1 or `IGNORE` in each layer.
        space: what the numbers mean.
        scores: how sure the model was, float32 in 0..1: (H, W) of the chosen class, or (H, W, len(space)) when
            multi-label; None for truth.

    Raises:
        UserError: wrong dtype, shape or values; the message says what was expected and found.
    """

    labels: np.ndarray
    space: LabelSpace
    scores: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        labels, space = self.labels, self.space
        if labels.dtype != np.uint8:
            raise UserError(f"A label map is uint8, found {labels.dtype}.")
        expected = "(H, W)" if space.exclusive else f"(H, W, {len(space)})"
        if labels.ndim != (2 if space.exclusive else 3) or (not space.exclusive and labels.shape[2] != len(space)):
            raise UserError(f"A label map of this label space has the shape {expected}, found {labels.shape}.")
        highest = len(space) - 1 if space.exclusive else 1
        bad = unknown_labels(labels, highest)
        if bad:
            raise UserError(
                f"Labels go from 0 to {highest} ({len(space)} classes) or are {IGNORE} (ignore); found {_some(bad)}."
            )
        if self.scores is not None and (self.scores.dtype != np.float32 or self.scores.shape != labels.shape):
            raise UserError(
                f"Scores are float32 of the labels' shape {labels.shape}, found {self.scores.dtype} {self.scores.shape}."
            )

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write the labels as 8-bit palette PNG, atomically; the palette holds the colours of the label space.

        A multi-label map becomes one PNG per class, `folder/<class>/name.png`, with the values 0, 1 and `IGNORE`: the layout
        in which masks of such data are read.

        Returns:
            The files written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: label maps are saved as PNG; give a name that ends with .png.")
        files = label_files(path, self.space)
        if self.space.exclusive:
            return (write_palette_png(files[0], self.labels, self.space.colours),)
        layers = zip(files, np.moveaxis(self.labels, 2, 0), self.space.colours, strict=True)
        return tuple(write_palette_png(file, layer, ((0, 0, 0), colour)) for file, layer, colour in layers)

    def overlay(self, image: np.ndarray | Image.Image, *, opacity: float = 0.5, legend: bool = True) -> np.ndarray:
        """`image`, an array (H, W) or (H, W, C) or a Pillow image, with this map painted over it: uint8 RGB (H, W, 3). See `nuriwake.viz.overlay.overlay`."""
        # A convenience for users: the drawing itself lives upstairs and is reached by name, only when called.
        return import_object("nuriwake.viz.overlay:overlay")(image, self, opacity=opacity, legend=legend)


def label_files(path: Path, space: LabelSpace) -> tuple[Path, ...]:
    """The files that `SemanticMap.save(path)` writes for a map of `space`."""
    if space.exclusive:
        return (path,)
    # A class name comes from a file: it must not lead out of the folder.
    folders = [name.replace("/", "_").lstrip(".") or "_" for name in space.names]
    if len({folder.casefold() for folder in folders}) < len(folders):
        # "a/b" and "a_b", or "A" and "a" on disks that take them for one.
        folders = [f"{label}_{folder}" for label, folder in enumerate(folders)]
    return tuple(path.parent / folder / path.name for folder in folders)


def write_palette_png(path: Path, labels: np.ndarray, colours: tuple[Colour, ...]) -> Path:
    """Write `labels` (H, W) uint8 as palette PNG, atomically: label i is shown as `colours[i]`, `IGNORE` as its own."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = IGNORE_COLOUR
    picture = Image.fromarray(np.ascontiguousarray(labels), mode="L")
    picture.putpalette(table.tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def unknown_labels(labels: np.ndarray, highest: int) -> list[int]:
    """The values in `labels` (uint8, any shape) that are neither 0..highest nor `IGNORE`, ascending."""
    # Adding 1 wraps IGNORE to 0: one cheap maximum settles the usual case, on the path of every training sample.
    if labels.size == 0 or int((labels + np.uint8(1)).max()) <= highest + 1:
        return []
    return [value for value in np.flatnonzero(value_counts(labels)).tolist() if value > highest and value != IGNORE]


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


Target = SemanticMap | Instances | Panoptic
"""What is true, or predicted, of an image."""
