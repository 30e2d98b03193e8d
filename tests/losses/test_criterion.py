"""PixelCriterion: names, weights, auxiliary heads, precision, ignore, empty masks, and the invariances of every term."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses import LOSSES, PixelCriterion, parse_terms, sum_terms
from nuriwake.losses.overlap import Dice
from nuriwake.models.outputs import PixelLogits, fit_logits

MODES = ("binary", "multiclass", "multilabel")
HARD = {"cross_entropy": {"hard_threshold": 0.5, "hard_minimum": 2, "label_smoothing": 0.1}}


def case(mode, seed=0, classes=3, size=(4, 5)):
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else classes
    logits = torch.randn(2, channels, *size, generator=generator)
    shape = (2, classes, *size) if mode == "multilabel" else (2, *size)
    target = torch.randint(0, classes if mode == "multiclass" else 2, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.25] = IGNORE
    return logits, target.to(torch.uint8) if mode == "multilabel" else target


def criterion_of(mode, names=tuple(LOSSES), **others):
    return PixelCriterion(dict.fromkeys(names, 1.0), mode=mode, **others)


def terms_and_gradient(criterion, logits, target):
    logits = logits.clone().requires_grad_()
    named = criterion(PixelLogits(logits), target)
    sum_terms(named).backward()
    return named, logits.grad


def test_terms_are_named_and_weighted():
    logits, target = case("multiclass")
    one = PixelCriterion("dice+cross_entropy", mode="multiclass")(PixelLogits(logits), target)
    half = PixelCriterion({"dice": 0.5, "cross_entropy": 2}, mode="multiclass")(PixelLogits(logits), target)
    assert list(one) == ["dice", "cross_entropy"]
    assert half["dice"].item() == pytest.approx(one["dice"].item() / 2)
    assert half["cross_entropy"].item() == pytest.approx(one["cross_entropy"].item() * 2)
    assert sum_terms(one).item() == pytest.approx(one["dice"].item() + one["cross_entropy"].item())


def test_auxiliary_heads_of_any_size_count_with_their_weight():
    logits, target = case("multiclass")
    small = torch.randn(2, 3, 2, 3)
    criterion = PixelCriterion("dice+cross_entropy", mode="multiclass", auxiliary_weight=0.3)
    named = criterion(PixelLogits(logits, (logits, small)), target)
    main = sum_terms(criterion(PixelLogits(logits), target))
    extra = sum_terms(criterion(PixelLogits(fit_logits(small, (4, 5))), target))
    assert list(named) == ["dice", "cross_entropy", "auxiliary"]
    torch.testing.assert_close(named["auxiliary"], 0.3 * (main + extra))
    assert "auxiliary" not in criterion(PixelLogits(logits), target)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(mode, dtype):
    logits, target = case(mode)
    logits = logits.to(dtype)
    expected, _ = terms_and_gradient(criterion_of(mode), logits.float(), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        named = criterion_of(mode)(PixelLogits(logits), target)
    for name, value in named.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_are_finite(mode, dtype, sign):
    logits, target = case(mode)
    logits = (sign * 1e4 * logits.sign()).to(dtype)
    for options in ({}, {**HARD, "focal": {"gamma": 0.5}}):
        named, gradient = terms_and_gradient(criterion_of(mode, options=options), logits, target)
        assert all(torch.isfinite(value) for value in named.values()), named
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, HARD])
def test_nothing_but_ignored_pixels_gives_zero(mode, options):
    logits, target = case(mode)
    named, gradient = terms_and_gradient(criterion_of(mode, options=options), logits, torch.full_like(target, IGNORE))
    assert all(value.item() == 0 for value in named.values()), named
    assert (gradient == 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", [0, 1])
def test_masks_of_one_value_give_finite_gradients(mode, label):
    logits, target = case(mode)
    named, gradient = terms_and_gradient(criterion_of(mode), logits, torch.full_like(target, label))
    assert all(torch.isfinite(value) for value in named.values())
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_a_class_weight_of_zero_leaves_the_class_out():
    logits, target = case("multiclass")
    criterion = criterion_of(
        "multiclass", ("cross_entropy", "bce", "dice", "focal", "lovasz"), class_weights=torch.zeros(3)
    )
    named, gradient = terms_and_gradient(criterion, logits, target)
    assert all(value.item() == 0 for value in named.values())
    assert (gradient == 0).all()


@pytest.mark.parametrize("classes", [1, 150])
def test_one_class_and_150_classes(classes):
    logits, target = case("multiclass", classes=classes, size=(8, 8))
    named, gradient = terms_and_gradient(criterion_of("multiclass"), logits, target)
    assert all(torch.isfinite(value) for value in named.values())
    assert torch.isfinite(gradient).all()
    logits, target = case("multilabel", classes=classes, size=(8, 8))
    named, gradient = terms_and_gradient(criterion_of("multilabel"), logits, target)
    assert all(torch.isfinite(value) for value in named.values())
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=10, deadline=None)
def test_ignored_pixels_count_nowhere(mode, seed, data):
    logits, target = case(mode, seed)
    ignored = (target == IGNORE).reshape(2, -1, 4, 5).expand_as(logits)
    changed = torch.where(ignored, torch.full_like(logits, data.draw(st.floats(-1e4, 1e4, width=32))), logits)
    criterion = criterion_of(mode, options=HARD)
    before, gradient = terms_and_gradient(criterion, logits, target)
    after, other = terms_and_gradient(criterion, changed, target)
    assert (gradient[ignored] == 0).all()
    assert (other[ignored] == 0).all()
    for name in before:
        torch.testing.assert_close(after[name], before[name])
    torch.testing.assert_close(other, gradient)


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_pixels_and_images_does_not_matter(mode, seed):
    logits, target = case(mode, seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    shuffled = logits.flatten(2)[..., order].reshape(logits.shape).flip(0)
    moved = target.flatten(-2)[..., order].reshape(target.shape).flip(0)
    before, _ = terms_and_gradient(criterion_of(mode), logits, target)
    after, _ = terms_and_gradient(criterion_of(mode), shuffled, moved)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_classes_does_not_matter(seed):
    logits, target = case("multiclass", seed)
    weights, order = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([2, 0, 1])
    renamed = torch.where(target == IGNORE, target, order.argsort()[target % 3])
    before, _ = terms_and_gradient(criterion_of("multiclass", class_weights=weights), logits, target)
    after, _ = terms_and_gradient(criterion_of("multiclass", class_weights=weights[order]), logits[:, order], renamed)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_class_weights_follow_the_module_but_not_the_checkpoint():
    criterion = PixelCriterion("dice", mode="binary", class_weights=torch.tensor([1.0, 2.0])).to(torch.float64)
    assert criterion.class_weights.dtype == torch.float64
    assert not criterion.state_dict()


def test_another_ignore_and_an_import_path():
    logits, target = case("multiclass")
    named = PixelCriterion("nuriwake.losses.overlap:Dice", mode="multiclass", ignore=9)
    expected = PixelCriterion("dice", mode="multiclass")(PixelLogits(logits), target)["dice"]
    other = torch.where(target == IGNORE, 9, target)
    torch.testing.assert_close(named(PixelLogits(logits), other)["nuriwake.losses.overlap:Dice"], expected)


def test_parse_terms():
    assert parse_terms("dice+bce") == {"dice": 1.0, "bce": 1.0}
    assert parse_terms(" 0.5*dice + 1e-1 * bce ") == {"dice": 0.5, "bce": 0.1}
    assert parse_terms({"focal": 2}) == {"focal": 2.0}


def test_every_loss_resolves_and_takes_its_options():
    for name in LOSSES:
        assert PixelCriterion(name, mode="multiclass").losses[name] is not None
    assert PixelCriterion("dice", mode="binary", options={"dice": {"squared": True}}).losses["dice"] == Dice(
        squared=True
    )


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ("dise+bce", "no loss named 'dise'. Did you mean 'dice'"),
        ("dice+", "empty term"),
        ("", "empty term"),
        ({}, "at least one term"),
        ("half*dice", "weight of 'dice' is no number"),
        ("-1*dice", "above 0"),
        ("nan*dice", "above 0"),
        ("dice+0.5*dice", "stands twice"),
    ],
)
def test_bad_terms(terms, words):
    with pytest.raises(UserError) as error:
        parse_terms(terms)
    assert words in str(error.value)


def test_bad_settings():
    with pytest.raises(UserError, match="Did you mean 'multiclass'"):
        PixelCriterion("dice", mode="multi_class")
    with pytest.raises(UserError, match="no term of the loss"):
        PixelCriterion("dice", mode="binary", options={"bce": {}})
    with pytest.raises(UserError, match="finite numbers"):
        PixelCriterion("dice", mode="binary", class_weights=torch.tensor([1.0, -1.0]))
    with pytest.raises(UserError, match=r"dice.sqared.*Did you mean 'squared'"):
        PixelCriterion("dice", mode="binary", options={"dice": {"sqared": True}})


@pytest.mark.parametrize(
    ("mode", "channels", "target", "weights", "words"),
    [
        ("binary", 2, (1, 4, 4), None, "1 channel"),
        ("multiclass", 3, (1, 3, 4, 4), None, "target of shape"),
        ("multilabel", 3, (1, 4, 4), None, "target of shape"),
        ("multiclass", 3, (1, 4, 4), 2, "3 class weights"),
        ("binary", 1, (1, 4, 4), 1, "2 class weights"),
    ],
)
def test_shapes_that_do_not_belong_together(mode, channels, target, weights, words):
    criterion = PixelCriterion("dice", mode=mode, class_weights=None if weights is None else torch.ones(weights))
    with pytest.raises(UserError, match=words):
        criterion(PixelLogits(torch.zeros(1, channels, 4, 4)), torch.zeros(target, dtype=torch.long))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: compares it with the CPU under autocast")
@pytest.mark.parametrize("mode", MODES)
def test_gpu_agrees_with_cpu(mode):
    logits, target = case(mode, size=(32, 32))
    expected, gradient = terms_and_gradient(criterion_of(mode), logits, target)
    with torch.autocast("cuda", dtype=torch.float16):
        named, other = terms_and_gradient(criterion_of(mode).cuda(), logits.cuda(), target.cuda())
    for name, value in expected.items():
        torch.testing.assert_close(named[name].cpu(), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.cpu(), gradient, rtol=1e-3, atol=1e-6)
