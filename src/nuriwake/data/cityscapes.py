"""Cityscapes (Cordts et al. 2016): leftImg8bit/<split>/<city>/ beside gtFine/ with instanceIds, labelIds or labelTrainIds,
or with its panoptic files.

With instanceIds, or the panoptic files that are made from them, the truth is panoptic. The classes are the 19 that are
evaluated; the other label ids are void, as in the benchmark.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import semantic_view
from nuriwake.data.assembly import assemble, split_name
from nuriwake.data.cityscapes_classes import CLASSES, SPACE
from nuriwake.data.cityscapes_panoptic import PanopticSplit, find_panoptic_files, panoptic_records
from nuriwake.data.coding import MaskCoding, from_mapping
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.images import read_mask
from nuriwake.data.layout import image_files
from nuriwake.data.mask_folder import MaskReader
from nuriwake.data.seen import target_of
from nuriwake.data.written import ImageWriter, WriteSettings, Written, count_note, counted_notes, refuse_existing

_MOST_LABEL_ID = 33
_PER_CLASS = 1000
"""An object is label id * 1000 + its number; a group of objects, and stuff, is the label id alone."""
_IMAGE, _INSTANCES, _TRAIN_IDS, _LABEL_IDS = "_leftImg8bit", "_instanceIds", "_labelTrainIds", "_labelIds"


@dataclass(frozen=True)
class CityscapesReader:
    """record.target is the PNG of instanceIds."""

    space: LabelSpace

    def __call__(self, record: Record) -> Panoptic:
        """Objects one by one, groups as crowd, stuff once. Raises UserError for ids that no label has."""
        raw = read_mask(record.target)
        if raw.ndim != 2:
            raise UserError(f"{record.target}: instanceIds are grey of 16 bits, found a PNG with colours.")
        found = np.flatnonzero(value_counts(raw))
        label_ids = np.where(found >= _PER_CLASS, found // _PER_CLASS, found)
        unknown = found[label_ids > _MOST_LABEL_ID]
        if len(unknown):
            raise UserError(
                f"{record.target}: ids {listed([str(i) for i in unknown.tolist()])} belong to no label (0 to 33)."
            )
        labels = _label_table()[label_ids]
        kept = labels >= 0
        # Ids begin at 7, so that they are segment ids as they stand.
        table = np.zeros(int(found[-1]) + 1, np.int32)
        table[found[kept]] = found[kept]
        things = np.array(self.space.things)[labels[kept]]
        crowd = things & (found[kept] < _PER_CLASS)
        return Panoptic(
            table[raw], found[kept].astype(np.int32), labels[kept].astype(np.int32), self.space, crowd=crowd
        )


def recognise(root: Path) -> str | None:
    """Because leftImg8bit/ and gtFine/ (or gtCoarse/) lie in the folder."""
    truth = _truth(root)
    return f"it has leftImg8bit/ and {truth.name}/" if truth is not None else None


def open_cityscapes(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`, of the richest truth that all images of a split have.

    Raises:
        UserError: folders or truth that are not there.
    """
    refuse_fields(description, "cityscapes", "annotations")
    truth = _truth(root)
    if truth is None:
        raise UserError(f"{root}: Cityscapes has leftImg8bit/ and gtFine/; they are not there.")
    images = {key: path for key, path in image_files(root / "leftImg8bit").items() if key.endswith(_IMAGE)}
    masks = image_files(truth)
    # Of instanceIds and the panoptic files, which are made from them, the first are the ones that every copy has.
    if description.annotations is not None or not any(key.endswith(_INSTANCES) for key in masks):
        files = find_panoptic_files(root, truth, description)
        if files:
            return _open_panoptic(root, files, images, description)
    kind = next(
        (kind for kind in (_INSTANCES, _TRAIN_IDS, _LABEL_IDS) if any(key.endswith(kind) for key in masks)), None
    )
    if kind is None:
        raise UserError(f"{truth}: there are no files that end with {_INSTANCES}, {_TRAIN_IDS} or {_LABEL_IDS}.")
    splits: dict[str, list[Record]] = {}
    without: list[str] = []
    for key, image in images.items():
        bare = key.removesuffix(_IMAGE)
        mask = masks.get(f"{bare}_{truth.name}{kind}")
        if mask is None:
            without.append(key)
        else:
            splits.setdefault(_split(key), []).append(Record(bare, image, mask))
    notes = [
        f"The 19 evaluated classes of Cityscapes, from the files *{kind}.png; other labels are ignored.",
        *_without_truth(root, without, f"{truth.name}{kind}.png", description),
    ]
    reader = CityscapesReader(SPACE) if kind == _INSTANCES else MaskReader(SPACE, _coding(kind))
    return assemble(root, "cityscapes", SPACE, splits, reader=reader, description=description, notes=notes)


def _open_panoptic(
    root: Path, files: dict[str, Path], images: dict[str, Path], description: DataDescription
) -> DataSet:
    reader, splits, notes = panoptic_records(files, {key.removesuffix(_IMAGE): path for key, path in images.items()})
    used = {record.name for records in splits.values() for record in records}
    without = [key for key in images if key.removesuffix(_IMAGE) not in used and _split(key) in splits]
    notes += _without_truth(root, without, "segments in the panoptic files", description)
    paths = tuple(files.values())
    return assemble(
        root, "cityscapes", SPACE, splits, reader=reader, description=description, notes=notes, sources=paths
    )


def _split(key: str) -> str:
    """The split in which the image `key` (split/city/name) lies."""
    folder = key.partition("/")[0]
    return split_name(folder) or folder


def _without_truth(root: Path, without: list[str], what: str, description: DataDescription) -> list[str]:
    """What is said of the images `without` truth. Raises UserError where they are not of 'test' and were not described."""
    if not without:
        return []
    if all(split_name(key.partition("/")[0]) == "test" for key in without):
        return [f"{len(without)} images of 'test' have no truth and are left out."]
    if description.unpaired == "refuse":
        raise UserError(
            f"{root}: {len(without)} images have no {what}: {listed(without)}; complete them, or write "
            "'unpaired: skip' in a YAML description to leave them out."
        )
    return [f"{len(without)} images have no truth and are left out, as described: {listed(without)}."]


def taken(folder: Path, split: str) -> tuple[Path, ...]:
    """What the split has for itself."""
    panoptic = PanopticSplit(folder / "gtFine", split)
    return folder / "gtFine" / split, panoptic.path, panoptic.folder


def truth_file(name: str, image: Path, split: str) -> str:
    """The file of truth of a sample, without what Cityscapes adds to every name. The folder of the panoptic PNG has no cities."""
    del image
    return f"gtFine/{split}/{_city_name(name.removesuffix(_IMAGE)).rpartition('/')[2]}"


def write_cityscapes(samples: Iterable[Sample], folder: Path, space: LabelSpace, settings: WriteSettings) -> Written:
    """Writes leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/ with labelIds and labelTrainIds; where there are segments also
    instanceIds, and of these gtFine/cityscapes_panoptic_<split>.json with its folder of PNG.

    File names begin with their city, as Cityscapes' own do; images that lie in no folder get the city "city".

    Raises:
        UserError: the split is there already, classes beyond the 19, or more than 1,000 objects of a class in an image.
    """
    truth = folder / "gtFine" / settings.split
    panoptic = PanopticSplit(folder / "gtFine", settings.split)
    refuse_existing(*taken(folder, settings.split))
    unknown = [name for name in space.names if name not in SPACE.names]
    if unknown:
        raise UserError(
            f"{folder}: Cityscapes has {len(SPACE)} classes of its own; {listed(unknown)} are none of them."
        )
    writer = ImageWriter(folder / "leftImg8bit" / settings.split, settings)
    files: list[Path] = []
    notes: dict[str, int] = {}
    label_ids = np.array([*(item.label_id for item in CLASSES), *[0] * (256 - len(CLASSES))], np.uint8)
    for sample in samples:
        target = target_of(sample)
        name = _city_name(writer.name(sample).removesuffix(_IMAGE))
        writer.write(sample, name + _IMAGE)
        if not isinstance(target, SemanticMap | Panoptic):
            raise UserError(f"{name}: Cityscapes has a class for every pixel; objects alone leave the rest open.")
        labels = semantic_view(target, SPACE).labels
        found = [(_TRAIN_IDS, labels), (_LABEL_IDS, label_ids[labels])]
        if isinstance(target, Panoptic):
            instances = _instance_ids(target, name)
            found.append((_INSTANCES, instances))
            files.append(panoptic.add(name.rpartition("/")[2], instances))
        else:
            count_note(
                notes, "[image|images]: a map of classes does not tell objects apart; instanceIds are not written"
            )
        for kind, array in found:
            files.append(truth / f"{name}_gtFine{kind}.png")
            with atomic_path(files[-1]) as temporary:
                Image.fromarray(array).save(temporary, format="PNG")
    files += panoptic.finish()
    texts = tuple(counted_notes(notes))
    return Written((*files, *writer.files), (*texts, *writer.notes))


FORMAT = Format(recognise, open_cityscapes, write_cityscapes, keeps_colours=True, taken=taken, truth_file=truth_file)


def _city_name(name: str) -> str:
    """ "aachen/0001" -> "aachen/aachen_0001": the city's folder, and the city again at the head of the file name."""
    folder, _, bare = name.rpartition("/")
    folder = folder or "city"
    city = folder.rpartition("/")[2]
    return f"{folder}/{bare}" if bare.startswith(f"{city}_") else f"{folder}/{city}_{bare}"


def _instance_ids(target: Panoptic, name: str) -> np.ndarray:
    numbers = np.zeros(len(target), np.int64)
    counts: dict[int, int] = {}
    for i, (segment, label) in enumerate(zip(target.segment_ids.tolist(), target.labels.tolist(), strict=True)):
        item = CLASSES[SPACE.index(target.space.names[label])]
        if not item.thing or target.crowd[i]:
            numbers[i] = item.label_id
        elif segment // _PER_CLASS == item.label_id:  # as Cityscapes numbers them
            numbers[i] = segment
        else:
            counts[item.label_id] = counts.get(item.label_id, 0) + 1
            numbers[i] = item.label_id * _PER_CLASS + counts[item.label_id] - 1
            if counts[item.label_id] > _PER_CLASS:
                raise UserError(
                    f"{name}: Cityscapes tells {_PER_CLASS} objects of a class apart, found more of '{item.name}'."
                )
    canvas = np.zeros(target.size, np.uint16)
    target.masks().paint(canvas, numbers)
    return canvas


def _label_table() -> np.ndarray:
    table = np.full(_MOST_LABEL_ID + 1, -1, np.int64)
    for label, item in enumerate(CLASSES):
        table[item.label_id] = label
    return table


def _coding(kind: str) -> MaskCoding:
    if kind == _TRAIN_IDS:
        return from_mapping({**{label: label for label in range(len(CLASSES))}, 255: IGNORE})
    void = dict.fromkeys(range(_MOST_LABEL_ID + 1), IGNORE)
    return from_mapping({**void, 255: IGNORE, **{item.label_id: label for label, item in enumerate(CLASSES)}})


def _truth(root: Path) -> Path | None:
    if not (root / "leftImg8bit").is_dir():
        return None
    return next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)
