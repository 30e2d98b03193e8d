"""Overlay: an image with its classes painted over it."""

import cv2
import numpy as np

from nuriwake.core.labels import IGNORE, Colour, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.viz.display import Picture, display_image, drawable, label_pixels
from nuriwake.viz.legend import Entry, draw_legend

GREY: tuple[Colour, Colour] = ((150, 150, 150), (60, 60, 60))
"""The two greys of the hatching that marks ignored pixels."""

_BAND = 1024  # rows painted at a time: the memory beyond the result stays small on huge images


def overlay(
    image: Picture, target: SemanticMap, *, opacity: float = 0.5, outline: bool = True, legend: bool = True
) -> np.ndarray:
    """`image` with `target` painted over it.

    Classes are tinted with their colour in `target.space`; the background (see `background_label`) stays untouched; ignored
    pixels are hatched in grey; where multi-label layers overlap, their colours mix.

    Args:
        image: (H, W) or (H, W, C) uint8, uint16 or float32, or a Pillow image, shown as `display_image` says.
        target: of the image's size.
        opacity: of the tint, 0 (only outlines) to 1 (the image does not show through).
        outline: draw the inner border of every region in a lighter shade of its class's colour.
        legend: write the classes that are in the map into the upper left corner; on small images only those of the largest
            area fit, and the rest is counted.

    Returns:
        uint8 RGB (H, W, 3), a new array.

    Raises:
        ValueError: `target` and `image` differ in size.
    """
    image = drawable(image)
    if target.size != image.shape[:2]:
        raise ValueError(f"The map is {target.size} pixels (height, width) but the image is {image.shape[:2]}.")
    canvas = display_image(image)
    thickness = max(1, round(min(target.size) / 600)) if outline else 0
    for top in range(0, len(canvas), _BAND):
        _paint_band(canvas, target, slice(top, min(top + _BAND, len(canvas))), opacity, thickness)
    if legend:
        draw_legend(canvas, class_entries(target))
    return canvas


def background_label(space: LabelSpace) -> int | None:
    """The label that is left unpainted: 0 when it is called background or the space is binary; None for other spaces."""
    return 0 if space.has_background or space.binary else None


def class_entries(target: SemanticMap) -> list[Entry]:
    """Legend entries of the classes that are in `target`, the background left out, and "ignore" where there is any."""
    space = target.space
    if space.exclusive:
        pixels = label_pixels(target.labels)
        ignored = int(pixels[IGNORE])
    else:
        pixels = np.count_nonzero(target.labels == 1, axis=(0, 1))
        ignored = int((target.labels == IGNORE).any(axis=2).sum())
    hidden = background_label(space)
    found = [
        Entry(space.names[label], space.colours[label], int(pixels[label]))
        for label in range(len(space))
        if label != hidden and pixels[label]
    ]
    return [*found, Entry("ignore", GREY[0], ignored)] if ignored else found


def hatching(size: tuple[int, int], *, top: int = 0, period: int = 8) -> np.ndarray:
    """Diagonal stripes of the two greys, uint8 (H, W, 3), for rows `top` and below of a picture."""
    rows, columns = np.ogrid[top : top + size[0], : size[1]]
    stripes = (rows + columns) // max(period // 2, 1) % 2
    return np.array(GREY, np.uint8)[stripes]


def paint(canvas: np.ndarray, where: np.ndarray, colours: np.ndarray, opacity: float) -> None:
    """Blend `colours` (one RGB, or (H, W, 3)) into `canvas` (H, W, 3) uint8 at the pixels `where` (H, W) bool, in place."""
    layer = np.ascontiguousarray(np.broadcast_to(colours.astype(np.uint8, copy=False), canvas.shape))
    blended = layer if opacity == 1 else cv2.addWeighted(canvas, 1 - opacity, layer, opacity, 0)
    cv2.copyTo(blended, where.astype(np.uint8), canvas)


def _paint_band(canvas: np.ndarray, target: SemanticMap, rows: slice, opacity: float, thickness: int) -> None:
    """Paint the rows of `canvas`; the labels carry a margin of `thickness` so that bands leave no seam in outlines."""
    start, stop = max(rows.start - thickness, 0), min(rows.stop + thickness, len(canvas))
    labels = target.labels[start:stop]
    inner = slice(rows.start - start, rows.stop - start)
    band = canvas[rows]
    paint_layers = _paint_exclusive if target.space.exclusive else _paint_layers
    paint_layers(band, labels, inner, target.space, opacity, thickness)
    ignored = labels[inner] == IGNORE
    ignored = ignored if ignored.ndim == 2 else ignored.any(axis=2)
    if ignored.any():
        period = max(8, min(target.size) // 40)
        paint(band, ignored, hatching(band.shape[:2], top=rows.start, period=period), max(opacity, 0.35))


def _paint_exclusive(
    band: np.ndarray, labels: np.ndarray, inner: slice, space: LabelSpace, opacity: float, thickness: int
) -> None:
    table, shown = np.zeros((IGNORE + 1, 3), np.uint8), np.zeros(IGNORE + 1, bool)
    table[: len(space)], shown[: len(space)] = space.colours, True
    hidden = background_label(space)
    if hidden is not None:
        shown[hidden] = False
    visible, triple = shown[labels[inner]], cv2.merge([labels[inner]] * 3)
    paint(band, visible, cv2.LUT(triple, table[None]), opacity)
    if thickness:
        edges = visible & _edges(labels, thickness)[inner]
        paint(band, edges, cv2.LUT(triple, _lighter(table)[None]), 1.0)


def _paint_layers(
    band: np.ndarray, labels: np.ndarray, inner: slice, space: LabelSpace, opacity: float, thickness: int
) -> None:
    layers = [np.ascontiguousarray(labels[..., label] == 1) for label in range(len(space))]
    for layer, colour in zip(layers, space.colours, strict=True):
        paint(band, layer[inner], np.array(colour), opacity)
    for layer, colour in zip(layers, space.colours, strict=True):
        if thickness:
            paint(band, (layer & _edges(layer.astype(np.uint8), thickness))[inner], _lighter(np.array(colour)), 1.0)


def _lighter(colours: np.ndarray) -> np.ndarray:
    # The usual palettes are dark: an outline of the pure colour is lost on dark images.
    return (colours * 0.65 + 255 * 0.35).astype(np.uint8)


def _edges(labels: np.ndarray, thickness: int) -> np.ndarray:
    """True within `thickness` pixels of another label."""
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    labels = np.ascontiguousarray(labels)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
