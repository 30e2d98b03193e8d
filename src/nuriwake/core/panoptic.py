"""Panoptic: every pixel belongs to one segment or to none."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path, write_json
from nuriwake.core.id_maps import decode_ids, encode_ids, id_areas
from nuriwake.core.instances import Instances, check_column, check_labels, check_scores
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import import_object
from nuriwake.core.runs import RunMasks
from nuriwake.core.size import Size

if TYPE_CHECKING:  # targets.py joins this type with SemanticMap
    from nuriwake.core.targets import SemanticMap

__all__ = ["Panoptic", "decode_ids", "encode_ids"]


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A class for every pixel and, for things, which one it is.

    Args:
        ids: int32 (H, W): the segment of every pixel, 0 for none (void).
        segment_ids: int32 (N,), positive, each once; exactly those that stand on the map.
        labels: int32 (N,), the class of each segment, 0..len(space)-1.
        space: things and stuff; exclusive.
        crowd: bool (N,), True for a region of many things that nobody told apart; None means no such region.
        scores: float32 (N,), 0..1; None for truth.

    Raises:
        UserError: wrong dtype, shape or values, ids on the map that are not listed, or the reverse.
    """

    ids: np.ndarray
    segment_ids: np.ndarray
    labels: np.ndarray
    space: LabelSpace
    crowd: np.ndarray = field(default=cast(np.ndarray, None), kw_only=True)
    scores: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.ids.ndim != 2 or 0 in self.ids.shape:
            raise UserError(f"A map of ids is int32 of the shape (H, W), found {self.ids.dtype} {self.ids.shape}.")
        if self.segment_ids.dtype != np.int32 or self.segment_ids.ndim != 1:
            raise UserError(
                f"segment_ids is int32 of the shape (N,), found {self.segment_ids.dtype} {self.segment_ids.shape}."
            )
        count = len(self.segment_ids)
        if getattr(self, "crowd") is None:  # noqa: B009
            object.__setattr__(self, "crowd", np.zeros(count, bool))
        check_column(self.labels, "labels", "segments", np.int32, (count,))
        check_column(self.crowd, "crowd", "segments", np.bool_, (count,))
        check_column(self.scores, "scores", "segments", np.float32, (count,))
        check_labels(self.labels, self.space)
        check_scores(self.scores)
        if not self.space.exclusive:
            raise UserError("Segments do not overlap; expected an exclusive label space, found a multi-label one.")
        self._check_ids()

    def _check_ids(self) -> None:
        ascending = np.sort(self.segment_ids)
        repeated = ascending[1:][ascending[1:] == ascending[:-1]]
        if repeated.size:
            raise UserError(f"Segment ids are unique; {repeated[0]} stands more than once.")
        if ascending.size and ascending[0] < 1:
            raise UserError(f"Segment ids are positive (0 means void), found {ascending[0]}.")
        areas, unknown = id_areas(self.ids, ascending)
        if unknown:
            raise UserError(f"The map holds the id {unknown}, which is none of the {len(ascending)} segments listed.")
        missing = ascending[areas == 0]
        if missing.size:
            raise UserError(f"The segment {missing[0]} is listed, but no pixel of the map has this id.")

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def __len__(self) -> int:
        return len(self.segment_ids)

    def areas(self) -> np.ndarray:
        """Pixels of each segment, int64 (N,)."""
        order = np.argsort(self.segment_ids)
        out = np.empty(len(self), np.int64)
        out[order] = id_areas(self.ids, self.segment_ids[order])[0]
        return out

    def masks(self) -> RunMasks:
        """One mask per segment."""
        return RunMasks.from_labels(self.ids, self.segment_ids)

    def semantic(self) -> "SemanticMap":
        """The class of every pixel; void becomes `IGNORE`."""
        from nuriwake.core.views import semantic_view  # views know the targets

        return semantic_view(self)

    def instances(self) -> Instances:
        """The things alone, in a space of the thing classes."""
        from nuriwake.core.views import instance_view

        return instance_view(self)

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write the ids as PNG (id = R + 256 G + 65536 B) and, beside it, what they mean as COCO panoptic JSON, each atomically.

        Returns:
            The files written: `name.png` and `name.json`.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: panoptic maps are saved as PNG; give a name that ends with .png.")
        with atomic_path(path) as temporary:
            Image.fromarray(encode_ids(self.ids)).save(temporary, format="PNG")
        write_json(path.with_suffix(".json"), self._coco(path))
        return path, path.with_suffix(".json")

    def _coco(self, path: Path) -> dict[str, Any]:
        # Class i is category i + 1: 0 means void to some programs.
        space, areas, boxes = self.space, self.areas(), self.masks().boxes().astype(int)
        segments: list[dict[str, Any]] = []
        for n, identity in enumerate(self.segment_ids.tolist()):
            left, top, right, bottom = boxes[n].tolist()
            segment: dict[str, Any] = {"id": identity, "category_id": int(self.labels[n]) + 1, "area": int(areas[n])}
            segment |= {"bbox": [left, top, right - left, bottom - top], "iscrowd": int(self.crowd[n])}
            if self.scores is not None:
                segment["score"] = float(self.scores[n])
            segments.append(segment)
        categories = [
            {"id": i + 1, "name": name, "isthing": int(space.things[i]), "color": list(space.colours[i])}
            for i, name in enumerate(space.names)
        ]
        image = {"id": 1, "file_name": path.name, "height": self.size[0], "width": self.size[1]}
        annotation = {"image_id": 1, "file_name": path.name, "segments_info": segments}
        return {"images": [image], "annotations": [annotation], "categories": categories}

    def overlay(self, image: np.ndarray | Image.Image, *, opacity: float = 0.5, legend: bool = True) -> np.ndarray:
        """`image`, an array (H, W) or (H, W, C) or a Pillow image, with the segments drawn over it: uint8 RGB (H, W, 3). See `nuriwake.viz.objects`."""
        return import_object("nuriwake.viz.objects:overlay_panoptic")(image, self, opacity=opacity, legend=legend)
