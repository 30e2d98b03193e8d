"""Slices of NIfTI volumes as images and as label maps; see `nifti_volume` for which way up they are."""

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.headers import ImageHeader, refuse_pixels
from nuriwake.data.nifti_address import SliceAddress
from nuriwake.data.nifti_volume import Volume, open_volume


def slice_header(address: SliceAddress, *, limit: int) -> ImageHeader:
    """What `read_slice` gives. Raises UserError as `open_volume`, and for more pixels than `limit`."""
    volumes = [open_volume(file) for file in address.stored]
    size = volumes[0].picture_size(address.axis)
    refuse_pixels(address.path, size, limit)
    return ImageHeader(size, sum(volume.channels for volume in volumes), "float32", "other", bits=32)


def read_slice(address: SliceAddress, *, limit: int) -> np.ndarray:
    """The slice, float32 (H, W, C) whatever is stored, slope and intercept applied; the channels of all files in order.

    Raises:
        UserError: as `slice_header`, a file that is cut off, or files of one volume of different shapes.
    """
    header = slice_header(address, limit=limit)
    parts = [_values(open_volume(file), address) for file in address.stored]
    if any(part.shape[:2] != header.size for part in parts):
        raise UserError(f"{address.file}: the files of its channels have different shapes.")
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def read_label_slice(address: SliceAddress) -> np.ndarray:
    """The values of a slice of a label volume: (H, W) uint8 or uint16.

    Raises:
        UserError: values that are no whole numbers from 0 to 65535, more than one per voxel, or a file that is cut off.
    """
    volume = open_volume(address.file)
    raw = volume.picture(address.axis, address.index)[..., 0]
    if volume.channels > 1:
        raise UserError(f"{address.file}: a label volume has one value per voxel, found {volume.channels}.")
    if volume.dtype == np.uint8 and volume.scale is None:
        return raw
    values = raw if volume.scale is None else raw * np.float64(volume.scale[0]) + volume.scale[1]
    whole = values if values.dtype.kind in "iu" else np.rint(np.nan_to_num(values, nan=-1, posinf=-1, neginf=-1))
    wrong = (whole != values) | (whole < 0) | (whole > 65535)
    if wrong.any():
        example = values[wrong][0]
        raise UserError(
            f"{address.path}: labels are whole numbers from 0 to 65535, found {example:g} ({int(wrong.sum()):,} such voxels in "
            "this slice); was the volume resampled with interpolation? Resample labels with nearest neighbour."
        )
    return whole.astype(np.uint16)


def _values(volume: Volume, address: SliceAddress) -> np.ndarray:
    raw = volume.picture(address.axis, address.index)
    if volume.scale is None:
        return raw.astype(np.float32)
    slope, intercept = volume.scale
    return (raw * np.float64(slope) + intercept).astype(np.float32)
