"""Multi-scale deformable attention beside transformers', forward and backward; medians of alternating runs and ratios.

    python benchmarks/deformable_attention.py [--sides 512 1024] [--rounds 5] [--device cpu] [--quick]

The tensors are those of Mask2Former's pixel decoder for a square image: 3 levels at strides 32, 16 and 8, each cell of which
asks, 8 heads of 32 channels, 4 points. `bags` and `grids` are our two ways (the model takes bags on a processor and grids on
a GPU); `transformers` is its function of the same name, where it is installed. Compared is the sampling alone, without the
linear maps before and after it, which are the same for all. "MB" is what one forward pass with gradients keeps.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nuriwake.models.deformable_attention import gather_bags, gather_grids

HEADS, CHANNELS, POINTS = 8, 32, 4
Sampling = Callable[[Tensor, list[tuple[int, int]], Tensor, Tensor], Tensor]


def transformers() -> dict[str, Sampling]:
    try:
        from transformers.models.mask2former.modeling_mask2former import (  # pyright: ignore[reportMissingImports]
            multi_scale_deformable_attention,
        )
    except ImportError as error:
        print(f"transformers is not installed, so it is left out ({error}).")
        return {}
    return {"transformers": multi_scale_deformable_attention}


def inputs(side: int, device: str) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Values, sizes, places a few cells around each cell, and weights."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    centres = torch.cat([torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in size)) for size in sizes])
    area, levels = len(centres), len(sizes)
    steps = torch.randn(1, area, HEADS, levels, POINTS, 2, generator=generator) * 3
    extents = torch.tensor(sizes, dtype=torch.float32)[:, None]
    places = centres[None, :, None, None, None] + steps / extents
    weights = (
        torch.rand(1, area, HEADS, levels * POINTS, generator=generator).softmax(-1).unflatten(-1, (levels, POINTS))
    )
    values = torch.randn(1, area, HEADS, CHANNELS, generator=generator)
    values, places, weights = (item.to(device).requires_grad_() for item in (values, places, weights))
    return values, sizes, places, weights


def seconds(
    run: Callable[..., None], sampling: Sampling, arguments: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]
) -> float:
    """Of the processor, which a busy machine does not falsify; on a GPU of the clock."""
    cuda = arguments[0].is_cuda
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    run(sampling, arguments)
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def forward(sampling: Sampling, arguments: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]) -> None:
    with torch.no_grad():
        sampling(*arguments)


def both_ways(sampling: Sampling, arguments: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]) -> None:
    found = sampling(*arguments)
    torch.autograd.grad(found.square().sum(), [arguments[0], *arguments[2:]])


def kept_megabytes(sampling: Sampling, arguments: tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]) -> float:
    """Of distinct storages that a forward pass keeps for the way back, less those of the arguments."""
    own = {item.untyped_storage().data_ptr() for item in (arguments[0], *arguments[2:])}
    kept: dict[int, int] = {}

    def pack(item: Tensor) -> Tensor:
        storage = item.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return item

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item):
        found = sampling(*arguments)  # alive while the storages are told apart
    del found
    return sum(kept.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="256 pixels, 3 rounds")
    options = parser.parse_args()
    sides, rounds = ([256], 3) if options.quick else (options.sides, options.rounds)
    torch.set_num_threads(1)
    ways: dict[str, Sampling] = {"bags": gather_bags, "grids": gather_grids, **transformers()}
    last = list(ways)[-1]
    print(f"{options.device}, one thread, median of {rounds}, milliseconds (times of {last})")
    for side in sides:
        arguments = inputs(side, options.device)
        expected = gather_grids(*arguments)
        for name, sampling in ways.items():
            worst = (sampling(*arguments) - expected).abs().max().item()
            assert worst < 1e-3, f"{name} differs by {worst}"
        for what, run in (("forward", forward), ("forward and backward", both_ways)):
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds + 1):
                for name, sampling in ways.items():
                    times[name].append(seconds(run, sampling, arguments))
            medians = {name: sorted(values[1:])[rounds // 2] for name, values in times.items()}
            shown = (f"{name} {value * 1e3:.1f} ({medians[last] / value:.2f}x)" for name, value in medians.items())
            print(f"{side:5}  {what:22}", "   ".join(shown))
        print(
            f"{side:5}  {'MB kept':22}", "   ".join(f"{n} {kept_megabytes(w, arguments):.0f}" for n, w in ways.items())
        )


if __name__ == "__main__":
    main()
