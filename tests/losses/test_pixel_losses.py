"""Cross entropy, BCE and focal against slow NumPy twins, torch, torchvision, segmentation_models_pytorch and MONAI."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.losses import FocalLoss
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses import build_loss, prepare_pixels

MODES = ("binary", "multiclass", "multilabel")
CLASSES = 4


def case(mode, seed=0, dtype=torch.float64, scale=2.0):
    """Logits, target with about a fifth ignored, class weights; 3 x 5 x 4 pixels."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else CLASSES
    logits = scale * torch.randn(3, channels, 5, 4, generator=generator, dtype=torch.float64)
    shape = (3, CLASSES, 5, 4) if mode == "multilabel" else (3, 5, 4)
    target = torch.randint(0, CLASSES if mode == "multiclass" else 2, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    weights = 0.2 + torch.rand(2 if mode == "binary" else CLASSES, generator=generator, dtype=torch.float64)
    return logits.to(dtype), target, weights


def loss_of(name, mode, logits, target, weights=None, **options):
    pixels = prepare_pixels(logits, target, mode=mode, ignore=IGNORE, class_weights=weights)
    return build_loss(name, options)(pixels)


def questions(mode, logits, target, weights):
    """Every valid question of the batch: (logits of the alternatives, index of the truth, their weights, weight)."""
    logits, target = logits.double().numpy(), target.numpy()
    images, channels, height, width = logits.shape
    for b in range(images):
        for i in range(height):
            for j in range(width):
                if mode == "multiclass" and target[b, i, j] != IGNORE:
                    truth = target[b, i, j]
                    yield logits[b, :, i, j], truth, weights, weights[truth]
                for c in range(channels if mode != "multiclass" else 0):
                    truth = target[b, i, j] if mode == "binary" else target[b, c, i, j]
                    if truth == IGNORE:
                        continue
                    both = weights if mode == "binary" else np.array([weights[c], weights[c]])
                    yield np.array([0.0, logits[b, c, i, j]]), truth, both, both[truth]


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def twin_cross_entropy(mode, logits, target, weights, smoothing=0.0, threshold=None, minimum=1):
    rows = []
    for values, truth, alternatives, weight in questions(mode, logits, target, weights):
        surprise = -np.log(softmax(values))
        smooth = (alternatives * surprise).mean()
        rows.append((surprise[truth], (1 - smoothing) * weight * surprise[truth] + smoothing * smooth, weight))
    if threshold is not None:
        rows.sort(key=lambda row: -row[0])
        hard = sum(math.exp(-row[0]) < threshold for row in rows)
        rows = rows[: max(hard, minimum * len(logits))]
    return sum(row[1] for row in rows) / sum(row[2] for row in rows)


def twin_focal(mode, logits, target, weights, gamma, alpha=None):
    total = denominator = 0.0
    for values, truth, _, weight in questions(mode, logits, target, weights):
        p = softmax(values)[truth]
        factor = 1.0 if alpha is None else (alpha if truth == 1 else 1 - alpha)
        total += weight * factor * -((1 - p) ** gamma) * math.log(p)
        denominator += weight
    return total / denominator


def twin_bce(mode, logits, target, weights, positive):
    """`positive`: one per channel."""
    total = denominator = 0.0
    logits, target = logits.double().numpy(), target.numpy()
    for b, c, i, j in np.ndindex(logits.shape):
        label = target[b, c, i, j] if mode == "multilabel" else target[b, i, j]
        if label == IGNORE:
            continue
        yes = label == c if mode == "multiclass" else label == 1
        weight = weights[c] if mode == "multilabel" else weights[label]
        p = 1 / (1 + math.exp(-logits[b, c, i, j]))
        total += weight * (-positive[c] * math.log(p) if yes else -math.log(1 - p))
        denominator += weight
    return total / denominator


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("mining", [None, (0.3, 1), (0.05, 7), (0.5, 10_000)])
def test_cross_entropy_twin(mode, weighted, smoothing, mining):
    logits, target, weights = case(mode)
    threshold, minimum = mining or (None, 1)
    expected = twin_cross_entropy(
        mode, logits, target, weights.numpy() if weighted else np.ones(len(weights)), smoothing, threshold, minimum
    )
    options = {"label_smoothing": smoothing, "hard_threshold": threshold, "hard_minimum": minimum}
    got = loss_of("cross_entropy", mode, logits, target, weights if weighted else None, **options)
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(smoothing):
    logits, target, weights = case("multiclass")
    got = loss_of("cross_entropy", "multiclass", logits, target, weights, label_smoothing=smoothing)
    expected = functional.cross_entropy(logits, target, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(got, expected)


def test_binary_cross_entropy_is_the_two_class_one():
    logits, target, weights = case("binary")
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    expected = functional.cross_entropy(two, target, weights, ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(
        loss_of("cross_entropy", "binary", logits, target, weights, label_smoothing=0.1), expected
    )


def test_mining_keeps_ties_and_never_ignored_pixels():
    logits, target = torch.zeros(1, 3, 2, 4), torch.tensor([[[0, 1, 2, 0], [IGNORE] * 4]])
    got = loss_of("cross_entropy", "multiclass", logits, target, hard_threshold=0.1, hard_minimum=2)
    assert got.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [1.0, 2.5, (0.5, 1.0, 2.0, 3.0)])
def test_bce_twin(mode, weighted, positive):
    logits, target, weights = case(mode)
    channels = logits.shape[1]
    positive = positive[:channels] if isinstance(positive, tuple) else positive
    per_channel = positive if isinstance(positive, tuple) else [positive] * channels
    used = weights.numpy() if weighted else np.ones(len(weights))
    got = loss_of("bce", mode, logits, target, weights if weighted else None, positive_weight=positive)
    assert got.item() == pytest.approx(twin_bce(mode, logits, target, used, per_channel), rel=1e-7)


def test_bce_is_torchs_and_smps():
    logits, target, _ = case("multilabel")
    target = target % 2
    positive = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    got = loss_of("bce", "multilabel", logits, target, positive_weight=tuple(positive.tolist()))
    expected = functional.binary_cross_entropy_with_logits(logits, target.double(), pos_weight=positive[:, None, None])
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        loss_of("bce", "multilabel", logits, target), smp.losses.SoftBCEWithLogitsLoss()(logits, target.double())
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_twin(mode, gamma, alpha):
    alpha = None if mode == "multiclass" else alpha  # refused there, see test_bad_options
    logits, target, weights = case(mode)
    got = loss_of("focal", mode, logits, target, weights, gamma=gamma, alpha=alpha)
    assert got.item() == pytest.approx(twin_focal(mode, logits, target, weights.numpy(), gamma, alpha), rel=1e-6)


def test_focal_is_torchvisions_smps_and_monais():
    logits, target, _ = case("binary")
    target = target % 2
    got = loss_of("focal", "binary", logits, target, alpha=0.25)
    expected = sigmoid_focal_loss(logits[:, 0], target.double(), alpha=0.25, gamma=2.0, reduction="mean")
    torch.testing.assert_close(got, expected)
    theirs = smp.losses.FocalLoss("binary", alpha=0.25, gamma=2.0)(logits, target[:, None].double())
    torch.testing.assert_close(got, theirs)
    logits, target, _ = case("multiclass", dtype=torch.float32)
    target = target % CLASSES
    # MONAI also averages over the channels that are zero.
    monai = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)(logits, target[:, None]) * CLASSES
    torch.testing.assert_close(loss_of("focal", "multiclass", logits, target), monai)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"label_smoothing": 0.1, "hard_threshold": 0.4, "hard_minimum": 3}),
        ("bce", {"positive_weight": 3.0}),
        ("focal", {"gamma": 2.0}),
        ("focal", {"gamma": 0.5}),
    ],
)
def test_gradcheck(mode, name, options):
    logits, target, weights = case(mode)
    logits, target = logits[..., :2, :3].clone().requires_grad_(), target[..., :2, :3]
    assert torch.autograd.gradcheck(
        lambda values: loss_of(name, mode, values, target, weights, **options), logits, fast_mode=True
    )


def test_the_shared_softmax_pass_has_right_gradients_of_either_output():
    logits, target, _ = case("multiclass")
    logits, target = logits[..., :2, :2].clone().requires_grad_(), target[..., :2, :2]

    def both(values):
        pixels = prepare_pixels(values, target, mode="multiclass", ignore=IGNORE)
        return pixels.true_log_probability, pixels.volume

    assert torch.autograd.gradcheck(both, logits)
    assert torch.autograd.gradcheck(lambda values: both(values)[0], logits)
    assert torch.autograd.gradcheck(lambda values: both(values)[1], logits)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("cross_entropy", {"label_smoothing": 1.5}, "label_smoothing"),
        ("cross_entropy", {"hard_threshold": 0.0}, "hard_threshold"),
        ("cross_entropy", {"hard_minimum": 0}, "hard_minimum"),
        ("bce", {"positive_weight": (1.0, 2.0)}, "positive_weight needs one number or 4"),
        ("focal", {"gamma": -1.0}, "gamma"),
        ("focal", {"alpha": 2.0}, "alpha"),
        ("focal", {"alpha": 0.25}, "use class weights"),
    ],
)
def test_bad_options(name, options, word):
    logits, target, _ = case("multiclass")
    with pytest.raises(UserError, match=word):
        loss_of(name, "multiclass", logits, target, **options)
