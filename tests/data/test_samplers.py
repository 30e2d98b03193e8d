"""Splits, samplers, weights: determinism, exact counts and shares."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.samplers import ANYWHERE, EpochSampler, FocusPlan, PatchSampler
from nuriwake.data.splitting import split_names
from nuriwake.data.statistics import class_weights, count_classes, image_weights, rare_classes

BINARY = LabelSpace(("background", "cell"))


@settings(max_examples=50)
@given(st.sets(st.sampled_from([f"図{i}" for i in range(60)]), min_size=2), st.floats(0.01, 0.99), st.integers(0, 9))
def test_splits_are_exact_deterministic_and_complete(names, share, seed):
    train, val = split_names(names, val_share=share, seed=seed)
    assert set(train) | set(val) == names
    assert not set(train) & set(val)
    assert len(val) == min(max(round(share * len(names)), 1), len(names) - 1)
    assert split_names(sorted(names, reverse=True), val_share=share, seed=seed) == (train, val)


def test_splits_move_little_when_names_are_added():
    names = [f"img{i}" for i in range(1000)]
    before, after = (set(split_names(part, val_share=0.2)[1]) for part in (names[:-50], names))
    assert len(before - after) <= 15
    assert set(split_names(names, seed=1)[1]) != after
    assert split_names(["a"], val_share=0.2) == (("a",), ())
    with pytest.raises(ValueError, match="unique"):
        split_names(["a", "a"])


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 5), st.booleans())
def test_every_process_together_gives_the_single_process(count, world, epoch, shuffle):
    def draws(rank, world, draws):
        sampler = EpochSampler(count, seed=3, shuffle=shuffle, rank=rank, world=world, draws=draws)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    length = math.ceil(count / world) * world
    parts = [draws(rank, world, None) for rank in range(world)]
    together = [draw for group in zip(*parts, strict=True) for draw in group]
    assert together == draws(0, 1, length)
    assert [draw.position for draw in together] == list(range(length))
    assert sorted(draw.index for draw in together[:count]) == list(range(count))


def test_epochs_differ_and_a_resume_continues():
    sampler = EpochSampler(20, seed=0, shuffle=True)
    first = list(sampler)
    sampler.set_epoch(1)
    assert [d.index for d in sampler] != [d.index for d in first]
    sampler.set_epoch(0, 7)
    assert list(sampler) == first[7:]
    assert len(sampler) == 13
    with pytest.raises(ValueError, match="multiple of 2"):
        EpochSampler(20, seed=0, shuffle=True, world=2, start=3)


def test_evaluation_gives_every_image_once_over_all_processes():
    parts = [list(EpochSampler(7, seed=0, shuffle=False, rank=r, world=3, tail="keep")) for r in range(3)]
    assert sorted(draw.index for part in parts for draw in part) == list(range(7))
    assert [len(list(EpochSampler(7, seed=0, shuffle=True, rank=r, world=3, tail="drop"))) for r in range(3)] == [2] * 3


def test_weights_are_followed():
    sampler = EpochSampler(3, seed=0, shuffle=True, weights=[1, 2, 0], draws=30_000)
    share = np.bincount([draw.index for draw in sampler], minlength=3) / 30_000
    np.testing.assert_allclose(share, [1 / 3, 2 / 3, 0], atol=0.01)
    with pytest.raises(UserError, match="Image weights"):
        EpochSampler(3, seed=0, shuffle=True, weights=[1, -1, 0])
    with pytest.raises(UserError, match="split is empty"):
        EpochSampler(0, seed=0, shuffle=True)


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(1, 40), st.integers(60, 200), st.integers(0, 100))
def test_the_share_of_focused_patches_is_the_share_asked_for(share, images, draws, seed):
    rng = np.random.default_rng(seed)
    present = rng.random((images, 4)) < 0.3
    present[:, 0] = True
    present[rng.integers(images), 2] = True
    plan = FocusPlan(present, share, (1, 2, 3))
    drawn = list(EpochSampler(images, seed=seed, shuffle=True, focus=plan, draws=draws))
    focused = [draw for draw in drawn if draw.focus != ANYWHERE]
    assert abs(len(focused) / draws - share) <= 0.02
    assert all(present[draw.index, draw.focus] for draw in focused)
    counts = [sum(draw.focus == label for draw in focused) for label in plan.occurring]
    assert max(counts) - min(counts) <= 1


def test_a_plan_that_cannot_be_followed():
    with pytest.raises(UserError, match="occur in no image"):
        FocusPlan(np.zeros((3, 2), bool), 0.5, (1,))
    with pytest.raises(UserError, match=r"0\.\.1"):
        FocusPlan(np.ones((3, 2), bool), 1.5, (1,))
    assert FocusPlan(np.zeros((3, 2), bool), 0.0, (1,)).occurring == ()


def sample(labels):
    image = np.arange(labels.size, dtype=np.float32).reshape(*labels.shape, 1)
    return Sample(image, SemanticMap(labels.astype(np.uint8), BINARY), name="x", spacing=(2.0, 3.0))


@settings(max_examples=60)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 30), st.integers(1, 30), st.integers(0, 10_000))
def test_a_focused_patch_holds_the_class_as_centred_as_the_border_allows(height, width, tall, wide, seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width))
    row, column = rng.integers(height), rng.integers(width)
    labels[row, column] = 1
    whole = sample(labels)
    patch = PatchSampler((tall, wide))(whole, rng, focus=1)
    assert patch.size == (tall, wide)
    assert patch.spacing == (2.0, 3.0)
    (at_row,), (at_column,) = np.nonzero(patch.target.labels == 1)
    assert patch.image[at_row, at_column, 0] == whole.image[row, column, 0]
    for at, original, size, have in ((at_row, row, tall, height), (at_column, column, wide, width)):
        if size <= have and size // 2 <= original <= have - (size - size // 2):
            assert at == size // 2
    inside = patch.target.labels != IGNORE
    assert inside.sum() == min(tall, height) * min(wide, width)


def test_patches_anywhere_are_uniform_and_a_missing_class_is_an_error():
    rng = np.random.default_rng(0)
    whole = sample(np.zeros((1, 10)))
    lefts = [int(PatchSampler((1, 4))(whole, rng).image[0, 0, 0]) for _ in range(7000)]
    np.testing.assert_allclose(np.bincount(lefts) / 7000, np.full(7, 1 / 7), atol=0.02)
    with pytest.raises(UserError, match="'cell' to centre on does not occur"):
        PatchSampler((1, 4))(whole, rng, focus=1)


def test_class_weights_by_their_formulas():
    counts = np.array([[90, 10, 0, 0], [50, 0, 50, 0]])
    pixels, total = np.array([140, 10, 50]), 200

    def normalised(raw):
        return [*(raw / raw.mean()), 1]

    np.testing.assert_array_equal(class_weights(counts, "none"), [1, 1, 1, 1])
    np.testing.assert_allclose(class_weights(counts, "inverse"), normalised(total / pixels), rtol=1e-6)
    frequency = np.array([140 / 200, 10 / 100, 50 / 100])
    np.testing.assert_allclose(class_weights(counts, "median"), normalised(np.median(frequency) / frequency), rtol=1e-6)
    beta = (total - 1) / total
    np.testing.assert_allclose(
        class_weights(counts, "effective"), normalised((1 - beta) / (1 - beta**pixels)), rtol=1e-6
    )
    np.testing.assert_allclose(class_weights(counts, "log"), normalised(1 / np.log(1.02 + pixels / total)), rtol=1e-6)
    np.testing.assert_array_equal(class_weights(np.zeros(3), "inverse"), [1, 1, 1])
    huge = class_weights(np.array([10**12, 10**3]), "effective")
    assert np.isfinite(huge).all()
    assert huge[1] > huge[0]
    with pytest.raises(UserError, match="no method 'median2'"):
        class_weights(counts, "median2")


def test_repeat_factors():
    counts = np.zeros((100, 2), int)
    counts[:, 0] = 1
    counts[:4, 1] = 5
    weights = image_weights(counts, threshold=0.16)
    np.testing.assert_allclose(weights, [2.0] * 4 + [1.0] * 96)
    np.testing.assert_array_equal(image_weights(np.zeros((3, 2))), [1, 1, 1])


def test_counts_and_rare_classes():
    labels = np.array([[0, 1, 1], [255, 1, 0]], np.uint8)
    np.testing.assert_array_equal(count_classes(SemanticMap(labels, BINARY)), [2, 3])
    many = LabelSpace(("a", "b"), exclusive=False)
    np.testing.assert_array_equal(count_classes(SemanticMap(np.dstack([labels // 255, labels]), many)), [1, 3])
    assert rare_classes(np.array([[5, 1], [0, 3]]), BINARY) == (1,)
    assert rare_classes(np.array([1, 9, 3, 0]), LabelSpace(("a", "b", "c", "d"))) == (0, 2)
    assert rare_classes(np.array([1, 9]), many) == (0, 1)
