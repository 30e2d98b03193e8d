"""Average precision beside its peers, in one process and one thread: seconds for 5,000 images, 36,000 objects, 300,000 detections.

    python benchmarks/average_precision.py [--images 5000] [--repeats 3] [--kinds mask box] [--skip-slow]

Made-up images of 480 x 640 with about 7 objects of 80 classes and 60 detections each (objects moved, grown, mistaken, and inventions of all
sizes), masks as outlines of 8 to 30 corners. Two times per tool, processor time of the whole process, medians, alternating with ours:

- evaluate: from what the tool wants to the twelve figures. Ours: `Instances` of images, without the figures of single
  images, which no peer gives. Peers: their own `loadRes`, then evaluate, accumulate, summarize.
- arrays: the same from the predicted arrays of each image: labels, scores, and uncompressed run lengths (masks) or boxes. Ours builds the `Instances` of
  one image after the other, with their checks; of boxes one `BoxTable`. The peers get what they want in the fastest way that they have: hotcoco and ultrafast-pycocotools one array (N, 7) of all boxes, hotcoco for masks the
  same array with a list of compressed runs and the areas, the others dictionaries. Runs are compressed by our encoder, which is faster than theirs.

All figures are compared with ours first; every tool reads the same truth, in its own `COCO` object, made beforehand.
"""

import argparse
import contextlib
import gc
import io
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.metrics.average_precision import FIGURES
from nuriwake.metrics.box_table import BoxTable
from nuriwake.metrics.instances import InstanceMetric

SIZE, CLASSES = (480, 640), 80
SPACE = LabelSpace(tuple(f"class {index}" for index in range(CLASSES)), things=(True,) * CLASSES)


class Arrays(NamedTuple):
    """The detections of one image as a model's decoding leaves them."""

    counts: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def masks(self) -> RunMasks:
        return RunMasks(self.counts, self.offsets, SIZE)

    def instances(self) -> Instances:
        return Instances(self.masks(), self.labels, SPACE, scores=self.scores, boxes=self.boxes)


class Tool(NamedTuple):
    """A peer: truth as its `COCO`, its evaluation class, and the kinds that it reads from arrays without dictionaries."""

    truth: Any
    evaluation: Callable[..., Any]
    arrays: tuple[str, ...]


class Columns(NamedTuple):
    """Detections as hotcoco reads masks: rows as of `seven`, compressed runs, areas."""

    rows: np.ndarray
    runs: list[dict[str, Any]]
    areas: np.ndarray


def made_up(images: int) -> tuple[list[Arrays], list[Instances]]:
    generator, found, truths = np.random.default_rng(0), [], []
    for _ in range(images):
        objects, inventions = int(generator.poisson(7.2)), int(generator.poisson(20))
        centres = generator.uniform(0.05, 0.95, (objects + inventions, 2)) * SIZE[::-1]
        radii = np.exp(generator.normal(3.6, 0.8, objects + inventions)).clip(4, 200)
        kinds = generator.integers(0, CLASSES, objects + inventions).astype(np.int32)
        outlines = [outline(generator, *item) for item in zip(centres, radii, strict=True)]
        truth = RunMasks.from_polygons([[part] for part in outlines[:objects]], SIZE)
        crowd = generator.random(objects) < 0.01
        truths.append(Instances(truth, kinds[:objects], SPACE, crowd=crowd))
        again = np.repeat(np.arange(objects), generator.poisson(5.6, objects))
        chosen = np.concatenate([again, np.arange(objects, objects + inventions)])
        moved = [
            [
                (
                    (outlines[i].reshape(-1, 2) - centres[i]) * generator.normal(1, 0.1)
                    + centres[i]
                    + generator.normal(0, radii[i] / 12, 2)
                ).ravel()
            ]
            for i in chosen
        ]
        labels = np.where(
            generator.random(len(chosen)) < 0.6, kinds[chosen], generator.integers(0, CLASSES, len(chosen))
        )
        masks = RunMasks.from_polygons(moved, SIZE)
        scores = generator.random(len(chosen)).astype(np.float32)
        found.append(Arrays(masks.counts, masks.offsets, labels.astype(np.int32), scores, masks.boxes()))
    return found, truths


def outline(generator: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    angles = np.sort(generator.uniform(0, 2 * np.pi, int(generator.integers(8, 30))))
    reach = radius * generator.uniform(0.75, 1.25, len(angles))
    points = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.clip(points, 0, np.array(SIZE[::-1])).ravel()


def ours(predictions: Iterable[Instances], truths: list[Instances], kind: str) -> np.ndarray:
    """One image after the other, as `nuriwake evaluate` counts."""
    metric = InstanceMetric(SPACE, kinds=(kind,))
    for prediction, truth in zip(predictions, truths, strict=True):
        metric.add(prediction, truth)
    return np.array(list(metric.compute().values()))


def ours_at_once(found: list[Arrays], truth: BoxTable, images: int) -> np.ndarray:
    """All boxes as one table."""
    table = BoxTable(
        np.repeat(np.arange(len(found)), [len(arrays.labels) for arrays in found]),
        np.concatenate([arrays.boxes for arrays in found]),
        np.concatenate([arrays.labels for arrays in found]),
        scores=np.concatenate([arrays.scores for arrays in found]),
    )
    metric = InstanceMetric(SPACE, kinds=("box",))
    metric.add_boxes(table, truth, images)
    return np.array(list(metric.compute().values()))


def seven(found: list[Arrays]) -> np.ndarray:
    """float64 (N, 7): image, left, top, width, height, score, class."""
    lengths = [len(arrays.labels) for arrays in found]
    boxes = np.concatenate([arrays.boxes for arrays in found]).astype(np.float64)
    out = np.empty((sum(lengths), 7))
    out[:, 0] = np.repeat(np.arange(1, len(found) + 1), lengths)
    out[:, 1:3], out[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    out[:, 5] = np.concatenate([arrays.scores for arrays in found])
    out[:, 6] = np.concatenate([arrays.labels for arrays in found]) + 1
    return out


def converted(tool: Tool, found: list[Arrays], kind: str) -> Any:
    """The predicted arrays as `tool` reads them fastest."""
    if kind not in tool.arrays:
        return dictionaries(found, kind)
    if kind == "box":
        return seven(found)
    masks = [arrays.masks() for arrays in found]
    areas = np.concatenate([item.areas() for item in masks]).astype(np.float64)
    return Columns(seven(found), [runs for item in masks for runs in item.to_coco()], areas)


def dictionaries(found: list[Arrays], kind: str) -> list[dict[str, Any]]:
    """What pycocotools loads."""
    out = []
    for image, arrays in enumerate(found):
        labels, scores = (arrays.labels + 1).tolist(), arrays.scores.tolist()
        if kind == "mask":
            values = arrays.masks().to_coco()
        else:
            boxes = arrays.boxes.astype(np.float64)
            values = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        field = "segmentation" if kind == "mask" else "bbox"
        for label, score, value in zip(labels, scores, values, strict=True):
            out.append({"image_id": image + 1, "category_id": label, field: value, "score": score})
    return out


def truth_dictionary(truths: list[Instances]) -> dict[str, Any]:
    rows = []
    for image, truth in enumerate(truths):
        for index, runs in enumerate(truth.masks.to_coco()):
            left, top, right, bottom = truth.boxes[index].astype(np.float64).tolist()
            row = {"id": len(rows) + 1, "image_id": image + 1, "category_id": int(truth.labels[index]) + 1}
            row |= {"bbox": [left, top, right - left, bottom - top], "area": float(truth.areas[index])}
            rows.append(row | {"iscrowd": int(truth.crowd[index]), "segmentation": runs})
    return {
        "info": {},
        "images": [
            {"id": i + 1, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.jpg"} for i in range(len(truths))
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(SPACE.names)],
        "annotations": rows,
    }


def peers(truth: dict[str, Any]) -> dict[str, Tool]:
    """Name -> tool, of those that are installed."""
    import json
    import tempfile
    from importlib import import_module

    known = {
        "ultrafast-pycocotools": ("ultrafast_pycocotools.coco", "ultrafast_pycocotools.cocoeval", "COCOeval", ("box",)),
        "hotcoco": ("hotcoco", "hotcoco", "COCOeval", ("box", "mask")),
        "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster", ()),
        "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval", ()),
    }
    out = {}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(truth, file)
        file.flush()
        for name, (module, other, evaluation, arrays) in known.items():
            try:
                truth_of = import_module(module).COCO(file.name)
                out[name] = Tool(truth_of, getattr(import_module(other), evaluation), arrays)
            except ImportError:
                print(f"{name} is not installed: left out")
    return out


def evaluated(tool: Tool, rows: Any, kind: str) -> np.ndarray:
    if isinstance(rows, Columns):
        results = tool.truth.loadRes(rows.rows, segmentation=rows.runs)
        # Else the area ranges go by boxes.
        results.update_anns(ids=np.arange(1, len(rows.areas) + 1), area=rows.areas)
    else:
        results = tool.truth.loadRes(rows)
    evaluation = tool.evaluation(tool.truth, results, "segm" if kind == "mask" else "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats = np.array(evaluation.stats[:12], np.float64)
    return np.where(stats < 0, np.nan, stats)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    # What other tools left behind is no work for the collector of this one.
    gc.collect()
    gc.freeze()
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        value = function()
    return time.process_time() - start, value


def compare(found: list[Arrays], truths: list[Instances], tools: dict[str, Tool], kind: str, repeats: int) -> None:
    predictions = [arrays.instances() for arrays in found]
    truth_table, expected = BoxTable.of(truths), ours(predictions, truths, kind)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("nuriwake", *tools)}
    for repeat in range(repeats):
        evaluate, _ = timed(lambda: ours(predictions, truths, kind))
        if kind == "mask":
            arrays, figures = timed(lambda: ours((arrays.instances() for arrays in found), truths, kind))
        else:
            arrays, figures = timed(lambda: ours_at_once(found, truth_table, len(truths)))
        np.testing.assert_array_equal(figures, expected)
        times["nuriwake"].append((evaluate, arrays))
        for name, tool in tools.items():
            if repeat and times[name][0][0] > 10:
                continue
            conversion, rows = timed(lambda t=tool: converted(t, found, kind))
            seconds, stats = timed(lambda t=tool, r=rows: evaluated(t, r, kind))
            times[name].append((seconds, seconds + conversion))
            np.testing.assert_allclose(stats, expected, rtol=0, atol=1e-10, err_msg=name)
    medians = {name: np.median(values, axis=0) for name, values in times.items()}
    print(f"\n{kind}: AP {expected[FIGURES.index('ap')]:.4f}")
    for name, (evaluate, arrays) in medians.items():
        ratios = (evaluate, arrays) / medians["nuriwake"]
        print(f"  {name:24} evaluate {evaluate:7.3f} s {ratios[0]:6.1f} x   arrays {arrays:7.3f} s {ratios[1]:6.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["mask", "box"])
    parser.add_argument("--skip-slow", action="store_true", help="leave out pycocotools and faster-coco-eval")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco and ultrafast-pycocotools, imported below
    found, truths = made_up(arguments.images)
    print(
        f"{len(truths)} images, {sum(map(len, truths))} objects, {sum(len(item.labels) for item in found)} detections"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tools = peers(truth_dictionary(truths))
    if arguments.skip_slow:
        tools = {name: tool for name, tool in tools.items() if name not in ("pycocotools", "faster-coco-eval")}
    for kind in arguments.kinds:
        compare(found, truths, tools, kind, arguments.repeats)


if __name__ == "__main__":
    main()
