"""The losses of Mask R-CNN and Panoptic FPN: slow twins, torchvision's formulas, and what is refused."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import fastrcnn_loss

from nuriwake.core.errors import UserError
from nuriwake.losses.criterion import sum_terms
from nuriwake.losses.regions import WEIGHTS, RegionCriterion, RegionLoss, RegionPixelCriterion, semantic_channels
from nuriwake.models.outputs import RegionPixelTraining, RegionTraining
from nuriwake.models.truth import PanopticTruth


def output(regions: int = 7, shown: int = 3, anchors: int = 11, found: int = 4, classes: int = 5) -> RegionTraining:
    truth = torch.cat((torch.randint(0, classes, (shown,)), torch.full((regions - shown,), classes)))
    return RegionTraining(
        torch.randn(anchors, requires_grad=True),
        (torch.arange(anchors) < found).float(),
        torch.randn(found, 4, requires_grad=True),
        torch.randn(found, 4),
        torch.randn(regions, classes + 1, requires_grad=True),
        truth,
        torch.randn(shown, 4, requires_grad=True),
        torch.randn(shown, 4),
        torch.randn(shown, 6, 6, requires_grad=True),
        (torch.rand(shown, 6, 6) > 0.5).float(),
    )


def twin(item: RegionTraining, smoothness: float) -> dict[str, float]:
    """Number by number."""

    def binary(logits, truth):
        return [math.log1p(math.exp(-x if y else x)) for x, y in zip(logits, truth, strict=True)]

    def smooth(found, wanted):
        errors = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
        return sum(e * e / 2 / smoothness if e < smoothness else e - smoothness / 2 for e in errors)

    def flat(tensor):
        return tensor.detach().flatten().tolist()

    objectness = binary(flat(item.objectness), flat(item.objectness_truth))
    masks = binary(flat(item.mask_logits), flat(item.mask_truth))
    classes = [
        math.log(sum(math.exp(x) for x in row)) - row[label]
        for row, label in zip(item.class_logits.tolist(), item.class_truth.tolist(), strict=True)
    ]
    return {
        "objectness": sum(objectness) / len(objectness),
        "proposal_box": smooth(flat(item.proposal_offsets), flat(item.proposal_offset_truth)) / len(objectness),
        "class": sum(classes) / len(classes),
        "box": smooth(flat(item.offsets), flat(item.offset_truth)) / len(classes),
        "mask": sum(masks) / max(len(masks), 1),
    }


@pytest.mark.parametrize("smoothness", [0.0, 1 / 9, 1.0])
@pytest.mark.parametrize("weights", [{}, {"mask": 2.0, "proposal_box": 0.25}])
def test_terms_are_their_definitions(smoothness, weights):
    torch.manual_seed(0)
    item = output()
    found = RegionCriterion(RegionLoss(weights, smoothness))(item, ())
    for name, value in twin(item, smoothness).items():
        assert float(found[name].detach()) == pytest.approx(value * weights.get(name, 1.0), rel=1e-5)
    assert set(found) == set(WEIGHTS) - {"semantic"}


def test_class_and_box_are_torchvisions():
    """Its background is class 0, and its offsets stand in a table of all classes."""
    torch.manual_seed(1)
    item = output()
    logits = item.class_logits.roll(1, dims=1)
    labels = torch.where(item.class_truth == 5, 0, item.class_truth + 1)
    table, wanted = torch.zeros(7, 6, 4), torch.zeros(7, 4)
    table[range(3), labels[:3]], wanted[:3] = item.offsets, item.offset_truth
    classes, boxes = fastrcnn_loss(logits, table.flatten(1), [labels], [wanted])
    found = RegionCriterion(RegionLoss(smoothness=1 / 9))(item, ())
    assert_close(found["class"], classes)
    assert_close(found["box"], boxes)


def test_without_any_object_the_loss_is_finite():
    item = output(shown=0, found=0)
    terms = RegionCriterion()(item, ())
    assert terms["mask"] == terms["box"] == terms["proposal_box"] == 0
    sum_terms(terms).backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in item if part.requires_grad)


def test_without_any_region_it_is_finite():
    terms = RegionCriterion()(output(regions=0, shown=0, anchors=0, found=0), ())
    assert all(term.isfinite() for term in terms.values())


def test_things_are_one_channel_and_stuff_one_each():
    channels = semantic_channels((True, False, True, False))
    assert channels[:4].tolist() == [0, 1, 0, 2]
    assert (channels[4:] == 255).all()


def test_the_semantic_term_is_its_definition():
    torch.manual_seed(2)
    things = (True, False, True, False)
    labels = torch.tensor([[[0, 1, 255], [2, 3, 3]]])
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    criterion = RegionPixelCriterion(things, RegionLoss({"semantic": 0.25}))
    found = criterion(RegionPixelTraining(output(), logits), PanopticTruth((), labels))
    expected = 0.0
    for y, x, channel in [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 2), (1, 2, 2)]:
        pixel = logits[0, :, y, x].detach()
        expected += float(pixel.logsumexp(0) - pixel[channel]) / 5
    assert float(found["semantic"].detach()) == pytest.approx(0.25 * expected, rel=1e-5)
    assert set(found) == set(WEIGHTS)
    assert criterion.state_dict() == {}


def test_truth_of_void_alone_is_finite():
    labels = torch.full((1, 4, 4), 255)
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    found = RegionPixelCriterion((True, False, False))(RegionPixelTraining(output(), logits), PanopticTruth((), labels))
    assert found["semantic"] == 0
    found["semantic"].backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"masks": 1.0}}, "no term 'masks'.*mask"),
        ({"weights": {"mask": -1.0}}, "from 0 on, found -1"),
        ({"smoothness": -1.0}, "smoothness is a number from 0 on"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        RegionLoss(**options)
