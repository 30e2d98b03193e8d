"""TIFF files that tifffile alone cannot decode (LZW, CCITT, JPEG, 2 or 4 bits): by GDAL (extra `geo`), Pillow or OpenCV.

Pillow and OpenCV turn the pixels upright, turn "white is zero" round and stretch 2 and 4 bits. So they get the bytes of the file
with the tags that ask for it set to plain, and only forms that they were seen to give as stored. OpenCV reads no 8 bits here: from
a damaged strip it goes on without a word.
"""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import TiffImagePlugin

from nuriwake.core.errors import UserError
from nuriwake.data.headers import ImageHeader

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_PHOTOMETRIC, _ORIENTATION = 262, 274

_JPEG = 7
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946})
"""None, CCITT (three kinds), LZW, JPEG, deflate, PackBits, deflate: what every libtiff has."""

_BY_PILLOW = {1: ("bool",), 2: ("uint8",), 4: ("uint8",), 8: ("uint8",), 16: ("uint16",)}
_BY_OPENCV = ("int16", "uint32", "int32", "float32", "float64")


def read_with_others(path: Path, header: ImageHeader) -> np.ndarray:
    """(H, W, C) as stored: not turned, "white is zero" and palettes as they are.

    Raises:
        UserError: damaged, or nothing installed gives the values as they are stored; with what to install.
    """
    array = _by_gdal(path)
    if array is None:
        array = _by_plain_decoders(path, header)
    height, width = header.size if header.orientation < 5 else header.size[::-1]
    if array is None or array.shape != (height, width, 1 if header.palette else header.channels):
        raise UserError(
            f"{path}: the way in which this TIFF is compressed needs another library; `pip install imagecodecs` or "
            '`pip install "nuriwake[geo]"`, or save it without compression or with deflate.'
        )
    return array.astype(np.bool_) if header.dtype == "bool" else array


def _by_gdal(path: Path) -> np.ndarray | None:
    """(H, W, C), or None where rasterio is not installed."""
    import warnings

    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                return np.moveaxis(file.read(), 0, 2)
    except RasterioError as error:
        raise _damaged(path, error) from error


def _by_plain_decoders(path: Path, header: ImageHeader) -> np.ndarray | None:
    """(H, W, C), or None where neither Pillow nor OpenCV can be trusted with it."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        photometric, compression, bits = int(page.photometric), int(page.compression), int(page.bitspersample)
        shown = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE)
        if not (shown or (photometric == _YCBCR and compression == _JPEG)) or page.extrasamples:
            return None
        if compression not in _COMPRESSIONS:
            return None
        plain = _plain(path.read_bytes(), file, page)
    if plain is None:
        return None
    if header.dtype in _BY_PILLOW.get(bits, ()) and (header.channels == 1 or bits == 8 or header.palette):
        return _by_pillow(plain, path, bits)
    if header.channels == 1 and header.dtype in _BY_OPENCV:
        return _by_opencv(plain, header)
    return None


def _plain(data: bytes, file: Any, page: Any) -> bytes | None:
    """`data` that says: upright, and 0 is black; None where a tag has a type that it never has."""
    changed = bytearray(data)
    for code, value in ((_ORIENTATION, 1), (_PHOTOMETRIC, max(int(page.photometric), _BLACK_IS_ZERO))):
        tag = page.tags.get(code)
        if tag is None:
            continue
        form = {1: "B", 3: "H", 4: "I"}.get(int(tag.dtype))
        if form is None or tag.count != 1:
            return None
        struct.pack_into(file.byteorder + form, changed, tag.valueoffset, value)
    return bytes(changed)


def _by_pillow(plain: bytes, path: Path, bits: int) -> np.ndarray | None:
    """(H, W, C) bool, uint8 or uint16; not `Image.open`, whose limit of pixels is another than ours."""
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(plain)) as image:
            image.load()
            mode, array = image.mode, np.asarray(image)
    except (SyntaxError, KeyError):  # a form that Pillow does not know
        return None
    except Exception as error:  # Pillow raises whatever its decoders raise
        if "not available" in str(error):
            return None
        raise _damaged(path, error) from error
    if mode == "L" and bits < 8:
        array = array // (255 // (2**bits - 1))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array[..., None] if array.ndim == 2 else array


def _by_opencv(plain: bytes, header: ImageHeader) -> np.ndarray | None:
    try:
        array = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if array is None or array.ndim != 2 or array.dtype != header.dtype else array[..., None]


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: the TIFF cannot be decoded ({error}); the file is damaged or truncated.")
