"""What a folder of predictions holds from earlier calls: added to, and never lost or taken for our own when it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.data.dataset import listed

LISTING = "predictions.json"

OTHERS = "files"
"""The key in predictions.json for written files that no entry names: of another format, and left from earlier calls."""


@dataclass(frozen=True)
class Earlier:
    """Predictions that stay beside new ones.

    Attributes:
        entries: of predictions.json, for images that are not predicted anew.
        rows: file of results -> what it holds of them.
        files: all that predictions.json names and that is there, of `entries` or not.
    """

    entries: Sequence[dict[str, Any]] = ()
    rows: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    files: Sequence[str] = ()


def entry_files(entry: Mapping[str, Any]) -> list[str]:
    """The files that an entry of predictions.json names as written: labels and pictures, below the folder of the list."""
    overlay = entry.get("overlay")
    return [*entry["labels"], *([] if overlay is None else [overlay]), *entry.get("overlays", ())]


def listed_results(folder: Path) -> list[str]:
    """The files that predictions.json in `folder` names as written, below `folder`; none where it is missing, damaged or not ours."""
    try:
        found = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        ours = all(key in found for key in ("model", "classes")) and all(
            isinstance(entry["labels"], list) and "image" in entry for entry in found["images"]
        )
        names = [name for entry in found["images"] for name in entry_files(entry)] + found.get(OTHERS, [])
        inside = all(PurePosixPath(name).parts and ".." not in PurePosixPath(name).parts for name in names)
        whole = inside and not any(PurePosixPath(name).is_absolute() for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
    return names if ours and whole else []


def earlier_predictions(
    out: Path, targets: Sequence[Path], *, about: Mapping[str, Any], ids: Sequence[int | str], results: Sequence[str]
) -> Earlier:
    """What stays in the folder `out` when `targets` are written into it.

    Args:
        out: the folder; it need not exist.
        targets: the files with labels that will be written.
        about: "model" and "classes" of the new predictions, as in predictions.json.
        ids: image ids of the new predictions; none for label maps.
        results: names of the files in COCO's format for detections that are written.

    Raises:
        UserError: a target is there and no earlier prediction, or what stays could not be listed beside the new ones: of another
            model, of other classes, or with the same image ids. Also files that cannot be read.
    """
    found = _read(out / LISTING, {}) if (out / LISTING).is_file() else {}
    entries = found.get("images", []) if isinstance(found, dict) else []
    files = [name for name in listed_results(out) if (out / name).is_file()]
    ours = {out / name for name in (*files, *(name for entry in entries for name in entry["labels"]))}
    foreign = next((target for target in targets if target not in ours and target.exists()), None)
    if foreign is not None:
        raise UserError(
            f"{foreign}: this file is there already, and no earlier prediction that {LISTING} lists; it is not overwritten. Choose "
            "another folder with --out, or move it away."
        )
    new = set(targets)
    kept = [entry for entry in entries if not new & {out / name for name in entry["labels"]}]
    if not kept:
        return Earlier(files=files)
    held = f"{out}: there are predictions of {listed([entry['labels'][0] for entry in kept])} already"
    for key in ("model", "classes"):
        if found.get(key) != about[key]:
            raise UserError(
                f"{held}, with other {'weights' if key == 'model' else 'classes'}; choose another folder with --out."
            )
    before = {entry["image_id"] for entry in kept if "image_id" in entry}
    shared = sorted(before & set(ids), key=str)
    if shared:
        raise UserError(
            f"{held}, and some of them have the image ids that the new ones would get ({listed([str(item) for item in shared])}); "
            "predict all of them together, or choose another folder with --out."
        )
    rows = {
        name: [row for row in _read(out / name, []) if row["image_id"] in before]
        for name in (results if before else ())
    }
    return Earlier(kept, rows, files)


def _read(path: Path, empty: Any) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            _ = [Path(name) for entry in found["images"] for name in (entry["labels"][0], *entry["labels"])]
        else:
            _ = [row["image_id"] for row in found]
        if type(found) is type(empty):
            return found
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise UserError(f"{path}: this file of earlier predictions is damaged; choose another folder with --out.")
