"""TIFF files that tifffile alone cannot decode: every one is read as the same pixels stored plainly, or refused with a sentence."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.data.formats import open_data
from nuriwake.data.images import read_image, read_mask

NEEDS_ANOTHER = r"the way in which this TIFF is compressed needs another library; `pip install imagecodecs`"
MINISWHITE, PALETTE, ORIENTATION, PREDICTOR, FILL_ORDER = 0, 3, 274, 317, 266


@pytest.fixture(autouse=True)
def no_imagecodecs(monkeypatch):
    """tifffile with its own codecs only, whatever is installed."""
    from tifffile import _imagecodecs

    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", _imagecodecs)
    codecs: Any = tifffile.TIFF.DECOMPRESSORS
    monkeypatch.setattr(codecs, "_codecs", {1: codecs[1]})


@pytest.fixture(params=["plain", "gdal"])
def installed(request, monkeypatch):
    """Without rasterio and with it."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rasterio", None)
    else:
        pytest.importorskip("rasterio")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """As TIFF 6.0 lists the eight cases: what the rows and columns as stored are."""
    turns = {
        1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1],
        5: array.swapaxes(0, 1), 6: np.rot90(array, -1), 7: array[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(array),
    }  # fmt: skip
    return turns[orientation]


def runs(rng, shape, high: int, dtype=np.uint8) -> np.ndarray:
    return np.repeat(rng.integers(0, high, (shape[0], -(-shape[1] // 4), *shape[2:])), 4, axis=1)[:, : shape[1]].astype(
        dtype
    )


def read_or_refused(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | None:
    """None where it is refused, and not for any other reason than a codec that is missing."""
    try:
        return read(path)
    except UserError as error:
        if "needs another library" not in str(error):
            raise
        return None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "rgb", "wide", "bits", "palette"])
def test_compressed_or_not_a_turned_tiff_is_the_same(tmp_path, rng, installed, orientation, kind):
    stored = runs(rng, (20, 31, 3) if kind == "rgb" else (20, 31), 7)
    stored = stored.astype(np.uint16) * 900 if kind == "wide" else stored
    image = Image.fromarray(stored > 3 if kind == "bits" else stored)
    mask = (stored > 3).astype(np.uint8) if kind == "bits" else stored
    shown = mask * 255 if kind == "bits" else mask
    if kind == "palette":
        colours = rng.integers(0, 256, (256, 3)).astype(np.uint8)
        image.putpalette(colours.ravel().tolist())
        shown = colours[stored]
    shown = shown if shown.ndim == 3 else shown[..., None]
    for compression, predictor in ((None, 1), ("tiff_lzw", 1), *([("tiff_lzw", 2)] if kind != "bits" else [])):
        image.save(
            tmp_path / "a.tif", compression=compression, tiffinfo={ORIENTATION: orientation, PREDICTOR: predictor}
        )
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), upright(shown, orientation))
        np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), upright(mask, orientation))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_white_is_zero_is_turned_round_once(tmp_path, rng, installed, dtype):
    high = {np.bool_: 2, np.uint8: 200, np.uint16: 60000}[dtype]
    stored = runs(rng, (20, 31), high, dtype)
    for name, options in (("lzw", {"compression": "tiff_lzw"}), ("raw", {})):
        Image.fromarray(stored).save(tmp_path / f"{name}.tif", **options, tiffinfo={262: MINISWHITE})
    with tifffile.TiffFile(tmp_path / "lzw.tif") as file:
        assert file.pages.first.photometric == MINISWHITE
    # Pillow turns some of them round when it writes; what it stored is what tifffile reads of the other file.
    with tifffile.TiffFile(tmp_path / "raw.tif") as file:
        stored = file.pages.first.asarray()
    shown = ~stored
    image = shown.astype(np.uint8) * 255 if dtype == np.bool_ else shown
    mask = shown.astype(np.uint8) if dtype == np.bool_ else stored
    for name in ("raw.tif", "lzw.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], image, err_msg=name)
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask, err_msg=name)


def test_a_palette_mask_in_lzw_is_its_indices(tmp_path, rng, installed):
    labels = runs(rng, (64, 64), 7)
    image = Image.fromarray(labels)
    image.putpalette(rng.integers(0, 256, 768).tolist())
    for name in "abcd":
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / "images" / f"{name}.png")
        image.save(tmp_path / "masks" / f"{name}.tif", compression="tiff_lzw")
    data = open_data(tmp_path)
    assert len(data.space) == 7
    np.testing.assert_array_equal(data.read(data.splits["train"][0]).target.labels, labels)


def gdal_file(path: Path, values: np.ndarray, **options) -> Path:
    rasterio = pytest.importorskip("rasterio")
    path.unlink(missing_ok=True)
    colours = options.pop("colours", None)
    with rasterio.open(path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=values.shape[2],
                       dtype=values.dtype.name, **options) as file:  # fmt: skip
        file.write(np.moveaxis(values, 2, 0))
        if colours is not None:
            file.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(colours)})
    return path


LAYOUTS = [
    {"endianness": endian, "interleave": interleave, "bigtiff": big, "predictor": predictor,
     **({"tiled": "yes", "blockxsize": 32, "blockysize": 32} if tiled else {})}
    for endian, interleave, big, predictor, tiled in itertools.product(
        ("little", "big"), ("pixel", "band"), ("no", "yes"), (1, 2), (False, True)
    )
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize(
    ("channels", "photometric", "alpha"),
    [(1, "minisblack", None), (1, "miniswhite", None), (2, "minisblack", None), (2, "minisblack", "yes"), (3, "rgb", None),
     (3, "minisblack", None), (4, "rgb", None), (4, "rgb", "unpremultiplied"), (4, "rgb", "premultiplied")],
)  # fmt: skip
def test_every_layout_is_equal_or_refused(tmp_path, rng, monkeypatch, dtype, channels, photometric, alpha):
    from nuriwake.data.headers import image_header
    from nuriwake.data.tiff_codecs import read_with_others

    values = (runs(rng, (50, 70, channels), 120) * (1.5 if "float" in dtype else 1)).astype(dtype)
    if dtype.endswith(("16", "32")) and "float" not in dtype:
        values = values * np.array(99, dtype)
    options = {"compress": "lzw", "photometric": photometric, **({"alpha": alpha} if alpha else {})}
    seen = set()
    for layout in LAYOUTS:
        path = gdal_file(tmp_path / "a.tif", values, **options, **layout)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "rasterio", None)
            found = read_or_refused(lambda path: read_with_others(path, image_header(path)), path)
        seen.add(found is not None)
        if found is not None:
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
    colours = channels == 3 and photometric == "rgb" and dtype == "uint8"
    assert (True in seen) == (colours or (channels == 1 and dtype != "int8"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("bits", "compress"),
    [*itertools.product((1, 2, 4), ("none", "lzw", "packbits", "deflate")), (1, "ccittfax4"), (1, "ccittfax3"), (1, "ccittrle")],
)  # fmt: skip
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "palette"])
def test_few_bits_are_not_stretched(tmp_path, rng, monkeypatch, bits, compress, photometric):
    values, colours = runs(rng, (50, 70, 1), 2**bits), rng.integers(0, 256, (2**bits, 3)).tolist()
    for tiled in ({}, {"tiled": "yes", "blockxsize": 32, "blockysize": 32}):
        path = gdal_file(tmp_path / "a.tif", values, compress=compress, photometric=photometric, nbits=bits, **tiled,
                         colours=colours if photometric == "palette" else None)  # fmt: skip
        inverted = photometric == "miniswhite"
        highest = 2**bits - 1
        mask = highest - values if inverted and bits == 1 else values
        image = (highest - values if inverted else values) * (255 if bits == 1 else 1)
        image = np.array(colours, np.uint8)[values[..., 0]] if photometric == "palette" else image.astype(np.uint8)
        for gdal in (True, False):
            with monkeypatch.context() as patch:
                if not gdal:
                    patch.setitem(sys.modules, "rasterio", None)
                np.testing.assert_array_equal(read_mask(path), mask[..., 0])
                np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.filterwarnings("ignore")
def test_jpeg_in_a_tiff_is_read_without_gdal(tmp_path, rng, monkeypatch):
    import cv2

    picture = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (9, 9), 3)
    for photometric in ("ycbcr", "rgb"):
        path = gdal_file(tmp_path / "a.tif", picture, compress="jpeg", photometric=photometric)
        theirs = read_image(path).astype(int)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "rasterio", None)
            assert np.abs(read_image(path) - theirs).max() <= (16 if photometric == "ycbcr" else 0)


@pytest.mark.parametrize("fill_order", [1, 2])
def test_the_order_of_bits_is_kept(tmp_path, rng, installed, fill_order):
    stored = runs(rng, (20, 31), 200)
    for array in (stored, stored > 99):
        for compression in ("tiff_lzw", "group4") if array.dtype == np.bool_ else ("tiff_lzw",):
            Image.fromarray(array).save(tmp_path / "a.tif", compression=compression, tiffinfo={FILL_ORDER: fill_order})
            np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), array)


@pytest.mark.parametrize("kind", ["grey", "rgb", "wide", "palette", "float"])
def test_a_damaged_strip_is_no_picture(tmp_path, rng, monkeypatch, kind):
    """OpenCV gives what it has of 8 bits, and says nothing."""
    monkeypatch.setitem(sys.modules, "rasterio", None)
    path = tmp_path / "a.tif"
    stored = rng.integers(0, 50, (200, 300, 3) if kind == "rgb" else (200, 300)).astype(
        {"wide": np.uint16, "float": np.float32}.get(kind, np.uint8)
    )
    image = Image.fromarray(stored)
    if kind == "palette":
        image.putpalette(rng.integers(0, 256, 768).tolist())
    image.save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[start + length // 2 : start + length] = bytes(length - length // 2)
    path.write_bytes(data)
    for read in (read_image, read_mask) if kind != "float" else (read_image,):
        with pytest.raises(UserError, match=r"a\.tif: .*(damaged|needs another library)"):
            read(path)


@pytest.mark.filterwarnings("ignore")
def test_what_nothing_reads_is_refused_with_what_to_install(tmp_path, rng, monkeypatch):
    pytest.importorskip("rasterio")
    path = gdal_file(
        tmp_path / "a.tif", runs(rng, (20, 30, 3), 99).astype(np.uint16), compress="lzw", photometric="rgb"
    )
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=NEEDS_ANOTHER):
        read_image(path)


def test_a_palette_that_is_missing(tmp_path, rng):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, runs(rng, (20, 30), 7), photometric="palette", colormap=rng.integers(0, 65536, (3, 256)).astype(np.uint16)
    )
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags[320].offset
    data = bytearray(path.read_bytes())
    data[place + 4] = 100  # of 768 values
    data[place + 5] = 0
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif: the palette of the TIFF cannot be read"):
        read_image(path)
