"""How often classes occur, and the weights that follow from it."""

from typing import Literal

import numpy as np

from nuriwake.core.counting import value_counts
from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.parallel import each

WeightMethod = Literal["none", "inverse", "median", "effective", "log"]


def count_classes(target: Target) -> np.ndarray:
    """Pixels of every class, (K,) int64. `IGNORE` and void count nowhere; a multi-label map counts pixels that say yes.

    Of objects, those of a class add up, overlaps included; crowd regions are no objects and do not count.
    """
    if not isinstance(target, SemanticMap):
        areas = target.areas() if isinstance(target, Panoptic) else target.masks.areas()
        kept = ~target.crowd
        counts = np.bincount(target.labels[kept], weights=areas[kept], minlength=len(target.space))
        return counts.astype(np.int64)
    if target.space.exclusive:
        return value_counts(target.labels)[: len(target.space)]
    return (target.labels == 1).sum(axis=(0, 1), dtype=np.int64)


def image_class_pixels(data: DataSet, split: str) -> np.ndarray:
    """Pixels of every class in every image of `split`: (N, K) int64, rows in the order of `data.records(split)`.

    `> 0` is the presence of a class in an image. Targets alone are read, in parallel.

    Raises:
        UserError: a record without a target.
    """

    def count(record: Record) -> np.ndarray:
        target = data.read_target(record)
        if target is None:
            raise UserError(f"{record.image}: counting class pixels needs a mask; add one or take the image out.")
        return count_classes(target)

    records = data.records(split)
    return np.stack(each(count, records)) if records else np.zeros((0, len(data.space)), np.int64)


def class_weights(counts: np.ndarray, method: WeightMethod) -> np.ndarray:
    """Weights of the classes in a loss, (K,) float32, mean 1 over the classes that occur; a class that does not has 1.

    With p = share of the class among all counted pixels, n = its pixels, N = all pixels:
        none: 1. inverse: 1 / p.
        median: median(f) / f, f = share of the class in the images where it occurs (Eigen & Fergus 2015, section 4.3.2).
        effective: (1 - b) / (1 - b^n), b = (N - 1) / N (Cui et al. 2019, equation 2).
        log: 1 / ln(1.02 + p) (Paszke et al. 2016, ENet, section 5.1).

    Args:
        counts: (N, K) pixels per image and class, or (K,) of the whole set (then f of "median" is p).
    """
    table = np.atleast_2d(np.asarray(counts, np.float64))
    pixels = table.sum(axis=0)
    present = pixels > 0
    weights = np.ones(len(pixels), np.float64)
    if method != "none" and present.any():
        raw = _raw_weights(table[:, present], method)
        weights[present] = raw / raw.mean()
    return weights.astype(np.float32)


def _raw_weights(table: np.ndarray, method: WeightMethod) -> np.ndarray:
    pixels = table.sum(axis=0)
    total = pixels.sum()
    share = pixels / total
    if method == "inverse":
        return 1 / share
    if method == "median":
        frequency = pixels / (table.sum(axis=1, keepdims=True) * (table > 0)).sum(axis=0)
        return np.median(frequency) / frequency
    if method == "effective":
        # expm1 and log1p, because b is so near 1 that b^n in plain arithmetic is 1.
        return (1 / total) / -np.expm1(pixels * np.log1p(-1 / total)) if total > 1 else np.ones_like(share)
    if method == "log":
        return 1 / np.log(1.02 + share)
    raise UserError(f"class weights: there is no method '{method}'; known are none, inverse, median, effective, log.")


def image_weights(counts: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """How often to draw every image so that rare classes are seen more often, (N,) float64, at least 1.

    Repeat factors (Gupta et al. 2019, LVIS, section 4.1): max over the classes of an image of max(1, sqrt(t / f)), f the
    share of images with the class.

    Args:
        counts: (N, K) pixels per image and class.
        threshold: t; by default the median of f over the classes that occur.
    """
    present = np.asarray(counts) > 0
    frequency = present.mean(axis=0)
    occurs = frequency > 0
    if not occurs.any():
        return np.ones(len(present), np.float64)
    t = float(np.median(frequency[occurs])) if threshold is None else threshold
    repeats = np.maximum(1.0, np.sqrt(t / np.where(occurs, frequency, np.inf)))
    return np.where(present, repeats, 1.0).max(axis=1)


def rare_classes(counts: np.ndarray, space: LabelSpace) -> tuple[int, ...]:
    """The classes worth centring patches on: all that occur, except background, or without one the most frequent stuff.

    Where all classes are things, all that occur.
    """
    pixels = np.atleast_2d(counts).sum(axis=0)
    skip = -1
    if space.exclusive and space.has_background:
        skip = 0
    elif space.exclusive and not all(space.things):
        mixed = any(space.things)
        skip = int(np.where(np.array(space.things) & mixed, -1, pixels).argmax())
    return tuple(i for i in range(min(len(space), IGNORE)) if i != skip and pixels[i] > 0)
