"""Panoptic quality beside its peers, in one process and one thread: images per second from arrays.

    python benchmarks/panoptic_quality.py [--images 60] [--repeats 7] [--shared ../shared]

Truth: panoptic maps of coco128 (where the folder is there) brought to 480 x 640, else made-up ones of about 20 segments. Predictions: the
truth moved and smoothed, with some segments of another class. Peers: the definition with NumPy, as panopticapi computes it (unique of pairs);
hotcoco and torchmetrics where they are installed. All figures are compared with ours first. The peers alternate with ours; medians of
processor time. torchmetrics sees 2 images only: it takes seconds for each.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.metrics.panoptic_quality import PanopticMetric

SIZE = (480, 640)
Pair = tuple[Panoptic, Panoptic]
Score = Callable[[list[Pair]], float]


def real(shared: Path, count: int) -> list[Panoptic]:
    folder = shared / "data/coco128/annotations"
    if not folder.is_dir():
        return []
    data = json.loads((folder / "panoptic_train2017.json").read_text())
    categories = {row["id"]: index for index, row in enumerate(data["categories"])}
    names, things = zip(*((row["name"], bool(row["isthing"])) for row in data["categories"]), strict=True)
    space, out = LabelSpace(names, things=things), []
    for row in data["annotations"][:count]:
        colours = cv2.imread(str(folder / "panoptic_train2017" / row["file_name"])).astype(np.int32)
        ids = colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]
        ids = cv2.resize(ids, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        labels = {part["id"]: categories[part["category_id"]] for part in row["segments_info"]}
        crowd = {part["id"] for part in row["segments_info"] if part["iscrowd"]}
        out.append(panoptic(ids, labels, crowd, space))
    return out


def made_up(count: int) -> list[Panoptic]:
    generator = np.random.default_rng(0)
    space = LabelSpace(tuple(f"class {index}" for index in range(133)), things=(True,) * 80 + (False,) * 53)
    out = []
    for _ in range(count):
        fields = [
            cv2.resize(generator.random((5, 7), np.float32), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
            for _ in range(20)
        ]
        ids = np.argmax(fields, 0) * 70001
        labels = {int(name): int(generator.integers(0, 133)) for name in np.unique(ids)}
        out.append(panoptic(ids, labels, set(), space))
    return out


def panoptic(ids: np.ndarray, labels: dict[int, int], crowd: set[int], space: LabelSpace) -> Panoptic:
    present = np.unique(ids[ids > 0]).astype(np.int32)
    return Panoptic(
        np.ascontiguousarray(ids, np.int32),
        present,
        np.array([labels[name] for name in present.tolist()], np.int32),
        space,
        crowd=np.array([name in crowd for name in present.tolist()], bool),
    )


def disturbed(truth: Panoptic, generator: np.random.Generator) -> Panoptic:
    indices = np.searchsorted(truth.segment_ids, truth.ids).astype(np.uint8)
    names = np.append(truth.segment_ids, 0)
    indices[truth.ids == 0] = len(names) - 1
    ids = names[np.roll(cv2.medianBlur(indices, 9), (3, -4), (0, 1))]
    labels = dict(zip(truth.segment_ids.tolist(), truth.labels.tolist(), strict=True))
    for name in labels:
        if generator.random() < 0.2:
            labels[name] = int(generator.integers(0, len(truth.space)))
    return panoptic(ids, labels, set(), truth.space)


def ours(pairs: list[Pair]) -> float:
    metric = PanopticMetric(pairs[0][1].space)
    for pair in pairs:
        metric.update(*pair)
    return metric.compute()["pq"]


def by_unique(pairs: list[Pair]) -> float:
    """panopticapi's computation: NumPy's unique over pairs of ids, dictionaries of segments."""
    statistics = np.zeros((len(pairs[0][1].space), 4))
    for prediction, target in pairs:
        codes, counts = np.unique(
            target.ids.astype(np.uint64) << 32 | prediction.ids.astype(np.uint64), return_counts=True
        )
        overlaps = {
            (int(code) >> 32, int(code) & 0xFFFFFFFF): int(count) for code, count in zip(codes, counts, strict=True)
        }
        areas, truth_areas = ({}, {})
        for (truth, found), count in overlaps.items():
            areas[found] = areas.get(found, 0) + count
            truth_areas[truth] = truth_areas.get(truth, 0) + count
        labels = dict(zip(prediction.segment_ids.tolist(), prediction.labels.tolist(), strict=True))
        truths = dict(
            zip(
                target.segment_ids.tolist(),
                zip(target.labels.tolist(), target.crowd.tolist(), strict=True),
                strict=True,
            )
        )
        crowds = {label: name for name, (label, crowd) in truths.items() if crowd}
        used, hit = set(), set()
        for (truth, found), both in overlaps.items():
            if truth not in truths or found not in labels or truths[truth] != (labels[found], False):
                continue
            iou = both / (areas[found] + truth_areas[truth] - both - overlaps.get((0, found), 0))
            if iou > 0.5:
                statistics[labels[found]] += 1, 0, 0, iou
                used.add(found)
                hit.add(truth)
        for name, (label, crowd) in truths.items():
            statistics[label, 2] += name not in hit and not crowd
        for name, label in labels.items():
            void = overlaps.get((0, name), 0) + overlaps.get((crowds.get(label, -1), name), 0)
            statistics[label, 1] += name not in used and void / areas[name] <= 0.5
    seen = statistics[statistics[:, :3].sum(1) > 0]
    return float(np.mean(seen[:, 3] / (seen[:, 0] + (seen[:, 1] + seen[:, 2]) / 2)))


def without_crowd(part: Panoptic) -> Panoptic:
    """What torchmetrics can express: crowd regions as void."""
    crowds = part.segment_ids[part.crowd]
    keep = ~part.crowd
    return Panoptic(
        np.where(np.isin(part.ids, crowds), 0, part.ids).astype(np.int32),
        part.segment_ids[keep],
        part.labels[keep],
        part.space,
        crowd=np.zeros(int(keep.sum()), bool),
    )


def by_torchmetrics(pairs: list[Pair]) -> float:
    import torch
    from torchmetrics.detection import PanopticQuality

    space = pairs[0][1].space
    things = {index for index, thing in enumerate(space.things) if thing}
    metric = PanopticQuality(things, set(range(len(space))) - things, allow_unknown_preds_category=True)
    for pair in pairs:
        metric.update(*(torch.from_numpy(as_pairs(part))[None] for part in pair))
    return float(metric.compute())


def as_pairs(part: Panoptic) -> np.ndarray:
    """(H, W, 2): class and id of every pixel; a class that there is none of for void."""
    labels = np.full(int(part.segment_ids.max(initial=0)) + 1, len(part.space), np.int64)
    labels[part.segment_ids] = part.labels
    return np.stack([labels[part.ids], part.ids], -1)


def peers() -> dict[str, Score]:
    found: dict[str, Score] = {"unique of pairs (panopticapi's way)": by_unique}
    try:
        import torch
        import torchmetrics  # noqa: F401

        torch.set_num_threads(1)
        found["torchmetrics"] = by_torchmetrics
    except ImportError:
        print("torchmetrics is not installed: left out")
    return found


def timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)
    truths = real(arguments.shared, arguments.images) or made_up(arguments.images)
    pairs = [(disturbed(truth, generator), truth) for truth in truths]
    print(
        f"{len(pairs)} images of {SIZE[0]} x {SIZE[1]}, {np.mean([len(t.labels) for _, t in pairs]):.1f} segments each, PQ {ours(pairs):.4f}"
    )
    scores = {"nuriwake": ours, **peers()}
    for name, score in scores.items():
        part = pairs[:2] if name == "torchmetrics" else pairs
        part = [(p, without_crowd(t)) for p, t in part] if name == "torchmetrics" else part
        difference = abs(score(part) - ours(part))
        print(f"  {name:36} differs by {difference:.1e}")
    times: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(arguments.repeats):
        for name, score in scores.items():
            if name == "torchmetrics" and len(times[name]) >= 2:
                continue
            part = pairs[:2] if name == "torchmetrics" else pairs
            times[name].append(timed(lambda s=score, p=part: s(p)) / len(part))
    base = float(np.median(times["nuriwake"]))
    for name, seconds in times.items():
        median = float(np.median(seconds))
        print(f"  {name:36} {1 / median:9.1f} images/s   ours is {median / base:8.1f} x")


if __name__ == "__main__":
    main()
