"""Mask2Former's checkpoints: transformers, and the authors' own files in Detectron2's format."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.backbones.resnet import detectron2_name
from nuriwake.models.backbones.swin import SIZES
from nuriwake.models.backbones.swin_names import BUFFERS, arrange_swin, swin_name
from nuriwake.models.mask2former import EXPANSION, HEAD_CHANNELS, PIXEL_EXPANSION
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published.base import ClassList, Config, Published, Shapes, Source
from nuriwake.weights.published.detectron2 import value_of
from nuriwake.weights.published.keys import Rules, left_out_by, or_of_others, require_resnet, rewrite

LICENCE = "CC BY-NC 4.0 (Mask2Former model zoo, Meta): no commercial use"
NOTES = (
    "A model of queries answers every task (predict --task), best the one it was trained for.",
    "The licence is that of the authors' weights; files trained from others have the licence of whoever trained them.",
)

_PIXELS = r"model\.pixel_level_module\.decoder\."
_QUERIES = r"model\.transformer_module\."
_LAYER = rf"{_QUERIES}decoder\.layers\.(\d+)\."
_PARTS = ("query", "key", "value")
_TRANSFORMERS_HEAD: Rules = (
    (rf"{_PIXELS}input_projections\.(\d)\.([01])\.(\w+)", r"pixels.projections.\1.\2.\3"),
    (rf"{_PIXELS}level_embed", "pixels.level_positions"),
    (rf"{_PIXELS}adapter_1\.([01])\.(\w+)", r"pixels.lateral.\1.\2"),
    (rf"{_PIXELS}layer_1\.([01])\.(\w+)", r"pixels.smooth.\1.\2"),
    (rf"{_PIXELS}mask_projection\.(\w+)", r"pixels.masks.\1"),
    *(
        (rf"{_PIXELS}encoder\.layers\.(\d+)\.{theirs}\.(\w+)", rf"pixels.layers.\1.{ours}.\2")
        for theirs, ours in (
            (r"self_attn\.sampling_offsets", "attention.offsets"),
            (r"self_attn\.attention_weights", "attention.weights"),
            (r"self_attn\.value_proj", "attention.value"),
            (r"self_attn\.output_proj", "attention.output"),
            ("self_attn_layer_norm", "norm"),
            ("fc1", "feed.widen"),
            ("fc2", "feed.narrow"),
            ("final_layer_norm", "feed.norm"),
        )
    ),
    (rf"{_QUERIES}queries_features\.weight", "decoder.queries.weight"),
    (rf"{_QUERIES}queries_embedder\.weight", "decoder.query_positions.weight"),
    (rf"{_QUERIES}level_embed\.weight", "decoder.level_positions.weight"),
    (rf"{_QUERIES}decoder\.layernorm\.(\w+)", r"decoder.norm.\1"),
    *((rf"{_LAYER}cross_attn\.{part}_proj\.(\w+)", rf"decoder.layers.\1.image_attention.{part}.\2") for part in _PARTS),
    *(
        (rf"{_LAYER}self_attn\.{part[0]}_proj\.(\w+)", rf"decoder.layers.\1.query_attention.{part}.\2")
        for part in _PARTS
    ),
    *(
        (rf"{_LAYER}{theirs}\.(\w+)", rf"decoder.layers.\1.{ours}.\2")
        for theirs, ours in (
            (r"cross_attn\.out_proj", "image_attention.output"),
            ("cross_attn_layer_norm", "image_attention.norm"),
            (r"self_attn\.out_proj", "query_attention.output"),
            ("self_attn_layer_norm", "query_attention.norm"),
            ("fc1", "feed.widen"),
            ("fc2", "feed.narrow"),
            ("final_layer_norm", "feed.norm"),
        )
    ),
    *(
        (rf"{_QUERIES}decoder\.mask_predictor\.mask_embedder\.{layer}\.0\.(\w+)", rf"decoder.mask.{2 * layer}.\1")
        for layer in range(3)
    ),
    (r"class_predictor\.(\w+)", r"decoder.classify.\1"),
)
_ENCODER = "model.pixel_level_module.encoder."
_BLOCK = r"encoder\.stages\.{}\.layers\.(\d+)\."
_TRANSFORMERS_RESNET: Rules = (
    (r"embedder\.embedder\.convolution\.(\w+)", r"conv1.\1"),
    (r"embedder\.embedder\.normalization\.(\w+)", r"bn1.\1"),
    *(
        (rf"{_BLOCK.format(stage)}{theirs}\.(\w+)", rf"layer{stage + 1}.\1.{ours}.\2")
        for stage in range(4)
        for theirs, ours in (
            *((rf"layer\.{index}\.convolution", f"conv{index + 1}") for index in range(3)),
            *((rf"layer\.{index}\.normalization", f"bn{index + 1}") for index in range(3)),
            (r"shortcut\.convolution", "downsample.0"),
            (r"shortcut\.normalization", "downsample.1"),
        )
    ),
)

_DECODER = r"sem_seg_head\.pixel_decoder\."
_PREDICTOR = r"sem_seg_head\.predictor\."
_AUTHORS_HEAD: Rules = (
    (rf"{_DECODER}input_proj\.(\d)\.([01])\.(\w+)", r"pixels.projections.\1.\2.\3"),
    (rf"{_DECODER}transformer\.level_embed", "pixels.level_positions"),
    (rf"{_DECODER}adapter_1\.norm\.(\w+)", r"pixels.lateral.1.\1"),
    (rf"{_DECODER}adapter_1\.(\w+)", r"pixels.lateral.0.\1"),
    (rf"{_DECODER}layer_1\.norm\.(\w+)", r"pixels.smooth.1.\1"),
    (rf"{_DECODER}layer_1\.(\w+)", r"pixels.smooth.0.\1"),
    (rf"{_DECODER}mask_features\.(\w+)", r"pixels.masks.\1"),
    *(
        (rf"{_DECODER}transformer\.encoder\.layers\.(\d+)\.{theirs}\.(\w+)", rf"pixels.layers.\1.{ours}.\2")
        for theirs, ours in (
            (r"self_attn\.sampling_offsets", "attention.offsets"),
            (r"self_attn\.attention_weights", "attention.weights"),
            (r"self_attn\.value_proj", "attention.value"),
            (r"self_attn\.output_proj", "attention.output"),
            ("norm1", "norm"),
            ("linear1", "feed.widen"),
            ("linear2", "feed.narrow"),
            ("norm2", "feed.norm"),
        )
    ),
    (rf"{_PREDICTOR}query_feat\.weight", "decoder.queries.weight"),
    (rf"{_PREDICTOR}query_embed\.weight", "decoder.query_positions.weight"),
    (rf"{_PREDICTOR}level_embed\.weight", "decoder.level_positions.weight"),
    (rf"{_PREDICTOR}decoder_norm\.(\w+)", r"decoder.norm.\1"),
    *(
        (rf"{_PREDICTOR}transformer_{layers}_layers\.(\d+)\.{theirs}\.(\w+)", rf"decoder.layers.\1.{ours}.\2")
        for layers, theirs, ours in (
            *(("cross_attention", rf"multihead_attn\.{part}_proj", f"image_attention.{part}") for part in _PARTS),
            ("cross_attention", r"multihead_attn\.out_proj", "image_attention.output"),
            ("cross_attention", "norm", "image_attention.norm"),
            *(("self_attention", rf"self_attn\.{part}_proj", f"query_attention.{part}") for part in _PARTS),
            ("self_attention", r"self_attn\.out_proj", "query_attention.output"),
            ("self_attention", "norm", "query_attention.norm"),
            ("ffn", "linear1", "feed.widen"),
            ("ffn", "linear2", "feed.narrow"),
            ("ffn", "norm", "feed.norm"),
        )
    ),
    *((rf"{_PREDICTOR}mask_embed\.layers\.{layer}\.(\w+)", rf"decoder.mask.{2 * layer}.\1") for layer in range(3)),
    (rf"{_PREDICTOR}class_embed\.(\w+)", r"decoder.classify.\1"),
)

_LEFT_OUT = {
    r"criterion\.empty_weight": "weights of the loss: only for training",
    r"pixel_(mean|std)": "what preprocessing subtracts and divides by, kept there",
    rf"{re.escape(_ENCODER)}(swin\.)?layernorm\.\w+": "a norm behind the backbone's last map, which nothing reads",
    BUFFERS: "follows from the side of the windows",
}
_SPACE: dict[int, ClassList] = {
    133: "coco",
    80: "coco",
    150: "ade20k",
    100: "ade20k",
    19: "cityscapes",
    8: "cityscapes",
}
_TASKS = ("panoptic", "instance", "semantic")
_SHORT = {"resnet50": "r50", "resnet101": "r101"}
_FIXED = (
    ("activation_function", "relu"),
    ("pre_norm", False),
    ("enforce_input_projection", False),
    ("common_stride", 4),
)


def _transformers_name(key: str) -> str | None:
    if left_out_by(_LEFT_OUT, key):
        return None
    if not key.startswith(_ENCODER):
        return rewrite(key, _TRANSFORMERS_HEAD)
    rest = key.removeprefix(_ENCODER)
    own = rewrite(rest, _TRANSFORMERS_RESNET)
    return f"encoder.{own if own != rest else swin_name(rest) or rest}"


def _authors_name(key: str) -> str | None:
    if left_out_by(_LEFT_OUT, key):
        return None
    if not key.startswith("backbone."):
        return rewrite(key, _AUTHORS_HEAD)
    rest = key.removeprefix("backbone.")
    return f"encoder.{swin_name(rest) or detectron2_name(rest)}"


def _arrange(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, keys and values each in an array of their own in the decoder, and all in one in a Swin."""
    arranged: dict[str, Any] = {}
    for key, array in arrange_swin(arrays).items():
        found = re.fullmatch(r"(.+)\.in_proj_(weight|bias)", key)
        if found is None:
            arranged[key] = array
        else:
            thirds = zip(_PARTS, array.chunk(3), strict=True)
            arranged |= {f"{found[1]}.{part}_proj.{found[2]}": third for part, third in thirds}
    return arranged


def _arranged_name(key: str, rename: Callable[[str], str | None]) -> str | None:
    """Our name of the array that the uncut `key` begins with."""
    return rename(re.sub(r"\.in_proj_(\w+)$", r".query_proj.\1", key))


def _own_shapes(shapes: Shapes, rename: Callable[[str], str | None]) -> dict[str, tuple[int, ...]]:
    named = ((_arranged_name(key, rename), shape) for key, shape in shapes.items())
    return {own: shape for own, shape in named if own}


def _recognise(rename: Callable[[str], str | None], task: str) -> Callable[[Shapes], bool]:
    """The arrays that every Mask2Former has, with the numbers of a model for `task`."""
    needed = {"decoder.classify.bias", "decoder.queries.weight", "pixels.level_positions", "pixels.masks.weight"}

    def recognise(shapes: Shapes) -> bool:
        own = _own_shapes(shapes, rename)
        if not needed <= own.keys():
            return False
        return _task(own["decoder.classify.bias"][0] - 1, own["decoder.queries.weight"][0]) == task

    return recognise


def _task(classes: int, queries: int) -> str:
    """What a model was trained for. Published are panoptic models of COCO (133 classes) and, over Swin large (200 queries),
    of ADE20K, Cityscapes and Mapillary Vistas; instance models of COCO (80), ADE20K (100) and Cityscapes (8). The smaller
    panoptic ones of the other three cannot be told from the semantic ones, and others count as semantic too: that is an
    answer that both kinds give."""
    if classes == 133 or (classes in (150, 65, 19) and queries >= 200):
        return "panoptic"
    return "instance" if classes in (80, 100, 8) else "semantic"


def _told(config: Config) -> str | None:
    """What the authors' config.yaml trains with: mask_former_semantic, coco_instance_lsj, coco_panoptic_lsj, ..."""
    mapper = str(value_of(config, "INPUT.DATASET_MAPPER_NAME", ""))
    return next((task for task in _TASKS if task in mapper), None)


def _spec(rename: Callable[[str], str | None]) -> Callable[[Shapes, Config], ModelSpec]:
    def spec(shapes: Shapes, config: Config) -> ModelSpec:
        own = _own_shapes(shapes, rename)
        backbone = _swin(own) if "encoder.levels.0.entry.convolution.weight" in own else _resnet(own, config)
        channels = own["pixels.masks.weight"][0]
        options = {
            "channels": channels,
            "queries": own["decoder.queries.weight"][0],
            "pixel_layers": _count(own, "pixels.layers"),
            "decoder_layers": _count(own, "decoder.layers"),
        }
        _check(own, channels, config)
        first = "conv1.weight" if "encoder.conv1.weight" in own else "levels.0.entry.convolution.weight"
        name, in_channels = _SHORT.get(backbone, backbone), own[f"encoder.{first}"][1]
        return ModelSpec(f"mask2former_{name}", in_channels, own["decoder.classify.bias"][0] - 1, options)

    return spec


def _count(own: Mapping[str, Any], prefix: str) -> int:
    return len({key.split(".")[prefix.count(".") + 1] for key in own if key.startswith(f"{prefix}.")})


def _check(own: Mapping[str, tuple[int, ...]], channels: int, config: Config) -> None:
    """Raise UserError where the checkpoint is a variant that our model is not."""
    expected = {
        "pixels.layers.0.feed.widen.weight": PIXEL_EXPANSION * channels,
        "decoder.layers.0.feed.widen.weight": EXPANSION * channels,
        "pixels.layers.0.attention.weights.weight": channels // HEAD_CHANNELS * 12,
        "decoder.queries.weight": own["decoder.queries.weight"][0],
    }
    for key, rows in expected.items():
        if own[key][0] != rows or own[key][1] != channels:
            raise UserError(
                f"This Mask2Former differs from the published ones: '{key}' would be {rows}x{channels}, found "
                f"{own[key][0]}x{own[key][1]}."
            )
    for field, value in (*_FIXED, ("num_attention_heads", channels // HEAD_CHANNELS)):
        if config.get(field, value) != value:
            raise UserError(f"config.json: {field} of a Mask2Former is {value}, found {config[field]}.")


def _resnet(own: Shapes, config: Config) -> str:
    backbone = config.get("backbone_config") or {}
    if isinstance(backbone, Mapping) and backbone.get("downsample_in_bottleneck"):
        raise UserError("config.json: downsample_in_bottleneck of a Mask2Former's ResNet is false, found true.")
    return require_resnet(own, "encoder.", source="Mask2Former")


def _swin(own: Shapes) -> str:
    """The name of the Swin. Raises UserError when nobody published one like it."""
    width = own["encoder.levels.0.entry.convolution.weight"][0]
    depths = tuple(_count(own, f"encoder.levels.{level}.blocks") for level in range(4))
    window = (round(own["encoder.levels.0.blocks.0.attention.position_bias"][0] ** 0.5) + 1) // 2
    for name, (first, blocks, _, usual) in SIZES.items():
        if (first, blocks) == (width, depths) and window in (usual, 7 if name == "swin_base" else usual):
            return name if window == usual else f"{name}_window{window}"
    raise UserError(
        f"The Swin of this Mask2Former has {width} channels, {depths} blocks and windows of {window}; known are "
        f"{', '.join(SIZES)} and swin_base_window7."
    )


def _preprocessing(
    rename: Callable[[str], str | None], task: str, *, stretched: bool
) -> Callable[[Shapes, Config], Preprocessing]:
    """The sizes of the authors' configurations. transformers then stretches the image to multiples of 32, the authors pad."""

    def preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
        own = _own_shapes(shapes, rename)
        shortest, longest = _sizes(own["decoder.classify.bias"][0] - 1, task, own)
        rule = ResizeRule(
            shortest=shortest,
            longest=longest,
            interpolation="antialiased",
            rounding="half_up",
            multiple=32 if stretched else 1,
        )
        return Preprocessing(resize=rule, padding="zero")

    return preprocessing


def _sizes(classes: int, task: str, own: Shapes) -> tuple[int, int]:
    if classes in (19, 8):
        return 1024, 2048
    if classes == 65:
        return 2048, 2048
    if classes in (100, 150):
        wide = own.get("encoder.levels.0.entry.convolution.weight", (0,))[0] >= 128
        return (640, 2560) if wide or task != "semantic" else (512, 2048)
    return 800, 1333


def _whole(shapes: Shapes) -> tuple[int | None, float]:
    """No tiles for any task: the size rule bounds the images, and the authors' models see them whole."""
    return None, 0.25


def _published(source: Source, rename: Callable[[str], str | None], task: str) -> Published:
    return Published(
        source,
        "mask2former",
        _recognise(rename, task),
        _spec(rename),
        rename,
        _LEFT_OUT,
        preprocessing=_preprocessing(rename, task, stretched=source == "transformers"),
        space=_SPACE,
        licence=or_of_others(LICENCE),
        notes=NOTES,
        arrange=_arrange,
        task=task,
        guessed=True,
        told=_told,
        tiling=_whole,
    )


SOURCES: tuple[Published, ...] = (
    *(_published("transformers", _transformers_name, task) for task in _TASKS),
    *(_published("detectron2", _authors_name, task) for task in _TASKS),
)
