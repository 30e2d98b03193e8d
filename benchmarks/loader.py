"""Images per second of whole loaders, ours and torch's DataLoader over Pillow; and how fast masks come back from our cache.

    python benchmarks/loader.py [--root ../shared/data] [--images 64] [--repeats 5] [--workers 0 2] [--data camvid] [--skip-masks]

    python benchmarks/loader.py --images 32 --repeats 3 --skip-masks    # all four sets, with and without workers, in two minutes

Loaders: camvid and coco128 (panoptic, read as a map of classes), from files to batches of 8 normalised float32 images with
their label maps; coco128 as objects (a mask and a class each) and as segments (the like, and a map): a random crop of 320 pixels at half to twice the size, flip, brightness and contrast, saturation and hue, blur now
and then, as the preset "natural" has them. The peers read image and mask with Pillow, as most projects do, and augment with
albumentations or torchvision v2 over the same ranges; objects are drawn by pycocotools into one byte a pixel each, as the datasets of torchvision
give them, and segments are numbered in one map. None keeps anything in memory; ours once also with the cache of decoded
masks. All take turns in one process; medians over the repeats, of the clock. Each pass has the files in the system's cache.

Masks: microseconds of processor time from bytes in memory to the array, ours against OpenCV and Pillow decoding the PNG that each
writes by default, for whichever is faster.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from nuriwake.data.batching import DrawDataset, make_loader
from nuriwake.data.dataset import DataSet
from nuriwake.data.formats import open_data
from nuriwake.data.mask_cache import with_mask_cache
from nuriwake.data.mask_form import decode_map, encode_map
from nuriwake.data.samplers import Draw
from nuriwake.engine.augmentation import training_augmentation
from nuriwake.engine.config import AugmentationConfig
from nuriwake.engine.samples import IMAGENET, PrepareSample, ReadRecord
from nuriwake.engine.view import viewed
from nuriwake.tasks import get_task

SIDE, BATCH = 320, 8
SETS = {
    "camvid": ("camvid", "mask_folder", "semantic"),
    "coco128": ("coco128", "coco_panoptic", "semantic"),
    "coco128_objects": ("coco128", "coco", "instance"),
    "coco128_segments": ("coco128", "coco_panoptic", "panoptic"),
}
"""Name -> folder, format, task."""

Augment = Callable[[np.ndarray, np.ndarray], Any]
MEAN, DEVIATION = IMAGENET.mean, IMAGENET.deviation


def ours(data: DataSet, task: str, images: int, workers: int) -> Callable[[int], Iterator[Any]]:
    """The loader of `train`, with the preset "natural" at its own zoom."""
    config = AugmentationConfig(preset="natural", crop_size=SIDE)
    prepare = PrepareSample(training_augmentation(config, 3), IMAGENET)
    draws = _Draws(images)
    samples = DrawDataset(ReadRecord(data, "train"), prepare, seed=0, count=images)
    loader = make_loader(samples, draws, batch_size=BATCH, view=get_task(task).stack, workers=workers)

    def epoch(number: int) -> Iterator[Any]:
        draws.epoch = number
        return iter(loader)

    return epoch


class _Draws:
    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(self.epoch, position, position) for position in range(self.count))

    def __len__(self) -> int:
        return self.count


class PlainFiles(Dataset[Any]):
    """What most projects write: Pillow, a table of labels, `augment`."""

    def __init__(self, data: DataSet, task: str, images: int, augment: Augment) -> None:
        self.records, self.augment, self.task = data.records("train")[:images], augment, task
        self.tables = _category_tables(data) if data.format == "coco_panoptic" else None
        self.objects = _objects(data) if task == "instance" else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        image = np.asarray(Image.open(record.image).convert("RGB"))
        if self.objects is not None:
            return self._with_objects(image, *self.objects[record.image.name])
        if self.tables is None:
            return self.augment(image, np.asarray(Image.open(record.target)))
        png = record.target[0]
        colours = np.asarray(Image.open(png).convert("RGB")).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        known, labels = self.tables[png.name]
        places = np.searchsorted(known, ids)
        if self.task == "semantic":
            return self.augment(image, labels[places])
        image, numbers = self.augment(image, places.astype(np.uint8))
        there = torch.unique(numbers)
        there = there[(there > 0) & (there < len(known))]
        return image, torch.from_numpy(labels)[there], numbers == there[:, None, None]

    def _with_objects(self, image: np.ndarray, labels: np.ndarray, outlines: list[Any]) -> Any:
        from pycocotools import mask as coco_mask

        runs = [coco_mask.merge(coco_mask.frPyObjects(outline, *image.shape[:2])) for outline in outlines]
        masks = coco_mask.decode(runs) if runs else np.zeros((*image.shape[:2], 1), np.uint8)
        image, masks = self.augment(image, masks)
        there = (masks == 1).flatten(1).any(dim=1) & (torch.arange(len(masks)) < len(labels))
        return image, torch.from_numpy(labels)[there[: len(labels)]], masks[there] == 1


def _objects(data: DataSet) -> dict[str, tuple[np.ndarray, list[Any]]]:
    """File name -> labels and polygons of its objects that are no crowd."""
    plain = json.loads(data.sources[0].read_text())
    order = {category["id"]: n for n, category in enumerate(plain["categories"])}
    rows: dict[int, list[Any]] = {item["id"]: [] for item in plain["images"]}
    for item in plain["annotations"]:
        if not item["iscrowd"]:
            rows[item["image_id"]].append(item)
    return {
        item["file_name"]: (
            np.array([order[row["category_id"]] for row in rows[item["id"]]], np.int64),
            [row["segmentation"] for row in rows[item["id"]]],
        )
        for item in plain["images"]
    }


def _plain_batch(items: list[Any]) -> Any:
    """Images stacked, all else one by one, as torchvision's references do."""
    images, *rest = zip(*items, strict=True)
    return torch.stack(images), *rest


def _category_tables(data: DataSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """PNG name -> ids, ascending, and their labels; 0 is ignored."""
    plain = json.loads(data.sources[0].read_text())
    order = {category["id"]: n for n, category in enumerate(plain["categories"])}
    out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for item in plain["annotations"]:
        pairs = sorted([(0, 255), *((part["id"], order[part["category_id"]]) for part in item["segments_info"])])
        out[item["file_name"]] = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs], np.uint8)
    return out


def albumentations_augment() -> Augment:
    """albumentations 2.0.8."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    compose = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1.0),
            A.PadIfNeeded(SIDE, SIDE, border_mode=cv2.BORDER_REFLECT_101, fill_mask=255),
            A.RandomCrop(SIDE, SIDE),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(0.125, 0.35, p=0.7),
            A.HueSaturationValue(6, 100, 0, p=0.5),
            A.GaussianBlur(p=0.05),
            A.Normalize(MEAN, DEVIATION),
            ToTensorV2(),
        ]
    )

    def augment(image: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        both = compose(image=image, mask=mask)
        mask = both["mask"]
        return both["image"], mask.permute(2, 0, 1) if mask.ndim == 3 else mask.long()

    return augment


def torchvision_augment() -> Augment:
    """torchvision.transforms.v2 on uint8 tensors, as its documentation advises."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    compose = v2.Compose(
        [
            v2.ScaleJitter((SIDE, SIDE), (0.5, 2.0), antialias=False),
            v2.RandomCrop((SIDE, SIDE), pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.125, 0.35)], 0.7),
            v2.RandomApply([v2.ColorJitter(saturation=0.4, hue=0.033)], 0.5),
            v2.RandomApply([v2.GaussianBlur(5)], 0.05),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )

    def augment(image: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        picture = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
        layers = np.moveaxis(mask, 2, 0) if mask.ndim == 3 else mask
        return compose(picture, tv_tensors.Mask(torch.from_numpy(layers.copy())))

    return augment


def theirs(augment: Augment, data: DataSet, task: str, images: int, workers: int) -> Callable[[int], Iterator[Any]]:
    """torch's DataLoader over `PlainFiles`."""
    files = PlainFiles(data, task, images, augment)
    together = None if task == "semantic" else _plain_batch
    loader = DataLoader(files, BATCH, num_workers=workers, persistent_workers=workers > 0, collate_fn=together)
    return lambda _: iter(loader)


def loaders(root: Path, names: list[str], images: int, repeats: int, workers: list[int], warm: int) -> None:
    """Prints a table per data set and number of workers."""
    for name in names:
        folder_name, form, task = SETS[name]
        plain = open_data(root / folder_name, format=form)
        data = viewed(plain, get_task(task))
        count = min(images, len(data.records("train")))
        with tempfile.TemporaryDirectory() as folder:
            kept, _ = with_mask_cache(data, Path(folder), purpose=task)
            for number in workers:
                makers: dict[str, Callable[[int], Callable[[int], Iterator[Any]]]] = {
                    "nuriwake": partial(ours, data, task, count),
                    "nuriwake, masks from its cache": partial(ours, kept, task, count),
                    "Pillow + albumentations": partial(theirs, albumentations_augment(), plain, task, count),
                    "Pillow + torchvision v2": partial(theirs, torchvision_augment(), plain, task, count),
                }
                _race(f"{name}, {count} images, {number} workers", makers, number, count, repeats, warm)


def _race(title: str, makers: dict[str, Any], workers: int, images: int, repeats: int, warm: int) -> None:
    runners = {name: make(workers) for name, make in makers.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    passes = -(-warm // images)  # what happens to few images compiles too, workers start, the system's cache fills
    for number in range(-passes, repeats):
        for name, run in runners.items():
            clock, processor = time.perf_counter(), time.process_time()
            for _ in run(number + passes):
                pass
            if number >= 0:
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    base = float(np.median([clock for clock, _ in times["Pillow + albumentations"]]))
    print(f"\n{title:38}{'images/s':>10}{'x albumentations':>18}{'processor ms/image':>20}")
    for name, values in times.items():
        clock, processor = (float(value) for value in np.median(np.array(values), axis=0))
        own = f"{processor / images * 1e3:20.2f}" if workers == 0 else f"{'':20}"
        print(f"{name:38}{images / clock:10.1f}{base / clock:18.2f}{own}")


def maps(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Label maps: (H, W) uint8, or int32 where they hold ids."""
    streets = [np.asarray(Image.open(path)) for path in sorted((root / "camvid/masks/train").glob("*.png"))[::37]]
    yield "camvid 360x480", streets[3]
    yield "nuclei, ids", np.asarray(Image.open(sorted((root / "nuclei/masks").glob("*.png"))[50])).astype(np.int32)
    for path in sorted((root / "coco128/annotations/panoptic_train2017").glob("*.png"))[7:9]:
        yield (
            "coco128 panoptic",
            np.asarray(Image.open(path).convert("RGB")).astype(np.int32) @ np.array([1, 256, 65536], np.int32),
        )
    yield "isbi2012 512x512", np.asarray(Image.open(sorted((root / "isbi2012/masks").glob("*.png"))[-1]))
    yield "streets 1024x2048", cv2.resize(streets[5], (2048, 1024), interpolation=cv2.INTER_NEAREST)
    rng = np.random.default_rng(0)
    spoilt = streets[3].copy()
    spoilt[rng.random(spoilt.shape) < 0.1] = 5
    yield "camvid, 10 % of pixels noise", spoilt
    yield "noise of 11 classes 360x480", rng.integers(0, 11, (360, 480)).astype(np.uint8)


def mask_forms(root: Path, repeats: int) -> None:
    """Prints the table of masks."""
    print(f"{'map':30}{'bytes: ours':>12}{'PNG':>8}{'us: ours':>10}{'OpenCV':>9}{'Pillow':>9}{'ratio':>7}")
    for name, labels in maps(root):
        pixels = labels.reshape(-1, 1)
        coded = encode_map(pixels)
        assert np.array_equal(decode_map(coded, len(pixels)), pixels)
        stored = labels if labels.dtype == np.uint8 else _as_png(labels)
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, format="PNG")
        first, second = buffer.getvalue(), cv2.imencode(".png", stored)[1].tobytes()
        times = _fastest(
            {
                "ours": partial(decode_map, coded, labels.size),
                "opencv": lambda png=first: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED),
                "opencv, its own": lambda png=second: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED),
                "pillow": lambda png=first: np.asarray(Image.open(io.BytesIO(png))),
            },
            repeats,
        )
        best = min(times["opencv"], times["opencv, its own"])
        size = coded.data.nbytes + coded.table.nbytes
        print(
            f"{name:30}{size:12}{min(len(first), len(second)):8}{times['ours']:10.0f}{best:9.0f}{times['pillow']:9.0f}"
            f"{min(best, times['pillow']) / times['ours']:6.1f}x"
        )


def _as_png(ids: np.ndarray) -> np.ndarray:
    """As ids are kept in PNG: 16 bit, or where that is too little in three colours."""
    if ids.max() < 65536:
        return ids.astype(np.uint16)
    return np.stack([(ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)


def _fastest(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(8 * repeats + 2):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            if number > 1:
                times[name].append((time.thread_time() - start) * 1e6)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--data", choices=SETS, nargs="*", default=list(SETS), help="the sets of the loaders")
    parser.add_argument("--warm", type=int, default=200, help="images that each loader reads before its time is taken")
    parser.add_argument("--skip-masks", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if not options.skip_masks:
        mask_forms(options.root, options.repeats)
    loaders(options.root, options.data, options.images, options.repeats, options.workers, options.warm)


if __name__ == "__main__":
    main()
