"""The truth of one GeoTIFF image: a mask, bands of masks, or polygons filled on the grid of the image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Size, Target
from nuriwake.data.dataset import Record
from nuriwake.data.geojson import Feature, class_of, in_pixels, parts_within, read_features
from nuriwake.data.geotiff_place import nodata_pixels, read_place
from nuriwake.data.geotiff_shapes import fill
from nuriwake.data.geotiff_write import without
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_image
from nuriwake.data.mask_folder import InstanceMaskReader, MaskReader


class GeoTruth(NamedTuple):
    """A record's target: the mask or GeoJSON file, and whether its image declares pixels as nodata."""

    path: Path
    nodata: bool


@dataclass(frozen=True)
class GeoMaskReader:
    """Masks as a mask folder has them, without what the image declares as nodata."""

    plain: MaskReader | InstanceMaskReader

    def __call__(self, record: Record) -> Target | None:
        """The map, or the objects. Raises UserError as the readers of mask folders do."""
        truth: GeoTruth = record.target
        target = self.plain(Record(record.name, record.image, truth.path))
        return target if target is None else _cleaned(target, record)


@dataclass(frozen=True)
class BandReader:
    """A band of 0, 1 and 255 for every class."""

    space: LabelSpace
    bands: int

    def __call__(self, record: Record) -> Target:
        """The multi-label map. Raises UserError for other bands or values."""
        path = record.target.path
        layers = read_image(path)
        if layers.dtype != np.uint8 or layers.shape[2] != self.bands:
            raise UserError(
                f"{path}: expected {self.bands} bands of 8 bits, one per class, found {layers.shape[2]} of {layers.dtype}."
            )
        try:
            return _cleaned(SemanticMap(layers, self.space), record)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


@dataclass(frozen=True)
class PolygonReader:
    """Polygons as objects, or as segments.

    Args:
        space: the classes.
        kind: what a polygon is.
        class_property: where its class stands; None looks in the usual places.
        single: the class of polygons that name none.
    """

    space: LabelSpace
    kind: Literal["objects", "segments"]
    class_property: str | None = None
    single: str | None = None

    def __call__(self, record: Record) -> Instances | Panoptic:
        """What lies in the image, cut off at its border. Raises UserError for what is no GeoJSON of polygons in a known place."""
        size, place = image_header(record.image).size, read_place(record.image)
        file = read_features(record.target.path)
        try:
            found = in_pixels(file.features, file.crs, place)
        except UserError as error:
            raise UserError(f"{record.target.path}: {error}") from error
        kept = [index for index, parts in enumerate(found) if parts_within(parts, size)]
        masks = fill([found[index] for index in kept], size) if kept else RunMasks.empty(size)
        seen = np.flatnonzero(masks.areas() > 0)
        features = [file.features[kept[index]] for index in seen.tolist()]
        labels = np.array([self.space.index(self._class(item)) for item in features], np.int32)
        crowd = np.array([bool(item.properties.get("crowd", False)) for item in features], bool)
        ids = _ids(features)
        if self.kind == "objects":
            return Instances(masks[seen], labels, self.space, crowd=crowd, ids=ids)
        target = _segments(masks[seen], labels, self.space, crowd, ids, size)
        return target if not record.target.nodata else _void(target, record.image)

    def _class(self, feature: Feature) -> str:
        name = class_of(feature, self.class_property)
        return name if name is not None and name in self.space.names else self.single or str(name)


def _cleaned(target: Target, record: Record) -> Target:
    if not record.target.nodata or isinstance(target, Instances):
        return target
    missing = nodata_pixels(record.image)
    return target if missing.shape != target.size else without(target, missing)


def _void(target: Panoptic, image: Path) -> Panoptic:
    found = without(target, nodata_pixels(image))
    assert isinstance(found, Panoptic)
    return found


def _ids(features: list[Feature]) -> np.ndarray | None:
    """The property "id", where all have one and all differ."""
    values = [item.properties.get("id") for item in features]
    whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31]
    return np.array(whole, np.int64) if len(set(whole)) == len(values) else None


def _segments(
    masks: RunMasks, labels: np.ndarray, space: LabelSpace, crowd: np.ndarray, ids: np.ndarray | None, size: Size
) -> Panoptic:
    numbers = (np.arange(1, len(masks) + 1) if ids is None else ids).astype(np.int32)
    canvas = np.zeros(size, np.int32)
    masks.paint(canvas, numbers)
    kept = np.isin(numbers, np.unique(canvas))
    return Panoptic(canvas, numbers[kept], labels[kept], space, crowd=crowd[kept])
