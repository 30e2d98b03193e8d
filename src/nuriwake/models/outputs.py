"""What leaves a model: one NamedTuple of tensors per kind of answer. Loss and decoding are chosen by its type."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class PixelLogits(NamedTuple):
    """A score per class for every pixel: the output of every semantic architecture.

    Attributes:
        logits: (B, C, h, w), before softmax or sigmoid. They cover the input's extent less the model's `margin` on every
            side, at any resolution; consumers bring them to the wanted size with `fit_logits`.
        auxiliary: further logits of the same meaning from auxiliary heads, each (B, C, h', w'); empty in eval mode.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def fit_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`logits` (B, C, h, w) -> (B, C, *size), bilinear with half-pixel centres; untouched where the size is right."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


class RegionOutput(NamedTuple):
    """Boxes that were found, with a mask inside each: Mask R-CNN. N counts the boxes of all images of the batch.

    Attributes:
        boxes: float32 (N, 4), xyxy in pixels of the input, inside it.
        scores: float32 (N,), 0..1; within an image from high to low.
        labels: int64 (N,), 0..classes-1.
        masks: float32 (N, m, m), the probability of the box's class at the m x m cells of the box, after the sigmoid.
        image: int64 (N,), the row of the batch that the box belongs to, ascending.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    image: Tensor


class RegionTraining(NamedTuple):
    """What the loss of Mask R-CNN compares, for the anchors and regions of a batch that were drawn to learn from.

    A counts anchors, P those among them that stand for an object, R regions, F those among them that show an object.

    Attributes:
        objectness: (A,), before the sigmoid.
        objectness_truth: float32 (A,), 0 or 1.
        proposal_offsets: (P, 4), from the anchor to the object.
        proposal_offset_truth: float32 (P, 4).
        class_logits: (R, classes + 1), before softmax; the last index is background.
        class_truth: int64 (R,).
        offsets: (F, 4), from the region to the object, of its class.
        offset_truth: float32 (F, 4).
        mask_logits: (F, m, m), before the sigmoid, of the object's class.
        mask_truth: float32 (F, m, m), 0 or 1.
    """

    objectness: Tensor
    objectness_truth: Tensor
    proposal_offsets: Tensor
    proposal_offset_truth: Tensor
    class_logits: Tensor
    class_truth: Tensor
    offsets: Tensor
    offset_truth: Tensor
    mask_logits: Tensor
    mask_truth: Tensor


class RegionPixelOutput(NamedTuple):
    """Regions and a label map from one pyramid: Panoptic FPN.

    Attributes:
        regions: of the things; labels over all classes.
        logits: (B, 1 + stuff classes, h, w), before softmax: index 0 is any thing, then the stuff classes as they follow
            each other. They cover the input's extent, at any resolution; as `PixelLogits`.
    """

    regions: RegionOutput
    logits: Tensor


class RegionPixelTraining(NamedTuple):
    """What the loss of Panoptic FPN compares.

    Attributes:
        regions: of the things.
        logits: as in `RegionPixelOutput`.
    """

    regions: RegionTraining
    logits: Tensor


class PrototypeOutput(NamedTuple):
    """One answer per prior, and prototypes whose linear combinations are the masks: YOLACT.

    Attributes:
        class_logits: (B, N, classes + 1), before softmax; index 0 is background.
        deltas: (B, N, 4), box offsets relative to `priors`, as the architecture encodes them.
        coefficients: (B, N, P), after tanh.
        priors: (N, 4), (centre x, centre y, width, height) as shares of the input's width and height.
        prototypes: (B, P, h, w), after ReLU.
        semantic: (B, classes, h', w') logits of the auxiliary semantic term while training; empty (0 channels) otherwise.
    """

    class_logits: Tensor
    deltas: Tensor
    coefficients: Tensor
    priors: Tensor
    prototypes: Tensor
    semantic: Tensor


class KernelOutput(NamedTuple):
    """A class score and a convolution kernel per grid cell and level, and the features they are convolved with: SOLOv2.

    Attributes:
        class_logits: per level (B, classes, S, S), before the sigmoid.
        kernels: per level (B, E, S, S).
        mask_features: (B, E, h, w), at stride 4.
    """

    class_logits: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]
    mask_features: Tensor


class QueryOutput(NamedTuple):
    """A class and a mask per query: Mask2Former, EoMT.

    Attributes:
        class_logits: (B, Q, classes + 1), before softmax; the last index means no object.
        mask_logits: (B, Q, h, w), before the sigmoid; they cover the input's extent, at any resolution.
        auxiliary: (class_logits, mask_logits) of earlier layers, the first layer first; empty in eval mode.
    """

    class_logits: Tensor
    mask_logits: Tensor
    auxiliary: tuple[tuple[Tensor, Tensor], ...] = ()
