"""GeoTIFF and GeoJSON, written: images/, masks/ and polygons/<split>/ with the georeference of the image each sample came from."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, IGNORE_COLOUR, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.geojson import write_features
from nuriwake.data.geotiff_place import Place, geo_library, nodata_pixels, opened, read_place
from nuriwake.data.geotiff_shapes import Shapes, find_shapes, object_ids
from nuriwake.data.headers import IMAGE_SUFFIXES, image_header
from nuriwake.data.polygon_records import loss_notes
from nuriwake.data.seen import paint_objects, target_of
from nuriwake.data.texts import read_text
from nuriwake.data.written import (
    ImageWriter,
    WriteSettings,
    Written,
    count_note,
    counted_notes,
    refuse_existing,
    refuse_other_classes,
)

MARK = "geotiff"
"""`format` in the classes.json that is written beside."""

TRUTHS: Mapping[type, str] = {SemanticMap: "classes", Instances: "objects", Panoptic: "segments"}
"""Type of target -> `truth` in classes.json. Objects and segments are read from their polygons, which overlap where objects do."""


MANY = 20_000
"""Regions of one map from which the polygons are likely noise."""


@dataclass
class _Said:
    """What is collected while writing."""

    files: list[Path] = field(default_factory=list[Path])
    notes: dict[str, int] = field(default_factory=dict[str, int])
    losses: list[float] = field(default_factory=list[float])
    truths: set[str] = field(default_factory=set[str])


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    return folder / "masks" / split, folder / "polygons" / split


def write_geotiff(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one split: image and labels as GeoTIFF, and a GeoJSON of polygons with class, area and score.

    Maps become 8-bit labels (255 is nodata; a multi-label map has a band per class), objects and segments their numbers.
    Polygons follow the edges of pixels, with holes; coordinates are longitude and latitude (RFC 7946) where the image has a
    reference system, else its own. What the image declares as nodata is nodata in labels and in no polygon of classes or segments.

    Raises:
        UserError: rasterio is not installed, the split is there already, other classes are there, or a sample without a target.
    """
    geo_library()
    refuse_existing(*taken(folder, settings.split))
    writer = ImageWriter(folder / "images" / settings.split, settings)
    said, listing = _Said(), folder / "classes.json"
    for sample in samples:
        name, place = writer.name(sample), _place(sample)
        if not place.known:
            count_note(
                said.notes,
                "[image has|images have] no georeference; polygons there are in pixels (x to the right, y down)",
            )
        if place.points:
            count_note(
                said.notes,
                "[image is|images are] placed by ground control points, which are no grid and are not kept; warp [it|them] first",
            )
        target = _without_nodata(sample, place)
        if not said.truths:
            refuse_other_classes(listing, _read(listing), _listed(space, TRUTHS[type(target)]))
        said.truths.add(TRUTHS[type(target)])
        if settings.images == "copy":
            said.files.append(_write_image(writer.folder / f"{name}.tif", sample, place))
        labels = folder / "masks" / settings.split / f"{name}.tif"
        said.files.append(_write_labels(labels, target, place, said.notes))
        shapes = find_shapes(target, place, tolerance=settings.tolerance)
        said.losses += shapes.losses
        if len(shapes.features) > MANY and isinstance(target, SemanticMap):
            count_note(
                said.notes,
                f"[map has|maps have] more than {MANY:,} regions, each a polygon; where they are specks, predict with "
                "--postprocessing '{operation: drop_small, area: 50}'",
            )
        said.files.append(folder / "polygons" / settings.split / f"{name}.geojson")
        _write_polygons(said.files[-1], shapes, target, place)
    if len(said.truths) > 1:
        raise UserError(f"{folder}: {' and '.join(sorted(said.truths))} cannot be written to one folder.")
    classes = _listed(space, next(iter(said.truths), "classes"))
    refuse_other_classes(listing, _read(listing), classes)
    write_json(listing, classes)
    said.files.append(listing)
    what = "maps of a class or objects"
    return Written(tuple(said.files), (*counted_notes(said.notes), *loss_notes(said.losses, what)))


def _place(sample: Sample) -> Place:
    source = sample.source
    if source is None or source.suffix.lower() not in IMAGE_SUFFIXES:
        return Place()
    header = image_header(source)
    if header.size != sample.size or header.orientation != 1:
        return Place()  # turned or another size: the georeference is not that of the sample
    return read_place(source)


def _without_nodata(sample: Sample, place: Place) -> Target:
    target = target_of(sample)
    if sample.source is None or isinstance(target, Instances) or (place.nodata is None and not place.masked):
        return target
    return without(target, nodata_pixels(sample.source))


def without(target: Target, missing: np.ndarray) -> Target:
    """`target` with the pixels `missing` (H, W) ignored: of a map `IGNORE`, of segments void; objects stay as they are."""
    if isinstance(target, Instances) or not missing.any():
        return target
    if isinstance(target, SemanticMap):
        labels = target.labels.copy()
        labels[missing] = IGNORE
        return replace(target, labels=labels)
    ids = np.where(missing, 0, target.ids).astype(np.int32)
    kept = np.isin(target.segment_ids, np.unique(ids))
    return Panoptic(
        ids,
        target.segment_ids[kept],
        target.labels[kept],
        target.space,
        crowd=target.crowd[kept],
        scores=None if target.scores is None else target.scores[kept],
    )


def _write_image(path: Path, sample: Sample, place: Place) -> Path:
    """A TIFF is copied byte by byte; what a sidecar file says of its place is written into it. Others become TIFF."""
    refuse_existing(path)
    source = sample.source
    header = None if source is None else image_header(source)
    if source is not None and header is not None and header.kind == "tiff" and header.orientation == 1:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
            found = read_place(temporary)
            if (found.transform, found.crs, found.nodata) != (place.transform, place.crs, place.nodata):
                _set_place(temporary, place)
        return path
    bands = np.moveaxis(sample.image, 2, 0)
    colours = {"photometric": "rgb"} if len(bands) == 3 and bands.dtype == np.uint8 else {"photometric": "minisblack"}
    return _write(path, bands, place, {"nodata": place.nodata, **colours})


def _set_place(path: Path, place: Place) -> None:
    with opened(path, {"mode": "r+"}) as file:
        if place.transform is not None:
            file.transform = geo_library().Affine(*place.transform)
        if place.crs:
            file.crs = place.crs
        file.nodata = place.nodata


def _write_labels(path: Path, target: Target, place: Place, notes: dict[str, int]) -> Path:
    space = target.space
    named = {f"class_{label}": name for label, name in enumerate(space.names)}
    if isinstance(target, SemanticMap):
        if not space.exclusive:
            return _write(path, np.moveaxis(target.labels, 2, 0), place, {"nodata": IGNORE}, names=space.names)
        colours = {label: (*colour, 255) for label, colour in enumerate(space.colours)} | {IGNORE: (*IGNORE_COLOUR, 0)}
        return _write(path, target.labels[None], place, {"nodata": IGNORE}, colours=colours, tags=named)
    if isinstance(target, Panoptic):
        ids = target.ids
    else:
        ids, hidden = paint_objects(target, object_ids(target).astype(np.int32))
        if hidden:
            count_note(
                notes,
                "[image|images]: objects overlap; the label GeoTIFF shows the smaller one, the polygons hold both",
            )
    kind = np.uint16 if int(ids.max(initial=0)) < 65536 else np.uint32
    return _write(path, ids.astype(kind)[None], place, {"nodata": 0}, tags=named)


def _write(
    path: Path,
    bands: np.ndarray,
    place: Place,
    profile: Mapping[str, Any],
    *,
    names: tuple[str, ...] = (),
    colours: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """`bands` (C, H, W) as GeoTIFF, deflated, in tiles where it is large."""
    count, height, width = bands.shape
    shape: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": bands.dtype.name,
    }
    layout: dict[str, Any] = {"compress": "deflate", "bigtiff": "if_safer", "interleave": "pixel"}
    if min(height, width) >= 512:
        layout |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if place.transform is not None:
        layout |= {"transform": geo_library().Affine(*place.transform), "crs": place.crs or None}
    with atomic_path(path) as temporary, opened(temporary, {"mode": "w", **shape, **layout, **profile}) as file:
        file.write(bands)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
        if colours is not None:
            file.write_colormap(1, dict(colours))
        if tags:
            file.update_tags(**tags)
    return path


def _write_polygons(path: Path, shapes: Shapes, target: Target, place: Place) -> None:
    for feature, area in zip(shapes.features, shapes.areas, strict=True):
        properties: Any = feature.properties
        properties["area"], properties["area_unit"] = float(f"{area:.10g}"), place.area_unit
    coordinates = "longitude and latitude on WGS 84 (RFC 7946)"
    if place.kind == "plain":
        coordinates = "of the map of the image" if place.known else "pixels: x to the right, y down"
    about = {"size": list(target.size), "map": place.name, "coordinates": coordinates, "area_unit": place.area_unit}
    write_features(path, shapes.features, about)


def _listed(space: LabelSpace, truth: str) -> dict[str, Any]:
    """What classes.json says."""
    plain: dict[str, Any] = {"format": MARK, "truth": truth, "classes": list(space.names)}
    plain["colours"] = {name: list(colour) for name, colour in zip(space.names, space.colours, strict=True)}
    plain["things"] = [name for name, thing in zip(space.names, space.things, strict=True) if thing]
    return plain if space.exclusive else {**plain, "multi_label": True}


def _read(path: Path) -> Any:
    return json.loads(read_text(path)) if path.exists() else None
