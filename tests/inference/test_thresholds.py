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


def test_dice_is_that_of_a_loop_over_thresholds():
    probabilities, labels = example(1, 3)
    histogram = ThresholdHistogram(LAYERS)
    histogram.update(torch.from_numpy(probabilities), labels)
    found = histogram.dice()
    for channel in range(3):
        for index in (0, 100, 333, 511, 700, BINS - 2):
            expected = slow_scores(probabilities[channel], labels[..., channel], (index + 1) / BINS)["dice"]
            assert found[channel, index] == pytest.approx(expected, nan_ok=True)


def test_the_best_threshold_of_a_loop_over_all():
    probabilities, labels = example(2, 1)
    histogram = ThresholdHistogram(BINARY)
    histogram.update(probabilities[:, :17], labels[:17, :, 0])
    other = ThresholdHistogram(BINARY)
    other.update(probabilities[:, 17:], labels[17:, :, 0])
    histogram.merge(other)
    cuts = np.arange(1, BINS) / BINS
    table = [slow_scores(probabilities[0], labels[..., 0], cut) for cut in cuts]
    (best,) = histogram.best()
    for name in ("dice", "iou"):
        assert slow_scores(probabilities[0], labels[..., 0], best)[name] == max(row[name] for row in table)
    assert best != 0.5


def test_classes_never_seen_and_ties_keep_the_middle():
    histogram = ThresholdHistogram(LAYERS)
    labels = np.zeros((4, 4, 3), np.uint8)
    labels[..., 1] = 1
    labels[:2, :, 2] = 1
    probabilities = np.full((3, 4, 4), 0.2, np.float32)
    probabilities[2, :2] = 0.9
    histogram.update(probabilities, labels)
    assert histogram.best() == (0.5, 0.5, 0.5)


def test_spaces_without_thresholds_and_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="this one has 3 exclusive classes"):
        ThresholdHistogram(STREET)
    with pytest.raises(UserError, match="do not fit labels"):
        ThresholdHistogram(BINARY).update(np.zeros((1, 4, 4), np.float32), np.zeros((4, 5), np.uint8))


def test_decoding_binary_with_one_or_two_channels():
    foreground = torch.tensor([[[0.2, 0.5, 0.64, 0.9]]])
    for probabilities in (foreground, torch.cat((1 - foreground, foreground))):
        labels, scores = decode_pixels(probabilities, BINARY, (0.65,))
        assert labels.tolist() == [[0, 0, 0, 1]]
        np.testing.assert_allclose(scores, [[0.8, 0.5, 0.36, 0.9]], atol=1e-6)
    assert decode_pixels(foreground, BINARY)[0].tolist() == [[0, 1, 1, 1]]


def test_decoding_exclusive_classes():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), (8, 9)).transpose(2, 0, 1).astype(np.float32)
    given = torch.from_numpy(probabilities)
    plain, _ = decode_pixels(given, STREET)
    np.testing.assert_array_equal(plain, probabilities.argmax(0))
    np.testing.assert_array_equal(decode_pixels(given, STREET, (0.3, 0.3, 0.3))[0], plain)
    weighed, scores = decode_pixels(given, STREET, (0.5, 0.5, 0.1))
    np.testing.assert_array_equal(weighed, (probabilities * np.array([2, 2, 10])[:, None, None]).argmax(0))
    np.testing.assert_array_equal(scores, np.take_along_axis(probabilities, weighed[None], 0)[0])
    assert (weighed != plain).any()


def test_an_output_without_a_decoder_is_named():
    expected = r"no decoder of the task 'semantic' for a model that returns tuple; .* PixelLogits \(semantic\)"
    with pytest.raises(UserError, match=expected):
        find_decoder("semantic", tuple, {})
