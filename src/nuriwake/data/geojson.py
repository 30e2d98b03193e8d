"""GeoJSON (RFC 7946): polygons with properties, read as they are and written from masks along the edges of pixels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.size import Size
from nuriwake.data.geotiff_place import (
    Place,
    following,
    from_degrees,
    reference_system,
    ring_areas,
    signed_areas,
    to_degrees,
)

CLASS_PROPERTIES = ("class", "class_name", "label", "category", "name", "type")
"""Where the class of a feature is looked for, in this order."""

LONGEST_EDGE = 256
"""Pixels: longer edges get corners in between, since what is straight on the map is bent in degrees."""

Ring = np.ndarray
"""Corners (P, 2) float64, not closed."""


@dataclass(frozen=True, eq=False)
class Feature:
    """One object.

    Args:
        parts: polygons, each its outline and then its holes.
        properties: as they stand in the file.
    """

    parts: tuple[tuple[Ring, ...], ...]
    properties: Mapping[str, Any]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of its outlines."""
        points = np.concatenate([rings[0] for rings in self.parts])
        (left, bottom), (right, top) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, bottom, right, top


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a GeoJSON file holds.

    Args:
        features: with at least one polygon each.
        crs: what its "crs" member of before RFC 7946 says; "" where there is none.
    """

    features: tuple[Feature, ...]
    crs: str


def read_features(path: Path) -> FeatureFile:
    """The polygons in the GeoJSON file `path`; features without a geometry are nothing.

    Raises:
        UserError: no JSON, no GeoJSON, geometries without an area, rings of fewer than three corners or of no numbers.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return _read(path, stat.st_mtime_ns, stat.st_size)


def class_of(feature: Feature, given: str | None) -> str | None:
    """The class that the properties name, in the property `given` or the first of `CLASS_PROPERTIES`."""
    names = (given,) if given else CLASS_PROPERTIES
    value = next((feature.properties[name] for name in names if feature.properties.get(name) is not None), None)
    return None if value is None else str(value)


def in_pixels(features: Sequence[Feature], crs: str, place: Place) -> list[tuple[tuple[Ring, ...], ...]]:
    """The parts of `features` in columns and rows of the image at `place`.

    Coordinates are in `crs`; where that is "", in degrees on WGS 84 if the image has a reference system, else as the image has them.
    """
    rings = [ring for feature in features for part in feature.parts for ring in part]
    if not rings:
        return []
    points = np.concatenate(rings)
    if place.kind != "plain":
        points = from_degrees(points, place.crs, crs or "EPSG:4326")
    points, ends = place.to_pixels(points), np.cumsum([len(ring) for ring in rings]).tolist()
    moved = iter([points[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return [tuple(tuple(next(moved) for _ in part) for part in feature.parts) for feature in features]


def on_map(shapes: Sequence[Feature], place: Place) -> tuple[list[Feature], list[float]]:
    """Features in columns and rows -> the same as they are written (degrees where the image has a reference system, else its own
    coordinates; rounded to a thousandth of a pixel; outlines anticlockwise), and their areas in `place.area_unit`."""
    rings = [ring for shape in shapes for part in shape.parts for ring in part]
    if not rings:
        return [], []
    points, ends = _divided(np.concatenate(rings), np.cumsum([len(ring) for ring in rings]))
    flat = place.to_map(points)
    areas = np.abs(ring_areas(flat, ends, place)).tolist()
    shown = np.round(to_degrees(flat, place.crs) if place.kind != "plain" else flat, _digits(place))
    outer = np.array([i == 0 for shape in shapes for part in shape.parts for i in range(len(part))])
    shown, starts = _turned(shown, ends, outer), [0, *ends[:-1].tolist()]
    moved = iter(zip(starts, ends.tolist(), areas, strict=True))
    written, sizes = [], []
    for shape in shapes:
        parts, size = [], 0.0
        for part in shape.parts:
            found = [next(moved) for _ in part]
            size += found[0][2] - sum(area for _, _, area in found[1:])
            parts.append(tuple(shown[start:end] for start, end, _ in found))
        written.append(Feature(tuple(parts), shape.properties))
        sizes.append(size)
    return written, sizes


def write_features(path: Path, features: Sequence[Feature], about: Mapping[str, Any]) -> None:
    """Writes a FeatureCollection, atomically, one feature a line; `about` is its member "nuriwake"."""
    head = json.dumps({"type": "FeatureCollection", "nuriwake": dict(about)}, ensure_ascii=False)[:-1]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{head}, "features": [')
        for number, feature in enumerate(features):
            line = json.dumps(_plain(feature), ensure_ascii=False, allow_nan=False)
            file.write(f"{',' if number else ''}\n{line}")
        file.write("\n]}\n")


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, length: int) -> FeatureFile:
    del changed, length  # they are in the key of the cache
    try:
        plain: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as GeoJSON ({error}); is the file cut off?") from error
    items = plain.get("features") if isinstance(plain, Mapping) else None
    if isinstance(plain, Mapping) and plain.get("type") == "Feature":
        items = [plain]
    if not isinstance(items, list):
        raise UserError(f"{path}: a GeoJSON file of polygons is a FeatureCollection with the member 'features'.")
    features = tuple(_features(items, path))
    crs: Any = plain.get("crs")
    name = crs.get("properties", {}).get("name", "") if isinstance(crs, Mapping) else ""
    return FeatureFile(features, str(name))


def _features(items: Sequence[Any], path: Path) -> Iterator[Feature]:
    for number, item in enumerate(items, 1):
        where = f"{path}: feature {number}"
        if not isinstance(item, Mapping):
            raise UserError(f"{where}: expected an object, found {item!r:.40}.")
        geometry, properties = item.get("geometry"), item.get("properties") or {}
        if not isinstance(properties, Mapping) or not isinstance(geometry, Mapping | None):
            raise UserError(f"{where}: 'properties' and 'geometry' are objects, found {item!r:.60}.")
        kind = None if geometry is None else geometry.get("type")
        if geometry is None or not geometry.get("coordinates"):
            continue  # an empty geometry: a tile in which nothing was found
        if kind not in ("Polygon", "MultiPolygon"):
            raise UserError(f"{where}: a {kind} has no area; expected a Polygon or a MultiPolygon.")
        found = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        parts = tuple(tuple(_ring(ring, where) for ring in part) for part in found if part)
        if parts:
            yield Feature(parts, properties)


def _ring(value: Any, where: str) -> Ring:
    try:
        points = np.array([point[:2] for point in value], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: a ring is a list of [x, y], found {value!r:.60}.") from error
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < 3 or not np.isfinite(points).all():
        raise UserError(f"{where}: a ring has at least three corners of finite numbers, found {value!r:.60}.")
    return points


def _plain(feature: Feature) -> dict[str, Any]:
    parts = [[[*ring.tolist(), ring[0].tolist()] for ring in part] for part in feature.parts]
    geometry = {"type": "Polygon", "coordinates": parts[0]}
    if len(parts) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": parts}
    return {"type": "Feature", "properties": dict(feature.properties), "geometry": geometry}


def _divided(points: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings one after another (P, 2) that end at `ends`, with corners in between on their long edges."""
    steps = points[following(ends)] - points
    pieces = np.ceil(np.abs(steps).max(axis=1) / LONGEST_EDGE).astype(np.int64).clip(1)
    if pieces.max() == 1:
        return points, ends
    start, after = np.repeat(np.arange(len(points)), pieces), np.cumsum(pieces)
    share = (np.arange(len(start)) - (after - pieces)[start]) / pieces[start]
    return points[start] + steps[start] * share[:, None], after[ends - 1]


def _digits(place: Place) -> int:
    """Decimals for a thousandth of a pixel."""
    size = min(place.pixel)
    size = size / 111_320 * float(reference_system(place.crs).units_factor[1]) if place.kind == "projected" else size
    return int(np.clip(np.ceil(3 - np.log10(size)), 0, 15))


def _turned(points: np.ndarray, ends: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """The same rings, those in `outer` walked anticlockwise and the others clockwise."""
    wrong = (signed_areas(points, ends) > 0) != outer
    starts = np.concatenate([[0], ends[:-1]])
    lengths, index = ends - starts, np.arange(len(points))
    return points[np.where(np.repeat(wrong, lengths), np.repeat(starts + ends - 1, lengths) - index, index)]


def parts_within(parts: tuple[tuple[Ring, ...], ...], size: Size) -> bool:
    """Whether the box around `parts`, in columns and rows, meets an image of `size`."""
    points = np.concatenate([rings[0] for rings in parts])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return bool(right > 0 and bottom > 0 and left < size[1] and top < size[0])
