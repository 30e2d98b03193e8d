"""Listing a data set without stopping at the first fault: which format, and the entries of folders of masks and of VOC."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.data.assembly import BY_HASH, DEFAULT_SEED, DEFAULT_VAL_SHARE, split_name
from nuriwake.data.check.entry import Entry, Listing
from nuriwake.data.check.finding import Problem
from nuriwake.data.classes import ClassList, find_classes
from nuriwake.data.dataset import DataSet
from nuriwake.data.deciding_layers import refuse_fields_of_one_map
from nuriwake.data.description import DataDescription
from nuriwake.data.formats import find_home, open_data
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.layout import find_layout, pair
from nuriwake.data.splitting import split_names
from nuriwake.data.voc import VOC_CLASSES


def list_data(path: Path, format: str | None = None) -> Listing:  # noqa: A002 (the contract's word)
    """The data set at `path` (as `open_data` takes it), as far as it can be listed.

    Raises:
        UserError: nothing there, a YAML description that is wrong, no format fits or more than one, or files that only the
            format's own reader understands and that it refuses at once.
    """
    try:
        return _list(path, format)
    except UserError as error:
        if not path.is_file() or str(path.parent) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


def _list(path: Path, format: str | None) -> Listing:  # noqa: A002
    from nuriwake.data.check.listing_coco import list_coco, list_panoptic

    root, description, name, _ = find_home(path, format)
    if description.splits or description.multi_label:
        return list_opened(open_data(path, format=format))  # what is described by hand is read as described
    readers = {"mask_folder": list_folder, "voc": list_voc, "coco": list_coco, "coco_panoptic": list_panoptic}
    if name in readers:
        return with_splits(readers[name](root, description), description)
    return list_opened(open_data(path, format=name))


def list_opened(data: DataSet) -> Listing:
    """The records of an opened data set, looked at through its own reader."""
    entries = [
        Entry(record.name, split, record.image, record=record)
        for split, records in data.splits.items()
        for record in records
    ]
    return Listing(
        data.root,
        data.format,
        "read",
        tuple(entries),
        space=data.space,
        data=data,
        splits_given=not any(BY_HASH in note for note in data.notes),
        sources=data.sources,
    )


def list_folder(root: Path, description: DataDescription) -> Listing:
    """Images and masks of a folder, paired by name; what has no counterpart is a problem, not an error."""
    layout = find_layout(root, description.images, description.masks)
    if layout is None:
        raise UserError(f"{root}: there are no folders of images and masks (images/ and masks/).")
    entries: list[Entry] = []
    problems: list[Problem] = []
    layered = False
    for split, (image_folder, mask_folder) in layout.parts.items():
        images, masks = _files(image_folder, problems), _files(mask_folder, problems)
        layers = _layers(images, masks)
        layered = layered or bool(layers)
        if layers:
            matched = {key: files for key, files in layers.items() if key in images}
            alone = [key for key in images if key not in layers]
            masks_alone = [key for key in layers if key not in images]
        else:
            pairing = pair(images, masks, description.mask_suffix)
            matched = {key: (masks[mask],) for key, mask in pairing.pairs.items()}
            alone, masks_alone = list(pairing.images_alone), list(pairing.masks_alone)
        if description.unpaired == "refuse":
            problems += [Problem("images_unpaired", str(images[key])) for key in alone]
            first = {key: layers[key][0] if layers else masks[key] for key in masks_alone}
            problems += [Problem("masks_unpaired", str(file)) for file in first.values()]
        head = f"{split}/" if split else ""
        entries += [Entry(head + key, split, images[key], files) for key, files in sorted(matched.items())]
    if layered:
        refuse_fields_of_one_map(description)
    return Listing(
        root,
        "mask_folder",
        "mask",
        tuple(entries),
        tuple(problems),
        find_classes(root, description),
        layered=layered,
        threshold=description.threshold,
        things=description.things,
        instance_ids=description.instance_ids,
    )


def list_voc(root: Path, description: DataDescription) -> Listing:
    """Masks of SegmentationClass/ with their images, by the lists of ImageSets/Segmentation/."""
    homes = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    home = [item for item in homes if (item / "JPEGImages").is_dir() and (item / "SegmentationClass").is_dir()][-1]
    problems: list[Problem] = []
    images, masks = _files(home / "JPEGImages", problems), _files(home / "SegmentationClass", problems)
    objects = _files(home / "SegmentationObject", problems) if (home / "SegmentationObject").is_dir() else {}
    problems += [Problem("masks_unpaired", str(masks[name])) for name in masks if name not in images]
    split_of = _voc_lists(home, masks, problems)
    entries = [
        Entry(name, split_of.get(name, ""), images[name], (masks[name], *((objects[name],) if name in objects else ())))
        for name in sorted(masks)
        if name in images and (not split_of or name in split_of)
    ]
    classes = find_classes(home, description)
    if not classes.names:
        classes = ClassList(VOC_CLASSES, source="the Pascal VOC challenge")
    things = description.things
    return Listing(root, "voc", "voc", tuple(entries), tuple(problems), classes, things=things)


def with_splits(listing: Listing, description: DataDescription) -> Listing:
    """The same with the split that `open_data` makes where none, or no val, is given."""
    splits = {entry.split for entry in listing.entries}
    source = next((name for name in ("", "train", "trainval") if name in splits), None)
    if "val" in splits or source is None:
        return listing
    share = DEFAULT_VAL_SHARE if description.val_share is None else description.val_share
    seed = DEFAULT_SEED if description.seed is None else description.seed
    names = {entry.name for entry in listing.entries if entry.split == source}
    val = set(split_names(names, val_share=share, seed=seed)[1])
    entries = tuple(
        entry if entry.split != source else replace(entry, split="val" if entry.name in val else "train")
        for entry in listing.entries
    )
    return replace(listing, entries=entries, splits_given=False)


def _files(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Image files below `folder` by their path without suffix; of two with one name the first, and a problem."""
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if path.suffix.lower() not in IMAGE_SUFFIXES or name.startswith("."):
                continue
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in files:
                problems.append(Problem("name_twice", str(path), f"there is also {files[key].name}"))
            else:
                files[key] = path
    return files


def _layers(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Image key -> its masks in masks/<class>/<name>; empty where masks do not lie so."""
    if any(key in images for key in masks) or not all(key.partition("/")[2] in images for key in masks):
        return {}
    layers: dict[str, tuple[Path, ...]] = {}
    for key, path in masks.items():
        name = key.partition("/")[2]
        layers[name] = (*layers.get(name, ()), path)
    return layers


def _voc_lists(home: Path, masks: Mapping[str, Path], problems: list[Problem]) -> dict[str, str]:
    lists = {
        name: path
        for path in sorted((home / "ImageSets" / "Segmentation").glob("*.txt"))
        if (name := split_name(path.stem)) is not None
    }
    if "train" in lists and "val" in lists:
        lists.pop("trainval", None)
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name = line.split()[0] if line.strip() else ""
            if name and name not in masks and split != "test":
                problems.append(Problem("images_unpaired", str(path), f"'{name}' has no mask in SegmentationClass/"))
            elif name in split_of and split_of[name] != split:
                problems.append(Problem("listed_twice", str(path), f"'{name}' is in '{split_of[name]}' too", name))
            elif name in masks:
                split_of[name] = split
    return split_of
