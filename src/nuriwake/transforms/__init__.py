"""Seeded transforms: `Sample -> Sample`. Geometry is composed and warped once; photometry is composed where it can be."""

from nuriwake.transforms.albumentations import AlbumentationsTransform, from_albumentations
from nuriwake.transforms.mixing import CopyPaste, CutMix, Mosaic
from nuriwake.transforms.operations import OPERATIONS
from nuriwake.transforms.pipeline import Pipeline, Transform
from nuriwake.transforms.presets import PRESETS, evaluation, preset
from nuriwake.transforms.toning import Units

__all__ = [
    "OPERATIONS",
    "PRESETS",
    "AlbumentationsTransform",
    "CopyPaste",
    "CutMix",
    "Mosaic",
    "Pipeline",
    "Transform",
    "Units",
    "evaluation",
    "from_albumentations",
    "preset",
]
