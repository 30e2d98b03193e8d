"""Seconds and memory of one image of 512x512 through every model, beside torchvision's, transformers' and smp's where they
have the same model.

    OMP_NUM_THREADS=2 python benchmarks/latency.py [--models unet deeplabv3_resnet50] [--rounds 5] [--size 512] [--no-compile]

Weights are random and the same on both sides is not needed: a network's cost does not depend on them. For each model all
contenders take turns in one process; medians of wall time, and the median over rounds of the peer's time divided by ours:

    ours, eager       as built, gradients off
    ours, fastest     channels_last, inference mode, and torch.compile where it works and is quicker
    theirs, eager     as built, gradients off
    theirs, fastest   channels_last, inference mode, and torch.compile where it works and is quicker

Memory is the highest resident set during one forward pass less that before it (Linux), in a process of its own for each
contender, so that none profits from what another left. Backbones have their outputs compared in the tests, not here.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nuriwake.engine.measure import peak_memory
from nuriwake.models import MODELS, build_model

Build = Callable[[], nn.Module]
CLASSES = 21


def _torchvision(name: str, **options: Any) -> Build:
    def build() -> nn.Module:
        import torchvision.models as models

        part = models.segmentation if name in vars(models.segmentation) else models.detection
        return vars(part)[name](weights=None, weights_backbone=None, **options)

    return build


def _smp(name: str, encoder: str) -> Build:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return vars(smp)[name](encoder, encoder_weights=None, classes=CLASSES)

    return build


def _segformer(size: int) -> Build:
    depths = ((2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3), (3, 6, 40, 3))[size]
    widths = [32, 64, 160, 256] if size == 0 else [64, 128, 320, 512]

    def build() -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        head = 256 if size < 2 else 768
        config = SegformerConfig(depths=list(depths), hidden_sizes=widths, decoder_hidden_size=head, num_labels=CLASSES)
        return SegformerForSemanticSegmentation(config)

    return build


def _mask2former(backbone: str) -> Build:
    def build() -> nn.Module:
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

        stages = ["stage1", "stage2", "stage3", "stage4"]
        inner = (
            ResNetConfig(out_features=stages)
            if backbone == "r50"
            else SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=stages)
        )
        return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=inner, num_labels=CLASSES))

    return build


def _eomt(size: str) -> Build:
    def build() -> nn.Module:
        from transformers import EomtConfig, EomtForUniversalSegmentation

        width, depth, heads, blocks = {"small": (384, 12, 6, 3), "base": (768, 12, 12, 3), "large": (1024, 24, 16, 4)}[
            size
        ]
        config = EomtConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_blocks=blocks,
            image_size=512,
            patch_size=16,
            num_labels=CLASSES,
        )
        return EomtForUniversalSegmentation(config)

    return build


PEERS: dict[str, tuple[str, Build]] = {
    "unet_mobilenet_v2": ("smp Unet, other decoder", _smp("Unet", "mobilenet_v2")),
    "unet_resnet34": ("smp Unet, other decoder", _smp("Unet", "resnet34")),
    "deeplabv3_resnet50": ("torchvision", _torchvision("deeplabv3_resnet50", num_classes=CLASSES, aux_loss=True)),
    "deeplabv3_resnet101": ("torchvision", _torchvision("deeplabv3_resnet101", num_classes=CLASSES, aux_loss=True)),
    "deeplabv3_mobilenet_v3_large": (
        "torchvision",
        _torchvision("deeplabv3_mobilenet_v3_large", num_classes=CLASSES, aux_loss=True),
    ),
    "deeplabv3plus_resnet50": ("smp", _smp("DeepLabV3Plus", "resnet50")),
    "deeplabv3plus_mobilenet_v2": ("smp", _smp("DeepLabV3Plus", "mobilenet_v2")),
    "semantic_fpn_resnet50": ("smp FPN", _smp("FPN", "resnet50")),
    "semantic_fpn_resnet101": ("smp FPN", _smp("FPN", "resnet101")),
    "semantic_fpn_mobilenet_v2": ("smp FPN", _smp("FPN", "mobilenet_v2")),
    **{f"segformer_b{size}": ("transformers", _segformer(size)) for size in range(6)},
    "mask_rcnn_r50_fpn_v2": ("torchvision", _torchvision("maskrcnn_resnet50_fpn_v2", num_classes=CLASSES + 1)),
    "mask2former_r50": ("transformers", _mask2former("r50")),
    "mask2former_swin_tiny": ("transformers", _mask2former("swin_tiny")),
    **{f"eomt_{size}": ("transformers", _eomt(size)) for size in ("small", "base", "large")},
}
"""Ours -> whose, and how to build it. smp's PSPNet runs at stride 8 of a shortened encoder: another model, so not here."""


@dataclass(frozen=True)
class Contender:
    """Something to be timed: `run()` is one forward pass."""

    name: str
    run: Callable[[], Any]


OPTIONS: dict[str, dict[str, Any]] = {
    "panoptic_fpn": {"things": list(range(11))},
    # As smp builds it, without the pyramid's 3x3 convolutions, so that both sides compute the same.
    "semantic_fpn": {"smooth": False, "align_corners": True},
}
"""Beginning of a name -> options of ours."""


def ours(name: str) -> nn.Module:
    options = next((found for beginning, found in OPTIONS.items() if name.startswith(beginning)), None)
    return build_model(name, in_channels=3, classes=CLASSES, options=options)


def images_for(size: tuple[int, int], *, listed: bool = False) -> Any:
    """One random photograph; torchvision's detectors take a list of them."""
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    return [images[0]] if listed else images


def has_list(name: str, whose: str) -> bool:
    return whose == "torchvision" and name.startswith("mask_rcnn")


def peer_of(name: str) -> tuple[str, nn.Module] | None:
    """Whose it is, and the model; None where nobody has it or the library is not installed, which is said."""
    if name not in PEERS:
        return None
    whose, build = PEERS[name]
    try:
        return whose, build().eval()
    except ImportError as error:
        print(f"    {name}: {error}", file=sys.stderr)
        return None


def eager(name: str, model: nn.Module, images: Any) -> Contender:
    def run() -> Any:
        with torch.no_grad():
            return model(images)

    return Contender(name, run)


def fastest(name: str, model: nn.Module, images: Any, *, compiling: bool) -> Contender:
    """The quicker of channels_last alone and with torch.compile, by three calls of each."""
    model = model.to(memory_format=torch.channels_last)
    if isinstance(images, torch.Tensor):
        images = images.contiguous(memory_format=torch.channels_last)

    def through(network: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return network(images)

        return run

    plain = through(model)
    if not compiling:
        return Contender(f"{name}, channels_last", plain)
    compiled = through(torch.compile(model))
    try:
        compiled()
    except Exception as error:  # whatever the compiler raises, the model then goes without it
        print(f"    torch.compile of {name}: {type(error).__name__}", file=sys.stderr)
        return Contender(f"{name}, channels_last", plain)
    plain()
    best = [min(_seconds(run) for _ in range(3)) for run in (plain, compiled)]
    return Contender(f"{name}, compiled", compiled) if best[1] < best[0] else Contender(f"{name}, channels_last", plain)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def contenders(name: str, size: int, *, compiling: bool) -> dict[str, Contender]:
    """The four, or the first two where nobody else has the model; each with a network of its own."""
    model = ours(name).eval()
    images = images_for(model.fit_size(size, size))
    found = {
        "ours, eager": eager("eager", model, images),
        "ours, fastest": fastest("ours", ours(name).eval(), images, compiling=compiling),
    }
    peer, again = peer_of(name), peer_of(name)
    if peer and again:
        listed = has_list(name, peer[0])
        given = images_for((size, size), listed=listed)
        found["theirs, eager"] = eager("eager", peer[1], given)
        found["theirs, fastest"] = fastest("theirs", again[1], given, compiling=compiling and not listed)
    return found


def timed(found: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {key: [] for key in found}
    for turn in range(rounds + 1):
        for key, contender in found.items():
            seconds = _seconds(contender.run)
            if turn:  # the first warms up
                times[key].append(seconds)
    return times


def memory_of(name: str, size: int, whose: str) -> str:
    """Asked in a process of its own; MiB of an eager pass, "-" where it failed or the system does not say."""
    command = [sys.executable, __file__, "--memory", whose, "--models", name, "--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    return done.stdout.strip() if done.returncode == 0 else "-"


def print_memory(name: str, size: int, whose: str) -> None:
    if whose == "ours":
        model = ours(name).eval()
        images = images_for(model.fit_size(size, size))
    else:
        library, build = PEERS[name]
        model, images = build().eval(), images_for((size, size), listed=has_list(name, library))
    found = peak_memory(eager("", model, images).run, torch.device("cpu"))
    print("-" if found is None else f"{found / 2**20:.0f}")


def row(name: str, given: argparse.Namespace) -> str:
    found = contenders(name, given.size, compiling=not given.no_compile)
    times = timed(found, given.rounds)
    middle = {key: statistics.median(values) for key, values in times.items()}
    how = found["ours, fastest"].name.partition(", ")[2]
    cells = [name, f"{middle['ours, eager']:.3f}", f"{middle['ours, fastest']:.3f} ({how})"]
    memory = memory_of(name, given.size, "ours")
    if "theirs, eager" not in found:
        return f"| {' | '.join([*cells, memory, *['-'] * 4, ''])} |"
    ratios = [
        statistics.median(
            other / mine for mine, other in zip(times[f"ours, {kind}"], times[f"theirs, {kind}"], strict=True)
        )
        for kind in ("eager", "fastest")
    ]
    theirs = [
        f"{middle[f'theirs, {kind}']:.3f} ({ratio:.2f}x)"
        for kind, ratio in zip(("eager", "fastest"), ratios, strict=True)
    ]
    theirs[1] += f" ({found['theirs, fastest'].name.partition(', ')[2]})"
    return f"| {' | '.join([*cells, memory, *theirs, memory_of(name, given.size, 'theirs'), PEERS[name][0]])} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="*", default=sorted(MODELS), help="names, or beginnings of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = [name for name in sorted(MODELS) if name.startswith(tuple(given.models))]
    if given.memory:
        print_memory(given.models[0], given.size, given.memory)
        return
    print(
        f"{torch.get_num_threads()} threads, {given.size}x{given.size}, median of {given.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    print("| model | eager, s | fastest, s | MiB | theirs eager | theirs fastest | MiB | whose |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        print(row(name, given), flush=True)


if __name__ == "__main__":
    main()
