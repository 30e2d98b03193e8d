"""One step of the optimiser: what is compiled and shared among processes, and how its parts are weighed."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuriwake.engine.optim import learning, set_rate
from nuriwake.engine.precision import scale_is_lost
from nuriwake.engine.setup import Job
from nuriwake.engine.watch import Failure, Watch
from nuriwake.losses.criterion import sum_terms


@dataclass(frozen=True)
class Part:
    """One batch of a step.

    Attributes:
        images: float32 (B, C, H, W).
        truth: what the criterion takes, without the model's margin.
        names: of the samples.
        share: of the loss, among the parts of this process; they sum to 1.
    """

    images: Tensor
    truth: Any
    names: tuple[str, ...]
    share: float


def take_step(job: Job, batches: Any, watch: Watch, rate: float, *, backbone: float = 1.0) -> Failure | None:
    """One optimiser step at `rate`, that of the backbone times `backbone`. Returns the failure when the loss is known not to be finite; the weights are then untouched."""
    config, device, step = job.config, job.team.device, job.position.step
    set_rate(job.optimiser, rate, backbone=backbone)
    parts, factor = gather_parts(job, batches)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        # Not before all batches are there: the first one of a process starts the loader, which draws from the same generator.
        torch.manual_seed(_seed(config.seed, step, number, job.team.rank))
        images = part.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        truth = to_device(part.truth, device)
        # Only the last backward of a step needs to talk to the other processes.
        silent = job.team.world > 1 and number < len(parts) - 1
        with job.network.no_sync() if silent else nullcontext():  # pyright: ignore
            with job.autocast():
                terms: dict[str, Tensor] = job.network(images, truth)
            job.scaler.scale(sum_terms(terms) * (part.share * factor)).backward()
        for name, value in terms.items():
            value = value.detach() * part.share
            sums[name] = sums[name] + value if name in sums else value
    job.scaler.unscale_(job.optimiser)
    norm = clip(job)
    # With scaled fp16 an infinite gradient is no accident: the scaler skips the step and lowers its scale.
    names = [name for part in parts for name in part.names]
    watch.note(step, names, sums, sum_terms(sums) + (0 if job.scaler.is_enabled() else norm))
    failure = watch.look()
    if failure is None:
        job.scaler.step(job.optimiser)
        if job.average is not None:
            job.average.update(step)
    # After a failure, too: what the run goes back to holds the scale, but not that the gradients are still to be unscaled.
    job.scaler.update()
    job.optimiser.zero_grad(set_to_none=True)
    return failure


def look_now(job: Job, watch: Watch) -> Failure | None:
    """As `watch.look` at once; that fp16 gives up step after step, whose losses are finite, is a failure, too."""
    failure = watch.look(now=True)
    if failure is None and scale_is_lost(job.scaler):
        return Failure(job.position.step, job.scaler.get_scale(), (), overflow=True)
    return failure


def gather_parts(job: Job, batches: Any) -> tuple[list[Part], float]:
    """The batches of a step, and this process's factor on its loss.

    The processes' gradients are averaged. With the factor the average is what one process would compute for all the
    images together: every pixel counts alike, wherever it is and however many are ignored beside it.
    """
    count, world = job.config.optim.accumulation, job.team.world
    found = [next(batches) for _ in range(count)]
    truths = [job.task.crop(batch.targets, job.model.margin) for batch in found]
    if count * world == 1:
        return [Part(found[0].images, truths[0], found[0].names, 1.0)], 1.0
    masses = [job.task.mass(truth, job.class_weights) for truth in truths]
    own = sum(masses)
    total = job.team.total(own)
    shares = [mass / own if own > 0 else 1 / count for mass in masses]
    parts = [
        Part(batch.images, truth, batch.names, share) for batch, truth, share in zip(found, truths, shares, strict=True)
    ]
    return parts, own * world / total if total > 0 else 1.0


def clip(job: Job) -> Tensor:
    """Limit the norm of the gradient; returns the norm before."""
    parameters = [parameter for parameter in learning(job.model) if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    limit = job.config.optim.clip
    # On the CPU looking at the norm costs nothing and spares a pass over all gradients.
    if limit is not None and (norm.is_cuda or float(norm) > limit):
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def to_device(truth: Any, device: torch.device) -> Any:
    """`truth`, a tensor or (named) tuples, lists and mappings of tensors, with every tensor on `device`."""
    if isinstance(truth, Tensor):
        return truth.to(device, non_blocking=True)
    if isinstance(truth, dict):
        return {name: to_device(value, device) for name, value in truth.items()}
    if isinstance(truth, tuple | list):
        moved = [to_device(value, device) for value in truth]
        named = type(truth) not in (tuple, list)
        return type(truth)(*moved) if named else type(truth)(moved)
    return truth


def _seed(*parts: int) -> int:
    """A seed for dropout that shares nothing with that of other `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
