"""The order of the training images: one endless sequence of draws that can begin anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from nuriwake.data.samplers import Draw, EpochSampler, FocusPlan


@dataclass(frozen=True)
class Order:
    """Whose draws.

    Attributes:
        count: training images.
        seed: of the order.
        rank: of this process; it takes every `world`-th draw.
        world: number of processes.
    """

    count: int
    seed: int
    rank: int = 0
    world: int = 1


class DrawStream(Sampler[Draw]):
    """This process's draws, from the draw number `start` (over all processes) on, without end.

    Epochs follow each other without a gap: a batch may hold the last images of one and the first of the next, so every
    batch is full, every image is drawn once per epoch (with `weights`: as often as its weight says), and workers never wait
    for an epoch to end.
    """

    def __init__(
        self, order: Order, *, start: int, focus: FocusPlan | None = None, weights: np.ndarray | None = None
    ) -> None:
        self.order, self.start, self.focus, self.weights = order, start, focus, weights

    def __iter__(self) -> Iterator[Draw]:
        order = self.order
        epoch, first = divmod(self.start, order.count)
        sampler = EpochSampler(order.count, seed=order.seed, weights=self.weights, focus=self.focus)
        number = self.start
        while True:
            for draw in sampler.draws(epoch, start=first):
                if number % order.world == order.rank:
                    yield draw
                number += 1
            epoch, first = epoch + 1, 0


def steps_of(epochs: int, *, count: int, images_per_step: int) -> int:
    """Steps that draw every image at least `epochs` times."""
    return -(-epochs * count // images_per_step)
