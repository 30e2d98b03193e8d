"""Masks as polygons: the exact outline along the edges of pixels, with holes and parts, and simpler ones with a known loss.

Filled by COCO's rule, the exact outline of a mask is that mask again, pixel for pixel. Formats that hold one polygon per
object get parts and holes joined by bridges that are walked there and back, which the rule fills as nothing.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from nuriwake.core.pixels import kernel
from nuriwake.core.runs import RunMasks


def outlines(masks: RunMasks, *, tolerance: float = 0) -> list[list[np.ndarray]]:
    """Per mask the polygons, float64 (2 P,) x0, y0, x1, y1, ..; one per connected part, its holes bridged into it.

    Args:
        tolerance: pixels that an outline may stray for having fewer points (Douglas and Peucker); 0 is exact.
    """
    boxes = masks.boxes().astype(np.int64)
    result: list[list[np.ndarray]] = []
    for index, box in enumerate(boxes):
        if box[2] <= box[0] or box[3] <= box[1]:
            result.append([])
            continue
        crop = masks.crop_dense(index, box)
        result.append([_flat(part, box, tolerance) for part in _parts(crop)])
    return result


def one_outline(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several polygons as one, bridged at the nearest of their corners: float64 (2 P,)."""
    rings = [part.reshape(-1, 2) for part in parts]
    joined = rings[0]
    for ring in rings[1:]:
        joined = _bridge(joined, ring)
    return joined.ravel()


def measured_loss(masks: RunMasks, polygons: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """IoU of every mask with what COCO's rule fills of its polygons, float64 (N,); 1 where both are empty."""
    found = [list(parts) if parts else [np.zeros(6)] for parts in polygons]
    filled = RunMasks.from_polygons(found, masks.size)
    areas = masks.areas()
    result = np.ones(len(masks))
    for i in np.flatnonzero(areas > 0).tolist():
        result[i] = masks[i].iou(filled[i])[0, 0]
    return result


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Rings (P, 2) int64 of corners of pixels, one per part of `mask` (H, W) uint8, its holes bridged."""
    corners, ends = trace_rings(mask)
    rings = np.split(corners, ends[:-1]) if len(ends) else []
    # Outer rings turn one way round and holes the other; a hole belongs to the smallest outer ring around it.
    signed = [_signed_area(ring) for ring in rings]
    outer = [i for i in range(len(rings)) if signed[i] > 0]
    joined = {i: rings[i] for i in outer}
    for hole in (i for i in range(len(rings)) if signed[i] < 0):
        around = outer if len(outer) == 1 else [i for i in outer if _contains(rings[i], _beside(rings[hole]))]
        owner = min(around, key=lambda i: signed[i])
        joined[owner] = _bridge(joined[owner], rings[hole])
    return [joined[i] for i in outer]


def _beside(ring: np.ndarray) -> np.ndarray:
    """The middle of a pixel of the mask at the border `ring`: the mask lies on the right of the walk."""
    ahead = np.sign(ring[1] - ring[0])
    return ring[0] + 0.5 * (ahead + np.array([-ahead[1], ahead[0]]))


def _contains(ring: np.ndarray, point: np.ndarray) -> bool:
    if (point < ring.min(axis=0)).any() or (point > ring.max(axis=0)).any():
        return False
    x, y = point.tolist()
    return cv2.pointPolygonTest(ring.astype(np.float32).reshape(-1, 1, 2), (x, y), measureDist=False) > 0


def _bridge(ring: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`ring` with a walk to `other`, around it, and back the same way."""
    step = max(1, len(ring) // 256)  # the nearest of some corners will do: any bridge is filled as nothing
    some = ring[::step]
    first = other[0]
    i = int(((some - first) ** 2).sum(axis=1).argmin()) * step
    j = int(((other - ring[i]) ** 2).sum(axis=1).argmin())
    walk = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([ring[: i + 1], walk, ring[i:]])


def _flat(ring: np.ndarray, box: np.ndarray, tolerance: float) -> np.ndarray:
    if tolerance > 0:
        simple = cv2.approxPolyDP(ring.astype(np.float32).reshape(-1, 1, 2), tolerance, closed=True).reshape(-1, 2)
        ring = simple if len(simple) >= 3 else ring
    return (ring + box[:2]).astype(np.float64).ravel()


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@kernel
def trace_rings(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The borders between 1 and 0 in `mask` (H, W) uint8, walked along the edges of pixels with the inside on the right.

    At a corner where two pixels touch diagonally the walk stays with its pixel, so that parts are connected by edges only.

    Returns:
        Corners (P, 2) int64, x and y, where the walk turns; and where each ring ends, int64 (R,).
    """
    height, width = mask.shape
    # right[y, x]: the top edge of pixel (y, x) is a border that is still to be walked, from left to right.
    right = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            if mask[y, x] and (y == 0 or not mask[y - 1, x]):
                right[y, x] = 1
    corners = np.empty((1024, 2), np.int64)
    ends = np.empty(64, np.int64)
    used, rings = 0, 0
    for y0 in range(height):
        for x0 in range(width):
            if not right[y0, x0]:
                continue
            x, y, dx, dy = x0, y0, 1, 0
            start = used
            while True:
                if dx == 1:
                    if right[y, x] == 0:
                        break  # back at the first edge
                    right[y, x] = 0
                x, y = x + dx, y + dy
                # The pixels ahead, on the left and on the right of the walk.
                ax, ay = x + (dx - dy - 1) // 2, y + (dy + dx - 1) // 2
                bx, by = x + (dx + dy - 1) // 2, y + (dy - dx - 1) // 2
                ahead_right = 0 <= ay < height and 0 <= ax < width and mask[ay, ax] != 0
                ahead_left = 0 <= by < height and 0 <= bx < width and mask[by, bx] != 0
                if not ahead_right:
                    turn = 1
                elif ahead_left:
                    turn = -1
                else:
                    continue
                if used == len(corners):
                    corners = np.concatenate((corners, np.empty_like(corners)))
                corners[used, 0], corners[used, 1] = x, y
                used += 1
                dx, dy = (-dy, dx) if turn == 1 else (dy, -dx)
            if used > start:
                if rings == len(ends):
                    ends = np.concatenate((ends, np.empty_like(ends)))
                ends[rings] = used
                rings += 1
    return corners[:used], ends[:rings]
