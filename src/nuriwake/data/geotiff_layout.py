"""Where the images, masks and polygons of a GeoTIFF data set lie, and whether a folder is one; rasterio is not needed to tell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.data.assembly import split_name
from nuriwake.data.dataset import listed
from nuriwake.data.description import DataDescription
from nuriwake.data.layout import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Layout,
    Pairing,
    find_layout,
    image_files,
    pair,
    refuse_unpaired,
)
from nuriwake.data.tiff import has_geo_tags

POLYGON_FOLDERS = ("polygons", "geojson", "vectors", *MASK_FOLDERS)


@dataclass(frozen=True)
class GeoLayout:
    """What lies where.

    Args:
        reason: why the folder is one, as the end of "because ...".
        splits: split name ("" for none) -> (name, image, mask or GeoJSON) of every image.
        polygons: the truth is GeoJSON.
        shared: one GeoJSON for all images.
        notes: what was left out.
    """

    reason: str
    splits: Mapping[str, list[tuple[str, Path, Path]]] = field(default_factory=dict[str, list[tuple[str, Path, Path]]])
    polygons: bool = False
    shared: bool = False
    notes: tuple[str, ...] = ()


def find_geotiff(root: Path, description: DataDescription, *, told: bool = False) -> GeoLayout | None:
    """The layout of `root`, or None where it is no GeoTIFF data set.

    Args:
        told: the user says it is one: masks need no georeference, and files are paired; else the reason alone is found.

    Raises:
        UserError: images without truth and the like, when `told`.
    """
    marked = written_as(root)
    if isinstance(description.annotations, str) or (told and isinstance(description.annotations, Mapping)):
        return _shared(root, description, told)
    if marked and marked.get("truth") in ("objects", "segments"):
        layout = find_layout(root, description.images, "polygons")
        return None if layout is None else _polygons(layout, "classes.json says so", description, told)
    layout = find_layout(root, description.images, description.masks)
    if layout is not None and (marked or georeferenced_masks(layout) or (told and _holds(layout, ".tif"))):
        where = next(iter(layout.parts.values()))[1].relative_to(root)
        reason = "classes.json says so" if marked else f"the masks in {where}/ are TIFF with a georeference"
        return _masks(layout, reason, description, told)
    for name in (description.masks,) if description.masks else POLYGON_FOLDERS:
        layout = find_layout(root, description.images, name)
        if layout is not None and _holds(layout, ".geojson"):
            where = next(iter(layout.parts.values()))[1].relative_to(root)
            return _polygons(layout, f"there are GeoJSON files in {where}/", description, told)
    return _shared(root, description, told)


def georeferenced_masks(layout: Layout) -> bool:
    """Whether the first mask of a layout is a GeoTIFF: what tells a GeoTIFF data set from a mask folder."""
    for _, folder in layout.parts.values():
        first = next((path for path in sorted(folder.rglob("*.tif*")) if not path.name.startswith(".")), None)
        if first is not None:
            return has_geo_tags(first)
    return False


def written_as(root: Path) -> Mapping[str, Any]:
    """What classes.json of a folder that was written in this format says; empty for every other folder."""
    try:
        plain: Any = json.loads((root / "classes.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, Mapping) and plain.get("format") == "geotiff" else {}


def _masks(layout: Layout, reason: str, description: DataDescription, told: bool) -> GeoLayout:
    if not told:
        return GeoLayout(reason)
    return _paired(
        layout, reason, description, {split: image_files(masks) for split, (_, masks) in layout.parts.items()}
    )


def _polygons(layout: Layout, reason: str, description: DataDescription, told: bool) -> GeoLayout:
    if not told:
        return GeoLayout(reason)
    files = {
        split: {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.geojson"))}
        for split, (_, folder) in layout.parts.items()
    }
    return _paired(layout, reason, description, files, polygons=True)


def _paired(
    layout: Layout,
    reason: str,
    description: DataDescription,
    files: Mapping[str, dict[str, Path]],
    *,
    polygons: bool = False,
) -> GeoLayout:
    splits: dict[str, list[tuple[str, Path, Path]]] = {}
    notes = [f"The split '{name}' has no truth; it is left out." for name in layout.maskless]
    for split, (folder, _) in layout.parts.items():
        images = image_files(folder)
        found = pair(images, files[split], description.mask_suffix)
        if description.unpaired == "refuse":
            refuse_unpaired(folder.parent, found)
        else:
            notes += _left_out(found)
        head = f"{split}/" if split else ""
        splits[split] = [(head + key, images[key], files[split][of]) for key, of in sorted(found.pairs.items())]
    return GeoLayout(reason, splits, polygons, notes=tuple(notes))


def _left_out(found: Pairing) -> list[str]:
    texts = ((found.images_alone, "images have no truth"), (found.masks_alone, "files of truth have no image"))
    return [f"{len(names)} {what} and are left out, as described: {listed(names)}." for names, what in texts if names]


def _shared(root: Path, description: DataDescription, told: bool) -> GeoLayout | None:
    """One GeoJSON in `root`, or one per split in the description, beside the folder of images."""
    given = description.annotations
    found = sorted(root.glob("*.geojson")) if given is None else []
    folder = next(
        (root / name for name in (description.images, *IMAGE_FOLDERS) if name and (root / name).is_dir()), None
    )
    if folder is None or (given is None and len(found) != 1):
        return None
    reason = f"{found[0].name if found else 'a GeoJSON file'} lies beside {folder.name}/"
    if not told:
        return GeoLayout(reason)
    images = image_files(folder)
    splits: dict[str, list[tuple[str, Path, Path]]] = {}
    for key, image in images.items():
        split = split_name(key.partition("/")[0]) if "/" in key else None
        path = found[0] if given is None else root / (given if isinstance(given, str) else given.get(split or "", ""))
        if not path.is_file():
            raise UserError(f"{image}: there is no GeoJSON file {path} for it (the field 'annotations').")
        splits.setdefault(split or "", []).append((key, image, path))
    return GeoLayout(reason, splits, polygons=True, shared=True)


def _holds(layout: Layout, suffix: str) -> bool:
    return any(next(folder.rglob(f"*{suffix}*"), None) is not None for _, folder in layout.parts.values())
