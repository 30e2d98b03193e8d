"""What there is to choose from: a judgement of every model that is recommended, and how data and wishes weigh it."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Goal = Literal["balance", "accuracy", "speed", "small", "few-images"]
"""What the user wants most: a balance for the machine, the best score, the fastest answer, the smallest file, or a model that
learns from few images."""

GOALS: tuple[Goal, ...] = get_args(Goal)

FEW = 50
"""So many training images are taken to be there at most when the wish is "few-images"."""

OUT_OF_REACH = 10
"""A model that wants more than so many times the images there are is not recommended."""

LARGE = 2000
"""An image with a side above this, in pixels, is answered in many tiles."""

SMALL_OBJECT = 32
"""Objects with a median side below this, in pixels, count as small (COCO's limit)."""


@dataclass(frozen=True)
class Candidate:
    """One model as a recommendation sees it.

    Attributes:
        model: a key of `MODELS`.
        accuracy: 1 (modest) to 5 (best of the task): the order of the published scores on COCO, Cityscapes and ADE20K.
        cost: 1 (light) to 5: the order of the time per image.
        megabytes: of its weights in a bundle, about.
        images: from so many training images on it can show what it can do.
        why: what speaks for it.
        small_objects: whether it finds objects of few pixels about as well as its peers.
        pretrained: whether it is meant to start from weights of photographs; without, it loses nothing where images are none.
    """

    model: str
    accuracy: int
    cost: int
    megabytes: float
    images: int
    why: str
    small_objects: bool = True
    pretrained: bool = True


CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    "semantic": (
        Candidate(
            "unet_mobilenet_v2", 2, 1, 10, 0, "light, quick to train, and its logits have the image's resolution"
        ),
        Candidate(
            "deeplabv3plus_mobilenet_v2", 2, 2, 10, 50, "looks at the context of a whole scene at a moderate cost"
        ),
        Candidate(
            "unet", 2, 4, 124, 0, "needs no pretrained weights: the usual choice for microscopy", pretrained=False
        ),
        Candidate("segformer_b0", 3, 2, 15, 300, "a small transformer: robust to changes of light and texture"),
        Candidate("unet_resnet34", 3, 3, 95, 50, "a stronger backbone, and still sharp outlines and a simple shape"),
        Candidate("hrnet_w18", 3, 3, 39, 300, "keeps a map at stride 4 all the way: fine, thin structures"),
        Candidate("deeplabv3plus_resnet50", 4, 4, 107, 200, "context and sharp edges; the usual choice on a GPU"),
        Candidate("segformer_b2", 4, 4, 110, 500, "a transformer that scores high for its size"),
        Candidate("mask2former_swin_tiny", 5, 5, 189, 1000, "a mask and a class per query: the best published scores"),
    ),
    "instance": (
        Candidate("yolact_mobilenet_v2", 1, 1, 16, 200, "one pass and no regions: the fastest of its kind", False),
        Candidate("mask_rcnn_mobilenet_v2_fpn", 2, 2, 75, 50, "regions over a light backbone; learns from few images"),
        Candidate("solov2_mobilenet_v2", 2, 1, 18, 200, "sharp outlines of middling and large objects", False),
        Candidate("yolact_resnet50", 2, 3, 125, 1000, "one pass over a stronger backbone", False),
        Candidate("mask_rcnn_r50_fpn", 3, 4, 178, 100, "the usual choice on a GPU: steady, and good at small objects"),
        Candidate("solov2_r50_fpn", 3, 4, 186, 1000, "no boxes: sharp outlines of large objects", False),
        Candidate("mask2former_r50", 4, 5, 176, 1000, "a mask per query: the best outlines, slow to train"),
        Candidate(
            "eomt_small", 4, 4, 96, 500, "a plain transformer that was pretrained on 142 M images (DINOv2)", False
        ),
    ),
    "panoptic": (
        Candidate("panoptic_fpn_mobilenet_v2", 2, 2, 77, 50, "things and stuff from one light pyramid"),
        Candidate("mask2former_mobilenet_v2", 2, 3, 30, 500, "one kind of mask for things and stuff, in a light shape"),
        Candidate("panoptic_fpn_r50", 3, 4, 184, 200, "the usual choice on a GPU: steady and simple"),
        Candidate("mask2former_r50", 4, 5, 176, 1000, "a mask per query: the best published scores, slow to train"),
        Candidate(
            "eomt_small", 4, 4, 96, 500, "a plain transformer that was pretrained on 142 M images (DINOv2)", False
        ),
    ),
}
"""Task -> what is recommended for it. Of the larger models the smallest member of each family stands for the others."""


@dataclass(frozen=True)
class Situation:
    """What weighs the candidates.

    Attributes:
        task: a key of `CANDIDATES`.
        goal: the wish.
        gpu: whether the network runs on a GPU.
        images: to train on.
        object_side: median side of the objects in pixels; None for classes that are not counted.
        image_side: the longer side of the images in pixels (median); None when it is not known.
        photographs: whether the images are like those that pretrained weights have seen: three channels, not grey.
    """

    task: str
    goal: Goal
    gpu: bool
    images: int
    object_side: float | None = None
    image_side: int | None = None
    photographs: bool = True


HEAVY = 4
"""The cost from which a model is recommended without a GPU only to who wants accuracy above all."""


def ranked(situation: Situation, count: int = 3) -> list[Candidate]:
    """The `count` best candidates, the best first. Fewer, but two, where the others are too heavy or want far more images."""
    candidates = CANDIDATES[situation.task]
    bearable = situation.gpu or situation.goal == "accuracy"
    within = OUT_OF_REACH * _images(situation)
    fitting = [item for item in candidates if (bearable or item.cost < HEAVY) and item.images <= within]
    best = sorted(fitting, key=lambda item: -_worth(item, situation))[:count]
    others = sorted((item for item in candidates if item not in best), key=lambda item: (item.images, item.cost))
    return best + others[: max(0, min(2, count) - len(best))]


def remarks(candidate: Candidate, situation: Situation) -> tuple[str, ...]:
    """What speaks for and against `candidate` here, in words."""
    said = [candidate.why]
    if not candidate.pretrained and not situation.photographs:
        said.append("these images are not like the photographs that pretrained weights have seen")
    if _images(situation) < candidate.images:
        said.append(f"wants about {candidate.images} images or more, and there are {situation.images}")
    if _small(situation) and not candidate.small_objects:
        said.append(f"is weaker with small objects, and these measure {situation.object_side:.0f} pixels")
    if _large(situation) and candidate.cost >= HEAVY:
        said.append(f"is slow over images of {situation.image_side} pixels, which it answers in tiles")
    if not situation.gpu and candidate.cost >= HEAVY:
        said.append("is slow to train without a GPU")
    return tuple(said)


_WEIGHTS: dict[Goal, tuple[float, float, float]] = {
    "balance": (1.0, 0.4, 0.0),
    "accuracy": (2.0, 0.1, 0.0),
    "speed": (0.5, 2.0, 0.0),
    "small": (0.3, 0.1, 0.05),
    "few-images": (1.0, 0.4, 0.0),
}
"""Goal -> weight of the accuracy, of the cost, and of a megabyte."""


def _worth(candidate: Candidate, situation: Situation) -> float:
    accuracy, cost, size = _WEIGHTS[situation.goal]
    worth = accuracy * candidate.accuracy - size * candidate.megabytes
    # Without a GPU a heavy model sees too few images in the time there is to become the better one.
    worth -= cost * candidate.cost * (1.0 if situation.gpu else 2.5) * (1.5 if _large(situation) else 1.0)
    if _images(situation) < candidate.images:
        # By ratio: half the images cost a little, a twentieth of them the whole advantage.
        lack = math.log2(candidate.images / max(1, _images(situation)))
        worth -= lack * (1.0 if situation.goal == "few-images" else 0.5)
    if not candidate.pretrained and not situation.photographs:
        worth += 1.5
    if _small(situation) and not candidate.small_objects:
        worth -= 1.0
    return worth


def _images(situation: Situation) -> int:
    return min(situation.images, FEW) if situation.goal == "few-images" else situation.images


def _small(situation: Situation) -> bool:
    return situation.object_side is not None and situation.object_side < SMALL_OBJECT


def _large(situation: Situation) -> bool:
    return situation.image_side is not None and situation.image_side > LARGE
