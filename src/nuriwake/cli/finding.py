"""Which images a call of predict means: those in folders, but none that an earlier call wrote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuriwake.cli.earlier import LISTING
from nuriwake.cli.volumes import find_volumes
from nuriwake.core.errors import UserError
from nuriwake.data.dataset import listed
from nuriwake.data.headers import IMAGE_SUFFIXES
from nuriwake.data.layout import visible_files
from nuriwake.data.nifti_address import volume_name


@dataclass(frozen=True)
class Found:
    """What to predict.

    Attributes:
        files: name of the prediction (relative, without suffix) -> file, sorted.
        notes: what was left out, for the user.
    """

    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()


def find_images(paths: Sequence[Path], out: Path, *, channels: int = 1) -> Found:
    """Image files and NIfTI volumes under `paths`.

    Args:
        paths: files and folders; of a folder what `visible_files` finds, as for training, without earlier predictions: what
            lies in `out`, in a folder with a list of predictions alone, or is named by the list in a folder of images.
        out: the folder for the results; it need not exist.
        channels: of an image; as many volumes NAME_0000, NAME_0001, ... are one, and its file is the first.

    Raises:
        UserError: nothing given, a path that does not exist, a folder without images, or two images of one name.
    """
    if not paths:
        raise UserError("Give at least one image or folder to predict.")
    found: dict[str, Path] = {}
    earlier: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            own, written = _sorted_out(path, out.resolve())
            earlier |= written
            files = _named(path, own, written, channels)
        else:
            files = _alone(path, channels)
        for file, name in files:
            if name in found:
                raise UserError(
                    f"{found[name]} and {file} would both be saved as '{name}'; predict them into two folders."
                )
            found[name] = file
    return Found(dict(sorted(found.items())), (_left_out(earlier),) if earlier else ())


def _alone(path: Path, channels: int) -> list[tuple[Path, str]]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or folder.")
    return find_volumes([path], channels) if volume_name(path) is not None else [(path, path.stem)]


def _named(path: Path, files: Sequence[Path], earlier: Mapping[Path, Path], channels: int) -> list[tuple[Path, str]]:
    """(file, name of its prediction) of those of `files`, below the folder `path`, that are images or first of a volume."""
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    volumes = find_volumes(files, channels)
    if not images and not volumes:
        known = ", ".join(sorted({*IMAGE_SUFFIXES, ".nii", ".nii.gz"}))
        but = f" {_left_out(earlier)}" if earlier else ""
        raise UserError(f"{path}: no images in this folder (looked for {known}).{but}")
    return [(file, file.relative_to(path).with_suffix("").as_posix()) for file in images] + [
        (file, (file.parent.relative_to(path) / name).as_posix()) for file, name in volumes
    ]


def _sorted_out(path: Path, out: Path) -> tuple[list[Path], dict[Path, Path]]:
    """The files below the folder `path`, sorted; and the images among them that are predictions -> whose folder they are in."""
    own: list[Path] = []
    earlier: dict[Path, Path] = {}
    written: dict[Path, Path] = {}
    closed: list[Path] = []
    for parent, names in visible_files(path):
        folder = Path(parent)
        home = next((home for home in closed if folder.is_relative_to(home)), None)
        if home is None:
            entries = _entries(folder) if LISTING in names else []
            # Of a folder that was asked for, or that holds what was predicted as well, only the predictions are left out.
            if folder != path and (folder.resolve() == out or (entries and not _holds_images(folder, entries))):
                closed.append(home := folder)
            for entry in entries:
                written |= {folder / name: folder for name in (*entry["labels"], entry.get("overlay") or "")}
        for file in map(folder.joinpath, names):
            place = home or written.get(file)
            if place is None:
                own.append(file)
            elif file.suffix.lower() in IMAGE_SUFFIXES or volume_name(file) is not None:
                earlier[file] = place
    return sorted(own), earlier


def _entries(folder: Path) -> list[dict[str, Any]]:
    """Of the list of predictions in `folder`; none where a file of that name is not ours."""
    try:
        entries = json.loads((folder / LISTING).read_text(encoding="utf-8"))["images"]
        _ = [
            folder / name for entry in entries for name in (entry["image"], *entry["labels"], entry.get("overlay", ""))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return entries


def _holds_images(folder: Path, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Some of the images that were predicted lie in the folder of the predictions."""
    here = folder.resolve()
    return any(Path(entry["image"]).resolve().is_relative_to(here) for entry in entries)


def _left_out(earlier: Mapping[Path, Path]) -> str:
    count, folders = len(earlier), [str(folder) for folder in dict.fromkeys(earlier.values())]
    return f"Left out as results of predict: {count} {'image' if count == 1 else 'images'} in {listed(folders)}."
