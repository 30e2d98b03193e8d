"""Targets as polygons along the edges of pixels, with holes, with what is known of each; and what the polygons lose, measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.size import Size
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.filling import fill_rings
from nuriwake.data.geojson import Feature, Ring, in_pixels, on_map
from nuriwake.data.geotiff_place import Place, following, geo_library
from nuriwake.data.outlines import measured_loss, one_outline
from nuriwake.data.seen import object_numbers

Parts = tuple[tuple[Ring, ...], ...]


@dataclass(frozen=True)
class Shapes:
    """Features as they are written (`on_map`).

    Args:
        features: all of them.
        areas: of each, in the unit of the place.
        losses: the IoU of every class of a map, or every object, with what its polygons fill.
    """

    features: list[Feature]
    areas: list[float]
    losses: list[float]


def find_shapes(target: Target, place: Place, *, tolerance: float) -> Shapes:
    """The polygons of `target`. Of a map every region of a class (connected by edges) is one feature, background left out; of
    objects and segments each is one.

    Args:
        place: through whose coordinates, rounded as they are written, polygons go before their loss is measured.
        tolerance: pixels that outlines may stray (Douglas and Peucker).
    """
    if isinstance(target, SemanticMap):
        return _of_map(target, place, tolerance)
    if isinstance(target, Panoptic):
        traced: dict[int, list[tuple[Ring, ...]]] = {}
        for part, value in _traced(target.ids, target.ids > 0, tolerance):
            traced.setdefault(value, []).append(part)
        found = [tuple(traced[number]) for number in target.segment_ids.tolist()]
        return _of_objects(target, target.masks(), target.segment_ids, found, place)
    boxes = target.masks.boxes().astype(np.int64)
    found = [_crop_parts(target.masks, index, boxes[index], tolerance) for index in range(len(target))]
    return _of_objects(target, target.masks, object_ids(target), found, place)


def object_ids(target: Instances) -> np.ndarray:
    """The numbers of the objects in the label GeoTIFF and the GeoJSON: their ids, else 1, 2, ..."""
    ids = object_numbers(target, np.iinfo(np.int32).max)
    return np.arange(1, len(target) + 1) if ids is None else ids


def fill(parts: Sequence[Parts], size: Size) -> RunMasks:
    """One mask per object, by COCO's rule as everywhere; holes are joined to their outline by bridges, which fill as nothing."""
    outlines = [[one_outline([ring.ravel() for ring in part]) for part in item] for item in parts]
    return RunMasks.from_polygons(outlines, size)


def _traced(labels: np.ndarray, where: np.ndarray, tolerance: float) -> list[tuple[tuple[Ring, ...], int]]:
    """(outline and holes, value) of every region of one value of `labels` (H, W) in `where`."""
    # One pass over the map; pixels that touch at a corner only are two regions, as RFC 7946 wants of rings.
    shapes = geo_library().features.shapes(labels, mask=where, connectivity=4)
    return [
        (tuple(_simple(np.array(ring[:-1], np.float64), tolerance) for ring in shape["coordinates"]), int(value))
        for shape, value in shapes
    ]


def _simple(ring: Ring, tolerance: float) -> Ring:
    if tolerance <= 0:
        return ring
    few = cv2.approxPolyDP(ring.astype(np.float32).reshape(-1, 1, 2), tolerance, closed=True).reshape(-1, 2)
    return few.astype(np.float64) if len(few) >= 3 else ring


def _crop_parts(masks: RunMasks, index: int, box: np.ndarray, tolerance: float) -> Parts:
    if box[2] <= box[0] or box[3] <= box[1]:
        return ()
    crop = masks.crop_dense(index, box)
    return tuple(
        tuple(ring + box[:2] for ring in rings) for rings, _ in _traced(crop.astype(np.uint8), crop != 0, tolerance)
    )


def _of_objects(
    target: Instances | Panoptic, masks: RunMasks, ids: np.ndarray, parts: Sequence[Parts], place: Place
) -> Shapes:
    features: list[Feature] = []
    for index, found in enumerate(parts):
        if not found:
            continue  # an object without a pixel has no outline
        label = int(target.labels[index])
        properties: dict[str, Any] = {"class": target.space.names[label], "class_id": label, "id": int(ids[index])}
        if isinstance(target, Panoptic):
            properties["thing"] = target.space.things[label]
        if target.crowd[index]:
            properties["crowd"] = True
        if target.scores is not None:
            properties["score"] = round(float(target.scores[index]), 4)
        features.append(Feature(found, properties))
    features, areas = on_map(features, place)
    back = in_pixels(features, "", place)
    polygons = iter([[one_outline([ring.ravel() for ring in part]) for part in item] for item in back])
    losses = measured_loss(masks, [next(polygons) if found else [] for found in parts])
    return Shapes(features, areas, losses.tolist())


def _of_map(target: SemanticMap, place: Place, tolerance: float) -> Shapes:
    space = target.space
    layers = [target.labels] if space.exclusive else list(np.moveaxis(target.labels, 2, 0))
    features: list[Feature] = []
    areas: list[float] = []
    losses: list[float] = []
    for number, labels in enumerate(layers):
        labels = np.ascontiguousarray(labels)
        first = (1 if space.has_background else 0) if space.exclusive else 1
        where = (labels >= first) & (labels < (len(space) if space.exclusive else 2))
        traced = _traced(labels, where, tolerance)
        values = np.array([value for _, value in traced], np.int64)
        known = [value if space.exclusive else number for value in values.tolist()]
        found = [
            Feature((rings,), {"class": space.names[label], "class_id": label})
            for (rings, _), label in zip(traced, known, strict=True)
        ]
        found, sizes = on_map(found, place)
        canvas = _painted(in_pixels(found, "", place), target.size)
        losses += _class_ious(canvas, values, labels, where)
        if target.scores is not None:
            _add_scores(found, canvas, target.scores if space.exclusive else target.scores[..., number])
        features += found
        areas += sizes
    return Shapes(features, areas, losses)


def _painted(parts: Sequence[Parts], size: Size) -> np.ndarray:
    """int32 (H, W): the number of the feature, from 1, whose polygon holds the middle of the pixel; 0 for none.

    GDAL's own filling looks at every edge of a polygon in every row, which is hours for a region all over a large map.
    """
    canvas = np.zeros(size, np.int32)
    rings = [ring for item in parts for part in item for ring in part]
    if rings:
        lengths = np.array([len(ring) for ring in rings])
        owners = np.repeat(np.arange(1, len(parts) + 1), [sum(len(part) for part in item) for item in parts])
        points = np.concatenate(rings)
        fill_rings(points, following(np.cumsum(lengths)), np.repeat(owners, lengths), canvas)
    return canvas


def _class_ious(canvas: np.ndarray, values: np.ndarray, labels: np.ndarray, where: np.ndarray) -> list[float]:
    """IoU of every class that occurs, from one pass over rows: what polygons fill against the map."""
    both, filled, wanted = np.zeros(256, np.int64), np.zeros(256, np.int64), np.zeros(256, np.int64)
    value_of = np.concatenate([[256], values])
    for row, line in enumerate(canvas):
        painted, true = value_of[line], np.where(where[row], labels[row].astype(np.int64), 256)
        filled += np.bincount(painted, minlength=257)[:256]
        wanted += np.bincount(true, minlength=257)[:256]
        both += np.bincount(true[painted == true], minlength=257)[:256]
    occur = np.flatnonzero(wanted)
    return (both[occur] / (filled + wanted - both)[occur]).tolist()


def _add_scores(features: Sequence[Feature], canvas: np.ndarray, scores: np.ndarray) -> None:
    sums, pixels = np.zeros(len(features) + 1), np.zeros(len(features) + 1, np.int64)
    for top in range(0, len(canvas), 256):  # weights are copied to float64
        numbers, part = canvas[top : top + 256].ravel(), scores[top : top + 256].ravel()
        sums += np.bincount(numbers, weights=part, minlength=len(sums))
        pixels += np.bincount(numbers, minlength=len(sums))
    for number, feature in enumerate(features, 1):
        if pixels[number]:
            properties: Any = feature.properties
            properties["score"] = round(float(sums[number] / pixels[number]), 4)
