"""Images per second of a training step: ours, a plain eager fp32 loop, and segmentation_models_pytorch's U-Net.

    python benchmarks/training_step.py [--repeats 7] [--batch 8] [--crop 320]

All contenders take turns in one process, one step each per round; medians and ratios are printed. The images are random (a
step's cost does not depend on them), 11 classes. Contenders:

    ours                    the engine's own step (`engine.train._step`) on `unet_mobilenet_v2`: channels_last, autocast where
                            the machine computes bf16, cross entropy + Dice, clipping, fused AdamW, weight average
    ours with its loader    the same, reading, augmenting and normalising the batch in the step
    ours, smp's shape       the same engine on the architecture of smp's U-Net (decoder to full resolution)
    plain loop, our model   eager fp32, contiguous, torch's cross entropy + a textbook Dice, AdamW; no average, no clipping
    plain loop, smp U-Net   the same loop on `smp.Unet("mobilenet_v2")`
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from nuriwake.data.batching import Batch
from nuriwake.engine.config import DataConfig, ModelConfig, RunConfig, override
from nuriwake.engine.distribution import join_team
from nuriwake.engine.lock import Lock
from nuriwake.engine.optim import training_mode
from nuriwake.engine.precision import cpu_features, fast_bf16
from nuriwake.engine.setup import prepare_job
from nuriwake.engine.step import take_step
from nuriwake.engine.watch import Watch
from nuriwake.models import build_model
from nuriwake.models.outputs import fit_logits

CLASSES = 11


def draw_images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = cv2.resize(
                rng.integers(0, CLASSES, (9, 12)).astype(np.uint8), (480, 360), interpolation=cv2.INTER_NEAREST
            )
            image = (mask[..., None] * 20 + rng.integers(0, 30, (360, 480, 3))).astype(np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{index}.jpg"), image)
            cv2.imwrite(str(root / "masks" / split / f"{index}.png"), mask)
    return root


def our_step(config: RunConfig, batch: Batch | None) -> Callable[[], None]:
    """One step of the engine; its own loader where `batch` is None."""
    lock = Lock(config.out)
    job = prepare_job(config, join_team(config.device), lock=lock, resume=False, report=lambda line: None)
    lock.release()
    training_mode(job.network, job.frozen)
    batches = job.batches() if batch is None else repeat(batch)
    watch = Watch(patience=1)

    def step() -> None:
        take_step(job, batches, watch, 1e-3)
        watch.means()
        job.position.step += 1

    return step


def plain_step(model: torch.nn.Module, batch: Batch, device: torch.device) -> Callable[[], None]:
    """The loop that people write: eager, fp32, contiguous."""
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        images, target = batch.images.to(device), batch.targets.to(device)
        output = model(images)
        logits = output if isinstance(output, torch.Tensor) else fit_logits(output.logits, tuple(target.shape[-2:]))
        loss = functional.cross_entropy(logits, target) + textbook_dice(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return step


def textbook_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    probabilities = logits.softmax(1)
    truth = functional.one_hot(target, CLASSES).movedim(-1, 1).to(probabilities.dtype)
    both = (probabilities * truth).sum((0, 2, 3))
    return 1 - (2 * both / (probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1e-6)).mean()


def contenders(folder: Path, batch_size: int, crop: int) -> dict[str, Callable[[], None]]:
    import segmentation_models_pytorch as smp

    device = join_team("auto").device
    config = RunConfig(DataConfig(draw_images(folder / "data")), model=ModelConfig("unet_mobilenet_v2"), steps=10**6)
    config = override(config, {"batch_size": batch_size, "augmentation.crop_size": crop})
    shape = {"model.name": "unet_mobilenet_v2_1280", "model.options": {"decoder_channels": [256, 128, 64, 32, 16]}}
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randn(batch_size, 3, crop, crop, generator=generator),
        torch.randint(0, CLASSES, (batch_size, crop, crop), generator=generator),
        ("random",) * batch_size,
    )
    # Only the second is given no batch, and so reads its own.
    return {
        "ours": our_step(override(config, {"out": str(folder / "1")}), batch),
        "ours with its loader": our_step(override(config, {"out": str(folder / "2")}), None),
        "ours, smp's shape": our_step(override(config, {"out": str(folder / "3"), **shape}), batch),
        "plain loop, our model": plain_step(
            build_model("unet_mobilenet_v2", in_channels=3, classes=CLASSES), batch, device
        ),
        "plain loop, smp U-Net": plain_step(
            smp.Unet("mobilenet_v2", encoder_weights=None, classes=CLASSES), batch, device
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=320)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = contenders(Path(folder), given.batch, given.crop)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(given.repeats + 1):
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - began)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{device}, {torch.get_num_threads()} threads, CPU features: {', '.join(sorted(cpu_features())) or 'none'};",
        end=" ",
    )
    print("bf16 is fast here" if fast_bf16(device) else "bf16 is not fast here: fp32 for all")
    print(f"batch {given.batch}, crop {given.crop}, median of {given.repeats} alternating steps")
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["plain loop, our model"], medians["plain loop, smp U-Net"]
    print(f"{'':26}{'images/s':>10}{'s/step':>9}{'x plain':>9}{'x smp':>8}")
    for name, value in medians.items():
        print(f"{name:26}{given.batch / value:10.2f}{value:9.3f}{base[0] / value:9.2f}{base[1] / value:8.2f}")


if __name__ == "__main__":
    main()
