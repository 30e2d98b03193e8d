"""Decoding of priors and prototypes: suppression against a loop, masks against the published way through full images."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.enlarge import bilinear_axis
from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.inference.decoders.prototypes import PrototypeDecoder, assemble, small_masks
from nuriwake.inference.decoding import DECODERS, Pass, Request, find_decoder
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import Grid
from nuriwake.models.boxes import encode_boxes
from nuriwake.models.outputs import PrototypeOutput
from nuriwake.models.priors import OFFSET_SCALE, corners, make_priors
from nuriwake.models.yolact import Yolact

SPACE = LabelSpace(("cat", "dog", "fox"))


def output_of(count: int, seed: int, cells=(12, 16)) -> PrototypeOutput:
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors([(6, 8)], (0.3,), (1.0,))[:count]
    return PrototypeOutput(
        torch.randn(1, len(priors), 4, generator=generator) * 2,
        torch.randn(1, len(priors), 4, generator=generator),
        torch.randn(1, len(priors), 5, generator=generator).tanh(),
        priors,
        torch.rand(1, 5, *cells, generator=generator),
        torch.zeros(1, 0, 6, 8),
    )


def request(size=(48, 64), space=SPACE) -> Request:
    return Request(size, "instance", space, PredictSettings())


def grid(size, given=None) -> Grid:
    return Grid(size, given or size, 0, (0,), (0,))


def slow_boxes(output):
    """Offsets undone as SSD writes them."""
    found = []
    for (dx, dy, dw, dh), (x, y, w, h) in zip(output.deltas[0].tolist(), output.priors.tolist(), strict=True):
        x, y, w, h = x + dx * 0.1 * w, y + dy * 0.1 * h, w * np.exp(0.2 * dw), h * np.exp(0.2 * dh)
        found.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return found


def slow_overlap(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_detections(output, options: PrototypeDecoder):
    """(score, class, prior), surest first: what overlaps anything surer of its class is out, even if that is out too."""
    scores, boxes = output.class_logits[0].softmax(1)[:, 1:].tolist(), slow_boxes(output)
    kept = []
    for label in range(len(scores[0])):
        ranked = sorted(((row[label], prior) for prior, row in enumerate(scores)), reverse=True)
        ranked = [(score, prior) for score, prior in ranked if score > options.score_threshold][: options.candidates]
        for place, (score, prior) in enumerate(ranked):
            surer = [slow_overlap(boxes[prior], boxes[other]) for _, other in ranked[:place]]
            if max(surer, default=0) <= options.overlap_threshold:
                kept.append((score, label, prior))
    return sorted(kept, reverse=True)[: options.detections]


def published_masks(prototypes, coefficients, boxes, size):
    """Assembled on all cells, cropped, enlarged to the whole image, thresholded: float values before the threshold."""
    height, width = prototypes.shape[1:]
    masks = torch.einsum("phw,np->nhw", prototypes, coefficients).sigmoid()
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    left, right = (boxes[:, [0, 2]] * width).sort(dim=1).values.T[:, :, None, None]
    top, bottom = (boxes[:, [1, 3]] * height).sort(dim=1).values.T[:, :, None, None]
    inside = (x >= (left - 1).clamp(min=0)) & (x < (right + 1).clamp(max=width))
    inside = inside & (y >= (top - 1).clamp(min=0)) & (y < (bottom + 1).clamp(max=height))
    return functional.interpolate((masks * inside)[None], size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"overlap_threshold": 0.2}, {"candidates": 4, "detections": 7}])
@pytest.mark.filterwarnings("ignore:There are more")
def test_detections_are_those_of_the_loop(seed, options):
    output, decoder = output_of(48, seed), PrototypeDecoder(score_threshold=0.2, **options)
    found, expected = decoder.detect(output, 0), slow_detections(output, decoder)
    assert len(found.labels) == len(expected) > 3
    assert np.allclose(found.scores, [score for score, _, _ in expected], atol=1e-6)
    assert found.labels.tolist() == [label for _, label, _ in expected]
    boxes = slow_boxes(output)
    assert np.allclose(found.boxes, [boxes[prior] for _, _, prior in expected], atol=1e-5)
    assert np.allclose(found.coefficients, output.coefficients[0, [prior for _, _, prior in expected]].numpy())


def test_across_classes_a_prior_has_one_class_and_all_compete():
    output = output_of(48, 0)
    found = PrototypeDecoder(score_threshold=0.2, across_classes=True).detect(output, 0)
    overlaps = [slow_overlap(a, b) for i, a in enumerate(found.boxes) for b in found.boxes[:i]]
    assert max(overlaps) <= 0.5
    best = output.class_logits[0].softmax(1)[:, 1:].max()
    assert found.scores[0] == pytest.approx(float(best))


@pytest.mark.parametrize("size", [(48, 64), (101, 77), (9, 5), (550, 333)])
def test_masks_are_the_published_ones_pixel_by_pixel(size):
    torch.manual_seed(0)
    prototypes, coefficients = torch.rand(6, 23, 31) * 3, torch.randn(40, 6).tanh()
    boxes = torch.rand(40, 4) * 1.4 - 0.2  # some turned inside out, some beyond the image
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes[1] = torch.tensor([2.0, 2.0, 3.0, 3.0])
    values = published_masks(prototypes, coefficients, boxes, size).numpy()
    rows, columns = bilinear_axis(23, size[0]), bilinear_axis(31, size[1])
    found = assemble(coefficients.numpy(), prototypes.numpy(), boxes.numpy(), rows, columns, threshold=0.5)
    dense = found.dense()
    clear = np.abs(values - 0.5) > 1e-5
    assert clear.mean() > 0.999
    assert np.array_equal(dense[clear] != 0, values[clear] > 0.5)
    assert dense.any()
    assert not dense[1].any()


def test_many_masks_go_in_chunks():
    torch.manual_seed(0)
    prototypes, coefficients = torch.rand(3, 8, 8).numpy(), torch.randn(150, 3).numpy()
    boxes = np.tile(np.float32([0.1, 0.2, 0.8, 0.9]), (150, 1))
    axis = bilinear_axis(8, 32)
    every = assemble(coefficients, prototypes, boxes, axis, axis, threshold=0.5)
    alone = assemble(coefficients[140:141], prototypes, boxes[140:141], axis, axis, threshold=0.5)
    assert len(every) == 150
    assert np.array_equal(every.dense([140]), alone.dense())


def test_what_lies_outside_the_box_is_never_assembled():
    prototypes = np.full((2, 10, 10), np.nan, np.float32)
    prototypes[:, 3:7, 2:6] = 1.0
    small = small_masks(np.ones((1, 2), np.float32), prototypes, np.float32([[0.3, 0.4, 0.5, 0.6]]))
    assert np.isfinite(small).all()
    assert (small[0, 3:7, 2:6] > 0.8).all()
    assert small.sum() == small[0, 3:7, 2:6].sum()


def one_object(box, size, given, cells=(16, 16)) -> PrototypeOutput:
    """A prior that says `box` (pixels) of class 1, and a prototype that is 1 everywhere."""
    priors = make_priors([(2, 2)], (0.5,), (1.0,))
    logits = torch.full((1, 4, 4), -20.0)
    logits[0, :, 0] = 20.0
    logits[0, 3, :3] = torch.tensor([-20.0, -20.0, 20.0])
    shares = torch.tensor(box) / torch.tensor([given[1], given[0], given[1], given[0]])
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 3] = encode_boxes(shares[None], corners(priors[3:]), OFFSET_SCALE)[0]
    return PrototypeOutput(
        logits, deltas, torch.ones(1, 4, 1), priors, torch.full((1, 1, *cells), 9.0), torch.zeros(1, 0, 8, 8)
    )


@pytest.mark.parametrize("given", [(64, 64), (80, 96)])
def test_boxes_and_masks_come_back_in_the_users_pixels(given):
    """The image of 128x192 was seen at 64x64; the second time, beyond it, padded."""
    output = one_object([16.0, 8.0, 48.0, 56.0], (64, 64), given, cells=(given[0] // 4, given[1] // 4))
    found = PrototypeDecoder()([Pass(grid((64, 64), given), ("none",), iter([(output, 0)]))], request((128, 192)))
    assert found.size == (128, 192)
    assert found.labels.tolist() == [1]
    assert np.allclose(found.boxes, [[48, 16, 144, 112]], atol=1e-3)
    (left, top, right, bottom) = found.masks.boxes()[0]
    # A cell of 4 pixels of what was seen is 12x8 pixels here; the mask ends between one and two of them beyond the box.
    assert 48 - 24 <= left <= 48
    assert 144 <= right <= 144 + 24
    assert 16 - 16 <= top <= 16
    assert 112 <= bottom <= 112 + 16


def test_boxes_end_at_the_image():
    output = one_object([-10.0, -20.0, 90.0, 70.0], (64, 64), (64, 64))
    found = PrototypeDecoder()([Pass(grid((64, 64)), ("none",), iter([(output, 0)]))], request((64, 64)))
    assert found.boxes.tolist() == [[0, 0, 64, 64]]
    assert found.masks.areas().tolist() == [64 * 64]


def test_nothing_found_is_no_error():
    output = output_of(48, 0)
    passes = [Pass(grid((48, 64)), ("none",), iter([(output, 0)]))]
    found = PrototypeDecoder(score_threshold=0.9999)(passes, request())
    assert len(found) == 0
    assert found.size == (48, 64)
    assert found.boxes.shape == (0, 4)


def test_what_a_limit_cuts_is_told():
    output = output_of(48, 0)
    with pytest.warns(UserWarning, match=r"more instances in an image than settings\.decoding\.detections \(2\)"):
        found = PrototypeDecoder(score_threshold=0.2, detections=2).detect(output, 0)
    assert len(found.labels) == 2
    with pytest.warns(UserWarning, match=r"settings\.decoding\.candidates \(3\)"):
        PrototypeDecoder(score_threshold=0.2, candidates=3).detect(output, 0)


def test_options_are_checked():
    decoder = find_decoder("instance", PrototypeOutput, {"score_threshold": 0.3, "detections": 500})
    assert (decoder.score_threshold, decoder.detections, decoder.blends) == (0.3, 500, False)
    assert DECODERS["instance", PrototypeOutput].endswith(":PrototypeDecoder")
    with pytest.raises(UserError, match=r"score_threshold: expected 0 to below 1, found 1\.5"):
        PrototypeDecoder(score_threshold=1.5)
    with pytest.raises(UserError, match="detections: expected at least 1"):
        PrototypeDecoder(detections=0)
    with pytest.raises(UserError, match="Did you mean 'overlap_threshold'"):
        find_decoder("instance", PrototypeOutput, {"overlap_treshold": 0.3})


def test_a_label_space_of_other_classes_is_refused():
    passes = [Pass(grid((48, 64)), ("none",), iter([(output_of(48, 0), 0)]))]
    with pytest.raises(UserError, match="3 classes apart, but the label space has 2"):
        PrototypeDecoder()(passes, request(space=LabelSpace(("cat", "dog"))))


@pytest.mark.filterwarnings("ignore:There are more")
def test_a_predictor_answers_with_instances():
    torch.manual_seed(0)
    model = Yolact(3, 3, backbone="resnet18", pyramid_channels=8, prototypes=4)
    predictor = Predictor(
        model,
        space=SPACE,
        preprocessing=Preprocessing(resize=ResizeRule(exact=(64, 64)), padding="zero"),
        task="instance",
        settings=PredictSettings(decoding={"score_threshold": 0.2, "detections": 300}),
    )
    images = [np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8) for _ in range(2)]
    together = predictor.batch(images)
    alone = predictor(images[0])
    assert alone.size == (50, 70)
    assert len(alone) == len(together[0]) > 0
    assert np.allclose(alone.scores, together[0].scores, atol=1e-5)
    assert (np.diff(alone.scores) <= 0).all()
