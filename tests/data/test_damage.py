"""Damaged files of every format: refused by name, found by the check, or read as what they say now; never silently wrong.

What "silently wrong" means depends on what a file can tell:

- PNG has a checksum over every part that matters. Whatever happens to a PNG, of an image or of a mask, the pixels are those
  that were written, or the file is refused.
- JSON, XML and YAML can be broken as text. Text that Python's own parser refuses is refused, unless the damage lies in a part
  that says nothing of the truth and the truth is what it was. Text that is still whole says something else now (a digit of
  a coordinate changed): it must be read as what it says. For JSON that is compared with the same document written anew.
- A gzipped NIfTI volume has a checksum over all of it: what is read is what was written. One that is not packed has none, and
  must be read as nibabel itself reads it.
- JPEG, TIFF and lines of numbers (YOLO) have no checksum over what they declare: a changed value is a correct read of another
  file. They must be refused or give an image of the size that they declare; a GeoTIFF the very pixels that GDAL reads.

The check must say something of every file that reading refuses, and name it.
`NURIWAKE_DAMAGE_CASES` and `NURIWAKE_DAMAGE_SEED` make more and other cases than the 500.
"""

import json
import os
import re
import shutil
import signal
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import yaml

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.check import check_data
from nuriwake.data.formats import FORMATS, open_data
from nuriwake.data.images import read_image, read_mask
from nuriwake.data.nifti_address import slice_address
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings

CASES = int(os.environ.get("NURIWAKE_DAMAGE_CASES", "500"))
SEED = int(os.environ.get("NURIWAKE_DAMAGE_SEED", "0"))
SECONDS = 10
"""No case may take longer: that is a hang."""

SIZE = (24, 32)
SPACE = LabelSpace(("background", "disc", "square"))
THINGS = LabelSpace(("disc", "square"), (True, True))
SEGMENTS = LabelSpace(("road", "car"), (False, True))  # classes that Cityscapes has too


def label_map(number: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[4 : 12 + number, 3:14] = 2
    cv2.circle(labels, (22, 12 + number), 6, 1, -1)
    return labels


def objects(number: int) -> Instances:
    dense = np.stack([label_map(number) == 1, label_map(number) == 2]).astype(np.uint8)
    return Instances(RunMasks.from_dense(dense), np.array([0, 1], np.int32), THINGS)


def segments(number: int) -> Panoptic:
    ids = np.where(label_map(number) == 1, 26001, np.where(label_map(number) == 2, 26002, 7)).astype(np.int32)
    return Panoptic(ids, np.array([7, 26001, 26002], np.int32), np.array([0, 1, 1], np.int32), SEGMENTS)


def cells(number: int) -> Instances:
    return Instances(objects(number).masks, np.zeros(2, np.int32), LabelSpace(("cell",), (True,)))


def classes(number: int) -> SemanticMap:
    return SemanticMap(label_map(number), SPACE)


@dataclass(frozen=True)
class Kind:
    """One way of writing a data set: format, targets, and what else is done to it; `make` writes it all itself."""

    format: str
    target: Callable[[int], Target] = classes
    polygons: bool = False
    after: Callable[[Path], Path] = lambda root: root
    make: Callable[[Path], None] | None = None


def described(root: Path) -> Path:
    """Masks of 0 and 255 by a YAML description."""
    for path in sorted(root.rglob("masks/**/*.png")):
        cv2.imwrite(str(path), np.where(read_mask(path), 255, 0).astype(np.uint8))
    (root / "classes.json").unlink()
    text = "format: mask_folder\nimages: images\nmasks: masks\nclasses: [nothing, thing]\nvalues: {0: nothing, 255: thing}\n"
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def coloured(root: Path) -> Path:
    """RGB masks, and their colours in classes.json."""
    colours = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)
    for path in sorted(root.rglob("masks/**/*.png")):
        cv2.imwrite(str(path), colours[read_mask(path)][..., ::-1])
    plain = {"classes": SPACE.names, "colours": dict(zip(SPACE.names, colours.tolist(), strict=True))}
    (root / "classes.json").write_text(json.dumps(plain))
    return root


def wide(root: Path) -> Path:
    """TIFF masks, compressed as most tools do."""
    for path in sorted(root.rglob("masks/**/*.png")):
        tifffile.imwrite(path.with_suffix(".tif"), read_mask(path), compression="zlib")
        path.unlink()
    return root


def one_geojson(root: Path) -> Path:
    """The polygons of all images in one file beside images/, as others deliver them."""
    found = [json.loads(path.read_text())["features"] for path in sorted(root.rglob("*.geojson"))]
    for name in ("masks", "polygons"):
        shutil.rmtree(root / name)
    (root / "classes.json").unlink()
    plain = {"type": "FeatureCollection", "features": [item for part in found for item in part]}
    (root / "objects.geojson").write_text(json.dumps(plain))
    return root


def volumes(root: Path, suffix: str) -> None:
    """Four volumes of three slices, whose first axis runs to the left."""
    import nibabel

    for number in range(4):
        labels = np.stack([label_map((number + index) % 4) for index in range(3)], axis=-1)
        values = np.random.default_rng(number).integers(-200, 1000, labels.shape).astype(np.int16)
        for folder, array in (("imagesTr", values), ("labelsTr", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(array, np.diag([-1, 1.5, 3, 1]))
            nibabel.save(image, root / folder / f"sample{number}{suffix}")
    labels = {name: label for label, name in enumerate(SPACE.names)}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))


KINDS = {
    "ade20k": Kind("ade20k", classes),
    "cityscapes": Kind("cityscapes", segments),
    "coco": Kind("coco", objects),
    "coco_polygons": Kind("coco", objects, polygons=True),
    "coco_panoptic": Kind("coco_panoptic", segments),
    "cvat": Kind("cvat", objects),
    "cvat_polygons": Kind("cvat", objects, polygons=True),
    "geotiff": Kind("geotiff", classes),
    "geotiff_objects": Kind("geotiff", objects),
    "geotiff_segments": Kind("geotiff", segments),
    "geotiff_shared": Kind("geotiff", objects, after=one_geojson),
    "labelme": Kind("labelme", objects),
    "label_studio": Kind("label_studio", objects),
    "label_studio_polygons": Kind("label_studio", objects, polygons=True),
    "mask_folder": Kind("mask_folder", classes),
    "mask_folder_ids": Kind("mask_folder", cells),
    "mask_folder_described": Kind("mask_folder", classes, after=described),
    "mask_folder_coloured": Kind("mask_folder", classes, after=coloured),
    "mask_folder_tiff": Kind("mask_folder", classes, after=wide),
    "nifti": Kind("nifti", make=lambda root: volumes(root, ".nii.gz")),
    "nifti_plain": Kind("nifti", make=lambda root: volumes(root, ".nii")),
    "voc": Kind("voc", objects),
    "yolo": Kind("yolo", objects),
}
EXTRAS = {"geotiff": ("rasterio", "geo"), "nifti": ("nibabel", "medical")}
"""Format -> the library that it needs, and the extra that brings it."""

REAL = {
    "ade20k_sample": "formats/ade20k_sample/sampleData",
    "labelme_sample": "formats/labelme",
    "voc_sample": "formats/voc",
}


def missing(kind: Kind) -> str | None:
    """The extra that is not installed."""
    library, extra = EXTRAS.get(kind.format, ("json", ""))
    return None if find_spec(library) is not None else extra


def write_kind(kind: Kind, root: Path, sources: Path) -> Path:
    if kind.make is not None:
        kind.make(root)
        return kind.after(root)
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        samples: list[Sample] = []
        for number in numbers:
            picture = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
            image = cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
            source = sources / f"sample{number}{('.png', '.jpg', '.tif', '.png')[number]}"
            sources.mkdir(exist_ok=True)
            if kind.format == "geotiff":
                source = write_placed(sources / f"sample{number}.geo.tif", image, number)
            elif source.suffix == ".tif":
                tifffile.imwrite(source, image, photometric="rgb")
            else:
                cv2.imwrite(str(source), image)
            samples.append(Sample(image, kind.target(number), name=f"sample{number}", source=source))
        settings = WriteSettings(split=split, polygons=kind.polygons)
        write_data(samples, root, format=kind.format, space=samples[0].target.space, settings=settings)
    return kind.after(root)


def write_placed(path: Path, image: np.ndarray, number: int) -> Path:
    """A GeoTIFF; the images lie beside each other on the map. Some are packed, some are not."""
    import rasterio

    transform = rasterio.Affine(0.5, 0, 400000 + 100 * number, 0, -0.5, 3950000)
    profile = {"crs": "EPSG:32654", "transform": transform, "compress": ("deflate", "none", "lzw", "none")[number]}
    shape = {"count": 3, "height": SIZE[0], "width": SIZE[1], "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", interleave="pixel", **shape, **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
    return path


@dataclass(frozen=True)
class Truth:
    """A whole data set: where it is opened, its format, its files, and what reading it gives."""

    place: Path
    format: str | None
    files: tuple[Path, ...]
    pixels: dict[str, np.ndarray]
    targets: dict[str, bytes]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Truth]:
    folder = tmp_path_factory.mktemp("damage")
    found: dict[str, Truth] = {}
    for name, kind in KINDS.items():
        if missing(kind):
            continue
        place = write_kind(kind, folder / name, folder / "sources")
        found[name] = whole(place, folder / name, None if place.is_file() else kind.format)
    return found


def whole(place: Path, root: Path, form: str | None) -> Truth:
    files = tuple(sorted(path for path in root.rglob("*") if path.is_file()))
    pixels, targets = read_everything(place, form)
    assert len(pixels) >= 2
    return Truth(place, form, files, pixels, targets)


def read_everything(place: Path, form: str | None) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """Pixels and truth (as bytes to compare) by the sample's name, whatever its split."""
    data = open_data(place, format=form)
    samples = [data.read(record) for records in data.splits.values() for record in records]
    # Of slices the volume belongs to the name.
    name = ["/".join(sample.name.split("/")[-2 if slice_address(sample.source) else -1 :]) for sample in samples]
    pixels = {key: sample.image for key, sample in zip(name, samples, strict=True)}
    return pixels, {key: as_bytes(sample.target) for key, sample in zip(name, samples, strict=True)}


def as_bytes(target: Target | None) -> bytes:
    """Everything that a target says of the pixels, with names of classes, for comparing."""
    if target is None:
        return b""
    names = np.array(target.space.names)
    if isinstance(target, SemanticMap):
        return repr(target.space.names).encode() + target.labels.tobytes()
    labels = names[target.labels].tolist() if len(target.labels) else []
    if isinstance(target, Panoptic):
        return repr((target.segment_ids.tolist(), labels, target.crowd.tolist())).encode() + target.ids.tobytes()
    dense = target.masks.dense() if len(target.masks) else np.zeros(0, np.uint8)
    return repr((labels, target.crowd.tolist(), target.size)).encode() + dense.tobytes()


TOKENS = (
    b"-1", b"0", b"1e999", b"99999999999999999999", b"NaN", b"null", b'"x"', b"[]", b"{}", b"0.5", b"true", b"70000", b"-7e-9",
)  # fmt: skip


def damage(data: bytes, rng: np.random.Generator, *, text: bool) -> tuple[str, bytes]:
    """One of the ways in which files are damaged: its name, and the bytes that are left."""
    kinds = ["bits", "bits", "bytes", "cut", "middle", "swap", "again", "zeros", "other"] + ["token"] * 6 * text
    kind = str(rng.choice(kinds))
    start, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    end = min(end, start + int(2 ** rng.integers(0, 9)))
    if kind == "bits":
        array = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(array), int(rng.choice([1, 1, 2, 8])))
        array[where] ^= (1 << rng.integers(0, 8, len(where))).astype(np.uint8)
        return kind, array.tobytes()
    if kind == "bytes":
        return kind, data[:start] + rng.bytes(end - start) + data[end:]
    if kind == "cut":
        return kind, data[:start]
    if kind == "middle":
        return kind, data[:start] + data[end:]
    if kind == "swap":
        other = int(rng.integers(0, len(data)))
        first, second = sorted([(start, end), (other, min(len(data), other + end - start))])
        if first[1] > second[0]:
            return kind, data[::-1]
        return kind, b"".join(
            [data[: first[0]], data[slice(*second)], data[first[1] : second[0]], data[slice(*first)], data[second[1] :]]
        )
    if kind == "again":
        return kind, data[:end] + data[start:]
    if kind == "zeros":
        return kind, data[:start] + bytes(end - start) + data[end:]
    if kind == "other":
        return kind, (b"", b"\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"[]", b"{}", b"null")[
            rng.integers(9)
        ]
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"]*\"", data))
    found = numbers[int(rng.integers(len(numbers)))] if numbers else None
    return kind, data if found is None else data[: found.start()] + TOKENS[rng.integers(len(TOKENS))] + data[
        found.end() :
    ]


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def whole_text(path: Path, data: bytes) -> bool | None:
    """Whether Python's own parser reads the text; None for what is no JSON, XML or YAML."""
    try:
        match path.suffix:
            case ".json" | ".geojson":
                json.loads(data)
            case ".xml":
                ElementTree.fromstring(data)
            case ".yaml":
                yaml.safe_load(data)
            case _:
                return None
    except (ValueError, ElementTree.ParseError, yaml.YAMLError, RecursionError):
        return False
    return True


def examine(truth: Truth, path: Path, data: bytes) -> str:
    """What becomes of the data set when `path` holds `data`: "refused", "found" or "read"; asserts what the head says."""
    original = path.read_bytes()
    try:
        path.write_bytes(data)
        return _examine(truth, path, data, original)
    finally:
        path.write_bytes(original)


def _examine(truth: Truth, path: Path, data: bytes, original: bytes) -> str:
    refusal = ""
    pixels, targets = {}, {}
    try:
        pixels, targets = read_everything(truth.place, truth.format)
    except UserError as error:
        refusal = str(error)
    told = told_by_check(truth)
    if refusal:
        assert names(refusal, path, truth), f"the refusal does not name the file: {refusal}"
        assert told, f"reading refuses, the check says nothing: {refusal}"
        assert any(names(text, path, truth) for text in told), f"the check does not name the file: {told}"
        return "refused"
    same = {key: target == truth.targets.get(key) for key, target in targets.items()}
    if path.suffix in (".png", ".gz"):
        assert all(same.values()), "a file with a checksum gives another truth"
        assert all(np.array_equal(array, truth.pixels[key]) for key, array in pixels.items()), "and other pixels"
    if whole_text(path, data) is False:
        assert all(same.values()), "text that is broken gives another truth"
    if truth.format == "geotiff" and path.suffix == ".tif":
        assert_pixels_are_those_of_gdal(truth, path, original)
    if path.suffix == ".nii":
        assert_voxels_are_those_of_nibabel(truth, path, pixels)
    if path.suffix in (".json", ".geojson") and whole_text(path, data):
        assert_reads_like_itself_written_anew(truth, path, data, targets)
    return "found" if told else "read"


def told_by_check(truth: Truth) -> list[str]:
    """The sentences of the check, harmful or not; that of its refusal where it refuses."""
    try:
        findings = check_data(truth.place, format=truth.format, workers=1).findings
    except UserError as error:
        return [str(error)]
    unforeseen = [str(finding) + str(finding.files) for finding in findings if "Error:" in str(finding.files)]
    assert not unforeseen, f"a fault nobody thought of: {unforeseen}"
    return [" ".join((finding.what, *finding.files)) for finding in findings]


def names(text: str, path: Path, truth: Truth) -> bool:
    """The file itself, what it is beside (an image by its mask), or a class that only it can have named."""
    samples = [path.stem, *truth.targets] if path.suffix not in (".png", ".jpg", ".tif") else [path.stem]
    root = truth.place if truth.place.is_dir() else truth.place.parent
    return any(re.search(rf"\b{re.escape(name)}", text) for name in samples) or (
        path.suffix in (".json", ".geojson", ".txt", ".yaml", ".csv") and str(root) in text
    )


def assert_reads_like_itself_written_anew(truth: Truth, path: Path, data: bytes, targets: dict[str, bytes]) -> None:
    try:
        path.write_text(json.dumps(json.loads(data), ensure_ascii=False))
        anew = read_everything(truth.place, truth.format)[1]
    except UserError as error:
        pytest.fail(f"the file is read, but the same document written anew is refused: {error}")
    assert anew == targets, "the same document written anew has another truth"


def assert_pixels_are_those_of_gdal(truth: Truth, path: Path, original: bytes) -> None:
    """Where GDAL refuses what we read, nothing may have changed."""
    import rasterio

    masks = "masks" in path.parts
    if masks and truth.place.name != "geotiff":
        return  # the truth of objects and segments is their polygons; the labels beside them are for people
    found = read_mask(path)[..., None] if masks else read_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = rasterio.open(path)
            expected = file.read()
        except rasterio.errors.RasterioError:
            with rasterio.MemoryFile(original) as memory:
                expected = memory.open().read()
    np.testing.assert_array_equal(found, np.moveaxis(expected, 0, 2))


def assert_voxels_are_those_of_nibabel(truth: Truth, path: Path, pixels: dict[str, np.ndarray]) -> None:
    """Of what is called like the damaged file; pictures run from the high ends of the turned axes down."""
    import nibabel

    image: Any = nibabel.as_closest_canonical(nibabel.load(truth.place / "imagesTr" / path.name))
    expected = np.asarray(image.dataobj, np.float32)
    expected = expected.reshape(*expected.shape[:3], -1)
    slices = {key: array for key, array in pixels.items() if key.partition("/")[0] == path.stem}
    assert slices
    axis = next(axis for axis in (2, 1, 0) if expected.shape[axis] == len(slices))
    for index, key in enumerate(sorted(slices)):
        turned = np.take(expected, index, axis)[::-1, ::-1].swapaxes(0, 1)
        np.testing.assert_array_equal(slices[key], turned)


def one_case(truth: Truth, rng: np.random.Generator) -> tuple[Path, str, bytes]:
    path = truth.files[int(rng.integers(len(truth.files)))]
    text = path.suffix in (".json", ".geojson", ".xml", ".yaml", ".txt", ".csv")
    kind, data = damage(path.read_bytes(), rng, text=text)
    return path, kind, data


def test_every_format_is_among_the_damaged():
    assert {kind.format for kind in KINDS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_of_a_format(sets, name):
    if extra := missing(KINDS[name]):
        pytest.skip(f"needs the extra {extra}")
    _run(sets[name], name, -(-CASES // len(KINDS)))


def _run(truth: Truth, name: str, count: int) -> None:
    outcomes = {"refused": 0, "found": 0, "read": 0}
    for case in range(count):
        rng = np.random.default_rng([SEED, case, *name.encode()])
        path, kind, data = one_case(truth, rng)
        try:
            with no_longer_than(SECONDS):
                outcomes[examine(truth, path, data)] += 1
        except BaseException as error:
            error.add_note(f"case {case} of {name}, seed {SEED}: {path.name} after '{kind}', {len(data)} bytes")
            raise
    assert count < 20 or outcomes["refused"] > 0, outcomes


@pytest.mark.parametrize("name", REAL)
def test_damaged_files_of_a_real_sample(shared, tmp_path, name):
    root = tmp_path / name
    shutil.copytree(shared / "data" / REAL[name], root)
    if name == "ade20k_sample":
        shutil.copy(shared / "data" / "formats" / "ade20k_sample" / "objectInfo150.txt", root)
        shutil.rmtree(root / "predictions")
    _run(whole(root, root, None), name, max(2, CASES // 100))
