"""What is known of one source of published checkpoints for one architecture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.models.base import Model
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.mmseg_config import MmsegConfig

Source = Literal[
    "torchvision",
    "transformers",
    "smp",
    "mmseg",
    "hrnet",
    "semseg",
    "detectron2",
    "mmdet",
    "yolact",
    "eomt",
    "textbook",
]

ClassList = Literal["coco", "voc", "ade20k", "cityscapes"]
"""Well-known lists of class names."""

Shapes = Mapping[str, tuple[int, ...]]
"""The arrays of a checkpoint: {published key: shape}, wrappers and prefixes such as `module.` already taken off."""

Config = Mapping[str, Any]
"""The `config.json` beside a checkpoint, empty when there is none, and as "mmseg" the `MmsegConfig` in its file."""

Notes = Callable[[Config, Mapping[str, Any]], tuple[str, ...]]
"""Configuration and options of the model that the user gave -> what a user should know."""

UNTESTED: tuple[Source, ...] = ("smp", "textbook")
"""Sources that have no program that tests a model, and so say nothing of the size at which one sees images."""

IMAGENET = Preprocessing()
"""8-bit RGB with ImageNet's mean and deviation: what most sources publish."""

ZERO_PADDED = Preprocessing(padding="zero")
"""The same, with zeros behind the normalisation where images were too small: mmsegmentation (`SegDataPreProcessor`, and `Pad`
after `Normalize` before it), and semseg, which pads with the mean."""

BLACK_PADDED = Preprocessing(padding="black")
"""The same, padded before the normalisation: torchvision (references/segmentation/transforms.py) and HRNet's authors
(lib/datasets/base_dataset.py)."""


def mmseg_config(config: Config) -> MmsegConfig:
    """What mmsegmentation's configuration in the file says; nothing where there is none."""
    return config.get("mmseg") or MmsegConfig()


def mmseg_preprocessing(head: str) -> Callable[[Shapes, Config], Preprocessing]:
    """What the configuration in the file says; where it does not, what mmsegmentation's test pipelines (configs/_base_/datasets)
    do to the images of the data set with as many classes as the array `head` has rows; images of other models keep their size."""
    return lambda shapes, config: mmseg_config(config).prepare(replace(ZERO_PADDED, resize=mmseg_size(shapes[head][0])))


def mmseg_notes(*always: str, stride: str = "", aligns: bool | None = False) -> Notes:
    """The notes of a source of mmsegmentation's: `always`, and what the configuration in the file says and is not done here.

    Args:
        stride: the note where neither the file nor the user says the output stride.
        aligns: as `MmsegConfig.limits` has it, unless the user gives the option `align_corners`.
    """

    def notes(config: Config, options: Mapping[str, Any]) -> tuple[str, ...]:
        found = mmseg_config(config)
        assumed = bool(stride) and "output_stride" not in options and found.output_stride is None
        limits = found.limits(aligns=None if "align_corners" in options else aligns)
        return (*always, *((stride,) if assumed else ()), *limits)

    return notes


def mmseg_size(classes: int, side: int = 512) -> ResizeRule | None:
    """ADE20K and VOC: the shorter side becomes `side`, the longer at most four times that; Cityscapes: 1024 and 2048."""
    if classes not in (150, 21, 19):
        return None
    shortest, longest = (1024, 2048) if classes == 19 else (side, 4 * side)
    return ResizeRule(shortest=shortest, longest=longest, rounding="half_up")


@dataclass(frozen=True)
class Published:
    """One source's checkpoints of one architecture, for every depth, width and number of classes of the family.

    Attributes:
        source: whose file format and key names.
        architecture: a key of `MODELS`, or a family's name.
        recognise: whether arrays of these names and shapes are such a checkpoint; true for one `Published` at most.
        spec: how to build our model for them. Raises UserError where the file does not say enough.
        rename: published key -> key in our state dict, None when it is left out. Keys it does not know come back under
            any name that our model lacks, so that strict loading reports them.
        left_out: {regular expression that a left-out key matches in full: why}; covers every None of `rename`.
        preprocessing: what the published weights expect of an image, or a function of shapes and config.
        space: {number of classes: the list the source's weights of that many classes were trained on}.
        licence: of the source's published weights; empty when it has none.
        notes: what a user should know, or a function that tells it.
        transform: (our key, published array as a tensor) -> array as we keep it, where a source stores it otherwise.
        arrange: {published key: tensor} -> the same with arrays split or joined, where a source cuts them otherwise, under
            keys that `rename` knows. Comes before `rename` and `transform`; keys that are not cut stay as they are.
        task: what the weights were trained for, and what the bundle answers: "semantic", "instance" or "panoptic".
        guessed: the file does not say the task; `recognise` tells it from numbers, and others of the same source and
            architecture stand for the other tasks.
        told: configuration -> the task, where one beside the file says it.
        decoding: options of the decoder that differ from its own, or a function of shapes and config.
        tiling: shapes -> (side of the tiles in pixels of the size at which the model sees images or None for whole images,
            the share of a side that they overlap at least); None: whole images, but see `tiling_of`.
    """

    source: Source
    architecture: str
    recognise: Callable[[Shapes], bool]
    spec: Callable[[Shapes, Config], ModelSpec]
    rename: Callable[[str], str | None]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    preprocessing: Preprocessing | Callable[[Shapes, Config], Preprocessing] = IMAGENET
    space: Mapping[int, ClassList] = field(default_factory=dict[int, ClassList])
    licence: str = ""
    notes: tuple[str, ...] | Notes = ()
    transform: Callable[[str, Any], Any] | None = None
    arrange: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    task: str = "semantic"
    guessed: bool = False
    told: Callable[[Config], str | None] | None = None
    decoding: Mapping[str, Any] | Callable[[Shapes, Config], Mapping[str, Any]] = field(default_factory=dict[str, Any])
    tiling: Callable[[Shapes], tuple[int | None, float]] | None = None

    def preprocessing_of(self, shapes: Shapes, config: Config) -> Preprocessing:
        """What the checkpoint of these shapes and `config.json` expects of an image."""
        return self.preprocessing(shapes, config) if callable(self.preprocessing) else self.preprocessing

    def decoding_of(self, shapes: Shapes, config: Config) -> dict[str, Any]:
        """How the answers of the checkpoint of these shapes and `config.json` are decoded."""
        return dict(self.decoding(shapes, config) if callable(self.decoding) else self.decoding)

    def notes_of(self, config: Config, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What a user should know of a checkpoint with `config`, read with `options` of the user's for its model."""
        return self.notes(config, options) if callable(self.notes) else self.notes

    def padding_of(self, model: Model) -> tuple[str, ...]:
        """A note where the source gives its model images of any size and `model`, ours for it, sees them padded."""
        # mmsegmentation, too, wants the sides of a U-Net's images to be multiples.
        any_size = self.source == "mmseg" and self.architecture != "unet"
        if not any_size or model.any_size or model.input_multiple == 1:
            return ()
        return (
            f"mmsegmentation gives this model images of any size; here their sides are padded to multiples of "
            f"{model.input_multiple}, so that other images are answered a little otherwise, mostly near their right and lower "
            "borders.",
        )

    def threshold_of(self, spec: ModelSpec, config: Config) -> tuple[float | None, tuple[str, ...]]:
        """The probability from which a model of one output answers its class, and a note that says so; None for the usual half.

        mmsegmentation answers sigmoid > threshold (models/segmentors/base.py).
        """
        if self.source != "mmseg" or self.task != "semantic" or spec.classes != 1:
            return None, ()
        threshold, note = mmseg_config(config).cut
        return threshold, (note,)

    def tiling_of(self, shapes: Shapes, config: Config) -> tuple[int | None, float] | None:
        """As `tiling`, and as a configuration in the file has it; None, which is as models of ours, where the source has no
        program that tests a model."""
        if self.tiling is not None:
            return self.tiling(shapes)
        return None if self.source in UNTESTED else mmseg_config(config).tiling

    def why_left_out(self, key: str) -> str | None:
        """The reason for leaving the published `key` out, from the table; None when the table has none."""
        return next((why for pattern, why in self.left_out.items() if re.fullmatch(pattern, key)), None)
