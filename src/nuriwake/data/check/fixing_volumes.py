"""The corrected copy of NIfTI volumes: whole volumes are left out, with their labels and their names in the lists beside them."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nuriwake.core.files import write_json
from nuriwake.data.check.fixing_files import copy_file
from nuriwake.data.check.survey import Survey
from nuriwake.data.nifti_address import stored_files, volume_name
from nuriwake.data.nifti_folder import CLASS_FILE, SPLIT_FILE

UNREADABLE = ("image_truncated", "image_unreadable", "truth_unreadable")


def whole_volumes(survey: Survey, left_out: Mapping[str, str]) -> dict[str, str]:
    """Of slices that are to be left out those whose volume is: one of its slices cannot be read, or all are in `left_out`."""
    slices: dict[Path, list[str]] = defaultdict(list)
    for entry in survey.listing.entries:
        slices[stored_files(entry.image)[0]].append(entry.name)
    broken = {problem.sample for kind in UNREADABLE for problem in survey.problems.get(kind, [])}
    found: dict[str, str] = {}
    for names in slices.values():
        unreadable = [name for name in names if name in broken and name in left_out]
        if unreadable or all(name in left_out for name in names):
            found |= dict.fromkeys(names, left_out[unreadable[0] if unreadable else names[0]])
    return found


def copy_volumes(
    survey: Survey, left_out: Mapping[str, str], folder: Callable[[Path], Path], done: Counter[str]
) -> None:
    """Every file but those of volumes that are `left_out`; the lists of splits and of training without them."""
    gone = {
        path.resolve()
        for entry in survey.listing.entries
        if entry.name in left_out and entry.record is not None
        for path in (*stored_files(entry.image), *stored_files(entry.record.target))
    }
    for path in sorted(survey.listing.root.rglob("*")):
        if path.is_file() and path.resolve() not in gone:
            copy_file(path, folder(path))
    if not gone:
        return
    names = {volume_name(path) or path.name for path in gone}
    done["[volume file|volume files] left out, all [its|their] slices"] += len(gone)
    root = survey.listing.root
    if (root / SPLIT_FILE).is_file():
        folds: Any = json.loads((root / SPLIT_FILE).read_text(encoding="utf-8-sig"))
        write_json(
            folder(root / SPLIT_FILE),
            [{split: [name for name in part if name not in names] for split, part in fold.items()} for fold in folds],
        )
    if (root / CLASS_FILE).is_file():
        write_json(folder(root / CLASS_FILE), _without(json.loads((root / CLASS_FILE).read_text("utf-8-sig")), names))


def _without(plain: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """dataset.json, of the Decathlon or of nnU-Net, without the volumes `names`."""
    listed = plain.get("training")
    if isinstance(listed, list):
        kept = [item for item in listed if volume_name(Path(PurePosixPath(str(item.get("label"))).name)) not in names]
        return {**plain, "training": kept, "numTraining": len(kept)}
    return plain
