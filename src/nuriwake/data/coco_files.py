"""Where the JSON files of COCO and of its kind lie, which split each is, and in which folder its images are."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.core.labels import Colour, LabelSpace
from nuriwake.data.assembly import split_name
from nuriwake.data.dataset import listed
from nuriwake.data.description import DataDescription
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.json_scan import JsonFile
from nuriwake.data.parallel import spread
from nuriwake.data.texts import composed, on_disk

Kind = Literal["instances", "panoptic"]

_SIGNS: dict[Kind, bytes] = {"instances": b'"segmentation"', "panoptic": b'"segments_info"'}
_EMPTY = re.compile(rb'"annotations"\s*:\s*\[\s*\]')
_PEEKS, _PEEK = 16, 1 << 16


class AnnotationFile(NamedTuple):
    """One JSON file: the split it stands for ("" for none), and the word in its name that says so ("train2017")."""

    split: str
    word: str
    path: Path


def content(path: Path) -> Kind | None:
    """What kind of annotations the JSON file at `path` holds, by a look at pieces of it; None when neither.

    A file without a single annotation is known by its keys (images, annotations, categories): of instances, unless its name
    or a category that says whether it is a thing makes it panoptic.
    """
    pieces = _pieces(path)
    if not pieces or not pieces[0].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    for kind in ("panoptic", "instances"):
        if any(_SIGNS[kind] in piece for piece in pieces):
            return kind
    return _kind_without_annotations(path, pieces)


def _pieces(path: Path) -> list[bytes]:
    """Pieces of the file at `path`, its beginning and its end among them; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            pieces: list[bytes] = []
            for start in spread(range(max(size - _PEEK, 0) + 1), _PEEKS):
                file.seek(start)
                pieces.append(file.read(_PEEK))
            return pieces
    except OSError:
        return []


def _kind_without_annotations(path: Path, pieces: Sequence[bytes]) -> Kind | None:
    if not any(_EMPTY.search(piece) for piece in pieces):
        return None
    if not all(any(key in piece for piece in pieces) for key in (b'"images"', b'"categories"')):
        return None
    if _is_called(path, "panoptic") or any(b'"isthing"' in piece for piece in pieces):
        return "instances" if _is_called(path, "instances") else "panoptic"
    return "instances"


def _is_called(path: Path, kind: Kind) -> bool:
    return path.name.startswith((f"{kind}_", f"{kind}."))


def find_files(root: Path, kind: Kind) -> list[AnnotationFile]:
    """The files of `kind` in annotations/, in `root` itself, or in its split folders; the first place that has some.

    In a place with several files those called instances_* or panoptic_* go before others (person_keypoints_*).
    """
    nested = [child for child in _folders(root) if split_name(child.name) is not None]
    for places in ([root / "annotations"], [root / "Annotations"], [root], nested):
        found = [path for place in places for path in sorted(place.glob("*.json")) if content(path) == kind]
        named = [path for path in found if _is_called(path, kind)]
        if found:
            return [_annotation_file(path, path.parent.name if places is nested else "") for path in named or found]
    return []


def described_files(root: Path, description: DataDescription, kind: Kind) -> list[AnnotationFile]:
    """The files of the field `annotations`, or else those found.

    Raises:
        UserError: no file, one that is not there, or several for one split.
    """
    given = description.annotations
    if isinstance(given, Mapping):
        files = [AnnotationFile(split_name(split) or split, split, root / path) for split, path in given.items()]
    elif given is not None:
        path = root / given
        paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files = [_annotation_file(path, "") for path in paths]
    else:
        files = find_files(root, kind)
    for file in files:
        if not file.path.is_file():
            raise UserError(f"annotations: there is no file {file.path}.")
    if not files:
        raise UserError(
            f"{root}: there is no JSON file of {kind} in annotations/, in the folder itself, or in train/ and val/; name it "
            "in the field 'annotations' of a YAML description."
        )
    if len(files) > 1 and not all(file.split for file in files):
        files = [file._replace(split=file.split or file.path.stem) for file in files]
    by_split: dict[str, Path] = {}
    for file in files:
        if file.split in by_split:
            raise UserError(
                f"{root}: the split '{file.split}' has two annotation files, {by_split[file.split].name} and "
                f"{file.path.name}; choose one in the field 'annotations' of a YAML description."
            )
        by_split[file.split] = file.path
    return files


def reason(root: Path, kind: Kind) -> str | None:
    """Why `root` looks like a data set of `kind`, as the end of "because ..."."""
    files = find_files(root, kind)
    if not files:
        return None
    what = {"instances": "masks of objects ('segmentation')", "panoptic": "panoptic segments ('segments_info')"}[kind]
    if not all(any(_SIGNS[kind] in piece for piece in _pieces(file.path)) for file in files):
        what += ", or images and categories without any annotation"
    names = listed([file.path.relative_to(root).as_posix() for file in files], most=3)
    return f"{names} {'holds' if len(files) == 1 else 'hold'} {what}"


@dataclass(frozen=True)
class ImageFolder:
    """Where the images of one annotation file lie.

    Args:
        paths: one per image of the file, None where it is not there.
        folder: what the paths lie in.
        others: images in the folder that the file does not name.
    """

    paths: tuple[Path | None, ...]
    folder: Path
    others: int


def locate_images(root: Path, file: AnnotationFile, names: Sequence[str], given: str | None) -> ImageFolder:
    """The images called `names` in `file`.

    Args:
        given: the folder as described.

    Raises:
        UserError: none of them is found anywhere.
    """
    wanted = [name.replace("\\", "/") for name in names]
    some = spread(wanted, 20)
    candidates = list(dict.fromkeys(_candidates(root, file, given)))
    # As written first, then without the folders that the names were given where they were made.
    for bare in (False, True):
        tried = [PurePosixPath(name).name if bare else name for name in some]
        counts = [sum(on_disk(folder / name) is not None for name in tried) for folder in candidates]
        if counts and max(counts) > 0:
            folder = candidates[counts.index(max(counts))]
            return _located(folder, [PurePosixPath(name).name for name in wanted] if bare else wanted)
    if not names:
        return ImageFolder((), root, 0)
    looked = listed([str(folder) for folder in candidates], most=5)
    raise UserError(
        f"{file.path}: its images (such as '{names[0]}') were not found in {looked}; name their folder in the field 'images' "
        "of a YAML description."
    )


def _located(folder: Path, names: Sequence[str]) -> ImageFolder:
    present: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = os.path.relpath(parent, folder).replace(os.sep, "/")
        present.update(files if inner == "." else [f"{inner}/{name}" for name in files])
    forms = {composed(name): name for name in present}
    paths: list[Path | None] = []
    for name in names:
        found = name if name in present else forms.get(composed(name))
        paths.append(on_disk(folder / name) if found is None else folder / found)
    images = {name for name in forms if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}  # noqa: PTH122
    return ImageFolder(tuple(paths), folder, len(images.difference(map(composed, names))))


def _candidates(root: Path, file: AnnotationFile, given: str | None) -> list[Path]:
    if given is not None:
        bases = [root / given]
    else:
        homes = [root, *(home for home in (file.path.parent, file.path.parent.parent) if home.is_relative_to(root))]
        bases = [home / name for home in homes for name in ("images", "Images", "JPEGImages")] + homes
    result: list[Path] = []
    for base in bases:
        inner = _folders(base)
        result += [child for child in inner if child.name == file.word]
        result += [child for child in inner if file.split and split_name(child.name) == file.split]
    result += [base for base in bases if base.is_dir()]
    if given is None:
        result += _folders(root)
    return result


def _annotation_file(path: Path, folder: str) -> AnnotationFile:
    word = folder or path.stem.replace("-", "_").rpartition("_")[2]
    return AnnotationFile(split_name(word) or "", word, path)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


@dataclass(frozen=True)
class Category:
    """One entry of `categories`; `thing` and `colour` are None where the file does not say."""

    id: int
    name: str
    thing: bool | None = None
    colour: Colour | None = None


def read_categories(file: JsonFile) -> list[Category]:
    """The categories of `file`. Raises UserError for an entry that is not understood, and for ids or names that repeat."""
    plain = file.member("categories")
    if not isinstance(plain, list) or not plain:
        raise UserError(f"{file.path}: 'categories' is a list of objects with 'id' and 'name', found {_short(plain)}.")
    categories: list[Category] = []
    for row, item in enumerate(plain):
        who = f"{file.path}: categories[{row}]"
        if not isinstance(item, Mapping) or type(item.get("id")) is not int or not isinstance(item.get("name"), str):
            raise UserError(
                f"{who}: expected an object with a whole number 'id' and a text 'name', found {_short(item)}."
            )
        if item.get("isthing", 0) not in (0, 1):
            raise UserError(f"{who}: the field 'isthing' is 0 or 1, found {_short(item['isthing'])}.")
        thing = bool(item["isthing"]) if "isthing" in item else None
        categories.append(Category(item["id"], item["name"], thing, _colour(item.get("color"))))
    for what in ("id", "name"):
        values = [getattr(category, what) for category in categories]
        repeated = sorted({value for value in values if values.count(value) > 1}, key=str)
        if repeated:
            raise UserError(
                f"{file.path}: 'categories' has the {what} {repeated[0]!r} more than once; ids and names are unique."
            )
    return categories


def common_categories(files: Sequence[tuple[Path, Sequence[Category]]]) -> list[Category]:
    """The categories of several files together, by id.

    Raises:
        UserError: the files disagree about a name, or about thing and stuff.
    """
    known: dict[int, tuple[Category, Path]] = {}
    for path, categories in files:
        for category in categories:
            before, other = known.setdefault(category.id, (category, path))
            if before.name != category.name:
                raise UserError(
                    f"{path}: the category {category.id} is '{category.name}', but in {other} it is '{before.name}'; the files "
                    "of one data set share one list of categories."
                )
            if before.thing != category.thing:
                raise UserError(
                    f"{path}: the category {category.id} ('{category.name}') is {_sort(category)}, but in {other} it is "
                    f"{_sort(before)}; correct 'isthing' in one of them."
                )
    return [known[identifier][0] for identifier in sorted(known)]


def category_space(path: Path, categories: Sequence[Category], things: Sequence[bool]) -> LabelSpace:
    """Label i for the i-th of `categories`. Raises UserError, with `path`, for what a label space refuses."""
    colours = tuple(category.colour for category in categories if category.colour is not None)
    try:
        return LabelSpace(
            tuple(category.name for category in categories),
            tuple(things),
            colours if len(colours) == len(categories) else (),
            ids=tuple(category.id for category in categories),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sort(category: Category) -> str:
    return {True: "a thing", False: "stuff", None: "neither thing nor stuff"}[category.thing]


def _colour(value: object) -> Colour | None:
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value):
        return value[0], value[1], value[2]
    return None


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
