"""The configuration that mmsegmentation keeps, as Python text, in the `meta` of its files: parsed, never executed."""

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule

LONGEST_TEXT = 1 << 18
"""Characters; mmsegmentation's own texts have a twentieth of that, and Python's parser is not made for hostile ones."""

WHOLE = (None, 0.25)
"""The tiling of models that see an image whole."""

LARGEST_SIDE = 1 << 16
"""Pixels: no side or step of more is believed."""

USUAL_THRESHOLD = 0.3
"""mmsegmentation's own for models of one output (decode_heads/decode_head.py), of versions 0.29 and later."""

_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

_BACKBONE = ("type", "strides", "dilations", "multi_grid", "style", "contract_dilation")

# Strides of a ResNet's stages -> (output stride, dilations with which our backbones keep it).
_RESNETS: dict[tuple[int, ...], tuple[int, tuple[int, ...]]] = {
    (1, 2, 1, 1): (8, (1, 1, 2, 4)),
    (1, 2, 2, 1): (16, (1, 1, 1, 2)),
    (1, 2, 2, 2): (32, (1, 1, 1, 1)),
}


@dataclass(frozen=True)
class MmsegConfig:
    """What is used of a configuration; None or empty where it does not say.

    Attributes:
        backbone: those arguments of the backbone that decide what its arrays compute.
        rates: dilations of the head's 3x3 convolutions (DeepLab).
        bins: parts into which the head's pyramid divides each side of a map (PSPNet).
        align_corners: how the head enlarges maps.
        crop: (height, width) of the tiles in which images are tested; None for whole images.
        step: (down, right), by which tiles are moved.
        mean: one per channel, in units of the image's values.
        deviation: likewise, all above 0.
        rgb: whether the model takes RGB; otherwise BGR, in which mmsegmentation reads images.
        sized: whether the test pipeline is there, so that `resize` counts.
        resize: the size at which images are tested; None for their own.
        threshold: of the probability, above which a model of one output answers its class.
    """

    backbone: Mapping[str, Any] | None = None
    rates: tuple[int, ...] = ()
    bins: tuple[int, ...] = ()
    align_corners: bool | None = None
    crop: tuple[int, int] | None = None
    step: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    rgb: bool = True
    sized: bool = False
    resize: ResizeRule | None = None
    threshold: float | None = None

    @property
    def cut(self) -> tuple[float, str]:
        """(the threshold of a model of one output, a sentence that says where it comes from)."""
        said = self.threshold
        if said is None:
            return (
                USUAL_THRESHOLD,
                f"Its class is answered from a probability of {USUAL_THRESHOLD} on, as mmsegmentation does.",
            )
        if 0 < said < 1:
            return (
                said,
                f"Its class is answered from a probability of {said:g} on, as the configuration in the file says.",
            )
        return USUAL_THRESHOLD, (
            f"The configuration in the file says threshold={said:g}, expected is a number between 0 and 1; "
            f"{USUAL_THRESHOLD} is taken, mmsegmentation's own. Another one can be set in the bundle (settings.thresholds)."
        )

    @property
    def output_stride(self) -> int | None:
        """Of the backbone, a ResNet; None where the configuration does not say.

        Raises:
            UserError: a backbone that none of ours computes like, although its arrays would fit.
        """
        found = self.backbone
        if found is None or not _type(found).startswith("ResNe"):
            return None
        strides = _whole_numbers(found.get("strides", (1, 2, 2, 2)))
        dilations = _whole_numbers(found.get("dilations", (1, 1, 1, 1)))
        stride, expected = _RESNETS.get(strides, (0, ()))
        odd = [f"multi_grid={grid}"] if (grid := _whole_numbers(found.get("multi_grid"))) else []
        if found.get("style", "pytorch") != "pytorch":
            odd.append("style='caffe'")
        if stride and dilations == expected and stride < 32 and found.get("contract_dilation") is not True:
            odd.append("contract_dilation=False")
        if dilations != expected or odd:
            said = ", ".join([f"strides={strides}", f"dilations={dilations}", *odd])
            raise UserError(
                f"The configuration in the file builds a backbone with {said}, as none of ours computes; with other ones its "
                "answers would be wrong."
            )
        return stride

    @property
    def tiling(self) -> tuple[int | None, float]:
        """(side of the tiles in pixels, the share of a side that they overlap); whole images where it says nothing else."""
        if self.crop is None or self.step is None:
            return WHOLE
        shares = (1 - step / side for step, side in zip(self.step, self.crop, strict=True))
        return max(self.crop), round(min(max(*shares, 0.0), 0.5), 4)

    def prepare(self, base: Preprocessing) -> Preprocessing:
        """`base`, with what the configuration says in its place."""
        if self.sized:
            base = replace(base, resize=self.resize)
        if not self.mean:
            return base
        channels, maximum = len(self.mean), base.maximum
        return replace(
            base,
            channels=channels,
            mean=tuple(round(value / maximum, 8) for value in self.mean),
            deviation=tuple(round(value / maximum, 8) for value in self.deviation),
            order="rgb" if self.rgb or channels != 3 else "bgr",
        )

    def limits(self, *, aligns: bool | None) -> tuple[str, ...]:
        """A sentence for everything that the configuration says and that is done otherwise here.

        Args:
            aligns: whether the model does what `align_corners` says; None where it makes no difference.
        """
        notes: list[str] = []
        if aligns is False and self.align_corners:
            notes.append(
                "The configuration in the file says align_corners=True, which the model here does not do with these arrays; its "
                "outlines may lie a few pixels off."
            )
        if self.crop and self.step:
            side, overlap = self.tiling
            moved = round((side or 0) * (1 - overlap))
            if self.crop != (side, side) or max(abs(moved - step) for step in self.step) > 1:
                notes.append(
                    f"The configuration in the file tests in tiles of {_size(self.crop)} pixels, moved by {_size(self.step)}; "
                    f"here they are squares of {side} that overlap by {overlap:.0%} at least."
                )
        return tuple(notes)


def parse_config(text: str) -> dict[str, Any]:
    """The assignments of literals in Python `text`: numbers, texts, lists, tuples, dicts, `dict(...)` with keywords, and names
    that were assigned before. Everything else is left out, and nothing is executed; a text that is no Python gives {}."""
    if len(text) > LONGEST_TEXT:
        return {}
    found: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in its texts
            tree = ast.parse(text)
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                try:
                    found[statement.targets[0].id] = _literal(statement.value, found)
                except _NotLiteralError:
                    found.pop(statement.targets[0].id, None)
    except _UNREADABLE:
        return {}
    return found


def read_mmseg_config(text: str) -> MmsegConfig | None:
    """What `text` says of a segmentation model; None where it is no configuration of one."""
    config = parse_config(text)
    model = _mapping(config.get("model"))
    heads = model.get("decode_head")
    head = _mapping(heads[-1] if isinstance(heads, list | tuple) and heads else heads)
    if not head:
        return None
    rates, align = _whole_numbers(head.get("dilations")), head.get("align_corners")
    bins = _whole_numbers(head.get("pool_scales"))
    backbone, pipeline = _mapping(model.get("backbone")), _test_pipeline(config)
    mean, deviation, rgb = _normalisation(config, model, pipeline or ())
    crop, step = _slide(_mapping(model.get("test_cfg")) or _mapping(config.get("test_cfg")))
    return MmsegConfig(
        {key: item for key, item in backbone.items() if key in _BACKBONE} or None,
        rates[1:] if rates[:1] == (1,) else (),
        bins if min(bins, default=0) > 0 else (),
        align if isinstance(align, bool) else None,
        crop,
        step,
        mean,
        deviation,
        rgb,
        pipeline is not None,
        None if pipeline is None else _resize(pipeline),
        float(head["threshold"]) if _is_number(head.get("threshold")) else None,
    )


class _NotLiteralError(Exception):
    """A part of the text that only execution could tell."""


def _literal(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of `node`; entries of a mapping that are no literals are left out, those of a list spoil it."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, known)
        if _is_number(value):
            return -value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        items = [_literal(item, known) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict):
        return _entries([(_key(key), value) for key, value in zip(node.keys, node.values, strict=True)], known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return _entries([(item.arg, item.value) for item in node.keywords], known)
    raise _NotLiteralError


def _entries(pairs: list[tuple[str | None, ast.expr]], known: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key is None:
            continue
        try:
            found[key] = _literal(value, known)
        except _NotLiteralError:
            continue
    return found


def _key(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _test_pipeline(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    """The steps that images of the test go through, those of its nested steps after them; None where it has none."""
    test = _mapping(config.get("test_dataloader")).get("dataset") or _mapping(config.get("data")).get("test")
    steps = _mapping(test).get("pipeline") or config.get("test_pipeline")
    if not isinstance(steps, list | tuple) or not steps:
        return None
    found: list[Mapping[str, Any]] = []
    for step in map(_mapping, steps):
        found.append(step)
        inner = step.get("transforms")
        if isinstance(inner, list | tuple):
            found.extend(map(_mapping, inner))
        elif _type(step) == "MultiScaleFlipAug":
            return None  # its steps, the resize among them, are no literals
    return tuple(found)


def _resize(pipeline: tuple[Mapping[str, Any], ...]) -> ResizeRule | None:
    """The size of the one scale that is tested, (width, height) there or in `MultiScaleFlipAug`."""
    several = _step(pipeline, "MultiScaleFlipAug")
    step = _step(pipeline, "Resize") or _step(pipeline, "AlignedResize")
    if step is None:
        return None
    scale = step.get("scale") or step.get("img_scale") or _mapping(several).get("img_scale")
    if isinstance(scale, list) and len(scale) == 1:
        scale = scale[0]
    sides = _whole_numbers(scale)
    if len(sides) != 2 or min(sides) < 1:
        return None
    # mmcv 2 stretches unless told otherwise, mmsegmentation 0 does not.
    if not step.get("keep_ratio", several is not None):
        return ResizeRule(exact=(sides[1], sides[0]))
    multiple = _mapping(_step(pipeline, "ResizeToMultiple") or step).get("size_divisor", 1)
    return ResizeRule(
        shortest=min(sides),
        longest=max(sides),
        rounding="half_up",
        multiple=multiple if type(multiple) is int and 0 < multiple <= 1024 else 1,
    )


def _normalisation(
    config: Mapping[str, Any], model: Mapping[str, Any], pipeline: tuple[Mapping[str, Any], ...]
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """(mean, deviation, whether RGB is normalised); both empty where it does not say."""
    newer = _mapping(model.get("data_preprocessor")) or _mapping(config.get("data_preprocessor"))
    swapped = newer.get("bgr_to_rgb", False) or newer.get("rgb_to_bgr", False)
    older = _step(pipeline, "Normalize") or _mapping(config.get("img_norm_cfg"))
    for said, rgb in ((newer, swapped), (older, older.get("to_rgb", True))):
        mean, deviation = _numbers(said.get("mean")), _numbers(said.get("std"))
        if mean and len(mean) == len(deviation) and min(deviation) > 0:
            return mean, deviation, bool(rgb)
    return (), (), True


def _slide(test: Mapping[str, Any]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(height, width) of the tiles and of the steps between them; two times None where images are tested whole."""
    crop, step = _pair(test.get("crop_size")), _pair(test.get("stride"))
    # `PredictSettings` has no tiles below 32 pixels; steps beyond a tile would leave gaps.
    if test.get("mode") != "slide" or crop is None or step is None or max(crop) < 32:
        return None, None
    return (crop, step) if step[0] <= crop[0] and step[1] <= crop[1] else (None, None)


def _step(pipeline: tuple[Mapping[str, Any], ...], kind: str) -> Mapping[str, Any] | None:
    return next((step for step in pipeline if _type(step) == kind), None)


def _type(part: Mapping[str, Any]) -> str:
    """Its class, which newer configurations name with its modules."""
    name = part.get("type")
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _pair(value: Any) -> tuple[int, int] | None:
    sides = _whole_numbers((value, value) if type(value) is int else value)
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None


def _whole_numbers(value: Any) -> tuple[int, ...]:
    fits = isinstance(value, list | tuple) and all(type(item) is int and 0 <= item <= LARGEST_SIDE for item in value)
    return tuple(value) if fits else ()


def _numbers(value: Any) -> tuple[float, ...]:
    fits = isinstance(value, list | tuple) and all(_is_number(item) for item in value)
    return tuple(map(float, value)) if fits else ()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _size(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"
