"""NIfTI volumes (extra `medical`) as a data set of slices: imagesTr/ and labelsTr/ as the Medical Segmentation Decathlon and
nnU-Net lay them out, or images/ beside masks/ or labels/.

One sample is one slice, float32, with the spacing of its pixels in millimetres, so that surface distances come out in
millimetres. All slices of a volume are in one split. Which way up a slice is: `nifti_volume`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.data.assembly import final_splits
from nuriwake.data.classes import ClassList, class_label, find_classes
from nuriwake.data.coding import MaskCoding, from_mapping
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.deciding import decide
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.layout import pair, refuse_unpaired
from nuriwake.data.nifti_address import SliceAddress, slice_address
from nuriwake.data.nifti_folder import (
    CLASS_FILE,
    SPLIT_FILE,
    Folders,
    find_folders,
    join_channels,
    listed_classes,
    listed_splits,
    volume_files,
)
from nuriwake.data.nifti_slices import read_label_slice
from nuriwake.data.nifti_volume import AXES, Volume, nibabel, open_volume
from nuriwake.data.nifti_write import taken, truth_file, write_nifti
from nuriwake.data.observing import Observed, distinct
from nuriwake.data.parallel import each, spread

MOST_LABELS = 100
"""Where no classes are listed, the values of this many label volumes, evenly spread, say which there are."""

_SAME_SPACING = 1.01
_SAME_PLACE = 0.1


@dataclass(frozen=True)
class VolumeLabelReader:
    """record.target is the address of a slice of a label volume."""

    space: LabelSpace
    coding: MaskCoding

    def __call__(self, record: Record) -> SemanticMap | None:
        """The label map, or None where the record has none. Raises UserError for values that are no labels."""
        address = None if record.target is None else slice_address(record.target)
        return (
            None if address is None else SemanticMap(self.coding(read_label_slice(address), address.path), self.space)
        )


@dataclass(frozen=True, eq=False)
class Case:
    """One volume with its labels.

    Args:
        name: of the volume, unique in the data set.
        files: of its channels, or its one file.
        label: the label volume.
        volume: the header of the first file.
        channels: of all files.
    """

    name: str
    files: tuple[Path, ...]
    label: Path
    volume: Volume
    channels: int

    def records(self, axis: int) -> list[Record]:
        """One per slice across `axis`; a single slice has the name of the volume."""
        count = self.volume.turned_shape[axis]
        digits, spacing = len(str(count - 1)), self.volume.picture_spacing(axis)
        return [
            Record(
                self.name if count == 1 else f"{self.name}/{index:0{digits}d}",
                SliceAddress(self.files[0], axis, index, len(self.files)).path,
                SliceAddress(self.label, axis, index).path,
                spacing,
            )
            for index in range(count)
        ]


def recognise(root: Path) -> str | None:
    """Because there are folders of NIfTI volumes."""
    folders = find_folders(root, None, None)
    if folders is None:
        return None
    names = [folder.relative_to(root) for pair in folders.parts.values() for folder in pair] or folders.alone
    return f"it has NIfTI volumes in {names[0]}/"


def open_nifti(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`.

    Raises:
        UserError: nibabel is not installed, no volumes, volumes without labels or the reverse, headers that do not fit
            together, values beyond the classes.
    """
    nibabel()
    refuse_fields(description, "nifti", "classes", "values", "ignore", "images", "masks", "mask_suffix", "slice_axis")
    if description.spacing != (1.0, 1.0):
        raise UserError(f"{root}: the spacing of NIfTI volumes is in their files; take the field 'spacing' out.")
    folders = find_folders(root, description.images, description.masks)
    if folders is None or not folders.parts:
        raise UserError(
            f"{root}: expected NIfTI volumes (.nii or .nii.gz) in imagesTr/ and labelsTr/, or in images/ and masks/ or labels/; "
            f"found {'no labels' if folders else 'no such folders'}."
        )
    notes: list[str] = []
    found = {split: _cases(root, *part, description, notes) for split, part in folders.parts.items()}
    cases = {case.name: case for part in found.values() for case in part}
    repeated = [name for name, count in Counter(c.name for part in found.values() for c in part).items() if count > 1]
    if repeated:
        raise UserError(f"{root}: volumes of two splits have the same name: {listed(repeated)}.")
    space, coding, class_notes = _classes(root, [case.label for case in cases.values()], description)
    axis, axis_note = _axis([case.volume for case in cases.values()], description.slice_axis)
    splits, split_notes = _splits(root, found, description)
    records = {
        split: tuple(record for name in names for record in cases[name].records(axis))
        for split, names in splits.items()
    }
    channels = _channels(root, list(cases.values()))
    notes += [*class_notes, axis_note, *_about(root, cases, records, channels, folders), *split_notes]
    reader = VolumeLabelReader(space, coding)
    return DataSet(root, "nifti", space, records, reader=reader, notes=tuple(notes), channels=channels, dtype="float32")


FORMAT = Format(
    recognise, open_nifti, write_nifti, holds="classes", keeps_colours=True, taken=taken, truth_file=truth_file
)


def _cases(root: Path, images: Path, labels: Path, description: DataDescription, notes: list[str]) -> list[Case]:
    truth = volume_files(labels)
    files = join_channels(volume_files(images), truth)
    pairing = pair({name: paths[0] for name, paths in files.items()}, truth, description.mask_suffix)
    if description.unpaired == "refuse":
        refuse_unpaired(images.parent, pairing)
    for names, what in (
        (pairing.images_alone, "volumes have no labels"),
        (pairing.masks_alone, "labels have no volume"),
    ):
        if names:
            notes.append(f"{len(names)} {what} and are left out, as described: {listed(names)}.")
    if not pairing.pairs:
        raise UserError(f"{root}: no volume in {images.name}/ has labels of its name in {labels.name}/.")
    items = sorted(pairing.pairs.items())
    return each(lambda item: _case(item[0], files[item[0]], truth[item[1]]), items)


def _case(name: str, files: tuple[Path, ...], label: Path) -> Case:
    """The case, where shape and place of all its files agree."""
    volumes = [open_volume(path) for path in files]
    first = volumes[0]
    for other in (*volumes[1:], open_volume(label)):
        if other.turned_shape != first.turned_shape:
            raise UserError(
                f"{other.path}: {_by(other.turned_shape)} voxels (right x anterior x superior), but {first.path} has "
                f"{_by(first.turned_shape)}; they must be equal. Was one of them resampled or cropped?"
            )
        stray = _stray(first, other)
        if stray > _SAME_PLACE * min(first.spacing):
            raise UserError(
                f"{other.path}: its affine puts voxels up to {stray:.3g} mm from where that of {first.path} has them; labels "
                "and images must lie in one place. Resample it, or copy the affine where only the header is wrong."
            )
    return Case(name, files, label, first, sum(volume.channels for volume in volumes))


def _stray(one: Volume, other: Volume) -> float:
    """The most millimetres between the corners of two volumes of one shape."""
    corners = np.array(np.meshgrid(*((0, side - 1) for side in one.turned_shape), [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((one.turned_affine - other.turned_affine) @ corners)[:3], axis=0).max())


def _axis(volumes: Sequence[Volume], given: int | None) -> tuple[int, str]:
    """Across which axis all volumes are cut."""
    if given is not None:
        return given, f"Slices lie across axis {given} ({AXES[given]}), as described."
    votes = Counter(coarsest_axis(volume) for volume in volumes)
    axis = max(votes, key=lambda item: (votes[item], item))
    flat = all(volume.turned_shape[axis] == 1 for volume in volumes)
    why = "which has one voxel" if flat else "the one with the coarsest spacing, or the last of equal ones"
    most = "" if len(votes) == 1 else f" in {votes[axis]} of {len(volumes)} volumes"
    return axis, (
        f"Slices lie across axis {axis} ({AXES[axis]}), {why}{most}; 'slice_axis' in a YAML description chooses another."
    )


def coarsest_axis(volume: Volume) -> int:
    """The axis with the widest spacing, of equal ones the last; but one of a single voxel, if there is such a one."""
    flat = [axis for axis, side in enumerate(volume.turned_shape) if side == 1]
    if flat:
        return flat[-1]
    widest = max(volume.spacing)
    return max(axis for axis, step in enumerate(volume.spacing) if step * _SAME_SPACING >= widest)


def _splits(
    root: Path, found: Mapping[str, Sequence[Case]], description: DataDescription
) -> tuple[dict[str, list[str]], list[str]]:
    """Split -> names of volumes."""
    volumes = {split: [Record(case.name, case.files[0]) for case in part] for split, part in found.items()}
    fold = {} if description.splits else listed_splits(root)
    if set(fold) >= {"train", "val"} and "val" not in volumes:
        rest = {split: part for split, part in volumes.items() if split not in ("", "train")}
        by_name = {record.name: record for split in ("", "train") for record in volumes.get(split, ())}
        missing = [name for part in fold.values() for name in part if name not in by_name]
        twice = set(fold["train"]) & set(fold["val"])
        if missing or twice:
            what = f"lists {listed(missing)}, which is not here" if missing else f"has {listed(sorted(twice))} twice"
            raise UserError(f"{root / SPLIT_FILE}: the first fold {what}.")
        volumes = {split: [by_name[name] for name in names] for split, names in fold.items()} | rest
    final, notes = final_splits(root, volumes, description, what="volumes")
    if fold:
        notes.append(f"Splits are those of the first fold in {SPLIT_FILE}.")
    notes.append("Splits count volumes: slices of one are never in two.")
    return {split: [record.name for record in part] for split, part in final.items()}, notes


def _classes(
    root: Path, labels: Sequence[Path], description: DataDescription
) -> tuple[LabelSpace, MaskCoding, list[str]]:
    listing = None if description.classes or description.values else listed_classes(root)[0]
    if listing is not None:
        values = {value: class_label(name, listing.names, IGNORE) for value, name in listing.values.items()}
        coding = {value: label for value, label in values.items() if label is not None}
        coding.update(dict.fromkeys(description.ignored or (), IGNORE))
        return LabelSpace(listing.names), from_mapping(coding), [f"{len(listing.names)} classes from {CLASS_FILE}."]
    classes = find_classes(root, description)
    decision = decide(root, _observe(labels), _with_ignored(classes, description), instance_ids=False)
    assert decision.coding is not None  # which only instance ids do without
    return decision.space, decision.coding, list(decision.notes)


def _with_ignored(classes: ClassList, description: DataDescription) -> ClassList:
    ignored = classes.ignore if description.ignored is None else description.ignored
    return ClassList(classes.names, classes.colours, ignored, classes.values, classes.source)


def _observe(labels: Sequence[Path]) -> Observed:
    """The values that label volumes hold."""
    chosen = spread(labels, MOST_LABELS)
    seen = each(_values, chosen)
    firsts: dict[int, Path] = {}
    for path, values in zip(chosen, seen, strict=True):
        for value in values:
            firsts.setdefault(value, path)
    ordered = {value: firsts[value] for value in sorted(firsts)}
    return Observed(ordered, {}, len(chosen), len(labels), False, False, False, 1.0, tuple(map(max, seen)))


def _values(path: Path) -> list[int]:
    volume = open_volume(path)
    axis = volume.axes.index(2)  # across the last stored axis slices are read without gathering
    found = {
        value
        for index in range(volume.turned_shape[axis])
        for value in distinct(read_label_slice(SliceAddress(path, axis, index))).tolist()
    }
    return sorted(found)


def _channels(root: Path, cases: Sequence[Case]) -> int:
    kinds = Counter(case.channels for case in cases)
    if len(kinds) > 1:
        rare = kinds.most_common()[-1][0]
        example = next(case for case in cases if case.channels == rare)
        found = "; ".join(f"{number} of {count}" for count, number in kinds.most_common())
        raise UserError(
            f"{root}: all volumes must have the same channels, found {found} (such as {example.files[0]} with {rare})."
        )
    return next(iter(kinds))


def _about(
    root: Path, cases: Mapping[str, Case], records: Mapping[str, Sequence[Record]], channels: int, folders: Folders
) -> list[str]:
    slices = [record for part in records.values() for record in part]
    steps = np.array([record.spacing for record in slices])
    low, high = steps.min(), steps.max()
    span = f"{low:.3g}" if high < low * _SAME_SPACING else f"{low:.3g} to {high:.3g}"
    names = listed_classes(root)[1]
    called = f" ({listed(names)})" if len(names) == channels else ""
    notes = [
        f"{len(cases)} volumes, {len(slices)} slices of {channels} {'channel' if channels == 1 else 'channels'}{called} as "
        f"float32; pixels of {span} mm."
    ]
    for folder in folders.alone:
        notes.append(
            f"{folder.relative_to(root)}/ has no labels beside it; its volumes are left out, and can be predicted."
        )
    return notes


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
