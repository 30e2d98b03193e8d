"""Splits, samplers, weights: determinism, exact counts and shares."""

import tracemalloc
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.samplers import ANYWHERE, EpochSampler, FocusPlan, random_pixel
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


def test_splits_do_not_depend_on_how_a_name_is_written():
    names = [f"ガーデン{i}" for i in range(40)]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    assert set(names).isdisjoint(apart)
    val = [unicodedata.normalize("NFC", name) for name in split_names(apart)[1]]
    assert sorted(val) == list(split_names(names)[1])


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_shows_every_image_once(count, epoch):
    draws = list(EpochSampler(count, seed=3).draws(epoch))
    assert [draw.position for draw in draws] == list(range(count))
    assert sorted(draw.index for draw in draws) == list(range(count))
    assert {(draw.epoch, draw.focus) for draw in draws} == {(epoch, ANYWHERE)}


def test_epochs_differ_and_a_resume_continues():
    sampler = EpochSampler(20, seed=0)
    first = list(sampler.draws(0))
    assert [d.index for d in sampler.draws(1)] != [d.index for d in first]
    assert list(sampler.draws(0, start=7)) == first[7:]


def test_weights_are_followed():
    sampler = EpochSampler(3, seed=0, weights=[1, 2, 0])
    drawn = [draw.index for epoch in range(4000) for draw in sampler.draws(epoch)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 12_000, [1 / 3, 2 / 3, 0], atol=0.02)
    with pytest.raises(UserError, match="Image weights"):
        EpochSampler(3, seed=0, weights=[1, -1, 0])
    with pytest.raises(UserError, match="split is empty"):
        EpochSampler(0, seed=0)


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(60, 200), st.integers(0, 100))
def test_the_share_of_focused_patches_is_the_share_asked_for(share, images, seed):
    rng = np.random.default_rng(seed)
    present = rng.random((images, 4)) < 0.3
    present[:, 0] = True
    present[rng.integers(images), 2] = True
    plan = FocusPlan(present, share, (1, 2, 3))
    drawn = list(EpochSampler(images, seed=seed, focus=plan).draws(0))
    focused = [draw for draw in drawn if draw.focus != ANYWHERE]
    assert abs(len(focused) / images - share) <= 0.02
    assert all(present[draw.index, draw.focus] for draw in focused)
    counts = [sum(draw.focus == label for draw in focused) for label in plan.occurring]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.integers(1, 10), st.integers(0, 100))
def test_few_images_have_the_share_asked_for_over_epochs(share, images, seed):
    plan = FocusPlan(np.ones((images, 3), bool), share, (1, 2))
    sampler = EpochSampler(images, seed=seed, focus=plan)
    epochs = [list(sampler.draws(epoch)) for epoch in range(50)]
    counts = [sum(draw.focus != ANYWHERE for draw in draws) for draws in epochs]
    assert abs(sum(counts) / (50 * images) - share) <= 0.02
    assert max(counts) - min(counts) <= 1
    # An epoch knows nothing of those before it: a resume begins anywhere.
    assert list(EpochSampler(images, seed=seed, focus=plan).draws(37, start=images // 2)) == epochs[37][images // 2 :]


@pytest.mark.parametrize(
    ("images", "share", "each"),
    [(1, 0.5, (0, 1)), (5, 0.5, (2, 3)), (10, 0.25, (2, 3)), (10, 0.3, (3,)), (3, 1 / 3, (1,)), (7, 1.0, (7,))],
)
def test_the_share_is_the_number_that_was_meant(images, share, each):
    plan = FocusPlan(np.ones((images, 2), bool), share, (1,))
    counts = [plan.positions(epoch, images) for epoch in range(100)]
    assert sum(counts) == round(100 * share * images)
    assert set(counts) == set(each)


def test_a_plan_that_cannot_be_followed():
    with pytest.raises(UserError, match="occur in no image"):
        FocusPlan(np.zeros((3, 2), bool), 0.5, (1,))
    with pytest.raises(UserError, match=r"0\.\.1"):
        FocusPlan(np.ones((3, 2), bool), 1.5, (1,))
    assert FocusPlan(np.zeros((3, 2), bool), 0.0, (1,)).occurring == ()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_random_pixel_shows_the_class_each_equally_often(exclusive):
    rng = np.random.default_rng(0)
    labels = np.zeros((4, 5), np.uint8)
    labels[1, 2] = labels[3, 0] = 1
    space = BINARY if exclusive else LabelSpace(("a", "b"), exclusive=False)
    target = SemanticMap(labels if exclusive else np.dstack([labels * 0, labels]), space)
    whole = Sample(np.zeros((4, 5, 1), np.uint8), target, name="x")
    found = [random_pixel(whole, 1, rng) for _ in range(400)]
    assert set(found) == {(1, 2), (3, 0)}
    assert abs(found.count((1, 2)) - 200) < 60
    with pytest.raises(UserError, match="to centre on does not occur"):
        random_pixel(Sample(whole.image, SemanticMap(target.labels * 0, space), name="x"), 1, rng)
    with pytest.raises(UserError, match="without a mask"):
        random_pixel(Sample(whole.image, name="x"), 1, rng)


def large(kind):
    """A map of 18 Mpx with the class 1 in the last third of it."""
    labels = np.zeros((6000, 3000), np.uint8)
    labels[4000:] = 1
    if kind == "panoptic":
        return Panoptic(labels + np.int32(1), np.array([1, 2], np.int32), np.array([0, 1], np.int32), BINARY)
    return SemanticMap(labels, BINARY)


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
def test_a_random_pixel_of_a_large_map_takes_little_memory(kind):
    target, rng = large(kind), np.random.default_rng(0)
    whole = Sample(np.zeros((6000, 3000, 1), np.uint8), target, name="x")
    tracemalloc.start()
    rows, columns = np.array([random_pixel(whole, 1, rng) for _ in range(5)]).T
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 3000
    assert rows.min() >= 4000
    assert len(set(columns.tolist())) > 1


def test_a_random_pixel_of_any_band_comes_equally_often():
    ids = np.zeros((600, 3), np.int32)
    places = [(0, 0), (0, 2), (255, 1), (256, 0), (599, 2)]
    for row, column in places:
        ids[row, column] = 4 + (row > 255)
    space = LabelSpace(("sky", "cell"), things=(False, True))
    target = Panoptic(ids, np.array([4, 5], np.int32), np.array([1, 1], np.int32), space)
    whole, rng = Sample(np.zeros((600, 3, 1), np.uint8), target, name="x"), np.random.default_rng(0)
    found = [random_pixel(whole, 1, rng) for _ in range(1000)]
    assert set(found) == set(places)
    assert min(found.count(place) for place in places) > 150


def test_counting_the_classes_of_a_large_map_takes_little_memory():
    target = large("semantic")
    tracemalloc.start()
    np.testing.assert_array_equal(count_classes(target), [4000 * 3000, 2000 * 3000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 3000


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
