"""A user's own albumentations pipeline as a transform of ours, with our seeding. albumentations itself is never imported."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE
from nuriwake.core.pixels import normalise
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap, Size, Target


@dataclass(frozen=True)
class AlbumentationsTransform:
    """Calls `compose(image=.., mask=..)`, seeded by the generator it is given; see `from_albumentations`."""

    compose: Callable[..., dict[str, Any]]
    size: Size | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """`sample` through the user's pipeline.

        Raises:
            UserError: a target of objects; the pipeline fails on this sample; what comes back is no NumPy image, of another
                type or number of channels than the sample's, or image and mask or `size` differ.
        """
        target = sample.target
        if not isinstance(target, SemanticMap | None):
            raise UserError(
                f"An albumentations pipeline changes label maps, but '{sample.name}' has {type(target).__name__}: leave "
                "augmentation.pipeline out for objects, nuriwake's own operations turn and crop their masks."
            )
        # One pair of generators for all steps: a seed would give each step its own pair of the same seed, so that two flips
        # of probability 0.5 always came together.
        own, plain = np.random.default_rng(rng.integers(1 << 63)), Random(int(rng.integers(1 << 63)))
        self.compose.set_random_state(own, plain)  # type: ignore[attr-defined]
        given = {"image": sample.image} if target is None else {"image": sample.image, "mask": target.labels}
        try:
            result = self.compose(**given)
        except Exception as error:  # whatever the user's steps raise
            raise UserError(
                f"The albumentations pipeline fails on '{sample.name}' ({sample.size[0]}x{sample.size[1]} pixels): "
                f"{type(error).__name__}: {error}; change it so that it takes every training image (A.PadIfNeeded before a crop, "
                "for images that are too small)."
            ) from error
        image = _array(result.get("image"), "image")
        image = image[..., None] if image.ndim == 2 else image
        if target is not None:
            labels = _array(result.get("mask"), "mask")
            target = replace(
                target,
                labels=np.ascontiguousarray(labels.reshape(*labels.shape[:2], *target.labels.shape[2:])),
                scores=None,
            )
        self._check(image, sample)
        return replace(sample, image=np.ascontiguousarray(image), target=target)

    def prepare(
        self,
        sample: Sample,
        rng: np.random.Generator,
        *,
        mean: Sequence[float],
        deviation: Sequence[float],
        maximum: float,
        focus: tuple[int, int] | None = None,
        other: Callable[[], Sample] | None = None,
    ) -> tuple[np.ndarray, Target | None]:
        """`sample` augmented and normalised, as `Pipeline.prepare` gives it: float32 (C, H, W) and the target.

        `other` is never asked for: the user's pipeline mixes or does not.

        Raises:
            UserError: as calling it; or a `focus`, which somebody else's crops cannot be told.
        """
        if focus is not None:
            raise UserError(
                "An albumentations pipeline chooses its crops itself, so that they cannot be centred on classes; set "
                "augmentation.balance to 0."
            )
        done = self(sample, rng)
        return normalise(done.image, mean, deviation, maximum=maximum), done.target

    def _check(self, image: np.ndarray, sample: Sample) -> None:
        if image.ndim != 3:
            raise UserError(
                f"The albumentations pipeline returned an image of shape {image.shape} for '{sample.name}'; nuriwake needs "
                "(H, W, C)."
            )
        # nuriwake normalises by what the values of the data mean: 0..1 made of 0..255 would be divided once more.
        if image.dtype != sample.image.dtype:
            raise UserError(
                f"The albumentations pipeline returned {image.dtype} for '{sample.name}', which is {sample.image.dtype}; take out "
                "what changes the type or the range of the values (A.ToFloat, A.FromFloat, A.Normalize, ...): nuriwake normalises "
                "itself."
            )
        if image.shape[2] != sample.image.shape[2]:
            raise UserError(
                f"The albumentations pipeline returned {image.shape[2]} channels for '{sample.name}', which has "
                f"{sample.image.shape[2]}; take out what changes their number (A.ToGray, A.ToRGB, ...) or let it keep it."
            )
        if self.size is not None and image.shape[:2] != self.size:
            raise UserError(
                f"The albumentations pipeline returned {image.shape[0]}x{image.shape[1]} pixels (height x width) for "
                f"'{sample.name}', but training needs {self.size[0]}x{self.size[1]}; end it with a crop or resize of that size, or "
                "set augmentation.crop_size to its own."
            )


def from_albumentations(compose: Callable[..., dict[str, Any]], *, size: Size | None = None) -> AlbumentationsTransform:
    """`compose`, an `albumentations.Compose` (2.0 or later), as a transform.

    Leave out `Normalize` and `ToTensorV2`: nuriwake normalises with the numbers that it keeps in the bundle. Pixels that
    a transform invents get its `fill_mask`; give 255 there so that they are ignored. Where a border is filled with class 0
    instead, a warning says so.

    Args:
        compose: called with `image` and `mask`.
        size: (height, width) that must come out; None accepts any.

    Raises:
        UserError: `compose` cannot be seeded, or contains a step that belongs to nuriwake.
    """
    if not callable(getattr(compose, "set_random_state", None)):
        raise UserError(
            f"The albumentations pipeline is a {type(compose).__name__} without set_random_state, so that a run could not be "
            "repeated; expected an albumentations.Compose of version 2.0 or later."
        )
    for step in _steps(compose):
        name = type(step).__name__
        if name in ("ToTensorV2", "ToTensor3D", "Normalize"):
            raise UserError(
                f"The albumentations pipeline contains {name}; take it out: nuriwake normalises and makes tensors itself, "
                "with the numbers that are kept in the bundle."
            )
    _say_invented(compose)
    return AlbumentationsTransform(compose, size)


def _steps(compose: Any) -> Iterator[Any]:
    """`compose` and all that it holds, however nested."""
    yield compose
    for child in getattr(compose, "transforms", None) or ():
        yield from _steps(child)


def _say_invented(compose: Any) -> None:
    """Warn of steps that invent pixels of class 0; the place is this one, so that Python shows it once."""
    inventing = dict.fromkeys(type(step).__name__ for step in _steps(compose) if _invents_class_0(step))
    if inventing:
        warnings.warn(
            f"Beyond the image these steps of the albumentations pipeline show class 0, which is learnt there: "
            f"{', '.join(inventing)}. Give them fill_mask={IGNORE}, so that such pixels are ignored.",
            stacklevel=1,
        )


def _invents_class_0(step: Any) -> bool:
    """Its masks have label 0 where it shows what lies beyond the image."""
    if getattr(step, "border_mode", None) != cv2.BORDER_CONSTANT or np.any(getattr(step, "fill_mask", IGNORE)):
        return False
    # Crops show nothing beyond the image unless they pad it, and a turn that cuts its corners off neither.
    return bool(getattr(step, "pad_if_needed", True)) and not getattr(step, "crop_border", False)


def _array(value: Any, what: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise UserError(
            f"The albumentations pipeline returned {type(value).__name__} as {what}, expected a NumPy array; take ToTensorV2 "
            "out of it."
        )
    return value
