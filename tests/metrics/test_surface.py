"""Surface distances against all pairs of points."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.surface import average_surface_distance, hausdorff_distance, normalised_surface_dice
from nuriwake.metrics.surface_metric import SURFACE_METRICS, SurfaceMetric

SPACINGS = [(1.0, 1.0), (0.5, 0.5), (2.0, 0.7)]
DEFINITIONS = ("directed_max", "pooled", "surface_weighted")


def blob(generator, size, level=0.0):
    mask = ndimage.gaussian_filter(generator.standard_normal(size), 2) > level
    mask[size[0] // 2, size[1] // 2] = True
    return mask


def edge_points(mask):
    """Pixels with a 4-neighbour outside, one by one."""
    height, width = mask.shape
    inside = lambda y, x: 0 <= y < height and 0 <= x < width and mask[y, x]  # noqa: E731
    return [
        (y, x)
        for y, x in np.argwhere(mask)
        if not all((inside(y - 1, x), inside(y + 1, x), inside(y, x - 1), inside(y, x + 1)))
    ]


def surfel_points(mask, spacing):
    """Corner points and the length of line at each, from the pieces of line between pixel centres of the dual grid."""
    padded, points, lengths = np.pad(mask, 1), [], []
    height, width = spacing
    for y in range(mask.shape[0] + 1):
        for x in range(mask.shape[1] + 1):
            square = padded[y : y + 2, x : x + 2]
            total = int(square.sum())
            if total in (1, 3):
                length = math.hypot(height / 2, width / 2)
            elif total == 2:
                across = square[0, 0] == square[1, 1]
                length = (
                    2 * math.hypot(height / 2, width / 2)
                    if across
                    else width
                    if square[0, 0] == square[0, 1]
                    else height
                )
            else:
                continue
            points.append((y, x))
            lengths.append(length)
    return points, np.array(lengths)


def nearest(starts, ends, spacing):
    """For each start the distance to the nearest end, over all pairs."""
    starts, ends = np.array(starts) * spacing, np.array(ends) * spacing
    return np.sqrt(((starts[:, None] - ends[None]) ** 2).sum(-1)).min(1)


def weighted(distances, lengths, percentile):
    done = 0.0
    for index in np.argsort(distances, kind="stable"):
        done += lengths[index]
        if done / lengths.sum() >= percentile / 100 - 1e-12:
            return distances[index]
    return distances.max()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(3, 26),
    width=st.integers(3, 26),
    spacing=st.sampled_from(SPACINGS),
)
def test_equals_all_pairs_of_points(seed, height, width, spacing):
    generator = np.random.default_rng(seed)
    prediction, target = (blob(generator, (height, width), level) for level in (0.0, 0.1))
    edges = edge_points(prediction), edge_points(target)
    to_target, to_prediction = nearest(*edges, spacing), nearest(*edges[::-1], spacing)
    pooled = np.concatenate([to_target, to_prediction])

    def found(definition, percentile=95.0):
        return hausdorff_distance(prediction, target, definition=definition, percentile=percentile, spacing=spacing)

    assert found("directed_max") == pytest.approx(max(np.percentile(to_target, 95), np.percentile(to_prediction, 95)))
    assert found("pooled") == pytest.approx(np.percentile(pooled, 95))
    assert found("directed_max", 100) == found("pooled", 100) == pytest.approx(pooled.max())
    assert average_surface_distance(prediction, target, spacing=spacing) == pytest.approx(pooled.mean())

    (points, lengths), (truth, truth_lengths) = surfel_points(prediction, spacing), surfel_points(target, spacing)
    to_truth, to_points = nearest(points, truth, spacing), nearest(truth, points, spacing)
    tolerance = 1.01 * spacing[0]
    close = lengths[to_truth <= tolerance].sum() + truth_lengths[to_points <= tolerance].sum()
    nsd = normalised_surface_dice(prediction, target, tolerance=tolerance, spacing=spacing)
    assert nsd == pytest.approx(close / (lengths.sum() + truth_lengths.sum()))
    allowed = {
        max(weighted(to_truth, lengths, 95 + nudge), weighted(to_points, truth_lengths, 95 + nudge))
        for nudge in (-1e-7, 0, 1e-7)
    }
    assert any(found("surface_weighted") == pytest.approx(value) for value in allowed)


def test_two_squares_by_hand():
    target, prediction = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    target[5:15, 5:15], prediction[5:15, 8:18] = True, True
    for definition in DEFINITIONS:
        assert hausdorff_distance(target, prediction, definition=definition) == 3
        assert hausdorff_distance(target, prediction, definition=definition, spacing=(1, 2)) == pytest.approx(
            6, abs=2.1
        )
    assert normalised_surface_dice(target, prediction, tolerance=3) == 1
    assert hausdorff_distance(target, target) == 0
    assert normalised_surface_dice(target, target, tolerance=0) == 1


def test_the_three_definitions_differ():
    target, prediction = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    target[10:50, 10:50], prediction[10:50, 10:50] = True, True
    prediction[28:31, 50:60] = True
    found = {hausdorff_distance(prediction, target, definition=definition) for definition in DEFINITIONS}
    assert len(found) == 3


def test_empty_masks():
    empty, full = np.zeros((5, 6), bool), np.ones((5, 6), bool)
    for definition in DEFINITIONS:
        assert math.isnan(hausdorff_distance(empty, empty, definition=definition))
        assert hausdorff_distance(empty, full, definition=definition) == math.inf
        assert hausdorff_distance(full, empty, definition=definition) == math.inf
    assert math.isnan(average_surface_distance(empty, empty))
    assert average_surface_distance(full, empty) == math.inf
    assert math.isnan(normalised_surface_dice(empty, empty, tolerance=1))
    assert normalised_surface_dice(full, empty, tolerance=1) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"definition": "maximum"}, "directed_max, pooled or surface_weighted, found 'maximum'"),
        ({"percentile": 0}, "above 0 and at most 100"),
        ({"spacing": (1.0, 0.0)}, "both above 0"),
    ],
)
def test_wrong_settings(arguments, message):
    mask = np.ones((3, 3), bool)
    with pytest.raises(UserError, match=message):
        hausdorff_distance(mask, mask, **arguments)


def test_wrong_masks():
    mask = np.ones((3, 3), bool)
    with pytest.raises(UserError, match="of one size"):
        average_surface_distance(mask, np.ones((3, 4), bool))
    with pytest.raises(UserError, match="bool masks, found bool and uint8"):
        average_surface_distance(mask, np.ones((3, 3), np.uint8))
    with pytest.raises(UserError, match="at least 0"):
        normalised_surface_dice(mask, mask, tolerance=-1)


SPACE = LabelSpace(("background", "left", "right"))


def some_maps(seed, kinds=3):
    generator = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(generator.standard_normal((30, 32)), 3) for _ in range(kinds)]
    return SemanticMap(np.argmax(fields, 0).astype(np.uint8), SPACE)


def test_the_data_set_means_say_what_they_go_over():
    metric = SurfaceMetric(SPACE, tolerance=2.0)
    nothing = SemanticMap(np.zeros((30, 32), np.uint8), SPACE)
    image = metric.update(some_maps(0), some_maps(1), spacing=(2.0, 2.0))
    first = metric.per_class()
    assert tuple(image) == metric.names == (*list(SURFACE_METRICS)[:-1], "nsd_2")
    assert image["hd95_pooled"] == pytest.approx(np.mean([row.means["hd95_pooled"] for row in first.values()]))
    metric.update(nothing, some_maps(2))
    metric.update(some_maps(3), nothing)
    metric.update(nothing, nothing)
    left = metric.per_class()["left"]
    assert (left.images, left.missed, left.invented, left.absent) == (1, 1, 1, 1)
    assert left.means["hd95_pooled"] == first["left"].means["hd95_pooled"]
    assert left.means["nsd_2"] == pytest.approx(first["left"].means["nsd_2"] / 3)
    assert metric.compute()["hausdorff"] == pytest.approx(image["hausdorff"])
    row = metric.report().per_class["left"]
    assert (row["surface_images"], row["surface_missed"], row["surface_invented"]) == (1, 1, 1)
    assert row["hausdorff"] == left.means["hausdorff"]


def test_what_is_not_defined_is_none_in_the_report():
    metric = SurfaceMetric(SPACE)
    nothing = SemanticMap(np.zeros((30, 32), np.uint8), SPACE)
    assert set(metric.report().headline.values()) == {None}
    image = metric.update(nothing, some_maps(2))
    assert math.isnan(image["hd95_directed_max"])
    assert image["nsd_1"] == 0
    report = metric.report()
    assert report.headline["hd95_directed_max"] is None
    assert report.per_class["left"]["average_surface_distance"] is None
    assert "background" not in report.per_class


def test_spacing_scales_the_distances():
    near, far = SurfaceMetric(SPACE), SurfaceMetric(SPACE)
    one = near.update(some_maps(0), some_maps(1))
    three = far.update(some_maps(0), some_maps(1), spacing=(3.0, 3.0))
    assert three["average_surface_distance"] == pytest.approx(3 * one["average_surface_distance"])


def test_surface_metric_merges():
    whole, first, second = (SurfaceMetric(SPACE) for _ in range(3))
    for seed in range(4):
        for metric in (whole, first if seed % 2 else second):
            metric.update(some_maps(seed), some_maps(seed + 100))
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute())
    with pytest.raises(UserError, match="another metric"):
        first.load(SurfaceMetric(LabelSpace(("background", "left"))).counts())
    with pytest.raises(UserError, match="same tolerance"):
        first.merge(SurfaceMetric(SPACE, tolerance=2))


def test_ignored_pixels_belong_to_no_mask_and_layers_are_measured_one_by_one():
    space = LabelSpace(("vessel", "lesion"), exclusive=False)
    target, prediction = np.zeros((20, 20, 2), np.uint8), np.zeros((20, 20, 2), np.uint8)
    target[4:10, 4:10, 1], prediction[4:10, 4:10, 1] = 1, 1
    target[15:, :, 1], prediction[15:, :, 1] = IGNORE, 1
    metric = SurfaceMetric(space)
    metric.update(SemanticMap(prediction, space), SemanticMap(target, space))
    found = metric.per_class()
    assert found["lesion"].means["hausdorff"] == 0
    assert math.isnan(found["vessel"].means["hausdorff"])


RINGED = LabelSpace(("background", "object"))


def disc(radius, size=100):
    """(size, size) bool about the middle."""
    y, x = np.ogrid[:size, :size]
    return np.hypot(y - size / 2, x - size / 2) < radius


def against_void(predicted, actual, void):
    """The scores of one image, and in which way the object counts."""
    metric = SurfaceMetric(RINGED)
    truth = np.where(void, IGNORE, actual).astype(np.uint8)
    image = metric.update(SemanticMap(predicted.astype(np.uint8), RINGED), SemanticMap(truth, RINGED))
    found = metric.per_class()["object"]
    return image, next(name for name in ("images", "missed", "invented", "absent") if getattr(found, name))


RING = disc(35) & ~disc(30)


@pytest.mark.parametrize("radius", [30, 33, 35])
def test_an_edge_that_a_ring_of_void_cuts_counts_as_matched(radius):
    image, kind = against_void(disc(radius), disc(30), RING)
    assert kind == "images"
    assert set(image.values()) == {0.0, 1.0}
    assert image["nsd_1"] == 1


def test_a_bump_beyond_a_ring_of_void_costs_what_it_measures():
    bump = np.zeros((100, 100), bool)
    bump[13:20, 47:54] = True
    image, kind = against_void(disc(35) | bump, disc(30), RING)
    assert kind == "images"
    assert image["nsd_1"] == pytest.approx(0.96, abs=0.02)
    assert image["hd95_directed_max"] < image["hausdorff"] == 8


@pytest.mark.parametrize("predicted", [disc(0), RING])
def test_an_object_in_a_ring_of_void_is_missed_without_a_known_pixel_of_it(predicted):
    image, kind = against_void(predicted, disc(30), RING)
    assert kind == "missed"
    assert image["nsd_1"] == 0
    assert math.isnan(image["hausdorff"])


def test_what_is_predicted_where_the_truth_has_nothing_known_is_invented():
    assert against_void(disc(33), disc(0), RING)[1] == "invented"
    assert against_void(RING, disc(0), RING)[1] == "absent"


def test_a_spike_through_the_void_is_not_measured_to_the_far_border_of_the_image():
    actual, predicted, void = (np.zeros((200, 60), bool) for _ in range(3))
    actual[50:, 20:40] = True
    void[48:, 18:42] = True
    void &= ~actual
    predicted[50:, 20:40], predicted[42:50, 29:32] = True, True
    image, kind = against_void(predicted, actual, void)
    assert kind == "images"
    assert image["hausdorff"] == 8
    assert max(value for name, value in image.items() if name.startswith("hd95")) <= 8
