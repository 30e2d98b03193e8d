"""Forward and backward of the per-pixel losses against torch and segmentation_models_pytorch, alternating in one process.

python benchmarks/losses.py [--repeats 5] [--threads 1]
"""

import argparse
import statistics
import time

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from nuriwake.losses import PixelCriterion, sum_terms
from nuriwake.models.outputs import PixelLogits


def blocks(channels, size):
    """Logits, and a target of 16-pixel blocks with a border of ignore."""
    logits = torch.randn(size[0], channels, *size[1:], requires_grad=True)
    small = torch.randint(0, max(channels, 2), (size[0], size[1] // 16, size[2] // 16))
    target = small.repeat_interleave(16, 1).repeat_interleave(16, 2)
    target[:, :20] = 255
    return logits, target


def ours(terms, mode):
    criterion = PixelCriterion(terms, mode=mode)
    return lambda logits, target: sum_terms(criterion(PixelLogits(logits), target))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    binary_dice = smp.losses.DiceLoss("binary", ignore_index=255)
    binary_bce = smp.losses.SoftBCEWithLogitsLoss(ignore_index=255)

    def cross_entropy(logits, target):
        return functional.cross_entropy(logits, target, ignore_index=255)

    rows = [
        ("cross_entropy", "multiclass", 11, (8, 320, 320), cross_entropy),
        ("cross_entropy+dice", "multiclass", 11, (8, 320, 320), lambda z, y: cross_entropy(z, y) + dice(z, y)),
        ("cross_entropy+dice", "multiclass", 150, (2, 256, 256), lambda z, y: cross_entropy(z, y) + dice(z, y)),
        ("bce+dice", "binary", 1, (8, 320, 320), lambda z, y: binary_bce(z, y[:, None].float()) + binary_dice(z, y)),
        ("lovasz", "multiclass", 11, (8, 320, 320), smp.losses.LovaszLoss("multiclass", ignore_index=255)),
    ]
    print(f"{'terms':20} {'logits':20} {'ours ms':>8} {'peer ms':>8} {'ratio':>6}")
    for terms, mode, channels, size, peer in rows:
        logits, target = blocks(channels, size)
        times = ([], [])
        for _ in range(arguments.repeats + 1):
            for function, into in zip((ours(terms, mode), peer), times, strict=True):
                start = time.perf_counter()
                function(logits, target).backward()
                into.append(1e3 * (time.perf_counter() - start))
                logits.grad = None
        us, them = (statistics.median(values[1:]) for values in times)
        print(f"{terms:20} {(size[0], channels, *size[1:])!s:20} {us:8.1f} {them:8.1f} {them / us:6.2f}")


if __name__ == "__main__":
    main()
