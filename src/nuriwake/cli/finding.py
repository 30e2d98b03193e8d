"""Which images a call of predict means: those in folders, but none that an earlier call wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nuriwake.cli.earlier import LISTING, listed_results
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


def find_images(paths: Sequence[Path], *, channels: int = 1) -> Found:
    """Image files and NIfTI volumes under `paths`.

    Args:
        paths: files and folders; of a folder what `visible_files` finds, as for training, without earlier predictions: the
            files that a list of predictions names as written, wherever the list lies. Whatever else is beside them counts.
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
            own, written = _sorted_out(path)
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
    given = {path.resolve() for path in paths if path.is_file()}
    earlier = {file: folder for file, folder in earlier.items() if not given or file.resolve() not in given}
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


def _sorted_out(path: Path) -> tuple[list[Path], dict[Path, Path]]:
    """The files below the folder `path`, sorted; and the images among them that are predictions -> the folder of their list."""
    own: list[Path] = []
    earlier: dict[Path, Path] = {}
    written = _listed_above(path)
    for parent, names in visible_files(path):
        folder = Path(parent)
        if LISTING in names:
            written |= {folder / name: folder for name in listed_results(folder)}
        for file in map(folder.joinpath, names):
            place = written.get(file)
            if place is None:
                own.append(file)
            elif file.suffix.lower() in IMAGE_SUFFIXES or volume_name(file) is not None:
                earlier[file] = place
    return sorted(own), earlier


def _listed_above(path: Path) -> dict[Path, Path]:
    """The files below the folder `path` that lists in folders above it name as predictions -> the folder of the list."""
    here = path.resolve()
    return {
        path / (folder / name).relative_to(here): folder
        for folder in here.parents
        for name in listed_results(folder)
        if (folder / name).is_relative_to(here)
    }


def _left_out(earlier: Mapping[Path, Path]) -> str:
    count, folders = len(earlier), [str(folder) for folder in dict.fromkeys(earlier.values())]
    return f"Left out as results of predict: {count} {'image' if count == 1 else 'images'} in {listed(folders)}."
