"""Images per second of random resized crop 512 + flip + colour jitter + normalise with mask: ours, albumentations, torchvision.

    python benchmarks/transforms.py [--rounds 60] [--image PATH]

One thread each, one process, the three alternating on the same 640x480 image; median over the rounds and ratios, in
CPU time, so that other work on the machine distorts it less.
Everybody draws brightness, contrast and saturation in 0.8 .. 1.2 and hue in +-18 degrees, and ends with a normalised
float32 (C, H, W) and a mask.
"""

import argparse
import time

import cv2
import numpy as np
import torch
from PIL import Image

from nuriwake.core.labels import LabelSpace
from nuriwake.core.pixels import normalise
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.transforms import Pipeline
from nuriwake.transforms.geometric import HorizontalFlip, RandomResizedCrop
from nuriwake.transforms.photometric import BrightnessContrast, HueSaturation

MEAN, DEVIATION, SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 512


def ours(sample: Sample, *, fused: bool):
    """Our pipeline, with the normalisation in the colour pass (`fused`) or after it."""
    pipeline = Pipeline(
        (RandomResizedCrop(area=(0.2, 1.0)), HorizontalFlip()),
        (
            BrightnessContrast(brightness=0.2, contrast=0.2, probability=1.0),
            HueSaturation(hue=18.0, saturation=0.2, probability=1.0),
        ),
        (SIZE, SIZE),
    )

    def run(seed: int):
        rng = np.random.default_rng([0, 0, seed])
        if fused:
            return pipeline.prepare(sample, rng, mean=MEAN, deviation=DEVIATION, maximum=255.0)
        out = pipeline(sample, rng)
        return normalise(out.image, MEAN, DEVIATION, maximum=255.0), out.target

    return run


def albumentations_peer(image: np.ndarray, mask: np.ndarray):
    """albumentations 2.0.8, `ToTensorV2` at the end."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    compose = A.Compose(
        [
            A.RandomResizedCrop((SIZE, SIZE), scale=(0.2, 1.0), p=1.0),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.05, 0.05), p=1.0),
            A.Normalize(MEAN, DEVIATION),
            ToTensorV2(),
        ]
    )

    def run(seed: int):
        result = compose(image=image, mask=mask)
        return result["image"].contiguous(), result["mask"]

    return run


def torchvision_peer(image: np.ndarray, mask: np.ndarray):
    """torchvision.transforms.v2 on tensors."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    compose = v2.Compose(
        [
            v2.RandomResizedCrop((SIZE, SIZE), scale=(0.2, 1.0), antialias=False),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )
    picture = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous())
    labels = tv_tensors.Mask(torch.from_numpy(mask))
    return lambda seed: compose(picture, labels)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--image", help="a photograph instead of the drawn one; it is resized to 640x480")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    image, mask = _picture(options.image)
    sample = Sample(image, SemanticMap(mask, LabelSpace(tuple(f"class {i}" for i in range(12)))))
    runners = {
        "nuriwake, fused": ours(sample, fused=True),
        "nuriwake, normalise after": ours(sample, fused=False),
        "albumentations 2.0.8": albumentations_peer(image, mask),
        "torchvision v2": torchvision_peer(image, mask),
    }
    times: dict[str, list[float]] = {name: [] for name in runners}
    for name in runners:
        for seed in range(5):
            runners[name](seed)
    for round_number in range(options.rounds):
        for name, run in runners.items():
            start = time.process_time()
            for repeat in range(4):
                run(round_number * 4 + repeat)
            times[name].append((time.process_time() - start) / 4)
    base = float(np.median(times["albumentations 2.0.8"]))
    print(f"{'':28}{'ms/image':>10}{'images/s':>10}{'x albumentations':>18}")
    for name, values in times.items():
        median = float(np.median(values))
        print(f"{name:28}{median * 1e3:10.2f}{1 / median:10.0f}{base / median:18.2f}")


def _picture(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if path:
        image = np.array(Image.open(path).convert("RGB").resize((640, 480)))
    else:
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    mask = cv2.resize(rng.integers(0, 12, (12, 16), np.uint8), (640, 480), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(image), mask


if __name__ == "__main__":
    main()
