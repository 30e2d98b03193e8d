"""Run-length masks beside pycocotools, and pasting beside Detectron2's rule and torchvision's, in one process and one thread.

    OMP_NUM_THREADS=1 python benchmarks/runs.py [--repeats 15]

Everything runs alternately; medians of processor time (so that a busy machine disturbs little), and the median over rounds of
the peer's time divided by ours. Answers are compared first.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image

from nuriwake.core.paste import paste_masks
from nuriwake.core.runs import RunMasks

Runners = dict[str, Callable[[], Any]]
SIZE = (800, 1333)


def blobs(count: int, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth random masks, uint8 (count, H, W): about half the pixels of each, in a few blobs."""
    generator = np.random.default_rng(0)
    fields = [
        cv2.resize(generator.random((cells, cells), np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
        for _ in range(count)
    ]
    return np.stack([(field > 0.5).astype(np.uint8) for field in fields])


def objects(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Soft masks (count, 28, 28) and boxes with the spread of sizes of COCO's objects."""
    generator = np.random.default_rng(1)
    masks = np.stack(
        [
            cv2.resize(generator.random((5, 5), np.float32), (28, 28), interpolation=cv2.INTER_CUBIC)
            for _ in range(count)
        ]
    )
    side = np.exp(generator.normal(4.4, 0.9, (count, 2))).clip(8, [[size[1] - 1, size[0] - 1]])
    corner = generator.random((count, 2)) * (np.array(size[::-1]) - side)
    return masks.clip(0, 1), np.concatenate([corner, corner + side], 1).astype(np.float32)


def detectron2_paste(masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The rule of Detectron2 on the CPU: one mask at a time, grid_sample inside a window around the box."""
    out = torch.zeros((len(masks), *size), dtype=torch.bool)
    for canvas, mask, (x0, y0, x1, y1) in zip(out, masks, boxes, strict=True):
        left, top = int((x0.floor() - 1).clamp(min=0)), int((y0.floor() - 1).clamp(min=0))
        right, bottom = int((x1.ceil() + 1).clamp(max=size[1])), int((y1.ceil() + 1).clamp(max=size[0]))
        x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)[None]
        canvas[top:bottom, left:right] = (
            functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5
        )
    return out


def coco_encode(masks: np.ndarray) -> list[dict[str, Any]]:
    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0)))


def measure(runners: Runners, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    for _ in range(repeats):
        for name, run in runners.items():
            begin = time.process_time()
            run()
            times[name].append(time.process_time() - begin)
    return times


def show(title: str, runners: Runners, repeats: int, *, count: int = 0) -> None:
    times = measure(runners, repeats)
    ours = np.array(times["ours"])
    print(f"\n{title}")
    for name, values in times.items():
        rate = f"{count / np.median(values):12,.0f} per second" if count else ""
        print(f"  {name:32s} {1e3 * np.median(values):10.3f} ms  {np.median(np.array(values) / ours):8.2f}x {rate}")


def pasting(repeats: int) -> None:
    masks, boxes = objects(100, SIZE)
    tensors = torch.tensor(masks), torch.tensor(boxes)
    np.testing.assert_array_equal(paste_masks(masks, boxes, SIZE).dense(), detectron2_paste(*tensors, SIZE).numpy())

    def detectron2() -> Any:
        return coco_encode(detectron2_paste(*tensors, SIZE).numpy().view(np.uint8))

    def torchvision() -> Any:
        return coco_encode(
            (paste_masks_in_image(tensors[0][:, None], tensors[1], SIZE)[:, 0] >= 0.5).numpy().view(np.uint8)
        )

    runners: Runners = {
        "ours": lambda: paste_masks(masks, boxes, SIZE),
        "ours, torchvision's rule": lambda: paste_masks(masks, boxes, SIZE, rule="torchvision"),
        "Detectron2's rule": lambda: detectron2_paste(*tensors, SIZE),
        "Detectron2's rule + encode": detectron2,
        "torchvision": lambda: paste_masks_in_image(tensors[0][:, None], tensors[1], SIZE),
        "torchvision + encode": torchvision,
    }
    show("paste 100 masks of 28 x 28 into 800 x 1333, to run lengths", runners, repeats)


def coding(repeats: int) -> None:
    masks = blobs(32, (1024, 1024), 6)
    columns = np.asfortranarray(masks.transpose(1, 2, 0))
    ours, theirs = RunMasks.from_dense(masks), coco.encode(columns)
    assert [item["counts"].encode() for item in ours.to_coco()] == [item["counts"] for item in theirs]
    runners: Runners = {
        "ours": lambda: RunMasks.from_dense(masks).to_coco(),
        "pycocotools (columns contiguous)": lambda: coco.encode(columns),
        "pycocotools (rows contiguous)": lambda: coco_encode(masks),
    }
    show("encode 1024 x 1024 masks to compressed RLE", runners, repeats, count=len(masks))
    text = ours.to_coco()
    show("decode to dense", {"ours": ours.dense, "pycocotools": lambda: coco.decode(theirs)}, repeats, count=len(masks))
    show(
        "read compressed RLE",
        {"ours": lambda: RunMasks.from_coco(text), "pycocotools (and area)": lambda: coco.area(theirs)},
        repeats,
    )


def operations(repeats: int) -> None:
    masks, boxes = objects(100, SIZE)
    found = paste_masks(masks, boxes, SIZE)
    moved = paste_masks(masks, boxes + 3, SIZE)
    ours, theirs = found.to_coco(), moved.to_coco()
    np.testing.assert_allclose(found.iou(moved), coco.iou(ours, theirs, [0] * 100), atol=0)
    show(
        "IoU of 100 x 100 masks",
        {"ours": lambda: found.iou(moved), "pycocotools": lambda: coco.iou(ours, theirs, [0] * 100)},
        repeats,
    )
    show(
        "boxes and areas",
        {"ours": lambda: (found.boxes(), found.areas()), "pycocotools": lambda: (coco.toBbox(ours), coco.area(ours))},
        repeats,
    )
    show("union of 100", {"ours": found.merge, "pycocotools": lambda: coco.merge(ours)}, repeats)
    generator = np.random.default_rng(2)
    angles = np.sort(generator.random((300, 40)) * 2 * np.pi, axis=1)
    radius = np.exp(generator.normal(3.7, 0.8, (300, 1))) * generator.uniform(0.7, 1.3, (300, 40))
    centre = generator.random((300, 2)) * SIZE[::-1]
    points = centre[:, None] + radius[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    polygons = [[item.reshape(-1).tolist()] for item in points]
    runners: Runners = {
        "ours": lambda: RunMasks.from_polygons(polygons, SIZE),
        "pycocotools": lambda: [coco.merge(coco.frPyObjects(item, *SIZE)) for item in polygons],
    }
    show("300 polygons of 40 points", runners, repeats)
    ids = np.zeros((480, 640), np.int32)
    RunMasks.from_polygons([[(points[i] * 0.48).reshape(-1)] for i in range(60)], (480, 640)).paint(
        ids, np.arange(1, 61)
    )
    values = np.unique(ids)[1:]
    runners = {
        "ours": lambda: RunMasks.from_labels(ids, values),
        "pycocotools": lambda: [coco.encode(np.asfortranarray(ids == value)) for value in values],
    }
    show(f"{len(values)} objects of a 480 x 640 label map", runners, repeats)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pasting(repeats)
    coding(repeats)
    operations(repeats)


if __name__ == "__main__":
    main()
