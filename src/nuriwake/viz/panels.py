"""Panels: image, truth, prediction and difference side by side, with the figures of that picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from nuriwake.core.geometry import resize_array
from nuriwake.core.instances import Instances
from nuriwake.core.labels import Colour
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Size, Target
from nuriwake.viz.difference import difference_kinds, difference_picture, kind_entries, picture_scores
from nuriwake.viz.display import display_image
from nuriwake.viz.fonts import draw_text, line_height, shorten
from nuriwake.viz.legend import INK, PAPER, Entry, legend_strip
from nuriwake.viz.matches import masks_of, match_entries, match_line, match_objects, match_picture
from nuriwake.viz.objects import draw_objects
from nuriwake.viz.overlay import background_label, class_entries, overlay

MUTED: Colour = (95, 95, 95)
_GAP = 8
_TEXT = 15  # pixels


@dataclass(frozen=True, eq=False)
class Tiles:
    """The pictures of one sample at one size, and what is written about them.

    Args:
        pictures: title ("Image", "Truth", "Prediction", "Difference") -> uint8 RGB (h, w, 3).
        entries: legend of the classes in truth or prediction, then of the difference.
        figures: one line, for instance "Dice 0.934 · IoU 0.876 · intersection 812 of union 927 px"; empty without truth
            or prediction.
    """

    pictures: Mapping[str, np.ndarray]
    entries: tuple[Entry, ...]
    figures: str


def make_tiles(
    image: np.ndarray,
    truth: Target | None = None,
    *,
    prediction: Target | None = None,
    longest: int = 480,
    focus: int | None = None,
    opacity: float = 0.5,
) -> Tiles:
    """The pictures of one sample: the image, then what is given of truth and prediction, then their difference.

    Of maps the difference is told pixel by pixel, of objects and segments one by one (`match_objects`).

    Args:
        image: (H, W, C) uint8, uint16 or float32.
        truth, prediction: of one kind.
        longest: the longer side of the pictures in pixels. Figures are counted at full size before.
        focus: a label: the difference, its IoU and Dice are of this class alone.

    Raises:
        ValueError: sizes or numbers of classes differ.
    """
    # Truth and prediction are of one kind.
    if any(isinstance(target, Instances | Panoptic) for target in (truth, prediction)):
        return _object_tiles(image, truth, prediction, longest=longest, opacity=opacity)
    maps: Any = (truth, prediction)
    return _map_tiles(image, *maps, longest=longest, focus=focus, opacity=opacity)


def _map_tiles(
    image: np.ndarray,
    truth: SemanticMap | None,
    prediction: SemanticMap | None,
    *,
    longest: int,
    focus: int | None,
    opacity: float,
) -> Tiles:
    size = _fit(image.shape[:2], longest)
    shown = resize_array(display_image(image), size, "area" if size[0] < image.shape[0] else "nearest")
    pictures: dict[str, np.ndarray] = {"Image": shown}
    found: dict[str, Entry] = {}
    for title, target in (("Truth", truth), ("Prediction", prediction)):
        if target is not None:
            pictures[title] = overlay(shown, _resized(target, size), opacity=opacity, legend=False)
            found.update({entry.name: entry for entry in class_entries(target)})
    if truth is None or prediction is None:
        return Tiles(pictures, tuple(found.values()), "")
    kinds = difference_kinds(truth, prediction, focus=focus)
    everywhere = focus is None and truth.space.exclusive and background_label(truth.space) is None
    pictures["Difference"] = difference_picture(
        shown, resize_array(kinds, size, "nearest"), agreement=0.15 if everywhere else 0.65
    )
    order = {name: index for index, name in enumerate(truth.space.names)}
    entries = sorted(found.values(), key=lambda entry: order.get(entry.name, len(order)))
    return Tiles(pictures, (*entries, *kind_entries(kinds)), figures_line(truth, prediction, focus=focus))


def panel(
    image: np.ndarray,
    truth: Target | None = None,
    *,
    prediction: Target | None = None,
    caption: str = "",
    longest: int = 480,
    focus: int | None = None,
) -> np.ndarray:
    """One picture of a sample: `make_tiles` side by side with titles, legend and `caption` plus figures below.

    Returns:
        uint8 RGB (h, w, 3); w is about the number of tiles times their width.
    """
    tiles = make_tiles(image, truth, prediction=prediction, longest=longest, focus=focus)
    columns = [_titled(title, picture) for title, picture in tiles.pictures.items()]
    row = _beside(columns)
    width = row.shape[1]
    lines = [text for text in (caption, tiles.figures) if text]
    return np.concatenate([row, *(_line(text, width) for text in lines), legend_strip(tiles.entries, width)])


def _object_tiles(image: np.ndarray, truth: Any, prediction: Any, *, longest: int, opacity: float) -> Tiles:
    size = _fit(image.shape[:2], longest)
    shown = resize_array(display_image(image), size, "area" if size[0] < image.shape[0] else "nearest")
    pictures: dict[str, np.ndarray] = {"Image": shown}
    entries: dict[str, Entry] = {}
    for title, target in (("Truth", truth), ("Prediction", prediction)):
        if target is not None:
            pictures[title] = draw_objects(shown, target, opacity=opacity)
            present = np.unique(target.labels).tolist()
            entries.update({(space := target.space).names[i]: Entry(space.names[i], space.colours[i]) for i in present})
    if truth is None or prediction is None:
        return Tiles(pictures, tuple(entries.values()), "")
    matches = match_objects(truth, prediction)
    true, claimed = masks_of(truth).resize(size), masks_of(prediction).resize(size)
    pictures["Difference"] = match_picture(shown, true, claimed, matches)
    return Tiles(pictures, (*entries.values(), *match_entries(matches)), match_line(matches))


def grid(panels: Sequence[np.ndarray], *, columns: int = 1) -> np.ndarray:
    """`panels` (each uint8 RGB, any size) in rows of `columns`, each row as high as its highest, white between.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("A grid needs at least one panel.")
    width = max(picture.shape[1] for picture in panels)
    padded = [_padded(picture, (picture.shape[0], width)) for picture in panels]
    rows = [_beside(padded[start : start + columns]) for start in range(0, len(padded), columns)]
    width = max(row.shape[1] for row in rows)
    gap = np.full((2 * _GAP, width, 3), PAPER, np.uint8)
    parts = [part for row in rows for part in (_padded(row, (row.shape[0], width)), gap)]
    return np.concatenate(parts[:-1])


def figures_line(truth: SemanticMap, prediction: SemanticMap, *, focus: int | None = None) -> str:
    """Dice and IoU of one picture in words: of the `focus` class, of the foreground, or the mean over the classes there."""
    scores = picture_scores(truth, prediction)
    if focus is not None:
        name, dice, iou = f"{truth.space.names[focus]}: ", scores.dice[focus], scores.iou[focus]
        return f"{name}Dice {_number(dice)} · IoU {_number(iou)}"
    mean = "mean " if len(truth.space) > 2 or not truth.space.binary else ""
    return (
        f"{mean}Dice {_number(scores.mean_dice)} · {mean}IoU {_number(scores.mean_iou)} · "
        f"intersection {scores.intersection:,} of union {scores.union:,} px"
    )


def _number(value: float) -> str:
    return "absent" if np.isnan(value) else f"{value:.3f}"


def _fit(size: Size, longest: int) -> Size:
    scale = longest / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _resized(target: SemanticMap, size: Size) -> SemanticMap:
    return SemanticMap(resize_array(target.labels, size, "nearest"), target.space)


def _titled(title: str, picture: np.ndarray) -> np.ndarray:
    return np.concatenate([_line(title, picture.shape[1], colour=INK), picture])


def _line(text: str, width: int, *, colour: Colour = MUTED) -> np.ndarray:
    strip = np.full((line_height(_TEXT) + 6, width, 3), PAPER, np.uint8)
    draw_text(strip, shorten(text, _TEXT, width - 8), top=3, left=4, size=_TEXT, colour=colour)
    return strip


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(picture.shape[0] for picture in pictures)
    gap = np.full((height, _GAP, 3), PAPER, np.uint8)
    parts = [part for picture in pictures for part in (_padded(picture, (height, picture.shape[1])), gap)]
    return np.concatenate(parts[:-1], axis=1)


def _padded(picture: np.ndarray, size: Size) -> np.ndarray:
    below, right = size[0] - picture.shape[0], size[1] - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=PAPER)
