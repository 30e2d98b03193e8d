"""Which classes a folder of masks holds and how they are coded: the rules, in the order they are tried."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.core.labels import BACKGROUND_NAMES, IGNORE, Colour, LabelSpace
from nuriwake.core.lookup import did_you_mean
from nuriwake.data.classes import IGNORE_NAMES, ClassList, class_label
from nuriwake.data.coding import MaskCoding, from_mapping, identity
from nuriwake.data.dataset import listed
from nuriwake.data.observing import NEAR, Observed, unpack

BINARY = ("background", "foreground")
LEAST_EXTREMES = 0.97
"""JPEG and smoothed masks with at least this share of pixels near 0 or 255 are black and white pictures."""

MOST_CODES = 5
"""Masks with more values than this far from 0 and 255 may be smoothed; fewer are classes, such as the grey of a trimap."""

_LEAST_BLENDED = 0.9
_LEAST_ENDS = 0.5

_TELL = 'name the classes in classes.json ({"classes": ["background", ...]}) or classes.txt'

_MANY = 20
"""More values without names than these may be numbers of objects."""


class Decision(NamedTuple):
    """The classes, the code (None: values number the objects of the one class), and what to tell the user."""

    space: LabelSpace
    coding: MaskCoding | None
    notes: tuple[str, ...]


def decide(
    root: Path,
    seen: Observed,
    classes: ClassList,
    *,
    threshold: int | None = None,
    things: Sequence[str] = (),
    instance_ids: bool | None = None,
) -> Decision:
    """Classes and coding of masks that were `seen`, with what is said of the `classes`.

    Args:
        threshold: from this value on it is foreground.
        things: names of the classes that are countable.
        instance_ids: whether values number objects; None recognises it in masks of 16 bits.

    Raises:
        UserError: values that fit no rule or lie beyond the classes; what was found and what to write where.
    """
    told = classes.instance_ids if instance_ids is None else instance_ids
    decision = _decide(root, seen, classes, threshold, told)
    notes = list(decision.notes)
    if classes.source:
        notes.insert(0, f"{len(classes.names)} classes from {classes.source}.")
    if seen.files < seen.total:
        notes.append(
            f"{seen.files} of {seen.total} masks were looked at, evenly spaced; every one is checked when read."
        )
    if seen.stored_as_rgb:
        notes.append("Masks are grey stored as RGB; one channel is read.")
    space = decision.space if decision.coding is None else _with_things(decision.space, things)
    return Decision(space, decision.coding, tuple(notes))


def _decide(
    root: Path, seen: Observed, classes: ClassList, threshold: int | None, instance_ids: bool | None
) -> Decision:
    if seen.tinted is not None:
        refuse_tinted(*seen.tinted)
    if threshold is not None:
        return _thresholded(root, classes, threshold, f"Masks are thresholded at {threshold}, as described.")
    if seen.lossy:
        return _lossy(root, seen, classes)
    if instance_ids or (instance_ids is None and _are_ids(seen, classes)):
        return _instances(root, seen, classes, told=bool(instance_ids))
    if seen.colours:
        return _coloured(root, seen, classes)
    if _is_smoothed(seen, classes):
        return _smoothed(root, seen, classes)
    if classes.values:
        return _mapped(root, seen, classes)
    if classes.names:
        return _named(root, seen, classes)
    return _unnamed(root, seen, classes)


def _are_ids(seen: Observed, classes: ClassList) -> bool:
    """16 bits, values beyond the one class of objects that is named, if any, and none that a rule for classes explains."""
    values = set(seen.values)
    if not seen.sixteen_bit or seen.colours or classes.values or classes.ignore:
        return False
    if classes.names:
        return _object_name(classes) is not None and 0 in values and max(values - {255, 65535}, default=0) >= 2
    return not values <= {0, 1, 255} and values != {0, 65535} and len(values) > 1


def _object_name(classes: ClassList) -> str | None:
    """The name of the only class that is no background."""
    names = [name for name in classes.names if name not in BACKGROUND_NAMES]
    return names[0] if len(names) == 1 else None


def _instances(root: Path, seen: Observed, classes: ClassList, *, told: bool) -> Decision:
    name = _object_name(classes) if classes.names else BINARY[1]
    if name is None or seen.colours or seen.lossy:
        found = "colours" if seen.colours else "JPEG" if seen.lossy else f"{len(classes.names)} classes"
        raise UserError(
            f"{root}: masks whose values number objects are grey PNG or TIFF with one class (and a background at most), found "
            f"{found}; for objects of several classes use COCO instances."
        )
    ids = f"up to {max(seen.highest_each)} in one mask"
    if told:
        note = f"Mask values number the objects of the class '{name}' ({ids}), as described; 0 is none."
    else:
        note = (
            f"Masks are 16 bit and no classes are named that explain their values: they are read as instance ids ({ids}) of the "
            f"class '{name}', 0 as none. If the values are classes, {_TELL}; 'threshold: 1' in a YAML description makes every "
            "id foreground."
        )
    return Decision(LabelSpace((name,), (True,)), None, (note,))


def _thresholded(root: Path, classes: ClassList, threshold: int, note: str) -> Decision:
    if len(classes.names) not in (0, 2):
        raise UserError(f"{root}: a threshold makes two classes, but {len(classes.names)} are listed.")
    return Decision(LabelSpace(classes.names or BINARY), MaskCoding(threshold=threshold), (note,))


def _lossy(root: Path, seen: Observed, classes: ClassList) -> Decision:
    if seen.extremes >= LEAST_EXTREMES and len(classes.names) in (0, 2):
        return _thresholded(
            root,
            classes,
            128,
            f"Masks are JPEG, which does not keep values; {seen.extremes:.1%} of their pixels are near 0 or 255, so they are "
            "read as background (below 128) and foreground.",
        )
    raise UserError(
        f"{root}: masks are JPEG, which changes values, so classes cannot be told apart; save them as PNG, or write "
        "'threshold: 128' in a YAML description when they are black and white."
    )


def refuse_tinted(path: Path, share: float) -> None:
    """Raises UserError for a mask that is a JPEG with colours in this share of its pixels."""
    raise UserError(
        f"{path}: the mask is a JPEG with colours (in {share:.1%} of its pixels), so it is not black and white, and JPEG changes "
        "colours around every edge, so classes cannot be told apart; export the masks as PNG, and name the colours in "
        'classes.json ({"classes": [...], "colours": {...}}).'
    )


def _is_smoothed(seen: Observed, classes: ClassList) -> bool:
    """Whether 8-bit masks were black and white before they were resized or drawn with smoothing, or went through JPEG.

    Maps of many classes and numbers of objects have pixels of their middle values that stand side by side; those of a smoothed
    edge stand between darker and lighter ones.
    """
    if seen.sixteen_bit or classes.values or len(classes.names) not in (0, 2) or not seen.values:
        return False
    middle = [value for value in seen.values if NEAR < value < 255 - NEAR]
    ends = min(seen.values) <= NEAR and max(seen.values) >= 255 - NEAR
    return len(middle) > MOST_CODES and ends and seen.extremes >= _LEAST_ENDS and seen.blended >= _LEAST_BLENDED


def _smoothed(root: Path, seen: Observed, classes: ClassList) -> Decision:
    found = f"{len(seen.values)} values; {seen.extremes:.1%} of their pixels are near 0 or 255"
    if seen.extremes >= LEAST_EXTREMES and not classes.ignore:
        return _thresholded(
            root,
            classes,
            128,
            f"Masks hold {found} and the rest lies along edges, as smoothing leaves it, so they are read as background (below "
            f"128) and foreground. If the values are classes, {_TELL}.",
        )
    raise UserError(
        f"{root}: masks hold {found} and the rest lies along edges, as smoothing leaves it, so values are no classes; draw and "
        "resize masks with nearest neighbour and without anti-aliasing, or write 'threshold: 128' in a YAML description when "
        "they are black and white."
    )


def _coloured(root: Path, seen: Observed, classes: ClassList) -> Decision:
    found = [unpack(value) for value in seen.colours]
    if not classes.colours:
        raise UserError(
            f"{root}: masks are RGB-coded with {len(found)} colours: {listed([str(list(c)) for c in found])}. Say what they "
            'are in classes.json: {"classes": ["road", ...], "colours": {"road": [128, 64, 128], ..., "ignore": [0, 0, 0]}} '
            "or in the field 'colours' of a YAML description."
        )
    pairs = tuple((colour, _label(name, classes, "colours")) for name, colour in classes.colours.items())
    if (twice := shared_colour(classes)) is not None:
        one, other, colour = twice
        raise UserError(
            f"{root}: the classes '{one}' and '{other}' of {classes.source or 'the description'} have one colour, {list(colour)}, so "
            "masks cannot tell them apart; correct it, or take one of them out of the colours."
        )
    known = {colour for colour, _ in pairs}
    unknown = [str(list(colour)) for colour in found if colour not in known]
    if unknown:
        example = seen.colours[next(v for v in seen.colours if unpack(v) not in known)]
        raise UserError(
            f"{root}: {len(unknown)} colours of the masks stand for no class: {listed(unknown)} (such as in {example}); add "
            "them to the colours, as a class or as 'ignore'."
        )
    colours = tuple(classes.colours.get(name, (0, 0, 0)) for name in classes.names)
    return Decision(
        LabelSpace(classes.names, (), colours),
        MaskCoding(colours=pairs),
        (f"Masks are RGB-coded ({len(pairs)} colours).",),
    )


def shared_colour(classes: ClassList) -> tuple[str, str, Colour] | None:
    """Two names of different labels with one colour, which codes neither; None where there are none."""
    first: dict[Colour, str] = {}
    for name, colour in classes.colours.items():
        other = first.setdefault(colour, name)
        if class_label(other, classes.names, IGNORE) != class_label(name, classes.names, IGNORE):
            return other, name, colour
    return None


def _mapped(root: Path, seen: Observed, classes: ClassList) -> Decision:
    labels = {value: _label(name, classes, "values") for value, name in classes.values.items()}
    ignored = _ignored(classes, labels)
    coding = from_mapping({**dict.fromkeys(ignored, IGNORE), **labels})
    _refuse_beyond(root, seen, {value for value, _ in coding.values}, classes)
    return Decision(LabelSpace(classes.names), coding, ("Mask values mean what the field 'values' says.",))


def _named(root: Path, seen: Observed, classes: ClassList) -> Decision:
    count, values = len(classes.names), set(seen.values)
    if classes.ignore is None and count == 2 and values <= {0, 255} and 255 in values:
        return Decision(LabelSpace(classes.names), from_mapping({0: 0, 255: 1}), (_zero_255(),))
    ignored = _ignored(classes, dict.fromkeys(range(count), 0))
    # With one name and masks of 0 and 255 the background was forgotten; ignoring 255 would leave nothing but class 0.
    forgotten = classes.ignore is None and count == 1 and values == {0, 255}
    known = set(range(count)) | (set() if forgotten else set(ignored))
    _refuse_beyond(root, seen, known, classes)
    notes = [f"Mask value {value} is ignored." for value in ignored if value in values]
    return Decision(LabelSpace(classes.names), identity(count, tuple(ignored)), tuple(notes))


def _unnamed(root: Path, seen: Observed, classes: ClassList) -> Decision:
    values = set(seen.values) - set(classes.ignore or ())
    ignored = dict.fromkeys(classes.ignore or (), IGNORE)
    highest = max(values, default=0)
    if len(values) == 2 and 0 in values and highest in (255, 65535):
        return _binary({0: 0, highest: 1, **ignored}, _zero_255(highest))
    if values <= {0, 1}:
        if len(values) < 2:
            return _single(seen, values, ignored)
        return _binary({**ignored, **_void(classes), 0: 0, 1: 1}, "Masks hold 0 and 1: background and foreground.")
    if values <= {0, 1, 255} and {0, 1} <= values:
        note = "Masks hold 0, 1 and 255: background, foreground and ignore."
        return _binary({0: 0, 1: 1, 255: IGNORE, **ignored}, note)
    if len(values) == 1:
        return _single(seen, values, ignored)
    return _numbered(root, seen, values, ignored)


def _numbered(root: Path, seen: Observed, values: set[int], ignored: dict[int, int]) -> Decision:
    """Classes called after their value: every value up to the highest when most occur, else those that occur."""
    below = sorted(values - {255})
    dense = below[-1] < 2 * len(below) + 2
    if dense:
        names = tuple(f"class_{i}" for i in range(below[-1] + 1))
        labels = {i: i for i in range(below[-1] + 1)} | ({255: IGNORE} if 255 in values else {})
        void = "; 255 is ignored" if 255 in values else ""
        note = f"Masks hold values 0..{below[-1]}{void}. No class names were found; {_TELL}."
        if len(below) > _MANY:
            note += " If the values number objects instead, a YAML file with 'root' and 'instance_ids: true' says so."
    else:
        order = sorted(values)
        if len(order) > IGNORE:
            raise UserError(f"{root}: masks hold {len(order)} different values; at most {IGNORE} classes are possible.")
        names = tuple(f"value_{value}" for value in order)
        labels = {value: label for label, value in enumerate(order)}
        note = (
            f"Masks hold the {len(order)} values {listed([str(value) for value in order])}, each read as a class. If that is "
            "not so, say what they are in the fields 'values' and 'ignore' of a YAML description."
        )
    return Decision(LabelSpace(names), from_mapping({**labels, **ignored}), (note,))


def _single(seen: Observed, values: set[int], ignored: dict[int, int]) -> Decision:
    value = next(iter(values), 0)
    note = f"All {seen.files} masks hold the one value {value}: there is one class only, and nothing to learn."
    labels = {**ignored, value: 0} if values else {**ignored, **({} if 0 in ignored else {0: 0})}
    return Decision(LabelSpace((f"class_{value}",)), from_mapping(labels), (note,))


def _binary(labels: dict[int, int], note: str) -> Decision:
    return Decision(LabelSpace(BINARY), from_mapping(labels), (note,))


def _zero_255(highest: int = 255) -> str:
    return f"Masks hold 0 and {highest}: read as background and foreground, not as ignore."


def _void(classes: ClassList) -> dict[int, int]:
    return {255: IGNORE} if classes.ignore is None else {}


def _ignored(classes: ClassList, taken: dict[int, int]) -> list[int]:
    """What is said to be ignored; else 255, where that is no class."""
    return list(classes.ignore) if classes.ignore is not None else [IGNORE] * (IGNORE not in taken)


def _label(name: str, classes: ClassList, field: str) -> int:
    label = class_label(name, classes.names, IGNORE)
    if label is None:
        where = f"{classes.source or 'the description'}: {field}"
        raise UserError(f"{where}: there is no class '{name}'.{did_you_mean(name, {*classes.names, *IGNORE_NAMES})}")
    return label


def _refuse_beyond(root: Path, seen: Observed, known: set[int], classes: ClassList) -> None:
    beyond = [value for value in seen.values if value not in known]
    if not beyond:
        return
    count = len(classes.names)
    hint = ""
    if not classes.values and min(seen.values) >= 1 and max(set(seen.values) - {255}, default=0) == count:
        hint = f" Values run from 1 to {count}: labels count from 0, so the masks are shifted by one."
    elif not classes.values and seen.sixteen_bit:
        hint = " If they are instance ids, write 'instance_ids: true' in a YAML description."
    elif not classes.values and 0 in seen.values and (beyond == [count] or (count == 1 and beyond == [255])):
        hint = " Is a background class missing at the head of the class list?"
    raise UserError(
        f"{root}: mask values beyond the {count} classes of {classes.source or 'the description'} (values 0..{count - 1}): "
        f"{listed([str(value) for value in beyond])}, such as in {seen.values[beyond[0]]}.{hint} Correct the masks or the "
        "class list, or say what the values mean in the fields 'values' and 'ignore' of a YAML description."
    )


def _with_things(space: LabelSpace, things: Sequence[str]) -> LabelSpace:
    for name in things:
        space.index(name)  # an unknown name is an error with the nearest one
    flags = tuple(name in things for name in space.names)
    return LabelSpace(space.names, flags, space.colours, exclusive=space.exclusive)
