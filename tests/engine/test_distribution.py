"""Batch norms over several GPUs compute what those of one did, and are there before anything keeps modules."""

import pytest
import torch
from torch import nn

from nuriwake.engine import setup
from nuriwake.engine.distribution import Team, join_team, synchronise_norms
from nuriwake.engine.lock import Lock
from nuriwake.engine.optim import training_mode
from nuriwake.models import build_model

# A description of two GPUs, of which none is asked for anything.
TWO_GPUS = Team(0, 2, torch.device("cuda", 0))


def norms(module: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm)]


@pytest.mark.parametrize("name", ["unet_efficientnet_b0", "unet_regnety_002", "pspnet_mobilenet_v2"])
def test_synchronised_norms_change_nothing_else(name):
    torch.manual_seed(0)
    model, images = build_model(name, in_channels=3, classes=2, options={}).eval(), torch.randn(2, 3, 64, 64)
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(images).logits
        after = synchronise_norms(model, TWO_GPUS)(images).logits
    assert torch.equal(after, before)
    assert norms(model)
    assert all(isinstance(part, nn.SyncBatchNorm) for part in norms(model))
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("team", [Team(0, 1, torch.device("cuda", 0)), Team(0, 2, torch.device("cpu"))])
def test_one_process_and_the_cpu_keep_their_norms(team):
    model = synchronise_norms(build_model("unet_mobilenet_v2", in_channels=3, classes=1), team)
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())


@pytest.mark.parametrize(
    "name", ["mask2former_mobilenet_v2", "mask_rcnn_mobilenet_v2_fpn", "mask2former_efficientnet_b0"]
)
def test_frozen_norms_stay_frozen_when_they_are_synchronised(small_options, name):
    options = small_options[name.replace("efficientnet_b0", "mobilenet_v2")]
    model = build_model(name, in_channels=3, classes=2, options={**options, "frozen_norm": True})
    model = synchronise_norms(model, TWO_GPUS)
    training_mode(model, [])
    backbone = model.backbone()
    assert backbone is not None
    assert norms(backbone)
    assert backbone.training
    for norm in norms(backbone):
        assert not norm.training
        assert not norm.weight.requires_grad


def test_what_is_frozen_and_averaged_is_what_learns(tiny_config, monkeypatch):
    monkeypatch.setattr(setup, "synchronise_norms", lambda model, team: synchronise_norms(model, TWO_GPUS))
    config = tiny_config(
        {"model.name": "unet_resnet18", "optim.freeze": ["early"]}
    )  # its first norm stands in no block
    lock = Lock(config.out)
    job = setup.prepare_job(config, join_team("cpu"), lock=lock, resume=False, report=lambda line: None)
    lock.release()
    training_mode(job.network, job.frozen)
    own, frozen = norms(job.model), [norm for module in job.frozen for norm in norms(module)]
    assert frozen
    assert set(frozen) < set(own)
    assert {norm for norm in own if not norm.training} == set(frozen)
    assert job.average is not None
    kinds = [[type(part) for part in model.modules()] for model in (job.model, job.average.module)]
    assert kinds[0] == kinds[1]
    learning = {id(parameter) for parameter in job.model.parameters() if parameter.requires_grad}
    assert {id(item) for group in job.optimiser.param_groups for item in group["params"]} == learning
