"""What files of segmentation_models_pytorch (smp) have in common: the encoder, how images are prepared, and which fields of
the `config.json` beside them our models can follow."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models.backbones import BACKBONES
from nuriwake.models.segformer import SIZES
from nuriwake.models.segformer_names import encoder_name
from nuriwake.weights.published.base import IMAGENET, Config, Notes, Shapes
from nuriwake.weights.published.keys import Rules, resnet_name, rewrite

OUT = {r"classification_head\..+": "classification head: it says which classes an image shows, not where"}
"""What smp's `aux_params` adds to a file."""

_ENCODER: Rules = ((r"encoder\.model\.(.+)", r"encoder.body.\1"), (r"(encoder\..+)", r"\1"))
"""timm's encoders lie in `body`, the others have torchvision's names, as ours."""

_FIRST = ("encoder.conv1.weight", "encoder.features.0.0.weight", "encoder.patch_embed1.proj.weight")
_READABLE = (
    "a ResNet, a ResNeXt, MobileNetV2, a Mix Transformer (mit_b...) or a timm encoder (tu-..., with its config.json)"
)

_OTHERS = ("se_", "senet", "timm-", "dpn", "vgg", "densenet", "inception", "efficientnet", "xception", "mobileone")
"""Beginnings of the names of smp's other encoders, some of whose arrays are called as those of a ResNet or MobileNetV2."""

# smp builds these from timm's models of another name (encoders/__init__.py).
_RENAMED = {
    "timm-mobilenetv3": "tf_mobilenetv3",
    "timm-regnet": "regnet",
    "timm-res2": "res2",
    "timm-resnest": "resnest",
}

_FIELDS = ("encoder_", "decoder_", "psp_", "_")
_FIELDS_TOO = (
    "in_channels",
    "classes",
    "activation",
    "upsampling",
    "aux_params",
    "id2label",
    "label2id",
    "output_stride",
)
# timm's own arguments that only training, or nothing, follows; `img_size` gets a note.
_HARMLESS = ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pretrained", "img_size")


class Assumed(NamedTuple):
    """A field of `config.json` that the arrays do not show.

    Attributes:
        default: smp's.
        option: of our model that follows it; empty where none does, and files with another value are refused.
        example: another value of the option.
    """

    default: Any
    option: str = ""
    example: Any = None


def rename(key: str, rules: Rules) -> str:
    """The published `key` by the first of `rules` that fits; an encoder's by its own."""
    own = encoder_name("original", key) if key.startswith("encoder.") else None
    return f"encoder.{own}" if own else rewrite(key, (*rules, *_ENCODER))


def in_channels(shapes: Shapes, config: Config) -> int:
    """How many channels the images of the file's encoder have."""
    first = next((key for key in _FIRST if key in shapes), None)
    return int(config.get("in_channels", 3)) if first is None else shapes[first][1]


def is_timm(shapes: Shapes) -> bool:
    """Whether the encoder is timm's, of smp's prefix `tu-`."""
    return any(key.startswith("encoder.model.") for key in shapes)


def is_mix_transformer(shapes: Shapes) -> bool:
    """Whether the encoder is SegFormer's."""
    return any(re.match(r"encoder\.(patch_embed|block)[1-4]\.", key) for key in shapes)


def backbone(shapes: Shapes, config: Config, *, depth: int = 5) -> str:
    """The backbone: from the arrays, or from `config.json` where they are timm's.

    Args:
        depth: how many of its stages are used; the name is for a model that does not dilate them.

    Raises:
        UserError: an encoder that we do not have, or one that was built with options which ours has not.
    """
    _check_encoder(config)
    given = str(config.get("encoder_name", ""))
    timm = _timm_name(given) if is_timm(shapes) or given.startswith("tu-") else None
    # Where arrays of a known encoder are missing its name in config.json will do, so that strict fitting names them.
    name = timm or _own_name(shapes, depth) or (given if given in BACKBONES and not is_timm(shapes) else None)
    if name is not None and (timm or not given.startswith(_OTHERS)):
        return name
    found = f"'{given}'" if given else "none of these, or one of timm's, and there is no config.json to name it"
    raise UserError(
        f"The encoder of this segmentation_models_pytorch file is {found}; files with {_READABLE} can be read."
    )


def _own_name(shapes: Shapes, depth: int) -> str | None:
    if any(key.startswith("encoder.features.18.") for key in shapes):
        return "mobilenet_v2_1280" if depth == 5 else "mobilenet_v2"
    if is_mix_transformer(shapes):
        return _mix_transformer(shapes)
    return resnet_name(shapes, "encoder.")


def _mix_transformer(shapes: Shapes) -> str | None:
    """The most alike of `SIZES`, so that a file that lacks an array is told by the others."""
    levels = range(1, 5)
    widths = tuple(shapes.get(f"encoder.patch_embed{level}.proj.weight", (0,))[0] for level in levels)
    blocks = [(re.match(rf"encoder\.block{level}\.(\d+)\.", key) for key in shapes) for level in levels]
    depths = tuple(len({found[1] for found in level if found}) for level in blocks)

    def alike(name: str) -> int:
        return sum(a == b for a, b in zip((*SIZES[name][0], *SIZES[name][1]), (*widths, *depths), strict=True))

    name = max(SIZES, key=alike)
    return name if alike(name) >= len(levels) + 2 else None


def _timm_name(given: str) -> str | None:
    """The name of timm's model. With a tag where it is ours without: `BACKBONES` have torchvision's names for its arrays."""
    import timm

    name = next((new + given[len(old) :] for old, new in _RENAMED.items() if given.startswith(old)), None)
    if name is None and not given.startswith("tu-"):
        return None
    name = name or given.removeprefix("tu-")
    settings = timm.get_pretrained_cfg(name) if name in BACKBONES else None
    return name if settings is None else f"{name}.{settings.tag}"


def check(config: Config, accepted: Mapping[str, Any], *, what: str) -> None:
    """Raises a UserError that names the first field of `config.json` that is not as `accepted`, or a norm that is not ours.

    Args:
        accepted: {field: the only value}.
        what: "smp U-Net".
    """
    for field, value in accepted.items():
        if config.get(field, value) != value:
            raise UserError(
                f"This {what} was built with {field}={config[field]!r} (its config.json); only {value!r} can be read."
            )
    for field in ("decoder_use_norm", "decoder_use_batchnorm", "psp_use_norm", "psp_use_batchnorm"):
        if not _is_batch_norm(config.get(field, True)):
            raise UserError(
                f"This {what} was built with {field}={config[field]!r} (its config.json); only 'batchnorm' with PyTorch's "
                "defaults can be read."
            )


def _is_batch_norm(value: Any) -> bool:
    """Whether smp's `get_norm_layer` builds the batch norm that our models have. Momentum is for training."""
    given = value if isinstance(value, Mapping) else {"type": "batchnorm" if value is True else value}
    usual = {"type": "batchnorm", "eps": 1e-5, "affine": True, "track_running_stats": True}
    kind = str(given.get("type")).lower()
    return all(({**given, "type": kind}).get(field, value) == value for field, value in usual.items())


def _check_encoder(config: Config) -> None:
    """Refuses arguments of the encoder; smp hands those that it does not know itself to timm, and drops them otherwise."""
    stride, timm = config.get("output_stride"), str(config.get("encoder_name", "")).startswith("tu-")
    if stride not in (None, 32):
        raise UserError(
            f"The encoder of this segmentation_models_pytorch file was built with output_stride={stride!r} (its config.json); "
            "only 32 can be read here, or 'encoder_output_stride' of DeepLabV3 and DeepLabV3Plus."
        )
    for field, value in config.items() if timm else ():
        own = field.startswith(_FIELDS) or field in (*_FIELDS_TOO, *_HARMLESS)
        if not own and value is not None and field != "mmseg":
            raise UserError(
                f"The encoder of this segmentation_models_pytorch file was built with {field}={value!r} (its config.json), "
                "which is handed to timm and may change the network; only timm's defaults can be read."
            )


def preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
    """As smp's `get_preprocessing_params` has it for the encoder in `config.json`: timm's encoders (tu-...) by timm's
    configuration of their weights, those with torchvision's names by ImageNet's mean and deviation."""
    known = _timm_normalisation(config)
    return IMAGENET if known is None else replace(IMAGENET, mean=known[0], deviation=known[1])


def notes(**assumed: Assumed) -> Notes:
    """The notes of an architecture of smp's: how images are prepared, and what is `assumed` where no `config.json` of smp
    lies beside the arrays and the user does not say it."""

    def noted(config: Config, options: Mapping[str, Any]) -> tuple[str, ...]:
        found = [] if _timm_normalisation(config) is not None else [_UNPREPARED]
        if config.get("img_size") is not None:
            found.append(
                f"config.json has img_size={config['img_size']}; the encoder here takes images of any size, and some of timm's "
                "transformers then cut other windows: compare on an image of yours."
            )
        if "encoder_name" in config:
            return tuple(found)
        return (*found, *(_assuming(*item) for item in assumed.items() if item[1].option not in options))

    return noted


def _assuming(field: str, assumed: Assumed) -> str:
    taken = f"The file does not say {field}; {_plain(assumed.default)}, smp's default, is taken, which is wrong for a model built"
    if not assumed.option:
        return f"{taken} with another: that one cannot be read."
    example = _plain({assumed.option: assumed.example})
    return f"{taken} with another: read it with --options '{example}' or what it was."


def _plain(value: Any) -> str:
    return json.dumps(value)


_UNPREPARED = (
    "The file does not say how images were prepared; of three channels, ImageNet's mean and deviation are taken."
)


def _timm_normalisation(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, deviation) of RGB scaled to 0..1, as timm registers them for the encoder's weights; None where it has none."""
    import timm

    name = str(config.get("encoder_name", ""))
    if not name.startswith("tu-"):
        return None
    try:
        found = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    except RuntimeError:  # the architecture has no weights of this tag
        return None
    if found is None or len(found.mean) != 3 or len(found.std) != 3:
        return None
    return tuple(map(float, found.mean)), tuple(map(float, found.std))
