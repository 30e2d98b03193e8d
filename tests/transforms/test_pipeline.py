"""Pipelines and presets: size, seeds, focus, alignment, the fused model input."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.pixels import MAXIMA, normalise
from nuriwake.core.sample import Sample
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.core.targets import SemanticMap
from nuriwake.transforms import PRESETS, Pipeline, evaluation, preset
from nuriwake.transforms.geometric import (
    Elastic,
    GridDistortion,
    HorizontalFlip,
    RandomCrop,
    Rotate90,
    ShiftScaleRotate,
    VerticalFlip,
)
from nuriwake.transforms.photometric import BrightnessContrast, HueSaturation

SPACE = LabelSpace(tuple(f"class {i}" for i in range(9)))
MANY = LabelSpace(("a", "b", "c", "d", "e", "f"), exclusive=False)


def sample(size=(70, 90), channels=3, dtype="uint8", space=SPACE, seed=0):
    rng = np.random.default_rng(seed)
    image = (rng.random((*size, channels)) * MAXIMA[np.dtype(dtype)]).astype(dtype)
    shape = size if space.exclusive else (*size, len(space))
    labels = rng.integers(0, len(space) if space.exclusive else 2, shape).astype(np.uint8)
    return Sample(image, SemanticMap(labels, space), name="a", spacing=(0.5, 0.5))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (5, "uint16"), (12, "float32")])
def test_presets_give_exactly_the_size(name, channels, dtype):
    given_sample = sample(channels=channels, dtype=dtype)
    before = given_sample.image.copy(), given_sample.target.labels.copy()
    for size in ((32, 48), (128, 96)):
        pipeline = preset(name, size, channels=channels)
        for seed in range(6):
            out = pipeline(given_sample, np.random.default_rng(seed))
            assert out.size == size
            assert out.image.dtype == np.dtype(dtype)
            assert out.image.shape[2] == channels
            assert out.image.flags.c_contiguous
            assert (out.name, out.spacing) == ("a", (0.5, 0.5))
    np.testing.assert_array_equal(given_sample.image, before[0])
    np.testing.assert_array_equal(given_sample.target.labels, before[1])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_configuration_and_a_worker(name):
    pipeline = preset(name, (32, 48))
    assert from_plain(Pipeline, to_plain(pipeline)) == pipeline
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_sample(name):
    pipeline, given_sample = preset(name, (48, 48)), sample()
    results = [pipeline(given_sample, np.random.default_rng([1, 2, seed])) for seed in (3, 3, 4, 5)]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    np.testing.assert_array_equal(results[0].target.labels, results[1].target.labels)
    assert any((results[0].image != other.image).any() for other in results[2:])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint8"), (3, "uint16"), (5, "float32")])
def test_prepare_is_the_call_and_then_normalise(name, channels, dtype):
    pipeline, given_sample = preset(name, (40, 56), channels=channels), sample(channels=channels, dtype=dtype)
    mean, deviation, maximum = [0.4] * channels, [0.25] * channels, MAXIMA[np.dtype(dtype)]
    for seed in range(8):
        out = pipeline(given_sample, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        tensor, target = pipeline.prepare(given_sample, rng, mean=mean, deviation=deviation, maximum=maximum)
        assert tensor.dtype == np.float32
        assert tensor.flags.c_contiguous
        expected = normalise(out.image, mean, deviation, maximum=maximum)
        step = 0.0 if dtype == "float32" else 0.51 / maximum
        np.testing.assert_allclose(tensor, expected, atol=step / 0.25 + 1e-4)
        np.testing.assert_array_equal(target.labels, out.target.labels)


def test_image_and_mask_stay_aligned_through_everything():
    # The image is the mask painted with 24 * label + 12: where both are flat, each tells the other.
    labels = np.kron(np.random.default_rng(1).integers(0, 9, (9, 9)), np.ones((20, 20))).astype(np.uint8)
    painted = Sample((labels * 24 + 12)[..., None], SemanticMap(labels, SPACE))
    pipeline = Pipeline(
        (
            Rotate90(),
            RandomCrop(zoom=(0.8, 1.6)),
            HorizontalFlip(),
            VerticalFlip(),
            ShiftScaleRotate(degrees=(-40, 40), probability=1),
            Elastic(probability=0.7),
            GridDistortion(probability=0.7),
        ),
        (),
        (128, 128),
    )
    for seed in range(20):
        out = pipeline(painted, np.random.default_rng(seed))
        seen, wanted = np.rint((out.image[..., 0].astype(int) - 12) / 24), out.target.labels
        flat = cv2.erode((wanted == cv2.erode(wanted, np.ones((5, 5)))).astype(np.uint8), np.ones((5, 5))) > 0
        flat &= (wanted != IGNORE) & (wanted == cv2.dilate(wanted, np.ones((5, 5))))
        # What lies just outside the canvas is unknown, so its frame is never known to be flat.
        flat[:4], flat[-4:], flat[:, :4], flat[:, -4:] = False, False, False, False
        assert flat.mean() > 0.1
        assert (seen == wanted)[flat].all()


def test_many_questions_per_pixel():
    given_sample = sample(space=MANY)
    pipeline = preset("medical", (96, 96))
    for seed in range(6):
        out = pipeline(given_sample, np.random.default_rng(seed))
        assert out.target.labels.shape == (96, 96, 6)
        invented = out.target.labels == IGNORE
        assert (invented.all(axis=2) == invented.any(axis=2)).all()


def test_no_target_is_fine():
    out = preset("natural", (32, 32))(Sample(sample().image), np.random.default_rng(0))
    assert out.target is None
    assert out.size == (32, 32)


def test_borders():
    bright = Sample(np.full((10, 10, 3), 200, np.uint8), SemanticMap(np.zeros((10, 10), np.uint8), SPACE))
    for border, expected in (("reflect", 200), ("edge", 200), ("constant", 7)):
        pipeline = Pipeline((), (), (20, 20), border=border, fill=7)
        out = pipeline(bright, np.random.default_rng(0))
        assert (out.image[5:15, 5:15] == 200).all()
        assert (out.image[:5] == expected).all()
        assert (out.target.labels == IGNORE).sum() == 300


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    row=st.integers(0, 69),
    column=st.integers(0, 89),
    name=st.sampled_from(["none", "natural", "medical", "satellite"]),
)
def test_a_focus_is_always_in_the_crop(seed, row, column, name):
    pipeline = preset(name, (24, 40))
    warp = pipeline.plan((70, 90), np.random.default_rng(seed), focus=(row, column))
    y, x = warp.landing((row + 0.5, column + 0.5))
    assert 0 <= y < 24
    assert 0 <= x < 40


@pytest.mark.parametrize("name", PRESETS)
def test_within_a_margin_is_what_there_is_without_one(name):
    inner = preset(name, (24, 28))
    outer = replace(inner, size=(34, 38), margin=5)
    for seed in range(20):
        for focus in (None, (39, 0)):
            alone, whole = (
                pipeline.plan((40, 44), np.random.default_rng(seed), focus=focus) for pipeline in (inner, outer)
            )
            assert whole.size == (34, 38)
            for points, within in zip(alone.grid(), whole.grid(), strict=True):
                np.testing.assert_allclose(within[5:-5, 5:-5], points, atol=1e-3)


def test_a_margin_shows_what_lies_around_the_window_and_mirrors_at_the_border():
    numbered = np.arange(12 * 14, dtype=np.uint8).reshape(12, 14)
    whole = Sample(numbered[..., None], SemanticMap((numbered % 7), SPACE))
    pipeline = Pipeline((RandomCrop(),), (), (10, 10), margin=3)
    mirrored = np.pad(numbered, 3, mode="reflect")
    windows = {mirrored[y : y + 10, x : x + 10].tobytes() for y in range(9) for x in range(11)}
    seen = {pipeline(whole, np.random.default_rng(seed)).image.tobytes() for seed in range(1500)}
    assert seen == windows
    rows = {
        int(pipeline.plan((12, 14), np.random.default_rng(s), focus=(0, 13)).landing((0.5, 13.5))[0]) for s in range(9)
    }
    assert rows == {3}  # the first row of the image, in the first that the loss sees


def test_a_focus_lies_within_the_margin():
    pipeline = replace(preset("medical", (44, 60)), margin=10)
    for seed in range(60):
        focus = (seed % 70, (7 * seed) % 90)
        warp = pipeline.plan((70, 90), np.random.default_rng(seed), focus=focus)
        y, x = warp.landing((focus[0] + 0.5, focus[1] + 0.5))
        assert 10 <= y < 34
        assert 10 <= x < 50


def test_probabilities_are_kept():
    pipeline = Pipeline((HorizontalFlip(0.3),), (), (4, 4))
    flips = sum(pipeline.plan((4, 4), np.random.default_rng(seed)).matrix[0, 0] < 0 for seed in range(2000))
    assert abs(flips / 2000 - 0.3) < 0.035


def test_hue_only_for_three_channels():
    for name in PRESETS:
        for channels in (1, 3, 5):
            found = [isinstance(step, HueSaturation) for step in preset(name, (8, 8), channels=channels).photometric]
            assert any(found) == (channels == 3 and name != "none")


def test_evaluation_is_the_middle_and_never_random():
    given_sample = sample()
    out = evaluation((30, 40))(given_sample, np.random.default_rng(0))
    np.testing.assert_array_equal(out.image, given_sample.image[20:50, 25:65])
    np.testing.assert_array_equal(out.target.labels, given_sample.target.labels[20:50, 25:65])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: preset("natrual", (8, 8)), "Did you mean 'natural'"),
        (lambda: Pipeline((), (), (0, 8)), "size: expected a positive"),
        (lambda: Pipeline((), (), (8, 9), margin=4), "margin: expected 0 to less than half of the size 8x9, found 4"),
        (lambda: Pipeline((HorizontalFlip(1.5),), (), (8, 8)), "horizontal_flip.probability"),
        (lambda: from_plain(Pipeline, {"geometric": [], "photometric": [], "size": [8, 8], "boarder": 1}), "'border'"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_numbers_of_another_channel_count_are_refused():
    pipeline = Pipeline((), (BrightnessContrast(),), (8, 8))
    with pytest.raises(UserError, match="3 channels, but the mean has 1"):
        pipeline.prepare(sample(), np.random.default_rng(0), mean=[0.5], deviation=[0.5], maximum=255.0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_beyond_the_border_the_mean_of_the_image(dtype):
    image = np.zeros((16, 16, 3), dtype)
    image[:, 8:] = 200
    found = Pipeline((), (), (32, 16), border="mean")(Sample(image, name="x"), np.random.default_rng(0)).image
    np.testing.assert_array_equal(found[8:24], image)
    assert (found[:8] == 100).all()
    assert (found[24:] == 100).all()
    if dtype == "float32":
        image[0, 0] = np.nan
        assert (
            Pipeline((), (), (32, 16), border="mean")(Sample(image, name="x"), np.random.default_rng(0)).image[:8] == 0
        ).all()
