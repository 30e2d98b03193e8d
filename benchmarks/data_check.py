"""`nuriwake check` of ten thousand images of 640x480 with masks: seconds, processor seconds and memory.

    python benchmarks/data_check.py [--images 10000] [--workers 2]

The images are drawn into a temporary folder, which is deleted at the end.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from nuriwake.data.check import check_data

SIZE = (480, 640)
TEXTURES = 32


def draw(root: Path, count: int) -> None:
    """`count` photographs that differ, as JPEG, and masks of six classes, as PNG; a tenth of them in val."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (TEXTURES, 40, 50, 3)).astype(np.uint8)
    textures = [cv2.resize(item, (1000, 800), interpolation=cv2.INTER_CUBIC) for item in coarse]
    grain = rng.integers(-9, 10, (*SIZE, 3)).astype(np.int16)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
    (root / "classes.txt").write_text("background\nroad\ncar\ntree\nsky\nsign\n")
    for number in range(count):
        split = "val" if number % 10 == 0 else "train"
        top, left = (int(value) for value in rng.integers(0, [800 - SIZE[0], 1000 - SIZE[1]]))
        image = textures[number % TEXTURES][top : top + SIZE[0], left : left + SIZE[1]]
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        for label in range(1, 6):
            x, y = (int(value) for value in rng.integers(0, [SIZE[1], SIZE[0]]))
            cv2.circle(mask, (x, y), int(rng.integers(20, 120)), label, -1)
        cv2.imwrite(str(root / "images" / split / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(root / "masks" / split / f"{number:06d}.png"), mask)


def processor_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def mebibytes(who: int) -> float:
    """The highest resident memory of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        draw(root, given.images)
        before = mebibytes(resource.RUSAGE_SELF)
        start, used = time.perf_counter(), processor_seconds()
        result = check_data(root, workers=given.workers)
        seconds, used = time.perf_counter() - start, processor_seconds() - used
        own, child = mebibytes(resource.RUSAGE_SELF), mebibytes(resource.RUSAGE_CHILDREN)
    print(f"{given.images:,} images, {given.workers} processes: {seconds:.1f} s, {used:.1f} processor seconds")
    print(f"{1e3 * used / given.images:.2f} ms of a processor per image")
    print(f"memory: {before:.0f} MiB before, {own:.0f} MiB at most; the largest process that reads {child:.0f} MiB")
    print("findings:", {finding.kind: finding.count for finding in result.findings})


if __name__ == "__main__":
    main()
