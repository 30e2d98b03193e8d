"""What a training image is after augmentation: within what the network sees when it predicts."""

import numpy as np
import pytest
import tifffile

from nuriwake.data.formats import open_data
from nuriwake.engine.augmentation import training_augmentation
from nuriwake.engine.config import AugmentationConfig, DataConfig, RunConfig
from nuriwake.engine.facts import data_facts
from nuriwake.engine.samples import PrepareSample, photometric_units, training_preprocessing


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


@pytest.mark.parametrize("draw", [hot_pixel, heights_beside_reflectances, far_from_zero])
@pytest.mark.parametrize("exposure", ["fixed", "image"])
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
    augmentation = training_augmentation(
        AugmentationConfig(preset=preset, crop_size=32), data.channels, photometric_units(preprocessing)
    )
    prepare = PrepareSample(augmentation, preprocessing)
    sample = data.read(data.records("train")[0])
    crops = [prepare(sample, np.random.default_rng(seed), focus=None, other=lambda: sample)[0] for seed in range(60)]
    wanted = preprocessing.for_image(sample.image)
    plain = (sample.image / wanted.maximum - np.array(wanted.mean)) / np.array(wanted.deviation)
    usual = np.median(plain, axis=(0, 1))
    for crop in crops:
        assert (np.abs(np.median(crop, axis=(1, 2)) - usual) < 4).all()
        assert (crop.std(axis=(1, 2)) > 0).all()
