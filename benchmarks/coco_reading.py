"""Opening a COCO instances file of the size of train2017, beside pycocotools: seconds and peak memory, each in a process of its own.

    python benchmarks/coco_reading.py [--images 118000] [--annotations 860000] [--folder DIR] [--peers]

Writes (once) a JSON of random outlines of COCO's size and layout, and for `open_data` as many links to one small picture.
"""

import argparse
import json
import multiprocessing
import pickle
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np

NAMES = [f"class {i}" for i in range(80)]


def generate(path: Path, images: int, annotations: int) -> None:
    """Outlines of 5 to 70 points around ellipses, two decimals, in COCO's order of fields; one in 90 is a crowd region."""
    rng = np.random.default_rng(0)
    identifiers = rng.choice(600_000, images, replace=False) + 1
    with path.open("w") as file:
        rows = [
            f'{{"license": 3,"file_name": "{i:012d}.jpg","coco_url": "http://images.cocodataset.org/train2017/{i:012d}.jpg",'
            f'"height": 480,"width": 640,"date_captured": "2013-11-14 17:02:52","flickr_url": "http://farm9.staticflickr.com/'
            f'8186/8119368305_4e622c8349_z.jpg","id": {i}}}'
            for i in identifiers
        ]
        file.write(
            '{"info": {"description": "generated"},"licenses": [],"images": [' + ",".join(rows) + '],"annotations": ['
        )
        for start in range(0, annotations, 1000):
            count = min(1000, annotations - start)
            texts = [outline(rng, start + k, int(identifiers[rng.integers(images)])) for k in range(count)]
            file.write(("," if start else "") + ",".join(texts))
        categories = ",".join(
            f'{{"supercategory": "thing","id": {i + 1},"name": "{name}"}}' for i, name in enumerate(NAMES)
        )
        file.write(f'],"categories": [{categories}]}}')


def outline(rng: np.random.Generator, number: int, image: int) -> str:
    count = int(rng.integers(5, 45))
    angle = np.linspace(0, 6.28, count)
    x = np.round(320 + rng.uniform(10, 300) * np.cos(angle) + rng.uniform(-3, 3, count), 2)
    y = np.round(240 + rng.uniform(10, 220) * np.sin(angle) + rng.uniform(-3, 3, count), 2)
    parts = ",".join(map(str, np.stack([x, y], axis=1).ravel().tolist()))
    masks = f"[[{parts}]]"
    if number % 90 == 0:
        runs = [0, *rng.integers(1, 300, 400).tolist()]
        runs.append(640 * 480 - sum(runs))
        masks = f'{{"counts": {json.dumps(runs)},"size": [480,640]}}'
    box = [round(float(v), 2) for v in (x.min(), y.min(), x.max() - x.min(), y.max() - y.min())]
    return (
        f'{{"segmentation": {masks},"area": {float(np.prod(box[2:])) * 0.7854},"iscrowd": {int(number % 90 == 0)},'
        f'"image_id": {image},"bbox": {json.dumps(box)},"category_id": {int(rng.integers(1, 81))},"id": {number + 1}}}'
    )


def links(folder: Path, path: Path) -> None:
    """Every image of the file as a hard link to one JPEG (to a few: file systems count links)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(json.loads(path.read_text())["images"]):
        first = path.parent.parent / f"picture{number // 50_000}.jpg"
        if number % 50_000 == 0:
            cv2.imwrite(str(first), np.full((480, 640, 3), 90, np.uint8))
        (folder / image["file_name"]).hardlink_to(first)


def read_index(path: Path) -> str:
    from nuriwake.data.coco_index import read_coco

    read_coco(path)
    return ""


def open_all(path: Path) -> str:
    from nuriwake.data.formats import open_data

    data = open_data(path.parent.parent)
    return f"reader sent to a worker: {len(pickle.dumps(data.reader)) / 2**20:.0f} MiB"


def read_at_random(path: Path) -> str:
    from nuriwake.data.formats import open_data

    data = open_data(path.parent.parent)
    records = data.splits["train"]
    data.read_target(records[0])
    start, objects = time.process_time(), 0
    for record in records[:: max(1, len(records) // 2000)]:
        objects += len(data.read_target(record))
    return f"{objects / (time.process_time() - start):,.0f} masks a second of processor, at random"


def with_pycocotools(path: Path) -> str:
    from pycocotools.coco import COCO

    COCO(str(path))
    return ""


def with_json(path: Path) -> str:
    json.loads(path.read_bytes())
    return ""


def peak_memory() -> float:
    """MiB at most held by this process, since it began (getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 2**10


def measured(function: Callable[[Path], str], path: Path, pipe: Connection) -> None:
    if function in (
        read_index,
        open_all,
        read_at_random,
    ):  # compiling the kernels happens once per machine, not once per file
        import nuriwake.data.formats  # noqa: F401
        from nuriwake.data.coco_index import read_coco

        read_coco(path.parent / "warm.json")
    start, processor = time.perf_counter(), time.process_time()
    note = function(path)
    pipe.send((function.__name__, time.perf_counter() - start, time.process_time() - processor, peak_memory(), note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nuriwake_coco_reading"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--peers", action="store_true", help="pycocotools and Python's json as well: several GB of memory"
    )
    arguments = parser.parse_args()
    path = arguments.folder / "annotations" / "instances_train2017.json"
    if not path.is_file():
        path.parent.mkdir(parents=True)
        generate(path, arguments.images, arguments.annotations)
        generate(path.parent / "warm.json", 10, 20)
        links(arguments.folder / "images" / "train2017", path)
    print(f"{path.stat().st_size / 1e6:.0f} MB, {arguments.images:,} images, {arguments.annotations:,} annotations")
    spawn = multiprocessing.get_context("spawn")
    for function in [
        read_index,
        open_all,
        read_at_random,
        *([with_json, with_pycocotools] if arguments.peers else []),
    ] * arguments.repeats:
        receive, send = spawn.Pipe(duplex=False)
        process = spawn.Process(target=measured, args=(function, path, send))
        process.start()
        send.close()
        name, taken, processor, peak, note = receive.recv()
        process.join()
        print(
            f"{name:18} {taken:7.2f} s   ({processor:6.2f} s of processor)   peak {peak:6.0f} MiB   {note}", flush=True
        )


if __name__ == "__main__":
    main()
