"""The metrics against the field's own tools. They are imported here and nowhere else in these tests: it takes half a minute.

Every comparison with one tool is in this one file, so that tests which run side by side import it once.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage

from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.metrics.confusion import count_pixels
from nuriwake.metrics.semantic import SemanticMetric
from nuriwake.metrics.surface import average_surface_distance, hausdorff_distance, normalised_surface_dice
from nuriwake.metrics.surface_metric import SurfaceMetric

FOUR = LabelSpace(("sky", "road", "car", "tree"))
SPACINGS = [(1.0, 1.0), (0.5, 0.5), (2.0, 0.7)]


@pytest.fixture(scope="session")
def classification():
    """torchmetrics' functions for class labels."""
    return pytest.importorskip("torchmetrics.functional.classification")


@pytest.fixture(scope="session")
def monai_metrics():
    return pytest.importorskip("monai.metrics")


def runs(generator, count, classes, longest=150):
    """(count,) labels in runs, with ignore and errors; the shape of real maps."""
    lengths = generator.integers(1, longest, count)
    labels = np.repeat(generator.integers(0, classes, count), lengths)[:count].astype(np.uint8)
    wrong = np.repeat(generator.random(count) < 0.2, generator.integers(1, longest, count))[:count]
    prediction = np.where(wrong, generator.integers(0, classes, count), labels).astype(np.uint8)
    for array in (labels, prediction):
        start = int(generator.integers(0, count))
        array[start : start + count // 9] = 255
    return prediction, labels


def maps(space, seed, size=(24, 31), right=0.7):
    """(prediction, target) SemanticMaps with some ignore in the truth."""
    generator = np.random.default_rng(seed)
    shape, classes = (size, len(space)) if space.exclusive else ((*size, len(space)), 2)
    target = generator.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(generator.random(shape) < right, target, generator.integers(0, classes, shape)).astype(
        np.uint8
    )
    target[generator.random(shape) < 0.1] = IGNORE
    return SemanticMap(prediction, space), SemanticMap(target, space)


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


def test_the_confusion_matrix_equals_torchmetrics_hotcoco_and_skimage(classification):
    hotcoco = pytest.importorskip("hotcoco.semantic")
    prediction, target = runs(np.random.default_rng(6), 60_000, 19)
    prediction[prediction == 255] = 3  # the peers clip or refuse an unanswered pixel
    found = count_pixels(prediction, target, classes=19).matrix
    tensors = [torch.from_numpy(labels).long() for labels in (prediction, target)]
    theirs = classification.multiclass_confusion_matrix(*tensors, num_classes=19, ignore_index=255)
    np.testing.assert_array_equal(found, theirs.numpy())
    evaluation = hotcoco.SemanticEval(19)
    evaluation.update(target.reshape(200, 300), prediction.reshape(200, 300))
    np.testing.assert_array_equal(found, np.asarray(evaluation.confusion()))
    metrics = pytest.importorskip("skimage.metrics")
    table = metrics.contingency_table(target.astype(int), prediction.astype(int), ignore_labels=[255]).toarray()
    np.testing.assert_array_equal(found, table[:19, :19].astype(int))


def test_the_scores_equal_torchmetrics_and_hotcoco(classification):
    hotcoco = pytest.importorskip("hotcoco.semantic")
    metric, evaluation = SemanticMetric(FOUR), hotcoco.SemanticEval(4)
    pairs = [maps(FOUR, seed) for seed in range(4)]
    for prediction, target in pairs:
        metric.update(prediction, target)
        evaluation.update(target.labels, prediction.labels)
    found, per_class = metric.compute(), metric.scores()
    tensors = [torch.from_numpy(np.stack([pair[side].labels for pair in pairs])).long() for side in (0, 1)]
    settings_ = {"num_classes": 4, "ignore_index": IGNORE, "average": "none"}
    np.testing.assert_allclose(per_class.iou, classification.multiclass_jaccard_index(*tensors, **settings_), rtol=1e-6)
    np.testing.assert_allclose(per_class.dice, classification.multiclass_f1_score(*tensors, **settings_), rtol=1e-6)
    np.testing.assert_allclose(
        per_class.precision, classification.multiclass_precision(*tensors, **settings_), rtol=1e-6
    )
    np.testing.assert_allclose(per_class.recall, classification.multiclass_recall(*tensors, **settings_), rtol=1e-6)
    theirs = evaluation.report()["metrics"]
    assert theirs["mIoU"] == pytest.approx(found["mean_iou"])
    assert theirs["fwIoU"] == pytest.approx(found["frequency_weighted_iou"])
    assert theirs["aAcc"] == pytest.approx(found["pixel_accuracy"])
    assert theirs["mAcc"] == pytest.approx(found["mean_accuracy"])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_distances_equal_monai(spacing, monai_metrics):
    metrics = monai_metrics
    generator = np.random.default_rng(8)
    for _ in range(5):
        prediction, target = blob(generator, (60, 70), 0.05), blob(generator, (60, 70))
        tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, target)]
        theirs = metrics.compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        assert hausdorff_distance(prediction, target, spacing=spacing) == pytest.approx(theirs.item(), rel=1e-5)
        plain = metrics.compute_hausdorff_distance(*tensors, include_background=True, spacing=spacing)
        assert hausdorff_distance(prediction, target, percentile=100, spacing=spacing) == pytest.approx(
            plain.item(), rel=1e-5
        )
        average = metrics.compute_average_surface_distance(
            *tensors, include_background=True, symmetric=True, spacing=spacing
        )
        assert average_surface_distance(prediction, target, spacing=spacing) == pytest.approx(average.item(), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_distances_equal_deepmind(spacing):
    package = pytest.importorskip("surface_distance")
    generator = np.random.default_rng(9)
    for _ in range(5):
        prediction, target = blob(generator, (60, 70), 0.05), blob(generator, (60, 70))
        theirs = package.compute_surface_distances(target, prediction, spacing)
        ours = hausdorff_distance(prediction, target, definition="surface_weighted", spacing=spacing)
        assert ours == pytest.approx(package.compute_robust_hausdorff(theirs, 95))
        for tolerance in (0.0, 0.7, 2.0):
            expected = package.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert normalised_surface_dice(prediction, target, tolerance=tolerance, spacing=spacing) == pytest.approx(
                expected
            )


def test_the_hausdorff_distance_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    generator = np.random.default_rng(10)
    prediction, target = blob(generator, (40, 40), 0.05), blob(generator, (40, 40))
    edges = [np.zeros((40, 40), bool) for _ in range(2)]
    for edge, mask in zip(edges, (prediction, target), strict=True):
        edge[tuple(np.array(edge_points(mask)).T)] = True
    assert hausdorff_distance(prediction, target, percentile=100) == pytest.approx(metrics.hausdorff_distance(*edges))


def test_the_surface_metric_over_images_equals_monai_and_deepmind(monai_metrics):
    package = pytest.importorskip("surface_distance")
    generator = np.random.default_rng(11)
    space, spacing = LabelSpace(("background", "organ")), (2.0, 0.7)
    metric, theirs = SurfaceMetric(space, tolerance=1.5), []
    for _ in range(4):
        prediction, target = blob(generator, (50, 60), 0.05), blob(generator, (50, 60))
        metric.update(*(SemanticMap(mask.astype(np.uint8), space) for mask in (prediction, target)), spacing=spacing)
        tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, target)]
        settings = {"include_background": True, "spacing": spacing}
        distances = package.compute_surface_distances(target, prediction, spacing)
        theirs.append(
            {
                "hd95_directed_max": monai_metrics.compute_hausdorff_distance(
                    *tensors, percentile=95, **settings
                ).item(),
                "average_surface_distance": monai_metrics.compute_average_surface_distance(
                    *tensors, symmetric=True, **settings
                ).item(),
                "hd95_surface_weighted": package.compute_robust_hausdorff(distances, 95),
                "nsd_1.5": package.compute_surface_dice_at_tolerance(distances, 1.5),
            }
        )
    found = metric.report().headline
    for name in theirs[0]:
        assert found[name] == pytest.approx(np.mean([image[name] for image in theirs]), rel=1e-5), name
