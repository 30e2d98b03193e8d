"""Boxes, anchors, matching, proposals and heads: slow twins, and torchvision's own."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou, clip_boxes_to_image, roi_align

from nuriwake.core.errors import UserError
from nuriwake.models.anchors import Anchors
from nuriwake.models.boxes import (
    at_least,
    box_areas,
    box_overlaps,
    clip_boxes,
    covered_shares,
    decode_boxes,
    encode_boxes,
)
from nuriwake.models.matching import FOUND, NOTHING, UNDECIDED, Match, match_boxes, sample_candidates, spare_crowds
from nuriwake.models.proposals import choose_proposals, flatten_levels
from nuriwake.models.region_heads import RegionPool, region_levels
from nuriwake.models.region_settings import RegionSettings
from nuriwake.models.regions import true_masks
from nuriwake.models.truth import ObjectTruth

SCALE = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    corners = torch.rand(count, 2, 2) * side
    return torch.cat((corners.amin(1), corners.amax(1) + 1), dim=1)


def truth_of(masks: torch.Tensor, labels=None, crowd=None) -> ObjectTruth:
    """Dense masks (N, H, W) that do not overlap."""
    count = len(masks)
    layers = sum(
        ((index + 1) * mask for index, mask in enumerate(masks.to(torch.int16))), masks.new_zeros(masks.shape[1:])
    )
    boxes = torch.zeros(count, 4)
    for index, mask in enumerate(masks):
        rows, columns = mask.nonzero(as_tuple=True)
        boxes[index] = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    return ObjectTruth(
        boxes,
        torch.zeros(count, dtype=torch.int64) if labels is None else torch.tensor(labels),
        torch.zeros(count, dtype=torch.bool) if crowd is None else torch.tensor(crowd),
        layers[None].to(torch.int16) if count else torch.zeros((0, *masks.shape[1:]), dtype=torch.int16),
        torch.zeros(count, dtype=torch.int64),
    )


def test_overlaps_and_clipping_are_torchvisions():
    torch.manual_seed(0)
    first, second = random_boxes(7), random_boxes(5)
    assert_close(box_overlaps(first, second), box_iou(first, second))
    wide = first * 2 - 50
    assert_close(clip_boxes(wide, (40, 60)), clip_boxes_to_image(wide, (40, 60)))
    empty = torch.zeros(1, 4)
    assert box_overlaps(empty, empty).tolist() == [[0.0]]
    assert box_areas(torch.tensor([[5.0, 5, 2, 9]])).item() == 0
    assert at_least(torch.tensor([[0.0, 0, 1, 0], [0, 0, 1, 1]]), 0).tolist() == [False, True]
    assert at_least(torch.tensor([[0.0, 0, 1, 2], [0, 0, 2, 2]]), 2).tolist() == [False, True]


def test_covered_shares_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
    regions = torch.tensor([[0.0, 0, 10, 5], [0, 0, 100, 8]])
    assert_close(covered_shares(boxes, regions), torch.tensor([0.8, 0.4, 0.0]))
    assert covered_shares(boxes, regions[:0]).tolist() == [0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_offsets_come_back_and_are_torchvisions(seed):
    torch.manual_seed(seed)
    boxes, anchors = random_boxes(9), random_boxes(9)
    offsets = encode_boxes(boxes, anchors, SCALE)
    assert_close(offsets, BoxCoder(SCALE).encode_single(boxes, anchors), rtol=1e-4, atol=1e-4)
    if offsets[:, 2:].max() < 5 * math.log(1000 / 16):
        assert_close(decode_boxes(offsets, anchors, SCALE), boxes, rtol=1e-3, atol=1e-2)
    wild = torch.randn(9, 4) * 20
    assert_close(decode_boxes(wild, anchors, SCALE), BoxCoder(SCALE).decode_single(wild, anchors).view(9, 4))
    per_class = torch.randn(9, 3, 4)
    expected = BoxCoder(SCALE).decode_single(per_class.flatten(1), anchors).view(9, 3, 4)
    assert_close(decode_boxes(per_class, anchors[:, None], SCALE), expected)


def test_anchors_are_torchvisions_when_rounded_and_fitted():
    shapes = [(40, 56), (20, 28), (10, 14), (5, 7), (3, 4)]
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    ratios = (0.5, 1.0, 2.0)
    theirs = AnchorGenerator(tuple((side,) for side in (32, 64, 128, 256, 512)), (ratios,) * 5)
    expected = theirs(ImageList(torch.zeros(1, 3, 160, 224), [(160, 200)]), maps)[0]
    found = Anchors(rounded=True, fitted=True)(shapes, (4, 8, 16, 32, 64), (160, 224), torch.device("cpu"))
    assert torch.equal(torch.cat(found), expected)


def test_anchors_lie_on_the_stride_and_keep_their_area():
    """The coarsest level of 160x224 has 3x4 places; its stride stays 64."""
    (anchors,) = Anchors(sizes=(512.0,))([(3, 4)], (64,), (160, 224), torch.device("cpu"))
    assert_close(box_areas(anchors), torch.full((36,), 512.0**2))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [(64.0 * x, 64.0 * y) for y in range(3) for x in range(4) for _ in range(3)]
    assert_close(centres, torch.tensor(expected))
    sides = anchors[:3, 2:] - anchors[:3, :2]
    assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 150), st.booleans())
def test_matching_is_torchvisions(seed, objects, best_too):
    torch.manual_seed(seed)
    boxes, candidates = random_boxes(objects), random_boxes(60)
    low, high = (0.3, 0.7) if best_too else (0.5, 0.5)
    table = box_iou(boxes, candidates)
    expected = Matcher(high, low, allow_low_quality_matches=best_too)(table)
    found = match_boxes(candidates, boxes, low=low, high=high, best_too=best_too)
    if best_too and (table.amax(1) == 0).any():
        return  # torchvision then takes every candidate that overlaps nothing for such an object
    assert torch.equal(found.kind == FOUND, expected >= 0)
    assert torch.equal(found.kind == NOTHING, expected == -1)
    assert torch.equal(found.object[found.kind == FOUND], expected[expected >= 0])


def test_an_object_that_nothing_overlaps_takes_nothing():
    found = match_boxes(random_boxes(5), torch.tensor([[500.0, 500, 510, 510]]), low=0.3, high=0.7, best_too=True)
    assert found.kind.tolist() == [NOTHING] * 5


def test_background_only_images_have_background_only():
    found = match_boxes(random_boxes(5), torch.zeros(0, 4), low=0.3, high=0.7, best_too=True)
    assert found.kind.tolist() == [NOTHING] * 5


def test_candidates_in_a_crowd_are_no_background():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [90, 90, 99, 99]])
    match = Match(torch.tensor([NOTHING, FOUND, NOTHING]), torch.zeros(3, dtype=torch.int64))
    crowds = torch.tensor([[0.0, 0, 50, 50]])
    assert spare_crowds(match, boxes, crowds).kind.tolist() == [UNDECIDED, FOUND, NOTHING]
    assert spare_crowds(match, boxes, crowds[:0]).kind.tolist() == match.kind.tolist()


def test_a_sample_is_balanced_and_the_generators():
    kind = torch.tensor([FOUND] * 30 + [NOTHING] * 100 + [UNDECIDED] * 20)
    torch.manual_seed(1)
    found, nothing = sample_candidates(kind, 40, 0.25)
    assert (len(found), len(nothing)) == (10, 30)
    assert (kind[found] == FOUND).all()
    assert (kind[nothing] == NOTHING).all()
    assert len(set(found.tolist() + nothing.tolist())) == 40
    torch.manual_seed(1)
    assert torch.equal(sample_candidates(kind, 40, 0.25)[0], found)
    few, rest = sample_candidates(kind[25:40], 40, 0.25)
    assert (len(few), len(rest)) == (5, 10)


def test_proposals_are_the_best_without_overlap():
    """Two levels of one anchor shape; a twin that goes through them one by one."""
    torch.manual_seed(0)
    logits = [torch.randn(2, 1, 6, 8), torch.randn(2, 1, 3, 4)]
    offsets = [torch.randn(2, 4, 6, 8) * 0.3, torch.randn(2, 4, 3, 4) * 0.3]
    anchors = Anchors((16.0, 40.0), (1.0,))([(6, 8), (3, 4)], (8, 16), (48, 64), torch.device("cpu"))
    proposed = flatten_levels(logits, offsets, anchors)
    assert proposed.counts == (48, 12)
    assert proposed.logits[1, 48 + 6] == logits[1][1, 0, 1, 2]
    assert torch.equal(proposed.offsets[1, 13], offsets[0][1, :, 1, 5])
    found = choose_proposals(proposed, (48, 64), candidates=20, proposals=9, overlap=0.5, smallest=2.0)
    for row in range(2):
        expected, start = [], 0
        for count in proposed.counts:
            order = proposed.logits[row, start : start + count].argsort(descending=True)[:20] + start
            kept = []
            for index in order.tolist():
                box = decode_boxes(proposed.offsets[row, index], proposed.anchors[index], (1.0,) * 4)
                box = clip_boxes(box, (48, 64))
                large = (box[2:] - box[:2]).min() >= 2
                if large and all(box_iou(box[None], other[None]) <= 0.5 for _, other in kept):
                    kept.append((proposed.logits[row, index].item(), box))
            expected += kept
            start += count
        expected = [box for _, box in sorted(expected, key=lambda item: -item[0])[:9]]
        assert_close(found[row], torch.stack(expected))


def test_a_limit_of_proposals_that_cuts_likely_ones_says_so():
    anchors = Anchors((8.0,), (1.0,))([(6, 8)], (8,), (48, 64), torch.device("cpu"))
    rules = {"candidates": 48, "proposals": 5, "overlap": 0.5, "smallest": 2.0}
    logits, offsets = torch.full((1, 1, 6, 8), -3.0), [torch.zeros(1, 4, 6, 8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits[0, 0, 0, :5] = 3.0
        assert len(choose_proposals(flatten_levels([logits], offsets, anchors), (48, 64), **rules, told_as="x")[0]) == 5
        logits[0, 0, 1, 0] = 3.0
        proposed = flatten_levels([logits], offsets, anchors)
        assert len(choose_proposals(proposed, (48, 64), **rules)[0]) == 5  # while training the truth is added
    with pytest.warns(UserWarning, match=r"likely places of objects in an image than x \(5\)"):
        assert len(choose_proposals(proposed, (48, 64), **rules, told_as="x")[0]) == 5


def test_a_limit_of_candidates_that_cuts_likely_ones_says_so():
    anchors = Anchors((8.0,), (1.0,))([(6, 8)], (8,), (48, 64), torch.device("cpu"))
    rules = {"candidates": 5, "proposals": 9, "overlap": 0.5, "smallest": 2.0}
    logits, offsets = torch.full((2, 1, 6, 8), -3.0), [torch.zeros(2, 4, 6, 8)]
    logits[1, 0, 0, :5] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_proposals(flatten_levels([logits], offsets, anchors), (48, 64), **rules, told_as="proposals")
    logits[1, 0, 1, 0] = 3.0
    with pytest.warns(UserWarning, match=r"likely anchors in a level of the pyramid than candidates \(5\)"):
        choose_proposals(flatten_levels([logits], offsets, anchors), (48, 64), **rules, told_as="proposals")


def test_regions_are_pooled_as_torchvision_does():
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 64 >> level, 96 >> level) for level in range(4)]
    boxes = [random_boxes(6, 250.0), random_boxes(3, 60.0)]
    named = {str(level): x for level, x in enumerate(maps)}
    pool = MultiScaleRoIAlign(list(named), 7, 2)
    expected = pool(named, boxes, [(256, 384)] * 2)
    ours = RegionPool(7, aligned=False, sampling=2, level_margin=1e-6)
    image = torch.tensor([0] * 6 + [1] * 3)
    assert_close(ours(maps, torch.cat(boxes), image), expected)
    assert ours(maps, torch.zeros(0, 4), image[:0]).shape == (0, 5, 7, 7)


def test_levels_go_by_the_side():
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack((torch.zeros(8), torch.zeros(8), sides, sides), dim=1)
    assert region_levels(boxes, 4, 0.0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_true_masks_are_roi_align_of_the_dense_ones():
    """Of blobs, except for cells that are close to half full."""
    y, x = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    masks = torch.stack([(x - 25) ** 2 + (y - 20) ** 2 < 200, (x - 60) ** 2 / 3 + (y - 40) ** 2 < 90])
    truth = truth_of(masks)
    boxes = torch.tensor([[8.3, 4.2, 41.7, 33.9], [40.0, 30.0, 79.5, 52.25], [10.0, 10.0, 60.0, 50.0]])
    index = torch.tensor([0, 1, 0])
    regions = torch.cat((index[:, None].float(), boxes), dim=1)
    dense = roi_align(masks[:, None].float(), regions, 14, aligned=True, sampling_ratio=2)[:, 0]
    found = true_masks(truth, index, boxes, 14)
    clear = (dense - 0.5).abs() > 0.01
    assert clear.float().mean() > 0.97
    assert torch.equal(found[clear], (dense >= 0.5).float()[clear])
    assert true_masks(truth, index[:0], boxes[:0], 14).shape == (0, 14, 14)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"anchor_sizes": (8.0,)}, "anchor_sizes: expected 5"),
        ({"detections": 0}, "detections: expected at least 1"),
        ({"score_threshold": 1.5}, "score_threshold: expected 0 to 1"),
        ({"anchor_ratios": (0.0,)}, "numbers above 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        RegionSettings(**options)
