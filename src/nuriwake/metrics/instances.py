"""COCO's average precision and recall straight from `Instances`, for masks, boxes and boundaries."""

from collections.abc import Sequence

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import lookup
from nuriwake.metrics.average_precision import FIGURES, PrecisionTables, image_figures, precision_tables
from nuriwake.metrics.box_table import BoxTable, judge_tables
from nuriwake.metrics.detections import Detections, by_falling_score
from nuriwake.metrics.judging import Judge, judge_boundaries, judge_boxes, judge_masks
from nuriwake.metrics.matching import choose, count_objects
from nuriwake.metrics.metric import Counts, MetricReport, MetricSettings, Spacing, without_nan

KINDS: dict[str, Judge] = {"mask": judge_masks, "box": judge_boxes, "boundary": judge_boundaries}
"""What two objects are compared by. A new one is a row here."""

_RATIOS = ("ap", "ap50", "ap75")


class InstanceMetric:
    """COCO's twelve figures per kind, over a data set and of each of its images; equal to pycocotools'.

    The details that decide: objects are small, medium or large by the area that the data set states; a detection by its
    mask (boxes: its box). Crowd regions need not be found, and finding them is no error. The 100 detections of highest score of each
    class count in each image, and the report says how many did not (`beyond_limit`). Equal scores keep the order of the images,
    and within an image that of the prediction. A prediction without scores is taken as one whose scores are all equal.
    A figure of which no class has an object is nan, where pycocotools says -1.

    The state grows with the detections, by some 50 bytes each: average precision is no sum, it needs all of them in order. Several
    states are put together an image of each in turn, so that processes that dealt the images among themselves that way
    end with exactly the figures of one process.

    Args:
        space: the label space of all instances.
        kinds: names of `KINDS`.

    Raises:
        UserError: an unknown kind (did you mean).
    """

    def __init__(self, space: LabelSpace, *, kinds: Sequence[str] = ("mask", "box")) -> None:
        self.space = space
        for kind in kinds:
            lookup(kind, KINDS, "kind of average precision")
        self.kinds = tuple(kinds)
        self._names = {kind: tuple(f"{kind}_{figure}" for figure in FIGURES) for kind in kinds}
        self._detections = Detections(kinds)
        self._objects = np.zeros((len(space), 4), np.int64)
        # Images, and detections beyond the limit.
        self._seen = np.zeros(2, np.int64)

    @classmethod
    def boundary(cls, space: LabelSpace, settings: MetricSettings) -> "InstanceMetric":
        """Boundary AP, whose IoU is the smaller of that of the masks and that of their boundaries (Cheng et al., 2021)."""
        return cls(space, kinds=("boundary",))

    def update(self, prediction: Instances, target: Instances, *, spacing: Spacing = (1.0, 1.0)) -> dict[str, float]:
        """Count one image; returns its own figures under the same names, nan where not defined. `spacing` changes none.

        Raises:
            UserError: the two differ in size, or have another number of classes than the metric.
        """
        first, before = self._detections.rows, self._objects.copy()
        self.add(prediction, target)
        rows, objects = self._detections.columns(first), self._objects - before
        found = {kind: image_figures(rows["labels"], rows["ranks"], *_bits(rows, kind), objects) for kind in self.kinds}
        return self._named(found)

    def add(self, prediction: Instances, target: Instances) -> None:
        """Count one image as `update` does, without figures of its own: less than half the time."""
        _check(prediction, target, self.space)
        scores = np.ones(len(prediction), np.float32) if prediction.scores is None else prediction.scores
        order = (-scores).argsort(kind="stable")
        rows = self._detections.reserve(len(order))
        table = rows["scores"], rows["labels"], rows["ranks"]
        found = choose(order, scores, prediction.labels, len(self.space), *table)
        for kind in self.kinds:
            KINDS[kind](prediction, target, order[:found], *_bits(rows, kind))
        rows["images"].fill(self._seen[0])
        self._detections.keep(found)
        count_objects(target.labels, target.areas, target.crowd, self._objects)
        self._seen[0] += 1
        self._seen[1] += len(order) - found

    def add_boxes(self, found: BoxTable, objects: BoxTable, images: int) -> None:
        """Count `images` images by their boxes alone, all at once: what `add` does for one after the other, several times as fast.

        Args:
            found: the detections of all of these images.
            objects: their truth.
            images: how many they are, those with neither included.

        Raises:
            UserError: this metric has other kinds than boxes; a box is of no class of the metric or of no image.
        """
        if self.kinds != ("box",):
            raise UserError(
                f"Boxes alone are counted by InstanceMetric(space, kinds=('box',)), this one has {', '.join(self.kinds)}."
            )
        for table in (found, objects):
            table.check(self.space, images)
        rows = self._detections.reserve(len(found.images))
        kept = judge_tables(found, objects, images, len(self.space), rows, "box")
        rows["images"][:kept] += self._seen[0]
        self._detections.keep(kept)
        count_objects(objects.labels, *objects.stated(), self._objects)
        self._seen += images, len(found.images) - kept

    def compute(self) -> dict[str, float]:
        """`<kind>_<figure>`: the twelve of each kind; nan where no object counts."""
        return self._named({kind: tables.figures() for kind, tables in self.tables().items()})

    def tables(self) -> dict[str, PrecisionTables]:
        """Kind -> average precision and recall per class, area range and threshold."""
        rows = self._detections.columns()
        order = by_falling_score(rows["scores"])
        return {
            kind: precision_tables(order, rows["labels"], rows["ranks"], *_bits(rows, kind), self._objects)
            for kind in self.kinds
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name -> `<kind>_ap`, `_ap50`, `_ap75`, nan where it has no objects, and the counts behind them at IoU 0.5:
        `<kind>_matched` and `<kind>_missed` objects, `<kind>_false` detections; `objects` and `detections` that count."""
        out = {name: {} for name in self.space.names}
        counts = self._counts_per_class()
        for kind, tables in self.tables().items():
            ratios = np.full((len(self.space), 3), np.nan)
            ratios[tables.classes] = np.stack([tables.precision[:, 0].mean(1), *tables.precision[:, 0, [0, 5]].T], 1)
            for index, row in enumerate(out.values()):
                row |= {f"{kind}_{name}": float(value) for name, value in zip(_RATIOS, ratios[index], strict=True)}
        for index, row in enumerate(out.values()):
            row |= {name: int(column[index]) for name, column in counts.items()}
        return out

    def report(self) -> MetricReport:
        """`compute()` and `per_class()`; the details are the counts over all classes, and what the limit cut."""
        counts = {name: int(column.sum()) for name, column in self._counts_per_class().items()}
        return MetricReport(
            without_nan(self.compute()),
            {name: without_nan(row) for name, row in self.per_class().items()},
            {f"{self.kinds[0]}_counts": {**counts, "images": int(self._seen[0]), "beyond_limit": int(self._seen[1])}},
        )

    def merge(self, other: "InstanceMetric") -> None:
        """Add what `other` has counted (another process, another shard); it must have the same space and kinds."""
        self.load_sum([self.counts(), other.counts()])

    def counts(self) -> dict[str, np.ndarray]:
        """The state.

        objects int64 (K, 4), per area range; seen int64 (2,), images and detections beyond the limit; and one row per detection:
        scores float32, labels int32, images int64, ranks uint8, and per kind `<kind>_true`, `<kind>_false` int64 (D,), see `matching`.
        """
        return {"objects": self._objects.copy(), "seen": self._seen.copy(), **self._detections.columns()}

    def load_sum(self, states: Sequence[Counts]) -> None:
        """Take several states together, as gathered from all processes.

        Raises:
            UserError: they are states of other metrics, of other kinds or over other classes.
        """
        known = self.counts()
        for state in states:
            if set(state) != set(known) or np.shape(state["objects"]) != self._objects.shape:
                raise UserError(
                    "Counts of different metrics, or of one metric over different classes, do not merge: these belong to another metric."
                )
        self._detections.load_interleaved(states, [int(state["seen"][0]) for state in states])
        self._objects = np.sum([state["objects"] for state in states], axis=0)
        self._seen = np.sum([state["seen"] for state in states], axis=0)

    def _named(self, figures: dict[str, np.ndarray]) -> dict[str, float]:
        out: dict[str, float] = {}
        for kind, values in figures.items():
            out |= zip(self._names[kind], values.tolist(), strict=True)
        return out

    def _counts_per_class(self) -> dict[str, np.ndarray]:
        rows, objects = self._detections.columns(), self._objects[:, 0]
        out = {"objects": objects, "detections": _count(rows["labels"], len(self.space))}
        for kind in self.kinds:
            matched, false = (
                _count(rows["labels"][(rows[f"{kind}_{what}"] & 1).astype(bool)], len(self.space))
                for what in ("true", "false")
            )
            out |= {f"{kind}_matched": matched, f"{kind}_missed": objects - matched, f"{kind}_false": false}
        return out


def instance_metric_names(space: LabelSpace) -> tuple[str, ...]:
    """The names of the headline of `InstanceMetric(space)`."""
    return tuple(f"{kind}_{figure}" for kind in ("mask", "box") for figure in FIGURES)


def _bits(rows: Counts, kind: str) -> tuple[np.ndarray, np.ndarray]:
    return rows[f"{kind}_true"], rows[f"{kind}_false"]


def _count(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=classes)


def _check(prediction: Instances, target: Instances, space: LabelSpace) -> None:
    for what, found in (("prediction", prediction), ("target", target)):
        if found.space is not space and len(found.space) != len(space):
            raise UserError(f"The {what} has {len(found.space)} classes, this metric counts {len(space)}.")
    if prediction.size != target.size:
        raise UserError(f"Prediction and target must have the same size, found {prediction.size} and {target.size}.")
