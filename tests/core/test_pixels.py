"""normalise against its formula, and the compiler's cache where nothing is writable."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.pixels import MAXIMA, normalise


def slow_normalise(image, mean, deviation, maximum):
    out = np.empty((image.shape[2], *image.shape[:2]))
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(image.shape[2]):
                out[c, y, x] = (float(image[y, x, c]) / maximum - mean[c]) / deviation[c]
    return out


def picture(rng, size, channels, dtype):
    values = rng.random((*size, channels)) * MAXIMA[np.dtype(dtype)]
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5, 12])
def test_is_the_formula(dtype, channels):
    rng = np.random.default_rng(channels)
    image = picture(rng, (7, 9), channels, dtype)
    mean, deviation = rng.random(channels), rng.uniform(0.1, 0.5, channels)
    maximum = MAXIMA[image.dtype]
    out = normalise(image, mean, deviation, maximum=maximum)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_allclose(out, slow_normalise(image, mean, deviation, maximum), atol=3e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.sampled_from([255.0, 4095.0, 1.0]))
def test_any_maximum_and_a_view(height, width, channels, maximum):
    rng = np.random.default_rng(height * 100 + width)
    image = (rng.random((height * 2, width * 2, channels)) * min(maximum, 255)).astype(np.uint16)[::2, ::-2]
    out = normalise(image, [0.5] * channels, [0.25] * channels, maximum=maximum)
    np.testing.assert_allclose(out, slow_normalise(image, [0.5] * 12, [0.25] * 12, maximum), rtol=1e-5, atol=1e-5)


def test_not_a_number_stays_visible():
    image = np.array([[[np.nan], [np.inf]]], np.float32)
    out = normalise(image, [0.0], [1.0], maximum=1.0)
    assert np.isnan(out[0, 0, 0])
    assert np.isinf(out[0, 0, 1])


@pytest.mark.parametrize(
    ("mean", "deviation", "maximum", "message"),
    [
        ([0.5], [0.5] * 3, 255, "3 channels, but the mean has 1"),
        ([0.5] * 3, [0.5] * 4, 255, "the deviation 4"),
        ([0.5] * 3, [0.5, 0, 0.5], 255, "must be positive"),
        ([0.5] * 3, [0.5] * 3, 0, "must be positive"),
    ],
)
def test_refuses_numbers_that_do_not_fit(mean, deviation, maximum, message):
    with pytest.raises(UserError, match=message):
        normalise(np.zeros((2, 2, 3), np.uint8), mean, deviation, maximum=maximum)


def test_compiles_where_no_folder_is_writable(tmp_path):
    # A file where the cache folder should be is as unwritable as it gets, also for root.
    blocked = tmp_path / "file"
    blocked.write_text("")
    script = (
        "import numpy as np\n"
        "from nuriwake.core import pixels\n"
        "assert type(pixels.scale_rows._cache).__name__ == 'NullCache'\n"
        "image = np.full((1, 1, 1), 255, np.uint8)\n"
        "print(float(pixels.normalise(image, [0.5], [0.5], maximum=255.0)[0, 0, 0]))\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
        "NUMBA_CACHE_DIR": str(blocked / "cache"),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.0)
