"""Where a slice of a NIfTI volume lies, as a path: `heart_03.nii.gz/slice-17-of-axis-2`.

A file has no children, so such a path is never a file of its own, and whatever takes the path of an image (`read_image`,
`image_header`, the fingerprint, messages) takes a slice too.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_SLICE = re.compile(r"slice-(\d+)-of-axis-([012])(?:-in-(\d+)-files)?")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class SliceAddress:
    """One slice.

    Args:
        file: of the volume; the first one where every channel has its own.
        axis: across which it lies, 0, 1 or 2 of the turned volume (right, anterior, superior).
        index: along that axis, from 0 (the left, posterior or inferior end).
        files: of the channels, `NAME_0000.nii.gz`, `NAME_0001.nii.gz`, ... as nnU-Net names them.
    """

    file: Path
    axis: int
    index: int
    files: int = 1

    @property
    def path(self) -> Path:
        """The address as a path."""
        joined = f"-in-{self.files}-files" if self.files > 1 else ""
        return self.file / f"slice-{self.index}-of-axis-{self.axis}{joined}"

    @property
    def stored(self) -> tuple[Path, ...]:
        """The files."""
        return channel_files(self.file, self.files)


def slice_address(path: Path) -> SliceAddress | None:
    """The address that `path` is; None where it is the path of a file."""
    found = _SLICE.fullmatch(path.name)
    if found is None or volume_name(path.parent) is None:
        return None
    index, axis, files = found.groups()
    return SliceAddress(path.parent, int(axis), int(index), int(files or 1))


def stored_files(path: Path) -> tuple[Path, ...]:
    """The files in which the image `path` is stored: itself, where it is no slice of a volume."""
    address = slice_address(path)
    return (path,) if address is None else address.stored


def volume_name(path: Path) -> str | None:
    """The file's name without .nii or .nii.gz; None where it is no NIfTI file."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)
    return None if suffix is None else path.name[: -len(suffix)]


def channel_files(first: Path, count: int) -> tuple[Path, ...]:
    """`first` alone, or `count` files that count up from it: NAME_0000.nii.gz, NAME_0001.nii.gz, ..."""
    if count == 1:
        return (first,)
    head, _, tail = first.name.rpartition("_0000")
    return tuple(first.with_name(f"{head}_{channel:04d}{tail}") for channel in range(count))


def channel_of(name: str) -> tuple[str, int] | None:
    """("heart_03", 1) for "heart_03_0001", as nnU-Net names the files of channels; else None."""
    found = _CHANNEL.fullmatch(name)
    return None if found is None else (found[1], int(found[2]))
