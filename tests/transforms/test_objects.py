"""Objects and segments under geometry and mixing, against dense twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.layering import layered, unlayered
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.transforms.geometric import RandomCrop
from nuriwake.transforms.mixing import CopyPaste, CutMix, Mosaic
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.presets import preset
from nuriwake.transforms.targets import warp_instances, warp_panoptic
from nuriwake.transforms.warp import Warp

SIZE = (40, 60)
THINGS = LabelSpace(("cell", "dust"), (True, True))
MIXED = LabelSpace(("cell", "glass"), (True, False))


def boxes_of(seed: int, count: int = 7) -> Instances:
    """Overlapping rectangles."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, 30), rng.integers(0, 50)
        mask[top : top + rng.integers(3, 14), left : left + rng.integers(3, 14)] = 1
    labels = rng.integers(0, 2, count).astype(np.int32)
    return Instances(RunMasks.from_dense(masks), labels, THINGS, crowd=np.arange(count) == 2)


def sample_of(seed: int, target=None) -> Sample:
    image = np.full((*SIZE, 3), seed * 10 + 10, np.uint8)
    return Sample(image, boxes_of(seed) if target is None else target, name=f"s{seed}")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9))
def test_layers_keep_every_mask_and_none_overlap(seed, count):
    masks = boxes_of(seed, count).masks
    maps, layer = layered(masks)
    np.testing.assert_array_equal(unlayered(maps, layer).dense(), masks.dense())
    for index, mask in enumerate(masks.dense()):
        np.testing.assert_array_equal(maps[layer[index]] == index + 1, mask == 1)
    deepest = masks.dense().sum(0).max() if count else 0
    assert deepest <= len(maps) <= max(count, deepest)


@pytest.mark.parametrize("seed", range(6))
def test_each_mask_is_warped_as_a_label_map_would_be(seed):
    target = boxes_of(seed)
    rng = np.random.default_rng(seed)
    warp = preset("medical", (24, 36)).plan(SIZE, rng)
    moved = warp_instances(target, warp)
    twins = [warp.labels(mask, fill=0) for mask in target.masks.dense()]
    kept = [index for index, twin in enumerate(twins) if twin.any()]
    np.testing.assert_array_equal(moved.masks.dense(), [twins[index] for index in kept])
    np.testing.assert_array_equal(moved.labels, target.labels[kept])
    np.testing.assert_array_equal(moved.crowd, target.crowd[kept])
    np.testing.assert_array_equal(moved.boxes, moved.masks.boxes())


def test_an_image_without_objects_is_warped_too():
    empty = Instances(RunMasks.empty(SIZE), np.zeros(0, np.int32), THINGS)
    moved = warp_instances(empty, Warp(SIZE, (20, 20)))
    assert (len(moved), moved.size) == (0, (20, 20))


def panoptic_of(seed: int) -> Panoptic:
    ids = np.full(SIZE, 9, np.int32)  # glass
    ids[5:15, 5:20], ids[20:30, 30:50], ids[:3] = 4, 7, 0
    ids = np.roll(ids, seed * 7, axis=1)
    return Panoptic(ids, np.array([4, 7, 9], np.int32), np.array([0, 0, 1], np.int32), MIXED)


def test_segments_are_warped_by_their_ids():
    target = panoptic_of(0)
    warp = Warp.identity(SIZE).window(0, 0, (18, 60))
    moved = warp_panoptic(target, warp)
    np.testing.assert_array_equal(moved.ids, target.ids[:18])
    assert moved.segment_ids.tolist() == [4, 9]
    beyond = warp_panoptic(target, Warp.identity(SIZE).window(-5, 0, SIZE))
    assert (beyond.ids[:5] == 0).all()


@pytest.mark.parametrize("operation", [CutMix(), Mosaic()])
@pytest.mark.parametrize("seed", range(4))
def test_objects_go_where_their_image_goes(operation, seed):
    samples = {index: sample_of(index) for index in range(1, 5)}
    order = iter((2, 3, 4))
    out = operation.mix(samples[1], lambda: samples[next(order)], np.random.default_rng(seed))
    shown = (out.image[..., 0] - 10) // 10
    expected = [
        (mask & (shown == index), label)
        for index, sample in samples.items()
        for mask, label in zip(sample.target.masks.dense() == 1, sample.target.labels, strict=True)
        if (mask & (shown == index)).any()
    ]
    np.testing.assert_array_equal(out.target.masks.dense() == 1, [mask for mask, _ in expected])
    np.testing.assert_array_equal(out.target.labels, [label for _, label in expected])


def test_mixed_segments_have_ids_of_their_own_and_stuff_is_one():
    first, second = sample_of(1, panoptic_of(0)), sample_of(2, panoptic_of(2))
    out = CutMix(area=(0.5, 0.5)).mix(first, lambda: second, np.random.default_rng(3))
    from_second = out.image[..., 0] == 30
    labels = np.where(from_second, second.target.semantic().labels, first.target.semantic().labels)
    np.testing.assert_array_equal(out.target.semantic().labels, labels)
    assert (out.target.labels == 1).sum() == 1
    for part, where in ((first, ~from_second), (second, from_second)):
        for segment in (4, 7):
            inside = out.target.ids[where & (part.target.ids == segment)]
            assert len(np.unique(inside)) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_pasted_objects_hide_what_lies_below(seed):
    below, above = sample_of(1), sample_of(2)
    operation = CopyPaste(visible=0.5)
    out = operation.mix(below, lambda: above, np.random.default_rng(seed))
    pasted = out.image[..., 0] == 30
    dense, labels = out.target.masks.dense() == 1, out.target.labels
    expected = []
    for mask, label in zip(below.target.masks.dense() == 1, below.target.labels, strict=True):
        left = mask & ~pasted
        if left.any() and left.sum() >= 0.5 * mask.sum():
            expected.append((left, label))
    for place, (mask, label) in enumerate(expected):
        np.testing.assert_array_equal(dense[place], mask)
        assert labels[place] == label
    new = dense[len(expected) :]
    np.testing.assert_array_equal(new.any(0) if len(new) else np.zeros(SIZE, bool), pasted)
    assert not out.target.crowd[len(expected) :].any()


def boxes_at(*boxes, labels, size=SIZE):
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return Instances(RunMasks.from_dense(masks), np.array(labels, np.int32), THINGS)


@pytest.mark.parametrize("visible", [0.1, 0.9])
def test_what_is_pasted_does_not_cover_the_focus(visible):
    below = sample_of(1, boxes_at((10, 10, 30, 30), (0, 40, 20, 60), labels=[0, 0]))
    # Over everything, over nearly all of the object with the focus, just beyond its neighbours, over the other object.
    above = sample_of(2, boxes_at((0, 0, 40, 60), (10, 10, 29, 30), (28, 5, 31, 31), (0, 40, 20, 60), labels=[1] * 4))
    operation = CopyPaste(share=(1.0, 1.0), visible=visible)
    out = operation.mix(below, lambda: above, np.random.default_rng(0), focus=(26, 20))
    assert out.image[26, 20, 0] == below.image[0, 0, 0]
    expected = np.zeros((3, *SIZE), bool)
    expected[0, 10:28, 10:30], expected[1, 28:31, 5:31], expected[2, :20, 40:] = True, True, True
    np.testing.assert_array_equal(out.target.masks.dense() == 1, expected)
    np.testing.assert_array_equal(out.image[..., 0] == above.image[0, 0, 0], expected[1] | expected[2])
    hidden = sample_of(2, boxes_at((10, 10, 28, 30), labels=[1]))
    out = CopyPaste(share=(1.0, 1.0), visible=visible).mix(
        below, lambda: hidden, np.random.default_rng(0), focus=(29, 20)
    )
    assert out.target.masks.areas().tolist() == [2 * 20, 20 * 20, 18 * 20]


def test_patches_about_an_object_show_it_after_pasting():
    found = sample_of(1, boxes_at((10, 20, 30, 40), labels=[0]))
    other = sample_of(2, boxes_at((0, 0, 25, 60), (20, 0, 40, 35), (8, 18, 32, 42), labels=[1, 1, 1]))
    pipeline = Pipeline((RandomCrop(),), (), (24, 24), mixing=(CopyPaste(probability=1.0),))
    shown = pasted = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        focus = (int(rng.integers(10, 30)), int(rng.integers(20, 40)))
        labels = pipeline(found, rng, focus=focus, other=lambda: other).target.labels
        shown, pasted = shown + int((labels == 0).any()), pasted + int((labels == 1).any())
    assert shown == 500
    assert pasted > 50


def test_copy_paste_is_for_objects():
    maps = SemanticMap(np.zeros(SIZE, np.uint8), LabelSpace(("a", "b")))
    with pytest.raises(UserError, match="copy_paste needs the masks of objects, found SemanticMap"):
        CopyPaste().mix(sample_of(1, maps), lambda: sample_of(2, maps), np.random.default_rng(0))
    with pytest.raises(UserError, match=r"copy_paste\.share"):
        CopyPaste(share=(0.9, 0.1))
    with pytest.raises(UserError, match=r"copy_paste\.visible"):
        CopyPaste(visible=1.0)
