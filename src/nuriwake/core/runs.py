"""RunMasks: binary masks of one image as run lengths. Nothing here makes a whole image of an object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nuriwake.core import run_kernels as kernels
from nuriwake.core.errors import UserError
from nuriwake.core.polygons import fill_outlines
from nuriwake.core.run_coding import decode_text, encode_text
from nuriwake.core.run_encoding import dense_runs, label_runs
from nuriwake.core.size import Size
from nuriwake.core.vector_bits import LANES

Index = int | slice | np.ndarray | Sequence[int]

_UINT32, _INT64 = np.dtype(np.uint32), np.dtype(np.int64)

MOST_PIXELS = 2**32 - 1
"""Run lengths are 32 bit, as COCO's are."""


@dataclass(frozen=True, eq=False)
class RunMasks:
    """N binary masks of one size as COCO's run lengths: down the columns, background first.

    Args:
        counts: uint32 (R,), the runs of all masks one after the other; zero-length runs may stand anywhere.
        offsets: int64 (N + 1,), the runs of mask n are `counts[offsets[n] : offsets[n + 1]]`.
        size: (height, width) in pixels.

    Raises:
        UserError: wrong dtype or shape, or a mask whose runs do not sum to height * width.
    """

    counts: np.ndarray
    offsets: np.ndarray
    size: Size
    _areas: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        height, width = self.size
        pixels = height * width
        if height < 1 or width < 1 or pixels > MOST_PIXELS:
            raise UserError(f"Masks have 1 to {MOST_PIXELS} pixels, found a size of {height}x{width} (height x width).")
        for name, array, dtype in (("counts", self.counts, _UINT32), ("offsets", self.offsets, _INT64)):
            if array.dtype != dtype or array.ndim != 1:
                raise UserError(f"{name} is {dtype} of one dimension, found {array.dtype} {array.shape}.")
        areas = np.empty(max(self.offsets.size - 1, 0), np.int64)
        fault = kernels.first_fault(self.counts, self.offsets, pixels, areas)
        if fault == kernels.WRONG_OFFSETS:
            raise UserError(
                f"offsets ascend from 0 to the number of counts ({self.counts.size}), found {_some(self.offsets)}."
            )
        if fault >= 0:
            covered = int(self.counts[self.offsets[fault] : self.offsets[fault + 1]].sum(dtype=np.int64))
            raise UserError(
                f"The run lengths of mask {fault} cover {covered} pixels, expected {height}x{width} = {pixels} "
                "(height x width); does the mask belong to an image of another size?"
            )
        object.__setattr__(self, "_areas", areas)

    @classmethod
    def empty(cls, size: Size) -> "RunMasks":
        """No mask at all."""
        return cls(np.empty(0, np.uint32), np.zeros(1, np.int64), size)

    @classmethod
    def from_dense(cls, masks: np.ndarray) -> "RunMasks":
        """`masks` (N, H, W), bool or uint8; what is not 0 belongs to the mask."""
        if masks.ndim != 3 or masks.dtype.str[1:] not in ("b1", "u1"):
            raise UserError(f"Dense masks are bool or uint8 of the shape (N, H, W), found {masks.dtype} {masks.shape}.")
        size = (int(masks.shape[1]), int(masks.shape[2]))
        if len(masks) == 0 or 0 in size:
            return cls.empty(size)
        runs = [_dense_runs(mask) for mask in masks]
        return cls(np.concatenate(runs), run_offsets([len(item) for item in runs]), size)

    @classmethod
    def from_labels(cls, ids: np.ndarray, values: np.ndarray) -> "RunMasks":
        """The masks `ids == values[n]`, all in one pass over the map.

        Args:
            ids: (H, W), of any integer dtype.
            values: (N,), integers, each once; what stands in `ids` and not here is left out.
        """
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise UserError(f"A map of ids is of integers and the shape (H, W), found {ids.dtype} {ids.shape}.")
        wanted = np.asarray(values, np.int64)
        order = np.argsort(wanted)
        ascending = wanted[order]
        repeated = ascending[1:][ascending[1:] == ascending[:-1]]
        if repeated.size:
            raise UserError(f"Ids are unique; {repeated[0]} stands more than once.")
        # Two compiled kernels are enough: each costs seconds when it is first used.
        narrow = ids.dtype.itemsize < 4 or ids.dtype == np.int32
        counts, offsets = label_runs(np.ascontiguousarray(ids, np.int32 if narrow else np.int64), ascending, order)
        return cls(counts, offsets, (int(ids.shape[0]), int(ids.shape[1])))

    @classmethod
    def from_boxes(cls, boxes: np.ndarray, size: Size) -> "RunMasks":
        """Filled `boxes` (N, 4) xyxy half-open, any number dtype, rounded and clipped to the image as COCO's frPyObjects does."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        corners = boxes[:, [0, 1, 0, 3, 2, 3, 2, 1]]
        return cls.from_polygons([[row] for row in corners], size)

    @classmethod
    def from_polygons(cls, objects: Sequence[Sequence[Sequence[float] | np.ndarray]], size: Size) -> "RunMasks":
        """One mask per object: the union of its filled outlines, bit for bit as COCO's frPyObjects and merge make it.

        Args:
            objects: per object a list of outlines, each flat (x0, y0, x1, y1, ..) in pixels; parts beyond the image are cut off.
            size: (height, width) of the image.

        Raises:
            UserError: an object without outlines, fewer than three points, an odd number of coordinates, or one that is no finite number.
        """
        parts = [
            _outline(part, f"object {i}, polygon {j}") for i, item in enumerate(objects) for j, part in enumerate(item)
        ]
        lengths = [len(item) for item in objects]
        if 0 in lengths:
            raise UserError(f"object {lengths.index(0)}: expected at least one polygon, found none.")
        if not parts:
            return cls.empty(size)
        counts, offsets = fill_outlines(
            np.concatenate(parts), run_offsets([len(part) for part in parts]), size[0], size[1]
        )
        masks = cls(counts, offsets, size)
        return masks if len(parts) == len(objects) else masks._united(run_offsets(lengths))

    @classmethod
    def from_coco(cls, objects: Sequence[Mapping[str, Any]], size: Size | None = None) -> "RunMasks":
        """Masks from COCO's {"size": [height, width], "counts": bytes, text or list of numbers}.

        Args:
            objects: one per mask.
            size: what all sizes must be; None takes that of the first.

        Raises:
            UserError: no masks and no size, sizes that differ, runs that are no numbers or do not cover the mask.
        """
        sizes = [_coco_size(item, index) for index, item in enumerate(objects)]
        if size is None and not sizes:
            raise UserError("No masks and no size are given; expected at least one of them.")
        size = size or sizes[0]
        for index, found in enumerate(sizes):
            if found != size:
                raise UserError(
                    f"Mask {index} has the size {found[0]}x{found[1]}, expected {size[0]}x{size[1]} (height x width)."
                )
        runs = [_coco_counts(item.get("counts"), index) for index, item in enumerate(objects)]
        return cls(np.concatenate([np.empty(0, np.uint32), *runs]), run_offsets([len(item) for item in runs]), size)

    @classmethod
    def concatenate(cls, parts: Sequence["RunMasks"]) -> "RunMasks":
        """All masks of `parts` (at least one, all of one size) in their order."""
        sizes = {part.size for part in parts}
        if len(sizes) != 1:
            raise UserError(f"Masks of one size are put together, found {sorted(sizes) or 'none'}.")
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.counts for part in parts]), run_offsets(lengths), parts[0].size)

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, index: Index) -> "RunMasks":
        """Masks by number, slice, list of numbers or bool (N,); one number gives one mask, as `RunMasks` too."""
        chosen = as_places(index, len(self))
        lengths = np.diff(self.offsets)[chosen]
        offsets = run_offsets(lengths)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return RunMasks(self.counts[places], offsets, self.size)

    def to_coco(self, compressed: bool = True) -> list[dict[str, Any]]:
        """{"size": [height, width], "counts": ..} per mask, ready for JSON: counts as text, or as list when not `compressed`."""
        size = list(self.size)
        if not compressed:
            return [
                {"size": size, "counts": run.tolist()} for run in np.split(self.counts, self.offsets[1:-1])[: len(self)]
            ]
        text, ends = encode_text(self.counts, self.offsets)
        whole = text.tobytes().decode("ascii")
        return [{"size": size, "counts": whole[ends[n] : ends[n + 1]]} for n in range(len(self))]

    def areas(self) -> np.ndarray:
        """Pixels of each mask, int64 (N,)."""
        return self._areas.copy()

    def boxes(self) -> np.ndarray:
        """float32 (N, 4), xyxy half-open, as tight as can be; zeros for an empty mask."""
        return kernels.bounds(self.counts, self.offsets, self.size[0]).astype(np.float32)

    def dense(self, index: Index | None = None) -> np.ndarray:
        """uint8 (n, H, W) of 0 and 1, of the masks `index` (all for None). Mind the memory: n * H * W bytes."""
        masks = self if index is None else self[index]
        out = np.zeros((len(masks), *self.size), np.uint8)
        for n, canvas in enumerate(out):
            begin, end = masks.offsets[n], masks.offsets[n + 1]
            kernels.write_dense(masks.counts, begin, end, 0, 0, self.size[0], canvas)
        return out

    def crop_dense(self, index: int, box: Sequence[int] | np.ndarray) -> np.ndarray:
        """Mask `index` inside `box` (whole numbers xyxy, half-open; beyond the image 0): uint8 (h, w) of 0 and 1."""
        left, top, right, bottom = (int(value) for value in box)
        out = np.zeros((max(bottom - top, 0), max(right - left, 0)), np.uint8)
        one = range(len(self))[index]
        inside = out[max(-top, 0) :, max(-left, 0) :]
        begin, end = self.offsets[one], self.offsets[one + 1]
        kernels.write_dense(self.counts, begin, end, max(left, 0), max(top, 0), self.size[0], inside)
        return out

    def paint(self, canvas: np.ndarray, values: np.ndarray) -> None:
        """Writes `values[n]` (N,) to the pixels of mask n on `canvas` (H, W), any number dtype, later ones over earlier ones."""
        if canvas.shape != self.size or len(values) != len(self):
            raise UserError(
                f"A canvas of {self.size} and {len(self)} values are expected, found {canvas.shape} and {len(values)}."
            )
        kernels.paint(self.counts, self.offsets, canvas, np.asarray(values).astype(canvas.dtype))

    def merge(self) -> "RunMasks":
        """The union of all masks, as one."""
        return self._united(np.array([0, len(self)], np.int64))

    def intersections(self, other: "RunMasks") -> np.ndarray:
        """Pixels common to each mask and each of `other`, int64 (N, M)."""
        _same_size(self, other)
        return kernels.intersections(self.counts, self.offsets, other.counts, other.offsets, self.size[0])

    def iou(self, other: "RunMasks", crowd: np.ndarray | None = None) -> np.ndarray:
        """Intersection over union with each of `other`, float64 (N, M); 0 where nothing is common.

        Where `crowd` (M,) bool is set, over the mask's own area instead of the union, as pycocotools has it.
        """
        common = self.intersections(other)
        own = self.areas()[:, None]
        whole = own + other.areas()[None] - common
        if crowd is not None:
            whole = np.where(np.asarray(crowd, bool)[None], own, whole)
        return common / np.maximum(whole, 1)

    def window(self, top: int, left: int, size: Size) -> "RunMasks":
        """The window of `size` at (top, left), which may be negative: background lies beyond the image."""
        rows = np.clip(np.arange(self.size[0] + 1) - top, 0, size[0])
        columns = np.clip(np.arange(self.size[1] + 1) - left, 0, size[1])
        return self._remapped(rows, columns, size)

    def resize(self, size: Size) -> "RunMasks":
        """At `size`: every new pixel takes the nearest one, centres at half pixels, the lower right one of equally near."""
        if size == self.size:
            return self
        rows, columns = (_nearest(before, after) for before, after in zip(self.size, size, strict=True))
        return self._remapped(rows, columns, size)

    def flip(self, direction: Literal["horizontal", "vertical"]) -> "RunMasks":
        """Left to right, or upside down."""
        turned = self if direction == "vertical" else self._turned()
        return turned._remapped(np.arange(self.size[0] + 1), np.arange(self.size[1] + 1), self.size, mirror=True)

    def _turned(self) -> "RunMasks":
        """By half a turn: the runs from the last to the first."""
        runs = [run[::-1] for run in np.split(self.counts, self.offsets[1:-1])[: len(self)]]
        # An even number of runs ends with the mask: a background of length zero goes before it.
        runs = [run if len(run) % 2 else np.concatenate([np.zeros(1, np.uint32), run]) for run in runs]
        return RunMasks(
            np.concatenate([np.empty(0, np.uint32), *runs]), run_offsets([len(run) for run in runs]), self.size
        )

    def _remapped(self, rows: np.ndarray, columns: np.ndarray, size: Size, mirror: bool = False) -> "RunMasks":
        def write(out: np.ndarray, offsets: np.ndarray) -> int:
            return kernels.remap(self.counts, self.offsets, columns, rows, size, mirror, out, offsets)

        return filled(write, len(self), size, guess=2 * self.counts.size * -(-size[1] // self.size[1]))

    def _united(self, groups: np.ndarray) -> "RunMasks":
        """The union of the masks `groups[g] .. groups[g + 1]` for each g; `groups` int64 (G + 1,)."""
        starts, stops, first = kernels.spans(self.counts, self.offsets)
        total = self.size[0] * self.size[1]

        def write(out: np.ndarray, offsets: np.ndarray) -> int:
            return kernels.unite_groups(starts, stops, first, groups, total, out, offsets)

        return filled(write, len(groups) - 1, self.size, guess=self.counts.size)


def filled(write: Callable[[np.ndarray, np.ndarray], int], count: int, size: Size, *, guess: int) -> RunMasks:
    """The masks that a kernel writes to an array that may prove too small."""
    offsets, out = np.zeros(count + 1, np.int64), np.empty(guess + 8, np.uint32)
    needed = write(out, offsets)
    if needed > out.size:
        out = np.empty(needed, np.uint32)
        write(out, offsets)
    return RunMasks(out[:needed].copy() if needed < out.size else out, offsets, size)


def _dense_runs(mask: np.ndarray) -> np.ndarray:
    """The runs of `mask` (H, W) bool or uint8, of any strides."""
    height, width = mask.shape
    if width >= LANES:
        return dense_runs(np.ascontiguousarray(mask).reshape(-1).view(np.uint8), height, width)
    # The kernel wants wider rows: background on the left is one longer first run.
    padded = np.zeros((height, LANES), np.uint8)
    padded[:, LANES - width :] = mask
    runs = dense_runs(padded.reshape(-1), height, LANES)
    runs[0] -= (LANES - width) * height
    return runs


def _nearest(before: int, after: int) -> np.ndarray:
    """For each of `before` pixels and the end, the first of `after` that takes its value from there or later."""
    source = (2 * np.arange(after, dtype=np.int64) + 1) * before // (2 * after)
    return np.searchsorted(source, np.arange(before + 1))


def _outline(part: Sequence[float] | np.ndarray, where: str) -> np.ndarray:
    """Flat coordinates as float64 (P, 2)."""
    try:
        flat = np.asarray(part, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected a flat list of numbers x0, y0, x1, y1, .., found {part!r:.60}.") from error
    if flat.ndim != 1 or flat.size % 2:
        raise UserError(f"{where}: expected x and y of every point in a flat list, found the shape {flat.shape}.")
    if flat.size < 6:
        raise UserError(f"{where}: a polygon has at least three points, found {flat.size // 2}.")
    if not np.all(np.abs(flat) < 1e8):
        raise UserError(f"{where}: coordinates are finite numbers of pixels, found {flat[~(np.abs(flat) < 1e8)][0]}.")
    return flat.reshape(-1, 2)


def _coco_size(item: Mapping[str, Any], index: int) -> Size:
    size = item.get("size")
    if not isinstance(size, Sequence | np.ndarray) or len(size) != 2 or isinstance(size, str):
        raise UserError(f"Mask {index}: expected the size as [height, width], found {size!r}.")
    if not all(isinstance(side, int | np.integer) for side in size):
        raise UserError(f"Mask {index}: the size is two whole numbers, [height, width], found {size!r}.")
    return int(size[0]), int(size[1])


def _coco_counts(counts: Any, index: int) -> np.ndarray:
    """The runs of one COCO mask, uint32."""
    if isinstance(counts, str | bytes):
        text = np.frombuffer(counts if isinstance(counts, bytes) else counts.encode(), np.uint8)
        out = np.empty(text.size, np.uint32)
        used, error = decode_text(text, out)
        if error >= 0:
            raise UserError(
                f"Mask {index}: the compressed run lengths are damaged at character {error + 1} of {text.size}, "
                f"{chr(text[error])!r}: expected characters from '0' to 'o' that make numbers from 0 to {MOST_PIXELS}."
            )
        return out[:used]
    try:
        runs = np.asarray(counts)
        sound = runs.ndim == 1 and (runs.dtype.kind in "iu" or runs.size == 0)
        if sound and (runs.size == 0 or (runs.min() >= 0 and runs.max() <= MOST_PIXELS)):
            return runs.astype(np.uint32)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"Mask {index}: expected run lengths as text or a list of whole numbers from 0, found {counts!r:.60}."
    )


def as_places(index: Index, count: int) -> np.ndarray:
    """What `index` chooses of 0..count - 1, int64 (n,)."""
    if isinstance(index, Sequence) and len(index) == 0:
        return np.empty(0, np.int64)  # NumPy would take an empty list for floats
    return np.atleast_1d(np.arange(count)[index if isinstance(index, slice) else np.asarray(index)])


def run_offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def _same_size(a: RunMasks, b: RunMasks) -> None:
    if a.size != b.size:
        raise UserError(f"Masks of one size are compared, found {a.size[0]}x{a.size[1]} and {b.size[0]}x{b.size[1]}.")


def _some(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:6].tolist())) + (", .." if values.size > 6 else "")
