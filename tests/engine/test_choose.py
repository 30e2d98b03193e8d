"""What is chosen for images that are no photographs."""

from pathlib import Path

import pytest
import torch

from nuriwake.engine.choose import choose_frozen
from nuriwake.engine.config import DataConfig, RunConfig, override
from nuriwake.engine.optim import freeze
from nuriwake.models import build_model

CONFIG = override(
    RunConfig(DataConfig(Path("data")), Path("run")),
    {"model.name": "unet_mobilenet_v2", "model.backbone_weights": "file.pth", "budget": "10m", "device": "cpu"},
)


@pytest.mark.parametrize(("channels", "early"), [(1, True), (2, False), (3, True), (4, False), (13, False)])
@pytest.mark.parametrize("name", ["unet_mobilenet_v2", "unet_resnet34"])
def test_kernels_that_never_saw_these_bands_go_on_learning(name, channels, early):
    model = build_model(name, in_channels=channels, classes=2)
    config, (choice,) = choose_frozen(CONFIG, model)
    assert config.optim.freeze == (("early",) if early else ())
    assert (f"{channels} channels" in choice.reason) is not early
    freeze(model, config.optim.freeze)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.weight.requires_grad is not early
