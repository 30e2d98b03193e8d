"""Detectron2's YAML configurations, read as plain data: nothing of Detectron2 is imported and nothing is executed.

A configuration names another one under `_BASE_`, which it changes. The zoo's own bases are built in, since people keep the
file of their model and not the folder it lay in (detectron2/configs and detectron2/config/defaults.py, version 0.6).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nuriwake.core.errors import UserError

FILE_NAME = "config.yaml"
"""Beside the weights: what Detectron2 writes into its output folder."""

DEPTH_LIMIT = 10
"""Configurations that change one another."""

_PYRAMID = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000,
            "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads"},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 4, "POOLER_RESOLUTION": 14},
    }
}
BASES: dict[str, dict[str, Any]] = {
    "Base-RCNN-FPN.yaml": _PYRAMID,
    "Base-Panoptic-FPN.yaml": {
        "_BASE_": "Base-RCNN-FPN.yaml",
        "MODEL": {"META_ARCHITECTURE": "PanopticFPN", "MASK_ON": True, "SEM_SEG_HEAD": {"LOSS_WEIGHT": 0.5}},
    },
}
"""File name -> what the zoo's base says of the models that can be read."""

DEFAULTS: dict[str, Any] = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_backbone"},
        "RPN": {
            "PRE_NMS_TOPK_TRAIN": 12000,
            "PRE_NMS_TOPK_TEST": 6000,
            "POST_NMS_TOPK_TRAIN": 2000,
            "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "Res5ROIHeads"},
        "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 14},
    }
}
"""Detectron2's defaults where they differ from those of the zoo's models over a pyramid."""


def read_detectron2_config(path: Path) -> dict[str, Any]:
    """The configuration at `path` over its bases and Detectron2's defaults; empty when the file is none of Detectron2's.

    Raises:
        UserError: no readable YAML, or a base that is neither there nor one of the zoo's.
    """
    own = _read(path)
    if not isinstance(own.get("MODEL"), Mapping) and "_BASE_" not in own:
        return {}
    return _merged(DEFAULTS, _with_base(own, path, 0))


def _with_base(own: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
    name = own.pop("_BASE_", None)
    if name is None:
        return own
    if not isinstance(name, str) or depth >= DEPTH_LIMIT:
        raise UserError(f"{path}: its _BASE_ is no file name, or its bases lead in a circle.")
    file = path.parent / name
    if file.is_file():
        base = _read(file)
    elif file.name in BASES:
        base = dict(BASES[file.name])
    else:
        raise UserError(
            f"{path}: its _BASE_ '{name}' is not there, and it is none of {', '.join(BASES)}; put it beside the file."
        )
    return _merged(_with_base(base, file, depth + 1), own)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no readable YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping, found {type(loaded).__name__}.")
    return loaded
