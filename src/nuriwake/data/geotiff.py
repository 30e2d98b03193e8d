"""GeoTIFF data sets: images beside masks of class numbers that lie on the same spot of the map, or polygons in GeoJSON.

Which folder is one is told by content: its masks carry a georeference (a folder of plain TIFF or PNG masks is a mask_folder),
or a GeoJSON lies beside images/, or classes.json says that it was written as one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.data.assembly import assemble
from nuriwake.data.classes import IGNORE_NAMES, ClassList, find_classes
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.deciding import decide
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.geojson import CLASS_PROPERTIES, FeatureFile, class_of, in_pixels, parts_within, read_features
from nuriwake.data.geotiff_layout import GeoLayout, find_geotiff, written_as
from nuriwake.data.geotiff_place import Place, geo_library, read_place
from nuriwake.data.geotiff_read import BandReader, GeoMaskReader, GeoTruth, PolygonReader
from nuriwake.data.geotiff_write import taken, write_geotiff
from nuriwake.data.headers import image_header
from nuriwake.data.mask_folder import InstanceMaskReader, MaskReader
from nuriwake.data.observing import observe
from nuriwake.data.parallel import each
from nuriwake.data.polygon_records import object_space

Splits = dict[str, list[Record]]


def recognise(root: Path) -> str | None:
    """Because masks carry a georeference, or there are polygons, or classes.json says so."""
    found = find_geotiff(root, DataDescription())
    return None if found is None else found.reason


def open_geotiff(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`.

    Raises:
        UserError: rasterio is not installed, files that do not fit together, masks that lie elsewhere than their images.
    """
    geo_library()
    layout = find_geotiff(root, description, told=True)
    if layout is None:
        raise UserError(
            f"{root}: expected images/ beside masks/ of GeoTIFF, or beside GeoJSON of the same names (polygons/, labels/), or "
            "beside one GeoJSON file."
        )
    return (_open_polygons if layout.polygons else _open_masks)(root, layout, description)


FORMAT = Format(recognise, open_geotiff, write_geotiff, keeps_colours=True, taken=taken)


def _open_masks(root: Path, layout: GeoLayout, description: DataDescription) -> DataSet:
    pairs = [(image, mask) for part in layout.splits.values() for _, image, mask in part]
    places = each(lambda pair: (read_place(pair[0]), read_place(pair[1])), pairs)
    _refuse_elsewhere(pairs, places)
    classes, notes = find_classes(root, description), list(layout.notes)
    marked = written_as(root)
    nodata = _mask_nodata(pairs, places)
    if nodata is not None and classes.ignore is None and not marked.get("multi_label"):
        classes = _with_nodata(classes, nodata, pairs, notes)
    if marked.get("multi_label"):
        space = LabelSpace(classes.names, exclusive=False)
        reader: Any = BandReader(space, len(classes.names))
        notes.append(f"Masks have a band for each of the {len(space)} classes: 0, 1 (yes) and 255 (ignored).")
    else:
        observed = observe(pairs)
        decision = decide(
            root, observed, classes, threshold=description.threshold, instance_ids=description.instance_ids,
            things=description.things or tuple(marked.get("things", ())),
        )  # fmt: skip
        notes += decision.notes
        space = _coloured(decision.space, classes)
        plain = InstanceMaskReader(space) if decision.coding is None else MaskReader(space, decision.coding)
        reader = GeoMaskReader(plain)
    images = [place for place, _ in places]
    notes += _place_notes(images, description) + _nodata_notes(
        images, objects=isinstance(reader, GeoMaskReader) and isinstance(reader.plain, InstanceMaskReader)
    )
    found = dict(zip((image for image, _ in pairs), images, strict=True))
    splits = {
        split: [
            _record(name, image, GeoTruth(mask, _declares(found[image])), found[image], description)
            for name, image, mask in part
        ]
        for split, part in layout.splits.items()
    }
    return assemble(
        root, "geotiff", space, splits, reader=reader, description=description, notes=tuple(dict.fromkeys(notes))
    )


def _open_polygons(root: Path, layout: GeoLayout, description: DataDescription) -> DataSet:
    refuse_fields(
        description, "geotiff", "classes", "images", "masks", "annotations", "things", "class_property", "ignore"
    )
    entries = [entry for part in layout.splits.values() for entry in part]
    images = each(lambda entry: read_place(entry[1]), entries)
    paths = sorted({path for _, _, path in entries})
    files = dict(zip(paths, each(read_features, paths), strict=True))
    classes, notes, marked = find_classes(root, description), list(layout.notes), written_as(root)
    names = classes.names or _found_classes(files, description)
    single = names[0] if len(names) == 1 else None
    _refuse_unknown(files, names, description)
    if marked.get("truth") == "segments":
        things = tuple(name in marked.get("things", names) for name in names)
        space, kind = _coloured(LabelSpace(names, things), classes), "segments"
    else:
        space, kind = _coloured(object_space(names, str(root)), classes), "objects"
    notes.append(f"{len(space)} classes from {classes.source or 'the polygons'}: {listed(names)}.")
    notes += _outside_notes(entries, images, files) + _place_notes(images, description)
    notes += _nodata_notes(images, objects=kind == "objects")
    found = dict(zip((image for _, image, _ in entries), images, strict=True))
    splits = {
        split: [
            _record(name, image, GeoTruth(path, _declares(found[image])), found[image], description)
            for name, image, path in part
        ]
        for split, part in layout.splits.items()
    }
    reader = PolygonReader(space, kind, description.class_property, single)
    return assemble(
        root,
        "geotiff",
        space,
        splits,
        reader=reader,
        description=description,
        notes=tuple(notes),
        sources=paths if layout.shared else (),
    )


def _record(name: str, image: Path, truth: GeoTruth, place: Place, description: DataDescription) -> Record:
    told = description.spacing != DataDescription().spacing
    return Record(name, image, truth, None if told or place.kind != "projected" else place.pixel)


def _declares(place: Place) -> bool:
    return place.nodata is not None or place.masked


def _refuse_elsewhere(pairs: Sequence[tuple[Path, Path]], places: Sequence[tuple[Place, Place]]) -> None:
    """Raises UserError for the first mask that lies on another spot of the map than its image, with how many do."""
    wrong = [
        (pair, place)
        for pair, place in zip(pairs, places, strict=True)
        if place[0].known and place[1].known and not place[0].agrees(place[1], image_header(pair[0]).size)
    ]
    if wrong:
        (image, mask), (first, second) = wrong[0]
        raise UserError(
            f"{mask}: the mask lies elsewhere on the map than its image {image.name}: {second.described()}, but the image has "
            f"{first.described()}; {len(wrong)} of {len(pairs)} masks do. Warp them onto the grid of their images (gdalwarp -r near)."
        )


def _mask_nodata(pairs: Sequence[tuple[Path, Path]], places: Sequence[tuple[Place, Place]]) -> int | None:
    # NaN and infinity are in no mask of whole numbers; what holds them is refused when it is read, by name.
    values = {
        mask.nodata: path
        for (_, path), (_, mask) in zip(pairs, places, strict=True)
        if mask.nodata is not None and math.isfinite(mask.nodata)
    }
    if len(values) > 1:
        found = "; ".join(f"{value:g} in {path}" for value, path in values.items())
        raise UserError(
            f"Masks declare different values as nodata ({found}); write 'ignore: VALUE' in a YAML description to say which counts."
        )
    value = next(iter(values), None)
    return int(value) if value is not None and value == int(value) and 0 <= value <= 65535 else None


def _with_nodata(classes: ClassList, nodata: int, pairs: Sequence[tuple[Path, Path]], notes: list[str]) -> ClassList:
    """`nodata` is ignored; 0 in masks that number objects is none of them anyway."""
    if nodata == 0 and (classes.instance_ids or any(image_header(mask).bits > 8 for _, mask in pairs[:50])):
        return classes
    notes.append(
        f"The masks declare {nodata} as nodata: it is ignored. If it is a class, write 'ignore: []' or another value in a YAML "
        "description."
    )
    return replace(classes, ignore=(nodata,))


def _found_classes(files: Mapping[Path, FeatureFile], description: DataDescription) -> tuple[str, ...]:
    found: Counter[str | None] = Counter(
        class_of(feature, description.class_property) for file in files.values() for feature in file.features
    )
    names = tuple(sorted(name for name in found if name is not None and name not in IGNORE_NAMES))
    if not names:
        path = next((path for path, file in files.items() if file.features), next(iter(files)))
        keys = sorted({key for feature in files[path].features[:100] for key in feature.properties})
        raise UserError(
            f"{path}: no property of the polygons names their class (looked for {', '.join(CLASS_PROPERTIES)}; found "
            f"{listed(keys) or 'no properties'}); name it in the field 'class_property' of a YAML description, or the one class of "
            "all polygons in 'classes'."
        )
    return names


def _refuse_unknown(files: Mapping[Path, FeatureFile], names: Sequence[str], description: DataDescription) -> None:
    for path, file in files.items():
        for number, feature in enumerate(file.features, 1):
            name = class_of(feature, description.class_property)
            if (name is None and len(names) != 1) or (name is not None and name not in names and len(names) != 1):
                what = "has no class" if name is None else f"is of the class '{name}', which is none of {listed(names)}"
                raise UserError(f"{path}: feature {number} {what}; correct it, or the class list.")


def _outside_notes(
    entries: Sequence[tuple[str, Path, Path]], places: Sequence[Place], files: Mapping[Path, FeatureFile]
) -> list[str]:
    """How many polygons no image holds. Raises UserError where that is all of a file."""
    unseen = {path: set(range(len(file.features))) for path, file in files.items()}
    for (_, image, path), place in zip(entries, places, strict=True):
        left = sorted(unseen[path])
        features = [files[path].features[index] for index in left]
        size = image_header(image).size
        try:
            found = in_pixels(features, files[path].crs, place)
        except UserError as error:
            raise UserError(f"{path}: {error} (on the way to the image {image.name})") from error
        for index, parts in zip(left, found, strict=True):
            if parts_within(parts, size):
                unseen[path].discard(index)
    for path, left in unseen.items():
        if left and len(left) == len(files[path].features):
            image, place = next((i, p) for (_, i, of), p in zip(entries, places, strict=True) if of == path)
            box = tuple(round(value, 6) for value in files[path].features[0].box)
            raise UserError(
                f"{path}: none of its {len(left)} polygons lies in an image; the first is at {box}, the image {image.name} has "
                f"{place.described()}. Coordinates are longitude and latitude (RFC 7946) unless the member 'crs' says otherwise."
            )
    count = sum(len(left) for left in unseen.values())
    return [f"{count} polygons lie in no image; they are left out."] if count else []


def _place_notes(places: Sequence[Place], description: DataDescription) -> list[str]:
    notes: list[str] = []
    projected = [place for place in places if place.kind == "projected"]
    if projected and description.spacing == DataDescription().spacing:
        sizes = sorted({tuple(float(f"{side:.6g}") for side in place.pixel) for place in projected})
        text = "x".join(f"{side:g}" for side in sizes[0]) + (
            f" to {'x'.join(f'{s:g}' for s in sizes[-1])}" if sizes[1:] else ""
        )
        units = ", ".join(sorted({place.unit for place in projected}))
        notes.append(
            f"Pixels are {text} {units} (height x width, {listed(sorted({p.name for p in projected}))}); distances are in {units}."
        )
    degrees = sum(place.kind == "geographic" for place in places)
    if degrees:
        notes.append(
            f"{degrees} of {len(places)} images are in degrees: distances stay in pixels, areas are in square metres."
        )
    unplaced = sum(not place.known for place in places)
    if unplaced:
        notes.append(
            f"{unplaced} of {len(places)} images have no georeference: their distances and areas are in pixels."
        )
    return notes


def _nodata_notes(places: Sequence[Place], *, objects: bool) -> list[str]:
    declared = sum(_declares(place) for place in places)
    if not declared:
        return []
    what = "objects have no such pixels, so that nothing changes" if objects else "they are ignored in the truth"
    return [f"{declared} of {len(places)} images declare pixels as nodata (all bands); {what}."]


def _coloured(space: LabelSpace, classes: ClassList) -> LabelSpace:
    if not all(name in classes.colours for name in space.names):
        return space
    return replace(space, colours=tuple(classes.colours[name] for name in space.names))
