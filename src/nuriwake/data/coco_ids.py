"""Which ids a file of COCO results needs: those of the annotation file that the images belong to, where it lies near them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.data.assembly import split_name
from nuriwake.data.coco_files import content
from nuriwake.data.coco_write import image_identifiers
from nuriwake.data.json_scan import read_json

_PARTS = 4
"""So many last parts of an image's path may stand in a `file_name`."""


class ImageIds(NamedTuple):
    """One id per image, in order, and where they are from, as the end of a sentence."""

    numbers: list[int | str]
    origin: str


def image_ids(images: Mapping[str, Path]) -> ImageIds:
    """The ids of `images` (name -> file) in the COCO files beside them or in annotations/ up to two folders above, when these
    know every one; else the numbers that their names are, else 1, 2, ...
    """
    known: dict[Path, int | str] = {}
    used: list[str] = []
    for file in _near(images):
        found = _ids_in(file, [path for path in images.values() if path not in known])
        used += [file.name] if found else []
        known |= found
        if len(known) == len(images) and len(set(known.values())) == len(known):
            return ImageIds([known[path] for path in images.values()], f"from {', '.join(used)}")
    numbers = image_identifiers(list(images))
    named = [int(name) if name.isascii() and name.isdigit() else None for name in images] == numbers
    told = "the numbers that the files' names are" if named else "1, 2, ... in the order of predictions.json"
    return ImageIds([*numbers], told)


def _near(images: Mapping[str, Path]) -> Iterator[Path]:
    """Annotation files that may list `images`; those named after the images' folder first."""
    folders = sorted({path.resolve().parent for path in images.values()})
    places: dict[Path, None] = {}
    for folder in folders:
        homes = (folder, *folder.parents[:2])
        places |= dict.fromkeys([home / name for home in homes for name in ("annotations", "Annotations")])
        places |= dict.fromkeys(homes[:2])
    files = [file for place in places for file in sorted(place.glob("*.json"))]
    words = {folder.name for folder in folders}
    files.sort(key=lambda file: not any(word in file.stem for word in words))
    return (file for file in files if file.name.startswith("image_info_") or content(file) is not None)


def _is_of_another_split(file: Path, image: Path) -> bool:
    """Whether `file` is named after one split and the folder of `image` after another: names often count anew in each."""
    mine = split_name(file.stem.replace("-", "_").rpartition("_")[2])
    others = {split_name(part) for part in image.resolve().parts[-_PARTS:-1]} - {None}
    return mine is not None and bool(others) and mine not in others


def _ids_in(file: Path, wanted: list[Path]) -> dict[Path, int | str]:
    try:
        images = read_json(file).objects("images", ("id", "file_name"))
        names = [name.replace("\\", "/") for name in images.texts("file_name")]
        first = images.places("id")[:1, 0]
        text = len(first) > 0 and images.file.bytes[first[0]] == ord('"')
        ids = dict(zip(names, images.texts("id") if text else images.integers("id").tolist(), strict=True))
    except UserError:  # another program's file, or a broken one: it is not needed for predicting
        return {}
    found: dict[Path, int | str] = {}
    for path in wanted:
        if _is_of_another_split(file, path):
            continue
        ends = ("/".join(path.parts[-count:]) for count in range(_PARTS, 0, -1))
        name = next((end for end in ends if end in ids), None)
        if name is not None:
            found[path] = ids[name]
    return found
