"""Mask R-CNN beside torchvision's: time of an answer and of a training step, for the same weights and images.

    python benchmarks/mask_rcnn.py [--repeats 5] [--size 480 640] [--threads 1] [--device cpu]

The contenders take turns in one process; medians and the ratio are printed. Both have ResNet-50 and torchvision's heads of
version 1, freshly drawn weights (torchvision's are read into ours), 80 classes, 100 detections, images at their own size:
    answer    image to masks at full size: the network, suppression, masks laid into their boxes
    network   the network alone, up to the small masks
    step      forward with truth, loss, backward; one image with 8 objects
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from nuriwake.core.labels import LabelSpace
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import PredictSettings
from nuriwake.losses.criterion import sum_terms
from nuriwake.losses.regions import RegionCriterion
from nuriwake.models.mask_rcnn import MaskRCNN
from nuriwake.models.truth import ObjectTruth, object_masks
from nuriwake.weights.published.mask_rcnn import SOURCES

CLASSES = 80


def contenders(size: tuple[int, int], device: str) -> tuple[Any, MaskRCNN]:
    """torchvision's and ours with the same weights; a low threshold, so that fresh weights find something."""
    theirs: Any = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        box_score_thresh=0.0,
        min_size=min(size),
        max_size=max(size),
    )
    ours = MaskRCNN(3, CLASSES, style="torchvision")
    settings = ours.regions.settings
    ours.regions.settings = replace(settings, score_threshold=0.0, training_proposals=2000)
    source = SOURCES[0]
    assert source.arrange is not None
    assert source.transform is not None
    state = {str(source.rename(key)): item for key, item in source.arrange(theirs.state_dict()).items()}
    ours.load_state_dict({key: source.transform(key, item) for key, item in state.items()})
    return theirs.to(device), ours.to(device)


def draw_truth(size: tuple[int, int], device: str) -> ObjectTruth:
    rng, layers = np.random.default_rng(0), np.zeros((8, *size), np.int16)
    boxes: list[list[int]] = []
    for index in range(8):
        height, width = rng.integers(40, min(size) // 2, 2)
        top, left = rng.integers(0, size[0] - height), rng.integers(0, size[1] - width)
        layers[index, top : top + height, left : left + width] = index + 1
        boxes.append([left, top, left + width, top + height])
    number = torch.arange(8, device=device)
    none = torch.zeros(8, dtype=torch.bool, device=device)
    layers_on = torch.from_numpy(layers).to(device)
    return ObjectTruth(torch.tensor(boxes, dtype=torch.float32, device=device), number, none, layers_on, number)


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], Any]]]:
    size, device = (args.size[0], args.size[1]), args.device
    theirs, ours = contenders(size, device)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    preprocessing = Preprocessing(padding="zero")
    settings = PredictSettings(tile=None, decoding={"paste": "torchvision"})
    space = LabelSpace(tuple(map(str, range(CLASSES))), (True,) * CLASSES)
    predictor = Predictor(
        ours, space=space, preprocessing=preprocessing, task="instance", settings=settings, device=device
    )
    plain = torch.from_numpy(image).permute(2, 0, 1).float().div(255).to(device)
    tensor = torch.from_numpy(preprocessing.tensor(image))[None].to(device)
    truth = draw_truth(size, device)
    target = {"boxes": truth.boxes, "labels": truth.labels + 1, "masks": object_masks(truth).to(torch.uint8)}
    criterion = RegionCriterion()

    def evaluating(model: nn.Module, answer: Callable[[], Any]) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            model.eval()
            return answer()

        return run

    def without_pasting() -> Any:
        images, _ = theirs.transform([plain])
        features = theirs.backbone(images.tensors)
        proposals, _ = theirs.rpn(images, features)
        return theirs.roi_heads(features, proposals, images.image_sizes)

    def step(model: nn.Module, loss: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
        def run() -> None:
            model.train()
            sum_terms(loss()).backward()
            model.zero_grad()

        return run

    def our_answer() -> Any:
        return predictor(image)

    def their_answer() -> Tensor:
        return theirs([plain])[0]["masks"] > 0.5

    return {
        "answer": {"ours": evaluating(ours, our_answer), "theirs": evaluating(theirs, their_answer)},
        "network": {"ours": evaluating(ours, lambda: ours(tensor)), "theirs": evaluating(theirs, without_pasting)},
        "step": {
            "ours": step(ours, lambda: criterion(ours.forward_training(tensor, [truth]), [truth])),
            "theirs": step(theirs, lambda: theirs([plain], [target])),
        },
    }


def timed(job: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for name, pair in jobs(args).items():
        for job in pair.values():
            job()
        seconds = {who: list[float]() for who in pair}
        for _ in range(args.repeats):
            for who, job in pair.items():
                seconds[who].append(timed(job, args.device))
        medians = {who: 1000 * statistics.median(values) for who, values in seconds.items()}
        ratio = medians["theirs"] / medians["ours"]
        print(f"{name:8} ours {medians['ours']:8.0f} ms   torchvision {medians['theirs']:8.0f} ms   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
