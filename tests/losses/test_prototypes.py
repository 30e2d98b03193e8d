"""The loss of YOLACT against slow twins that follow the published formulas step by step, and its learning."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.losses.criterion import sum_terms
from nuriwake.losses.prototypes import (
    WEIGHTS,
    PrototypeCriterion,
    PrototypeLoss,
    best_pairs,
    class_term,
    crop,
    mask_term,
    match,
    semantic_term,
    small_masks,
)
from nuriwake.models.outputs import PrototypeOutput
from nuriwake.models.priors import corners, make_priors
from nuriwake.models.truth import ObjectTruth, object_masks
from nuriwake.models.yolact import Yolact

SIZE = (48, 64)
CLASSES = 3


def truth_of(boxes, labels=None, crowd=None, size=SIZE) -> ObjectTruth:
    """Rectangles; each object lies in a layer of its own."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    layers = torch.zeros((count, *size), dtype=torch.int16)
    for index, (left, top, right, bottom) in enumerate(boxes.round().long().tolist()):
        layers[index, top:bottom, left:right] = index + 1
    labels = torch.arange(count) % CLASSES if labels is None else torch.tensor(labels, dtype=torch.long)
    crowd = torch.zeros(count, dtype=torch.bool) if crowd is None else torch.tensor(crowd, dtype=torch.bool)
    return ObjectTruth(boxes, labels, crowd, layers, torch.arange(count))


def random_truth(count: int, crowds: int = 0, size=SIZE) -> ObjectTruth:
    low = torch.rand(count, 2) * torch.tensor([size[1], size[0]]) * 0.7
    high = low + 4 + torch.rand(count, 2) * torch.tensor([size[1], size[0]]) * 0.25
    boxes = torch.cat((low, high), dim=1).round().tolist()
    return truth_of(boxes, crowd=[index < crowds for index in range(count)], size=size)


def priors_of(size=SIZE) -> torch.Tensor:
    maps = [(size[0] // 8, size[1] // 8), (size[0] // 16, size[1] // 16), (2, 2)]
    return make_priors(maps, (0.15, 0.3, 0.6), (1.0, 0.5, 2.0))


def random_output(batch: int, priors: torch.Tensor, semantic: int = CLASSES, cells=(12, 16)) -> PrototypeOutput:
    count = len(priors)
    return PrototypeOutput(
        torch.randn(batch, count, CLASSES + 1, requires_grad=True),
        torch.randn(batch, count, 4, requires_grad=True),
        torch.randn(batch, count, 5).tanh().requires_grad_(),
        priors,
        torch.rand(batch, 5, *cells, requires_grad=True),
        torch.randn(batch, semantic, cells[0] // 2, cells[1] // 2, requires_grad=True),
    )


# ---------------------------------------------------------------- slow twins


def slow_overlap(a, b):
    """In float32, so that what is equal by symmetry is equal here too."""
    a, b = np.float32(a), np.float32(b)
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_match(priors, truth, settings):
    """Box by box: the surest pair of all is taken, then the surest of the rest; the others go by their largest overlap."""
    height, width = truth.layers.shape[1:]
    shares = truth.boxes.numpy() / np.float32([width, height, width, height])
    objects = [index for index in range(len(shares)) if not truth.crowd[index]]
    places = corners(priors).tolist()
    table = {(o, p): slow_overlap(shares[o], place) for o in objects for p, place in enumerate(places)}
    forced, free = {}, set(objects)
    while free:
        pairs = [(table[o, p], -o, -p) for o in free for p in range(len(places)) if p not in forced]
        value, o, p = max(pairs)
        if value <= 0:
            break
        forced[-p] = -o
        free.remove(-o)
    labels, owners = [], []
    for p, place in enumerate(places):
        owner = max(objects, key=lambda o: table[o, p], default=None)
        best = -1.0 if owner is None else table[owner, p]
        if p in forced:
            owner, best = forced[p], 2.0
        label = 0
        if best >= settings.positive_overlap:
            label = int(truth.labels[owner]) + 1
        elif best >= settings.negative_overlap:
            label = -1
        for o, box in enumerate(shares):
            if truth.crowd[o] and label <= 0:
                w = max(min(place[2], box[2]) - max(place[0], box[0]), 0)
                h = max(min(place[3], box[3]) - max(place[1], box[1]), 0)
                if w * h / ((place[2] - place[0]) * (place[3] - place[1])) > settings.crowd_overlap:
                    label = -1
        labels.append(label)
        owners.append(owner)
    return labels, owners


def slow_class_term(logits, labels, negatives):
    total = 0.0
    for rows, wanted in zip(logits, labels, strict=True):
        logs = rows.log_softmax(dim=1)
        positive = [i for i, label in enumerate(wanted.tolist()) if label > 0]
        hardest = sorted((float(logs[i, 0].detach()), i) for i, label in enumerate(wanted.tolist()) if label == 0)
        counted = positive + [i for _, i in hardest[: negatives * max(len(positive), 1)]]
        total = total - sum(logs[i, wanted[i]] for i in counted)
    return total


def published_masks(truth, size):
    """The full masks made small as the published code makes them."""
    dense = object_masks(truth).float()
    if len(dense) == 0:
        return torch.zeros(0, *size, dtype=torch.bool)
    return functional.interpolate(dense[None], size, mode="bilinear", align_corners=False)[0] > 0.5


def slow_mask_term(prototypes, coefficients, truth, objects):
    """Assemble, sigmoid, crop by zeroing, binary cross entropy of the probabilities, over the box's area."""
    height, width = prototypes.shape[1:]
    small = published_masks(truth, (height, width)).float()
    total = 0.0
    for weights, index in zip(coefficients, objects.tolist(), strict=True):
        found = sum(weight * plane for weight, plane in zip(weights, prototypes, strict=True)).sigmoid()
        left, top, right, bottom = (truth.boxes[index] / 4).tolist()
        inside = torch.zeros(height, width)
        for y in range(height):
            for x in range(width):
                if left - 1 <= x < right + 1 and top - 1 <= y < bottom + 1:
                    inside[y, x] = 1
        loss = functional.binary_cross_entropy(found * inside, small[index], reduction="sum")
        total = total + loss / (right - left) / (bottom - top)
    return total


def slow_semantic_term(logits, truth):
    total = 0.0
    for found, objects in zip(logits, truth, strict=True):
        wanted = torch.zeros_like(found)
        for index, mask in enumerate(published_masks(objects, found.shape[1:])):
            if not objects.crowd[index]:
                wanted[objects.labels[index]] = torch.maximum(wanted[objects.labels[index]], mask.float())
        total = total + functional.binary_cross_entropy_with_logits(found, wanted, reduction="sum")
    return total / logits.shape[2] / logits.shape[3] / len(truth)


def slow_box_term(output, truth, matched):
    total = 0.0
    for deltas, objects, (labels, owners) in zip(output.deltas, truth, matched, strict=True):
        for found, (x, y, w, h), label, owner in zip(deltas, output.priors.tolist(), labels, owners, strict=True):
            if label <= 0:
                continue
            left, top, right, bottom = (objects.boxes[owner] / torch.tensor([64.0, 48.0, 64.0, 48.0])).tolist()
            centre = ((left + right) / 2 - x) / w / 0.1, ((top + bottom) / 2 - y) / h / 0.1
            extent = torch.tensor([(right - left) / w, (bottom - top) / h]).log() / 0.2
            for value, wanted in zip(found, [*centre, *extent.tolist()], strict=True):
                off = (value - wanted).abs()
                total = total + (0.5 * off * off if off < 1 else off - 0.5)
    return total


# ---------------------------------------------------------------- agreement


@pytest.mark.parametrize("seed", range(12))
def test_matching_is_the_loops(seed):
    torch.manual_seed(seed)
    settings, priors = PrototypeLoss(), priors_of()
    truth = random_truth(seed, crowds=seed // 4)
    found = match(priors, truth, settings)
    labels, owners = slow_match(priors, truth, settings)
    assert found.labels.tolist() == labels
    for label, owner, expected in zip(found.labels.tolist(), found.objects.tolist(), owners, strict=True):
        assert label <= 0 or owner == expected
    real = {index for index in range(len(truth.labels)) if not truth.crowd[index]}
    assert set(found.objects[found.labels > 0].tolist()) == real  # every object has a prior


@pytest.mark.parametrize("seed", range(8))
def test_pairs_in_rounds_are_those_one_by_one(seed):
    torch.manual_seed(seed)
    shared = (torch.rand(9, 6 + 2 * seed) - 0.3).clamp(min=0)
    expected, table = set(), shared.clone()
    while table.max() > 0:
        row, column = divmod(int(table.argmax()), table.shape[1])
        expected.add((row, column))
        table[row], table[:, column] = -1, -1
    before = shared.clone()
    objects, priors = best_pairs(shared)
    assert set(zip(objects.tolist(), priors.tolist(), strict=True)) == expected
    assert torch.equal(shared, before)


def test_equal_boxes_get_a_prior_each():
    found = match(priors_of(), truth_of([(8, 8, 24, 24)] * 3), PrototypeLoss())
    assert set(found.objects[found.labels > 0].tolist()) == {0, 1, 2}


def test_a_box_without_area_is_no_object():
    truth = truth_of([(8, 8, 8, 20), (10, 10, 30, 30)], labels=[0, 1])
    found = match(priors_of(), truth, PrototypeLoss())
    assert set(found.objects[found.labels > 0].tolist()) == {1}


def test_slivers_are_no_objects_as_in_the_authors_configuration():
    truth = truth_of([(8, 8, 8.4, 20), (10, 10, 30, 30), (40, 5, 60, 5.3)], labels=[0, 1, 2])
    found = match(priors_of(), truth, PrototypeLoss())
    assert set(found.objects[found.labels > 0].tolist()) == {1}
    found = match(priors_of(), truth, PrototypeLoss(smallest=0.0))
    assert set(found.objects[found.labels > 0].tolist()) == {0, 1, 2}


def test_an_object_of_a_pixel_does_not_outweigh_all_others():
    torch.manual_seed(0)
    coefficients = torch.randn(2, 5).tanh()
    prototypes = torch.randn(5, 12, 16)
    truth = truth_of([(10, 10, 40, 40), (50, 20, 51, 21)])
    large, speck = (float(mask_term(prototypes, coefficients[:1], truth, torch.tensor([index]))) for index in (0, 1))
    assert speck < 10 * large  # 16 times as much where the area may be a sixteenth of a cell


def test_priors_in_a_crowd_count_nowhere_but_objects_in_it_do():
    crowd, priors = [0, 0, 64, 48], priors_of()
    alone = match(priors, truth_of([crowd], crowd=[True]), PrototypeLoss())
    inside = (corners(priors) >= 0).all(1) & (corners(priors) <= 1).all(1)
    assert inside.any()
    assert (alone.labels[inside] == -1).all()
    assert (alone.labels <= 0).all()
    assert (match(priors, truth_of([]), PrototypeLoss()).labels == 0).all()
    both = match(priors, truth_of([crowd, [16, 16, 32, 32]], crowd=[True, False]), PrototypeLoss())
    assert set(both.objects[both.labels > 0].tolist()) == {1}


@pytest.mark.parametrize("negatives", [1, 3])
def test_hard_negatives_are_those_of_the_sorted_list(negatives):
    torch.manual_seed(0)
    logits = torch.randn(3, 40, CLASSES + 1)
    labels = torch.randint(-1, CLASSES + 1, (3, 40)) * (torch.rand(3, 40) < 0.2)
    labels[1] = 0  # an image without objects: as if it had one positive prior
    found = class_term(logits, labels, negatives=negatives)
    assert torch.allclose(found, slow_class_term(logits, labels, negatives), rtol=1e-5)


def test_there_may_be_fewer_negatives_than_asked_for():
    logits, labels = torch.randn(1, 6, 3), torch.tensor([[1, 2, 1, 2, 0, -1]])
    expected = functional.cross_entropy(logits[0, :5], labels[0, :5], reduction="sum")
    assert torch.allclose(class_term(logits, labels, negatives=3), expected)


def test_masks_are_made_small_as_by_interpolation():
    torch.manual_seed(0)
    truth = random_truth(6)
    for size in ((12, 16), (7, 9), (6, 8)):
        found = small_masks(truth, torch.arange(6), size)
        assert torch.equal(found, published_masks(truth, size))


def test_the_mask_term_is_the_published_formula():
    torch.manual_seed(0)
    truth = random_truth(4)
    prototypes, coefficients = torch.rand(5, 12, 16), torch.randn(7, 5).tanh()
    objects = torch.tensor([3, 0, 0, 2, 1, 1, 3])
    found = mask_term(prototypes, coefficients, truth, objects)
    assert torch.allclose(found, slow_mask_term(prototypes, coefficients, truth, objects), rtol=1e-4)


def test_the_crop_is_one_cell_wider():
    found = crop(torch.tensor([[2.0, 1.0, 4.0, 3.0], [2.5, 1.2, 4.5, 3.7]]), (8, 8)).nonzero().tolist()
    first = [(y, x) for item, y, x in found if item == 0]
    second = [(y, x) for item, y, x in found if item == 1]
    assert (min(first), max(first)) == ((0, 1), (3, 4))
    assert (min(second), max(second)) == ((1, 2), (4, 5))


def test_the_semantic_term_is_the_published_formula():
    torch.manual_seed(0)
    truth = (random_truth(5, crowds=1), random_truth(0), random_truth(70))
    logits = torch.randn(3, CLASSES, 6, 8)
    assert torch.allclose(semantic_term(logits, truth), slow_semantic_term(logits, truth), rtol=1e-5)


def test_all_terms_together_are_the_slow_ones():
    torch.manual_seed(1)
    settings, priors = PrototypeLoss(), priors_of()
    truth = (random_truth(5, crowds=1), random_truth(0), random_truth(2))
    output = random_output(3, priors)
    matched = [slow_match(priors, objects, settings) for objects in truth]
    labels = torch.tensor([item for item, _ in matched])
    count = int((labels > 0).sum())
    masks = 0.0
    for row, (item, owners) in enumerate(matched):
        positive = [index for index, label in enumerate(item) if label > 0]
        objects = torch.tensor([owners[index] for index in positive], dtype=torch.long)
        masks = masks + slow_mask_term(output.prototypes[row], output.coefficients[row, positive], truth[row], objects)
    expected = {
        "class": slow_class_term(output.class_logits, labels, 3) / count,
        "box": 1.5 * slow_box_term(output, truth, matched) / count,
        "mask": 6.125 * masks / count,
        "semantic": slow_semantic_term(output.semantic, truth),
    }
    found = PrototypeCriterion()(output, truth)
    assert found.keys() == expected.keys() == WEIGHTS.keys()
    for name, term in found.items():
        assert torch.allclose(term, expected[name], rtol=1e-4), name


# ---------------------------------------------------------------- settings and edges


def test_weights_go_by_name():
    torch.manual_seed(0)
    output, truth = random_output(1, priors_of()), (random_truth(3),)
    plain = PrototypeCriterion()(output, truth)
    changed = PrototypeCriterion(PrototypeLoss(weights={"mask": 12.25, "semantic": 0.0}))(output, truth)
    assert torch.allclose(changed["mask"], 2 * plain["mask"])
    assert changed["semantic"] == 0
    assert torch.equal(changed["box"], plain["box"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"masks": 1.0}}, "Did you mean 'mask'"),
        ({"weights": {"mask": -1.0}}, "from 0 on, found -1"),
        ({"positive_overlap": 0.3}, "not above the second"),
        ({"crowd_overlap": 2.0}, "0 to 1, found 2"),
        ({"masks": 0}, "at least 1"),
        ({"smallest": -0.1}, "share of the input's side"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PrototypeLoss(**settings)


def test_a_draw_of_the_masks_stands_for_all():
    torch.manual_seed(0)
    output, truth = random_output(1, priors_of()), (truth_of([(8, 6, 28, 21), (28, 22, 48, 37)]),)
    # Equal planes and coefficients, equal boxes: every mask costs the same.
    same = output._replace(
        coefficients=output.coefficients[:, :1].expand_as(output.coefficients),
        prototypes=output.prototypes[:, :, :1, :1].expand_as(output.prototypes),
    )
    every = PrototypeCriterion()(same, truth)["mask"]
    drawn = PrototypeCriterion(PrototypeLoss(masks=1))(same, truth)["mask"]
    assert int((match(same.priors, truth[0], PrototypeLoss()).labels > 0).sum()) == 2
    assert torch.allclose(every, drawn, rtol=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (2, 0)])
def test_gradients_are_finite_with_and_without_objects(counts):
    torch.manual_seed(0)
    model = Yolact(3, CLASSES, backbone="resnet18", pyramid_channels=8, prototypes=4).train()
    truth = tuple(random_truth(count) for count in counts)
    output = model.forward_training(torch.randn(2, 3, *SIZE), truth)
    terms = PrototypeCriterion()(output, truth)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    sum_terms(terms).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.head.classify.weight.grad.abs().sum() > 0


def test_without_semantic_logits_the_term_is_left_out():
    output = random_output(1, priors_of(), semantic=0)
    assert set(PrototypeCriterion()(output, (random_truth(2),))) == {"class", "box", "mask"}


def test_a_crowd_alone_gives_finite_terms():
    terms = PrototypeCriterion()(random_output(1, priors_of()), (random_truth(2, crowds=2),))
    assert all(term.isfinite() for term in terms.values())
    assert terms["box"] == 0


def test_bfloat16_outputs_are_compared_in_float32():
    torch.manual_seed(0)
    output, truth = random_output(2, priors_of()), (random_truth(3), random_truth(1))
    half = PrototypeOutput(*(part.bfloat16() if part is not output.priors else part for part in output))
    with torch.autocast("cpu", torch.bfloat16):
        found = PrototypeCriterion()(half, truth)
    expected = PrototypeCriterion()(output, truth)
    for name, term in found.items():
        assert term.dtype == torch.float32
        assert torch.allclose(term, expected[name], rtol=0.05), name


def coloured_squares(count: int, seed: int) -> tuple[torch.Tensor, tuple[ObjectTruth, ...]]:
    """Images of 64x64 with one or two squares, each class in its own colour."""
    generator = torch.Generator().manual_seed(seed)
    images, truth = torch.zeros(count, 3, 64, 64), []
    for image in images:
        boxes, labels = [], []
        for column in range(int(torch.randint(1, 3, (), generator=generator))):
            side = int(torch.randint(14, 28, (), generator=generator))
            top = int(torch.randint(0, 64 - side, (), generator=generator))
            left = column * 32 + int(torch.randint(0, 4, (), generator=generator))
            label = int(torch.randint(0, 3, (), generator=generator))
            image[label, top : top + side, left : left + side] = 2.0
            boxes.append((left, top, left + side, top + side))
            labels.append(label)
        truth.append(truth_of(boxes, labels, size=(64, 64)))
    return images, tuple(truth)


def test_a_tiny_yolact_learns_coloured_squares():
    torch.manual_seed(0)
    model = Yolact(3, 3, backbone="resnet18", pyramid_channels=16, prototypes=8, prior_sizes=(120.0, 200.0, 300.0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images, truth = coloured_squares(4, seed=0)
    history = []
    for _ in range(20):
        terms = PrototypeCriterion()(model.train().forward_training(images, truth), truth)
        optimiser.zero_grad()
        sum_terms(terms).backward()
        optimiser.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    print(history[0], history[-1])
    assert sum(history[-1].values()) < 0.6 * sum(history[0].values())
    for name in WEIGHTS:
        assert history[-1][name] < 0.9 * history[0][name], name
