"""What one image costs on this machine: seconds and memory of the forward pass."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

ENOUGH = 3.0
"""Seconds of measuring after which no further round is begun."""


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        seconds: the median of the rounds.
        bytes: memory at its highest less memory before; None where the system does not say.
    """

    seconds: float
    bytes: int | None


def measure(model: nn.Module, images: Tensor, *, rounds: int = 3) -> Cost:
    """The cost of `model(images)` without gradients, in channels_last, the network in evaluation; one call warms up."""
    model = model.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = images.contiguous(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)

    call()
    memory = peak_memory(call, images.device)
    times: list[float] = []
    while len(times) < rounds and (not times or sum(times) < ENOUGH):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return Cost(statistics.median(times), memory)


def peak_memory(action: Callable[[], object], device: torch.device) -> int | None:
    """How many bytes the process holds more during `action` than before; None on a CPU where /proc does not say.

    On a CPU the resident set.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _return_free_memory()
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident set becomes the present one
        before = _resident("VmRSS")
        action()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        action()
        return None


def _return_free_memory() -> None:
    """Has glibc give the pages that it keeps for reuse back: what `action` takes from them would not be seen."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _resident(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
