"""What a lenient listing of a data set gives: one entry per image with its truth unread, and what was wrong already."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nuriwake.core.labels import LabelSpace
from nuriwake.core.size import Size
from nuriwake.data.check.finding import Problem
from nuriwake.data.classes import ClassList
from nuriwake.data.dataset import DataSet, Record

Truth = Literal["mask", "voc", "coco", "panoptic", "read"]
"""How the truth of an entry is looked at; "read": as the format's own reader has it."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of COCO as it stands in the file; `box` xywh and `area` are None where they are not stated.

    Args:
        segmentation: its JSON text.
    """

    id: int
    category: int
    crowd: bool
    box: tuple[float, float, float, float] | None
    area: float | None
    segmentation: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """One entry of `segments_info`; `area` is NaN where it is not stated."""

    id: int
    category: int
    area: float
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and where its truth lies.

    Args:
        name: of the sample.
        split: "" where none are given.
        image: the file.
        masks: of classes and, for VOC, of objects; of panoptic ids; one per class where they are layers.
        annotations, segments: of COCO.
        stated: the size that the JSON states.
        record: of the opened data set, for the format's own reader.
    """

    name: str
    split: str
    image: Path
    masks: tuple[Path, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    segments: tuple[Segment, ...] = ()
    stated: Size | None = None
    record: Record | None = None


@dataclass(frozen=True)
class Listing:
    """A data set as far as it can be listed.

    Args:
        root, format: where it is and what.
        truth: how entries are looked at.
        entries: the images.
        problems: what was wrong with files and annotations already.
        classes: what is said of the classes of masks.
        space: the classes, where they are known before a mask is read; else None.
        numbers: category id -> label.
        data: the opened data set, where the format's own reader reads.
        layered: masks are one per class (multi-label).
        splits_given: False where the split is made by us.
        sources: the annotation files.
        options: of the description, for masks: threshold, things, instance_ids.
    """

    root: Path
    format: str
    truth: Truth
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()
    classes: ClassList = field(default_factory=ClassList)
    space: LabelSpace | None = None
    numbers: Mapping[int, int] = field(default_factory=dict[int, int])
    data: DataSet | None = None
    layered: bool = False
    splits_given: bool = True
    sources: tuple[Path, ...] = ()
    threshold: int | None = None
    things: tuple[str, ...] = ()
    instance_ids: bool | None = None
