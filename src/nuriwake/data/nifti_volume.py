"""One NIfTI file: its header, checked before anything is read, and its slices as pictures, and back.

Volumes are turned, without resampling, so that their axes run to the patient's right, anterior and superior, as the affine
says (nibabel's closest canonical orientation): volumes that scanners stored in different orders then show the same way up. Of
the plane that lies across one axis, the later one of the other two becomes the rows, from its high end down, and the earlier
one the columns, from its high end: an axial slice has anterior at the top and the patient's right at the left, as radiologists
see it, and a coronal or sagittal one has the head at the top. `picture` and `place` are each other's inverse.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.nifti_address import volume_name
from nuriwake.data.nifti_stream import GZIP_FILES

MAX_UNPACKED = 4 << 30
"""The most bytes a .nii.gz may declare: it is unpacked whole once. A .nii of any size is mapped."""

AXES = ("left to right", "posterior to anterior", "inferior to superior")
"""Which way the slices across each axis of the turned volume are counted."""

_MOST_PACKED = 1032  # times, by deflate's own limit (zlib's technical notes, "Maximum Compression Factor")
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_LOGGER = "nibabel.global"


@dataclass(frozen=True, eq=False)
class Volume:
    """What the header of a file says.

    Args:
        path: the file.
        shape: of the stored axes, in voxels.
        channels: values per voxel: of a fourth axis (channels or time), or a fifth (vectors); 1 without.
        dtype: as stored.
        offset: of the first voxel in the (unpacked) file.
        scale: (slope, intercept) of the values; None where they are as stored.
        header: nibabel's.
        affine: (4, 4) float64, from stored voxels to the space of the header, in its unit.
        unit: millimetres per unit of the affine.
        axes: of every axis of the turned volume (right, anterior, superior) the stored one.
        flips: whether that one runs the other way.
    """

    path: Path
    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float] | None
    header: Any
    affine: np.ndarray
    unit: float
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Voxels along right, anterior, superior."""
        x, y, z = (self.shape[axis] for axis in self.axes)
        return x, y, z

    @property
    def turned_affine(self) -> np.ndarray:
        """(4, 4), from voxels of the turned volume to millimetres."""
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for turned, (stored, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            turn[stored, turned] = -1 if flip else 1
            turn[stored, 3] = self.shape[stored] - 1 if flip else 0
        return np.diag([self.unit, self.unit, self.unit, 1.0]) @ self.affine @ turn

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along right, anterior, superior."""
        x, y, z = np.linalg.norm(self.turned_affine[:3, :3], axis=0).tolist()
        return round(x, 6), round(y, 6), round(z, 6)  # headers hold float32

    @property
    def voxel_millilitres(self) -> float:
        """The volume of one voxel."""
        return abs(float(np.linalg.det(self.turned_affine[:3, :3]))) / 1000

    def picture(self, axis: int, index: int) -> np.ndarray:
        """The slice `index` across `axis` of the turned volume: (H, W, channels), values as stored.

        Raises:
            UserError: the file is cut off or damaged.
        """
        stored = self.axes[axis]
        place = self.shape[stored] - 1 - index if self.flips[axis] else index
        plane = _plane(self, stored, place)
        first, second = (a for a in range(3) if a != axis)
        if self.axes[first] > self.axes[second]:
            plane = plane.swapaxes(0, 1)
        # Both run from their high ends down in a picture, so that a stored axis that runs backwards is right as it is.
        plane = plane[:: 1 if self.flips[first] else -1, :: 1 if self.flips[second] else -1]
        return np.ascontiguousarray(plane.swapaxes(0, 1))

    def picture_size(self, axis: int) -> tuple[int, int]:
        """(height, width) of slices across `axis`."""
        first, second = (a for a in range(3) if a != axis)
        return self.turned_shape[second], self.turned_shape[first]

    def picture_spacing(self, axis: int) -> tuple[float, float]:
        """Millimetres between (rows, columns) of slices across `axis`."""
        first, second = (a for a in range(3) if a != axis)
        return self.spacing[second], self.spacing[first]

    def empty(self, dtype: type[np.generic]) -> np.ndarray:
        """An array of the stored shape for `place`."""
        return np.zeros(self.shape, dtype, order="F")

    def place(self, stored: np.ndarray, axis: int, index: int, picture: np.ndarray) -> None:
        """Writes `picture` (H, W) into `stored`, from which `picture` reads it again."""
        turned = stored.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        first, second, third = ((slice(None), index)[a == axis] for a in range(3))
        turned[first, second, third] = picture.T[::-1, ::-1]


def nibabel() -> ModuleType:
    """The library that knows NIfTI's headers. Raises UserError where it is not installed."""
    try:
        import nibabel as library
    except ImportError as error:
        raise UserError('NIfTI volumes need nibabel; install it with `pip install "nuriwake[medical]"`.') from error
    return library


def open_volume(path: Path) -> Volume:
    """The volume in the file `path`; nothing but its header is read.

    Raises:
        UserError: nibabel is not installed, no NIfTI, a header that does not fit the file or cannot be used.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return _open(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _open(path: Path, _changed: int, size: int) -> Volume:
    library = nibabel()
    if volume_name(path) is None:
        raise UserError(f"{path}: this is no NIfTI file; its name ends with .nii or .nii.gz.")
    logger = logging.getLogger(_LOGGER)  # it prints what it mends in a header; what matters we say ourselves
    before, logger.disabled = logger.disabled, True
    try:
        image: Any = library.load(path)
        known = isinstance(image, library.Nifti1Image | library.Nifti2Image)
        proxy, affine = image.dataobj, np.asarray(image.affine, np.float64)
        shape, dtype = tuple(int(side) for side in proxy.shape), np.dtype(proxy.dtype)
        scale = (float(proxy.slope), float(proxy.inter))
        unit = image.header.get_xyzt_units()[0] if known else "mm"
    except Exception as error:  # nibabel raises whatever its readers raise
        why = f"unknown code {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(
            f"{path}: this is no NIfTI volume that can be read ({why}); copy or download it again."
        ) from error
    finally:
        logger.disabled = before
    if not known:
        raise UserError(f"{path}: named NIfTI, but it is of another format ({type(image).__name__}); convert it.")
    spatial, channels = _axes(path, shape)
    _check_values(path, dtype, scale)
    _check_length(path, size, int(proxy.offset), shape, dtype)
    axes, flips = _orientation(library, path, affine)
    plain = scale == (1.0, 0.0)
    return Volume(
        path, spatial, channels, dtype, int(proxy.offset), None if plain else scale, image.header, affine,
        _MILLIMETRES.get(unit, 1.0), axes, flips,
    )  # fmt: skip


def _axes(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise UserError(f"{path}: a volume has 2 to 5 axes of at least one voxel, the header declares {_by(shape)}.")
    if len(shape) == 5 and shape[3] > 1:
        raise UserError(
            f"{path}: the header declares {_by(shape)} voxels, time and vectors at once; save every time as its own file."
        )
    x, y, z = (*shape[:3], 1)[:3]
    return (x, y, z), int(np.prod(shape[3:], dtype=np.int64)) if len(shape) > 3 else 1


def _check_values(path: Path, dtype: np.dtype[Any], scale: tuple[float, float]) -> None:
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        found = "colours (RGB)" if dtype.fields else str(dtype)
        raise UserError(f"{path}: voxels are whole numbers or real ones of up to 64 bits, found {found}; convert it.")
    if not np.isfinite(scale).all():
        raise UserError(f"{path}: the header scales values by {scale[0]} and {scale[1]}, which are no numbers.")


def _check_length(path: Path, size: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    declared = offset + dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))
    packed = path.name.lower().endswith(".gz")
    told = f"{path}: the header declares {_by(shape)} voxels of {dtype}, {declared:,} bytes"
    if not packed and size < declared:
        raise UserError(f"{told}, but the file has {size:,}: it is cut off or damaged; copy or download it again.")
    if packed and declared > _MOST_PACKED * size + (1 << 16):
        raise UserError(f"{told}, more than {size:,} bytes of gzip can hold: it is cut off or damaged.")
    if packed and declared > MAX_UNPACKED:
        raise UserError(
            f"{told}, the limit for .nii.gz is {MAX_UNPACKED:,}; unpack it with gunzip: a .nii of any size is read in place."
        )


def _orientation(
    library: ModuleType, path: Path, affine: np.ndarray
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    usable = bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine[:3, :3]))) > 1e-12
    turns = library.orientations.io_orientation(affine) if usable else np.full((3, 2), np.nan)
    if not np.isfinite(turns).all():
        raise UserError(
            f"{path}: the affine of the header does not say where voxels lie (its columns {affine[:3, :3].T.tolist()} do not "
            "span space); repair the header."
        )
    stored = {int(turned): index for index, turned in enumerate(turns[:, 0])}
    x, y, z = (stored[axis] for axis in range(3))
    return (x, y, z), (turns[x, 1] < 0, turns[y, 1] < 0, turns[z, 1] < 0)


def _plane(volume: Volume, stored: int, place: int) -> np.ndarray:
    """The voxels at `place` of the stored axis: (the other two in their order, channels), values as stored."""
    whole = (*volume.shape, volume.channels)
    here = (
        *(slice(None),) * stored,
        place,
    )  # not np.take, which first copies the whole of what is stored column by column
    item = volume.dtype.itemsize
    if not volume.path.name.lower().endswith(".gz"):
        try:
            array = np.memmap(volume.path, volume.dtype, "r", volume.offset, whole, "F")
        except (OSError, ValueError) as error:
            raise UserError(f"{volume.path}: cannot be read ({error}).") from error
        return np.array(array[here])
    total = volume.offset + item * int(np.prod(whole, dtype=np.int64))
    if stored == 2 and volume.channels == 1:  # slices across the last axis lie in one piece
        length = item * whole[0] * whole[1]
        start = volume.offset + place * length
        part = GZIP_FILES.read(volume.path, start, start + length, total=total)
        return np.ndarray((*whole[:2], 1), volume.dtype, part, order="F")
    block = GZIP_FILES.read(volume.path, 0, total, total=total)
    return np.ndarray(whole, volume.dtype, block, volume.offset, order="F")[here]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)
