"""Reading: every kind of file as stored, and every kind of damage as one sentence that names the file."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from nuriwake.core.errors import UserError
from nuriwake.data.headers import image_header
from nuriwake.data.images import read_image, read_mask


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth(rng, shape, dtype=np.uint8):
    noise = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    return cv2.GaussianBlur(noise, (9, 9), 4)


def agrees(path: Path, array: np.ndarray):
    header = image_header(path)
    assert (header.size, header.channels, header.dtype) == (array.shape[:2], array.shape[2], str(array.dtype))


@pytest.mark.parametrize(
    ("name", "mode", "shape"),
    [
        ("a.png", "RGB", (31, 40, 3)),
        ("a.png", "L", (31, 40, 1)),
        ("a.bmp", "RGB", (31, 40, 3)),
        ("a.webp", "RGB", (31, 40, 3)),
    ],
)
def test_lossless_files_come_back_as_rgb(tmp_path, rng, name, mode, shape):
    pixels = smooth(rng, shape)
    image = Image.fromarray(pixels if shape[2] == 3 else pixels.reshape(shape[:2]))
    assert image.mode == mode
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    read = read_image(tmp_path / name)
    np.testing.assert_array_equal(read, pixels.reshape(shape))
    agrees(tmp_path / name, read)


def test_sixteen_bit_png_keeps_its_values(tmp_path, rng):
    grey, colour = smooth(rng, (20, 30), np.uint16), smooth(rng, (20, 30, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), colour[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), colour)
    agrees(tmp_path / "colour.png", colour)


def test_jpeg_is_what_pillow_reads(tmp_path, rng):
    for mode in ("RGB", "L"):
        Image.fromarray(smooth(rng, (60, 50, 3))).convert(mode).save(tmp_path / "a.jpg", quality=95)
        read = read_image(tmp_path / "a.jpg")
        theirs = np.asarray(Image.open(tmp_path / "a.jpg")).reshape(read.shape)
        assert np.abs(read.astype(int) - theirs).max() <= 2
        agrees(tmp_path / "a.jpg", read)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    ("channels", "planar"), [(1, "contig"), *((n, kind) for n in (2, 3, 4, 7) for kind in ("contig", "separate"))]
)
def test_tiff_keeps_every_channel(tmp_path, rng, dtype, channels, planar):
    pixels = (rng.random((21, 33, channels)) * 200).astype(dtype)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig=planar if channels > 1 else None,
        compression="deflate",
    )
    read = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read, pixels)
    agrees(tmp_path / "a.tif", read)


def test_lzw_tiff_needs_no_further_codec(tmp_path, rng):
    pixels = smooth(rng, (24, 30, 3))
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_a_stack_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match=r"a\.tif.*stack.*every layer"):
        read_image(tmp_path / "a.tif")


def test_alpha_is_dropped_unless_asked_for(tmp_path, rng):
    pixels = rng.integers(0, 256, (8, 9, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., :2], "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), pixels[..., :3])
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", keep_alpha=True), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), pixels[..., :1])
    np.testing.assert_array_equal(read_image(tmp_path / "la.png", keep_alpha=True), pixels[..., :2])
    assert image_header(tmp_path / "rgba.png").alpha


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    pixels = np.full((32, 48, 3), 20, np.uint8)
    pixels[:16, :16] = 220
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= 3
    assert image_header(path).size == read.shape[:2]
    assert image_header(path).orientation == orientation


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
def test_truncated_files_are_refused(tmp_path, rng, share, suffix):
    whole = tmp_path / f"whole.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(whole, smooth(rng, (200, 300, 3)), photometric="rgb")
    else:
        Image.fromarray(smooth(rng, (200, 300, 3))).save(whole)
    assert read_image(whole).shape == (200, 300, 3)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(UserError, match=rf"cut\.{suffix}"):
        read_image(cut)


def test_a_jpeg_with_a_thumbnail_that_ends_is_still_truncated(tmp_path, rng):
    thumbnail = io.BytesIO()
    Image.fromarray(smooth(rng, (16, 16, 3))).save(thumbnail, "JPEG")
    whole = io.BytesIO()
    Image.fromarray(smooth(rng, (200, 300, 3))).save(whole, "JPEG")
    block = thumbnail.getvalue()
    data = whole.getvalue()
    data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(block) + 2) + block + data[2:]
    (tmp_path / "whole.jpg").write_bytes(data)
    assert read_image(tmp_path / "whole.jpg").shape == (200, 300, 3)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match=r"cut\.jpg.*truncated"):
        read_image(tmp_path / "cut.jpg")


def test_a_damaged_png_is_refused(tmp_path, rng):
    Image.fromarray(smooth(rng, (100, 100, 3))).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png.*damaged"):
        read_image(tmp_path / "a.png")


def bomb(path: Path, side: int):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_a_tiny_png_that_declares_900_million_pixels_is_refused(tmp_path):
    bomb(tmp_path / "bomb.png", 30_000)
    for read in (read_image, read_mask, image_header):
        with pytest.raises(UserError, match=r"bomb\.png.*30,000x30,000.*900 million.*limit is 300"):
            read(tmp_path / "bomb.png")


def test_the_limit_is_an_argument(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="limit"):
        read_image(tmp_path / "a.png", limit=9_999)
    assert read_image(tmp_path / "a.png", limit=10_000).shape == (100, 100, 3)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("hello, this is a text file")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name in ("text.jpg", "empty.png", "folder.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)
        with pytest.raises(UserError, match=name):
            image_header(tmp_path / name)


def test_masks_give_raw_values(tmp_path, rng):
    indices = rng.integers(0, 4, (9, 11), dtype=np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([7, 8, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette2.png", bits=2)
    palette.save(tmp_path / "palette.bmp")
    Image.fromarray(indices > 0).save(tmp_path / "one.png")
    Image.fromarray(indices).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "wide.png"), indices.astype(np.uint16) * 1000)
    tifffile.imwrite(tmp_path / "long.tif", indices.astype(np.uint32) * 1000)
    for name in ("palette.png", "palette2.png", "palette.bmp", "grey.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), indices, err_msg=name)
    np.testing.assert_array_equal(read_mask(tmp_path / "one.png"), indices > 0)
    for name in ("wide.png", "long.tif"):
        wide = read_mask(tmp_path / name)
        assert wide.dtype == np.uint16
        np.testing.assert_array_equal(wide, indices.astype(np.uint16) * 1000)
    Image.fromarray(np.dstack([indices] * 3)).save(tmp_path / "rgb.png")
    assert read_mask(tmp_path / "rgb.png").shape == (9, 11, 3)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif"])
@pytest.mark.parametrize("pillow_limit", [60, 30], ids=["where Pillow warns", "where Pillow refuses"])
def test_the_limit_of_pixels_of_a_palette_mask_is_ours(tmp_path, monkeypatch, recwarn, rng, name, pillow_limit):
    indices = rng.integers(0, 4, (9, 11), dtype=np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([7, 8, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    assert image_header(tmp_path / name).size == (9, 11)
    np.testing.assert_array_equal(read_mask(tmp_path / name), indices)
    assert not recwarn.list
    with pytest.raises(UserError, match="the limit is 0 million"):
        read_mask(tmp_path / name, limit=98)


def grey_png(path: Path, values: np.ndarray, bits: int):
    """A grey PNG of 2 or 4 bits per pixel, written by hand: our encoders write 8."""
    rows = b""
    for row in values:
        binary = "".join(format(int(v), f"0{bits}b") for v in row)
        rows += b"\0" + bytes(int(binary[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(binary), 8))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_few_bits_are_not_stretched(tmp_path, rng, bits):
    values = rng.integers(0, 2**bits, (5, 7))
    grey_png(tmp_path / "a.png", values, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values)


def test_masks_that_cannot_be_masks_are_refused(tmp_path, rng):
    transparent = rng.integers(0, 256, (8, 9, 4), dtype=np.uint8)
    Image.fromarray(transparent, "RGBA").save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*transparent"):
        read_mask(tmp_path / "a.png")
    transparent[..., 3] = 255
    Image.fromarray(transparent, "RGBA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), transparent[..., :3])
    tifffile.imwrite(tmp_path / "c.tif", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(UserError, match=r"c\.tif.*whole numbers"):
        read_mask(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tif", np.full((4, 4), 70000, np.uint32))
    with pytest.raises(UserError, match=r"d\.tif.*65535"):
        read_mask(tmp_path / "d.tif")


@pytest.mark.parametrize("tag", [262, 317, 258])
def test_a_tiff_tag_that_cannot_be_read_is_no_default(tmp_path, rng, tag):
    """tifffile would take white for black, and differences for values."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(rng, (20, 30, 3)), photometric="rgb", compression="zlib", predictor=2)
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags[tag].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, place + 4, 1000, 2)  # a thousand values, at byte 2
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"a\.tif.*(tag {tag}, which says how pixels are stored|cannot be read)"):
        read_image(path)


def test_a_tiff_that_does_not_say_whether_0_is_black(tmp_path, rng):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(rng, (20, 30)), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags[262].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, place, 263)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"a\.tif.*whether 0 is black or white"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_of_a_tiff_are_numbers_whatever_is_shown_white(tmp_path, dtype):
    labels = np.arange(12, dtype=dtype).reshape(3, 4)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), labels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.iinfo(dtype).max - labels)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"photometric": "rgb", "compression": "zlib", "tile": (128, 128)}, np.uint8),
        ({"photometric": "rgb", "compression": "zlib", "rowsperstrip": 8}, np.uint16),
        ({"photometric": "rgb", "extratags": [(42113, 2, 6, "-9999", True)]}, np.float32),
        ({"photometric": "miniswhite", "planarconfig": None, "rowsperstrip": 8}, np.uint8),
    ],
)
def test_a_large_tiff_takes_little_more_than_its_pixels(tmp_path, monkeypatch, options, dtype):
    import tracemalloc

    monkeypatch.setattr("nuriwake.data.tiff._AT_ONCE", 1 << 18)
    shape = (1200, 1000) if options["photometric"] == "miniswhite" else (1200, 1000, 3)
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 250, shape).astype(dtype), **options)
    read_image(tmp_path / "a.tif")  # imports
    tracemalloc.start()
    array = read_image(tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * array.nbytes
