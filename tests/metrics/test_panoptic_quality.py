"""Panoptic quality: against the definition written out, on made-up maps and on the real truth of coco128."""

import json
import math
from collections import defaultdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.serial import to_plain
from nuriwake.metrics.panoptic_quality import PANOPTIC_FIGURES, PanopticMetric
from nuriwake.metrics.segment_overlap import count_overlaps

SPACE = LabelSpace(("cat", "car", "sky", "grass", "never"), things=(True, True, False, False, True))


def panoptic(ids, labels, crowd=(), space=SPACE):
    """The map `ids` (H, W) with `labels` of its segments by id."""
    present = np.array([value for value in np.unique(ids) if value], np.int32)
    return Panoptic(
        np.ascontiguousarray(ids, np.int32),
        present,
        np.array([labels[value] for value in present.tolist()], np.int32),
        space,
        crowd=np.array([value in crowd for value in present.tolist()], bool),
    )


def map_of(generator, size, *, crowd=True):
    """Boxes of segments over each other, some void. Ids are large and far apart, as colours are."""
    names = generator.choice(2**24 - 1, 12, replace=False) + 1
    ids = np.full(size, names[0])
    for name in names[1 : generator.integers(1, 12)]:
        top, left = (int(generator.integers(0, side)) for side in size)
        ids[top : top + generator.integers(1, 20), left : left + generator.integers(1, 20)] = name
    ids[generator.random(size) < generator.choice([0, 0.02, 0.3])] = 0
    labels = {int(name): int(generator.integers(0, 4)) for name in names}
    return panoptic(ids, labels, set(names[generator.random(12) < 0.15].tolist()) if crowd else ())


def disturbed(truth, generator):
    """The truth moved, with segments split, of another class, and voided."""
    shift = [int(value) for value in generator.integers(-2, 3, 2)]
    ids = np.roll(truth.ids, shift, (0, 1)).astype(np.int64)
    labels = dict(zip(truth.segment_ids.tolist(), truth.labels.tolist(), strict=True))
    for name in truth.segment_ids.tolist():
        chance = generator.random()
        if chance < 0.1:
            labels[name] = int(generator.integers(0, len(truth.space)))
        elif chance < 0.2:
            ids[ids == name] = 0
        elif chance < 0.3:
            half = ids[:, : ids.shape[1] // 2]
            half[half == name] = name + 2**24
            labels[name + 2**24] = labels[name]
    block = generator.integers(0, 8, 2)
    ids[block[0] : block[0] + 10, block[1] : block[1] + 10] = 2**30
    return panoptic(ids, labels | {2**30: int(generator.integers(0, len(truth.space)))}, space=truth.space)


def slow_statistics(pairs):
    """label -> [true positives, false positives, false negatives, sum of IoU], segment by segment from masks."""
    out = defaultdict(lambda: [0, 0, 0, 0.0])
    for prediction, target in pairs:
        void, matched = target.ids == 0, set()
        for name, label, crowd in zip(target.segment_ids, target.labels, target.crowd, strict=True):
            if crowd:
                continue
            truth, hit = target.ids == name, False
            for other, other_label in zip(prediction.segment_ids, prediction.labels, strict=True):
                found = prediction.ids == other
                iou = (truth & found).sum() / (truth | found & ~void).sum()
                if other_label == label and iou > 0.5:
                    matched.add(int(other))
                    hit = True
                    out[int(label)][0] += 1
                    out[int(label)][3] += iou
            out[int(label)][2] += not hit
        for other, label in zip(prediction.segment_ids, prediction.labels, strict=True):
            crowds = target.segment_ids[target.crowd & (target.labels == label)][-1:]  # panopticapi: a dict by category
            found = prediction.ids == other
            unjudged = (found & (void | np.isin(target.ids, crowds))).sum()
            out[int(label)][1] += int(other) not in matched and unjudged / found.sum() <= 0.5
    return out


def slow_figures(statistics, things):
    """(PQ, SQ, RQ) of all, things and stuff, as panopticapi averages them."""
    figures = []
    for group in (None, True, False):
        rows = [row for label, row in sorted(statistics.items()) if sum(row[:3]) and group in (None, things[label])]
        parts = [
            (iou / (tp + (fp + fn) / 2), iou / tp if tp else 0.0, tp / (tp + (fp + fn) / 2)) for tp, fp, fn, iou in rows
        ]
        figures += np.mean(parts, 0).tolist() if parts else [math.nan] * 3
    return figures


def metric_of(pairs):
    metric = PanopticMetric(pairs[0][1].space)
    for pair in pairs:
        metric.update(*pair)
    return metric


def assert_as_defined(pairs):
    metric, statistics = metric_of(pairs), slow_statistics(pairs)
    expected = slow_figures(statistics, pairs[0][1].space.things)
    np.testing.assert_allclose(list(metric.compute().values()), expected, rtol=0, atol=1e-12)
    for label, row in enumerate(metric.per_class().values()):
        counts = [row[f"segments_{what}"] for what in ("matched", "false", "missed")]
        assert counts == statistics[label][:3]
        total = statistics[label][3] if any(counts) else math.nan  # of a class that is nowhere nothing is known
        assert row["matched_iou_sum"] == pytest.approx(total, abs=1e-12, nan_ok=True)
    return metric


def pairs_of(seed, images=3):
    generator = np.random.default_rng(seed)
    out = []
    for _ in range(images):
        size = (int(generator.integers(10, 40)), int(generator.integers(10, 40)))
        truth = map_of(generator, size)
        out.append((disturbed(truth, generator) if generator.random() < 0.8 else map_of(generator, size), truth))
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_quality_is_that_of_the_definition_written_out(seed, images):
    assert_as_defined(pairs_of(seed, images))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 40))
def test_overlaps_are_counted_pixel_by_pixel(seed, pixels, run):
    generator = np.random.default_rng(seed)
    names = [np.append(0, generator.choice(2**31 - 2, 7, replace=False) + 1).astype(np.int32) for _ in range(2)]
    start = int(generator.integers(0, run))
    maps = [part[generator.integers(0, 8, pixels)].repeat(run)[start:] for part in names]
    found = count_overlaps(*maps, names[0][1:], names[1][1:])
    expected = [[np.sum((maps[0] == a) & (maps[1] == b)) for b in names[1]] for a in names[0]]
    np.testing.assert_array_equal(found, expected)


def test_truth_as_prediction_is_exactly_one():
    generator = np.random.default_rng(7)
    pairs = [(truth, truth) for truth in (map_of(generator, (30, 40), crowd=False) for _ in range(5))]
    metric = metric_of(pairs)
    assert set(metric.compute().values()) == {1.0}
    assert metric.report().details["panoptic_counts"]["segments_missed"] == 0


def halves(left, right, columns=10):
    """A map of 4 rows: id `left` on the first `columns` of 20 columns, `right` on the others."""
    ids = np.full((4, 20), right)
    ids[:, :columns] = left
    return ids


def test_half_is_no_match_and_void_counts_in_no_union():
    truth = panoptic(halves(1, 2), {1: 0, 2: 2})
    # The cat reaches over all 20 columns: an IoU of exactly one half.
    row = metric_of([(panoptic(halves(5, 5), {5: 0}), truth)]).per_class()["cat"]
    assert (row["segments_matched"], row["segments_false"], row["segments_missed"]) == (0, 1, 1)
    void = panoptic(halves(1, 0), {1: 0})
    assert metric_of([(panoptic(halves(5, 5), {5: 0}), void)]).compute()["pq"] == 1.0


@pytest.mark.parametrize(("label", "columns", "false"), [(0, 9, 0), (0, 10, 1), (1, 9, 1)])
def test_a_prediction_mostly_on_crowd_of_its_class_is_not_false(label, columns, false):
    truth = panoptic(halves(1, 2, columns), {1: 2, 2: 0}, crowd={2})
    metric = metric_of([(panoptic(halves(7, 7), {7: label}), truth)])
    assert metric.report().details["panoptic_counts"]["segments_false"] == false
    assert metric.per_class()["cat"]["segments_missed"] == 0


@pytest.mark.parametrize(("last", "false"), [(1, 0), (3, 1)])
def test_of_several_crowds_of_a_class_the_last_listed_counts(last, false):
    ids = np.full((4, 20), 2)
    ids[:, :12], ids[:, 18:] = 1, 3
    numbers = np.array([{1: 3, 3: 1}[last], 2, last], np.int32)
    labels, crowd = np.array([0, 2, 0], np.int32), np.array([True, False, True])
    truth = Panoptic(ids.astype(np.int32), numbers, labels, SPACE, crowd=crowd)
    metric = metric_of([(panoptic(np.full((4, 20), 7), {7: 0}), truth)])
    assert metric.report().details["panoptic_counts"]["segments_false"] == false


def test_shards_add_up_and_images_alone_are_data_sets_of_one():
    pairs = pairs_of(9, 6)
    whole, parts, total = metric_of(pairs), [metric_of(pairs[rank::3]) for rank in range(3)], PanopticMetric(SPACE)
    total.load_sum([part.counts() for part in parts])
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    for found in (total, parts[0]):
        assert found.compute() == pytest.approx(whole.compute(), abs=1e-14)
        np.testing.assert_array_equal(found.counts()["segments"], whole.counts()["segments"])
    image = PanopticMetric(SPACE).update(*pairs[0])
    assert image == pytest.approx(metric_of(pairs[:1]).compute(), nan_ok=True)
    assert tuple(image) == PANOPTIC_FIGURES == tuple(whole.report().headline)
    json.dumps(to_plain(whole.report()), allow_nan=False)


def test_other_sizes_classes_and_states_are_refused():
    truth, metric = panoptic(halves(1, 2), {1: 0, 2: 2}), PanopticMetric(SPACE)
    with pytest.raises(UserError, match="same size"):
        metric.update(panoptic(np.ones((3, 3)), {1: 0}), truth)
    other = PanopticMetric(LabelSpace(("cat",), things=(True,)))
    with pytest.raises(UserError, match="has 5 classes, this metric counts 1"):
        other.update(truth, truth)
    with pytest.raises(UserError, match="do not merge"):
        metric.load_sum([metric.counts(), other.counts()])
    with pytest.raises(UserError, match="another metric"):
        metric.load_sum([other.counts()])
    assert set(metric.report().headline.values()) == {None}


def test_real_truth_with_perturbed_predictions_scores_as_defined(shared):
    folder = shared / "data/coco128/annotations"
    data = json.loads((folder / "panoptic_train2017.json").read_text())
    categories = {row["id"]: index for index, row in enumerate(data["categories"])}
    things = tuple(bool(row["isthing"]) for row in data["categories"])
    space = LabelSpace(tuple(row["name"] for row in data["categories"]), things=things)
    generator, pairs = np.random.default_rng(0), []
    for row in data["annotations"][:40]:
        colours = cv2.imread(str(folder / "panoptic_train2017" / row["file_name"])).astype(np.int32)
        ids = colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]
        segments = row["segments_info"]
        labels = {part["id"]: categories[part["category_id"]] for part in segments}
        truth = panoptic(ids, labels, {part["id"] for part in segments if part["iscrowd"]}, space)
        assert dict(zip(truth.segment_ids.tolist(), truth.areas().tolist(), strict=True)) == {
            part["id"]: part["area"] for part in segments
        }
        pairs.append((disturbed(truth, generator), truth))
    assert 0.3 < assert_as_defined(pairs).compute()["pq"] < 0.9
    perfect = metric_of([(truth, truth) for _, truth in pairs]).compute()
    assert set(perfect.values()) == {1.0}
