"""The loss of SOLOv2 beside slow twins over dense masks, cell by cell."""

import itertools
import math
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.inference.decoders.kernels import KernelDecoder
from nuriwake.losses import kernels as module
from nuriwake.losses.kernels import (
    LIGHT_RANGES,
    NEUTRAL,
    NOBODY,
    RANGES,
    KernelCriterion,
    KernelLoss,
    assign_cells,
    dice,
    focal,
    mass_centres,
    quarter_masks,
)
from nuriwake.models.outputs import KernelOutput
from nuriwake.models.solov2 import SOLOv2
from nuriwake.models.truth import ObjectTruth, object_masks

GRIDS = (10, 8, 6, 4, 3)
SMALL = KernelLoss(ranges=((1, 16), (8, 32), (16, 48), (32, 64), (48, 128)))


def truth_of(masks, labels, crowd=None) -> ObjectTruth:
    """Dense masks (N, H, W), possibly overlapping, each object on the first layer where it is free."""
    masks = np.asarray(masks, bool)
    layers, layer = [], []
    for index, mask in enumerate(masks):
        place = next((i for i, other in enumerate(layers) if not (other[mask] > 0).any()), len(layers))
        if place == len(layers):
            layers.append(np.zeros(mask.shape, np.int16))
        layers[place][mask] = index + 1
        layer.append(place)
    boxes = np.zeros((len(masks), 4), np.float32)
    for index, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        if len(rows):
            boxes[index] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    stacked = np.stack(layers) if layers else np.zeros((0, *masks.shape[1:]), np.int16)
    return ObjectTruth(
        torch.from_numpy(boxes),
        torch.as_tensor(labels, dtype=torch.int64),
        torch.as_tensor(crowd if crowd is not None else [False] * len(masks), dtype=torch.bool),
        torch.from_numpy(stacked),
        torch.as_tensor(layer, dtype=torch.int64),
    )


def scene(seed, count=4, height=64, width=96, shapes="mixed") -> ObjectTruth:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), bool)
    y, x = np.mgrid[:height, :width]
    for mask in masks:
        centre, radius = (rng.uniform(0, height), rng.uniform(0, width)), rng.uniform(3, 40, 2)
        mask |= ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 <= 1
    masks = masks[masks.any((1, 2))]
    return truth_of(masks, rng.integers(0, 3, len(masks)))


def none(height=64, width=96) -> ObjectTruth:
    return truth_of(np.zeros((0, height, width)), [])


def output_for(truth, classes=3, channels=5, seed=0, grids=GRIDS) -> KernelOutput:
    generator = torch.Generator().manual_seed(seed)
    height, width = truth[0].layers.shape[-2:]
    draw = lambda *shape: torch.randn(len(truth), *shape, generator=generator).requires_grad_()  # noqa: E731
    return KernelOutput(
        tuple(draw(classes, grid, grid) for grid in grids),
        tuple(draw(channels, grid, grid) for grid in grids),
        draw(channels, height // 4, width // 4),
    )


def claims(mask, box, grid, share):
    """The cells that the published rule gives to one object: cut towards zero, at most one from the centre's."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    centre = rows.mean(), columns.mean()
    cells = []
    for place, low, high, side in ((centre[0], box[1], box[3], height), (centre[1], box[0], box[2], width)):
        reach = 0.5 * (high - low) * share
        own = int(place / side * grid)
        first = max(int((place - reach) / side * grid), 0, own - 1)
        last = min(int((place + reach) / side * grid), grid - 1, own + 1)
        cells.append(range(first, last + 1))
    return [(row, column) for row in cells[0] for column in cells[1]]


def slow_owners(truth, grids, config):
    masks = object_masks(truth).numpy()
    boxes = truth.boxes.double().numpy()
    size = [math.sqrt((b[2] - b[0]) * (b[3] - b[1])) for b in boxes]
    owners = []
    for level, grid in enumerate(grids):
        low, high = config.ranges[level]
        low, high = (0 if level == 0 else low), (math.inf if level == len(grids) - 1 else high)
        owner = np.full((grid, grid), NOBODY)
        claimed = [claims(mask, box, grid, config.centre) for mask, box in zip(masks, boxes, strict=True)]
        for row in range(grid):
            for column in range(grid):
                wanting = [
                    index
                    for index in range(len(masks))
                    if not truth.crowd[index] and low <= size[index] <= high and (row, column) in claimed[index]
                ]
                if wanting:
                    owner[row, column] = min(wanting, key=lambda index: size[index])
                else:
                    y = int((row + 0.5) / grid * masks.shape[1])
                    x = int((column + 0.5) / grid * masks.shape[2])
                    if any(masks[index, y, x] for index in range(len(masks)) if truth.crowd[index]):
                        owner[row, column] = NEUTRAL
        owners.append(owner.ravel())
    return np.concatenate(owners)


@given(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from([0.1, 0.2, 0.7]))
@settings(max_examples=15, deadline=None)
def test_cells_go_to_the_objects_of_the_twin(seed, count, share):
    truth = scene(seed, count)
    crowd = torch.from_numpy(np.random.default_rng(seed).random(len(truth.labels)) < 0.3)
    truth = truth._replace(crowd=crowd)
    config = KernelLoss(ranges=SMALL.ranges, centre=share)
    found = assign_cells(truth, GRIDS, config)
    assert found.numpy().tolist() == slow_owners(truth, GRIDS, config).tolist()


def test_centres_and_areas_are_of_the_masks():
    truth = scene(3, 5)
    areas, centres = mass_centres(truth)
    for index, mask in enumerate(object_masks(truth).numpy()):
        rows, columns = np.nonzero(mask)
        assert areas[index] == len(rows)
        assert centres[index] == pytest.approx([columns.mean(), rows.mean()])


def test_published_ranges_overlap_and_leave_no_size_without_a_level():
    for ranges in (RANGES, LIGHT_RANGES):
        assert all(later[0] < earlier[1] for earlier, later in itertools.pairwise(ranges))
    mask = np.zeros((1, 64, 96), bool)
    mask[0, :64, :90] = True
    huge = KernelLoss(ranges=((4, 8), (8, 16), (12, 24), (16, 32), (24, 40)))
    assert (assign_cells(truth_of(mask, [0]), GRIDS, huge) >= 0).sum() > 0
    mask[:] = False
    mask[0, 5, 5] = True
    assert (assign_cells(truth_of(mask, [0]), GRIDS, huge) >= 0).sum() == 1


def test_the_smaller_of_two_has_the_cell_and_a_crowd_has_none():
    masks = np.zeros((3, 64, 96), bool)
    masks[0, 16:48, 32:64] = masks[1, 24:40, 40:56] = True
    masks[2, :, 64:] = True
    truth = truth_of(masks, [0, 1, 2], [False, False, True])
    config = KernelLoss(ranges=((1, 100),) * 2)
    found = assign_cells(truth, (8, 4), config)
    assert 1 in found
    assert 2 not in found
    assert 0 not in found[:64].reshape(8, 8)[3:5, 3:5]
    neutral = (found[:64].reshape(8, 8) == NEUTRAL).nonzero()
    assert neutral[:, 1].min() == 5
    assert (found[:64].reshape(8, 8)[:, 6:] == NEUTRAL).all()


def test_an_object_without_a_cell_of_its_own_is_said():
    masks = np.zeros((2, 64, 96), bool)
    masks[0, 16:24, 16:24] = masks[1, 18:22, 18:22] = True
    config = KernelLoss(ranges=((1, 100),) * 2)
    with pytest.warns(UserWarning, match=r"all its cells of model\.options\.grids in common with smaller ones"):
        found = assign_cells(truth_of(masks, [0, 1]), (8, 4), config)
    assert set(found.tolist()) == {NOBODY, 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(assign_cells(truth_of(masks, [0, 1]), (64, 4), config).tolist()) == {NOBODY, 0, 1}


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_quarter_masks_are_opencvs(seed):
    truth = scene(seed, 5)
    masks = object_masks(truth).numpy().astype(np.uint8)
    found = quarter_masks(truth, torch.arange(len(masks))).numpy()
    for mask, own in zip(masks, found, strict=True):
        expected = cv2.resize(mask, (24, 16), interpolation=cv2.INTER_LINEAR)
        if not expected.any():
            expected = mask.reshape(16, 4, 24, 4).max((1, 3))
        assert (own == expected).all()


def test_noise_is_halved_as_opencv_does():
    masks = np.random.default_rng(0).random((3, 64, 96)) < 0.5
    found = quarter_masks(truth_of(masks, [0, 0, 0]), torch.tensor([2, 0, 1, 1])).numpy()
    expected = [cv2.resize(masks[index].astype(np.uint8), (24, 16)) for index in (2, 0, 1, 1)]
    assert (found == np.stack(expected)).all()


def test_an_object_that_would_vanish_keeps_the_blocks_it_touches():
    masks = np.zeros((1, 16, 16), bool)
    masks[0, 3, 4:9] = True
    found = quarter_masks(truth_of(masks, [0]), torch.tensor([0, 0]))
    assert found.nonzero().tolist() == [[0, 0, 1], [0, 0, 2], [1, 0, 1], [1, 0, 2]]


def slow_terms(output, truth, config):
    """The published formulas: mmdetection's focal and dice loss and what they are divided by."""
    flat = [torch.cat([level[row].flatten(1).T for level in output.class_logits]) for row in range(len(truth))]
    kernels = [torch.cat([level[row].flatten(1).T for level in output.kernels]) for row in range(len(truth))]
    focals, dices, positives = 0.0, 0.0, 0
    for row, item in enumerate(truth):
        owner = slow_owners(item, GRIDS, config)
        positives += int((owner >= 0).sum())
        for cell, index in enumerate(owner):
            if index == NEUTRAL:
                continue
            for label, logit in enumerate(flat[row][cell].tolist()):
                p = 1 / (1 + math.exp(-logit))
                if index >= 0 and int(item.labels[index]) == label:
                    focals -= config.alpha * (1 - p) ** config.gamma * math.log(p)
                else:
                    focals -= (1 - config.alpha) * p**config.gamma * math.log(1 - p)
            if index >= 0:
                mask = object_masks(item)[index].numpy().astype(np.uint8)
                target = torch.from_numpy(cv2.resize(mask, None, fx=0.25, fy=0.25)).double()
                p = torch.einsum("e,ehw->hw", kernels[row][cell], output.mask_features[row]).double().sigmoid()
                a, b, c = (p * target).sum(), (p * p).sum() + 1e-3, (target * target).sum() + 1e-3
                dices += float((1 - 2 * a / (b + c)).detach())
    return focals / (positives + 1), 3 * dices / positives


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_terms_are_those_of_the_published_formulas(seed):
    truth = tuple(scene(seed * 10 + item) for item in range(2))
    output = output_for(truth, seed=seed)
    found = KernelCriterion(SMALL)(output, truth)
    focals, dices = slow_terms(output, truth, SMALL)
    assert float(found["class"].detach()) == pytest.approx(focals, rel=1e-5)
    assert float(found["mask"].detach()) == pytest.approx(dices, rel=1e-5)


def test_terms_are_weighted_by_name():
    truth = (scene(0),)
    output = output_for(truth)
    plain = KernelCriterion(SMALL)(output, truth)
    heavy = KernelCriterion(KernelLoss(weights={"mask": 6.0}, ranges=SMALL.ranges))(output, truth)
    assert float(heavy["mask"].detach()) == pytest.approx(2 * float(plain["mask"].detach()))
    assert float(heavy["class"].detach()) == float(plain["class"].detach())


def test_a_neutral_cell_learns_nothing():
    logits = torch.randn(3, 2, requires_grad=True)
    focal(logits, torch.tensor([NEUTRAL, NOBODY, 0]), torch.tensor([1]), gamma=2.0, alpha=0.25).backward()
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1] > 0).all()
    assert logits.grad[2, 0] > 0 > logits.grad[2, 1]


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = focal(logits, torch.tensor([0]), torch.tensor([1]), gamma=2.0, alpha=0.25)
    assert float(value) == pytest.approx(0.75 * 200 + 0.25 * 200)
    value.backward()
    assert logits.grad.isfinite().all()


def test_dice_of_a_perfect_mask_is_nothing():
    mask = torch.rand(3, 50) < 0.5
    assert dice((mask.float() - 0.5) * 200, mask).abs().max() < 1e-4
    assert dice((0.5 - mask.float()) * 200, mask).min() > 0.999


def test_many_masks_in_bounded_memory_give_the_same_gradient(monkeypatch):
    truth = (scene(5, 6), scene(6, 6))
    gradients = []
    for budget in (1 << 22, 3 * 16 * 24):
        monkeypatch.setattr(module, "BUDGET", budget)
        output = output_for(truth)
        KernelCriterion(SMALL)(output, truth)["mask"].backward()
        gradients.append([output.mask_features.grad, *(level.grad for level in output.kernels)])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("case", ["none", "crowd only", "one of two"])
def test_images_without_objects_work(case):
    crowd = scene(0, 2)
    truth = {
        "none": (none(), none()),
        "crowd only": (none(), crowd._replace(crowd=torch.ones_like(crowd.crowd))),
        "one of two": (none(), scene(1)),
    }[case]
    output = output_for(truth)
    terms = KernelCriterion(SMALL)(output, truth)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert float(terms["class"].detach()) > 0
    assert (float(terms["mask"].detach()) > 0) == (case == "one of two")
    for tensor in (*output.class_logits, *output.kernels, output.mask_features):
        assert tensor.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: the terms are the same on it")
def test_a_gpu_gives_the_same_terms():
    truth = (scene(0), none(), scene(1)._replace(crowd=torch.ones_like(scene(1).crowd)))
    output = output_for(truth)
    moved = KernelOutput(
        tuple(level.detach().cuda() for level in output.class_logits),
        tuple(level.detach().cuda() for level in output.kernels),
        output.mask_features.detach().cuda(),
    )
    found = KernelCriterion(SMALL)(moved, tuple(ObjectTruth(*(field.cuda() for field in item)) for item in truth))
    for name, term in KernelCriterion(SMALL)(output, truth).items():
        assert float(found[name]) == pytest.approx(float(term.detach()), rel=1e-3)


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match=r"no term 'masks'.*mask"):
        KernelLoss(weights={"masks": 1.0})
    with pytest.raises(UserError, match="from 0 on, found -1"):
        KernelLoss(weights={"mask": -1.0})
    with pytest.raises(UserError, match="the smaller first"):
        KernelLoss(ranges=((8, 4),))
    with pytest.raises(UserError, match="centre lies above 0"):
        KernelLoss(centre=0.0)
    truth = (scene(0),)
    with pytest.raises(UserError, match="5 levels, but the loss 2 ranges"):
        KernelCriterion(KernelLoss(ranges=((1, 8), (8, 64))))(output_for(truth), truth)


def squares(rng, side=64):
    """An image of coloured squares and their truth; the class is the colour."""
    image = np.full((3, side, side), -1, np.float32)
    masks, labels = [], []
    for row in range(2):
        for column in range(2):
            if rng.random() < 0.75:
                size, label = int(rng.integers(12, 26)), int(rng.integers(0, 3))
                top, left = (int(cell * side / 2 + rng.integers(1, 5)) for cell in (row, column))
                mask = np.zeros((side, side), bool)
                mask[top : top + size, left : left + size] = True
                image[:, mask] = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)[label][:, None]
                masks.append(mask)
                labels.append(label)
    return image, truth_of(np.reshape(masks, (-1, side, side)), labels)


def test_a_tiny_model_learns_squares_and_finds_them():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images, truth = zip(*(squares(rng) for _ in range(4)), strict=True)
    images = torch.from_numpy(np.stack(images))
    widths = dict.fromkeys(("pyramid_channels", "channels", "mask_channels", "kernel_channels"), 32)
    model = SOLOv2(3, 3, backbone="mobilenet_v2", grids=GRIDS, convolutions=1, **widths)
    criterion = KernelCriterion(SMALL)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(24):
        optimiser.zero_grad()
        terms = criterion(model.forward_training(images, truth), truth)
        sum(terms.values()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimiser.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    for name in ("class", "mask"):
        assert history[-1][name] < 0.3 * history[0][name], history
    with torch.no_grad():
        output = model(images)  # still with the statistics of the batch: so few steps leave no others
    for row, item in enumerate(truth):
        found = KernelDecoder(score_threshold=0.3).find(output, row)
        logits = torch.einsum("ne,ehw->nhw", found.kernels, output.mask_features[row])
        true = quarter_masks(item, torch.arange(len(item.labels)))
        for mask, label in zip(true, item.labels, strict=True):
            overlap = ((logits > 0) & mask).sum((1, 2)) / ((logits > 0) | mask).sum((1, 2))
            assert overlap[found.labels == label].max() > 0.9
