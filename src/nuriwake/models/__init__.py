"""Floor 1: architectures, one file each; tensors in, a NamedTuple of tensors out. `MODELS` is what there is."""

from nuriwake.models.base import Model
from nuriwake.models.catalogue import (
    FAMILIES,
    MODELS,
    ModelEntry,
    build_model,
    count_parameters,
    list_models,
    model_options,
    resolve_model,
)

__all__ = [
    "FAMILIES",
    "MODELS",
    "Model",
    "ModelEntry",
    "build_model",
    "count_parameters",
    "list_models",
    "model_options",
    "resolve_model",
]
