"""COCO's twelve figures: against pycocotools, against the definition written out, on made-up and on real objects."""

import contextlib
import io
import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.serial import to_plain
from nuriwake.metrics.average_precision import FIGURES
from nuriwake.metrics.box_table import BoxTable
from nuriwake.metrics.detections import by_falling_score
from nuriwake.metrics.instances import InstanceMetric, instance_metric_names
from nuriwake.metrics.mask_boundary import inner_boundary
from nuriwake.metrics.metric import MetricSettings

SPACE = LabelSpace(("cell", "fibre", "crystal", "never"), things=(True,) * 4)
KINDS = ("mask", "box", "boundary")
RANGES = ((0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10))


def shape(generator, size):
    """A filled ellipse or box somewhere, partly outside at times: uint8 (H, W)."""
    mask = np.zeros(size, np.uint8)
    centre = [int(generator.integers(-3, side + 3)) for side in size[::-1]]
    axes = [int(value) for value in generator.integers(1, 16, 2)]
    if generator.random() < 0.5:
        cv2.ellipse(mask, centre, axes, int(generator.integers(0, 180)), 0, 360, 1, -1)
    else:
        cv2.rectangle(mask, centre, [a + b for a, b in zip(centre, axes, strict=True)], 1, -1)
    return mask


def truth_of(generator, size, count, *, classes=3):
    masks = [shape(generator, size) for _ in range(count)]
    areas = np.array([mask.sum() for mask in masks], np.float64) * generator.choice([1.0, 1.0, 10.0, 60.0], count)
    areas[generator.random(count) < 0.1] = generator.choice([1024.0, 9216.0, 0.0])
    return Instances(
        RunMasks.from_dense(np.array(masks, np.uint8).reshape(-1, *size)),
        generator.integers(0, classes, count).astype(np.int32),
        SPACE,
        crowd=generator.random(count) < 0.15,
        areas=areas,
    )


def prediction_of(generator, truth, extra):
    """Most objects again, moved a little, some of another class, some twice; and `extra` that are invented. Many equal scores."""
    dense, labels = [], []
    for index in range(len(truth)):
        for _ in range(int(generator.choice([0, 1, 1, 2]))):
            across, down = (int(value) for value in generator.choice([-2, -1, 0, 0, 0, 0, 1], 2))
            shift = np.array([[1, 0, across], [0, 1, down]], np.float32)
            dense.append(cv2.warpAffine(truth.masks.dense(index).reshape(truth.size), shift, truth.size[::-1]))
            labels.append(truth.labels[index] if generator.random() < 0.85 else generator.integers(0, 4))
    for _ in range(extra):
        dense.append(shape(generator, truth.size))
        labels.append(generator.integers(0, 4))
    masks = RunMasks.from_dense(np.array(dense, np.uint8).reshape(-1, *truth.size))
    boxes = masks.boxes() + generator.choice([0.0, 0.0, 0.25, -0.5], (len(masks), 4)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    scores = np.round(generator.random(len(masks)), 1).astype(np.float32)
    return Instances(masks, np.array(labels, np.int32), SPACE, scores=scores, boxes=boxes)


def pairs_of(seed, images=4):
    generator = np.random.default_rng(seed)
    out = []
    for _ in range(images):
        size = (int(generator.integers(20, 60)), int(generator.integers(20, 60)))
        truth = truth_of(generator, size, int(generator.choice([0, 1, 3, 6])))
        out.append((prediction_of(generator, truth, int(generator.choice([0, 2, 5]))), truth))
    return out


def metric_of(pairs, kinds=KINDS):
    metric = InstanceMetric(pairs[0][1].space, kinds=kinds)
    for pair in pairs:
        metric.update(*pair)
    return metric


def boundary_of(rle):
    """Run-length encoded boundary, as the authors' code makes it."""
    from pycocotools import mask as coco_mask

    mask = coco_mask.decode(rle)
    height, width = mask.shape
    distance = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(mask - eroded))


def coco_tool(pairs, kind):
    """The official tool after `accumulate` and `summarize`; boundaries as the authors of boundary IoU changed it."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools import mask as coco_mask
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        def computeIoU(self, image, category):
            ious = super().computeIoU(image, category)
            if kind != "boundary" or len(ious) == 0:
                return ious
            found = sorted(self._dts[image, category], key=lambda item: -item["score"])[: self.params.maxDets[-1]]
            edges = [
                [boundary_of(item["segmentation"]) for item in part] for part in (found, self._gts[image, category])
            ]
            return np.minimum(ious, coco_mask.iou(*edges, [item["iscrowd"] for item in self._gts[image, category]]))

    space = pairs[0][1].space
    base = {
        "images": [
            {"id": i + 1, "height": target.size[0], "width": target.size[1]} for i, (_, target) in enumerate(pairs)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(space.names)],
    }
    truth, found = [], []
    for image, (prediction, target) in enumerate(pairs):
        for index, rle in enumerate(target.masks.to_coco()):
            row = {"iscrowd": int(target.crowd[index]), "area": float(target.areas[index])}
            truth.append(row | annotation(target, index, image, rle))
        for index, rle in enumerate(prediction.masks.to_coco()):
            row = annotation(prediction, index, image, rle) | {"score": float(prediction.scores[index]), "iscrowd": 0}
            width, height = row["bbox"][2:]
            row["area"] = width * height if kind == "box" else float(coco_mask.area(rle))
            found.append(row)
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows in (truth, found):
            side = coco.COCO()
            side.dataset = base | {"annotations": [row | {"id": i + 1} for i, row in enumerate(rows)]}
            side.createIndex()
            sides.append(side)
        evaluation = Evaluation(*sides, "bbox" if kind == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def annotation(instances, index, image, rle):
    left, top, right, bottom = instances.boxes[index].astype(np.float64).tolist()
    return {
        "image_id": image + 1,
        "category_id": int(instances.labels[index]) + 1,
        "segmentation": rle,
        "bbox": [left, top, right - left, bottom - top],
    }


def assert_as_pycocotools(pairs, kinds=KINDS):
    metric = metric_of(pairs, kinds)
    found, rows = metric.compute(), metric.per_class()
    for kind in kinds:
        evaluation = coco_tool(pairs, kind)
        expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
        np.testing.assert_allclose([found[f"{kind}_{name}"] for name in FIGURES], expected, rtol=0, atol=1e-10)
        for index, row in enumerate(rows.values()):
            curves = evaluation.eval["precision"][:, :, index, 0, 2]
            aps = [curves.mean(), curves[0].mean(), curves[5].mean()]
            expected = [math.nan if value < 0 else value for value in aps]
            ours = [row[f"{kind}_{name}"] for name in ("ap", "ap50", "ap75")]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)
    return metric


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_all_figures_are_those_of_pycocotools(seed, images):
    assert_as_pycocotools(pairs_of(seed, images))


def test_the_hundred_and_first_detection_does_not_count_and_is_counted():
    generator = np.random.default_rng(3)
    truth = truth_of(generator, (50, 60), 120, classes=1)
    prediction = prediction_of(generator, truth, 40)
    assert (prediction.labels == 0).sum() > 100
    metric = assert_as_pycocotools([(prediction, truth), *pairs_of(1)])
    counts = metric.report().details["mask_counts"]
    assert counts["beyond_limit"] == sum(max(0, n - 100) for n in np.bincount(prediction.labels))


def test_the_made_up_objects_have_figures_worth_comparing():
    """A comparison of a figure that is always 0, or always the same, would prove nothing."""
    scores = metric_of([pair for seed in range(20) for pair in pairs_of(seed)]).compute()
    assert all(0.0 < value < 1.0 for value in scores.values())
    assert len({scores["mask_ap"], scores["box_ap"], scores["boundary_ap"]}) == 3


def iou_of(prediction, target, *, crowd):
    both = (prediction & target).sum()
    union = prediction.sum() if crowd else (prediction | target).sum()
    return both / union if both else 0.0


def slow_ap(pairs, label, span, threshold, limit=100):
    """Average precision and recall of one class, area range and threshold, from dense masks, as the definition says."""
    low, high = RANGES[span]
    detections, objects = [], 0
    for prediction, target in pairs:
        mine = np.flatnonzero(target.labels == label)
        counts = [not target.crowd[g] and low <= target.areas[g] <= high for g in mine]
        objects += sum(counts)
        order = sorted(np.flatnonzero(prediction.labels == label), key=lambda d: -prediction.scores[d])[:limit]
        truths, used = [target.masks.dense(int(g)).reshape(target.size) for g in mine], set()
        for d in order:
            mask = prediction.masks.dense(int(d)).reshape(target.size)
            ious = [iou_of(mask, t, crowd=target.crowd[g]) for g, t in zip(mine, truths, strict=True)]
            free = [i for i, g in enumerate(mine) if ious[i] >= threshold and (i not in used or target.crowd[g])]
            best = max(free, key=lambda i: (counts[i], ious[i], i), default=None)
            if best is not None:
                used.add(best)
            if best is None and low <= mask.sum() <= high:
                detections.append((prediction.scores[d], False))
            elif best is not None and counts[best]:
                detections.append((prediction.scores[d], True))
    if not objects:
        return math.nan, math.nan
    right = [hit for _, hit in sorted(detections, key=lambda item: -item[0])]
    points = [(sum(right[: i + 1]) / objects, sum(right[: i + 1]) / (i + 1)) for i in range(len(right))]
    read = [max((p for r, p in points if r >= at), default=0.0) for at in np.linspace(0, 1, 101)]
    return float(np.mean(read)), sum(right) / objects


@pytest.mark.parametrize("seed", range(4))
def test_the_tables_are_those_of_the_definition_written_out(seed):
    pairs = pairs_of(seed, 3)
    tables = metric_of(pairs, ("mask",)).tables()["mask"]
    for row, label in enumerate(tables.classes):
        for span in range(4):
            for index, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
                precision, recall = slow_ap(pairs, label, span, threshold)
                column = 2 if span == 0 else span + 2
                assert tables.precision[row, span, index] == pytest.approx(precision, abs=1e-12, nan_ok=True)
                assert tables.recall[row, column, index] == pytest.approx(recall, abs=1e-12, nan_ok=True)
        for column, limit in ((0, 1), (1, 10)):
            assert tables.recall[row, column, 0] == slow_ap(pairs, label, 0, 0.5, limit)[1]


def test_truth_as_prediction_scores_exactly_one():
    generator = np.random.default_rng(5)
    pairs = []
    for count in (1, 7, 0, 12):
        truth = truth_of(generator, (200, 180), count)
        keep = truth.masks.areas() > 0
        truth = truth[keep]
        pairs.append((truth, truth))
    metric = metric_of(pairs)
    scores = {name: value for name, value in metric.compute().items() if "ar1" not in name.split("_")}
    assert all(value == 1.0 or math.isnan(value) for name, value in scores.items() if not name.endswith("ar10"))
    counts = metric.report().details["mask_counts"]
    assert counts["mask_matched"] == counts["objects"] > 0
    assert (counts["mask_missed"], counts["mask_false"], counts["beyond_limit"]) == (0, 0, 0)


def test_the_counts_add_up():
    rows = metric_of(pairs_of(11, 5)).per_class()
    for row in rows.values():
        for kind in KINDS:
            assert row[f"{kind}_matched"] + row[f"{kind}_missed"] == row["objects"]
            assert row[f"{kind}_matched"] + row[f"{kind}_false"] <= row["detections"]
    assert sum(row["mask_matched"] for row in rows.values()) > 0
    assert math.isnan(rows["never"]["mask_ap"])


def test_an_image_alone_has_the_figures_of_a_data_set_of_one():
    for pair in pairs_of(21, 6):
        metric = InstanceMetric(SPACE)
        image = metric.update(*pair)
        assert image == pytest.approx(metric.compute(), abs=1e-15, nan_ok=True)
        assert tuple(image) == tuple(metric.report().headline) == instance_metric_names(SPACE)


def test_counting_without_figures_of_the_image_leaves_the_same_state():
    pairs, quick = pairs_of(31, 8) * 60, InstanceMetric(SPACE, kinds=KINDS)
    for pair in pairs:
        quick.add(*pair)
    state, known = quick.counts(), metric_of(pairs).counts()
    # More rows than the table has room for at first, and than the room that it has next.
    assert len(state["scores"]) > 2048
    for name, column in known.items():
        np.testing.assert_array_equal(state[name], column, err_msg=name)


@pytest.mark.parametrize("shuffled", [False, True])
def test_boxes_of_many_images_at_once_leave_the_same_state(shuffled):
    pairs, once = pairs_of(31, 8) * 30, InstanceMetric(SPACE, kinds=("box",))
    found, objects = (BoxTable.of([pair[side] for pair in pairs]) for side in (0, 1))
    if shuffled:
        # Any order of the images; within an image equal scores keep theirs.
        images = np.random.default_rng(0).permutation(len(pairs))
        found = rows_of(found, np.argsort(images[found.images], kind="stable"))
        objects = rows_of(objects, np.argsort(-objects.images, kind="stable"))
    for _ in range(2):
        once.add_boxes(found, objects, len(pairs))
    slow = metric_of(pairs * 2, kinds=("box",))
    state = once.counts()
    assert state["seen"].tolist() == [2 * len(pairs), 0]
    for name, column in slow.counts().items():
        np.testing.assert_array_equal(state[name], column, err_msg=name)
    assert once.report() == slow.report()


def rows_of(table, order):
    scores = None if table.scores is None else table.scores[order]
    columns = table.images[order], table.boxes[order], table.labels[order]
    return BoxTable(*columns, scores=scores, crowd=table.crowd[order], areas=table.areas[order])


def test_boxes_at_once_count_a_hundred_of_a_class_and_say_how_many_more():
    count = 130
    found = BoxTable(
        np.repeat(np.int64(1), count),
        np.tile(np.array([[0, 0, 4, 4]], np.float32), (count, 1)),
        np.zeros(count, np.int32),
        scores=np.linspace(1, 0, count, dtype=np.float32),
    )
    objects = BoxTable(np.array([1]), np.array([[0, 0, 4, 5]], np.float32), np.zeros(1, np.int32))
    metric = InstanceMetric(SPACE, kinds=("box",))
    metric.add_boxes(found, objects, 3)
    assert metric.report().details["box_counts"] == {
        "objects": 1, "detections": 100, "box_matched": 1, "box_missed": 0, "box_false": 99, "images": 3, "beyond_limit": 30
    }  # fmt: skip
    assert metric.compute()["box_ap50"] == metric.compute()["box_ap75"] == 1.0
    assert objects.stated()[0].tolist() == [20.0]
    none = BoxTable.of([])
    metric.add_boxes(none, none, 0)
    assert metric.counts()["seen"].tolist() == [3, 30]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.array([0, 3])}, "There are 3 images, numbered from 0; found a box of image 3"),
        ({"images": np.array([0, 1], np.int32)}, "images is int64"),
        ({"images": [0, 1]}, "images is a NumPy array of int64 .*, found list"),
        ({"areas": np.array([1.0, np.nan])}, "Areas are finite numbers of pixels, found nan"),
        ({"labels": np.array([0, 4], np.int32)}, r"Labels go from 0 to 3 \(4 classes\), found 4"),
        ({"scores": np.array([0.5, np.nan], np.float32)}, "Scores go from 0 to 1, found nan"),
        ({"boxes": np.array([[0, 0, 1, 1], [2, 0, 1, 1]], np.float32)}, r"row 1 is \[2.0, 0.0, 1.0, 1.0\]"),
        ({"boxes": np.array([[0, 0, np.inf, 1], [2, 0, 3, 1]], np.float32)}, "row 0 is"),
        ({"boxes": np.array([[0, 0, 1, 1], [0, -np.inf, 3, 1]], np.float32)}, "row 1 is"),
        ({"boxes": np.array([[0, 0, 1, 1], [0, 0, 3, np.nan]], np.float32)}, "row 1 is"),
    ],
)
def test_bad_boxes_are_refused(change, message):
    columns = {
        "images": np.array([0, 1]),
        "boxes": np.array([[0, 0, 1, 1], [0, 0, 2, 2]], np.float32),
        "labels": np.array([0, 3], np.int32),
        "scores": np.array([0.5, 1], np.float32),
    }
    metric = InstanceMetric(SPACE, kinds=("box",))
    with pytest.raises(UserError, match=message):
        metric.add_boxes(BoxTable(**(columns | change)), BoxTable(**columns), 3)
    with pytest.raises(UserError, match="Did you mean 'box'"):
        InstanceMetric(SPACE, kinds=("bxo",))
    with pytest.raises(UserError, match="this one has mask, box"):
        InstanceMetric(SPACE).add_boxes(BoxTable(**columns), BoxTable(**columns), 2)


def test_the_order_by_falling_score_is_stable():
    generator = np.random.default_rng(0)
    for count in (0, 1, 5, 70_000):
        scores = generator.choice(
            np.array([0.0, -0.0, 1e-40, 0.1, 0.5, np.nextafter(np.float32(0.5), 1), 1.0], np.float32), count
        )
        scores[::3] = generator.random(len(scores[::3]))
        np.testing.assert_array_equal(by_falling_score(scores), np.argsort(-scores, kind="stable"))


def test_an_image_after_others_has_its_own_figures():
    pairs = pairs_of(21, 6)
    metric = metric_of(pairs)
    for pair in pairs:
        assert metric.update(*pair) == pytest.approx(metric_of([pair]).compute(), abs=1e-15, nan_ok=True)


def test_a_state_once_given_does_not_change():
    """`counts` hands out the table itself, which goes on growing."""
    pairs = pairs_of(5, 6)
    metric = metric_of(pairs)
    state = metric.counts()
    kept = {name: column.copy() for name, column in state.items()}
    for pair in pairs * 60:
        metric.add(*pair)
    assert len(metric.counts()["scores"]) > 1024 > len(kept["scores"])
    for name, column in kept.items():
        np.testing.assert_array_equal(state[name], column, err_msg=name)


@pytest.mark.parametrize("world", [2, 3])
def test_images_dealt_to_processes_give_the_very_figures_of_one_process(world):
    pairs = [pair for seed in range(3) for pair in pairs_of(seed)][:10]
    whole, parts = metric_of(pairs), [metric_of(pairs[rank::world]) for rank in range(world)]
    total = InstanceMetric(SPACE, kinds=KINDS)
    total.load_sum([part.counts() for part in parts])
    assert total.report() == whole.report()
    for name, column in whole.counts().items():
        np.testing.assert_array_equal(total.counts()[name], column, err_msg=name)
    total.update(*pairs[0])
    assert total.compute() == metric_of([*pairs, pairs[0]]).compute()
    parts[0].merge(parts[1])
    assert parts[0].counts()["seen"][0] == len(pairs[0::world]) + len(pairs[1::world])
    json.dumps(to_plain(whole.report()), allow_nan=False)


def test_other_sizes_classes_and_states_are_refused():
    generator = np.random.default_rng(0)
    truth, metric = truth_of(generator, (20, 20), 2), InstanceMetric(SPACE)
    with pytest.raises(UserError, match="same size"):
        metric.update(truth_of(generator, (20, 21), 2), truth)
    other = InstanceMetric(LabelSpace(("cell",), things=(True,)))
    with pytest.raises(UserError, match="has 4 classes, this metric counts 1"):
        other.update(truth, truth)
    for state in (other, InstanceMetric.boundary(SPACE, MetricSettings())):
        with pytest.raises(UserError, match="another metric"):
            metric.load_sum([metric.counts(), state.counts()])


def test_nothing_seen_is_not_defined():
    report = InstanceMetric(SPACE).report()
    assert set(report.headline.values()) == {None}
    assert report.details["mask_counts"]["objects"] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_boundary_is_what_an_erosion_takes_away(seed, distance):
    generator = np.random.default_rng(seed)
    size = (int(generator.integers(1, 40)), int(generator.integers(1, 40)))
    mask = shape(generator, size) | shape(generator, size) | (generator.random(size) < 0.02)
    runs = RunMasks.from_dense(mask.astype(bool)[None])
    edge = inner_boundary(runs.counts, 0, len(runs.counts), size[0], distance)
    padded = np.pad(mask.astype(np.uint8), distance)
    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    eroded = cv2.erode(padded, window)[distance:-distance, distance:-distance]
    found = np.zeros(size[0] * size[1], np.uint8)
    at = 0
    for gap, length in edge.reshape(-1, 2):
        found[at + gap : at + gap + length] = 1
        at += int(gap) + int(length)
    np.testing.assert_array_equal(found.reshape(size[::-1]).T, mask - eroded)


def real_objects(shared):
    """The objects of the photographs of coco128, in the order of the image ids; areas as stated."""
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO(str(shared / "data/coco128/annotations/instances_train2017.json"))
    categories = sorted(data.cats)
    space = LabelSpace(tuple(data.cats[index]["name"] for index in categories), things=(True,) * len(categories))
    for image in sorted(data.imgs):
        rows = data.loadAnns(data.getAnnIds(image))
        size = (data.imgs[image]["height"], data.imgs[image]["width"])
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        yield Instances(
            RunMasks.from_coco([data.annToRLE(row) for row in rows], size=size),
            np.array([categories.index(row["category_id"]) for row in rows], np.int32),
            space,
            crowd=np.array([bool(row["iscrowd"]) for row in rows], bool),
            areas=np.array([row["area"] for row in rows], np.float64),
            boxes=boxes.astype(np.float32),
        )


def disturbed(truth, generator):
    """Objects moved, left out, doubled and mistaken, with scores."""
    index = np.flatnonzero(generator.random(2 * len(truth)) < 0.7) % max(1, len(truth))
    labels = truth.labels[index].copy()
    wrong = generator.random(len(index)) < 0.1
    labels[wrong] = generator.integers(0, len(truth.space), wrong.sum())
    parts = [truth.masks[int(i)].window(*generator.integers(-6, 7, 2).tolist(), truth.size) for i in index]
    masks = RunMasks.concatenate(parts) if parts else RunMasks.empty(truth.size)
    boxes = truth.boxes[index] + generator.normal(0, 2, (len(index), 4)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    scores = np.round(generator.random(len(index)), 2).astype(np.float32)
    return Instances(masks, labels, truth.space, scores=scores, boxes=boxes)


def test_real_objects_score_as_in_pycocotools(shared):
    generator = np.random.default_rng(0)
    pairs = [(disturbed(truth, generator), truth) for truth in real_objects(shared)]
    scores = assert_as_pycocotools(pairs).compute()
    assert 0.1 < scores["boundary_ap"] < scores["mask_ap"] < 0.9
    truths = metric_of([(truth, truth) for _, truth in pairs], ("mask", "box")).compute()
    assert all(truths[f"{kind}_{name}"] == 1.0 for kind in ("mask", "box") for name in FIGURES[:6])


def test_the_fake_results_score_as_in_pycocotools(shared):
    """COCO's fake results of 100 images. Their annotation file is not at hand, so half of the detections serve as truth."""
    folder = shared / "data/formats/coco_results"
    images = {}
    for row in json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text()):
        images.setdefault(row["image_id"], []).append(row)
    categories = sorted({row["category_id"] for rows in images.values() for row in rows})
    space = LabelSpace(tuple(map(str, categories)), things=(True,) * len(categories))
    pairs = []
    for image in sorted(images):
        rows = images[image]
        everything = Instances(
            RunMasks.from_coco([row["segmentation"] for row in rows]),
            np.array([categories.index(row["category_id"]) for row in rows], np.int32),
            space,
            scores=np.array([row["score"] for row in rows], np.float32),
        )
        half = everything[::2]
        areas = half.masks.areas().astype(np.float64)
        truth = Instances(half.masks.window(2, -1, half.size), half.labels, space, areas=areas)
        pairs.append((everything, truth))
    scores = assert_as_pycocotools(pairs).compute()
    assert 0.2 < scores["mask_ap50"] < 1.0
