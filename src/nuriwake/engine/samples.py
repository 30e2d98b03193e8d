"""From records to training batches: reading, augmenting, normalising, in this process or in workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target
from nuriwake.data.batching import Batch, CachedRead, DrawDataset, make_loader
from nuriwake.data.dataset import DataSet
from nuriwake.data.samplers import FocusPlan
from nuriwake.data.statistics import class_weights, image_class_pixels, image_weights, rare_classes
from nuriwake.engine.augmentation import Augmentation, training_augmentation
from nuriwake.engine.config import RunConfig
from nuriwake.engine.distribution import Team
from nuriwake.engine.facts import LEVELS, DataFacts
from nuriwake.engine.stream import DrawStream, Order
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.tasks import Task
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.toning import Units

IMAGENET = Preprocessing()
"""Mean and deviation of ImageNet, which pretrained backbones expect of 8-bit colour images."""

PHOTOGRAPHS = float(np.mean(IMAGENET.deviation))
"""The deviation of photographs as a share of full brightness."""


@dataclass(frozen=True)
class ReadRecord:
    """Index -> sample of a split; picklable."""

    data: DataSet
    split: str

    def __call__(self, index: int) -> Sample:
        record = self.data.records(self.split)[index]
        sample = self.data.read(record)
        if sample.target is None:
            raise UserError(f"{record.image}: this training image has no mask; add one or take the image out.")
        return sample


@dataclass(frozen=True)
class PrepareSample:
    """Sample -> (normalised image, target); picklable. See `data.batching.Prepare`."""

    augmentation: Augmentation
    preprocessing: Preprocessing

    def __call__(
        self,
        sample: Sample,
        rng: np.random.Generator,
        *,
        focus: tuple[int, int] | None,
        other: Callable[[], Sample],
    ) -> tuple[np.ndarray, Target | None]:
        wanted, augmentation = self.preprocessing.for_image(sample.image), self.augmentation
        if isinstance(augmentation, Pipeline) and augmentation.maximum is None:
            # Brighter by a tenth is meant of what this image shows, not of what its file could hold.
            augmentation = replace(augmentation, maximum=photometric_units(wanted))
        return augmentation.prepare(
            sample,
            rng,
            mean=wanted.mean,
            deviation=wanted.deviation,
            maximum=wanted.maximum,
            focus=focus,
            other=other,
        )


def batches(
    config: RunConfig,
    data: DataSet,
    task: Task,
    preprocessing: Preprocessing,
    team: Team,
    *,
    start: int,
    margin: int = 0,
) -> Iterator[Batch]:
    """This process's share of the training batches for a model with `margin`, from optimiser step `start` on, without end."""
    read = ReadRecord(data, config.data.train)
    budget = (config.data.cache_mib or 0) * 2**20
    objects = task.name != "semantic"
    augmentation = training_augmentation(config.augmentation, data.channels, objects=objects, margin=margin)
    count = len(data.records(config.data.train))
    samples = DrawDataset(
        CachedRead(read, budget) if budget else read,
        PrepareSample(augmentation, preprocessing),
        seed=config.seed,
        count=count,
    )
    size = config.batch_size or 1
    stream = DrawStream(
        Order(count, config.seed, team.rank, team.world),
        start=start * config.optim.accumulation * size,
        focus=_focus(config, data),
        weights=image_weights(_class_table(data, config.data.train)) if config.augmentation.balance_images else None,
    )
    loader = make_loader(
        samples,
        stream,
        batch_size=size // team.world,
        view=task.stack,
        workers=config.data.workers or 0,
        pin_memory=team.device.type == "cuda",
    )
    return iter(loader)


def photometric_units(preprocessing: Preprocessing) -> float | Units:
    """What brightness, noise and gamma are shares of: 255 for 8 bit, else what the values of each channel span.

    `preprocessing` is that of one image, see `Preprocessing.for_image`: with levels of its own an image of 8 bit spans less.

    The highest value of a data set is no measure for 16-bit and float images: one hot pixel would stretch it, and one band
    of metres beside bands of reflectances. A step is as large against a channel's deviation as 255 is in photographs;
    nearly all values (three deviations) lie below full brightness.
    """
    highest = preprocessing.maximum
    if preprocessing.depth == "uint8" and highest == IMAGENET.maximum:
        return highest
    return Units(
        full=tuple(
            highest * (abs(mean) + 3 * deviation)
            for mean, deviation in zip(preprocessing.mean, preprocessing.deviation, strict=True)
        ),
        step=tuple(highest * deviation / PHOTOGRAPHS for deviation in preprocessing.deviation),
    )


def training_preprocessing(config: RunConfig, data: DataSet, facts: DataFacts) -> Preprocessing:
    """ImageNet's numbers for 8-bit colour, which any pretrained backbone expects; else those of the training images."""
    own = config.data.exposure == "image"
    levels = LEVELS if own else None
    if data.channels == 3 and data.dtype == "uint8":
        return replace(IMAGENET, levels=levels)
    return Preprocessing(
        channels=data.channels,
        mean=facts.level_mean if own else facts.mean,
        deviation=facts.level_deviation if own else facts.deviation,
        maximum=facts.maximum,
        depth=cast(Any, data.dtype),
        levels=levels,
    )


def class_weight_tensor(config: RunConfig, data: DataSet) -> torch.Tensor | None:
    """The weights of the classes in the loss; None for none."""
    method = config.loss.class_weights or "none"
    if method == "none":
        return None
    return torch.from_numpy(class_weights(_class_table(data, config.data.train), method))


def _focus(config: RunConfig, data: DataSet) -> FocusPlan | None:
    share = config.augmentation.balance
    if share == 0:
        return None
    table = _class_table(data, config.data.train)
    return FocusPlan(table > 0, share, rare_classes(table, data.space))


@cache
def _class_table(data: DataSet, split: str) -> np.ndarray:
    return image_class_pixels(data, split)
