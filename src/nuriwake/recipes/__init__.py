"""Floor 6: recipes. A recipe is a function from the facts of the data to a complete run configuration.

`RECIPES` is what there is; a model's entry names the one that suits it (`ModelEntry.recipe`).
"""

from collections.abc import Callable
from pathlib import Path

from nuriwake.core.lookup import lookup
from nuriwake.engine.config import RunConfig
from nuriwake.models import resolve_model

Recipe = Callable[[Path, str], RunConfig]
"""(path of the data, name of the model) -> configuration; its gaps are filled by `engine.choose` for data and machine."""

RECIPES: dict[str, str] = {
    "unet": "nuriwake.recipes.semantic:unet",
    "deeplab": "nuriwake.recipes.semantic:deeplab",
    "segformer": "nuriwake.recipes.semantic:segformer",
    "hrnet": "nuriwake.recipes.semantic:hrnet",
    "pyramid": "nuriwake.recipes.semantic:pyramid",
    "mask_rcnn": "nuriwake.recipes.objects:regions",
    "panoptic_fpn": "nuriwake.recipes.objects:regions",
    "yolact": "nuriwake.recipes.objects:yolact",
    "solov2": "nuriwake.recipes.objects:solov2",
    "mask2former": "nuriwake.recipes.objects:mask2former",
    "eomt": "nuriwake.recipes.objects:eomt",
}


def recipe_for(model: str) -> Recipe:
    """The recipe of the model `model`. Raises UserError for an unknown model (the nearest is named)."""
    return lookup(resolve_model(model).recipe, RECIPES, "recipe")


def build_config(data: Path | str, model: str) -> RunConfig:
    """The configuration with which `model` is trained on `data` when nobody says otherwise."""
    return recipe_for(model)(Path(data), model)
