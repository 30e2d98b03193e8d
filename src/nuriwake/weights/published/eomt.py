"""EoMT's checkpoints: transformers, and the authors' own files."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.backbones.vit import SIZES
from nuriwake.models.backbones.vit_names import as_grid, join_projections, vit_name
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import ClassList, Config, Published, Shapes, Source
from nuriwake.weights.published.keys import or_of_others

LICENCE = "MIT (TU Eindhoven; trained from DINOv2's weights, Apache-2.0)"
NOTES = ("A model of queries answers every task (predict --task), best the one it was trained for.",)

_TRANSFORMERS = {
    r"query\.weight": "head.queries",
    r"class_predictor\.(\w+)": r"head.classify.\1",
    **{rf"mask_head\.fc{layer + 1}\.(\w+)": rf"head.mask.{2 * layer}.\1" for layer in range(3)},
    r"upscale_block\.block\.(\d+)\.conv1\.(\w+)": r"head.enlarge.\1.upsample.\2",
    r"upscale_block\.block\.(\d+)\.conv2\.(\w+)": r"head.enlarge.\1.depthwise.\2",
    r"upscale_block\.block\.(\d+)\.layernorm2d\.(\w+)": r"head.enlarge.\1.norm.\2",
    r"attn_mask_probs": "mask_share",
}
_AUTHORS = {
    r"network\.q\.weight": "head.queries",
    r"network\.class_head\.(\w+)": r"head.classify.\1",
    r"network\.mask_head\.([024])\.(\w+)": r"head.mask.\1.\2",
    r"network\.upscale\.(\d+)\.conv1\.(\w+)": r"head.enlarge.\1.upsample.\2",
    r"network\.upscale\.(\d+)\.conv2\.(\w+)": r"head.enlarge.\1.depthwise.\2",
    r"network\.upscale\.(\d+)\.norm\.(\w+)": r"head.enlarge.\1.norm.\2",
    r"network\.attn_mask_probs": "mask_share",
}
_AUTHORS_ENCODER = "network.encoder.backbone."
_LEFT_OUT = {
    r"criterion\.empty_weight": "weights of the loss: only for training",
    r"network\.encoder\.pixel_(mean|std)": "mean and deviation of the images: part of the preprocessing here",
}
_SPACE: dict[int, ClassList] = {133: "coco", 80: "coco", 150: "ade20k", 19: "cityscapes"}
_TASKS = ("panoptic", "instance", "semantic")


def _rename(head: dict[str, str], encoder: str) -> Callable[[str], str | None]:
    def rename(key: str) -> str | None:
        if any(re.fullmatch(pattern, key) for pattern in _LEFT_OUT):
            return None
        for pattern, ours in head.items():
            if found := re.fullmatch(pattern, key):
                return found.expand(ours)
        own = vit_name(key.removeprefix(encoder)) if key.startswith(encoder) else None
        return f"encoder.{own}" if own else key

    return rename


def _own_shapes(shapes: Shapes, rename: Callable[[str], str | None]) -> dict[str | None, tuple[int, ...]]:
    return {rename(key): shape for key, shape in shapes.items()}


def _recognise(head: dict[str, str], rename: Callable[[str], str | None], task: str) -> Callable[[Shapes], bool]:
    """The head's arrays are all there, and their numbers are those of models for `task`."""

    def recognise(shapes: Shapes) -> bool:
        if not all(any(re.fullmatch(pattern, key) for key in shapes) for pattern in head):
            return False
        own = _own_shapes(shapes, rename)
        return _task(own["head.classify.bias"][0] - 1, own["head.queries"][0]) == task

    return recognise


def _task(classes: int, queries: int) -> str:
    """What a model was trained for; its file does not say so. Published are COCO panoptic (133 classes) and instance (80),
    ADE20K panoptic (150 classes, 200 queries) and semantic (100 queries), Cityscapes semantic; others count as semantic."""
    if classes == 133 or (classes == 150 and queries >= 200):
        return "panoptic"
    return "instance" if classes == 80 else "semantic"


def _spec(rename: Callable[[str], str | None]) -> Callable[[Shapes, Config], ModelSpec]:
    def spec(shapes: Shapes, config: Config) -> ModelSpec:
        own = _own_shapes(shapes, rename)
        for field, expected in (("hidden_act", "gelu"), ("layer_norm_eps", 1e-6)):
            if config.get(field, expected) != expected:
                raise UserError(f"config.json: {field} of an EoMT is {expected}, found {config[field]}.")
        patch = own["encoder.embedding.projection.weight"][-1]
        options = {
            "image_size": _side(own),
            "padded": True,
            "patch_size": patch,
            "registers": own["encoder.embedding.registers"][1] if "encoder.embedding.registers" in own else 0,
            "queries": own["head.queries"][0],
            "query_blocks": own["mask_share"][0],
        }
        channels = own["encoder.embedding.projection.weight"][1]
        return ModelSpec(f"eomt_{_size(own, config)}", channels, own["head.classify.bias"][0] - 1, options)

    return spec


def _size(own: Mapping[str | None, tuple[int, ...]], config: Config) -> str:
    width = own["head.classify.weight"][1]
    depth = 1 + max(int(found[1]) for key in own if (found := re.match(r"encoder\.blocks\.(\d+)\.", key or "")))
    for name, size in SIZES.items():
        heads = config.get("num_attention_heads", size.heads)
        if (size.width, size.depth, size.heads) == (width, depth, heads):
            return name.removeprefix("dinov2_")
    known = ", ".join(f"{size.width} and {size.depth}" for size in SIZES.values())
    raise UserError(f"An EoMT has one of the widths and depths {known} with DINOv2's heads, found {width} and {depth}.")


def _transform(key: str, array: Tensor) -> Tensor:
    """Positions as a square."""
    return as_grid(array.reshape(-1, array.shape[-1])) if key == "encoder.embedding.positions" else array


def _arrange(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return join_projections(arrays)


def _preprocessing(rename: Callable[[str], str | None], task: str) -> Callable[[Shapes, Config], Preprocessing]:
    """Objects: the longer side becomes that of the trained square, the rest is black; semantic: the shorter side does."""

    def preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
        side = _side(_own_shapes(shapes, rename))
        shortest, longest = (side, None) if task == "semantic" else (None, side)
        resize = ResizeRule(shortest=shortest, longest=longest, interpolation="antialiased")
        return Preprocessing(resize=resize, padding="black")

    return preprocessing


def _side(own: Mapping[str | None, tuple[int, ...]]) -> int:
    """Of the square that the model was trained on, in pixels."""
    return math.isqrt(own["encoder.embedding.positions"][-2]) * own["encoder.embedding.projection.weight"][-1]


def _tiling(rename: Callable[[str], str | None], task: str) -> Callable[[Shapes], tuple[int | None, float]]:
    """Semantic: as few squares along the longer side as cover it, evenly spread, whose answers are averaged (the authors'
    `window_imgs_semantic`, transformers' `do_split_image`). Objects: the whole image."""
    return lambda shapes: (_side(_own_shapes(shapes, rename)), 0.0) if task == "semantic" else (None, 0.25)


def _published(source: Source, head: dict[str, str], encoder: str, task: str) -> Published:
    rename = _rename(head, encoder)
    return Published(
        source,
        "eomt",
        _recognise(head, rename, task),
        _spec(rename),
        rename,
        _LEFT_OUT,
        preprocessing=_preprocessing(rename, task),
        space=_SPACE,
        licence=or_of_others(LICENCE),
        notes=NOTES,
        transform=_transform,
        arrange=_arrange,
        task=task,
        guessed=True,
        tiling=_tiling(rename, task),
    )


SOURCES: tuple[Published, ...] = (
    *(_published("transformers", _TRANSFORMERS, "", task) for task in _TASKS),
    *(_published("eomt", _AUTHORS, _AUTHORS_ENCODER, task) for task in _TASKS),
)
