"""How masks of one class each (masks/<class>/<name>.png, multi-label) say yes, no and ignore."""

from collections.abc import Collection
from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.data.coding import MaskCoding, from_mapping
from nuriwake.data.dataset import listed
from nuriwake.data.deciding import refuse_tinted
from nuriwake.data.description import DataDescription, refuse_fields
from nuriwake.data.observing import Observed, unpack


def refuse_fields_of_one_map(description: DataDescription) -> None:
    """Raises UserError for a field that means something only where one mask holds all classes, or in another format."""
    meant = ("classes", "images", "masks", "ignore", "threshold", "multi_label")
    refuse_fields(description, "mask_folder with one folder of masks per class", *meant)


def yes_no_or_ignore(values: Collection[int], ignored: Collection[int] | None) -> dict[int, int]:
    """Raw value -> 1, 0 or `IGNORE`, where the masks of all classes hold `values`; any other value is none of one class.

    Args:
        ignored: the raw values that count nowhere. None when nothing is said: then 255 does not count beside 1, and is yes where
            there is no 1.
    """
    left = set(values) - set(ignored or ())
    if 255 in left and 1 not in left:
        return {0: 0, 255: 1} | dict.fromkeys(ignored or (), IGNORE)
    return {0: 0, 1: 1} | dict.fromkeys((255,) if ignored is None else ignored, IGNORE)


def decide_layers(
    root: Path, seen: Observed, ignored: Collection[int] | None, threshold: int | None
) -> tuple[MaskCoding, str]:
    """The code of masks that were `seen`, and what to tell the user.

    Args:
        ignored: as `yes_no_or_ignore`.
        threshold: from this value on it is yes.

    Raises:
        UserError: colours, or values that are not yes, no or ignore; with a file and what to write where.
    """
    if seen.tinted is not None:
        refuse_tinted(*seen.tinted)
    if seen.colours:
        colour, example = next(
            (unpack(value), path) for value, path in seen.colours.items() if len({*unpack(value)}) > 1
        )
        raise UserError(f"{example}: the mask of one class is grey, found the colour {list(colour)}; save it as grey.")
    if threshold is not None:
        return MaskCoding(threshold=threshold), f"Masks are thresholded at {threshold} (from it on yes), as described."
    labels = yes_no_or_ignore(seen.values, ignored)
    void = listed([str(value) for value, label in labels.items() if label == IGNORE])
    beyond = [value for value in seen.values if value not in labels]
    if beyond:
        expected = "0 and 255, or 0, 1 and 255 (ignore)" if ignored is None else "0 and 255, or 0 and 1"
        described = f", and {void} (ignore)" if ignored else ""
        highest = max(seen.values)
        middle = 128 if 128 <= highest <= 255 else (highest + 1) // 2
        raise UserError(
            f"{seen.values[beyond[0]]}: the mask of one class holds {expected}{described}; found {beyond[0]}. Where masks are "
            f"grey pictures (smoothed, JPEG, 16 bit), write 'threshold: {middle}' in a YAML description (yes from this value on)."
        )
    yes = [value for value, label in labels.items() if label == 1]
    if not yes:
        raise UserError(f"{root}: masks of one class say yes with 1 or 255, but {void} are ignored; correct 'ignore'.")
    note = f"Masks hold 0 and {yes[0]} (yes){f'; {void} is ignored' if void else ''}."
    return from_mapping(labels), note if yes[0] in seen.values else f"{note} No mask that was looked at says yes."
