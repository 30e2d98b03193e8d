"""Maps of ids: counting and renaming what stands in them, and COCO's way of keeping ids in the colours of a PNG."""

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.run_kernels import exact

MOST_IDS = 2**24
"""Three bytes of a colour hold as many ids."""


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """`ids` (H, W), 0..2^24 - 1 -> uint8 RGB (H, W, 3) with id = R + 256 G + 65536 B, as COCO panoptic PNG have it."""
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= MOST_IDS):
        raise UserError(f"Ids in a PNG go from 0 to {MOST_IDS - 1}, found {int(ids.min())} to {int(ids.max())}.")
    return np.stack([(ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)


def decode_ids(colours: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> int32 (H, W): the inverse of `encode_ids`."""
    if colours.ndim != 3 or colours.shape[2] != 3 or colours.dtype != np.uint8:
        raise UserError(f"A PNG of ids is 8-bit RGB, uint8 (H, W, 3), found {colours.dtype} {colours.shape}.")
    out = colours[..., 2].astype(np.int32)
    for channel in (1, 0):
        out <<= 8
        out |= colours[..., channel]
    return out


@exact
def id_areas(ids: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, int]:
    """Pixels of each of `known` (N,) int32 ascending in `ids` (H, W) int32, int64 (N,); and an id that is neither 0 nor known, or 0."""
    areas, unknown, place, value = np.zeros(known.size + 1, np.int64), 0, known.size, 0
    for y in range(ids.shape[0]):
        begin = 0
        for x in range(ids.shape[1]):
            if ids[y, x] != value:
                areas[place] += x - begin
                begin, value, place = x, ids[y, x], known.size
                if value != 0:
                    found = np.searchsorted(known, value)
                    if found < known.size and known[found] == value:
                        place = found
                    else:
                        unknown = value
        areas[place] += ids.shape[1] - begin
    return areas[:-1], unknown


@exact
def rename_ids(ids: np.ndarray, known: np.ndarray, names: np.ndarray, other: int) -> np.ndarray:
    """`names[n]` where `ids` (H, W) int32 is `known[n]` (N,) int32 ascending, else `other`: (H, W) of the dtype of `names`."""
    out = np.empty(ids.shape, names.dtype)
    value, name = ids[0, 0] + 1, other
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            if ids[y, x] != value:
                value, name = ids[y, x], other
                found = np.searchsorted(known, value)
                if found < known.size and known[found] == value:
                    name = names[found]
            out[y, x] = name
    return out
