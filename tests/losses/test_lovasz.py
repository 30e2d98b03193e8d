"""Lovász losses against the definition of the extension by brute force, and against Berman's code as smp carries it."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses import build_loss, prepare_pixels
from nuriwake.losses.lovasz import lovasz_extension

CLASSES = 3


def loss_of(mode, logits, target, weights=None, **options):
    pixels = prepare_pixels(logits, target, mode=mode, ignore=IGNORE, class_weights=weights)
    return build_loss("lovasz", options)(pixels)


def jaccard_loss(wrong, truth):
    """Berman 2018, eq. 4: |wrong| / |truth united with wrong|, both sets of pixels."""
    union = truth | wrong
    return len(wrong) / len(union) if union else 0.0


def greatest_extension(errors, truth):
    """The extension of a submodular set function is the greatest of its sums over all orders of the pixels."""
    errors = [max(error, 0.0) for error in errors]

    def along(order):
        gains = [jaccard_loss({*order[: k + 1]}, truth) - jaccard_loss({*order[:k]}, truth) for k in range(len(order))]
        return sum(errors[pixel] * gain for pixel, gain in zip(order, gains, strict=True))

    return max(along(order) for order in permutations(range(len(errors))))


def integral_extension(errors, truth):
    """The extension as an integral over thresholds (Bach 2013, eq. 3.3): of the loss of the set {error >= t}."""
    levels = sorted({0.0, *(max(error, 0.0) for error in errors)})
    return sum(
        (high - low) * jaccard_loss({i for i, error in enumerate(errors) if error >= high}, truth)
        for low, high in pairwise(levels)
    )


@given(st.lists(st.tuples(st.floats(-2, 2), st.booleans(), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_extension_by_brute_force(rows):
    errors, valid = [row[0] for row in rows], [row[2] for row in rows]
    truth = [row[1] and row[2] for row in rows]
    got = lovasz_extension(
        torch.tensor([errors], dtype=torch.float64), torch.tensor([truth]), torch.tensor([valid])
    ).item()
    kept = [error for error, keep in zip(errors, valid, strict=True) if keep]
    positive = {k for k, (row) in enumerate(row for row in rows if row[2]) if row[1]}
    assert got == pytest.approx(greatest_extension(kept, positive), abs=1e-12)
    assert got == pytest.approx(integral_extension(kept, positive), abs=1e-12)


def case(mode, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else CLASSES
    logits = torch.randn(2, channels, 3, 4, generator=generator, dtype=torch.float64)
    shape = (2, CLASSES, 3, 4) if mode == "multilabel" else (2, 3, 4)
    target = torch.randint(0, 2, shape, generator=generator)  # in multiclass mode the last class is absent
    target[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    if mode == "multilabel":
        target[0, 1] = 0
    return logits.to(dtype), target, 0.2 + torch.rand(CLASSES, generator=generator, dtype=torch.float64)


def twin(mode, logits, target, weights, reduction, absent):
    scores, target = logits.numpy(), target.numpy()
    if mode == "multiclass":
        scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    groups = [slice(None)] if reduction == "batch" else [slice(b, b + 1) for b in range(len(scores))]
    total = denominator = 0.0
    for group in groups:
        for c in range(scores.shape[1]):
            labels = (target[:, c] if mode == "multilabel" else target)[group].ravel()
            values, labels = scores[group, c].ravel()[labels != IGNORE], labels[labels != IGNORE]
            truth = labels == (c if mode == "multiclass" else 1)
            if absent == "skip" and not truth.any():
                continue
            errors = abs(truth - values) if mode == "multiclass" else 1 - values * np.where(truth, 1, -1)
            weight = weights[c] if mode != "binary" else 1.0
            total += weight * integral_extension(errors.tolist(), set(np.flatnonzero(truth).tolist()))
            denominator += weight
    return total / denominator


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("reduction", ["batch", "image"])
@pytest.mark.parametrize("absent", [None, "skip", "count"])
@pytest.mark.parametrize("seed", [0, 1])
def test_twin(mode, reduction, absent, seed):
    logits, target, weights = case(mode, seed)
    used = None if mode == "binary" else weights
    got = loss_of(mode, logits, target, used, reduction=reduction, absent=absent)
    rule = absent or ("skip" if mode == "multiclass" else "count")
    assert got.item() == pytest.approx(twin(mode, logits, target, weights.numpy(), reduction, rule), rel=1e-9)


@pytest.mark.parametrize("reduction", ["batch", "image"])
def test_bermans_code(reduction):
    for mode in ("binary", "multiclass"):
        logits, target, _ = case(mode, dtype=torch.float32)
        theirs = smp.losses.LovaszLoss(mode, per_image=reduction == "image", ignore_index=IGNORE)
        torch.testing.assert_close(loss_of(mode, logits, target, reduction=reduction), theirs(logits, target))


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_gradcheck(mode):
    logits, target, _ = case(mode)
    assert torch.autograd.gradcheck(
        lambda values: loss_of(mode, values, target), logits.requires_grad_(), fast_mode=True
    )


def test_the_ends_are_the_jaccard_loss_itself():
    """At probabilities of 0 and 1 the extension is 1 - IoU (eq. 8): here 1 of 3 for class 0 and 2 of 4 for class 1."""
    truth, answer = torch.tensor([[[0, 0, 1, 1, 1]]]), torch.tensor([0, 1, 1, 1, 0])
    logits = 100 * torch.nn.functional.one_hot(answer, 2).T.reshape(1, 2, 1, 5).double()
    assert loss_of("multiclass", logits, truth).item() == pytest.approx(((1 - 1 / 3) + (1 - 2 / 4)) / 2)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UserError, match=r"lovasz.reducton.*Did you mean 'reduction'"):
        build_loss("lovasz", {"reducton": "image"})
