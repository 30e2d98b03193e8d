"""Dropping small regions and filling holes, beside the usual ways; medians of alternating runs and ratios.

    python benchmarks/postprocess.py [--size 4096] [--rounds 7] [--quick]

Ours is one call of `postprocess` on the label map, copies and all. OpenCV is connectedComponentsWithStats and a table over
its label image, on one thread (`opencv`) and on all (`opencv, threads`). The loop over regions is timed on a few hundred
regions and scaled up to all of them: in full it would take hours.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
from scipy import ndimage

from nuriwake.core.labels import LabelSpace
from nuriwake.inference.postprocess import postprocess
from nuriwake.inference.rules import PostprocessingRule

SPACE = LabelSpace(("background", "cell"))
AREA = 20


def ours(mask: np.ndarray) -> np.ndarray:
    return postprocess(mask, SPACE, (PostprocessingRule("drop_small", area=AREA),))


def opencv(mask: np.ndarray) -> np.ndarray:
    _, marks, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = (stats[:, cv2.CC_STAT_AREA] >= AREA).astype(np.uint8)
    keep[0] = 0
    return keep[marks]


def opencv_threads(mask: np.ndarray) -> np.ndarray:
    cv2.setNumThreads(cv2.getNumberOfCPUs())
    try:
        return opencv(mask)
    finally:
        cv2.setNumThreads(1)


def scipy(mask: np.ndarray) -> np.ndarray:
    marks, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = (np.bincount(marks.ravel()) >= AREA).astype(np.uint8)
    keep[0] = 0
    return keep[marks]


def skimage(mask: np.ndarray) -> np.ndarray:
    from skimage.morphology import remove_small_objects

    return remove_small_objects(mask.view(bool), max_size=AREA - 1, connectivity=2).view(np.uint8)


def loop_seconds(mask: np.ndarray, sample: int) -> float:
    """Seconds for a loop over all regions that looks at each as a mask, from `sample` of them."""
    count, marks = cv2.connectedComponents(mask, connectivity=8)
    out, start = mask.copy(), time.perf_counter()
    for mark in range(1, min(sample, count - 1) + 1):
        region = marks == mark
        if region.sum() < AREA:
            out[region] = 0
    return (time.perf_counter() - start) * (count - 1) / max(min(sample, count - 1), 1)


def fill_ours(mask: np.ndarray) -> np.ndarray:
    return postprocess(mask, SPACE, (PostprocessingRule("fill_holes"),))


def fill_scipy(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(mask).view(np.uint8)


def fill_opencv(mask: np.ndarray) -> np.ndarray:
    count, marks = cv2.connectedComponents(1 - mask, connectivity=4)
    hole = np.ones(count, np.uint8)
    for edge in (marks[0], marks[-1], marks[:, 0], marks[:, -1]):
        hole[np.unique(edge)] = 0
    hole[0] = 1
    return hole[marks]


def blobs(size: int, sigma: float) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(1).random((size, size), np.float32), (0, 0), sigma)
    return (noise > np.median(noise)).astype(np.uint8)


def medians(ways: dict[str, Callable[[np.ndarray], np.ndarray]], mask: np.ndarray, rounds: int) -> dict[str, float]:
    """Seconds of each way; the ways take turns, and their results must be equal."""
    expected = next(iter(ways.values()))(mask)
    for name, way in ways.items():
        assert np.array_equal(way(mask), expected), name
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way(mask)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def show(title: str, seconds: dict[str, float]) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:18} {value * 1000:12.1f} ms  {value / seconds['nuriwake']:10.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="without scikit-image and the loop")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng, size = np.random.default_rng(0), arguments.size
    drop = {"nuriwake": ours, "opencv": opencv, "opencv, threads": opencv_threads, "scipy": scipy}
    if not arguments.quick:
        drop["skimage"] = skimage
    masks = {
        "sparse noise": (rng.random((size, size)) < 0.0625).astype(np.uint8),
        "even noise": (rng.random((size, size)) < 0.5).astype(np.uint8),
        "small blobs": blobs(size, 2),
        "large blobs": blobs(size, 20),
    }
    for name, mask in masks.items():
        count = cv2.connectedComponents(mask, connectivity=8)[0] - 1
        seconds = medians(drop, mask, arguments.rounds)
        if not arguments.quick:
            seconds["loop over regions"] = loop_seconds(mask, 30)
        show(f"drop regions below {AREA} px: {name}, {size} x {size}, {count:,} regions", seconds)
    fill = {"nuriwake": fill_ours, "opencv": fill_opencv, "scipy": fill_scipy}
    for name in ("small blobs", "large blobs"):
        show(f"fill holes: {name}, {size} x {size}", medians(fill, masks[name], max(3, arguments.rounds // 2)))


if __name__ == "__main__":
    main()
