"""Photometric stages: against twins that do one operation after the other on floats."""

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.pixels import MAXIMA, normalise, scale_offset
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.transforms.photometric import (
    Blur,
    BrightnessContrast,
    Gamma,
    Grain,
    HueSaturation,
    Mix,
    Noise,
    PhotometricOperation,
    Smooth,
    Tone,
)
from nuriwake.transforms.toning import Scale, Units, tone_image, tone_input

EVERY = [BrightnessContrast(), Gamma(), HueSaturation(), Blur(), Noise()]


def picture(channels=3, size=(37, 41), dtype="uint8", seed=0):
    values = np.random.default_rng(seed).random((*size, channels)) * 0.9
    return (values * MAXIMA[np.dtype(dtype)]).astype(dtype)


def slow(image, stages, maximum):
    """Tones and matrices in double precision, never rounded."""
    values, means = image.astype(np.float64), None
    for stage in stages:
        if isinstance(stage, Tone):
            means = values.mean(axis=(0, 1))
            values = (values - means) * stage.contrast + means + stage.brightness * maximum
            if image.dtype != np.float32:
                values = np.clip(values, 0, MAXIMA[image.dtype])
            if stage.gamma != 1:
                values = np.sign(values) * (np.abs(values) / maximum) ** stage.gamma * maximum
        else:
            values = np.einsum("hwc,dc->hwd", values, stage.matrix)
            values = values if image.dtype == np.float32 else np.clip(values, 0, MAXIMA[image.dtype])
    return values


def tone(channels=3, contrast=1.3, brightness=0.1, gamma=1.0):
    return Tone(np.linspace(contrast, 1, channels), np.linspace(brightness, -0.05, channels), gamma)


def mix(seed=0):
    return HueSaturation(hue=40, saturation=0.5).draw(3, np.random.default_rng(seed))


CHAINS = {
    "line": lambda channels: [tone(channels)],
    "gamma": lambda channels: [tone(channels, gamma=0.7)],
    "pure gamma": lambda channels: [Tone(np.ones(channels), np.zeros(channels), 1.4)],
}
COLOUR_CHAINS = {
    "mix": lambda: [mix()],
    "line, mix": lambda: [tone(), mix()],
    "gamma, mix": lambda: [tone(gamma=1.3), mix()],
    "two mixes": lambda: [mix(1), Mix(np.diag([0.9, 1.0, 0.8]))],
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5, 12])
def test_tones_are_the_slow_twin(chain, dtype, channels):
    check(picture(channels, dtype=dtype), CHAINS[chain](channels))


@pytest.mark.parametrize("chain", COLOUR_CHAINS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_colours_are_the_slow_twin(chain, dtype):
    # In the middle of the range, since clipping between two matrices is only done where pixels are needed.
    image = (picture(dtype=dtype) * 0.5 + 0.25 * MAXIMA[np.dtype(dtype)]).astype(dtype)
    check(image, COLOUR_CHAINS[chain]())


def check(image, stages):
    maximum = MAXIMA[image.dtype]
    expected = slow(image, stages, maximum)
    out = tone_image(image, stages)
    assert out.dtype == image.dtype
    assert out.shape == image.shape
    rounding = 0.0 if image.dtype == np.float32 else 0.51
    np.testing.assert_allclose(out, expected, atol=rounding + maximum * 2e-5)
    channels = image.shape[2]
    scale, offset = scale_offset([0.4] * channels, [0.2] * channels, maximum=maximum, channels=channels)
    values = tone_input(image, stages, Scale(scale, offset))
    np.testing.assert_allclose(values, ((expected / maximum - 0.4) / 0.2).transpose(2, 0, 1), atol=2e-4)


def test_two_tones_compose_into_one_table():
    image = picture()
    out = tone_image(image, [tone(), tone(gamma=0.8)])
    assert np.abs(out - slow(image, [tone(), tone(gamma=0.8)], 255)).max() < 4  # the pivot is the table at the mean


def test_a_tone_after_a_matrix_and_a_blur_see_the_pixels():
    image = picture()
    stages = [tone(), mix(), tone(gamma=1.2), Smooth(1.0), tone(), Grain(0.02, 5), mix(3)]
    one_by_one = image
    for stage in stages:
        one_by_one = tone_image(one_by_one, [stage])
    assert np.abs(tone_image(image, stages).astype(int) - one_by_one.astype(int)).max() <= 2
    rounded = normalise(tone_image(image, stages), [0.5] * 3, [0.2] * 3, maximum=255.0)
    scale, offset = scale_offset([0.5] * 3, [0.2] * 3, maximum=255.0, channels=3)
    assert np.abs(tone_input(image, stages, Scale(scale, offset)) - rounded).max() <= 0.51 / 255 / 0.2


def test_nothing_to_do_gives_the_very_image():
    image = picture()
    assert tone_image(image, []) is image


def test_the_given_image_stays():
    for dtype in ("uint8", "uint16", "float32"):
        image = picture(dtype=dtype)
        before = image.copy()
        tone_image(image, [tone(), Grain(0.1, 1), Smooth(0.7), mix()])
        np.testing.assert_array_equal(image, before)


def test_saturation_and_hue():
    image = picture(dtype="float32")
    luma = np.array([0.299, 0.587, 0.114])
    grey = np.repeat(image[..., :1], 3, axis=2)
    for seed in range(5):
        stage = HueSaturation(hue=180, saturation=0.9).draw(3, np.random.default_rng(seed))
        np.testing.assert_allclose(tone_image(grey, [stage]), grey, atol=1e-5)
        np.testing.assert_allclose(tone_image(image, [stage]) @ luma, image @ luma, atol=1e-5)
    full_turn = HueSaturation(hue=0, saturation=0).draw(3, np.random.default_rng(0))
    np.testing.assert_allclose(full_turn.matrix, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_hue_of_other_than_rgb_is_refused_not_skipped(channels):
    with pytest.raises(UserError, match=f"3 channels, found {channels}"):
        HueSaturation().draw(channels, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_noise_is_gaussian_of_the_deviation(dtype, channels):
    maximum = MAXIMA[np.dtype(dtype)]
    image = np.full((120, 130, channels), 0.5 * maximum).astype(dtype)
    noise = (tone_image(image, [Grain(0.05, 77)]).astype(np.float64) - image) / maximum
    assert abs(noise.mean()) < 0.002
    assert abs(noise.std() - 0.05) < 0.0015
    assert abs((np.abs(noise) < 0.05).mean() - 0.683) < 0.03
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.03
    other = tone_image(image, [Grain(0.05, 78)])
    assert (other != tone_image(image, [Grain(0.05, 77)])).mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3, 5, 12])
def test_blur_keeps_the_mean_and_smooths(channels):
    image = picture(channels, size=(80, 90), dtype="float32")
    out = tone_image(image, [Smooth(2.0)])
    assert out.shape == image.shape
    np.testing.assert_allclose(out.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.01)
    assert out.std() < image.std() / 4


def test_a_camera_of_12_bits():
    image = picture(1, dtype="uint16") // 16
    out = tone_image(image, [Tone(np.array([1.0]), np.array([0.1]))], maximum=4095.0)
    np.testing.assert_allclose(out, image + 409.5, atol=0.51)  # the maximum is a unit, no limit
    top = np.full((8, 8, 1), 65000, np.uint16)
    assert (tone_image(top, [Tone(np.array([1.0]), np.array([0.2]))]) == 65535).all()  # what the type can hold is


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("float32", -1000, 3000), ("float32", 0, 4000), ("uint16", 0, 9000)]
)
@pytest.mark.parametrize("gamma", [0.8, 1.0, 1.25])
def test_values_beyond_the_maximum_stay_apart(dtype, low, high, gamma):
    # Hounsfield units, reflectances, a sensor whose brightest pixel was not among the images looked at.
    image = np.linspace(low, high, 4001).reshape(-1, 1, 1).astype(dtype)
    stages = [Tone(np.ones(1), np.zeros(1), gamma)]
    toned = tone_input(image, stages, Scale(np.ones(1, np.float32), np.zeros(1, np.float32)), maximum=2047.0)
    assert (np.diff(toned.ravel()) > 0).all()
    expected = np.sign(image) * (np.abs(image.astype(float)) / 2047) ** gamma * 2047
    np.testing.assert_allclose(toned[0], expected[..., 0], rtol=1e-4, atol=1e-3)


def test_draws_lie_in_their_ranges():
    rng = np.random.default_rng(0)
    tones = [BrightnessContrast(0.1, 0.3).draw(3, rng) for _ in range(400)]
    contrast = np.array([stage.contrast for stage in tones])
    brightness = np.array([stage.brightness for stage in tones])
    assert (contrast[:, 0] == contrast[:, 2]).all()
    assert 0.7 <= contrast.min() < 0.71
    assert 1.29 < contrast.max() <= 1.3
    assert -0.1 <= brightness.min() < -0.098
    assert abs(brightness.mean()) < 0.01
    separate = BrightnessContrast(per_channel=True).draw(5, rng)
    assert len(set(separate.contrast)) == 5
    gammas = [Gamma((0.5, 2.0)).draw(1, rng).gamma for _ in range(400)]
    assert abs(np.median(np.log(gammas))) < 0.1
    assert min(gammas) >= 0.5


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.name)
def test_plain_and_back(operation):
    assert from_plain(PhotometricOperation, to_plain(operation)) == operation


@pytest.mark.parametrize("build", [lambda: Gamma((0.0, 1.0)), lambda: Blur((2.0, 1.0)), lambda: Noise((-0.1, 0.1))])
def test_ranges_are_checked(build):
    with pytest.raises(UserError, match="the lower first"):
        build()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_channels_of_different_ranges_have_units_of_their_own(dtype):
    image = np.random.default_rng(3).uniform((20, 60, 5), (40, 200, 9), (30, 40, 3)).astype(dtype)
    units = Units(full=(50.0, 250.0, 10.0), step=(10.0, 100.0, 1.0))
    stage = Tone(np.full(3, 0.9), np.full(3, 0.2), 1.3)
    out = tone_image(image, [stage], maximum=units)
    for channel, (full, step) in enumerate(zip(*units, strict=True)):
        alone = image[..., channel].astype(np.float64)
        toned = (alone - alone.mean()) * 0.9 + alone.mean() + 0.2 * step
        np.testing.assert_allclose(
            out[..., channel], (toned / full) ** 1.3 * full, atol=1e-3 if dtype == "float32" else 0.51
        )
    flat = np.full((200, 200, 3), 100, dtype)
    noise = tone_image(flat, [Grain(0.05, 5)], maximum=units).astype(np.float64).std(axis=(0, 1))
    tolerance = 0.05 if dtype == "float32" else 0.3  # of rounding
    np.testing.assert_allclose(noise, 0.05 * np.array(units.step), rtol=0.05, atol=tolerance)
