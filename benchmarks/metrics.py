"""The confusion matrix beside its peers, in one process and one thread: million pixels per second.

    python benchmarks/metrics.py [--repeats 15] [--shared ../shared]

1024 x 2048 uint8 maps of 19 classes: CamVid masks enlarged (where the folder is there) against a shifted, smoothed copy; smooth
blobs; fragments (many small regions, one pixel in five wrong); noise. All run alternately, one thread each; medians of processor time
(all threads of the process together, so that a busy machine disturbs little), and the median over rounds of the time of the fastest peer divided by ours. Every peer's matrix is compared with ours first.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from nuriwake.metrics.boundary import BoundaryIoU
from nuriwake.metrics.confusion import count_pixels
from nuriwake.metrics.surface import hausdorff_distance, normalised_surface_dice

SIZE, CLASSES = (1024, 2048), 19
Pair = tuple[np.ndarray, np.ndarray]
Count = Callable[[np.ndarray, np.ndarray], np.ndarray]


def noise() -> Pair:
    generator = np.random.default_rng(0)
    return generator.integers(0, CLASSES, SIZE, np.uint8), generator.integers(0, CLASSES, SIZE, np.uint8)


def smooth_fields(cells: tuple[int, int], detail: tuple[int, int], strength: float) -> Pair:
    """The largest of 19 smooth random fields per pixel; the prediction sees them with finer fields added."""
    generator = np.random.default_rng(1)
    best, labels = [np.full(SIZE, -9, np.float32) for _ in range(2)], [np.zeros(SIZE, np.uint8) for _ in range(2)]
    for index in range(CLASSES):
        field = enlarge(generator.random(cells, np.float32))
        other = field + strength * enlarge(generator.random(detail, np.float32))
        for side, values in enumerate((other, field)):
            labels[side][values > best[side]] = index
            np.maximum(best[side], values, out=best[side])
    return labels[0], labels[1]


def enlarge(field: np.ndarray) -> np.ndarray:
    return cv2.resize(field, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def camvid(shared: Path) -> Pair | None:
    paths = sorted((shared / "data/camvid/masks/val").glob("*.png"))
    if not paths:
        return None
    target = cv2.resize(cv2.imread(str(paths[5]), cv2.IMREAD_UNCHANGED), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    prediction = np.roll(target, (3, 5), (0, 1))
    prediction[prediction == 255] = 0
    return cv2.medianBlur(prediction, 9), target


def peers() -> dict[str, Count]:
    """Name -> function of (prediction, target); those that are installed."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, Count] = {"numpy bincount": by_bincount, "sparse (scikit-learn's way)": by_sparse}
    try:
        from hotcoco.semantic import SemanticEval

        def by_hotcoco(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
            evaluation = SemanticEval(CLASSES)
            evaluation.update(target, prediction)
            return np.asarray(evaluation.confusion())

        found["hotcoco"] = by_hotcoco
    except ImportError:
        print("hotcoco is not installed: left out")
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        def by_torchmetrics(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
            tensors = (torch.from_numpy(prediction), torch.from_numpy(target))
            return multiclass_confusion_matrix(*tensors, CLASSES, ignore_index=255, validate_args=False).numpy()

        found["torchmetrics"] = by_torchmetrics
    except ImportError:
        print("torchmetrics is not installed: left out")
    return found


def by_bincount(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    kept = target != 255
    codes = target[kept].astype(np.int64) * CLASSES + prediction[kept]
    return np.bincount(codes, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def by_sparse(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_matrix

    kept = target != 255
    entries = (np.ones(kept.sum(), np.int64), (target[kept], prediction[kept]))
    return coo_matrix(entries, shape=(CLASSES, CLASSES)).toarray()


def ours(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    return count_pixels(prediction, target, classes=CLASSES).matrix


def timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(name: str, pair: Pair, repeats: int) -> None:
    """One table: all peers and ours, alternating."""
    counters = {"nuriwake": ours, **peers()}
    expected = ours(*pair)
    for peer, count in counters.items():
        np.testing.assert_array_equal(count(*pair), expected, err_msg=peer)
    times = np.array([[timed(lambda c=count: c(*pair)) for count in counters.values()] for _ in range(repeats)])
    medians = np.median(times, 0)
    fastest = 1 + int(medians[1:].argmin())
    wide = tuple(labels.astype(np.int64) for labels in pair)
    int64 = np.median([timed(lambda: ours(*wide)) for _ in range(repeats)])
    print(f"\n{name}: agreement {(pair[0] == pair[1]).mean():.2f}")
    for peer, seconds in zip(counters, medians, strict=True):
        print(f"  {peer:28} {pair[0].size / seconds / 1e6:7.0f} Mpx/s   ours is {seconds / medians[0]:6.2f} x")
    print(f"  {'nuriwake, int64 maps':28} {pair[0].size / int64 / 1e6:7.0f} Mpx/s")
    print(
        f"  fastest peer: {list(counters)[fastest]}; median over rounds {np.median(times[:, fastest] / times[:, 0]):.2f} x"
    )


def others(pair: Pair, repeats: int) -> None:
    """Milliseconds of the metrics that have no fast peer here."""
    masks = pair[0] == 0, pair[1] == 0
    rows = {
        "boundary IoU, 19 classes": lambda: BoundaryIoU(CLASSES).update(*pair),
        "HD95 directed_max, one class": lambda: hausdorff_distance(*masks),
        "HD95 surface_weighted, one class": lambda: hausdorff_distance(*masks, definition="surface_weighted"),
        "NSD, one class": lambda: normalised_surface_dice(*masks, tolerance=2),
    }
    print(f"\nothers, {SIZE[0]} x {SIZE[1]}")
    for name, function in rows.items():
        print(f"  {name:34} {np.median([timed(function) for _ in range(max(3, repeats // 5))]) * 1e3:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco, imported below
    cv2.setNumThreads(1)
    blobs = smooth_fields((4, 8), (16, 32), 0.05)
    real = camvid(arguments.shared)
    for name, pair in {
        "CamVid": real,
        "blobs": blobs,
        "fragments": smooth_fields((8, 16), (32, 64), 0.15),
        "noise": noise(),
    }.items():
        if pair is None:
            print(f"{name}: not in {arguments.shared}, left out")
        else:
            compare(name, pair, arguments.repeats)
    others(blobs, arguments.repeats)


if __name__ == "__main__":
    main()
