"""The loss of queries beside a slow twin, and beside transformers' where that is installed."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.losses.matching import match, segments_of
from nuriwake.losses.queries import QueryCriterion, QueryLoss
from nuriwake.models.outputs import QueryOutput
from nuriwake.models.truth import ObjectTruth, PanopticTruth, object_masks

POINTS = QueryLoss(points=40)
SIZE = (24, 32)


def objects(masks, labels, crowd=None):
    """`ObjectTruth` of dense masks (N, H, W), each in a layer of its own."""
    count = len(labels)
    numbers = torch.arange(1, count + 1, dtype=torch.int16)[:, None, None]
    crowd = torch.zeros(count, dtype=torch.bool) if crowd is None else torch.tensor(crowd)
    layers = masks.to(torch.int16) * numbers
    return ObjectTruth(
        torch.zeros(count, 4), torch.tensor(labels, dtype=torch.int64), crowd, layers, torch.arange(count)
    )


def some_masks(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    return functional.interpolate(coarse, size=SIZE, mode="bilinear")[:, 0] > 0.5


def some_output(batch=2, queries=4, classes=3, layers=0, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def answer():
        return (
            torch.randn(batch, queries, classes + 1, generator=generator).requires_grad_(),
            (3 * torch.randn(batch, queries, 6, 8, generator=generator)).requires_grad_(),
        )

    return QueryOutput(*answer(), tuple(answer() for _ in range(layers)))


def read(maps, points):
    """Maps (n, h, w) at points (n, P, 2)."""
    return functional.grid_sample(maps[:, None].float(), 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


def twin(output, truth, no_object=0.1):
    """The published loss, image by image, pair by pair, over dense masks; draws its points in the same order."""
    class_logits, mask_logits = output.class_logits, output.mask_logits
    pairs = []
    for image, item in enumerate(truth):
        points = torch.rand(1, POINTS.points, 2)
        masks = object_masks(item)
        queries = range(class_logits.shape[1])
        cost = np.zeros((len(queries), len(masks)))
        for query, row in itertools.product(queries, range(len(masks))):
            logit, wanted = read(mask_logits[image, query][None], points), read(masks[row][None], points)
            chance = logit.sigmoid()
            bce = functional.binary_cross_entropy_with_logits(logit, wanted)
            dice = 1 - (2 * (chance * wanted).sum() + 1) / (chance.sum() + wanted.sum() + 1)
            label = class_logits[image, query].softmax(0)[item.labels[row]]
            cost[query, row] = (5 * bce + 5 * dice - 2 * label).item()
        best = min(
            itertools.permutations(queries, len(masks)),
            key=lambda chosen: sum(cost[query, row] for row, query in enumerate(chosen)),
        )
        pairs += [(image, query, row) for row, query in enumerate(best)]
    # The criterion goes through the queries of an image in ascending order.
    pairs.sort()
    total, weight = torch.zeros(()), 0.0
    nothing = class_logits.shape[-1] - 1
    for image, query in itertools.product(range(len(truth)), range(class_logits.shape[1])):
        label = next((int(truth[i].labels[row]) for i, q, row in pairs if (i, q) == (image, query)), nothing)
        factor = no_object if label == nothing else 1.0
        total = total - factor * class_logits[image, query].log_softmax(0)[label]
        weight += factor
    mask, dice = twin_masks(mask_logits, truth, pairs)
    return {"class": 2 * total / weight, "mask": 5 * mask / len(pairs), "dice": 5 * dice / len(pairs)}


def twin_masks(mask_logits, truth, pairs):
    certain = int(POINTS.importance * POINTS.points)
    many = torch.rand(len(pairs), int(POINTS.oversample * POINTS.points), 2)
    other = torch.rand(len(pairs), POINTS.points - certain, 2)
    mask = dice = torch.zeros(())
    for n, (image, query, row) in enumerate(pairs):
        logits = mask_logits[image, query][None]
        doubt = read(logits, many[n : n + 1])[0].abs()
        points = torch.cat([many[n][doubt.argsort()[:certain]], other[n]])[None]
        logit, wanted = read(logits, points)[0], read(object_masks(truth[image])[row][None], points)[0]
        chance = logit.sigmoid()
        mask = mask + functional.binary_cross_entropy(chance, wanted)
        dice = dice + 1 - (2 * (chance * wanted).sum() + 1) / (chance.sum() + wanted.sum() + 1)
    return mask, dice


def close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


TRUTH = (objects(some_masks(3), [2, 0, 2]), objects(some_masks(1, seed=4), [1]))


def test_the_terms_are_those_of_the_twin():
    output = some_output()
    torch.manual_seed(7)
    found = QueryCriterion(POINTS)(output, TRUTH)
    torch.manual_seed(7)
    close(found, twin(output, TRUTH))


def test_the_terms_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = transformers.Mask2FormerConfig(
        num_labels=3, train_num_points=POINTS.points, oversample_ratio=3.0, importance_sample_ratio=0.75,
        no_object_weight=0.1, class_weight=2.0, mask_weight=5.0, dice_weight=5.0,
    )  # fmt: skip
    theirs = Mask2FormerLoss(config, {})
    output = some_output()
    torch.manual_seed(7)
    found = QueryCriterion(POINTS)(output, TRUTH)
    torch.manual_seed(7)
    masks, labels = [object_masks(item).float() for item in TRUTH], [item.labels for item in TRUTH]
    expected = theirs(output.mask_logits, output.class_logits, masks, labels)
    close(
        found,
        {
            "class": 2 * expected["loss_cross_entropy"],
            "mask": 5 * expected["loss_mask"],
            "dice": 5 * expected["loss_dice"],
        },
    )


def test_earlier_answers_count_as_often_as_asked():
    output = some_output(layers=2)
    torch.manual_seed(3)
    found = QueryCriterion(QueryLoss(points=40, auxiliary_weight=0.5))(output, TRUTH)
    torch.manual_seed(3)
    last = twin(QueryOutput(*output[:2]), TRUTH)
    earlier = [twin(QueryOutput(*answer), TRUTH) for answer in output.auxiliary]
    close(found, {**last, "auxiliary": 0.5 * sum(sum(terms.values()) for terms in earlier)})


def test_weights_by_name():
    output = some_output()
    torch.manual_seed(3)
    # All weights halved: the same matching, half the loss.
    half = QueryCriterion(QueryLoss({"class": 1.0, "mask": 2.5, "dice": 2.5}, points=40))(output, TRUTH)
    torch.manual_seed(3)
    whole = QueryCriterion(POINTS)(output, TRUTH)
    close(half, {name: term / 2 for name, term in whole.items()})
    with pytest.raises(UserError, match=r"no term 'masks'.*mask"):
        QueryLoss({"masks": 1.0})
    with pytest.raises(UserError, match="found -1"):
        QueryLoss({"mask": -1})
    with pytest.raises(UserError, match="no_object_weight"):
        QueryLoss(no_object_weight=0)
    with pytest.raises(UserError, match="The points"):
        QueryLoss(points=0)


def test_class_weights():
    output = some_output(batch=1)
    truth = (objects(some_masks(0), []),)
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.manual_seed(3)
    found = QueryCriterion(POINTS, class_weights=weights)(output, truth)
    # Without a segment only "nothing" is wanted, whatever the weights of the classes.
    expected = 2 * functional.cross_entropy(output.class_logits[0], torch.full((4,), 3))
    torch.testing.assert_close(found["class"], expected)
    torch.manual_seed(3)
    with torch.no_grad():
        pairs = match(*output[:2], segments_of(TRUTH[1:]), costs=(2, 5, 5), points=40)
    labels = torch.full((4,), 3)
    labels[pairs[0][0]] = 1
    torch.manual_seed(3)
    found = QueryCriterion(POINTS, class_weights=weights)(output, TRUTH[1:])
    expected = 2 * functional.cross_entropy(output.class_logits[0], labels, torch.tensor([1.0, 2.0, 3.0, 0.1]))
    torch.testing.assert_close(found["class"], expected)


@pytest.mark.parametrize("some", [True, False])
def test_gradients_are_finite_with_and_without_segments(some):
    output = some_output(layers=1)
    nothing = objects(some_masks(0), [])
    truth = (nothing, TRUTH[1] if some else nothing)
    terms = QueryCriterion(POINTS)(output, truth)
    sum(terms.values()).backward()
    for pair in (output[:2], *output.auxiliary):
        for logits in pair:
            assert logits.grad is not None
            assert torch.isfinite(logits.grad).all()
    assert bool(output.mask_logits.grad.any()) is some
    assert terms["mask"].item() >= 0


def test_more_segments_than_queries():
    output = some_output(batch=1, queries=2)
    said = r"more segments in a training image than model\.options\.queries \(2\); of each image only as many"
    with pytest.warns(UserWarning, match=said):
        terms = QueryCriterion(POINTS)(output, TRUTH[:1])
    assert all(torch.isfinite(term) for term in terms.values())
    (queries, rows), *_ = match(*output[:2], segments_of(TRUTH[:1]), costs=(2, 5, 5), points=40)
    assert sorted(queries.tolist()) == [0, 1]
    assert len(set(rows.tolist())) == 2


def label_map():
    labels = torch.full((1, *SIZE), IGNORE)
    labels[0, :, :10], labels[0, :8, 10:20], labels[0, 8:, 10:20] = 2, 0, 2
    return labels


def test_a_label_map_is_a_segment_per_class():
    labels = label_map()
    (item,) = segments_of(labels)
    assert item.labels.tolist() == [0, 2]
    masks = object_masks(item.objects)
    assert torch.equal(masks[0], labels[0] == 0)
    assert torch.equal(masks[1], labels[0] == 2)
    assert torch.equal(item.void, labels[0] == IGNORE)


def test_the_three_kinds_of_truth_agree():
    """A map without ignored pixels, the same as objects, and as panoptic truth."""
    labels = label_map().where(label_map() != IGNORE, torch.tensor(1))
    as_objects = (objects(torch.stack([labels[0] == value for value in (0, 1, 2)]), [0, 1, 2]),)
    output = some_output(batch=1)
    found = []
    for truth in (labels, as_objects, PanopticTruth(as_objects, labels)):
        torch.manual_seed(9)
        found.append(QueryCriterion(POINTS)(output, truth))
    close(found[1], found[0])
    close(found[2], found[0])


def ignored_gradient(truth):
    """Of the mask logits (6 x 8), summed over queries: where does the loss look?"""
    output = some_output(batch=1)
    torch.manual_seed(0)
    terms = QueryCriterion(QueryLoss(points=2000))(output, truth)
    (terms["mask"] + terms["dice"]).backward()
    return output.mask_logits.grad.abs().sum((0, 1))


def test_ignored_pixels_count_nowhere():
    # Columns from 20 of 32 on are ignored; a cell of the logits spans 4, and a point reads its two neighbours.
    gradient = ignored_gradient(label_map())
    assert not gradient[:, 6:].any()
    assert gradient[:, :5].all()
    void = PanopticTruth((objects(torch.stack([label_map()[0] == 2]), [2]),), label_map())
    assert not ignored_gradient(void)[:, 6:].any()


def test_crowds_count_nowhere_and_are_not_wanted():
    mask, crowd = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[:, :12], crowd[:, 20:] = True, True
    truth = (objects(torch.stack([mask, crowd]), [0, 1], [False, True]),)
    (item,) = segments_of(truth)
    assert item.labels.tolist() == [0]
    assert not ignored_gradient(truth)[:, 6:].any()
    assert ignored_gradient((objects(mask[None], [0]),))[:, 6:].any()


def test_an_image_that_is_all_void_teaches_no_mask():
    output = some_output(batch=1)
    terms = QueryCriterion(POINTS)(output, torch.full((1, *SIZE), IGNORE))
    assert terms["mask"].item() == terms["dice"].item() == 0
    sum(terms.values()).backward()
    assert not output.mask_logits.grad.any()


def test_nothing_but_torchs_generator_is_drawn_from():
    output, found = some_output(), []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(11)
        found.append(QueryCriterion(POINTS)(output, TRUTH))
    close(*found)


def test_half_precision_is_computed_in_single():
    output = some_output()
    half = QueryOutput(*(part.detach().bfloat16() for part in output[:2]))
    single = QueryOutput(*(part.float() for part in half[:2]))
    found = []
    for item in (half, single):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(QueryCriterion(POINTS)(item, TRUTH))
    assert all(term.dtype == torch.float32 for term in found[0].values())
    close(*found)
