"""Batch norms that would see one value are refused before there is a run folder, with what to change."""

import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.engine.config import override
from nuriwake.engine.norms import check_norms
from nuriwake.engine.train import train
from nuriwake.models import build_model

REGIONS = {"regions": {"box_width": 16, "mask_channels": 8}, "pyramid_channels": 32}


@pytest.mark.parametrize(
    ("name", "options", "crop", "remedies"),
    [
        ("pspnet_mobilenet_v2", {}, 8, "set batch_size to 2 or augmentation.crop_size to 16."),
        ("deeplabv3plus_mobilenet_v2", {}, 16, "set batch_size to 2 or augmentation.crop_size to 32."),
        ("unet_mobilenet_v2", {}, 32, "set batch_size to 2 or augmentation.crop_size to 64."),
        (
            "mask_rcnn_mobilenet_v2_fpn",
            REGIONS,
            32,
            "set batch_size to 2 or augmentation.crop_size to 64 or model.options.frozen_norm to true.",
        ),
    ],
)
def test_one_value_per_channel_is_refused(tiny_config, name, options, crop, remedies):
    config = tiny_config({"model.name": name, "batch_size": 1, "augmentation.crop_size": crop})
    model = build_model(name, in_channels=3, classes=2, options=options)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        check_norms(model, [], config, channels=3, world=1)
    said = str(caught.value)
    assert said.startswith(f"batch_size: a batch norm of '{name}' would see a single value per channel")
    assert said.endswith(remedies)
    for change in ({"batch_size": 2}, {"augmentation.crop_size": 64}):
        # Of larger crops, what pools the whole image (PSPNet, DeepLab) sees one value too, and takes its running statistics.
        check_norms(model, [], override(config, change), channels=3, world=1)
    with pytest.raises(UserError, match=r"in every process.*batch_size to 4"):
        check_norms(model, [], override(config, {"batch_size": 2}), channels=3, world=2)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    if "mask_rcnn" not in name:  # it learns with the truth only
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model.train()(torch.zeros(1, 3, crop, crop))


def test_frozen_norms_ask_nothing_of_a_batch(tiny_config):
    config = tiny_config({"batch_size": 1})
    model = build_model("unet_mobilenet_v2", in_channels=3, classes=1)
    with pytest.raises(UserError, match="single value"):
        check_norms(model, [], config, channels=3, world=1)
    check_norms(model, [model.backbone()], config, channels=3, world=1)


def test_it_is_said_before_there_is_a_run(tiny_config):
    config = tiny_config({"model.name": "unet_mobilenet_v2", "batch_size": 1})
    with pytest.raises(UserError, match="batch_size: a batch norm of 'unet_mobilenet_v2'"):
        train(config)
    assert not config.out.exists()
