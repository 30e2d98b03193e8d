"""From records to training batches: reading, augmenting, normalising, in this process or in workers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from nuriwake.core.errors import UserError
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target
from nuriwake.data.batching import Batch, CachedRead, DrawDataset, Failure, Item, make_loader
from nuriwake.data.dataset import DataSet
from nuriwake.data.samplers import ANYWHERE, Draw, EpochSampler, FocusPlan
from nuriwake.data.statistics import class_weights, image_class_pixels, rare_classes
from nuriwake.engine.config import AugmentationConfig, RunConfig
from nuriwake.engine.distribution import Team
from nuriwake.engine.facts import DataFacts
from nuriwake.engine.stream import DrawStream, Order
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.tasks import Task
from nuriwake.transforms.geometric import RandomCrop
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.presets import preset

IMAGENET = Preprocessing()
"""Mean and deviation of ImageNet, which pretrained backbones expect of 8-bit colour images."""


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


class TrainingSamples(Dataset[Item | Failure]):
    """Draws -> augmented, normalised items; everything random in one is a function of (seed, epoch, position)."""

    def __init__(
        self, read: CachedRead | ReadRecord, pipeline: Pipeline, preprocessing: Preprocessing, task: Task, seed: int
    ) -> None:
        self.read, self.pipeline, self.preprocessing, self.task, self.seed = read, pipeline, preprocessing, task, seed

    def __getitem__(self, draw: Draw) -> Item | Failure:
        """The item of `draw`, or the sentence of the UserError that it raised."""
        try:
            return self._item(draw)
        except UserError as error:
            return Failure(str(error))

    def _item(self, draw: Draw) -> Item:
        rng = np.random.default_rng([self.seed, draw.epoch, draw.position])
        sample = self.read(draw.index)
        assert sample.target is not None
        sample = replace(sample, target=self.task.view(sample.target))
        wanted = self.preprocessing
        image, target = self.pipeline.prepare(
            sample,
            rng,
            mean=wanted.mean,
            deviation=wanted.deviation,
            maximum=wanted.maximum,
            focus=None if draw.focus == ANYWHERE else _pixel_of(sample.target, draw.focus, rng),
        )
        return Item(torch.from_numpy(image), target, sample.name)


def batches(
    config: RunConfig, data: DataSet, task: Task, preprocessing: Preprocessing, team: Team, *, start: int
) -> Iterator[Batch]:
    """This process's share of the training batches, from optimiser step `start` on, without end."""
    read = ReadRecord(data, config.data.train)
    budget = (config.data.cache_mib or 0) * 2**20
    pipeline = training_pipeline(config.augmentation, data.channels, preprocessing.maximum)
    samples = TrainingSamples(CachedRead(read, budget) if budget else read, pipeline, preprocessing, task, config.seed)
    size = config.batch_size or 1
    order = Order(len(data.records(config.data.train)), config.seed, team.rank, team.world)
    stream = DrawStream(order, start=start * config.optim.accumulation * size, focus=_focus(config, data))
    loader = make_loader(
        cast(DrawDataset, samples),  # the loader asks it for nothing but items
        cast(EpochSampler, stream),
        batch_size=size // team.world,
        view=task.stack,
        workers=config.data.workers or 0,
        pin_memory=team.device.type == "cuda",
    )
    return iter(loader)


def training_pipeline(augmentation: AugmentationConfig, channels: int, maximum: float) -> Pipeline:
    """The preset at the crop size, with the zoom of the configuration where it gives one."""
    side = augmentation.crop_size or 256
    pipeline = preset(cast(Any, augmentation.preset or "none"), (side, side), channels=channels, maximum=maximum)
    zoom = augmentation.scale
    if zoom is None:
        return pipeline
    geometric = tuple(
        replace(operation, zoom=zoom) if isinstance(operation, RandomCrop) else operation
        for operation in pipeline.geometric
    )
    return replace(pipeline, geometric=geometric)


def training_preprocessing(data: DataSet, facts: DataFacts) -> Preprocessing:
    """ImageNet's numbers for 8-bit colour, which any pretrained backbone expects; else those of the training images."""
    if data.channels == 3 and data.dtype == "uint8":
        return IMAGENET
    return Preprocessing(
        channels=data.channels,
        mean=facts.mean,
        deviation=facts.deviation,
        maximum=facts.maximum,
        depth=cast(Any, data.dtype),
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


def _pixel_of(target: Target | None, label: int, rng: np.random.Generator) -> tuple[int, int]:
    """(y, x) of a random pixel of the class."""
    assert target is not None
    mask = target.labels == label if target.space.exclusive else target.labels[..., label] == 1
    pixels = np.flatnonzero(mask)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return row, column
