"""Mask2Former and EoMT beside transformers': time of an answer's network and of a training step, same weights and images.

    python benchmarks/universal.py [--models mask2former_r50 mask2former_swin_tiny eomt_small] [--repeats 3] [--size 384]
        [--batch 1] [--threads 1] [--device cpu] [--bf16]

The contenders take turns in one process; medians and ratios (transformers' time by ours) are printed. transformers draws the
weights and saves them, ours reads its files; 133 classes, 100 queries, 8 segments in the truth of each image.
    network   images to class and mask logits, in evaluation
    step      forward in training, matching, losses of all layers at 12,544 points, backward

EoMT of transformers limits every query while it trains by drawing against probabilities that its user sets; both have them at 1.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nuriwake.losses.criterion import sum_terms
from nuriwake.losses.queries import QueryCriterion
from nuriwake.models.base import Model
from nuriwake.models.truth import ObjectTruth, object_masks
from nuriwake.weights.checkpoint import read_checkpoint

CLASSES, SEGMENTS = 133, 8
Job = Callable[[], object]


def theirs_called(name: str, size: int) -> Any:
    """transformers' model with fresh weights and the published settings."""
    import transformers as hf

    names = {index: f"class {index}" for index in range(CLASSES)}
    common = {"id2label": names, "label2id": {value: key for key, value in names.items()}}
    if name == "eomt_small":
        config = hf.EomtConfig(
            hidden_size=384, num_attention_heads=6, num_hidden_layers=12, num_blocks=3, image_size=size, patch_size=16,
            num_queries=100, **common,
        )  # fmt: skip
        model: Any = hf.EomtForUniversalSegmentation(config)
        model.attn_mask_probs.fill_(1.0)
        return model
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if name == "mask2former_r50":
        backbone: Any = hf.ResNetConfig(out_features=stages)
    else:
        backbone = hf.SwinConfig(
            image_size=size,
            embed_dim=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
            out_features=stages,
        )
    return hf.Mask2FormerForUniversalSegmentation(hf.Mask2FormerConfig(backbone_config=backbone, **common))


def ours_reading(theirs: Any) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return read_checkpoint(folder).model


def draw_truth(side: int, device: str) -> ObjectTruth:
    """A grid of rectangles without overlap."""
    layer = torch.zeros((1, side, side), dtype=torch.int16)
    boxes: list[list[int]] = []
    for index in range(SEGMENTS):
        left, top = (index % 4) * side // 4, (index // 4) * side // 2
        layer[0, top + 5 : top + side // 2 - 9, left + 5 : left + side // 4 - 7] = index + 1
        boxes.append([left + 5, top + 5, left + side // 4 - 7, top + side // 2 - 9])
    number, none = torch.arange(SEGMENTS, device=device), torch.zeros(SEGMENTS, dtype=torch.bool, device=device)
    box = torch.tensor(boxes, dtype=torch.float32, device=device)
    return ObjectTruth(box, number, none, layer.to(device), torch.zeros_like(number))


def jobs(name: str, args: argparse.Namespace) -> dict[str, dict[str, Job]]:
    theirs = theirs_called(name, args.size).to(args.device)
    ours = ours_reading(theirs).to(args.device)
    criterion = QueryCriterion().to(args.device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    truth = tuple(draw_truth(args.size, args.device) for _ in range(args.batch))
    labels = [item.labels for item in truth]
    masks = [object_masks(item).float() for item in truth]

    def precision() -> torch.autocast:
        return torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16)

    def network(model: Any) -> Job:
        @torch.inference_mode()
        def run() -> object:
            model.eval()
            with precision():
                return model(images)

        return run

    def step(model: Any, loss: Callable[[], Tensor]) -> Job:
        def run() -> None:
            model.train()
            with precision():
                total = loss()
            total.backward()
            model.zero_grad()

        return run

    return {
        "network": {"ours": network(ours), "transformers": network(theirs)},
        "step": {
            "ours": step(ours, lambda: sum_terms(criterion(ours(images), truth))),
            "transformers": step(theirs, lambda: theirs(images, mask_labels=masks, class_labels=labels).loss),
        },
    }


def seconds(job: Job, device: str) -> float:
    start = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    known = ["mask2former_r50", "mask2former_swin_tiny", "eomt_small"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for name in args.models:
        for what, contenders in jobs(name, args).items():
            times: dict[str, list[float]] = {who: [] for who in contenders}
            for round_ in range(args.repeats + 1):  # the first one warms up
                for who, job in contenders.items():
                    taken = seconds(job, args.device)
                    if round_:
                        times[who].append(taken)
            ours, other = (1000 * statistics.median(times[who]) for who in ("ours", "transformers"))
            print(f"{name:22} {what:8} ours {ours:7.0f} ms   transformers {other:7.0f} ms   ratio {other / ours:.2f}")


if __name__ == "__main__":
    main()
