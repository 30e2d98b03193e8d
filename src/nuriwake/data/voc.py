"""Pascal VOC: JPEGImages/, SegmentationClass/ (palette PNG, 255 = void), ImageSets/Segmentation/*.txt where present."""

from pathlib import Path

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, IGNORE_COLOUR, LabelSpace, palette
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.classes import ClassList, find_classes
from nuriwake.data.coding import MaskCoding
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.deciding import decide
from nuriwake.data.description import DataDescription, Format
from nuriwake.data.layout import image_files
from nuriwake.data.mask_folder import MaskReader
from nuriwake.data.observing import Observed, observe, unpack

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of the challenge (Everingham et al. 2010), in the order of its palette."""


def recognise(root: Path) -> str | None:
    """Because JPEGImages/ and SegmentationClass/ lie in the folder, or in its VOCdevkit/VOC20xx."""
    home = _home(root)
    return None if home is None else "it has JPEGImages/ and SegmentationClass/"


def open_voc(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`; the records are the masks of SegmentationClass/.

    Raises:
        UserError: masks without an image, names in ImageSets/ that do not exist, values beyond the classes.
    """
    home = _home(root)
    if home is None:
        raise UserError(f"{root}: Pascal VOC has JPEGImages/ and SegmentationClass/; they are not there.")
    images, masks = image_files(home / "JPEGImages"), image_files(home / "SegmentationClass")
    if not masks:
        raise UserError(f"{home / 'SegmentationClass'}: the folder holds no masks.")
    alone = [name for name in masks if name not in images]
    if alone:
        raise UserError(f"{home}: {len(alone)} masks have no image in JPEGImages/: {listed(alone)}.")
    classes = find_classes(home, description)
    notes: list[str] = []
    if not classes.names:
        classes = ClassList(VOC_CLASSES, source="the Pascal VOC challenge")
    if len(images) > len(masks):
        notes.append(f"{len(images) - len(masks)} images of JPEGImages/ have no mask and are left out.")
    splits = _splits(home, {name: Record(name, images[name], masks[name]) for name in sorted(masks)}, notes)
    seen = observe([(images[name], masks[name]) for name in sorted(masks)])
    if seen.colours and not classes.colours:
        space, coding = _palette_coding(home, seen, classes)
        notes.append("Masks are RGB pictures of the VOC palette; colours are read as classes.")
    else:
        space, coding, more = decide(home, seen, classes, threshold=description.threshold, things=description.things)
        notes.extend(more)
    return assemble(
        root, "voc", space, splits, reader=MaskReader(space, coding), description=description, notes=tuple(notes)
    )


FORMAT = Format(recognise, open_voc)


def _home(root: Path) -> Path | None:
    candidates = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    fitting = [c for c in candidates if (c / "JPEGImages").is_dir() and (c / "SegmentationClass").is_dir()]
    return fitting[-1] if fitting else None  # the newest year holds the older ones


def _splits(home: Path, records: dict[str, Record], notes: list[str]) -> dict[str, list[Record]]:
    """Of ImageSets/Segmentation; "trainval" only where train and val are not there."""
    lists = {
        name: path
        for path in sorted((home / "ImageSets" / "Segmentation").glob("*.txt"))
        if (name := split_name(path.stem)) is not None
    }
    if "train" in lists and "val" in lists:
        lists.pop("trainval", None)
    splits: dict[str, list[Record]] = {}
    for split, path in lists.items():
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        without = [name for name in names if name not in records]
        if without and split == "test":
            notes.append(f"{len(without)} images of {path.name} have no mask and are left out.")
        elif without:
            raise UserError(f"{path}: {len(without)} names have no mask in SegmentationClass/: {listed(without)}.")
        if part := [records[name] for name in names if name in records]:
            splits[split] = part
    left = len(records) - len({record.name for part in splits.values() for record in part})
    if splits and left:
        notes.append(f"{left} masks are in no list of ImageSets/Segmentation/ and are left out.")
    return splits or {"": list(records.values())}


def _palette_coding(home: Path, seen: Observed, classes: ClassList) -> tuple[LabelSpace, MaskCoding]:
    colours = palette(len(classes.names))
    known = {**{colour: label for label, colour in enumerate(colours)}, IGNORE_COLOUR: IGNORE}
    unknown = [unpack(value) for value in seen.colours if unpack(value) not in known]
    if unknown:
        raise UserError(
            f"{home}: masks are RGB pictures with colours that are not in the VOC palette of {len(colours)} classes: "
            f"{listed([str(colour) for colour in unknown])}; name the colours in the field 'colours' of a YAML description."
        )
    return LabelSpace(classes.names, (), colours), MaskCoding(colours=tuple(known.items()))
