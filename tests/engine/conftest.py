"""A tiny data set (bright discs on a dark ground) and a tiny model, for runs of a second."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

MODEL = '''
import torch
from torch import nn
from nuriwake.models.base import Model
from nuriwake.models.outputs import PixelLogits


class Tiny(Model):
    input_multiple = input_minimum = 2

    def __init__(self, in_channels: int, classes: int, *, norm: str = "group", dropout: float = 0.2) -> None:
        super().__init__()
        build = {"group": lambda: nn.GroupNorm(2, 8), "batch": lambda: nn.BatchNorm2d(8), "none": nn.Identity}[norm]
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, padding=1), build(), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), build(), nn.ReLU(),
        )
        self.drop = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images: torch.Tensor) -> PixelLogits:
        return PixelLogits(self.head(self.drop(self.encoder(images))))

    def stages(self):
        return [self.encoder[0:3], self.encoder[3:6], self.head]

    def backbone(self) -> nn.Module:
        return self.encoder


class Poisoned(Tiny):
    """Its loss is not finite whenever a pixel of the batch is near white."""

    def forward(self, images: torch.Tensor) -> PixelLogits:
        logits = super().forward(images).logits
        return PixelLogits(torch.where((images > 2.2).any(), logits * torch.nan, logits))


class Overflowing(Tiny):
    """Its loss is finite, but no gradient ever is."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes)
        self.head.bias.register_hook(lambda gradient: gradient * torch.inf)


def make_tiny(in_channels: int, classes: int, *, norm: str = "group") -> Tiny:
    return Tiny(in_channels, classes, norm=norm, dropout=0.0)


class Plain(nn.Module):
    """No `Model`."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, classes, 1)

    def forward(self, images: torch.Tensor) -> PixelLogits:
        return PixelLogits(self.head(images))
'''


def draw_data(root: Path, *, train: int = 10, val: int = 3, side: int = 40, classes: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((side, side + 8), np.uint8)
            for label in range(1, classes):
                centre = rng.integers(8, side - 8, 2).tolist()
                cv2.circle(mask, centre, int(rng.integers(5, 9)), label, -1)
            image = 60 + 100 * mask[..., None] + rng.normal(0, 12, (*mask.shape, 3))
            name = f"{split}{index:02}.png"
            cv2.imwrite(str(root / "images" / split / name), image.clip(0, 200).astype(np.uint8))
            cv2.imwrite(str(root / "masks" / split / name), mask * (255 if classes == 2 else 1))
    return root


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory):
    """The folder of the module `tiny_model`, importable here."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def disc_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 training and 3 validation images of 40x48, two classes."""
    return draw_data(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def draw() -> Callable[..., Path]:
    """`draw(root, train=, val=, side=, classes=)` draws another such data set."""
    return draw_data


@pytest.fixture
def tiny_config(tiny_models: Path, disc_data: Path, tmp_path: Path):
    """`tiny_config({"dotted.field": value})` -> RunConfig of a short run in tmp_path / "run"."""
    from nuriwake.engine.config import DataConfig, ModelConfig, RunConfig, override

    base = RunConfig(
        DataConfig(disc_data, workers=0, cache_mib=8),
        out=tmp_path / "run",
        model=ModelConfig("tiny_model:Tiny"),
        batch_size=4,
        steps=6,
        device="cpu",
        precision="fp32",
    )
    small = {"augmentation.crop_size": 32, "augmentation.preset": "natural", "schedule.warmup_steps": 2}

    def build(values: dict | None = None, base: RunConfig = base) -> RunConfig:
        return override(override(base, small), values or {})

    return build


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (72, 88, 3) of bright discs and the number of each, uint16, 0 as none."""
    ids = np.zeros((72, 88), np.uint16)
    for number in range(1, 5):
        cv2.circle(ids, rng.integers(10, 62, 2).tolist(), int(rng.integers(5, 10)), number, -1)
    image = 60 + 120 * (ids > 0)[..., None] + rng.normal(0, 8, (*ids.shape, 3))
    return image.clip(0, 255).astype(np.uint8), ids


@pytest.fixture(scope="session")
def object_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 training and 2 validation images with 16-bit numbers of discs."""
    root, rng = tmp_path_factory.mktemp("objects"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image, ids = draw_scene(rng)
            cv2.imwrite(str(root / "images" / split / f"{index}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{index}.png"), ids)
    return root


@pytest.fixture(scope="session")
def panoptic_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like in COCO's panoptic form: discs, which are things, on ground."""
    from nuriwake.core.labels import LabelSpace
    from nuriwake.core.panoptic import Panoptic
    from nuriwake.core.sample import Sample
    from nuriwake.data.writing import write_data
    from nuriwake.data.written import WriteSettings

    root, rng = tmp_path_factory.mktemp("segments"), np.random.default_rng(1)
    space = LabelSpace(("disc", "ground"), (True, False))
    for split, count in (("train", 4), ("val", 2)):
        samples = []
        for index in range(count):
            image, ids = draw_scene(rng)
            ids = np.where(ids == 0, 9, ids).astype(np.int32)
            numbers = np.unique(ids).astype(np.int32)
            target = Panoptic(ids, numbers, (numbers == 9).astype(np.int32), space)
            samples.append(Sample(image, target, name=f"{split}{index}"))
        write_data(samples, root, format="coco_panoptic", space=space, settings=WriteSettings(split=split))
    return root


SMALL_REGIONS = {
    "regions": {"box_width": 32, "mask_channels": 8, "anchor_sizes": [8, 16, 32, 64, 128]},
    "pyramid_channels": 32,
}
SMALL_OPTIONS: dict[str, dict] = {
    "unet_mobilenet_v2": {},
    "mask_rcnn_mobilenet_v2_fpn": SMALL_REGIONS,
    "panoptic_fpn_mobilenet_v2": {**SMALL_REGIONS, "semantic_channels": 32},
    "yolact_mobilenet_v2": {"prior_sizes": [8, 16, 32, 64, 128]},
    "solov2_mobilenet_v2": {
        **dict.fromkeys(("channels", "pyramid_channels", "mask_channels", "kernel_channels"), 32),
        "convolutions": 1,
        "grids": [8, 6, 4, 3, 2],
    },
    "mask2former_mobilenet_v2": {"channels": 32, "queries": 8, "pixel_layers": 1, "decoder_layers": 1},
    "eomt_small": {"image_size": 64, "queries": 8, "query_blocks": 2},
}


@pytest.fixture
def small_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Name of a model -> options that make it small; a small vision transformer is very small."""
    from nuriwake.models.backbones import vit

    monkeypatch.setitem(vit.SIZES, "dinov2_small", vit.VisionTransformerSize(64, 2, 3))
    return SMALL_OPTIONS


@pytest.fixture
def object_config(object_data: Path, panoptic_data: Path, tmp_path: Path, small_options: dict[str, dict]):
    """`object_config(model, task, {"dotted.field": value})` -> RunConfig of a short run of a small model in tmp_path / "run"."""
    from nuriwake.engine.config import override
    from nuriwake.recipes import build_config

    def build(model: str, task: str, values: dict | None = None):
        data = panoptic_data if task == "panoptic" else object_data
        base = {
            "task": task,
            "model.options": small_options[model],
            "augmentation.crop_size": 64,
            "batch_size": 2,
            "steps": 2,
            "schedule.warmup_steps": 1,
            "data.workers": 0,
            "data.check": False,
            "device": "cpu",
            "precision": "fp32",
            "out": str(tmp_path / "run"),
        }
        return override(override(build_config(data, model), base), values or {})

    return build
