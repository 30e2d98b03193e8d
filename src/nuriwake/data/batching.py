"""Draw -> sample -> tensors -> batch, in workers, with nothing that depends on which worker did it."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.instances import Instances
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Target
from nuriwake.data.parallel import forking
from nuriwake.data.samplers import ANYWHERE, Draw, random_pixel

GRACE = 600
"""Seconds that a worker goes on after SIGTERM, for a step that takes long."""


class Prepare(Protocol):
    """Augmentation and normalisation."""

    def __call__(
        self,
        sample: Sample,
        rng: np.random.Generator,
        *,
        focus: tuple[int, int] | None,
        other: Callable[[], Sample],
    ) -> tuple[np.ndarray, Target | None]:
        """`sample` -> (image (C, H, W) float32, target). Must not write into the sample.

        Args:
            rng: the only source of randomness.
            focus: (y, x) of the pixel that the patch is to contain; None for any patch.
            other: another sample of the split at every call, for mixing; it draws from `rng`.
        """
        ...


View = Callable[[Sequence[Any]], Any]
"""Targets of a batch -> what the loss takes; a task's `stack`."""


class Item(NamedTuple):
    """One prepared sample: image (C, H, W) float32."""

    image: Tensor
    target: Any
    name: str


class Batch(NamedTuple):
    """images (B, C, H, W) float32; targets as the `View` made them; names of the samples."""

    images: Tensor
    targets: Any
    names: tuple[str, ...]


class Failure(NamedTuple):
    """A UserError on its way from a worker to the main process, which raises it again with its own sentence."""

    message: str


class DrawDataset(Dataset[Item | Failure]):
    """Draws -> items. The random generator of an item is a function of (seed, epoch, position).

    Args:
        read: index -> sample; `CachedRead` keeps decoded samples.
        prepare: see `Prepare`.
        seed: of the augmentation.
        count: samples there are, for `Prepare`'s `other`.
    """

    def __init__(self, read: Callable[[int], Sample], prepare: Prepare, *, seed: int, count: int) -> None:
        self.read, self.prepare, self.seed, self.count = read, prepare, seed, count

    def __getitem__(self, draw: Draw) -> Item | Failure:
        """The item of `draw`; a UserError comes back as a `Failure`, because torch would bury it in a traceback."""
        try:
            return self.item(draw)
        except UserError as error:
            return Failure(str(error))

    def item(self, draw: Draw) -> Item:
        """The item of `draw`. Raises what reading and preparing raise."""
        # From 1: NumPy pads seeds with zeros, so that position 0 would draw what the order of the epoch was drawn from.
        rng = np.random.default_rng([self.seed, draw.epoch, draw.position + 1])
        sample = self.read(draw.index)
        focus = None if draw.focus == ANYWHERE else random_pixel(sample, draw.focus, rng)
        image, target = self.prepare(sample, rng, focus=focus, other=lambda: self.read(int(rng.integers(self.count))))
        return Item(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)), target, sample.name)


class CachedRead:
    """`read` that keeps what it decoded until `budget` bytes are full, per process; picklable, and sent empty.

    Nothing is ever thrown out: an epoch visits every sample about once, so that the oldest is as likely to come next as
    any other. In a loader of W workers the budget is shared: every worker keeps budget / W.
    """

    def __init__(self, read: Callable[[int], Sample], budget: int) -> None:
        self.read, self.budget = read, budget
        self._kept: dict[int, Sample] = {}
        self._bytes = 0

    def __call__(self, index: int) -> Sample:
        """The sample `index`, decoded or kept."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self.read(index)
        size = _bytes(sample)
        worker = get_worker_info()
        if self._bytes + size <= self.budget // (worker.num_workers if worker else 1):
            self._kept[index] = sample
            self._bytes += size
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_bytes": 0}


class Loader(DataLoader[Any]):
    """torch's DataLoader that raises a worker's UserError as such, and names the usual reasons when a worker dies."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            with forking() if self.num_workers else nullcontext():
                batches = super().__iter__()
            for batch in batches:
                if isinstance(batch, Failure):
                    raise UserError(batch.message)
                yield batch
        except RuntimeError as error:
            text = str(error)
            if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
                raise RunError(
                    "A data loading process was killed, most often because memory (or the shared memory of a container) "
                    "ran out; use fewer workers or smaller batches."
                ) from error
            raise


def make_loader(
    dataset: Dataset[Item | Failure],
    sampler: Iterable[Draw],
    *,
    batch_size: int,
    view: View,
    workers: int = 0,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> Loader:
    """Batches of `batch_size` items in the order of `sampler`.

    Workers stay alive between epochs and know nothing of them: the epoch comes with every draw. They ignore Ctrl-C and
    leave at the second SIGTERM or `GRACE` seconds after the first, since stopping is the main process's business. Everything given is picklable where processes are
    spawned (Windows, macOS).

    Args:
        dataset: draws -> items; a `DrawDataset`, or whatever gives a `Failure` for a UserError as it does.
        sampler: the draws, in order.
        view: targets of a batch -> what the loss takes.
        workers: processes; 0 reads in this one. The batches are the same.
        pin_memory: for copies to a CUDA device that overlap with work.
        drop_last: leave out a last batch of fewer items.
    """
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, view=view),
        pin_memory=pin_memory and torch.cuda.is_available(),
        drop_last=drop_last,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
    )


def collate(items: Sequence[Item | Failure], view: View) -> Batch | Failure:
    """Items -> batch; the first failure among them instead.

    Raises nothing: images of different sizes are a `Failure` that names two of them.
    """
    good = [item for item in items if isinstance(item, Item)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, Failure))
    other = next((item for item in good if item.image.shape != good[0].image.shape), None)
    if other is not None:
        return Failure(
            f"The images of a batch must have one size: '{good[0].name}' is {tuple(good[0].image.shape)} (channels, height, "
            f"width) but '{other.name}' is {tuple(other.image.shape)}; crop or resize them, or use a batch size of 1."
        )
    try:
        targets = view([item.target for item in good])
    except UserError as error:
        return Failure(f"{', '.join(item.name for item in good)}: {error}")
    return Batch(torch.stack([item.image for item in good]), targets, tuple(item.name for item in good))


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later if hasattr(signal, "alarm") else signal.SIG_DFL)
    if sys.platform != "linux":  # forked workers have one thread each already, see `forking`
        cv2.setNumThreads(0)


def _leave_later(number: int, frame: FrameType | None) -> None:
    """Go on for the batches that the main process still waits for.

    Whoever stops a training often signals all of its processes (`timeout`, torchrun, a batch system). The main process finishes
    its step, saves and stops its workers; were these gone before, there would be nothing to finish. The second signal, which is
    how a main process ends workers that do not listen, is final.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(GRACE)


def _bytes(sample: Sample) -> int:
    return sample.image.nbytes + target_bytes(sample.target)


def target_bytes(target: Target | None) -> int:
    """The memory that the arrays of `target` take."""
    if target is None:
        return 0
    if isinstance(target, Instances):
        return target.masks.counts.nbytes + target.masks.offsets.nbytes + 33 * len(target)
    return target.labels.nbytes + (target.ids.nbytes if isinstance(target, Panoptic) else 0)
