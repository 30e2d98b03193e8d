"""Where the images and the masks of a folder lie, and which belong together."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.data.assembly import split_name
from nuriwake.data.dataset import listed
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.texts import composed, counted

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth")

# What names have more than the bare one: (prefix, suffix). The bare name comes first, so that it wins ties.
_IMAGE_AFFIXES = (("", ""), ("", "_image"), ("", "_img"), ("", "_sat"), ("image_", ""), ("img_", ""))
_MASK_AFFIXES = (
    ("", ""), ("", "_mask"), ("", "-mask"), ("", ".mask"), ("", "_masks"), ("", "_label"), ("", "_labels"), ("", "_seg"),
    ("", "_segmentation"), ("", "_gt"), ("", "_L"), ("mask_", ""), ("label_", ""), ("gt_", ""), ("seg_", ""),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Split name ("" for none) -> (folder of images, folder of masks); and what lies beside and is not used.

    Args:
        maskless: splits that have images only.
        loose: folders and image files beside the split folders that are no split.
    """

    parts: Mapping[str, tuple[Path, Path]]
    maskless: tuple[str, ...] = ()
    loose: tuple[Path, ...] = ()


def find_layout(root: Path, images: str | None = None, masks: str | None = None) -> Layout | None:
    """images/ + masks/, images/train + masks/train, or train/images + train/masks below `root`; None when there is none.

    Args:
        images, masks: the names of the folders where they are not among `IMAGE_FOLDERS` and `MASK_FOLDERS`.
    """
    image_folder, mask_folder = _child(root, images, IMAGE_FOLDERS), _child(root, masks, MASK_FOLDERS)
    if image_folder and mask_folder:
        image_splits, mask_splits = _split_folders(image_folder), _split_folders(mask_folder)
        shared = {name: (folder, mask_splits[name]) for name, folder in image_splits.items() if name in mask_splits}
        maskless = tuple(sorted(set(image_splits) - set(shared)))
        if not shared:
            return Layout({"": (image_folder, mask_folder)})
        used = {folder for folders in shared.values() for folder in folders} | set(image_splits.values())
        return Layout(shared, maskless, tuple(_loose(image_folder, used) + _loose(mask_folder, used)))
    parts: dict[str, tuple[Path, Path]] = {}
    maskless = []
    for name, folder in _split_folders(root).items():
        image_folder, mask_folder = _child(folder, images, IMAGE_FOLDERS), _child(folder, masks, MASK_FOLDERS)
        if image_folder and mask_folder:
            parts[name] = (image_folder, mask_folder)
        elif image_folder:
            maskless.append(name)
    return Layout(parts, tuple(maskless)) if parts else None


def image_files(folder: Path) -> dict[str, Path]:
    """Every image file below `folder`: path without suffix, relative, with `/` -> file, sorted.

    Keys are composed (see `composed`), so that they match whatever wrote the names; the paths are those on disk.

    Raises:
        UserError: two files of one name (a.jpg and a.png).
    """
    files: dict[str, Path] = {}
    for parent, names in visible_files(folder):
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 (half the time of Path on 100,000 files)
            if suffix.lower() in IMAGE_SUFFIXES:
                path = Path(parent) / name
                key = composed((Path(parent) / stem).relative_to(folder).as_posix())
                if key in files:
                    raise UserError(f"{path}: there is also {files[key].name}; one name must be one image.")
                files[key] = path
    return files


def visible_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(path of a folder, names of its files), of `folder` and all below it, in the order of names; hidden ones are left out.

    Links are followed, except into a folder that they lie in themselves: such a walk would not end.
    """
    start = os.path.realpath(folder)
    # Path of a folder -> its real path and those above it on the way, the real place last.
    ways = {os.fspath(folder): (*map(str, Path(start).parents), start)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        yield parent, sorted(name for name in names if not name.startswith("."))
        above = ways.pop(parent)
        entered: list[str] = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            path = os.path.join(parent, name)  # noqa: PTH118 (as the walk writes it)
            linked = os.path.islink(path)  # noqa: PTH114
            real = os.path.realpath(path) if linked else os.path.join(above[-1], name)  # noqa: PTH118
            if real not in above:
                ways[path] = (*above, real)
                entered.append(name)
        folders[:] = entered


def distinct_names(found: Sequence[tuple[str, Path]]) -> list[str]:
    """The names of (name, image file) as they are where no two are one; else the paths of the images below the folder in which
    all of them lie, without suffix."""
    names = [name for name, _ in found]
    if len(set(names)) == len(names):
        return names
    paths = [Path(os.path.abspath(path)) for _, path in found]  # noqa: PTH100 (links stay links)
    top = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(top).with_suffix("").as_posix() for path in paths]


def holds_images(folder: Path) -> bool:
    """Whether there is an image file somewhere below `folder`; stops at the first."""
    return any(
        os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        for _, names in visible_files(folder)
        for name in names
    )


@dataclass(frozen=True)
class Pairing:
    """Keys of images and masks that belong together.

    Args:
        pairs: image key -> mask key.
        affix: what mask names have more, as found ("_mask"), or "".
        images_alone, masks_alone: keys without a counterpart.
    """

    pairs: Mapping[str, str]
    affix: str
    images_alone: tuple[str, ...]
    masks_alone: tuple[str, ...]


def pair(images: Mapping[str, Path], masks: Mapping[str, Path], suffix: str | None = None) -> Pairing:
    """Match by name, or by the one common affix (`suffix`, or of the usual ones) that matches the most.

    Composed and decomposed names are one name (see `composed`).
    """
    best: tuple[dict[str, str], str] = ({}, "")
    mask_affixes = _MASK_AFFIXES if suffix is None else (("", composed(suffix)),)
    for image_affix in _IMAGE_AFFIXES:
        bare = {_bare(key, image_affix): key for key in images}
        for mask_affix in mask_affixes:
            found = {bare[name]: key for key in masks if (name := _bare(key, mask_affix)) in bare and name is not None}
            if len(found) > len(best[0]):
                best = found, " and ".join(part for part in mask_affix if part)
            if len(found) == len(images) == len(masks):
                break
        if len(best[0]) == len(images):
            break
    paired = set(best[0].values())
    return Pairing(
        best[0],
        best[1],
        tuple(key for key in images if key not in best[0]),
        tuple(key for key in masks if key not in paired),
    )


def alone(pairing: Pairing) -> list[tuple[str, tuple[str, ...]]]:
    """("3 images have no mask", their names), and likewise of masks; nothing of a kind that has none."""
    kinds = (
        (pairing.images_alone, "[image has|images have] no mask"),
        (pairing.masks_alone, "[mask has|masks have] no image"),
    )
    return [(f"{len(names)} {counted(text, len(names))}", names) for names, text in kinds if names]


def refuse_unpaired(root: Path, pairing: Pairing) -> None:
    """Raises UserError that lists up to ten names of each kind, when something has no counterpart."""
    parts = [f"{what}: {listed(names)}" for what, names in alone(pairing)]
    if parts:
        raise UserError(
            f"{root}: {'; '.join(parts)}. An image and its mask have the same name; complete them, or write "
            "'unpaired: skip' in a YAML description to leave them out."
        )


def _bare(key: str, affix: tuple[str, str]) -> str | None:
    folder, _, name = composed(key).rpartition("/")
    prefix, suffix = affix
    if not (name.startswith(prefix) and name.endswith(suffix) and len(name) > len(prefix) + len(suffix)):
        return None
    name = name[len(prefix) : len(name) - len(suffix)]
    return f"{folder}/{name}" if folder else name


def _child(folder: Path, given: str | None, usual: tuple[str, ...]) -> Path | None:
    if given is not None:
        return folder / given if (folder / given).is_dir() else None
    children = {child.name.lower(): child for child in _folders(folder)}
    return next((children[name] for name in usual if name in children), None)


def _loose(folder: Path, used: set[Path]) -> list[Path]:
    """Folders that are not used, and image files, directly in `folder`."""
    children = sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child not in used)
    return [child for child in children if child.suffix.lower() in IMAGE_SUFFIXES or child.is_dir()]


def _split_folders(folder: Path) -> dict[str, Path]:
    return {name: child for child in _folders(folder) if (name := split_name(child.name)) is not None}


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
