"""One target seen as another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap
from nuriwake.core.views import instance_space, instance_view, panoptic_view, semantic_space, semantic_view

THINGS = LabelSpace(("cat", "dog"), (True, True), ((9, 9, 9), (5, 5, 5)))
MIXED = LabelSpace(("cat", "sky", "dog"), (True, False, True))
STUFF = LabelSpace(("background", "road"))


def objects(seed, count=5, size=(12, 15)):
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        y, x = generator.integers(size[0] - 1), generator.integers(size[1] - 1)
        mask[y : y + generator.integers(1, 9), x : x + generator.integers(1, 9)] = True
    labels = generator.integers(0, 2, count).astype(np.int32)
    return masks, Instances(RunMasks.from_dense(masks), labels, THINGS, crowd=generator.random(count) < 0.3)


def test_spaces():
    assert semantic_space(THINGS).names == ("background", "cat", "dog")
    assert semantic_space(THINGS).colours == ((0, 0, 0), (9, 9, 9), (5, 5, 5))
    assert semantic_space(THINGS).has_background
    assert semantic_space(MIXED) is MIXED
    assert semantic_space(STUFF) is STUFF
    assert instance_space(MIXED).names == ("cat", "dog")
    assert instance_space(MIXED).colours == (MIXED.colours[0], MIXED.colours[2])
    assert instance_space(THINGS) is THINGS
    with pytest.raises(UserError, match="None of the classes is a thing"):
        instance_space(STUFF)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20))
def test_small_objects_lie_over_large_ones(seed):
    masks, target = objects(seed)
    classes, owners = np.zeros(masks.shape[1:], int), np.zeros(masks.shape[1:], int)
    for index in sorted(range(len(masks)), key=lambda index: -masks[index].sum()):
        classes[masks[index]] = target.labels[index] + 1
        owners[masks[index]] = index + 1
    found = semantic_view(target)
    assert found.space == semantic_space(THINGS)
    np.testing.assert_array_equal(found.labels, classes)
    segments = panoptic_view(target)
    np.testing.assert_array_equal(segments.ids, owners)
    assert segments.segment_ids.tolist() == [value for value in range(1, 6) if (owners == value).any()]
    np.testing.assert_array_equal(segments.crowd, target.crowd[segments.segment_ids - 1])
    back = instance_view(segments)
    np.testing.assert_array_equal(back.masks.dense(), [owners == value for value in segments.segment_ids])


def test_objects_that_do_not_overlap_survive_the_way_there_and_back():
    masks = RunMasks.from_boxes(np.array([[0, 0, 3, 3], [4, 4, 9, 9.0]]), (10, 10))
    target = Instances(masks, np.array([1, 0], np.int32), THINGS, scores=np.array([0.5, 1], np.float32))
    back = instance_view(panoptic_view(target))
    np.testing.assert_array_equal(back.masks.counts, masks.counts)
    np.testing.assert_array_equal(back.labels, target.labels)
    np.testing.assert_array_equal(back.scores, target.scores)
    assert back.space == THINGS


def test_segments_as_classes_and_things():
    ids = np.array([[1, 2], [0, 3]], np.int32)
    target = Panoptic(ids, np.array([3, 1, 2], np.int32), np.array([2, 0, 1], np.int32), MIXED)
    assert semantic_view(target).labels.tolist() == [[0, 1], [255, 2]]
    things = instance_view(target)
    assert things.labels.tolist() == [1, 0]
    assert things.ids is not None
    assert things.ids.tolist() == [3, 1]


def test_void_between_things_alone_is_background_where_there_is_one():
    ids = np.array([[1, 2], [0, 2]], np.int32)
    target = Panoptic(ids, np.array([1, 2], np.int32), np.array([0, 1], np.int32), THINGS)
    assert semantic_view(target, semantic_space(THINGS)).labels.tolist() == [[1, 2], [0, 2]]
    assert semantic_view(target).labels.tolist() == [[0, 1], [255, 1]]


def test_classes_are_found_by_name_in_a_given_space():
    ids = np.array([[1, 2], [0, 3]], np.int32)
    target = Panoptic(ids, np.array([3, 1, 2], np.int32), np.array([2, 0, 1], np.int32), MIXED)
    wide = LabelSpace(("dog", "cow", "sky", "cat"), (True, True, False, True))
    assert semantic_view(target, wide).labels.tolist() == [[3, 2], [255, 0]]
    assert instance_view(target, LabelSpace(("dog", "cow", "cat"), (True,) * 3)).labels.tolist() == [0, 2]
    with pytest.raises(UserError, match="no class 'cat'"):
        semantic_view(target, LabelSpace(("dog", "sky")))
    _, things = objects(0)
    with pytest.raises(UserError, match="needs a background"):
        semantic_view(things, THINGS)


def test_stuff_as_segments():
    target = SemanticMap(np.array([[0, 1], [255, 1]], np.uint8), STUFF)
    found = panoptic_view(target)
    assert found.ids.tolist() == [[1, 2], [0, 2]]
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(semantic_view(found).labels, target.labels)


def test_what_a_map_of_classes_does_not_tell():
    target = SemanticMap(np.array([[0, 1]], np.uint8), MIXED)
    with pytest.raises(UserError, match="does not tell the objects of a class apart"):
        instance_view(target)
    with pytest.raises(UserError, match="thing 'cat' apart"):
        panoptic_view(target)
    layers = SemanticMap(np.zeros((1, 2, 2), np.uint8), LabelSpace(("a", "b"), exclusive=False))
    with pytest.raises(UserError, match="multi-label"):
        panoptic_view(layers)


def test_what_it_is_already():
    _, things = objects(0)
    assert instance_view(things) is things
    segments = panoptic_view(things)
    assert panoptic_view(segments) is segments
    classes = semantic_view(things)
    assert semantic_view(classes) is classes
