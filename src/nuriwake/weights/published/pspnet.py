"""Published PSPNets: semseg (the authors' later code), mmsegmentation, segmentation_models_pytorch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.published import smp
from nuriwake.weights.published.base import (
    ZERO_PADDED,
    Config,
    Published,
    Shapes,
    mmseg_config,
    mmseg_notes,
    mmseg_preprocessing,
)
from nuriwake.weights.published.keys import (
    MMSEG_LICENCE,
    Rules,
    left_out_by,
    mmseg_backbone,
    mmseg_in_channels,
    or_of_others,
    require_resnet,
    rewrite,
)

_SEMSEG: Rules = (
    (r"ppm\.features\.(\d+)\.1\.(\w+)", r"pyramid.branches.\1.0.\2"),
    (r"ppm\.features\.(\d+)\.2\.(\w+)", r"pyramid.branches.\1.1.\2"),
    (r"cls\.([01])\.(\w+)", r"bottleneck.\1.\2"),
    (r"cls\.4\.(\w+)", r"classify.\1"),
    (r"aux\.([01])\.(\w+)", r"auxiliary.unit.\1.\2"),
    (r"aux\.4\.(\w+)", r"auxiliary.classify.\1"),
    (r"layer0\.(.+)", r"encoder.stem.\1"),
    (r"(layer[1-4]\..+)", r"encoder.\1"),
)
_MMSEG: Rules = (
    (r"decode_head\.psp_modules\.(\d+)\.1\.conv\.(\w+)", r"pyramid.branches.\1.0.\2"),
    (r"decode_head\.psp_modules\.(\d+)\.1\.bn\.(\w+)", r"pyramid.branches.\1.1.\2"),
    (r"decode_head\.bottleneck\.conv\.(\w+)", r"bottleneck.0.\1"),
    (r"decode_head\.bottleneck\.bn\.(\w+)", r"bottleneck.1.\1"),
    (r"decode_head\.conv_seg\.(\w+)", r"classify.\1"),
    (r"auxiliary_head\.convs\.0\.conv\.(\w+)", r"auxiliary.unit.0.\1"),
    (r"auxiliary_head\.convs\.0\.bn\.(\w+)", r"auxiliary.unit.1.\1"),
    (r"auxiliary_head\.conv_seg\.(\w+)", r"auxiliary.classify.\1"),
    (r"backbone\.(.+)", r"encoder.\1"),
)
_SMP: Rules = (
    (r"decoder\.psp\.blocks\.(\d+)\.pool\.1\.([01])\.(\w+)", r"pyramid.branches.\1.\2.\3"),
    (r"decoder\.conv\.([01])\.(\w+)", r"bottleneck.\1.\2"),
    (r"segmentation_head\.0\.(\w+)", r"classify.\1"),
)

_MIT = "(?:patch_embed|block|norm)"
# Per encoder depth: the stages of a ResNet, of MobileNetV2 and of a Mix Transformer that smp keeps in its file without running them.
_SMP_UNUSED = {
    3: {
        rf"encoder\.(layer[34]|features\.([7-9]|1\d)|{_MIT}[34])\..+": "the encoder's stages behind stride 8: smp never runs them"
    },
    4: {rf"encoder\.(layer4|features\.1[4-8]|{_MIT}4)\..+": "the encoder's stage behind stride 16: smp never runs it"},
    5: {},
}


def _semseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    options = {
        "backbone": f"{require_resnet(shapes, '', source='semseg')}_semseg",
        "channels": shapes["cls.0.weight"][0],
        "auxiliary_channels": shapes.get("aux.0.weight", (0,))[0],
        "convention": "semseg",
    }
    return _spec(shapes["layer0.0.weight"][1], shapes["cls.4.weight"][0], options)


def _mmseg_spec(shapes: Shapes, config: Config) -> ModelSpec:
    said = mmseg_config(config)
    options = {
        **({"bins": said.bins} if said.bins else {}),
        "backbone": mmseg_backbone(shapes),
        "output_stride": said.output_stride or 8,
        "channels": shapes["decode_head.bottleneck.conv.weight"][0],
        "branch_channels": shapes["decode_head.psp_modules.0.1.conv.weight"][0],
        "auxiliary_channels": shapes.get("auxiliary_head.convs.0.conv.weight", (0,))[0],
    }
    return _spec(mmseg_in_channels(shapes), shapes["decode_head.conv_seg.weight"][0], options)


def _smp_spec(depth: int) -> Callable[[Shapes, Config], ModelSpec]:
    def spec(shapes: Shapes, config: Config) -> ModelSpec:
        smp.check(config, {}, what="smp PSPNet")
        stride = 1 << int(config.get("encoder_depth", depth))
        if config.get("upsampling", stride) != stride:
            raise UserError(
                f"This smp PSPNet answers at {config['upsampling']}/{stride} of the image's size ('upsampling' in its "
                f"config.json); only files with upsampling {stride} can be read."
            )
        options = {
            "backbone": smp.backbone(shapes, config, depth=depth),
            "output_stride": stride,
            "dilate": False,
            "channels": shapes["decoder.conv.0.weight"][0],
            "auxiliary_channels": 0,
            "dropout": float(config.get("psp_dropout", 0.2)),
            "convention": "smp",
        }
        return _spec(smp.in_channels(shapes, config), shapes["segmentation_head.0.weight"][0], options)

    return spec


def _smp_depth(shapes: Shapes) -> int:
    """How many of the encoder's stages feed the pyramid (smp's `encoder_depth`), told from the width they give; 3, smp's
    default, for timm's encoders, whose files hold the stages used and no others."""
    width = shapes["decoder.psp.blocks.0.pool.1.0.weight"][1]
    widths = {3: 32, 4: 96, 5: 1280}  # MobileNetV2
    norm = "bn3" if "encoder.layer1.0.bn3.weight" in shapes else "bn2"
    widths |= {
        depth: shapes[key][0] for depth in widths if (key := f"encoder.layer{depth - 1}.0.{norm}.weight") in shapes
    }
    levels = {depth: f"encoder.patch_embed{depth - 1}.proj.weight" for depth in widths}
    widths |= {depth: shapes[key][0] for depth, key in levels.items() if key in shapes}
    return next((depth for depth, each in widths.items() if each == width), 3)


def _spec(in_channels: int, classes: int, options: Mapping[str, object]) -> ModelSpec:
    options = dict(options)
    return ModelSpec(f"pspnet_{options.pop('backbone')}", in_channels, classes, options)


def _map_first(key: str, array: Any) -> Any:
    """smp's bottleneck takes the four branches, each a quarter as wide as the map, before the map itself, ours behind it."""
    if key != "bottleneck.0.weight" or array.ndim != 4:
        return array
    branches = array.shape[1] // 8 * 4
    return array.roll(-branches, 1)


def _smp(depth: int) -> Published:
    unused = _SMP_UNUSED[depth] | smp.OUT

    def recognise(shapes: Shapes) -> bool:
        return {"decoder.psp.blocks.0.pool.1.0.weight", "decoder.conv.0.weight"} <= shapes.keys() and (
            _smp_depth(shapes) == depth
        )

    def rename(key: str) -> str | None:
        return None if left_out_by(unused, key) else smp.rename(key, _SMP)

    return Published(
        "smp",
        "pspnet",
        recognise,
        _smp_spec(depth),
        rename,
        unused,
        smp.preprocessing,
        notes=smp.notes(),
        transform=_map_first,
    )


def _semseg_preprocessing(shapes: Shapes, config: Config) -> Preprocessing:
    """semseg's tool/test.py scales the longer side to `base_size`: 512 (ADE20K, VOC) or 2048 (Cityscapes)."""
    longest = {150: 512, 21: 512, 19: 2048}.get(shapes["cls.4.weight"][0])
    return replace(ZERO_PADDED, resize=None if longest is None else ResizeRule(longest=longest))


def _semseg_tiling(shapes: Shapes) -> tuple[int | None, float]:
    """Its crops, moved by two thirds of their side."""
    return 713 if shapes["cls.4.weight"][0] == 19 else 473, 1 / 3


SOURCES: tuple[Published, ...] = (
    Published(
        "semseg",
        "pspnet",
        lambda shapes: {"ppm.features.0.1.weight", "cls.4.weight", "layer0.0.weight"} <= shapes.keys(),
        _semseg_spec,
        lambda key: rewrite(key, _SEMSEG),
        preprocessing=_semseg_preprocessing,
        tiling=_semseg_tiling,
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=or_of_others("MIT (hszhao/semseg); the data sets it was trained on have terms of their own"),
        notes=(
            "semseg scores crops with sides of 8k + 1 pixels, 473 (ADE20K, VOC) or 713 (Cityscapes), which are the tiles here.",
        ),
    ),
    Published(
        "mmseg",
        "pspnet",
        lambda shapes: (
            {"decode_head.psp_modules.0.1.conv.weight", "decode_head.bottleneck.conv.weight"} <= shapes.keys()
            and "decode_head.lateral_convs.0.conv.weight" not in shapes
        ),
        _mmseg_spec,
        lambda key: rewrite(key, _MMSEG),
        preprocessing=mmseg_preprocessing("decode_head.conv_seg.weight"),
        space={19: "cityscapes", 21: "voc", 150: "ade20k"},
        licence=MMSEG_LICENCE,
        notes=mmseg_notes(
            stride="The file does not say its output stride; 8 is taken (mmsegmentation's D8), which is wrong for its D32 files: "
            "read these with --options '{\"output_stride\": 32}'."
        ),
    ),
    *(_smp(depth) for depth in _SMP_UNUSED),
)
"""Auxiliary heads are used too: they serve further training. UPerNet has a pyramid of the same names, and lateral
convolutions besides: it is not recognised."""
