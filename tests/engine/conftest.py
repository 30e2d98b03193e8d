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
