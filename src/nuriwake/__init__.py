"""nuriwake: image segmentation with PyTorch.

import nuriwake as nw

run = nw.train("photos", model="unet_mobilenet_v2", out="runs/a")
predictor = nw.load("runs/a")
result = predictor(image)  # SemanticMap, Instances or Panoptic
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap

if TYPE_CHECKING:
    from nuriwake.api import (
        check,
        convert,
        describe,
        evaluate,
        keep_settings,
        load,
        open_data,
        open_run,
        read_checkpoint,
        recommend,
        train,
    )
    from nuriwake.inference.predictor import Predictor
    from nuriwake.inference.settings import PredictSettings

__version__ = "0.1.0"

# PyTorch takes seconds to import; `nuriwake --help` and reading label files should not wait for it.
_LATE = {
    "train": "nuriwake.api",
    "load": "nuriwake.api",
    "evaluate": "nuriwake.api",
    "check": "nuriwake.api",
    "convert": "nuriwake.api",
    "recommend": "nuriwake.api",
    "describe": "nuriwake.api",
    "keep_settings": "nuriwake.api",
    "open_data": "nuriwake.api",
    "open_run": "nuriwake.api",
    "read_checkpoint": "nuriwake.api",
    "Predictor": "nuriwake.inference.predictor",
    "PredictSettings": "nuriwake.inference.settings",
}

__all__ = [
    "IGNORE", "Instances", "LabelSpace", "Panoptic", "PredictSettings", "Predictor", "RunError", "Sample", "SemanticMap",
    "UserError", "check", "convert", "describe", "evaluate", "keep_settings", "load", "open_data", "open_run", "read_checkpoint", "recommend", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'nuriwake' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATE])
