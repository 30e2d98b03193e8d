"""Decoding of Mask R-CNN and Panoptic FPN: scaling, thresholds, the merging rule, the three tasks."""

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.inference.decoders.panoptic_fpn import lay_down
from nuriwake.inference.decoding import Pass, Request, find_decoder
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import Grid
from nuriwake.models.outputs import RegionOutput, RegionPixelOutput

SPACE = LabelSpace(("cat", "sky", "dog", "grass"), (True, False, True, False))
THINGS = LabelSpace(("cat", "dog"), (True, True))


def regions(boxes, labels, scores, image=None) -> RegionOutput:
    count = len(boxes)
    return RegionOutput(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        torch.ones(count, 28, 28),
        torch.zeros(count, dtype=torch.int64) if image is None else torch.tensor(image),
    )


def decode(task, output, space, *, row=0, seen=(40, 60), size=(40, 60), **options):
    grid = Grid(seen, seen, 0, (0,), (0,))
    decoder = find_decoder(task, type(output), options)
    assert not decoder.blends
    return decoder([Pass(grid, ("none",), iter([(output, row)]))], Request(size, task, space, PredictSettings()))


def logits(channel: np.ndarray, channels: int = 3) -> torch.Tensor:
    """(1, channels, h, w), sure of `channel` (h, w)."""
    return 10.0 * torch.nn.functional.one_hot(torch.from_numpy(channel), channels).permute(2, 0, 1)[None].float()


def test_boxes_go_to_the_users_size_and_images_stay_apart():
    output = regions([[10, 5, 30, 20], [0, 0, 60, 40], [2, 2, 9, 9]], [1, 0, 1], [0.9, 0.8, 0.7], [0, 1, 1])
    found = decode("instance", output, THINGS, row=0, size=(80, 180))
    assert found.boxes.tolist() == [[30, 10, 90, 40]]
    assert found.size == (80, 180)
    dense = found.masks.dense()[0]
    assert dense[12:38, 33:87].all()
    assert dense[:9].sum() == dense[42:].sum() == dense[:, :28].sum() == dense[:, 92:].sum() == 0
    found = decode("instance", output, THINGS, row=1)
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 1], pytest.approx([0.8, 0.7]))


def test_options_and_empty_answers():
    output = regions([[10, 5, 30, 20], [0, 0, 20, 20], [2, 2, 9, 9]], [1, 0, 1], [0.9, 0.8, 0.3])
    assert len(decode("instance", output, THINGS)) == 3
    assert len(decode("instance", output, THINGS, score_threshold=0.5)) == 2
    with pytest.warns(UserWarning, match=r"more objects in an image than settings\.decoding\.detections \(1\)"):
        assert len(decode("instance", output, THINGS, detections=1)) == 1
    assert len(decode("instance", output, THINGS, row=1)) == 0
    assert len(decode("instance", regions([], [], []), THINGS)) == 0
    beyond = regions([[59.9999999, 0, 60, 40]], [0], [0.9])
    assert len(decode("instance", beyond, THINGS)) <= 1


def test_a_box_that_is_empty_at_the_users_size_is_dropped():
    assert len(decode("instance", regions([[5, 5, 5, 20]], [0], [0.9]), THINGS)) == 0


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("instance", {"score_threshold": 2.0}, "score_threshold: expected 0 to 1"),
        ("instance", {"detections": 0}, "detections: expected at least 1 or null"),
        ("instance", {"paste": "aligend"}, "Did you mean 'aligned'"),
        ("panoptic", {"stuff_area": -1}, "stuff_area: expected 0 pixels or more"),
        ("panoptic", {"overlap": 0.5}, "overlap_threshold"),
        ("semantic", {"overlap_threshold": -0.1}, "expected 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(task, options, said):
    kind = RegionOutput if task == "instance" else RegionPixelOutput
    with pytest.raises(UserError, match=said):
        find_decoder(task, kind, options)
    if task == "instance":
        with pytest.raises(UserError, match=said):
            find_decoder(task, RegionPixelOutput, options)


def test_spaces_of_another_model_are_refused():
    with pytest.raises(UserError, match="answered with class 3, but the label space has 2 classes"):
        decode("instance", regions([[1, 1, 9, 9]], [3], [0.9]), THINGS)
    output = RegionPixelOutput(regions([], [], []), torch.zeros(1, 5, 10, 15))
    with pytest.raises(UserError, match="knows 4 classes of stuff, but the label space has 2"):
        decode("panoptic", output, SPACE)


def twin(masks: np.ndarray, scores, labels, semantic: np.ndarray, overlap: float, area: int, sure: float):
    """Detectron2's combine_semantic_and_instance_outputs, whole images at a time; semantic 0 is any thing."""
    ids, segments = np.zeros(masks.shape[1:], np.int32), []
    for index in np.argsort(-np.array(scores), kind="stable"):
        if scores[index] < sure:
            break
        mask = masks[index] > 0
        if mask.sum() == 0 or (mask & (ids > 0)).sum() / mask.sum() > overlap:
            continue
        segments.append(int(labels[index]))
        ids[mask & (ids == 0)] = len(segments)
    for label in np.unique(semantic):
        mask = (semantic == label) & (ids == 0)
        if label == 0 or mask.sum() < area:
            continue
        segments.append([-1, 1, 3][label])
        ids[mask] = len(segments)
    return ids, segments


@pytest.mark.parametrize("seed", range(6))
def test_the_merging_rule_is_detectron2s(seed):
    rng = np.random.default_rng(seed)
    count, size = 12, (40, 60)
    left, top = rng.integers(0, 40, count), rng.integers(0, 25, count)
    boxes = np.stack((left, top, left + rng.integers(5, 20, count), top + rng.integers(5, 15, count)), axis=1)
    labels, scores = rng.choice([0, 2], count), np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    channel = rng.integers(0, 3, (4, 6)).repeat(10, 0).repeat(10, 1)
    output = RegionPixelOutput(regions(boxes, labels, scores), logits(channel))
    found = decode("panoptic", output, SPACE, score_threshold=0.3, stuff_area=90, overlap_threshold=0.4)
    masks = decode("instance", output, SPACE).masks.dense()
    ids, segments = twin(masks, scores, labels, channel, 0.4, 90, 0.3)
    assert np.array_equal(found.ids, ids)
    assert found.labels.tolist() == segments
    assert found.size == size
    assert found.scores.min() > 0.29


def test_a_hidden_thing_goes_whatever_the_threshold():
    masks = np.zeros((3, 20, 20), np.uint8)
    masks[0, 2:12, 2:12], masks[1, 4:9, 4:9], masks[2, 8:16, 8:16] = 1, 1, 1
    ids, kept = lay_down(RunMasks.from_dense(masks), (20, 20), 1.0)
    assert kept == [0, 2]
    assert (ids == 1).sum() == 100
    assert (ids == 2).sum() == 64 - 16


def test_scores_of_stuff_are_mean_probabilities():
    channel = np.full((40, 60), 1)
    output = RegionPixelOutput(regions([], [], []), logits(channel) / 10)
    found = decode("panoptic", output, SPACE, stuff_area=1)
    assert found.labels.tolist() == [1]
    assert found.scores[0] == pytest.approx(np.e / (np.e + 2), rel=1e-5)


def test_void_is_what_is_neither():
    channel = np.zeros((40, 60), np.int64)
    channel[:, 30:] = 2
    output = RegionPixelOutput(regions([[5, 5, 20, 20]], [2], [0.9]), logits(channel))
    found = decode("panoptic", output, SPACE, stuff_area=10)
    assert found.labels.tolist() == [2, 3]
    assert (found.ids[:, 30:] == 2).all()
    assert (found.ids[30:, :30] == 0).all()
    assert found.ids[10, 10] == 1
    assert (decode("panoptic", output, SPACE, stuff_area=1201).ids != 2).all()


def test_a_semantic_answer_names_every_pixel():
    channel = np.zeros((40, 60), np.int64)
    channel[:, 30:] = 2
    plain = logits(channel)
    plain[:, 1, :, :30] += 1  # where things are expected, sky is likelier than grass
    output = RegionPixelOutput(regions([[5, 5, 20, 20]], [2], [0.9]), plain)
    found = decode("semantic", output, SPACE)
    assert found.labels[10, 10] == 2
    assert (found.labels[:, 30:] == 3).all()
    assert (found.labels[30:, :30] == 1).all()
    assert found.scores.shape == (40, 60)


def test_without_stuff_the_rest_is_background():
    output = RegionPixelOutput(regions([[5, 5, 20, 20]], [1], [0.9]), torch.zeros(1, 1, 10, 15))
    found = decode("semantic", output, THINGS)
    assert found.space.names == ("background", "cat", "dog")
    assert found.labels[10, 10] == 2
    assert (found.labels == 0).sum() > 2000
    assert len(decode("panoptic", output, THINGS)) == 1


def test_instances_of_a_panoptic_model_are_its_things():
    output = RegionPixelOutput(
        regions([[5, 5, 20, 20], [30, 5, 50, 20]], [2, 0], [0.9, 0.4]), torch.zeros(1, 3, 10, 15)
    )
    found = decode("instance", output, SPACE)
    assert found.space.names == ("cat", "dog")
    assert found.labels.tolist() == [1, 0]
    assert len(decode("instance", output, SPACE, score_threshold=0.5)) == 1


def test_answers_at_another_size_than_seen():
    channel = np.repeat(np.array([[1, 2]]), 3, axis=1).repeat(4, axis=0)
    output = RegionPixelOutput(regions([[0, 0, 10, 10]], [0], [0.9]), logits(channel))
    found = decode("panoptic", output, SPACE, seen=(16, 24), size=(80, 120), stuff_area=100)
    assert found.size == (80, 120)
    assert found.labels.tolist() == [0, 1, 3]
    assert (found.ids[60:, :50] == 2).all()
    assert (found.ids[60:, 70:] == 3).all()
    assert found.ids[10, 10] == 1
