"""LabelSpace: what the numbers in a label map mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean

IGNORE = 255
"""The label of pixels that count nowhere (void, unlabelled). Label maps are 8-bit, so a space has at most 255 classes."""

Colour = tuple[int, int, int]

IGNORE_COLOUR: Colour = (224, 224, 192)
"""How `IGNORE` is shown in label PNG: the colour of void in Pascal VOC."""


def palette(count: int) -> tuple[Colour, ...]:
    """`count` distinct RGB colours, those of the Pascal VOC palette (bit-reversed index), black first."""
    colours: list[Colour] = []
    for index in range(count):
        red = green = blue = 0
        for shift in range(7, -1, -1):
            red |= (index & 1) << shift
            green |= (index >> 1 & 1) << shift
            blue |= (index >> 2 & 1) << shift
            index >>= 3
        colours.append((red, green, blue))
    return tuple(colours)


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set or a model: class i has `names[i]`, `things[i]`, `colours[i]`.

    Args:
        names: one per class, unique, at most 255: the label `IGNORE` (255) is never a class.
        things: True for countable objects, False for stuff; empty means all stuff.
        colours: RGB, 0..255; empty means the Pascal VOC palette (from index 1 on when class 0 is no background).
        exclusive: True when a pixel has one class; False when every class is its own yes-or-no question (multi-label).
        ids: the numbers that the data set itself has for the classes (category ids of COCO), which a file of predictions
            repeats; empty where it has none. Spaces that differ in them alone are equal.

    Raises:
        UserError: empty or repeated names or ids, or fields of different lengths.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...] = ()
    colours: tuple[Colour, ...] = ()
    exclusive: bool = field(default=True, kw_only=True)
    ids: tuple[int, ...] = field(default=(), kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("A label space needs at least one class name, found none.")
        if len(self.names) > IGNORE:
            raise UserError(
                f"A label space has at most {IGNORE} classes (label {IGNORE} means ignore), found {len(self.names)}; leave "
                "rare classes out, or join some."
            )
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise UserError(f"Class names must be unique; '{repeated[0]}' stands more than once.")
        if not self.things:
            object.__setattr__(self, "things", (False,) * len(self.names))
        if not self.colours:
            first = 0 if self.names[0] in BACKGROUND_NAMES and self.exclusive else 1
            object.__setattr__(self, "colours", palette(len(self.names) + first)[first:])
        for what in ("things", "colours", "ids")[: 3 if self.ids else 2]:
            found = len(getattr(self, what))
            if found != len(self.names):
                raise UserError(f"A label space of {len(self.names)} names needs as many {what}, found {found}.")
        if len(set(self.ids)) < len(self.ids):
            raise UserError(f"The ids of classes must be different numbers, found {list(self.ids)}.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def binary(self) -> bool:
        """Two exclusive classes: class 1 against class 0, the usual foreground and background."""
        return self.exclusive and len(self.names) == 2

    @property
    def channels(self) -> int:
        """How many logits per pixel a model of ours has for this space: 1 when binary, else one per class."""
        return 1 if self.binary else len(self.names)

    @property
    def has_background(self) -> bool:
        """Class 0 is called background (or a usual synonym), so that class 0 is 'nothing here'."""
        return self.exclusive and self.names[0] in BACKGROUND_NAMES

    def part(self, labels: Sequence[int]) -> "LabelSpace":
        """The classes `labels` alone, all of them things."""
        return LabelSpace(
            tuple(self.names[label] for label in labels),
            (True,) * len(labels),
            tuple(self.colours[label] for label in labels),
            ids=tuple(self.ids[label] for label in labels) if self.ids else (),
        )

    def index(self, name: str) -> int:
        """The label of the class `name`. Raises UserError with the nearest name when there is none."""
        if name not in self.names:
            raise UserError(f"There is no class '{name}'.{did_you_mean(name, self.names)}")
        return self.names.index(name)


BACKGROUND_NAMES = frozenset(
    {"background", "Background", "BACKGROUND", "_background_", "背景", "unlabelled", "unlabeled"}
)
