"""Recipes: every model has one that stands in the table, and a family over another backbone has its family's."""

import pytest

from nuriwake.models import MODELS, resolve_model
from nuriwake.recipes import RECIPES, build_config
from nuriwake.tasks import TASKS


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_a_recipe(name):
    config = build_config("some data", name)
    assert config.model.name == name
    assert str(config.data.path) == "some data"
    assert MODELS[name].recipe in RECIPES
    assert MODELS[name].task in (*TASKS, "any")


def test_no_recipe_is_without_a_model():
    assert {entry.recipe for entry in MODELS.values()} == set(RECIPES)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("deeplabv3_mobilenet_v2", "deeplabv3_resnet50"),
        ("deeplabv3plus_convnext_atto", "deeplabv3plus_resnet50"),
        ("pspnet_resnet18", "pspnet_resnet50"),
        ("segformer_swin_tiny", "segformer_b0"),
        ("unet_convnext_atto", "unet_resnet34"),
        ("mask_rcnn_resnet18", "mask_rcnn_r50_fpn"),
    ],
)
def test_a_family_over_another_backbone_has_its_familys_recipe(name, like):
    assert resolve_model(name).recipe == MODELS[like].recipe


def test_deeplab_trains_with_adamw_and_its_published_scales():
    config = build_config("some data", "deeplabv3plus_mobilenet_v2")
    assert (config.optim.name, config.optim.learning_rate, config.optim.backbone_rate) == ("adamw", 1e-3, 0.5)
    assert config.augmentation.scale == (0.5, 2.0)
    assert config.loss.terms == "cross_entropy+dice"
