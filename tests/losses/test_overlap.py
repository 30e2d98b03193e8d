"""Dice, Jaccard, Tversky and focal Tversky against slow NumPy twins, segmentation_models_pytorch and MONAI."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.losses import DiceLoss as MonaiDice
from monai.losses import TverskyLoss as MonaiTversky

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses import build_loss, prepare_pixels

MODES = ("binary", "multiclass", "multilabel")
CLASSES = 4
FAMILY = [
    ("dice", {}),
    ("dice", {"squared": True, "smoothing": 1.0}),
    ("jaccard", {}),
    ("jaccard", {"squared": True}),
    ("tversky", {"false_positive_weight": 0.2, "false_negative_weight": 0.9}),
    ("focal_tversky", {"smoothing": 0.5}),
]


def case(mode, seed=0, dtype=torch.float64):
    """Logits, target with about a fifth ignored and, but in binary mode, class 2 absent; class weights."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else CLASSES
    logits = torch.randn(3, channels, 5, 4, generator=generator, dtype=torch.float64)
    shape = (3, CLASSES, 5, 4) if mode == "multilabel" else (3, 5, 4)
    target = torch.randint(0, CLASSES if mode == "multiclass" else 2, shape, generator=generator)
    if mode == "multiclass":
        target[target == 2] = 1
        target[0][target[0] == 3] = 0
    elif mode == "multilabel":
        target[:, 2] = 0
        target[1, 3] = 0
    else:
        target[1] = 0
    target[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    weights = 0.2 + torch.rand(2 if mode == "binary" else CLASSES, generator=generator, dtype=torch.float64)
    return logits.to(dtype), target, weights


def loss_of(name, mode, logits, target, weights=None, **options):
    pixels = prepare_pixels(logits, target, mode=mode, ignore=IGNORE, class_weights=weights)
    return build_loss(name, options)(pixels)


def maps(mode, logits, target):
    """Probability, truth and validity, each (B, C, H, W), float64, by brute force."""
    logits, target = logits.double().numpy(), target.numpy()
    if mode == "multiclass":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        p = powers / powers.sum(1, keepdims=True)
        y = np.stack([target == c for c in range(logits.shape[1])], 1)
        valid = np.repeat((target != IGNORE)[:, None], logits.shape[1], 1)
    else:
        target = target.reshape(logits.shape)
        p, y, valid = 1 / (1 + np.exp(-logits)), target == 1, target != IGNORE
    return p, y.astype(float), valid


def twin(name, mode, logits, target, weights, **options):
    p, y, valid = maps(mode, logits, target)
    s, absent = options.get("smoothing", 0.0), options.get("absent", "skip")
    groups = [slice(None)] if options.get("reduction", "batch") == "batch" else [slice(b, b + 1) for b in range(len(p))]
    total = denominator = 0.0
    for group in groups:
        for c in range(p.shape[1]):
            keep = valid[group, c]
            pc, yc = p[group, c][keep], y[group, c][keep]
            if absent == "skip" and yc.sum() == 0:
                continue
            volume = (pc**2).sum() if options.get("squared") else pc.sum()
            both = (pc * yc).sum()
            a, b = options.get("false_positive_weight", 0.3), options.get("false_negative_weight", 0.7)
            if name == "dice":
                score = (2 * both + s) / (volume + yc.sum() + s)
            elif name == "jaccard":
                score = (both + s) / (volume + yc.sum() - both + s)
            else:
                score = (both + s) / (both + a * (pc * (1 - yc)).sum() + b * ((1 - pc) * yc).sum() + s)
            loss = (1 - score) ** (3 / 4) if name == "focal_tversky" else 1 - score
            weight = 1.0 if mode == "binary" else weights[c]
            total, denominator = total + weight * loss, denominator + weight
    return total / denominator if denominator else 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "options"), FAMILY)
@pytest.mark.parametrize("reduction", ["batch", "image"])
@pytest.mark.parametrize("absent", ["skip", "count"])
def test_twin(mode, name, options, reduction, absent):
    logits, target, weights = case(mode)
    options = {**options, "reduction": reduction, "absent": absent}
    if absent == "count":
        options["smoothing"] = 1.0
    got = loss_of(name, mode, logits, target, weights, **options)
    assert got.item() == pytest.approx(twin(name, mode, logits, target, weights.numpy(), **options), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "options"), FAMILY)
@pytest.mark.parametrize("reduction", ["batch", "image"])
def test_gradcheck(mode, name, options, reduction):
    logits, target, weights = case(mode)
    logits, target = logits[..., :2, :3].clone().requires_grad_(), target[..., :2, :3]
    options = {**options, "reduction": reduction}
    assert torch.autograd.gradcheck(
        lambda values: loss_of(name, mode, values, target, weights, **options), logits, fast_mode=True
    )


@pytest.mark.parametrize("mode", MODES)
def test_smp(mode):
    logits, target, _ = case(mode, dtype=torch.float32)
    if mode != "binary":  # smp averages absent classes as 0, ours leaves them out: let none be absent
        target[:, ..., 0, 0] = torch.tensor([1, 1, 1]) if mode == "multiclass" else 1
        if mode == "multiclass":
            target[2, 0] = torch.tensor([0, 1, 2, 3])
    shaped = target[:, None] if mode == "binary" else target
    # smp's Dice is its Tversky with 0.5 and 0.5, so that its smoothing counts twice.
    kwargs = {"mode": mode, "ignore_index": IGNORE}
    torch.testing.assert_close(
        loss_of("dice", mode, logits, target, smoothing=1.0), smp.losses.DiceLoss(smooth=0.5, **kwargs)(logits, shaped)
    )
    torch.testing.assert_close(
        loss_of("tversky", mode, logits, target),
        smp.losses.TverskyLoss(alpha=0.3, beta=0.7, **kwargs)(logits, shaped),
    )
    if mode == "binary":
        clean = target % 2
        theirs = smp.losses.JaccardLoss(mode)(logits, clean[:, None])
        torch.testing.assert_close(loss_of("jaccard", mode, logits, clean), theirs)


@pytest.mark.parametrize("reduction", ["batch", "image"])
@pytest.mark.parametrize("squared", [False, True])
def test_monai(reduction, squared):
    logits, target, _ = case("multiclass", dtype=torch.float32)
    target = target % CLASSES  # MONAI has no ignore
    common = {"softmax": True, "to_onehot_y": True, "smooth_nr": 1.0, "smooth_dr": 1.0, "batch": reduction == "batch"}
    ours = {"smoothing": 1.0, "absent": "count", "reduction": reduction}
    for name, jaccard in (("dice", False), ("jaccard", True)):
        if jaccard:  # MONAI doubles the numerator and the smoothing with it: half the smoothing is ours
            common = {**common, "smooth_nr": 2.0, "smooth_dr": 2.0}
        theirs = MonaiDice(squared_pred=squared, jaccard=jaccard, **common)(logits, target[:, None])
        torch.testing.assert_close(loss_of(name, "multiclass", logits, target, squared=squared, **ours), theirs)
    common = {**common, "smooth_nr": 1.0, "smooth_dr": 1.0}
    theirs = MonaiTversky(alpha=0.3, beta=0.7, **common)(logits, target[:, None])
    torch.testing.assert_close(loss_of("tversky", "multiclass", logits, target, **ours), theirs)


def test_absent_classes_follow_the_rule():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    sure = torch.full((1, 1, 4, 4), -10.0, requires_grad=True)
    assert loss_of("dice", "binary", sure, target).item() == 0
    unsure = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = loss_of("dice", "binary", unsure, target, absent="count", smoothing=1.0)
    assert loss.item() == pytest.approx(1 - 1 / (8 + 1))
    loss.backward()
    assert (unsure.grad > 0).all()


def test_a_million_pixels_keep_their_digits():
    logits = torch.full((1, 2, 1024, 2048), 0.0)
    logits[:, 1] = 4.6
    target = torch.ones(1, 1024, 2048, dtype=torch.long)
    p = 1 / (1 + np.exp(-4.6))
    assert loss_of("dice", "multiclass", logits, target).item() == pytest.approx(1 - 2 * p / (1 + p), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("dice", {"smoothing": -1.0}, "smoothing"),
        ("dice", {"absent": "count"}, "Absent classes"),
        ("jaccard", {"reduction": "picture"}, "reduction"),
        ("tversky", {"false_positive_weight": -0.1}, "Tversky weights"),
        ("focal_tversky", {"gamma": 0.0}, "gamma"),
    ],
)
def test_bad_options(name, options, word):
    with pytest.raises(UserError, match=word):
        build_loss(name, options)
