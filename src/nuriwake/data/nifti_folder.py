"""What lies in a folder of NIfTI volumes: cases with the files of their channels, and what dataset.json says.

Layouts are those of the Medical Segmentation Decathlon (Antonelli et al. 2022) and nnU-Net (Isensee et al. 2021), imagesTr/
beside labelsTr/, and images/ beside masks/ or labels/, with or without train/ and val/.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.data.classes import IGNORE_NAMES, ClassList
from nuriwake.data.layout import find_layout, visible_files
from nuriwake.data.nifti_address import channel_of, volume_name
from nuriwake.data.texts import composed

CLASS_FILE, SPLIT_FILE = "dataset.json", "splits_final.json"
_STAGES = {"train": "Tr", "val": "Val", "test": "Ts"}

Files = dict[str, tuple[Path, ...]]
"""Name of a case -> the files of its channels in order, or its one file."""


@dataclass(frozen=True)
class Folders:
    """Split name ("" for none) -> (folder of images, folder of labels); and folders of images without labels."""

    parts: Mapping[str, tuple[Path, Path]]
    alone: tuple[Path, ...] = ()


def find_folders(root: Path, images: str | None, labels: str | None) -> Folders | None:
    """Where images and labels lie; None where there are no such folders with NIfTI files. Looks at names only."""
    if images is None and labels is None:
        pairs = {split: (root / f"images{stage}", root / f"labels{stage}") for split, stage in _STAGES.items()}
        there = {split: pair for split, pair in pairs.items() if holds_volumes(pair[0])}
        parts = {split: pair for split, pair in there.items() if holds_volumes(pair[1])}
        if there:
            return Folders(parts, tuple(pair[0] for split, pair in there.items() if split not in parts))
    layout = find_layout(root, images, labels)
    if layout is None or not all(holds_volumes(folder) for pair in layout.parts.values() for folder in pair):
        return None
    return Folders(layout.parts)


def holds_volumes(folder: Path) -> bool:
    """Whether a NIfTI file lies somewhere below `folder`; stops at the first."""
    return any(volume_name(Path(name)) is not None for _, names in visible_files(folder) for name in names)


def volume_files(folder: Path) -> dict[str, Path]:
    """Every NIfTI file below `folder`: path without suffix, relative, with `/` -> file, sorted.

    Raises:
        UserError: two files of one name (a.nii and a.nii.gz).
    """
    files: dict[str, Path] = {}
    for parent, names in visible_files(folder):
        for name in names:
            path = Path(parent) / name
            bare = volume_name(path)
            if bare is None:
                continue
            key = composed((Path(parent) / bare).relative_to(folder).as_posix())
            if key in files:
                raise UserError(f"{path}: there is also {files[key].name}; one name must be one volume.")
            files[key] = path
    return dict(sorted(files.items()))


def join_channels(files: Mapping[str, Path], labels: Collection[str] = ()) -> Files:
    """Cases of `files`: NAME_0000, NAME_0001, ... are channels of NAME, unless there are `labels` of the name NAME_0000.

    Raises:
        UserError: a channel is missing in between, or one that is written differently (.nii and .nii.gz).
    """
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    cases: Files = {}
    for key, path in files.items():
        found = channel_of(key)
        if found is None or key in labels:
            cases[key] = (path,)
        else:
            groups[found[0]][found[1]] = path
    for name, channels in groups.items():
        ordered = [channels[channel] for channel in sorted(channels)]
        if sorted(channels) != list(range(len(channels))) or len({_suffix(path) for path in ordered}) > 1:
            found = ", ".join(path.name for path in ordered)
            raise UserError(
                f"{ordered[0].parent}: the channels of '{name}' are {found}; expected files that count from _0000 without gaps, "
                "all .nii.gz or all .nii."
            )
        cases[name] = tuple(ordered)
    return dict(sorted(cases.items()))


def listed_classes(root: Path) -> tuple[ClassList | None, tuple[str, ...]]:
    """The classes that dataset.json lists, as the Decathlon ({"0": "background"}) or nnU-Net ({"background": 0}) writes them,
    and the names of the channels; None and () where there is no such file or it says nothing.

    Raises:
        UserError: the file cannot be understood, or classes are regions of several values, which overlap.
    """
    path = root / CLASS_FILE
    plain = read_json(path)
    if not isinstance(plain, Mapping):
        return None, ()
    named = plain.get("channel_names", plain.get("modality"))
    channels = tuple(str(name) for name in named.values()) if isinstance(named, Mapping) else ()
    labels = plain.get("labels")
    if not labels:
        return None, channels
    if not isinstance(labels, Mapping):
        raise UserError(f'{path}: labels: expected {{"background": 0, ...}} or {{"0": "background", ...}}.')
    values = dict(sorted(_pair(path, str(key), value) for key, value in labels.items()))
    if len(values) < len(labels):
        raise UserError(f"{path}: labels: a value stands for two classes; found {dict(labels)}.")
    names = tuple(name for name in values.values() if name not in IGNORE_NAMES)
    return ClassList(names, values=values, source=CLASS_FILE), channels


def listed_splits(root: Path) -> dict[str, tuple[str, ...]]:
    """The first fold of nnU-Net's splits_final.json, where one lies here: {"train": names, "val": names}; else nothing.

    Raises:
        UserError: the file cannot be understood.
    """
    plain = read_json(root / SPLIT_FILE)
    if plain is None:
        return {}
    fold = plain[0] if isinstance(plain, list) and plain else None
    if not isinstance(fold, Mapping) or not all(isinstance(names, list) for names in fold.values()):
        raise UserError(f'{root / SPLIT_FILE}: expected [{{"train": [names], "val": [names]}}, ...].')
    return {str(split): tuple(composed(str(name)) for name in names) for split, names in fold.items() if names}


def read_json(path: Path) -> Any:
    """What is in `path`; None where there is no such file. Raises UserError where it is no JSON."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from error


def _pair(path: Path, key: str, value: Any) -> tuple[int, str]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        raise UserError(
            f"{path}: labels: '{key}' is a region of the values {value}, and regions overlap, which a label map cannot hold; "
            "list every value as a class of its own."
        )
    if isinstance(value, int):
        return value, key
    if key.strip().isdigit():
        return int(key), str(value)
    raise UserError(f"{path}: labels: expected a value and a name, found {key!r}: {value!r}.")


def _suffix(path: Path) -> str:
    return path.name[len(volume_name(path) or "") :]
