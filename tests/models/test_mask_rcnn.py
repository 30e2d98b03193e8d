"""Mask R-CNN and Panoptic FPN: sizes, channels, classes, precision, training steps, and a few of them in a row."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from nuriwake.core.errors import UserError
from nuriwake.losses.criterion import sum_terms
from nuriwake.losses.regions import RegionCriterion, RegionPixelCriterion
from nuriwake.models import MODELS, build_model
from nuriwake.models.backbones import build_backbone
from nuriwake.models.fpn import first_level
from nuriwake.models.mask_rcnn import MaskRCNN
from nuriwake.models.panoptic_fpn import PanopticFPN
from nuriwake.models.region_settings import RegionSettings
from nuriwake.models.truth import ObjectTruth, PanopticTruth

SMALL = RegionSettings(
    anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
    candidates=60,
    proposals=30,
    training_candidates=60,
    training_proposals=40,
    detections=10,
    score_threshold=0.0,
    sampled_anchors=64,
    sampled_regions=32,
)
THINGS = (0, 2)
STYLES = ("detectron2", "torchvision", "torchvision_v2")


def mask_rcnn(in_channels: int = 3, classes: int = 4, **options) -> MaskRCNN:
    given = {"backbone": "mobilenet_v2", "pyramid_channels": 16, "regions": SMALL, **options}
    return MaskRCNN(in_channels, classes, **given)


def panoptic_fpn(in_channels: int = 3, classes: int = 4, **options) -> PanopticFPN:
    given = {"backbone": "mobilenet_v2", "pyramid_channels": 16, "semantic_channels": 32, "regions": SMALL, **options}
    return PanopticFPN(in_channels, classes, **given)


def squares(boxes, labels, size=(64, 64), crowd=None) -> ObjectTruth:
    """Filled squares (left, top, right, bottom) that do not overlap."""
    layers = torch.zeros((1 if boxes else 0, *size), dtype=torch.int16)
    for index, (left, top, right, bottom) in enumerate(boxes):
        layers[0, top:bottom, left:right] = index + 1
    return ObjectTruth(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool) if crowd is None else torch.tensor(crowd),
        layers,
        torch.zeros(len(boxes), dtype=torch.int64),
    )


def panoptic(truth, size=(64, 64), stuff=1) -> PanopticTruth:
    labels = torch.full((len(truth), *size), stuff)
    for row, item in enumerate(truth):
        for layer in item.layers:
            for index, label in enumerate(item.labels.tolist()):
                labels[row][layer == index + 1] = label
    return PanopticTruth(tuple(truth), labels)


SOME = [squares([[8, 8, 24, 30], [36, 30, 60, 60]], [0, 2]), squares([[20, 10, 50, 44]], [2])]
NONE = [squares([], []), squares([], [])]


@pytest.mark.parametrize(
    ("build", "learning"),
    [
        # torchvision's 44,454,513 and 46,359,409 less the boxes and masks of background and of the ten empty numbers.
        (lambda: MaskRCNN(3, 80, style="torchvision", unused_classes=10), 44_454_513 - 11 * (4 * 1025 + 257)),
        (lambda: MaskRCNN(3, 80, style="torchvision_v2", unused_classes=10), 46_359_409 - 11 * (4 * 1025 + 257)),
        (lambda: MaskRCNN(3, 80, backbone="resnet50_caffe", frozen_norm=True), 44_343_216),
        (
            lambda: PanopticFPN(3, 133, things=tuple(range(80)), backbone="resnet50_caffe", frozen_norm=True),
            45_973_990,
        ),
    ],
)
def test_parameters_are_those_published(build, learning):
    with torch.device("meta"):
        model = build()
    assert sum(item.numel() for item in model.parameters() if item.requires_grad) == learning


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(33, 70), (64, 64), (97, 40)])
def test_any_size_and_boxes_inside_it(style, size):
    torch.manual_seed(0)
    model = mask_rcnn(style=style).eval()
    assert model.fit_size(*size) == size
    with torch.no_grad():
        found = model(torch.randn(2, 3, *size))
    count = len(found.boxes)
    assert 0 < count <= 20
    assert (found.masks.shape, found.image.dtype, found.labels.dtype) == ((count, 28, 28), torch.int64, torch.int64)
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1
    assert found.labels.max() < 4
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.image.diff() >= 0).all()
    for row in range(2):
        assert (found.scores[found.image == row].diff() <= 0).all()


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("classes", [1, 2, 80])
def test_channels_and_classes_are_free(in_channels, classes):
    images = torch.randn(2, in_channels, 64, 64)
    truth = [squares([[8, 8, 24, 30]], [classes - 1]), squares([], [])]
    model = mask_rcnn(in_channels, classes)
    output = model.train().forward_training(images, truth)
    assert output.class_logits.shape[1] == classes + 1
    assert output.class_truth.max() == classes
    with torch.no_grad():
        assert model.eval()(images).labels.max() < classes
    model = panoptic_fpn(in_channels, classes)
    assert model.train().forward_training(images, panoptic(truth, stuff=255)).logits.shape == (2, 1, 16, 16)
    with torch.no_grad():
        assert model.eval()(images).regions.labels.max() < classes


def test_an_image_is_found_alike_alone_and_in_a_batch():
    torch.manual_seed(3)
    model, images = mask_rcnn().eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both, alone = model(images), model(images[1:])
    own = both.image == 1
    assert torch.equal(both.labels[own], alone.labels)
    assert_close(both.boxes[own], alone.boxes, rtol=1e-3, atol=1e-3)
    assert_close(both.masks[own], alone.masks, rtol=1e-3, atol=1e-4)


def test_no_detection_at_all_is_an_answer():
    model = mask_rcnn(regions=RegionSettings(anchor_sizes=SMALL.anchor_sizes, score_threshold=1.0)).eval()
    with torch.no_grad():
        found = model(torch.randn(1, 3, 64, 64))
    assert [tuple(item.shape) for item in found] == [(0, 4), (0,), (0,), (0, 28, 28), (0,)]


def test_a_limit_that_cuts_says_so():
    torch.manual_seed(0)
    model = mask_rcnn(regions=replace(SMALL, detections=2)).eval()
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match=r"more detections in an image than regions\.detections \(2\)"),
    ):
        assert len(model(torch.randn(1, 3, 64, 64)).boxes) <= 2


def test_autocast_gives_float32_answers():
    model = mask_rcnn().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(torch.randn(1, 3, 64, 64))
    assert {item.dtype for item in (found.boxes, found.scores, found.masks)} == {torch.float32}
    model = panoptic_fpn(things=THINGS).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.forward_training(torch.randn(2, 3, 64, 64), panoptic(SOME))
        terms = RegionPixelCriterion((True, False, True, False))(output, panoptic(SOME))
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("truth", [SOME, NONE, [SOME[0], NONE[1]]], ids=["objects", "none", "one without"])
def test_a_step_has_finite_gradients_everywhere(style, truth):
    torch.manual_seed(0)
    model = mask_rcnn(style=style).train()
    terms = RegionCriterion()(model.forward_training(torch.randn(2, 3, 64, 64), truth), truth)
    sum_terms(terms).backward()
    assert set(terms) == {"objectness", "proposal_box", "class", "box", "mask"}
    assert (terms["mask"] > 0) == any(len(item.labels) for item in truth)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("truth", [SOME, NONE], ids=["objects", "none"])
def test_a_step_of_panoptic_fpn(truth):
    torch.manual_seed(0)
    model, target = panoptic_fpn(things=THINGS).train(), panoptic(truth)
    output = model.forward_training(torch.randn(2, 3, 64, 64), target)
    assert output.logits.shape == (2, 3, 16, 16)
    assert output.regions.class_logits.shape[1] == 3
    sum_terms(RegionPixelCriterion((True, False, True, False))(output, target)).backward()
    assert all(item.grad is not None and item.grad.isfinite().all() for item in model.parameters())


def test_segments_of_stuff_are_no_regions():
    """Class 1 is stuff: its segment is not matched, though it is listed with the things."""
    torch.manual_seed(0)
    segments = [squares([[8, 8, 24, 30], [30, 30, 60, 60]], [2, 1]), squares([[0, 0, 64, 64]], [1])]
    output = panoptic_fpn(things=THINGS).forward_training(
        torch.randn(2, 3, 64, 64), PanopticTruth(tuple(segments), panoptic(segments).labels)
    )
    shown = output.regions.class_truth[output.regions.class_truth < 2]
    assert len(shown) > 0
    assert set(shown.tolist()) == {1}


def test_crowds_are_neither_objects_nor_background():
    torch.manual_seed(0)
    model = mask_rcnn().train()
    everywhere = squares([[0, 0, 64, 64], [4, 4, 20, 20]], [0, 2], crowd=[True, False])
    output = model.forward_training(torch.randn(1, 3, 64, 64), [everywhere])
    assert set(output.class_truth.tolist()) == {2}
    boxes = model.regions.propose(*model.trunk(torch.randn(1, 3, 64, 64))).anchors
    # Only anchors that mostly lie outside of the image are background now.
    assert (output.objectness_truth == 0).sum() <= len(boxes)
    plain = squares([[4, 4, 20, 20]], [2])
    assert 4 in model.forward_training(torch.randn(1, 3, 64, 64), [plain]).class_truth.tolist()


def test_the_draw_is_the_global_generators():
    model, images = mask_rcnn().train(), torch.randn(2, 3, 64, 64)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(model.eval().forward_training(images, SOME))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_frozen_norms_stay():
    model = mask_rcnn(frozen_norm=True).train()
    before = {key: item.clone() for key, item in model.trunk.encoder.state_dict().items() if "running" in key}
    model.forward_training(torch.randn(2, 3, 64, 64), SOME)
    after = model.trunk.encoder.state_dict()
    assert all(torch.equal(item, after[key]) for key, item in before.items())
    assert not model.trunk.encoder.state_dict()["features.0.1.weight"].requires_grad
    assert model.regions.training
    assert model.trunk.pyramid.training


def test_logits_of_padded_images_end_with_the_image():
    torch.manual_seed(0)
    model = panoptic_fpn(things=THINGS).eval()
    images = torch.randn(1, 3, 50, 64)
    with torch.no_grad():
        odd = model(images).logits
        even = model(torch.nn.functional.pad(images, (0, 0, 0, 14))).logits
    assert odd.shape == (1, 3, 50, 64)
    assert even.shape == (1, 3, 16, 16)
    whole = torch.nn.functional.interpolate(even, size=(64, 64), mode="bilinear", align_corners=False)
    assert_close(odd, whole[:, :, :50])


def test_a_backbone_with_too_few_maps_is_refused(monkeypatch):
    def cut(*arguments, **options):
        backbone = build_backbone(*arguments, **options)
        backbone.cut(4)
        return backbone

    monkeypatch.setattr("nuriwake.models.region_trunk.build_backbone", cut)
    with pytest.raises(UserError, match=r"Mask R-CNN needs .* the strides 4, 8, 16 and 32; 'mobilenet_v2' has"):
        mask_rcnn()
    with pytest.raises(UserError, match=r"Panoptic FPN needs .* the strides 4, 8, 16, \.\.\.; 'wide' has"):
        first_level("wide", (8, 16, 32), "Panoptic FPN")


def test_what_does_not_do_is_refused():
    with pytest.raises(UserError, match="'things' of a Panoptic FPN are classes"):
        panoptic_fpn(things=(0, 4))
    with pytest.raises(UserError, match="multiple of 32"):
        panoptic_fpn(semantic_channels=20)
    with pytest.raises(UserError, match=r"regions.*detections.*expected at least 1"):
        build_model("mask_rcnn_r50_fpn", in_channels=3, classes=2, options={"regions": {"detections": 0}})


def test_names_and_their_tasks():
    with torch.device("meta"):
        for name, entry in MODELS.items():
            if name.startswith(("mask_rcnn", "panoptic_fpn")):
                assert entry.task == ("instance" if name.startswith("mask") else "panoptic")
                model = build_model(name, in_channels=3, classes=3, options={"regions": {"detections": 7}})
                parts = [id(item) for stage in model.stages() for item in stage.parameters()]
                assert sorted(parts) == sorted(id(item) for item in model.parameters())
                assert model.backbone() is not None
                assert model.regions.settings.detections == 7


def test_it_cannot_be_exported_whole():
    """How many boxes there are depends on the pixels, and so does the number of steps of their suppression."""
    with pytest.raises(Exception, match=r"(?i)data.dependent|guard"):
        torch.export.export(mask_rcnn().eval(), (torch.randn(1, 3, 64, 64),))


def drawn(generator: torch.Generator, size: int = 64) -> tuple[torch.Tensor, ObjectTruth]:
    """Two coloured squares on noise: red ones are class 0, blue ones class 1."""
    image, boxes, labels = 0.1 * torch.randn(3, size, size, generator=generator), [], []
    for left in (2, 34):
        side, label = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((14, 26), (0, 2)))
        top = int(torch.randint(2, 60 - side, (), generator=generator))
        image[0 if label == 0 else 2, top : top + side, left : left + side] += 2.0
        boxes.append([left, top, left + side, top + side])
        labels.append(label)
    return image, squares(boxes, labels, (size, size))


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    few = replace(SMALL, sampled_regions=16)
    model, criterion = mask_rcnn(classes=2, pyramid_channels=32, regions=few).train(), RegionCriterion()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = [drawn(generator) for _ in range(4)]
    images, truth = torch.stack([image for image, _ in batch]), [item for _, item in batch]
    losses = []
    for _ in range(20):
        terms = criterion(model.forward_training(images, truth), truth)
        losses.append({name: float(term.detach()) for name, term in terms.items()})
        optimiser.zero_grad()
        sum_terms(terms).backward()
        optimiser.step()
    totals = [sum(terms.values()) for terms in losses]
    first, last = sum(totals[:5]) / 5, sum(totals[-5:]) / 5
    print(
        f"{first:.2f} -> {last:.2f}",
        {name: (round(losses[0][name], 3), round(losses[-1][name], 3)) for name in losses[0]},
    )
    assert last < 0.5 * first
