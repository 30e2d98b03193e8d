"""Reading images and masks. Every file is checked before it is decoded and must be complete."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.headers import MAX_PIXELS, ImageHeader, image_header, jpeg_scan_start, open_pillow
from nuriwake.data.nifti_address import slice_address
from nuriwake.data.tiff import read_palette_tiff, read_tiff


def read_image(path: str | Path, *, limit: int = MAX_PIXELS, keep_alpha: bool = False) -> np.ndarray:
    """The image at `path`: (H, W, C), uint8, uint16 or float32, RGB where it has colours, upright (EXIF applied).

    Grey gives C = 1. A TIFF keeps all its channels as stored; 1-bit TIFF gives 0 and 255, float64 becomes float32, and
    floats that the file declares as nodata become 0. A slice of a NIfTI volume (`nifti_address`) is float32.

    Args:
        limit: the most pixels a file may declare.
        keep_alpha: keep the alpha channel of PNG, WebP and BMP as the last one; by default it is dropped.

    Raises:
        UserError: missing, no image, truncated, damaged, too large, or of an unsupported type; the file is named.
    """
    path = Path(path)
    if (address := slice_address(path)) is not None:
        from nuriwake.data.nifti_slices import read_slice

        return read_slice(address, limit=limit)
    header = image_header(path, limit=limit)
    if header.kind == "tiff":
        array = read_palette_tiff(path, header) if header.palette else _supported(read_tiff(path, header), path)
    else:
        array = _colours(_opencv(_bytes(path), path, header), header, keep_alpha=keep_alpha)
    return np.ascontiguousarray(_upright(array, header.orientation))


def read_mask(path: str | Path, *, limit: int = MAX_PIXELS) -> np.ndarray:
    """The raw values of the mask at `path`: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB where colours are the code.

    A palette PNG gives its indices; grey of 1, 2 or 4 bits gives 0..15 at most; the EXIF orientation is applied; "white is zero" of a
    TIFF says how its labels are shown and leaves them as they are, but for 1 bit.

    Raises:
        UserError: as `read_image`, and for transparency, more than 3 channels, or values beyond 16 bits.
    """
    path = Path(path)
    header = image_header(path, limit=limit)
    if header.kind == "tiff":
        array = _whole_numbers(read_tiff(path, header, numbers=True), path)
    elif header.palette or header.bits < 8:
        array = _indices(_bytes(path), path, header)
    else:
        array = _opaque(_colours(_opencv(_bytes(path), path, header), header, keep_alpha=header.alpha), path, header)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and (array.shape[2] != 3 or array.dtype != np.uint8):
        raise UserError(
            f"{path}: a mask has one channel, or three of 8 bits (RGB-coded), found {array.shape[2]} of {array.dtype}."
        )
    return np.ascontiguousarray(_upright(array, header.orientation))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _opencv(data: bytes, path: Path, header: ImageHeader) -> np.ndarray:
    """Decoded by OpenCV, BGR(A) or grey, not turned."""
    _check_whole(data, path, header)
    # A JPEG of three or four components (CMYK) becomes BGR; everything else comes as stored.
    colour = header.kind == "jpeg" and header.channels == 3
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if colour else cv2.IMREAD_UNCHANGED
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        array = None
    if array is None:
        raise UserError(f"{path}: the image cannot be decoded; the file is damaged. Copy or download it again.")
    return array


def _check_whole(data: bytes, path: Path, header: ImageHeader) -> None:
    """Decoders fill the rest of a truncated JPEG with grey, and Pillow takes a PNG whose checksums do not fit, both silently
    in some versions; so look for the end, and at the checksums, ourselves."""
    complete = True
    if header.kind == "jpeg":
        # After the first scan 0xFF is stuffed, so this pair of bytes can only be the end marker (not a thumbnail's).
        complete = data.find(b"\xff\xd9", jpeg_scan_start(data)[0]) >= 0
    elif header.kind == "png":
        complete = _png_ends(data, path)
    if not complete:
        raise UserError(f"{path}: the image ends before its end marker (truncated); copy or download it again.")


def _png_ends(data: bytes, path: Path) -> bool:
    """Whether the chunks go on to the end. Raises UserError where a checksum does not fit (PNG specification, 5.3)."""
    view, offset = memoryview(data), 8
    while offset + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data):
            return False
        # Chunks in lower case are comments and the like, but for what turns the image or makes it transparent.
        matters = not name[0] & 0x20 or name in (b"eXIf", b"tRNS")
        if matters and zlib.crc32(view[offset + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            part = name.decode("ascii", "replace")
            raise UserError(
                f"{path}: the PNG is damaged: the checksum of its part {part} (byte {offset:,}) does not fit; copy or download it "
                "again."
            )
        if name == b"IEND":
            return True
        offset = end + 4
    return False


def _colours(array: np.ndarray, header: ImageHeader, *, keep_alpha: bool) -> np.ndarray:
    """BGR(A) or grey of OpenCV -> (H, W, C) RGB(A) or grey with the channels the header promises."""
    stored = 1 if array.ndim == 2 else array.shape[2]
    if header.channels == 1:
        grey = array if stored == 1 else array[..., 0]  # grey with alpha comes as BGRA with equal colours
        return np.dstack([grey, array[..., 3]]) if keep_alpha and stored == 4 else grey[..., None]
    if stored == 1:
        return cv2.cvtColor(array, cv2.COLOR_GRAY2RGB)
    if stored == 4:
        return cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if keep_alpha else cv2.COLOR_BGRA2RGB)
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def _opaque(array: np.ndarray, path: Path, header: ImageHeader) -> np.ndarray:
    if not header.alpha or array.shape[2] not in (2, 4):
        return array
    alpha = array[..., -1]
    if int(alpha.min()) != int(alpha.max()):
        raise UserError(f"{path}: the mask has transparent pixels; save it without an alpha channel.")
    return array[..., :-1]


def _indices(data: bytes, path: Path, header: ImageHeader) -> np.ndarray:
    """Palette indices, or grey of fewer than 8 bits unscaled: Pillow keeps both, OpenCV does not."""
    _check_whole(data, path, header)
    try:
        with open_pillow(io.BytesIO(data)) as image:
            array = np.asarray(image).astype(np.uint8)
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise UserError(f"{path}: the mask cannot be decoded ({error}); copy or download it again.") from error
    scaled = header.kind == "png" and not header.palette and header.bits in (2, 4)
    return array // (255 // (2**header.bits - 1)) if scaled else array


def _supported(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    raise UserError(f"{path}: an image is uint8, uint16 or float32, found {array.dtype}; convert it to one of these.")


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype == np.bool_ or array.dtype == np.uint8:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise UserError(f"{path}: a mask holds whole numbers, found {array.dtype}; save it as 8 or 16 bit.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        so = "; more objects than that are read from their polygons (polygons/NAME.geojson, --format geotiff)"
        raise UserError(f"{path}: mask values must lie in 0..65535, found {low}..{high}{so * (low >= 0)}.")
    return array.astype(np.uint16)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """`array` (H, W, ...) turned and mirrored as EXIF orientation 1..8 says (Exif 2.32, tag 274)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    # What is left after the transposition: flip rows for 3, 4, 7, 8 and columns for 2, 3, 6, 7.
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return array[rows, columns]
