"""What a training image is after augmentation: within what the network sees when it predicts."""

import numpy as np
import pytest
import tifffile

from nuriwake.core.sample import Sample
from nuriwake.data.formats import open_data
from nuriwake.engine.augmentation import training_augmentation
from nuriwake.engine.config import AugmentationConfig, DataConfig, RunConfig
from nuriwake.engine.facts import data_facts
from nuriwake.engine.samples import PrepareSample, training_preprocessing
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.transforms.photometric import Gamma
from nuriwake.transforms.pipeline import Pipeline


def hot_pixel(rng):
    """12 bits in 16, and one pixel of the sensor is stuck at the top."""
    image = rng.normal(600, 150, (48, 48, 1)).clip(0, 2047).astype(np.uint16)
    image[5, 7] = 65535
    return image


def heights_beside_reflectances(rng):
    """Four bands from 0 to 1 and one of metres above the sea."""
    return np.concatenate(
        [rng.uniform(0, 0.8, (48, 48, 4)), rng.normal(2000, 300, (48, 48, 1))], axis=2, dtype=np.float32
    )


def far_from_zero(rng):
    """A thermal band whose values differ by a thousandth of themselves."""
    return rng.normal(20000, 30, (48, 48, 1)).astype(np.uint16)


def dim_and_flat(rng):
    """8 bits of which an image shows few."""
    return rng.normal(200, 5, (48, 48, 1)).clip(0, 255).astype(np.uint8)


EVERY = [
    (draw, exposure)
    for draw in (hot_pixel, heights_beside_reflectances, far_from_zero)
    for exposure in ("fixed", "image")
]


@pytest.mark.parametrize(("draw", "exposure"), [*EVERY, (dim_and_flat, "image")])
@pytest.mark.parametrize("preset", ["natural", "medical", "satellite"])
def test_every_band_is_changed_by_what_suits_it(tmp_path, draw, exposure, preset):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abcde":
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", draw(rng).squeeze(), planarconfig="contig")
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", rng.integers(0, 2, (48, 48)).astype(np.uint8))
    data = open_data(tmp_path)
    config = RunConfig(DataConfig(tmp_path, exposure=exposure), tmp_path / "run")
    preprocessing = training_preprocessing(config, data, data_facts(data, tmp_path))
    augmentation = training_augmentation(AugmentationConfig(preset=preset, crop_size=32), data.channels)
    prepare = PrepareSample(augmentation, preprocessing)
    sample = data.read(data.records("train")[0])
    crops = [prepare(sample, np.random.default_rng(seed), focus=None, other=lambda: sample)[0] for seed in range(60)]
    wanted = preprocessing.for_image(sample.image)
    plain = (sample.image / wanted.maximum - np.array(wanted.mean)) / np.array(wanted.deviation)
    usual = np.median(plain, axis=(0, 1))
    for crop in crops:
        assert (np.abs(np.median(crop, axis=(1, 2)) - usual) < 4).all()
        assert (crop.std(axis=(1, 2)) > 0).all()


def test_the_full_brightness_of_a_pipeline_of_ones_own_is_kept():
    own = Pipeline((), (Gamma((2.0, 2.0), probability=1.0),), (8, 8), maximum=4095.0)
    preprocessing = Preprocessing(1, (0.0,), (1.0,), maximum=1.0, depth="uint16", levels=(1.0, 99.0))
    image = np.random.default_rng(0).integers(100, 900, (8, 8, 1)).astype(np.uint16)
    sample = Sample(image, None, name="x")
    shown, _ = PrepareSample(own, preprocessing)(sample, np.random.default_rng(0), focus=None, other=lambda: sample)
    wanted = preprocessing.for_image(image)
    expected = ((image / 4095) ** 2 * 4095 / wanted.maximum - wanted.mean[0]) / wanted.deviation[0]
    np.testing.assert_allclose(shown[0], expected[..., 0], rtol=1e-3, atol=1e-3)
