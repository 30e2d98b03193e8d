"""COCO panoptic: one JSON per split with the segments of every image, and a PNG of their ids (Kirillov et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.id_maps import MOST_IDS, decode_ids, id_areas
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.data.assembly import assemble
from nuriwake.data.coco import kept_images, stem, unique_names
from nuriwake.data.coco_files import (
    AnnotationFile,
    Category,
    category_space,
    common_categories,
    described_files,
    locate_images,
    read_categories,
    reason,
)
from nuriwake.data.coco_index import grouped, image_keys, refuse_repeated
from nuriwake.data.coco_panoptic_write import taken, write_coco_panoptic
from nuriwake.data.dataset import DataSet, Record, listed
from nuriwake.data.description import DataDescription, Format, refuse_fields
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_mask
from nuriwake.data.json_scan import JsonTable, read_json


@dataclass(frozen=True, eq=False)
class PanopticIndex:
    """The segments of I images, S of them, those of one image one after the other.

    Args:
        path: the JSON file, for messages.
        offsets: int64 (I + 1,), the segments of image i are offsets[i] to offsets[i + 1].
        ids: int64 (S,), as in the PNG.
        labels: int32 (S,), label of the class, -1 for a category that is not listed.
        categories: int64 (S,), category ids.
        crowd: bool (S,).
        areas: float64 (S,), pixels as stated, NaN where not.
    """

    path: Path
    offsets: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True, eq=False)
class CocoPanopticReader:
    """record.target is (the PNG, number of the file, number of the image in it)."""

    space: LabelSpace
    category_ids: tuple[int, ...]
    files: tuple[PanopticIndex, ...]

    def __call__(self, record: Record) -> Panoptic:
        """The segments of the image. Raises UserError where the PNG and the JSON disagree; both and the id are named."""
        png, number, image = record.target
        index = self.files[number]
        rows = slice(int(index.offsets[image]), int(index.offsets[image + 1]))
        where = f"{index.path}: image {record.image.name}"
        raw = read_mask(png)
        if raw.ndim != 3:
            raise UserError(f"{png}: panoptic ids are stored as RGB (id = R + 256 G + 65536 B), found a grey PNG.")
        ids = decode_ids(raw)
        size = image_header(record.image).size
        if ids.shape != size:
            raise UserError(
                f"{png}: the PNG is {ids.shape[0]}x{ids.shape[1]} but {record.image.name} is {size[0]}x{size[1]} (height x "
                "width); was one of them resized or rotated?"
            )
        for row in np.flatnonzero(index.labels[rows] < 0).tolist():
            raise UserError(
                f"{where}: the segment {index.ids[rows][row]} has the category {index.categories[rows][row]}, which is not in "
                "'categories'; add it or correct the segment."
            )
        compare(ids, index.ids[rows], index.areas[rows], where, png)
        return Panoptic(
            ids,
            index.ids[rows].astype(np.int32),
            index.labels[rows],
            self.space,
            crowd=index.crowd[rows],
        )


def compare(ids: np.ndarray, listed_ids: np.ndarray, areas: np.ndarray, where: str, png: Path) -> None:
    """Checks the map `ids` (H, W) int32 against the segments that are listed with `areas` (NaN where not stated).

    Raises:
        UserError: ids that repeat, that are 0 or beyond 24 bits, that are on the map but not listed or the reverse, or
            another area than stated.
    """
    order = np.argsort(listed_ids, kind="stable")
    ordered = listed_ids[order]
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise UserError(f"{where}: the segment id {twice[0]} is listed more than once.")
    beyond = ordered[(ordered <= 0) | (ordered >= MOST_IDS)]
    if len(beyond):
        raise UserError(f"{where}: segment ids lie in 1..{MOST_IDS - 1} (0 is void), found {beyond[0]}.")
    counts, unknown = id_areas(ids, ordered.astype(np.int32))
    if unknown:
        some = np.setdiff1d(np.unique(ids), np.append(ordered, 0))
        pixels = int(np.isin(ids, some).sum())
        raise UserError(
            f"{where}: {png.name} has {len(some)} ids that are not listed in 'segments_info' ({listed(_texts(some))}; {pixels:,} "
            "pixels); list them, or make them 0 (void)."
        )
    absent = ordered[counts == 0]
    if len(absent):
        raise UserError(
            f"{where}: {len(absent)} segments of 'segments_info' have no pixel in {png.name}: {listed(_texts(absent))}; was it "
            "resized, or do the files belong to different versions?"
        )
    stated = areas[order]
    wrong = np.flatnonzero(~np.isnan(stated) & (stated != counts))
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"{where}: the segment {ordered[first]} has the area {stated[first]:g}, but {png.name} has {counts[first]} pixels of it "
            f"({len(wrong)} of {len(ordered)} segments disagree); was the PNG changed or resized?"
        )


def recognise(root: Path) -> str | None:
    """Because there is a JSON file with the word "segments_info" in it."""
    return reason(root, "panoptic")


def open_coco_panoptic(root: Path, description: DataDescription) -> DataSet:
    """The data set below `root`: annotations/panoptic_<split>.json with a folder of PNG of the same name beside it.

    Raises:
        UserError: files that are not there or not JSON, ids that repeat, annotations of unknown images, categories that do
            not say whether they are things, or about which files disagree.
    """
    refuse_fields(description, "coco_panoptic", "images", "annotations", "masks")
    found = described_files(root, description, "panoptic")
    read = [read_panoptic_file(file.path) for file in found]
    categories = common_categories([(item.index.path, item.categories) for item in read])
    space = category_space(found[0].path, categories, [bool(category.thing) for category in categories])
    notes: list[str] = [
        f"{sum(len(item.index.ids) for item in read):,} segments in {listed([file.path.name for file in found])}.",
        f"{len(space)} classes from 'categories', {sum(space.things)} of them things.",
    ]
    category_ids = np.array([category.id for category in categories])
    parts: list[tuple[AnnotationFile, list[Record]]] = []
    for number, (file, item) in enumerate(zip(found, read, strict=True)):
        notes += _segment_notes(item, categories)
        images = locate_images(root, file, item.names, description.images)
        keep = [(i, path) for i, path in kept_images(file.path, item.names, images, description, notes) if item.pngs[i]]
        bare = sum(png == "" for png in item.pngs)
        if bare:
            notes.append(f"{file.path.name}: {bare} images have no annotation and are left out.")
        pngs = _png_folder(root, file, item, description)
        parts.append((file, [Record(stem(item.names[i]), path, (pngs / item.pngs[i], number, i)) for i, path in keep]))
    return assemble(
        root,
        "coco_panoptic",
        space,
        unique_names(parts),
        reader=CocoPanopticReader(
            space,
            tuple(category_ids.tolist()),
            tuple(labelled(item.index, category_ids, np.arange(len(category_ids))) for item in read),
        ),
        description=description,
        notes=notes,
        sources=tuple(file.path for file in found),
    )


FORMAT = Format(recognise, open_coco_panoptic, write_coco_panoptic, holds="segments", keeps_colours=True, taken=taken)


@dataclass(frozen=True)
class PanopticFile:
    """What one JSON file says: its segments (`labels` still empty), the names of its images, of their PNG ("" where there is
    none), and its categories."""

    index: PanopticIndex
    names: tuple[str, ...]
    pngs: tuple[str, ...]
    categories: tuple[Category, ...]


def read_panoptic_file(path: Path) -> PanopticFile:
    """The COCO panoptic file at `path`.

    Raises:
        UserError: no JSON, fields that are missing or of another kind, ids that repeat, annotations of unknown images, or
            categories that do not say whether they are things.
    """
    file = read_json(path)
    categories = read_categories(file)
    for category in categories:
        if category.thing is None:
            raise UserError(
                f"{path}: the category {category.id} ('{category.name}') has no field 'isthing' (1 for things, 0 for stuff)."
            )
    images = file.objects("images", ("id", "file_name"))
    table = file.objects("annotations", ("image_id", "file_name", "segments_info"))
    image_ids, owners = image_keys(images, table, "image_id")
    refuse_repeated(images, image_ids)
    rows, order, offsets = grouped(images, image_ids, table, owners)
    if (np.diff(offsets) > 1).any():
        image = int(np.flatnonzero(np.diff(offsets) > 1)[0])
        raise UserError(f"{images.who(image)}: the image has more than one panoptic annotation; it has one.")
    segments, starts = file.nested(table, "segments_info", ("id", "category_id", "iscrowd", "area"))
    names = images.texts("file_name")
    pngs = [""] * len(images)
    given = table.present("file_name").all()
    files = table.texts("file_name") if given else [stem(names[row]) + ".png" for row in rows.tolist()]
    for row, name in zip(rows.tolist(), files, strict=True):
        pngs[row] = name.replace("\\", "/")
    return PanopticFile(
        _index(path, segments, starts, order, rows, len(images)), tuple(names), tuple(pngs), tuple(categories)
    )


def _index(
    path: Path, segments: JsonTable, starts: np.ndarray, order: np.ndarray, rows: np.ndarray, images: int
) -> PanopticIndex:
    lengths = np.diff(starts)
    offsets = np.zeros(images + 1, np.int64)
    offsets[rows + 1] = lengths
    offsets = np.cumsum(offsets)
    # Segments of annotation `row` move to the place of its image.
    begins = starts.tolist()
    chosen = np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(begins[row], begins[row + 1]) for row in order.tolist())]
    )
    crowd = segments.integers("iscrowd", default=0)
    for row in np.flatnonzero((crowd != 0) & (crowd != 1)).tolist():
        raise UserError(f"{segments.who(row)}: the field 'iscrowd' is 0 or 1, found {crowd[row]}.")
    categories = segments.integers("category_id")
    return PanopticIndex(
        path,
        offsets,
        segments.integers("id")[chosen],
        np.zeros(0, np.int32),
        categories[chosen],
        crowd.astype(bool)[chosen],
        segments.numbers("area", default=np.nan)[chosen],
    )


def labelled(index: PanopticIndex, category_ids: np.ndarray, labels: np.ndarray) -> PanopticIndex:
    """`index` with the `labels` (K,) of its categories; `category_ids` (K,) ascend."""
    places = np.minimum(np.searchsorted(category_ids, index.categories), len(category_ids) - 1)
    labels = np.where(category_ids[places] == index.categories, labels[places], -1).astype(np.int32)
    return PanopticIndex(index.path, index.offsets, index.ids, labels, index.categories, index.crowd, index.areas)


def _segment_notes(item: PanopticFile, categories: Sequence[Category]) -> list[str]:
    """What is odd about the segments of a file and yet has a meaning."""
    index, notes = item.index, list[str]()
    own = [category.id for category in item.categories]
    others = [category.id for category in categories if category.id not in own]
    strange = np.isin(index.categories, others)
    if strange.any():
        notes.append(
            f"{index.path.name}: {int(strange.sum())} segments have a category that only another file lists "
            f"({listed(_texts(np.unique(index.categories[strange])))})."
        )
    stuff = ~index.crowd & np.isin(index.categories, [category.id for category in categories if not category.thing])
    owners = np.repeat(np.arange(len(index.offsets) - 1), np.diff(index.offsets))
    pairs, counts = np.unique(np.stack([owners, index.categories])[:, stuff], axis=1, return_counts=True)
    images = np.unique(pairs[0, counts > 1])
    if len(images):
        notes.append(
            f"{index.path.name}: {len(images)} images have several segments of one class of stuff, of which COCO has one each "
            f"({listed([item.names[image] for image in images.tolist()], most=3)}); panoptic quality asks for every one of them."
        )
    return notes


def _png_folder(root: Path, file: AnnotationFile, item: PanopticFile, description: DataDescription) -> Path:
    wanted = [png for png in item.pngs if png]
    if description.masks is not None:
        candidates = [root / description.masks / file.path.stem, root / description.masks]
    else:
        beside = [file.path.with_suffix(""), root / file.path.stem, root / "masks" / file.word, root / "masks"]
        candidates = [*beside, file.path.parent, root]
    for folder in candidates:
        missing = [png for png in wanted if not (folder / png).is_file()]
        if len(missing) < len(wanted) or not wanted:
            break
    else:
        raise UserError(
            f"{file.path}: its PNG files (such as '{wanted[0]}') were not found in {listed([str(c) for c in candidates], most=4)}; "
            "name their folder in the field 'masks' of a YAML description."
        )
    if missing:
        raise UserError(
            f"{file.path}: {len(missing)} of {len(wanted)} PNG files are not in {folder}: {listed(missing)}."
        )
    return folder


def _texts(values: Sequence[int] | np.ndarray) -> list[str]:
    return [str(int(value)) for value in values]
