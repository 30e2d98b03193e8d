"""Every architecture learns a handful of photographs by heart, on the CPU, through the training that users have.

Fresh or pretrained, a network that cannot do this has a mistake somewhere between its loss and its last layer. Light backbones,
small images, no augmentation; a few minutes each on two cores. `make test-slow` runs them all,
`pytest -m slow tests/slow -k segformer` one of them.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import nuriwake as nw
from nuriwake.data.formats import open_data
from nuriwake.data.writing import write_data
from nuriwake.data.written import WriteSettings
from nuriwake.engine.config import RunConfig, override
from nuriwake.engine.train import train
from nuriwake.engine.view import viewed
from nuriwake.recipes import build_config
from nuriwake.tasks import get_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MOBILENET = "mobilenet_v2-b0353104.pth"
"""Of the shared weights; the other backbones start from nothing."""


@dataclass(frozen=True)
class Case:
    """One model, and what it takes to learn the photographs by heart.

    Attributes:
        model: a key of `MODELS` or a family over a backbone.
        steps: of the optimiser, of eight photographs each.
        score: that the training images must reach: mean IoU, mask AP at IoU 0.5, or PQ.
        changes: of the recipe's configuration.
        near: the photographs at twice the size, for logits at stride 8: no answer of these reaches more than a mean IoU of 0.89
            at the photographs' own size, where poles are two pixels wide (0.93 at twice it; 0.96 at stride 4).
    """

    model: str
    steps: int
    score: float
    changes: dict[str, Any] = field(default_factory=dict)
    near: bool = False


# The recipes' rates suit thousands of steps; by heart it goes faster with one larger rate for all of the network.
FAST = {
    "optim.name": "adamw",
    "optim.learning_rate": 1e-3,
    "optim.backbone_rate": 1.0,
    "optim.weight_decay": 1e-4,
    "optim.clip": 5.0,
}
HRNET = {"model.options": {"layout": {"width": 16, "modules": [1, 1, 1], "blocks": 2, "first_blocks": 1}}}
SEMANTIC = (
    Case("unet", 1000, 0.85, FAST | {"model.options": {"width": 16}}),
    Case("unet_mobilenet_v2", 500, 0.85, FAST),
    Case("deeplabv3_mobilenet_v2", 400, 0.85, FAST, near=True),
    Case("deeplabv3plus_mobilenet_v2", 400, 0.85, FAST),
    Case("pspnet_mobilenet_v2", 400, 0.85, FAST, near=True),
    Case("semantic_fpn_mobilenet_v2", 400, 0.85, FAST),
    Case("segformer_b0", 500, 0.85, FAST),
    Case("hrnet_w18_small_v1", 400, 0.85, FAST),
    Case("hrnet_ocr_w18", 400, 0.85, FAST | HRNET),
)
INSTANCE = (
    Case("mask_rcnn_mobilenet_v2_fpn", 400, 0.6),
    Case("yolact_mobilenet_v2", 600, 0.5),
    Case("solov2_mobilenet_v2", 600, 0.5),
    Case("mask2former_mobilenet_v2", 800, 0.5),
)
PANOPTIC = (
    Case("panoptic_fpn_mobilenet_v2", 400, 0.6),
    Case("mask2former_mobilenet_v2", 800, 0.5),
)


def eight_of_camvid(shared: Path, root: Path, *, near: bool) -> Path:
    """The middle of eight CamVid photographs, 180x240 pixels or 120x160 at twice their size, as both splits.

    Cut out and not shrunk: the poles would be thinner than a pixel.
    """
    source = shared / "data" / "camvid"
    rows, columns, zoom = (slice(135, 255), slice(160, 320), 2) if near else (slice(90, 270), slice(120, 360), 1)
    data = open_data(source)
    for record in data.records("train")[::46][:8]:
        sample = data.read(record)
        image, labels = sample.image[rows, columns, ::-1], sample.target.labels[rows, columns]
        for split in ("train", "val"):
            for kind, array, how in (("images", image, cv2.INTER_CUBIC), ("masks", labels, cv2.INTER_NEAREST)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                enlarged = cv2.resize(np.ascontiguousarray(array), None, fx=zoom, fy=zoom, interpolation=how)
                cv2.imwrite(str(root / kind / split / f"{Path(record.name).name}.png"), enlarged)
    shutil.copy(source / "classes.json", root)
    return root


@pytest.fixture(scope="session")
def camvid_eight(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Eight road scenes; at twice their size under True."""
    return {near: eight_of_camvid(shared, tmp_path_factory.mktemp("camvid"), near=near) for near in (False, True)}


def few_of_coco(shared: Path, root: Path, *, task: str, count: int, name: str) -> Path:
    """The first `count` photographs of coco128 that show something, in the format `name`, as both splits."""
    data = viewed(open_data(shared / "data" / "coco128", format=name), get_task(task))
    records = [record for split in data.splits for record in data.records(split)]
    samples = [sample for sample in map(data.read, records[: 2 * count]) if len(sample.target.labels)][:count]
    for split in ("train", "val"):
        write_data(samples, root, format=name, space=data.space, settings=WriteSettings(split=split))
    return root


@pytest.fixture(scope="session")
def coco_sixteen(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen photographs of coco128 with their objects."""
    return few_of_coco(shared, tmp_path_factory.mktemp("instance"), task="instance", count=16, name="coco")


@pytest.fixture(scope="session")
def coco_eight(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of coco128 with their segments."""
    return few_of_coco(shared, tmp_path_factory.mktemp("panoptic"), task="panoptic", count=8, name="coco_panoptic")


PLAIN: dict[str, Any] = {
    "augmentation.preset": "none",
    "augmentation.scale": None,
    "batch_size": 8,
    "device": "cpu",
    "precision": "fp32",
    "ema": None,
    "optim.freeze": [],
    "schedule.warmup_steps": 10,
    "loss.class_weights": "none",
    "data.workers": 0,
    "data.cache_mib": 512,
    "checkpoint_seconds": 3600.0,
}


def configured(case: Case, data: Path, out: Path, shared: Path, crop: int, task: str) -> RunConfig:
    config = override(build_config(data, case.model), {**PLAIN, "augmentation.crop_size": crop, "task": task})
    config = override(config, {"out": str(out), "steps": case.steps, "evaluation.every": max(1, case.steps // 4)})
    if case.model.endswith(("mobilenet_v2", "mobilenet_v2_fpn")):
        config = override(config, {"model.backbone_weights": str(shared / "data" / "weights" / MOBILENET)})
    return override(config, case.changes)


SCORES = {"semantic": "mean_iou", "instance": "mask_ap50", "panoptic": "pq"}


def learnt(case: Case, data: Path, tmp_path: Path, shared: Path, *, crop: int, task: str) -> float:
    """The score in `SCORES` of the finished run, evaluated anew."""
    config = configured(case, data, tmp_path / "run", shared, crop, task)
    run = train(config, report=print)
    found = nw.evaluate(run.folder, data, split="val")
    name = SCORES[task]
    print(f"{case.model}, {task}: {name} {found.scores[name]:.4f} after {case.steps} steps")
    shutil.rmtree(run.folder)  # the checkpoints of all cases together fill small disks
    return found.scores[name]


@pytest.mark.parametrize("case", SEMANTIC, ids=lambda case: case.model)
def test_eight_road_scenes_are_learnt_by_heart(case, camvid_eight, tmp_path, shared):
    data, crop = camvid_eight[case.near], 224 if case.near else 160
    assert learnt(case, data, tmp_path, shared, crop=crop, task="semantic") > case.score


@pytest.mark.parametrize("case", INSTANCE, ids=lambda case: case.model)
def test_sixteen_photographs_with_objects_are_learnt_by_heart(case, coco_sixteen, tmp_path, shared):
    assert learnt(case, coco_sixteen, tmp_path, shared, crop=256, task="instance") > case.score


@pytest.mark.parametrize("case", PANOPTIC, ids=lambda case: case.model)
def test_eight_photographs_with_segments_are_learnt_by_heart(case, coco_eight, tmp_path, shared):
    assert learnt(case, coco_eight, tmp_path, shared, crop=256, task="panoptic") > case.score
