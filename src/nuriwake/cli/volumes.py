"""Volumes predicted slice by slice: back comes a label volume that lies exactly where the given one does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nuriwake.core.counting import value_counts
from nuriwake.core.files import atomic_path, write_bytes
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target, label_files
from nuriwake.core.views import semantic_view
from nuriwake.data.headers import MAX_PIXELS
from nuriwake.data.nifti import coarsest_axis
from nuriwake.data.nifti_address import SliceAddress, channel_files, channel_of, volume_name
from nuriwake.data.nifti_slices import read_slice
from nuriwake.data.nifti_volume import AXES, Volume, open_volume
from nuriwake.data.nifti_write import label_bytes
from nuriwake.data.parallel import spread
from nuriwake.inference.predictor import Predictor

MOST_OVERLAYS = 8
"""Slices of a volume, evenly spaced, that are also written as pictures."""


@dataclass(eq=False)
class VolumeAnswer:
    """What has been predicted of one volume so far: a label volume, or one per class where classes overlap.

    Args:
        volume: whose place the labels have.
        axis: across which it is cut.
    """

    volume: Volume
    axis: int
    space: LabelSpace | None = None
    labels: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def add(self, index: int, prediction: Target) -> None:
        """The prediction of slice `index`."""
        seen = semantic_view(prediction)
        self.space = seen.space
        layers = [seen.labels] if seen.space.exclusive else list(np.moveaxis(seen.labels, 2, 0))
        if not self.labels:
            self.labels = [self.volume.empty(np.uint8) for _ in layers]
        for stored, layer in zip(self.labels, layers, strict=True):
            self.volume.place(stored, self.axis, index, layer)

    def classes(self) -> dict[str, dict[str, float]]:
        """Class name -> voxels and millilitres, for the classes that occur."""
        assert self.space is not None
        if self.space.exclusive:
            counts = value_counts(self.labels[0])
        else:
            counts = np.array([np.count_nonzero(stored == 1) for stored in self.labels])
        each = self.volume.voxel_millilitres
        named = zip(self.space.names, counts[: len(self.space)].tolist(), strict=True)
        return {name: {"voxels": count, "millilitres": round(count * each, 4)} for name, count in named if count}

    def write(self, path: Path) -> list[Path]:
        """`path` (.nii.gz), or class/`path` for each class where they overlap."""
        assert self.space is not None
        files = label_files(path, self.space)
        for file, stored in zip(files, self.labels, strict=True):
            write_bytes(file, label_bytes(self.volume, stored))
        return list(files)


@dataclass(frozen=True)
class VolumeWanted:
    """How a volume is answered.

    Args:
        out: the folder.
        overlay: pictures of up to `MOST_OVERLAYS` slices, too.
        axis: across which it is cut; None takes the one with the coarsest spacing.
        tick: told which share of the slices is done.
    """

    out: Path
    overlay: bool
    axis: int | None
    tick: Callable[[float], None]


def find_volumes(paths: Sequence[Path], channels: int) -> list[tuple[Path, str]]:
    """Of the NIfTI files among `paths` the first of each volume, and what its prediction is called."""
    volumes = [path for path in paths if volume_name(path) is not None]
    return [(path, prediction_name(path, channels)) for path in volumes if joined_files(path, channels)[0] == path]


def joined_files(file: Path, channels: int) -> tuple[Path, ...]:
    """The volume files that make up one image of `channels`: NAME_0000, NAME_0001, ... where it takes them all, else `file`.

    Raises:
        UserError: `file` is no NIfTI volume.
    """
    name = volume_name(file)
    found = channel_of(name or "")
    if found is None or name is None or open_volume(file).channels == channels:
        return (file,)
    first = file.with_name(f"{found[0]}_0000{file.name[len(name) :]}")
    files = channel_files(first, channels)
    return files if all(path.is_file() for path in files) else (file,)


def prediction_name(file: Path, channels: int) -> str:
    """The file's name without suffix, and without the number of the channel where that says nothing more."""
    name = volume_name(file) or file.stem
    found = channel_of(name)
    alone = found is not None and not file.with_name(file.name.replace("_0000.", "_0001.")).is_file()
    joined = len(joined_files(file, channels)) > 1
    return found[0] if found is not None and (joined or (alone and found[1] == 0)) else name


def predict_volume(
    predictor: Predictor, file: Path, name: str, *, wanted: VolumeWanted, entry: dict[str, Any]
) -> Iterator[Sample]:
    """Slice by slice; then the label volume `NAME.nii.gz` and the pictures are written, and `entry` tells of them.

    Raises:
        UserError: the volume cannot be read or does not suit the model.
    """
    files = joined_files(file, predictor.preprocessing.channels)
    volume = open_volume(files[0])
    axis = coarsest_axis(volume) if wanted.axis is None else wanted.axis
    count = volume.turned_shape[axis]
    answer = VolumeAnswer(volume, axis)
    shown = set(spread(range(count), MOST_OVERLAYS)) if wanted.overlay else set[int]()
    overlays: list[Path] = []
    digits = len(str(count - 1))
    addresses = [SliceAddress(files[0], axis, index, len(files)) for index in range(count)]
    size = predictor.settings.batch_size
    for start in range(0, count, size):
        images = [_read(predictor, address) for address in addresses[start : start + size]]
        for index, (image, prediction) in enumerate(zip(images, predictor.batch(images), strict=True), start):
            answer.add(index, prediction)
            number = f"{index:0{digits}d}"
            if index in shown:
                overlays.append(wanted.out / f"{name}.slices" / f"{number}.overlay.jpg")
                _picture(prediction, image, overlays[-1])
            wanted.tick((index + 1) / count)
            source = addresses[index].path
            title = name if count == 1 else f"{name}/{number}"
            yield Sample(image, prediction, name=title, source=source, spacing=volume.picture_spacing(axis))
    labels = answer.write(wanted.out / f"{name}.nii.gz")
    entry.update(
        {
            "image": str(file) if len(files) == 1 else [str(path) for path in files],
            "shape": list(volume.shape),
            "spacing_mm": [volume.spacing[volume.axes.index(stored)] for stored in range(3)],
            "slices": {"axis": axis, "direction": AXES[axis], "count": count},
            "labels": _relative(labels, wanted.out),
            **({"overlays": _relative(overlays, wanted.out)} if overlays else {}),
            "classes": answer.classes(),
        }
    )


def volume_note(file: Path, entry: dict[str, Any], *, objects: bool) -> str:
    """What was made of one volume, as sentences; `objects` that the model told apart are one class there."""
    cut, shown = entry["slices"], len(entry.get("overlays", ()))
    amounts = ", ".join(f"{name} {found['millilitres']:g} ml" for name, found in entry["classes"].items())
    apart = " Objects are not followed from slice to slice; the label volume holds their classes." if objects else ""
    return (
        f"{file.name}: {cut['count']} slices across axis {cut['axis']} ({cut['direction']}) -> {', '.join(entry['labels'])}; "
        f"{shown} of the slices as pictures. {amounts}.{apart}"
    )


def _read(predictor: Predictor, address: SliceAddress) -> np.ndarray:
    """The slice as the model takes it; stored bytes are bytes for a model of bytes."""
    image = read_slice(address, limit=MAX_PIXELS)
    stored = [open_volume(file) for file in address.stored]
    depth = np.dtype(predictor.preprocessing.depth)
    if depth != np.float32 and all(volume.scale is None and volume.dtype == depth for volume in stored):
        image = image.astype(depth)
    return predictor.preprocessing.checked(image, str(address.file))


def _picture(prediction: Target, image: np.ndarray, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(prediction.overlay(image)).save(temporary, format="JPEG", quality=92)


def _relative(files: Sequence[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]
