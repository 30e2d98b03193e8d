"""Batch norms that would see a single value, refused before the first step."""

from itertools import chain

import torch
from torch import nn
from torch.func import functional_call

from nuriwake.core.errors import UserError
from nuriwake.engine.config import RunConfig
from nuriwake.engine.optim import training_mode
from nuriwake.models.base import Model
from nuriwake.models.catalogue import model_options

LARGEST = 1024
"""The crop up to which one is looked for that would do."""


def check_norms(model: Model, frozen: list[nn.Module], config: RunConfig, *, channels: int, world: int) -> None:
    """Refuse a training in which a batch norm would see one value per channel, of which nothing can be told apart.

    That takes batches of one image, and a map of one pixel: the deepest of a small crop. (What averages the whole image, in PSPNet and
    DeepLab, takes its running statistics then.) PyTorch would refuse it in the middle of the first step, in words of its own.

    Args:
        model: with `frozen` parts, which do not count: frozen norms ask nothing of a batch.
        channels: of the images.
        world: processes; batch norms over several GPUs see the images of all.

    Raises:
        UserError: with what to change.
    """
    images, crop = (config.batch_size or 1) // world, config.augmentation.crop_size or 1
    shared = any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
    if images > 1 or shared:
        return
    training_mode(model, frozen)
    if not _starves(model, channels, crop):
        return
    enough = next((side for side in _larger(model, crop) if not _starves(model, channels, side)), None)
    remedies = [f"batch_size to {2 * world}"]
    remedies += [f"augmentation.crop_size to {enough}"] if enough else []
    remedies += ["model.options.frozen_norm to true"] * ("frozen_norm" in model_options(config.model.name))
    each = " in every process" if world > 1 else ""
    raise UserError(
        f"batch_size: a batch norm of '{config.model.name}' would see a single value per channel in batches of 1 image of {crop} "
        f"pixels{each}, and nothing can be learnt of that; set {' or '.join(remedies)}."
    )


def _larger(model: Model, side: int) -> list[int]:
    """Sides that `model` takes, about twice as large each."""
    found: list[int] = []
    while 2 * side <= LARGEST:
        side = max(model.fit_size(2 * side, 2 * side))
        found.append(side)
    return found


def _starves(model: Model, channels: int, side: int) -> bool:
    """Does a batch norm refuse one image of `side`? Nothing is computed: only shapes go through the model."""
    shapes = {name: tensor.to("meta") for name, tensor in chain(model.named_parameters(), model.named_buffers())}
    try:
        with torch.no_grad():
            functional_call(model, shapes, (torch.empty(1, channels, side, side, device="meta"),))
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    except RuntimeError:
        # What comes after depends on values (regions); the batch norms of the backbone come before.
        return False
    return False
