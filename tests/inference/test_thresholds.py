"""One pass of counting finds what a loop over all thresholds finds; decoding follows its definitions."""

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.inference.decoding import decode_pixels, find_decoder
from nuriwake.inference.thresholds import BINS, ThresholdHistogram

BINARY = LabelSpace(("background", "cell"))
LAYERS = LabelSpace(("water", "cloud", "ice"), exclusive=False)
STREET = LabelSpace(("sky", "road", "car"))


def example(seed: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (C, H, W) that know something of the labels (H, W, C), which have ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((40, 50, channels)) < 0.2).astype(np.uint8)
    noise = rng.normal(0, 0.25, labels.shape)
    probabilities = np.clip(0.3 + 0.25 * labels + noise, 0, 1).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    return np.ascontiguousarray(probabilities.transpose(2, 0, 1)), labels


def slow_scores(probability: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    valid = labels != IGNORE
    chosen, truth = (probability >= threshold)[valid], labels[valid] == 1
    hit, chosen_count, truth_count = (chosen & truth).sum(), chosen.sum(), truth.sum()
    return {
        "dice": 2 * hit / (chosen_count + truth_count),
        "iou": hit / (chosen | truth).sum(),
        "precision": hit / chosen_count if chosen_count else np.nan,
        "recall": hit / truth_count,
    }


@pytest.mark.parametrize("name", ["dice", "iou", "precision", "recall"])
def test_curves_are_those_of_a_loop_over_thresholds(name):
    probabilities, labels = example(1, 3)
    histogram = ThresholdHistogram(LAYERS)
    histogram.update(torch.from_numpy(probabilities), labels)
    curves = histogram.curves()
    for channel in range(3):
        for index in (0, 100, 333, 511, 700, BINS - 2):
            expected = slow_scores(probabilities[channel], labels[..., channel], curves["threshold"][index])[name]
            assert curves[name][channel, index] == pytest.approx(expected, nan_ok=True)


def test_the_best_threshold_of_a_loop_over_all():
    probabilities, labels = example(2, 1)
    histogram = ThresholdHistogram(BINARY)
    histogram.update(probabilities[:, :17], labels[:17, :, 0])
    other = ThresholdHistogram(BINARY)
    other.update(probabilities[:, 17:], labels[17:, :, 0])
    histogram.merge(other)
    cuts = np.arange(1, BINS) / BINS
    table = [slow_scores(probabilities[0], labels[..., 0], cut) for cut in cuts]
    (best,) = histogram.best("dice")
    assert slow_scores(probabilities[0], labels[..., 0], best)["dice"] == max(row["dice"] for row in table)
    assert best != 0.5
    assert histogram.best("iou") == (best,)
    (strict,) = histogram.best("recall_at_precision", precision=0.6)
    reached = slow_scores(probabilities[0], labels[..., 0], strict)
    assert reached["precision"] >= 0.6
    assert reached["recall"] == max(row["recall"] for row in table if row["precision"] >= 0.6)


def test_an_unreachable_precision_gives_the_nearest():
    probabilities, labels = example(3, 1)
    probabilities = np.minimum(probabilities, 0.9)
    labels[0, 0], probabilities[0, 0, 0] = 0, 0.95
    histogram = ThresholdHistogram(BINARY)
    histogram.update(probabilities, labels[..., 0])
    (best,) = histogram.best("recall_at_precision", precision=0.9999)
    assert np.nanmax(histogram.curves()["precision"]) == histogram.curves()["precision"][0, round(best * BINS) - 1]


def test_classes_never_seen_and_ties_keep_the_middle():
    histogram = ThresholdHistogram(LAYERS)
    labels = np.zeros((4, 4, 3), np.uint8)
    labels[..., 1] = 1
    labels[:2, :, 2] = 1
    probabilities = np.full((3, 4, 4), 0.2, np.float32)
    probabilities[2, :2] = 0.9
    histogram.update(probabilities, labels)
    assert histogram.best() == (0.5, 0.5, 0.5)


def test_counts_travel_between_processes():
    probabilities, labels = example(4, 3)
    one, both = ThresholdHistogram(LAYERS), ThresholdHistogram(LAYERS)
    one.update(probabilities, labels)
    both.load({name: 2 * array for name, array in one.counts().items()})
    one.merge(one)
    np.testing.assert_array_equal(one.counts()["histogram"], both.counts()["histogram"])
    assert one.counts()["histogram"].sum() == 2 * (labels != IGNORE).sum()


def test_spaces_without_thresholds_and_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="this one has 3 exclusive classes"):
        ThresholdHistogram(STREET)
    with pytest.raises(UserError, match="do not fit labels"):
        ThresholdHistogram(BINARY).update(np.zeros((1, 4, 4), np.float32), np.zeros((4, 5), np.uint8))


def test_decoding_binary_with_one_or_two_channels():
    foreground = np.array([[[0.2, 0.5, 0.64, 0.9]]], np.float32)
    for probabilities in (foreground, np.concatenate((1 - foreground, foreground))):
        found = decode_pixels(probabilities, BINARY, (0.65,))
        assert found.labels.tolist() == [[0, 0, 0, 1]]
        np.testing.assert_allclose(found.scores, [[0.8, 0.5, 0.36, 0.9]], atol=1e-6)
    assert decode_pixels(foreground, BINARY).labels.tolist() == [[0, 1, 1, 1]]


def test_decoding_exclusive_classes():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), (8, 9)).transpose(2, 0, 1).astype(np.float32)
    plain = decode_pixels(probabilities, STREET)
    np.testing.assert_array_equal(plain.labels, probabilities.argmax(0))
    np.testing.assert_array_equal(decode_pixels(probabilities, STREET, (0.3, 0.3, 0.3)).labels, plain.labels)
    weighed = decode_pixels(probabilities, STREET, (0.5, 0.5, 0.1))
    np.testing.assert_array_equal(weighed.labels, (probabilities * np.array([2, 2, 10])[:, None, None]).argmax(0))
    np.testing.assert_array_equal(weighed.scores, np.take_along_axis(probabilities, weighed.labels[None], 0)[0])
    assert (weighed.labels != plain.labels).any()


def test_an_output_without_a_decoder_is_named():
    with pytest.raises(UserError, match="no decoder for a model that returns tuple; there are some for PixelLogits"):
        find_decoder(tuple)
