"""Decoding of grids and kernels: against the published way, which makes every mask of the image at once."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.inference.decoders import kernels as module
from nuriwake.inference.decoders.kernels import KernelDecoder, decay, full_masks, peaks
from nuriwake.inference.decoding import Pass, Request, find_decoder
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import Grid
from nuriwake.models.outputs import KernelOutput
from nuriwake.models.solov2 import SOLOv2

SPACE = LabelSpace(("cat", "dog", "fox"))
GRIDS = (5, 4, 3, 2, 2)
pytestmark = pytest.mark.filterwarnings("ignore:There are more objects")


def output_of(seed=0, batch=1, size=(12, 16), bias=0.0) -> KernelOutput:
    """Smooth features, so that masks of the same place overlap."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 4, 3, 4, generator=generator)
    return KernelOutput(
        tuple(2 * torch.randn(batch, 3, grid, grid, generator=generator) + bias for grid in GRIDS),
        tuple(torch.randn(batch, 4, grid, grid, generator=generator) for grid in GRIDS),
        functional.interpolate(features, size, mode="bicubic"),
    )


def grid(size, given) -> Grid:
    return Grid(size, given, 0, (0,), (0,))


def slow_decay(masks, kind, sigma):
    """Equations 3 to 5 of the paper, mask by mask, for masks of one class, best first."""

    def overlap(i, j):
        return (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()

    def function(value):
        return math.exp(-sigma * value**2) if kind == "gaussian" else 1 - value

    factors = []
    for j in range(len(masks)):
        candidates = [1.0]
        for i in range(j):
            lost = max((overlap(k, i) for k in range(i)), default=0.0)
            candidates.append(function(overlap(i, j)) / max(function(lost), 1e-6))
        factors.append(min(candidates))
    return factors


@given(st.integers(0, 10_000), st.sampled_from(["gaussian", "linear"]), st.sampled_from([0.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_scores_fall_as_in_the_paper(seed, kind, sigma):
    rng = np.random.default_rng(seed)
    masks = np.stack([rng.random((6, 8)) < rng.uniform(0.2, 1) for _ in range(7)])
    masks[:, 0, 0] = True
    masks[3] = masks[1]
    flat = torch.from_numpy(masks).flatten(1).float()
    found = decay(flat @ flat.T, flat.sum(1), kind=kind, sigma=sigma)
    assert np.allclose(found, slow_decay(masks, kind, sigma), atol=1e-5)


def slow_find(output, options):
    """Every candidate's mask by convolution, then all of them against all."""
    rows = []
    features = output.mask_features[:1]
    for logits, kernels, stride in zip(output.class_logits, output.kernels, options.strides, strict=True):
        scores = logits[0].sigmoid()
        side = scores.shape[-1]
        for y in range(side):
            for x in range(side):
                probability = functional.conv2d(features, kernels[0, :, y, x][None, :, None, None])[0, 0].sigmoid()
                mask = probability > options.mask_threshold
                for label in range(len(scores)):
                    near = scores[label, max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1]
                    score = float(scores[label, y, x])
                    if score < near.max() or score <= options.candidate_threshold or mask.sum() <= stride:
                        continue
                    rows.append((score * float(probability[mask].mean()), label, mask.numpy(), kernels[0, :, y, x]))
    rows.sort(key=lambda row: -row[0])
    rows = rows[: options.candidates]
    found = []
    for label in range(3):
        same = [row for row in rows if row[1] == label]
        factors = slow_decay([row[2] for row in same], options.decay, options.sigma)
        found += [(row[0] * factor, label, row[3]) for row, factor in zip(same, factors, strict=True)]
    found = sorted((row for row in found if row[0] >= options.score_threshold), key=lambda row: -row[0])
    return found[: options.detections]


@pytest.mark.parametrize("budget", [1 << 24, 500])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decay": "linear"},
        {"score_threshold": 0.4, "candidates": 20},
        {"candidate_threshold": 0.7, "mask_threshold": 0.6, "sigma": 0.5, "detections": 3},
    ],
)
def test_objects_are_those_of_the_published_way(options, budget, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", budget)
    decoder = KernelDecoder(**options)
    for seed in range(3):
        output = output_of(seed)
        found, expected = decoder.find(output, 0), slow_find(output, decoder)
        assert len(expected) > 1
        assert np.allclose(found.scores, [row[0] for row in expected], atol=1e-5)
        assert found.labels.tolist() == [row[1] for row in expected]
        assert torch.equal(found.kernels, torch.stack([row[2] for row in expected]))


def test_a_peak_beats_its_neighbours_above_and_to_the_left():
    scores = torch.tensor([[[3.0, 2, 5], [1, 4, 1], [4, 4, 9]]])
    assert peaks(scores)[:, 0].tolist() == [3, 0, 5, 0, 4, 0, 4, 4, 9]


@pytest.mark.parametrize(
    ("size", "given", "wanted"),
    [((48, 64), (64, 64), (48, 64)), ((45, 61), (64, 64), (101, 77)), ((64, 64), (64, 64), (17, 90))],
)
def test_masks_are_those_of_two_resizes(size, given, wanted):
    output = output_of(4, size=(given[0] // 4, given[1] // 4))
    kernels = torch.cat([level[0].flatten(1).T for level in output.kernels])
    found = full_masks(kernels, output.mask_features[0], grid(size, given), wanted, threshold=0.5).dense()
    small = torch.einsum("ne,ehw->nhw", kernels, output.mask_features[0]).sigmoid()[None]
    padded = functional.interpolate(small, given, mode="bilinear")[:, :, : size[0], : size[1]]
    values = functional.interpolate(padded, wanted, mode="bilinear")[0]
    differs = torch.from_numpy(found.astype(bool)) != (values > 0.5)
    assert differs.float().mean() < 1e-3
    assert (values - 0.5).abs()[differs].max().item() < 1e-5 if differs.any() else True


def test_many_masks_in_small_portions_are_the_same(monkeypatch):
    output, kernels = output_of(1), torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    arguments = (kernels, output.mask_features[0], grid((48, 64), (48, 64)), (48, 64))
    whole = full_masks(*arguments, threshold=0.5)
    monkeypatch.setattr(module, "BUDGET", 2 * 12 * 16)
    assert (full_masks(*arguments, threshold=0.5).dense() == whole.dense()).all()


def test_an_answer_has_the_users_pixels_and_falling_scores():
    output = output_of(2, batch=2)
    request = Request((96, 128), "instance", SPACE, PredictSettings())
    found = KernelDecoder()([Pass(grid((48, 64), (48, 64)), ("none",), iter([(output, 1)]))], request)
    assert found.size == (96, 128)
    assert len(found) > 3
    assert (np.diff(found.scores) <= 0).all()
    assert found.labels.dtype == np.int32
    one = output._replace(
        class_logits=tuple(level[1:] for level in output.class_logits),
        kernels=tuple(level[1:] for level in output.kernels),
        mask_features=output.mask_features[1:],
    )
    assert torch.equal(KernelDecoder().find(one, 0).scores, torch.from_numpy(found.scores))


def test_bfloat16_is_decoded_too():
    output = output_of(2)
    half = KernelOutput(
        tuple(level.bfloat16() for level in output.class_logits),
        tuple(level.bfloat16() for level in output.kernels),
        output.mask_features.bfloat16(),
    )
    assert KernelDecoder().find(half, 0).scores.dtype == torch.float32


@pytest.mark.parametrize("why", ["no class", "no mask"])
def test_nothing_is_found_where_there_is_nothing(why):
    output = output_of(bias=-100.0) if why == "no class" else output_of()
    if why == "no mask":
        output = output._replace(mask_features=torch.zeros_like(output.mask_features))
    request = Request((48, 64), "instance", SPACE, PredictSettings())
    found = KernelDecoder()([Pass(grid((48, 64), (48, 64)), ("none",), iter([(output, 0)]))], request)
    assert (len(found), found.size, found.scores.shape) == (0, (48, 64), (0,))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["candidates", "detections"])
def test_a_limit_that_cuts_says_so(name):
    with pytest.warns(UserWarning, match=rf"settings\.decoding\.{name} \(2\).*Raise it"):
        KernelDecoder(**{name: 2}).find(output_of(), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelDecoder().find(output_of(bias=-2.0), 0)


def test_what_does_not_fit_is_said():
    for name, value in (("score_threshold", 1.0), ("detections", 0), ("sigma", 0.0)):
        with pytest.raises(UserError, match=rf"settings\.decoding\.{name}: expected.*found {value}"):
            find_decoder("instance", KernelOutput, {name: value})
    with pytest.raises(UserError, match=r"one for each of the 5 levels, found \(8,\)"):
        KernelDecoder(strides=(8,)).find(output_of(), 0)
    request = Request((48, 64), "instance", LabelSpace(("cat",)), PredictSettings())
    with pytest.raises(UserError, match="3 classes apart, but the label space has 1"):
        KernelDecoder()([Pass(grid((48, 64), (48, 64)), ("none",), iter([(output_of(), 0)]))], request)


def test_a_predictor_answers_with_instances():
    torch.manual_seed(0)
    widths = dict.fromkeys(("pyramid_channels", "channels", "mask_channels", "kernel_channels"), 32)
    model = SOLOv2(3, 3, backbone="mobilenet_v2", convolutions=1, grids=GRIDS, **widths)
    rule = Preprocessing(resize=ResizeRule(shortest=40, longest=64), padding="zero")
    options = {"candidate_threshold": 0.0, "score_threshold": 0.0, "mask_threshold": 0.4}
    changed = PredictSettings(tile=None, decoding=options)
    predictor = Predictor(model, space=SPACE, preprocessing=rule, task="instance", settings=changed)
    image = np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8)
    found = predictor(image)
    assert found.size == (50, 90)
    assert len(found) > 0
    again = predictor.batch([image, image])
    assert all((answer.masks.dense() == found.masks.dense()).all() for answer in again)
    with pytest.raises(UserError, match="mirrored copies and of several scales are averaged"):
        predictor.with_settings(PredictSettings(tile=None, flips="horizontal", decoding=options))(image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: the same objects are found on it")
def test_a_gpu_finds_the_same():
    output = output_of(3)
    moved = KernelOutput(
        tuple(level.cuda() for level in output.class_logits),
        tuple(level.cuda() for level in output.kernels),
        output.mask_features.cuda(),
    )
    found, expected = KernelDecoder().find(moved, 0), KernelDecoder().find(output, 0)
    assert torch.allclose(found.scores.cpu(), expected.scores, atol=1e-3)
    assert found.labels.cpu().tolist() == expected.labels.tolist()
