"""Decoding: from what a model returned to a target, by the task and the type of the output.

`DECODERS` is the table; a new kind of output (queries, regions, prototypes, kernels) is one file and one row per task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, cast, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import import_object
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.core.targets import SemanticMap, Size, Target
from nuriwake.inference.augmentation import Flip, flip_tensor
from nuriwake.inference.joining.maps import without_small_stuff
from nuriwake.inference.postprocess import postprocess
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.strips import resized_strips
from nuriwake.inference.tiling import Grid, blend
from nuriwake.models.base import Model, built_class
from nuriwake.models.outputs import (
    KernelOutput,
    PixelLogits,
    PrototypeOutput,
    QueryOutput,
    RegionOutput,
    RegionPixelOutput,
    fit_logits,
)

Watch = Callable[[int, Tensor], None]
"""Called with (first row, probabilities float32 (C, rows, W)) for every strip at full size, before it is decoded."""


@dataclass(frozen=True)
class Pass:
    """One image at one scale, on its way through the model.

    Args:
        grid: the tiles of the image at this scale.
        flips: the mirrored copies of every tile.
        outputs: (output of a batch, row in that batch), lazily, for every tile and within it for every flip.
    """

    grid: Grid
    flips: tuple[Flip, ...]
    outputs: Iterator[tuple[Any, int]]


@dataclass(frozen=True)
class Request:
    """What an answer is wanted for.

    Args:
        size: (height, width) of the image the user gave.
        task: what is answered: "semantic".
        space: the classes.
        settings: thresholds and post-processing.
        watch: sees the probabilities on their way; None when nobody looks.
    """

    size: Size
    task: str
    space: LabelSpace
    settings: PredictSettings
    watch: Watch | None = field(default=None)


class Decoder(Protocol):
    """A row of `DECODERS`: a frozen dataclass whose fields are its options, all with defaults.

    Attributes:
        blends: its output can be averaged over tiles, mirrored copies and scales; False for answers that are lists, which are
            made of each tile for itself and then joined.
    """

    blends: ClassVar[bool]

    def __call__(self, passes: Sequence[Pass], request: Request) -> Target:
        """The answer for one image, in the pixels the user gave."""
        ...


def find_decoder(task: str, kind: type, options: Mapping[str, Any], score_threshold: float | None = None) -> Decoder:
    """The decoder of `task` for outputs of type `kind`, with `options` (`PredictSettings.decoding`).

    `score_threshold` is for decoders that have such an option; it goes above `options`.

    Raises:
        UserError: there is none, or it has no such option (did you mean), or the option has another type.
    """
    if (task, kind) not in DECODERS:
        known = ", ".join(sorted(f"{known.__name__} ({of})" for of, known in DECODERS))
        raise UserError(
            f"There is no decoder of the task '{task}' for a model that returns {kind.__name__}; there are some for {known}."
        )
    decoder = import_object(DECODERS[task, kind])
    if score_threshold is not None:
        if "score_threshold" not in {field.name for field in fields(decoder)}:
            raise UserError(
                f"settings.score_threshold: the task '{task}' with {kind.__name__} has no scores of objects; leave it out."
            )
        options = {**options, "score_threshold": score_threshold}
    return from_plain(decoder, options, "settings.decoding")


def decode(decoder: Decoder, passes: Sequence[Pass], request: Request) -> Target:
    """The answer of `decoder`; `passes` of one that does not blend are one tile, as it is, at one scale."""
    assert decoder.blends or [len(item.flips) * len(item.grid.tops) * len(item.grid.lefts) for item in passes] == [1]
    return decoder(passes, request)


def split_for_tiles(decoder: Decoder) -> tuple[Decoder, Callable[[Target], Target]]:
    """The decoder for the tiles of an image, and what is done with the joined answer: rules that no tile can keep alone.

    The least area of stuff is one of the whole image; of a meadow, a tile may show a corner.
    """
    options = to_plain(decoder)
    if "stuff_area" not in options:
        return decoder, lambda answer: answer
    least = options["stuff_area"]
    tiled = from_plain(type(decoder), {**options, "stuff_area": 0}, "settings.decoding")
    return tiled, lambda answer: without_small_stuff(cast(Panoptic, answer), least)


def output_type(model: Model | Callable[..., Model]) -> type:
    """The NamedTuple that `forward` says it returns: of a model, of its class, or of what a function is annotated to return.

    Raises:
        UserError: it is no `Model` nor makes one, or `forward` says nothing.
    """
    cls = built_class(type(model) if isinstance(model, nn.Module) else model)
    if cls is None:
        name = getattr(model, "__name__", type(model).__name__)
        raise UserError(
            f"'{name}' is neither a class derived from nuriwake.models.Model (a torch.nn.Module alone does not tell what sizes "
            "it takes) nor a function that is annotated to return one, such as '-> Net'."
        )
    try:
        kind: Any = get_type_hints(cls.forward).get("return")
    except NameError as error:
        raise UserError(f"{cls.__name__}.forward has an annotation that leads to nothing ({error}).") from error
    if not isinstance(kind, type):
        raise UserError(f"{cls.__name__}.forward must be annotated with the output it returns, such as PixelLogits.")
    return kind


def probabilities_of(logits: Tensor, space: LabelSpace) -> Tensor:
    """`logits` (B, C, H, W) of any float dtype -> float32 probabilities of the same shape.

    One channel, or classes that do not exclude each other: sigmoid. Exclusive classes with a channel each: softmax.

    Raises:
        UserError: the number of channels does not fit `space`.
    """
    channels = logits.shape[1]
    if channels == 1 and (space.binary or len(space) == 1):
        return logits.float().sigmoid()
    if channels != len(space):
        raise UserError(f"The model returns {channels} channels, but the label space has {len(space)} classes.")
    return logits.float().softmax(dim=1) if space.exclusive else logits.float().sigmoid()


def probability_strips(passes: Sequence[Pass], request: Request) -> Iterator[tuple[int, Tensor]]:
    """Strips (first row, float32 (C, rows, W)) at full size: the mean over tiles, flips and scales."""
    streams = [resized_strips(_bands(item, request.space), item.grid.size, request.size) for item in passes]
    for strips in zip(*streams, strict=True):
        top, mean = strips[0]
        for _, other in strips[1:]:
            mean = mean + other
        yield top, mean / len(strips) if len(strips) > 1 else mean


def _bands(item: Pass, space: LabelSpace) -> Iterator[Tensor]:
    def answers() -> Iterator[Tensor]:
        for index, (output, row) in enumerate(item.outputs):
            # Class by class in memory while it is small: softmax over interleaved classes takes 3 times as long.
            logits = output.logits[row : row + 1].float().contiguous(memory_format=torch.contiguous_format)
            logits = fit_logits(logits, item.grid.answer)
            yield flip_tensor(probabilities_of(logits, space)[0], item.flips[index % len(item.flips)])

    return blend(answers(), item.grid, repeats=len(item.flips))


@dataclass(frozen=True)
class PixelDecoder:
    """`PixelLogits` -> SemanticMap at the size of the user's image, strip by strip, then post-processed.

    It has no options of its own: thresholds and rules stand in the settings.
    """

    blends: ClassVar[bool] = True

    def __call__(self, passes: Sequence[Pass], request: Request) -> SemanticMap:
        """See `Decoder`."""
        space = request.space
        shape = request.size if space.exclusive else (*request.size, len(space))
        labels, scores = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        for top, strip in probability_strips(passes, request):
            if request.watch is not None:
                request.watch(top, strip)
            rows = slice(top, top + strip.shape[1])
            labels[rows], scores[rows] = decode_pixels(strip, space, request.settings.thresholds)
        labels = postprocess(labels, space, request.settings.postprocessing)
        return SemanticMap(labels, space, scores=scores)


def decode_pixels(
    probabilities: Tensor, space: LabelSpace, thresholds: tuple[float, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, float32 (C, H, W), -> labels uint8 and scores float32, (H, W), or (H, W, classes) multi-label.

    - Binary: class 1 where its probability is at least the one threshold (0.5 without).
    - Multi-label: every class where its probability is at least its threshold (0.5 without).
    - Several exclusive classes: the largest probability; with thresholds, the largest probability / threshold. That is
      Bayes' rule when missing class k costs 1 / threshold k; for two classes with thresholds 1 - t and t it is the
      binary rule, and equal thresholds change nothing.

    The scores are the probability of the chosen class (exclusive), or of each class (multi-label).
    """
    if not space.exclusive:
        cut = probabilities.new_tensor(thresholds or (0.5,) * len(space))[:, None, None]
        labels, scores = (probabilities >= cut).permute(1, 2, 0), probabilities.permute(1, 2, 0)
    elif space.binary:
        foreground = probabilities[-1]
        labels = foreground >= (thresholds[0] if thresholds else 0.5)
        scores = torch.where(labels, foreground, 1 - foreground)
    elif len(space) == 1:
        labels, scores = torch.zeros_like(probabilities[0]), torch.ones_like(probabilities[0])
    elif thresholds:
        cut = probabilities.new_tensor(thresholds)[:, None, None]
        labels = (probabilities / cut).argmax(dim=0)
        scores = probabilities.gather(0, labels[None])[0]
    else:
        scores, labels = probabilities.max(dim=0)
    return labels.to(torch.uint8).cpu().numpy(), scores.float().cpu().numpy()


DECODERS: dict[tuple[str, type], str] = {
    ("semantic", PixelLogits): "nuriwake.inference.decoding:PixelDecoder",
    ("instance", PrototypeOutput): "nuriwake.inference.decoders.prototypes:PrototypeDecoder",
    ("instance", KernelOutput): "nuriwake.inference.decoders.kernels:KernelDecoder",
    ("instance", RegionOutput): "nuriwake.inference.decoders.regions:RegionDecoder",
    ("semantic", RegionPixelOutput): "nuriwake.inference.decoders.panoptic_fpn:SemanticRegionDecoder",
    ("instance", RegionPixelOutput): "nuriwake.inference.decoders.panoptic_fpn:InstanceRegionDecoder",
    ("panoptic", RegionPixelOutput): "nuriwake.inference.decoders.panoptic_fpn:PanopticRegionDecoder",
    ("semantic", QueryOutput): "nuriwake.inference.decoders.queries:SemanticQueryDecoder",
    ("instance", QueryOutput): "nuriwake.inference.decoders.queries:InstanceQueryDecoder",
    ("panoptic", QueryOutput): "nuriwake.inference.decoders.queries:PanopticQueryDecoder",
}
"""(task, type of the output) -> "module:Class" of a `Decoder`."""
