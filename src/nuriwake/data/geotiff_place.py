"""Where an image lies on the map: its georeference, coordinates to and from longitude and latitude, and areas."""

import re
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.size import Size

_AT_ONCE = 500_000
_ELLIPSOID = re.compile(r'(?:ELLIPSOID|SPHEROID)\["[^"]*",\s*([\d.]+),\s*([\d.]+)')


def geo_library() -> Any:
    """The module rasterio. Raises UserError, naming the extra, where it is not installed."""
    try:
        import rasterio
        import rasterio.features  # pyright: ignore[reportUnusedImport]
        import rasterio.warp  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UserError(
            'GeoTIFF needs rasterio: pip install "nuriwake[geo]" (masks alone are read without it as --format mask_folder).'
        ) from error
    return rasterio


@dataclass(frozen=True)
class Place:
    """The georeference of one image.

    Args:
        transform: (a, b, c, d, e, f): x = a column + b row + c and y = d column + e row + f of the corners of pixels; None
            where the file says nothing.
        crs: the coordinate reference system as WKT; "" where the file says none.
        nodata: the value that means "nothing here"; None where none is declared.
        masked: the file has a mask of its own (GDAL's internal mask).
        points: how many ground control points it has in place of a transform.
    """

    transform: tuple[float, float, float, float, float, float] | None = None
    crs: str = ""
    nodata: float | None = None
    masked: bool = False
    points: int = 0

    @property
    def known(self) -> bool:
        """There is a georeference."""
        return self.transform is not None

    @property
    def kind(self) -> str:
        """ "projected", "geographic", or "plain": pixels, or a map that nothing is known of."""
        crs = reference_system(self.crs) if self.crs and self.known else None
        return (
            "plain"
            if crs is None
            else "projected"
            if crs.is_projected
            else "geographic"
            if crs.is_geographic
            else "plain"
        )

    @property
    def name(self) -> str:
        """Of the coordinate reference system, to read: "EPSG:32654"."""
        if not self.crs:
            return "no coordinate reference system"
        text = reference_system(self.crs).to_string()
        return text if len(text) < 40 else text.partition('"')[2].partition('"')[0] or text[:40]

    @property
    def unit(self) -> str:
        """Of distances on the map: "metre", "degree", "map unit" or "pixel"."""
        if not self.known:
            return "pixel"
        return {"projected": lambda: reference_system(self.crs).units_factor[0], "geographic": lambda: "degree"}.get(
            self.kind, lambda: "map unit"
        )()

    @property
    def area_unit(self) -> str:
        """Of areas; those of places in degrees are computed on the ellipsoid, in square metres."""
        return "pixel" if not self.known else "square " + ("metre" if self.kind == "geographic" else self.unit)

    @property
    def pixel(self) -> tuple[float, float]:
        """(height, width) of a pixel in `unit`."""
        if self.transform is None:
            return 1.0, 1.0
        a, b, _, d, e, _ = self.transform
        return float(np.hypot(b, e)), float(np.hypot(a, d))

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """(P, 2) column and row of corners of pixels -> x and y on the map."""
        if self.transform is None:
            return points.astype(np.float64)
        a, b, c, d, e, f = self.transform
        return points @ np.array([[a, d], [b, e]]) + np.array([c, f])

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """(P, 2) x and y on the map -> column and row."""
        if self.transform is None:
            return points.astype(np.float64)
        a, b, c, d, e, f = self.transform
        return (points - np.array([c, f])) @ np.linalg.inv(np.array([[a, d], [b, e]]))

    def agrees(self, other: "Place", size: Size) -> bool:
        """Whether both lay an image of `size` on the same spot, to a hundredth of a pixel."""
        if bool(self.crs) != bool(other.crs) or (
            self.crs and reference_system(self.crs) != reference_system(other.crs)
        ):
            return False
        corners = np.array([[0, 0], [size[1], 0], [0, size[0]], list(size[::-1])], np.float64)
        return bool(np.abs(self.to_pixels(other.to_map(corners)) - corners).max() < 0.01)

    def described(self) -> str:
        """For messages."""
        if self.transform is None:
            return "without a georeference"
        x, y = self.transform[2], self.transform[5]
        return (
            f"{self.name}, corner ({x:.10g}, {y:.10g}), pixels of {self.pixel[1]:.6g} x {self.pixel[0]:.6g} {self.unit}"
        )


def read_place(path: Path) -> Place:
    """The georeference of the image at `path`, sidecar files (world file, .aux.xml) included.

    Raises:
        UserError: rasterio is not installed, GDAL cannot read the file, or its pixels have no area on the map.
    """
    rasterio = geo_library()
    try:
        with opened(path) as file:
            transform = tuple(file.transform)[:6]
            _refuse_flat(path, transform)
            flags = [flag.name for flag in file.mask_flag_enums[0]]
            return Place(
                None if file.transform == rasterio.Affine.identity() and not file.crs else transform,
                file.crs.to_wkt() if file.crs else "",
                None if file.nodata is None else float(file.nodata),
                "per_dataset" in flags and "alpha" not in flags,
                len(file.gcps[0]),
            )
    except rasterio.errors.RasterioError as error:
        raise UserError(
            f"{path}: this cannot be read as a GeoTIFF ({error}); the file is damaged, cut off, or something else."
        ) from error


def _refuse_flat(path: Path, transform: tuple[float, ...]) -> None:
    """Raises UserError for a transform that no pixel can be found again by."""
    a, b, _, d, e, _ = transform
    area = a * e - b * d
    if not (np.isfinite(transform).all() and np.isfinite(area) and area != 0):
        raise UserError(
            f"{path}: its georeference {transform} gives pixels no area on the map; write the right one (gdal_edit.py -a_ullr), or "
            "take it out (gdal_edit.py -unsetgt)."
        )


@contextmanager
def opened(path: Path, profile: Mapping[str, Any] | None = None) -> Generator[Any]:
    """The file as rasterio's dataset, `profile` says how where it is written; no georeference is no reason for a warning."""
    rasterio = geo_library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, **(profile or {})) as file:
            yield file


def nodata_pixels(path: Path) -> np.ndarray:
    """Bool (H, W): where all bands of the image at `path` are what it declares as nodata, or its internal mask says so.

    An alpha band is a channel like any other: GDAL calls the fourth band of most files so, near infrared too.
    """
    with opened(path) as file:
        missing = np.ones(file.shape, bool)
        for band in range(1, file.count + 1):
            missing &= file.read_masks(band) == 0
        return missing


def to_degrees(points: np.ndarray, crs: str) -> np.ndarray:
    """(P, 2) x and y in `crs` -> longitude and latitude on WGS 84. Raises UserError for points where `crs` has none."""
    return _between(points, reference_system(crs), reference_system("EPSG:4326"))


def from_degrees(points: np.ndarray, crs: str, source: str = "EPSG:4326") -> np.ndarray:
    """(P, 2) longitude and latitude (or x and y in `source`) -> x and y in `crs`. Raises UserError likewise."""
    return _between(points, reference_system(source), reference_system(crs))


def ring_area(points: np.ndarray, place: Place) -> float:
    """Of one ring (P, 2), as `ring_areas`."""
    return float(ring_areas(points, np.array([len(points)]), place)[0])


def ring_areas(points: np.ndarray, ends: np.ndarray, place: Place) -> np.ndarray:
    """The areas (R,) inside rings of map coordinates (P, 2), one after another, that end at `ends` (R,), in `place.area_unit`;
    positive where a ring is walked anticlockwise.

    Of degrees on the ellipsoid of the reference system: the ring is taken in the cylindrical equal-area projection, where
    meridians and parallels stay straight (Snyder 1987, Map Projections, equations 3-12 and 10-14 to 10-15), so that the area of
    pixels that follow them is exact.
    """
    if place.kind == "geographic":
        factor = float(reference_system(place.crs).units_factor[1])
        points = np.stack(_equal_area(points[:, 0] * factor, points[:, 1] * factor, place.crs), axis=1)
    return signed_areas(points, ends)


def signed_areas(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The plane areas (R,) of rings, as in `ring_areas`."""
    starts = np.concatenate([[0], ends[:-1]])
    x, y = (points - np.repeat(points[starts], ends - starts, axis=0)).T  # coordinates of millions would cost digits
    after = following(ends)
    return np.add.reduceat(x * y[after] - x[after] * y, starts) / 2


def following(ends: np.ndarray) -> np.ndarray:
    """For each corner of rings that end at `ends` the index of the next; after the last of a ring comes its first."""
    after = np.arange(1, ends[-1] + 1)
    after[ends - 1] = np.concatenate([[0], ends[:-1]])
    return after


def _equal_area(longitude: np.ndarray, latitude: np.ndarray, crs: str) -> tuple[np.ndarray, np.ndarray]:
    found = _ELLIPSOID.search(crs)
    radius, inverse = (float(found[1]), float(found[2])) if found else (6378137.0, 298.257223563)
    e2 = 0.0 if inverse == 0 else (2 - 1 / inverse) / inverse
    sine = np.sin(latitude)
    if e2 == 0:
        return radius * longitude, radius * sine
    e = np.sqrt(e2)
    q = (1 - e2) * (sine / (1 - e2 * sine**2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
    return radius * longitude, radius * q / 2


def _between(points: np.ndarray, source: Any, target: Any) -> np.ndarray:
    if source == target or not len(points):
        return points
    rasterio = geo_library()
    try:
        moved = np.empty((len(points), 2))
        for start in range(0, len(points), _AT_ONCE):  # lists of numbers take eight times the memory
            part = points[start : start + _AT_ONCE]
            x, y = rasterio.warp.transform(source, target, part[:, 0].tolist(), part[:, 1].tolist())
            moved[start : start + _AT_ONCE, 0], moved[start : start + _AT_ONCE, 1] = x, y
    except Exception as error:  # GDAL's errors have no common public class
        moved, why = np.full((1, 2), np.nan), str(error)
    else:
        why = "infinite coordinates"
    if not np.isfinite(moved).all():
        low, high = points.min(axis=0), points.max(axis=0)
        raise UserError(
            f"Coordinates x {low[0]:.8g} to {high[0]:.8g}, y {low[1]:.8g} to {high[1]:.8g} cannot be brought from "
            f"{source.to_string()[:40]} to {target.to_string()[:40]} ({why}); is it the right reference system?"
        )
    return moved


@lru_cache(maxsize=64)
def reference_system(text: str) -> Any:
    """Of WKT, "EPSG:4326" or a URN, as rasterio has it. Raises UserError where there is none."""
    rasterio = geo_library()
    try:
        return rasterio.crs.CRS.from_user_input(text)
    except rasterio.errors.CRSError as error:
        raise UserError(f"There is no coordinate reference system '{text[:60]}' ({error}).") from error
