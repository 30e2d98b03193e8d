"""NIfTI volumes, written as nnU-Net lays them out: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, imagesTs/ and labelsTs/
for the test split, dataset.json and splits_final.json.

Slices of a volume become that volume again, label by label in the place, order and affine in which it is stored. Other images
become volumes of one slice.
"""

import gzip
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_bytes, write_json
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.nifti_address import SliceAddress, slice_address
from nuriwake.data.nifti_folder import CLASS_FILE, SPLIT_FILE, read_json
from nuriwake.data.nifti_volume import Volume, nibabel, open_volume
from nuriwake.data.seen import target_of
from nuriwake.data.written import (
    WriteSettings,
    Written,
    count_note,
    counted_notes,
    refuse_existing,
    refuse_other_classes,
)

_PLACE_FIELDS = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_GZIP_LEVEL = 6


class _Part(NamedTuple):
    """One sample: its slice, None for an image of its own, and its labels (H, W) uint8."""

    name: str
    address: SliceAddress | None
    labels: np.ndarray
    sample: Sample


@dataclass(eq=False)
class _Writing:
    """What one split has become so far."""

    images: Path
    labels: Path
    space: LabelSpace
    settings: WriteSettings
    files: list[Path] = field(default_factory=list[Path])
    names: list[str] = field(default_factory=list[str])
    notes: dict[str, int] = field(default_factory=dict[str, int])
    channels: int = 0
    ignored: bool = False


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    stage, known = _stage(split), listed_already(folder)
    # The volumes of train and val share a folder; which are which is listed.
    return () if stage == "Tr" and known and split not in known else (folder / f"labels{stage}",)


def truth_file(name: str, image: Path, split: str) -> str:
    """The volume of labels of a sample: of a slice that of its volume."""
    return f"labels{_stage(split)}/{_case_name(name, slice_address(image), split)}.nii.gz"


def write_nifti(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes `samples` as one split; slices of one volume follow each other, all of them.

    Labels are written in the smallest integer type that holds them; pixels that are ignored get the number after the last
    class, as nnU-Net wants it.

    Raises:
        UserError: the split is there already, several classes per pixel, a volume of which slices are missing, two volumes
            of one name, or a sample without a target.
    """
    nibabel()
    stage, known = _stage(settings.split), listed_already(folder)
    refuse_existing(*taken(folder, settings.split))
    writing = _Writing(folder / f"images{stage}", folder / f"labels{stage}", space, settings)
    for _, group in groupby(_parts(samples, writing), key=lambda part: part.name):
        _write_case(list(group), writing)
    if stage == "Tr":
        splits = {**known, settings.split: sorted(writing.names)}
        write_json(folder / SPLIT_FILE, [splits])
        writing.files.append(folder / SPLIT_FILE)
    writing.files.append(_write_classes(folder / CLASS_FILE, writing, trained=stage == "Tr"))
    notes = counted_notes(writing.notes)
    if space.colours != LabelSpace(space.names).colours or any(space.things):
        notes.append("NIfTI holds no colours and does not say which classes are countable; both are left behind.")
    return Written(tuple(writing.files), tuple(notes))


def listed_already(folder: Path) -> dict[str, list[str]]:
    """Split -> volumes that splits_final.json in `folder` lists; empty without one."""
    plain = read_json(folder / SPLIT_FILE)
    return dict(plain[0]) if isinstance(plain, list) and plain and isinstance(plain[0], dict) else {}


def label_bytes(volume: Volume, labels: np.ndarray) -> bytes:
    """A .nii.gz of `labels` (as `Volume.empty`, filled by `Volume.place`) that lies exactly where `volume` does."""
    header = type(volume.header)()
    header.set_data_shape(labels.shape)
    for name in _PLACE_FIELDS:
        header[name] = volume.header[name]
    return _packed(labels, volume.affine, header)


def fill(volume: Volume, axis: int, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Label maps (H, W) uint8 of all slices across `axis`, in their order, as an array of the stored shape."""
    stored = volume.empty(np.uint8)
    for index, picture in enumerate(pictures):
        volume.place(stored, axis, index, picture)
    return stored


def _parts(samples: Iterable[Sample], writing: _Writing) -> Iterator[_Part]:
    for sample in samples:
        target = target_of(sample)
        if not target.space.exclusive:
            raise UserError(
                f"{writing.labels.parent}: a NIfTI label volume has one class per voxel; classes overlap here."
            )
        seen = semantic_view(target)
        if not isinstance(target, SemanticMap):
            count_note(
                writing.notes, "[image|images]: the map of classes does not tell objects apart, which is left behind"
            )
        elif target.scores is not None:
            count_note(writing.notes, "[image|images]: scores are left behind")
        writing.space = seen.space
        if not writing.files:
            _refuse_other(writing)
        address = None if sample.source is None else slice_address(sample.source)
        labels = np.where(seen.labels == IGNORE, np.uint8(len(seen.space)), seen.labels)
        writing.ignored = writing.ignored or bool((seen.labels == IGNORE).any())
        name = sample.name or (sample.source.stem if sample.source else "")
        yield _Part(_case_name(name, address, writing.settings.split), address, labels, sample)


def _stage(split: str) -> str:
    return "Ts" if split == "test" else "Tr"


def _case_name(name: str, address: SliceAddress | None, split: str) -> str:
    """Without split and slice; nnU-Net looks in no folders below, so that `/` becomes `__`."""
    name = name.removeprefix(f"{split}/")
    if address is not None and open_volume(address.file).turned_shape[address.axis] > 1:
        name = name.rpartition("/")[0] or name
    return name.replace("/", "__").lstrip(".") or "volume"


def _write_case(parts: list[_Part], writing: _Writing) -> None:
    name, address = parts[0].name, parts[0].address
    path = writing.labels / f"{name}.nii.gz"
    if path.exists():
        raise UserError(
            f"{path}: this already exists; two volumes have the name '{name}', or their slices do not follow."
        )
    if address is None:
        if len(parts) > 1:
            raise UserError(f"Two samples are called '{name}'; names are unique in one split.")
        _write_picture(parts[0], path, writing)
    else:
        volume = open_volume(address.file)
        expected = [
            SliceAddress(address.file, address.axis, i, address.files) for i in range(volume.turned_shape[address.axis])
        ]
        if [part.address for part in parts] != expected:
            raise UserError(
                f"{address.file}: {len(parts)} slices in a row are to be written, of {len(expected)}; a volume is written "
                "whole, all its slices in their order."
            )
        write_bytes(path, label_bytes(volume, fill(volume, address.axis, (part.labels for part in parts))))
        if writing.settings.images == "copy":
            _copy_images(address, name, writing)
    writing.files.append(path)
    writing.names.append(name)


def _copy_images(address: SliceAddress, name: str, writing: _Writing) -> None:
    """The stored voxels as they are; the channels of one file become files of their own, as nnU-Net wants them."""
    volumes = [open_volume(file) for file in address.stored]
    channels = [(volume, channel) for volume in volumes for channel in range(volume.channels)]
    writing.channels = max(writing.channels, len(channels))
    for number, (volume, channel) in enumerate(channels):
        path = writing.images / f"{name}_{number:04d}.nii.gz"
        refuse_existing(path)
        if volume.channels > 1:
            write_bytes(path, _one_channel(volume, channel))
        else:
            with atomic_path(path) as temporary:
                _copy_packed(volume.path, temporary)
        writing.files.append(path)
    if any(volume.channels > 1 for volume in volumes):
        count_note(writing.notes, "[volume|volumes]: every channel is a file of its own (_0000, _0001, ...)")


def _one_channel(volume: Volume, channel: int) -> bytes:
    whole = np.empty(volume.shape, np.float32 if volume.scale else volume.dtype.newbyteorder("="), order="F")
    for index in range(volume.turned_shape[2]):
        raw = volume.picture(2, index)[..., channel]
        values = raw if volume.scale is None else raw * np.float64(volume.scale[0]) + volume.scale[1]
        volume.place(whole, 2, index, values)
    return label_bytes(volume, whole)


def _write_picture(part: _Part, path: Path, writing: _Writing) -> None:
    """An image as a volume of one slice. Its columns run to the left, its rows to the back, as in `nifti_volume`."""
    rows, columns = part.sample.spacing
    affine = np.diag([-columns, -rows, 1.0, 1.0])
    write_bytes(path, _packed(np.asfortranarray(part.labels.T[..., None]), affine, None))
    count_note(writing.notes, "[image|images]: each is a volume of one slice, 1 mm thick")
    if (rows, columns) == (1.0, 1.0):
        count_note(writing.notes, "[image|images]: the size of a pixel is not known and is written as 1 mm")
    if writing.settings.images == "none":
        return
    image = part.sample.image
    writing.channels = max(writing.channels, image.shape[2])
    for channel in range(image.shape[2]):
        file = writing.images / f"{part.name}_{channel:04d}.nii.gz"
        refuse_existing(file)
        write_bytes(file, _packed(np.asfortranarray(image[..., channel].T[..., None]), affine, None))
        writing.files.append(file)


def _packed(array: np.ndarray, affine: np.ndarray, header: Any) -> bytes:
    library = nibabel()
    kind = library.Nifti2Image if isinstance(header, library.Nifti2Header) else library.Nifti1Image
    image = kind(array, affine, header, dtype=array.dtype)
    if header is None:
        image.header.set_xyzt_units("mm")
    # No time of writing in the gzip header: the same data give the same bytes.
    return gzip.compress(image.to_bytes(), _GZIP_LEVEL, mtime=0)


def _copy_packed(source: Path, target: Path) -> None:
    if source.name.lower().endswith(".gz"):
        shutil.copyfile(source, target)
        return
    with (
        source.open("rb") as plain,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def _refuse_other(writing: _Writing) -> dict[str, int]:
    """Name -> label of the classes. Raises UserError where dataset.json has others already."""
    path = writing.labels.parent / CLASS_FILE
    labels = {name: label for label, name in enumerate(writing.space.names)}
    earlier = {name: value for name, value in (read_json(path) or {}).get("labels", labels).items() if name != "ignore"}
    refuse_other_classes(path, earlier, labels)
    return labels


def _write_classes(path: Path, writing: _Writing, *, trained: bool) -> Path:
    labels, before = _refuse_other(writing), read_json(path) or {}
    if writing.ignored or "ignore" in before.get("labels", {}):
        if "ignore" in labels:
            raise UserError(
                f"{path}: a class is called 'ignore', which nnU-Net's dataset.json keeps for what is ignored."
            )
        labels["ignore"] = len(labels)
    channels = max(writing.channels, len(before.get("channel_names", {})), 1)
    plain = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": labels,
        "numTraining": before.get("numTraining", 0) + len(writing.names) * trained,
        "file_ending": ".nii.gz",
    }
    write_json(path, plain)
    return path
