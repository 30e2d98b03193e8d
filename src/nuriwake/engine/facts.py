"""What is known of the data and the machine before anything is chosen."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.core.views import instance_view
from nuriwake.data.dataset import DataSet
from nuriwake.data.headers import image_header
from nuriwake.data.nifti_address import stored_files
from nuriwake.data.parallel import spread
from nuriwake.data.statistics import count_classes
from nuriwake.inference.preprocessing import LEAST_SPAN, image_levels

LEVELS = (1.0, 99.8)
"""Percentiles of an image that count as 0 and full brightness, where each image has its own; the share of bright pixels is
small in micrographs, so that the upper one lies high."""

LOOKED_AT = 48
"""Training images that are read for statistics; a header is read of up to ten times as many."""


@dataclass(frozen=True)
class DataFacts:
    """What decides the choices.

    Attributes:
        path: of the data.
        space: the classes.
        train: training images.
        val: validation images.
        height: median height in pixels.
        width: median width.
        smallest: the shortest side of all images looked at.
        channels: of the images.
        dtype: uint8, uint16 or float32.
        grey: three equal channels in most images, or one channel.
        mean: per channel, in units of value / maximum.
        deviation: likewise, above 0.
        maximum: the value that counts as 1.
        exposures: the range of values (`LEVELS`) of bright images over that of dim ones (90th and 10th percentile); slices of
            one volume are one image here, since its slices differ in what they show and not in exposure.
        level_mean: as `mean`, of values between each image's own levels.
        level_deviation: likewise.
        class_pixels: (K,) true pixels of every class in the images looked at.
        object_sizes: of the objects in the images looked at, the 10th, 50th and 90th percentile of the square root of the area of
            their boxes, in pixels; zeros where there are none.
        most_objects: in one of these images.
        decoded_bytes: of all training images and masks in memory.
    """

    path: Path
    space: LabelSpace
    train: int
    val: int
    height: int
    width: int
    smallest: int
    channels: int
    dtype: str
    grey: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    maximum: float
    exposures: float
    level_mean: tuple[float, ...]
    level_deviation: tuple[float, ...]
    class_pixels: tuple[int, ...]
    object_sizes: tuple[float, float, float]
    most_objects: int
    decoded_bytes: int


@dataclass(frozen=True)
class MachineFacts:
    """What decides the choices on the side of the machine.

    Attributes:
        device: where the network runs.
        cores: for this process and its share of the others.
        gpu_bytes: memory of the GPU; 0 on a CPU.
        world: processes.
    """

    device: torch.device
    cores: int
    gpu_bytes: int = 0
    world: int = 1


def machine_facts(device: torch.device, *, world: int = 1) -> MachineFacts:
    """This machine."""
    cores = len(os.sched_getaffinity(0)) if "sched_getaffinity" in vars(os) else os.cpu_count() or 1
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return MachineFacts(device, max(1, cores // world), memory, world)


def data_facts(data: DataSet, path: Path, *, train: str = "train", val: str = "val") -> DataFacts:
    """Headers of up to 480 training images, and the pixels of up to 48, evenly spread, one in memory at a time."""
    records = data.records(train)
    sizes = np.array([image_header(record.image).size for record in spread(records, 10 * LOOKED_AT)])
    looked_at = spread(records, LOOKED_AT)
    seen = [_seen(data.read(record), data.space) for record in looked_at]
    maximum = full_brightness(max(image.highest for image in seen), data.dtype)
    levels = [image.levels for image in seen]
    spans = [max(high - low, maximum * LEAST_SPAN) for low, high in levels]
    moments = [image.moments for image in seen]
    mean, deviation = channel_statistics(moments, unit=[maximum] * len(seen))
    level_mean, level_deviation = channel_statistics(moments, unit=spans, zero=[low for low, _ in levels])
    area = float(sizes.prod(1).mean())
    bytes_per_pixel = data.channels * np.dtype(data.dtype).itemsize + (1 if data.space.exclusive else len(data.space))
    return DataFacts(
        path=path,
        space=data.space,
        train=len(records),
        val=len(data.records(val)),
        height=int(np.median(sizes[:, 0])),
        width=int(np.median(sizes[:, 1])),
        smallest=int(sizes.min()),
        channels=data.channels,
        dtype=data.dtype,
        grey=float(np.mean([image.grey for image in seen])) > 0.5,
        mean=mean,
        deviation=deviation,
        maximum=maximum,
        exposures=exposure_ratio([record.image for record in looked_at], levels, maximum * LEAST_SPAN),
        level_mean=level_mean,
        level_deviation=level_deviation,
        class_pixels=tuple(int(value) for value in np.sum([image.class_pixels for image in seen], axis=0)),
        object_sizes=_percentiles(np.concatenate([image.object_sizes for image in seen])),
        most_objects=max(len(image.object_sizes) for image in seen),
        decoded_bytes=int(area * bytes_per_pixel * len(records)),
    )


class Moments(NamedTuple):
    """Of the finite values of one image, per channel (C,): their number, and sum and sum of squares of what they are above `base`."""

    base: float
    number: np.ndarray
    first: np.ndarray
    second: np.ndarray


class _Seen(NamedTuple):
    """What is kept of one image.

    Attributes:
        grey: three equal channels, or one.
        highest: the highest finite absolute value.
        levels: the percentiles `LEVELS`.
        moments: about the lower one.
        class_pixels: int64 (K,).
        object_sizes: (N,), the square root of the area of the boxes of objects that count one by one; none for maps of classes.
    """

    grey: bool
    highest: float
    levels: tuple[float, float]
    moments: Moments
    class_pixels: np.ndarray
    object_sizes: np.ndarray


def _seen(sample: Sample, space: LabelSpace) -> _Seen:
    image, target = sample.image, sample.target
    finite = finite_values(image)
    levels = image_levels(finite, LEVELS)
    return _Seen(
        grey=_grey(image),
        highest=max(float(finite.max(initial=0)), -float(finite.min(initial=0))),
        levels=levels,
        moments=image_moments(image, levels[0]),
        class_pixels=np.zeros(len(space), np.int64) if target is None else count_classes(target),
        object_sizes=_object_sizes(target),
    )


def full_brightness(highest: float, dtype: str) -> float:
    """The value that counts as 1, where `highest` is the highest absolute value seen; a unit, nothing is clipped to it.

    255 for 8 bit; for 16 bit the power of two less one that holds it; for float32 the value itself, 1 where it is 0.
    """
    if dtype == "uint8":
        return 255.0
    if dtype == "float32":
        return highest or 1.0
    return float(2 ** max(8, min(16, int(highest).bit_length())) - 1)


def finite_values(image: np.ndarray) -> np.ndarray:
    """`image`, or where some of its values are not finite a row of those that are."""
    if image.dtype != np.float32 or np.isfinite(image).all():
        return image
    return image[np.isfinite(image)]


def image_moments(image: np.ndarray, base: float) -> Moments:
    """Of an image (H, W, C), one channel at a time."""
    count, first, second = (np.zeros(image.shape[2]) for _ in range(3))
    for channel in range(image.shape[2]):
        values = finite_values(image[..., channel]).astype(np.float64).ravel()
        values -= base
        count[channel], first[channel] = values.size, values.sum()
        second[channel] = np.square(values, out=values).sum()
    return Moments(base, count, first, second)


def channel_statistics(
    images: Sequence[Moments], *, unit: Sequence[float], zero: Sequence[float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, deviation) per channel of (value - zero) / unit over all finite values of all images; `unit` and `zero` per image."""
    sums = squares = count = np.zeros(len(images[0].number))
    for index, (base, number, first, second) in enumerate(images):
        shift, scale = base - (zero[index] if zero is not None else 0.0), unit[index]
        sums = sums + (first + number * shift) / scale
        squares = squares + (second + 2 * shift * first + number * shift**2) / scale**2
        count = count + number
    count = np.maximum(count, 1)
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
    return tuple(float(round(value, 5)) for value in mean), tuple(
        float(max(round(value, 5), 1e-4)) for value in deviation
    )


def exposure_ratio(images: Sequence[Path], levels: Sequence[tuple[float, float]], least: float) -> float:
    """`DataFacts.exposures` from the levels of `images`; a range is at least `least`."""
    ranges: dict[Path, tuple[float, float]] = {}
    for image, (low, high) in zip(images, levels, strict=True):
        stored = stored_files(image)[0]
        before = ranges.get(stored, (low, high))
        ranges[stored] = min(before[0], low), max(before[1], high)
    spans = np.array([max(high - low, least) for low, high in ranges.values()])
    return round(float(np.percentile(spans, 90) / np.percentile(spans, 10)), 2)


def _grey(image: np.ndarray) -> bool:
    small = image[::4, ::4]
    return image.shape[2] == 1 or (image.shape[2] == 3 and bool((small == small[..., :1]).all()))


def _object_sizes(target: Target | None) -> np.ndarray:
    if target is None or isinstance(target, SemanticMap):
        return np.zeros(0)
    objects = instance_view(target)
    # Those of the masks, which are trained on: stated boxes may be anything.
    boxes = objects.masks[~objects.crowd & (objects.masks.areas() > 0)].boxes()
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _percentiles(sizes: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(sizes, (10, 50, 90)) if len(sizes) else (0.0, 0.0, 0.0)
    return round(float(low), 1), round(float(middle), 1), round(float(high), 1)
