"""The pixels of TIFF files, as stored: by tifffile, and where it lacks a codec by GDAL (extra `geo`) or OpenCV."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.headers import ImageHeader

GEO_TAGS = frozenset({33550, 33922, 34264, 34735})
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory (GeoTIFF 1.1, OGC 19-008r4)."""

_NODATA_TAG = 42113
_AT_ONCE = 16 << 20
"""Bytes of the file that are held while it is decoded, and of the array while it is changed."""

_PHOTOMETRIC_TAG = 262

_PIXEL_TAGS = frozenset({256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339})
"""What says how pixels are stored, from ImageWidth to SampleFormat (TIFF 6.0, sections 4 to 19)."""


def read_tiff(path: Path, header: ImageHeader, *, numbers: bool = False) -> np.ndarray:
    """(H, W, C) of any dtype as stored, "white is zero" turned round.

    With `numbers` the values are no brightnesses but labels: those of 8 bits and more stay as they are, whatever they are shown as.

    Of floats, what the file declares as nodata (GDAL's tag, usually NaN or -9999) becomes 0: a value that is no measurement
    would spoil the statistics and the loss. Whole numbers stay as they are.

    Raises:
        UserError: damaged, or compressed in a way that nothing installed reads; the file is named.
    """
    import tifffile

    inverted, nodata = False, None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            _refuse_broken_tags(file, page)
            inverted, nodata = int(page.photometric) == 0, _nodata(page)
            axes = file.series[0].get_axes(squeeze=True)
            array = file.series[0].asarray(squeeze=True, buffersize=_AT_ONCE)
    except Exception as error:  # tifffile raises whatever its decoders raise
        # "imagecodecs" or a module of a later Python: the codec is missing; everything else is the file's fault
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise UserError(
                f"{path}: the TIFF cannot be decoded ({error}); the file is damaged or truncated."
            ) from error
        array, axes = _by_others(path, header), "YXS"
    if array.size == 0:
        raise UserError(f"{path}: the TIFF holds no pixels; the file is damaged.")
    order = [axes.index(axis) for axis in axes if axis in "YX"] + [i for i, axis in enumerate(axes) if axis not in "YX"]
    array = array.transpose(order).reshape(*(array.shape[i] for i in order[:2]), -1)
    if inverted and array.dtype.kind in "ub" and not (numbers and header.bits >= 8):
        array = np.invert(array, out=array if array.flags.writeable else None)
    return array if nodata is None or array.dtype.kind != "f" else _without(array, nodata)


def _refuse_broken_tags(file: Any, page: Any) -> None:
    """tifffile passes over tags that it cannot read, and takes their default: white for black, or no predictor.

    Raises:
        ValueError: such a tag, or no word of whether 0 is black or white.
    """
    handle, kind = file.filehandle, file.tiff
    handle.seek(page.offset)
    count = int(struct.unpack(kind.tagnoformat, handle.read(kind.tagnosize))[0])
    block = handle.read(count * kind.tagsize)
    declared = {
        struct.unpack_from(f"{kind.byteorder}H", block, start)[0] for start in range(0, len(block), kind.tagsize)
    }
    lost = sorted((declared & _PIXEL_TAGS) - {int(code) for code in page.tags.keys()})  # noqa: SIM118 (no mapping)
    if lost:
        raise ValueError(f"its tag {lost[0]}, which says how pixels are stored, cannot be read")
    if page.tags.get(_PHOTOMETRIC_TAG) is None:
        raise ValueError("it does not say whether 0 is black or white (the tag PhotometricInterpretation is missing)")


def has_geo_tags(path: Path) -> bool:
    """Whether the file is a TIFF that says where on a map it lies."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return any(tag in GEO_TAGS for tag in file.pages.first.tags.keys())  # noqa: SIM118 (no mapping)
    except Exception:
        return False  # whoever reads it will say what is wrong


def _nodata(page: Any) -> float | None:
    tag = page.tags.get(_NODATA_TAG)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _without(array: np.ndarray, nodata: float) -> np.ndarray:
    if not array.flags.writeable:
        array = array.copy()
    step = max(1, _AT_ONCE // max(1, array[0].nbytes))
    for top in range(0, len(array), step):
        rows = array[top : top + step]
        rows[np.isnan(rows) if np.isnan(nodata) else rows == array.dtype.type(nodata)] = 0
    return array


def _by_others(path: Path, header: ImageHeader) -> np.ndarray:
    array = _by_gdal(path, header)
    array = _by_opencv(path, header) if array is None else array
    if array is None:
        raise UserError(
            f"{path}: the way in which this TIFF is compressed needs another library; `pip install imagecodecs` or "
            '`pip install "nuriwake[geo]"`, or save it without compression or with deflate.'
        )
    return array


def _by_gdal(path: Path, header: ImageHeader) -> np.ndarray | None:
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
                array = np.moveaxis(file.read(), 0, 2)
    except RasterioError as error:
        raise UserError(f"{path}: the TIFF cannot be decoded ({error}); the file is damaged or truncated.") from error
    return array.astype(np.bool_) if header.dtype == "bool" else array


def _by_opencv(path: Path, header: ImageHeader) -> np.ndarray | None:
    """(H, W, C), where OpenCV can be trusted: of several float or planar channels it makes garbage, of 16-bit colours grey."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        contiguous = int(file.pages.first.planarconfig) == 1
    faithful = header.channels == 1 or (header.channels == 3 and header.dtype == "uint8" and contiguous)
    array: np.ndarray | None = None
    with suppress(cv2.error):
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if faithful else None
    if array is None or array.dtype != header.dtype or (1 if array.ndim == 2 else array.shape[2]) != header.channels:
        return None
    return array[..., None] if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
