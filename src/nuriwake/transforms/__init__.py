"""Seeded transforms: `Sample -> Sample`. Geometry is composed and warped once; photometry is composed where it can be."""

from nuriwake.transforms.albumentations import from_albumentations
from nuriwake.transforms.pipeline import Pipeline, Transform
from nuriwake.transforms.presets import PRESETS, evaluation, preset

__all__ = ["PRESETS", "Pipeline", "Transform", "evaluation", "from_albumentations", "preset"]
