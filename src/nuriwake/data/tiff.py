"""The pixels of TIFF files, as stored: by tifffile, and where it lacks a codec by others (`tiff_codecs`)."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.headers import ImageHeader
from nuriwake.data.tiff_codecs import read_with_others

GEO_TAGS = frozenset({33550, 33922, 34264, 34735})
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory (GeoTIFF 1.1, OGC 19-008r4)."""

_NODATA_TAG = 42113
_AT_ONCE = 16 << 20
"""Bytes of the file that are held while it is decoded, and of the array while it is changed."""

_PHOTOMETRIC_TAG, _COLOUR_MAP_TAG = 262, 320

_PIXEL_TAGS = frozenset({256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339})
"""What says how pixels are stored, from ImageWidth to SampleFormat (TIFF 6.0, sections 4 to 19)."""


def read_tiff(path: Path, header: ImageHeader, *, numbers: bool = False) -> np.ndarray:
    """(H, W, C) of any dtype as stored and not turned, "white is zero" turned round; of a palette its indices.

    With `numbers` the values are no brightnesses but labels: those of 8 bits and more stay as they are, whatever they are shown as.

    Of floats, what the file declares as nodata (GDAL's tag, usually NaN or -9999) becomes 0: a value that is no measurement
    would spoil the statistics and the loss. Whole numbers stay as they are.

    Raises:
        UserError: damaged, or compressed in a way that nothing installed reads; the file is named.
    """
    import tifffile

    inverted, bits, nodata = False, 8, None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            _refuse_broken_tags(file, page)
            inverted, bits, nodata = int(page.photometric) == 0, int(page.bitspersample), _nodata(page)
            axes = file.series[0].get_axes(squeeze=True)
            array = file.series[0].asarray(squeeze=True, buffersize=_AT_ONCE)
    except Exception as error:  # tifffile raises whatever its decoders raise
        # "imagecodecs" or a module of a later Python: the codec is missing; everything else is the file's fault
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise UserError(
                f"{path}: the TIFF cannot be decoded ({error}); the file is damaged or truncated."
            ) from error
        array, axes = read_with_others(path, header), "YXS"
    if array.size == 0:
        raise UserError(f"{path}: the TIFF holds no pixels; the file is damaged.")
    order = [axes.index(axis) for axis in axes if axis in "YX"] + [i for i, axis in enumerate(axes) if axis not in "YX"]
    array = array.transpose(order).reshape(*(array.shape[i] for i in order[:2]), -1)
    if inverted and array.dtype.kind in "ub" and not (numbers and header.bits >= 8):
        highest = array.dtype.type((1 << bits) - 1)
        array = np.bitwise_xor(array, highest, out=array if array.flags.writeable else None)
    return array if nodata is None or array.dtype.kind != "f" else _without(array, nodata)


def read_palette_tiff(path: Path, header: ImageHeader) -> np.ndarray:
    """(H, W, 3) uint8, not turned: the colours of a TIFF whose pixels are indices into a palette.

    Raises:
        UserError: as `read_tiff`, and where the palette is missing or no palette.
    """
    import tifffile

    indices = read_tiff(path, header, numbers=True)
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        tag, entries = page.tags.get(_COLOUR_MAP_TAG), 1 << int(page.bitspersample)
        table = np.asarray(() if tag is None else tag.value)
    if indices.shape[2] != 1 or table.dtype.kind not in "iu" or table.size != 3 * entries:
        raise UserError(f"{path}: the palette of the TIFF cannot be read; save it as RGB.")
    # 16 bits each, as TIFF 6.0 wants; some writers put 8 bits there, which libtiff takes as meant.
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8).reshape(3, -1).T
    return table[indices[..., 0].astype(np.intp)]


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
