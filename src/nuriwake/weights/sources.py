"""The one table of published checkpoints that can be read."""

from functools import cache
from importlib import import_module

from nuriwake.weights.published.base import Published

PUBLISHED: dict[str, str] = {
    "unet": "nuriwake.weights.published.unet",
    "deeplabv3": "nuriwake.weights.published.deeplabv3",
    "deeplabv3plus": "nuriwake.weights.published.deeplabv3plus",
    "pspnet": "nuriwake.weights.published.pspnet",
    "semantic_fpn": "nuriwake.weights.published.semantic_fpn",
    "mask_rcnn": "nuriwake.weights.published.mask_rcnn",
    "panoptic_fpn": "nuriwake.weights.published.panoptic_fpn",
    "segformer": "nuriwake.weights.published.segformer",
    "hrnet": "nuriwake.weights.published.hrnet",
    "eomt": "nuriwake.weights.published.eomt",
    "mask2former": "nuriwake.weights.published.mask2former",
    "yolact": "nuriwake.weights.published.yolact",
    "solov2": "nuriwake.weights.published.solov2",
}
"""Family -> module with a tuple `SOURCES`. A new source is one entry there, a new family one file and one line here."""

TITLES = {
    "torchvision": "torchvision",
    "transformers": "transformers (Hugging Face)",
    "smp": "segmentation_models_pytorch",
    "mmseg": "mmsegmentation",
    "hrnet": "HRNet-Semantic-Segmentation",
    "semseg": "semseg",
    "detectron2": "Detectron2",
    "mmdet": "mmdetection",
    "yolact": "YOLACT's repository",
    "eomt": "EoMT's repository",
    "textbook": "the textbook U-Net",
}
"""Source -> what it is called."""


@cache
def all_sources() -> tuple[Published, ...]:
    """Every `Published` of the table, in its order."""
    return tuple(source for module in PUBLISHED.values() for source in import_module(module).SOURCES)


def title(source: Published) -> str:
    """ "pspnet of mmsegmentation" """
    return f"{source.architecture} of {TITLES[source.source]}"
