"""What an image file declares, read without decoding a pixel: size, channels, type and EXIF orientation.

EXIF orientation is applied, to images and masks alike, wherever we read: annotation tools show and save what a viewer
shows, so an image read as stored would lie across its mask.
"""

import mmap
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, PngImagePlugin

from nuriwake.core.errors import UserError
from nuriwake.core.targets import Size
from nuriwake.data.nifti_address import slice_address

MAX_PIXELS = 300_000_000
"""The most pixels a file may declare before we refuse to decode it: a tiny PNG can declare 30,000 x 30,000."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})

Buffer = bytes | mmap.mmap
_PNG = b"\x89PNG\r\n\x1a\n"
_WITHOUT_LIMIT: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (_PNG, PngImagePlugin.PngImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
)
"""What a file of indices into a palette begins with, and what of Pillow opens it whatever its size."""

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class ImageHeader:
    """What a file declares.

    Args:
        size: (height, width) after the EXIF orientation.
        channels: as `read_image` gives them: an alpha channel of PNG, WebP or BMP is not counted.
        dtype: "uint8", "uint16", "float32" or whatever else a TIFF holds.
        kind: which decoder reads it.
        orientation: the EXIF orientation, 1..8; 1 is upright.
        bits: per value, 1..64.
        palette: pixels are indices into a palette.
        alpha: there is an alpha channel besides `channels`.
    """

    size: Size
    channels: int
    dtype: str
    kind: Literal["jpeg", "png", "tiff", "other"]
    orientation: int = 1
    bits: int = 8
    palette: bool = False
    alpha: bool = False


def image_header(path: str | Path, *, limit: int = MAX_PIXELS) -> ImageHeader:
    """The header of the image file at `path`, or of the slice of a volume (`nifti_address`).

    Raises:
        UserError: missing, empty or no image, or more than `limit` pixels declared.
    """
    path = Path(path)
    if (address := slice_address(path)) is not None:
        from nuriwake.data.nifti_slices import slice_header

        return slice_header(address, limit=limit)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_header(data, path, limit=limit)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: the file is empty.") from error


def parse_header(data: Buffer, path: Path, *, limit: int = MAX_PIXELS) -> ImageHeader:
    """The header in `data`, the bytes of `path`. Raises as `image_header`."""
    reader: Callable[[Buffer, Path], ImageHeader] = _other
    if data[:8] == _PNG:
        reader = _png
    elif data[:3] == b"\xff\xd8\xff":
        reader = _jpeg
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        reader = _tiff
    try:
        header = reader(data, path)
    except (struct.error, IndexError) as error:
        raise UserError(
            f"{path}: the image is cut off in its header (truncated); copy or download it again."
        ) from error
    refuse_pixels(path, header.size, limit)
    return header


def refuse_pixels(path: Path, size: Size, limit: int) -> None:
    """Raises UserError where an image declares no pixels, or more than `limit`."""
    height, width = size
    if height < 1 or width < 1:
        raise UserError(f"{path}: the image declares {height}x{width} pixels (height x width); the file is damaged.")
    if height * width > limit:
        how = " (gdal_retile.py -ps 12000 12000 -targetDir tiles FILE keeps a georeference)" * (
            path.suffix.lower() in (".tif", ".tiff")
        )
        raise UserError(
            f"{path}: the image declares {height:,}x{width:,} = {height * width / 1e6:,.0f} million pixels, the limit is "
            f"{limit / 1e6:,.0f} million; cut it into tiles of at most that size, each its own file{how}."
        )


def open_pillow(file: BinaryIO) -> Image.Image:
    """`file` opened by Pillow, at its start; not by `Image.open`, whose limit of pixels is lower than ours, where that goes.

    Raises:
        Exception: whatever Pillow raises of what it cannot read.
    """
    start = file.read(len(_PNG))
    file.seek(0)
    for mark, opener in _WITHOUT_LIMIT:
        if start.startswith(mark):
            return opener(file)
    return Image.open(file)


def _turned(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation >= 5 else size


def _png(data: Buffer, path: Path) -> ImageHeader:
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    if colour_type not in (0, 2, 3, 4, 6):
        raise UserError(f"{path}: PNG colour type {colour_type} does not exist; the file is damaged.")
    orientation, offset = 1, 8
    # The EXIF chunk is honoured before the pixels only, as the PNG specification recommends writing it.
    while offset + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        if name in (b"IDAT", b"IEND"):
            break
        if name == b"eXIf":
            orientation = _exif_orientation(data[offset + 8 : offset + 8 + length])
        offset += 12 + length
    return ImageHeader(
        _turned((height, width), orientation),
        1 if colour_type in (0, 4) else 3,
        "uint16" if bits == 16 else "uint8",
        "png",
        orientation,
        bits,
        palette=colour_type == 3,
        alpha=colour_type in (4, 6),
    )


def jpeg_scan_start(data: Buffer) -> tuple[int, tuple[int, int, int, int], int]:
    """(offset of the first scan, (bits, height, width, channels), EXIF orientation) of a JPEG.

    Raises:
        struct.error, IndexError: cut off before the first scan.
    """
    offset, orientation, frame = 2, 1, (0, 0, 0, 0)
    while True:
        while data[offset] != 0xFF:  # stray bytes between segments are tolerated, as decoders do
            offset += 1
        marker = data[offset + 1]
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            offset += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, offset + 2)
        if marker in _START_OF_FRAME:
            frame = struct.unpack_from(">BHHB", data, offset + 4)
        elif marker == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[offset + 10 : offset + 2 + length])
        offset += 2 + length
        if marker == 0xDA:
            return offset, frame, orientation


def _jpeg(data: Buffer, path: Path) -> ImageHeader:
    _, (bits, height, width, channels), orientation = jpeg_scan_start(data)
    if bits not in (0, 8):
        raise UserError(f"{path}: a JPEG of {bits} bits per value; only 8 are supported. Save it as PNG or TIFF.")
    size = _turned((height, width), orientation)
    return ImageHeader(size, 1 if channels == 1 else 3, "uint8", "jpeg", orientation, bits)


def _exif_orientation(block: bytes) -> int:
    """Tag 274 of the first directory of a TIFF-structured EXIF block; 1 when absent or senseless."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == 274:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _tiff(data: Buffer, path: Path) -> ImageHeader:
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            page, axes = file.pages.first, file.series[0].get_axes(squeeze=True)
            shape = dict(zip(axes, file.series[0].get_shape(squeeze=True), strict=True))
            tag = page.tags.get(274)
            orientation = int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1
            palette, dtype = int(page.photometric) == 3, str(page.dtype)
    except Exception as error:  # tifffile raises whatever its parts raise: also TypeError and ZeroDivisionError
        raise UserError(f"{path}: the TIFF cannot be read ({error}); the file is damaged or truncated.") from error
    extra = {axis: length for axis, length in shape.items() if axis not in "YXSC"}
    if "Y" not in shape or "X" not in shape or extra:
        layers = " x ".join(map(str, shape.values()))
        raise UserError(
            f"{path}: a TIFF of {layers} (axes {axes}) is a stack, not one image; save every layer as its own "
            "file, or channels as one image (tifffile: planarconfig='contig')."
        )
    size = _turned((shape["Y"], shape["X"]), orientation)
    channels = shape.get("S", 1) * shape.get("C", 1)
    bits = 1 if dtype == "bool" else 8 * int(page.dtype.itemsize if page.dtype is not None else 1)
    return ImageHeader(size, 3 if palette else channels, dtype, "tiff", orientation, bits, palette=palette)


def _other(data: Buffer, path: Path) -> ImageHeader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked by our caller
            with path.open("rb") as file, open_pillow(file) as image:
                width, height = image.size
                mode, orientation = image.mode, int(image.getexif().get(274, 1))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: the image declares more pixels than can be decoded safely ({error}).") from error
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise UserError(
            f"{path}: this is no image that can be read (it begins with {bytes(data[:8])!r}); supported are JPEG, PNG, "
            "TIFF, BMP and WebP."
        ) from error
    if mode not in ("1", "L", "P", "RGB", "RGBA", "RGBX", "LA"):
        raise UserError(f"{path}: pixels of the kind '{mode}' are not supported; save the image as PNG or TIFF.")
    orientation = orientation if 1 <= orientation <= 8 else 1
    return ImageHeader(
        _turned((height, width), orientation),
        1 if mode in ("1", "L", "LA") else 3,
        "uint8",
        "other",
        orientation,
        palette=mode == "P",
        alpha=mode in ("RGBA", "LA"),
    )
