"""One process or several: torchrun's processes with gloo on the CPU and NCCL on GPUs.

The processes of a run share its folder; rank 0 writes. Several processes (and accumulated batches) take the step of one
process on the same images, ignored pixels and class weights included, as far as the loss is a mean over pixels: every
part counts by its share of the pixels. Two things see the images of their own process only, and differ from one process:
- Batch normalisation on the CPU; on GPUs it is synchronised. What is evaluated and kept are rank 0's statistics.
- Losses that are ratios over the batch (Dice, Jaccard, Tversky and Lovasz) or pick pixels from it (hard-pixel mining):
  they are averaged over the processes with the same shares.
Hence a run goes on with as many processes as it was started with.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nuriwake.core.errors import UserError
from nuriwake.models.base import Model

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
        device: of this process.
        control: a gloo group for decisions, which never waits for a GPU; None for a single process.
    """

    rank: int
    world: int
    device: torch.device
    control: Any = None

    @property
    def leader(self) -> bool:
        """True in the process that writes and prints."""
        return self.rank == 0

    def highest(self, values: Sequence[float]) -> list[float]:
        """Element by element the highest value of all processes: how they agree on the clock and on stopping."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return tensor.tolist()

    def total(self, value: float) -> float:
        """The sum of `value` over the processes, everywhere the same."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group=self.control)
        return float(tensor)

    def gather(self, value: Value) -> list[Value]:
        """`value` of every process, in the order of ranks; everywhere."""
        if self.world == 1:
            return [value]
        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, value, group=self.control)
        return out

    def from_leader(self, make: Callable[[], Value]) -> Value:
        """What `make` returns in the leader, in every process; its error is raised in every process."""
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        if self.leader:
            try:
                box[0] = make()
            except Exception as error:  # the others would wait for ever
                box[1] = error
        dist.broadcast_object_list(box, src=0, group=self.control)
        if box[1] is not None:
            raise box[1]
        return box[0]

    @torch.no_grad()
    def share_buffers(self, module: nn.Module) -> None:
        """Give `module` the leader's buffers in every process; nothing happens in a single one.

        Every process has batch statistics, and averages of them, of its own images, and only the leader's are kept.
        """
        for buffer in () if self.world == 1 else module.buffers():
            leaders = buffer.contiguous()
            dist.broadcast(leaders, src=0)
            buffer.copy_(leaders)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` whose gradients are averaged over the processes."""
        if self.world == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def leave(self) -> None:
        """End the process group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_team(device: str) -> Team:
    """The team of this process: torchrun's, when it started us (RANK, WORLD_SIZE), else a team of one.

    Args:
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: a device that this machine has not.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Team(0, 1, pick_device(device))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    return Team(rank, world, chosen, dist.new_group(backend="gloo"))


def pick_device(device: str) -> torch.device:
    """auto (the GPU where there is one), cpu, cuda or cuda:N as a device. Raises UserError when it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: expected auto, cpu, cuda or cuda:N, found '{device}'.") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UserError(
            f"device: '{device}' was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA GPUs; use cpu or auto."
        )
    return chosen


def synchronise_norms(model: Model, team: Team) -> Model:
    """`model` with batch norms over all GPUs; unchanged for one process and on the CPU, where PyTorch has no such layer.

    The norms are new modules, which hold the old parameters and buffers: whoever keeps modules asks for them afterwards.
    """
    if team.world == 1 or team.device.type != "cuda":
        return model
    from timm.layers.norm_act import convert_sync_batchnorm

    # Not PyTorch's own, which loses the activation inside timm's batch norms.
    return cast(Model, convert_sync_batchnorm(model))
