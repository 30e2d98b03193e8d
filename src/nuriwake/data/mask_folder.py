"""Mask folders: images/ beside masks/, with or without split folders, an image and its mask of the same name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap
from nuriwake.data.assembly import assemble
from nuriwake.data.classes import ClassList, find_classes
from nuriwake.data.coding import MaskCoding
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.deciding import decide
from nuriwake.data.deciding_layers import decide_layers, refuse_fields_of_one_map
from nuriwake.data.description import DataDescription, Format
from nuriwake.data.geotiff_layout import georeferenced_masks, written_as
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_mask
from nuriwake.data.layout import Layout, Pairing, alone, find_layout, holds_images, image_files, pair, refuse_unpaired
from nuriwake.data.mask_folder_write import taken, write_mask_folder
from nuriwake.data.observing import observe
from nuriwake.data.texts import composed


@dataclass(frozen=True)
class MaskReader:
    """record.target is the path of the mask."""

    space: LabelSpace
    coding: MaskCoding

    def __call__(self, record: Record) -> SemanticMap | None:
        """The label map, or None where the record has no mask."""
        if record.target is None:
            return None
        return SemanticMap(self.coding(read_mask(record.target), record.target), self.space)


@dataclass(frozen=True)
class InstanceMaskReader:
    """record.target is the path of a mask whose values number the objects of the one class; 0 is none of them."""

    space: LabelSpace

    def __call__(self, record: Record) -> Instances | None:
        """The objects by number, or None where the record has no mask. Raises UserError for a mask with colours."""
        if record.target is None:
            return None
        raw = read_mask(record.target)
        if raw.ndim == 3:
            if not (raw == raw[..., :1]).all():
                raise UserError(
                    f"{record.target}: the mask has colours, but the values of the other masks number objects."
                )
            raw = raw[..., 0]
        ids = np.flatnonzero(value_counts(raw)[1:]) + 1
        masks = RunMasks.from_labels(raw, ids)
        return Instances(masks, np.zeros(len(ids), np.int32), self.space, ids=ids.astype(np.int64))


@dataclass(frozen=True)
class LayerReader:
    """record.target holds one path per class, or None where the class is absent."""

    space: LabelSpace
    coding: MaskCoding

    def __call__(self, record: Record) -> SemanticMap:
        """The multi-label map (H, W, len(space))."""
        layers: list[np.ndarray | None] = [
            None if path is None else self.coding(read_mask(path), path) for path in record.target
        ]
        sizes = {layer.shape for layer in layers if layer is not None} or {image_header(record.image).size}
        if len(sizes) > 1:
            raise UserError(f"{record.image}: the masks of its classes have different sizes: {sorted(sizes)}.")
        absent = np.zeros(next(iter(sizes)), np.uint8)
        return SemanticMap(np.dstack([absent if layer is None else layer for layer in layers]), self.space)


def recognise(root: Path) -> str | None:
    """Because there are folders of images and of masks."""
    layout = find_layout(root)
    # ADE20K, whose masks count from 1, with its list of classes here or above.
    if layout is None or any((folder / "objectInfo150.txt").is_file() for folder in (root, root.parent)):
        return None
    images, masks = next(iter(layout.parts.values()))
    if not holds_images(masks) or not holds_images(images) or any(masks.glob("*.json")):
        return None
    if written_as(root) or georeferenced_masks(layout):
        return None  # GeoTIFF, told by its content
    return f"it has {images.relative_to(root)}/ and {masks.relative_to(root)}/ with images in both"


def open_folder(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`. Raises UserError for whatever does not fit together."""
    layout = find_layout(root, description.images, description.masks)
    if layout is None:
        wanted = f"{description.images or 'images'}/ and {description.masks or 'masks'}/"
        raise UserError(f"{root}: there are no folders {wanted}, with or without train/ and val/ in or above them.")
    files = {split: (image_files(images), image_files(masks)) for split, (images, masks) in layout.parts.items()}
    for (images, masks), (folder, mask_folder) in zip(files.values(), layout.parts.values(), strict=True):
        for found, where in ((images, folder), (masks, mask_folder)):
            if not found:
                raise UserError(f"{where}: the folder holds no image (JPEG, PNG, TIFF, BMP or WebP).")
    classes = find_classes(root, description)
    notes = [f"The split '{name}' has no masks; it is left out." for name in layout.maskless]
    if layout.loose:
        beside = listed([path.relative_to(root).as_posix() for path in layout.loose])
        notes.append(f"{len(layout.loose)} files or folders beside the split folders are left out: {beside}.")
    if description.multi_label or any(_is_layered(*part) for part in files.values()):
        return _open_layers(root, layout, files, classes, description, notes)
    return _open_masks(root, layout, files, classes, description, notes)


FORMAT = Format(recognise, open_folder, write_mask_folder, holds="classes", taken=taken)

Files = Mapping[str, tuple[dict[str, Path], dict[str, Path]]]


def _open_masks(
    root: Path, layout: Layout, files: Files, classes: ClassList, description: DataDescription, notes: list[str]
) -> DataSet:
    splits: dict[str, list[Record]] = {}
    for split, (images, masks) in files.items():
        pairing = pair(images, masks, description.mask_suffix)
        _unpaired(layout.parts[split][0].parent, pairing, description, notes)
        if pairing.affix:
            notes.append(f"Mask names have '{pairing.affix}' more than image names.")
        splits[split] = [
            Record(_name(split, key), images[key], masks[mask]) for key, mask in sorted(pairing.pairs.items())
        ]
    pairs = [(record.image, record.target) for part in splits.values() for record in part]
    if not pairs:
        raise UserError(f"{root}: no image with a mask was found.")
    decision = decide(
        root,
        observe(pairs),
        classes,
        threshold=description.threshold,
        things=description.things,
        instance_ids=description.instance_ids,
    )
    notes.extend(decision.notes)
    space, coding = decision.space, decision.coding
    reader = InstanceMaskReader(space) if coding is None else MaskReader(space, coding)
    unique = tuple(dict.fromkeys(notes))
    return assemble(root, "mask_folder", space, splits, reader=reader, description=description, notes=unique)


def _is_layered(images: dict[str, Path], masks: dict[str, Path]) -> bool:
    """Whether masks lie in masks/<class>/<name>: every one is an image's name below one further folder."""
    if any(key in images for key in masks):
        return False
    return all("/" in key and key.partition("/")[2] in images for key in masks)


def _open_layers(
    root: Path, layout: Layout, files: Files, classes: ClassList, description: DataDescription, notes: list[str]
) -> DataSet:
    refuse_fields_of_one_map(description)
    found = sorted({key.partition("/")[0] for _, masks in files.values() for key in masks if "/" in key})
    names = classes.names or tuple(found)
    unknown = sorted(set(found) - set(map(composed, names)))
    if unknown or not found:
        raise UserError(
            f"{root}: multi-label masks lie in masks/<class>/<name>.png; found the folders {listed(found) or 'none'}, the "
            f"classes are {listed(names) or 'none'}."
        )
    space = LabelSpace(names, exclusive=False)
    splits: dict[str, list[Record]] = {}
    for split, (images, masks) in files.items():
        covered = {key.partition("/")[2]: key.partition("/")[2] for key in masks}
        alone = tuple(key for key in images if key not in covered)
        _unpaired(root, Pairing({}, "", alone, tuple(key for key in covered if key not in images)), description, notes)
        splits[split] = [
            Record(_name(split, key), images[key], tuple(masks.get(f"{composed(name)}/{key}") for name in names))
            for key in sorted(set(images) & set(covered))
        ]
    records = [record for part in splits.values() for record in part]
    pairs = [(record.image, path) for record in records for path in record.target if path is not None]
    coding, note = decide_layers(root, observe(pairs), classes.ignore, description.threshold)
    absent = sum(path is None for record in records for path in record.target)
    notes.append(f"One folder of masks per class: multi-label, {len(names)} classes ({listed(names)}).")
    notes.append(note)
    if absent:
        notes.append(f"{absent} of {len(records) * len(names)} masks do not exist; the class counts as absent there.")
    reader = LayerReader(space, coding)
    return assemble(root, "mask_folder", space, splits, reader=reader, description=description, notes=notes)


def _unpaired(where: Path, pairing: Pairing, description: DataDescription, notes: list[str]) -> None:
    if description.unpaired == "refuse":
        refuse_unpaired(where, pairing)
        return
    for what, names in alone(pairing):
        left = "is" if len(names) == 1 else "are"
        notes.append(f"{what} and {left} left out, as described: {listed(names)}.")


def _name(split: str, key: str) -> str:
    return f"{split}/{key}" if split else key
