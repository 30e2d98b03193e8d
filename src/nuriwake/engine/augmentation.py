"""From the configuration to what augments a training image: a preset with changes, or the user's own pipeline."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import import_here
from nuriwake.core.sample import Sample
from nuriwake.core.targets import Size, Target
from nuriwake.data.dataset import DataSet
from nuriwake.data.headers import image_header
from nuriwake.data.parallel import spread
from nuriwake.engine.config import AugmentationConfig
from nuriwake.transforms.albumentations import AlbumentationsTransform, from_albumentations
from nuriwake.transforms.geometric import RandomCrop
from nuriwake.transforms.operations import Named, operations
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.presets import preset

MOST_HEADERS = 480
"""Of so many training images the smallest is looked for to try a pipeline on."""


class Augmentation(Protocol):
    """What `Pipeline` and `AlbumentationsTransform` have in common."""

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
        """See `Pipeline.prepare`."""
        ...


def training_augmentation(
    augmentation: AugmentationConfig,
    channels: int,
    *,
    objects: bool = False,
    margin: int = 0,
) -> Augmentation:
    """The user's own pipeline where one is named, else `training_pipeline`; for a model with `margin`.

    An albumentations pipeline makes its crops itself, and knows nothing of a margin.

    Raises:
        UserError: the name leads to nothing, to neither kind of pipeline, or stands beside fields that it leaves no room for.
    """
    if augmentation.pipeline is None:
        return replace(training_pipeline(augmentation, channels, objects=objects), margin=margin)
    for name, given in (
        ("geometric", augmentation.geometric),
        ("photometric", augmentation.photometric),
        ("mixing", augmentation.mixing or None),
    ):
        if given is not None:
            raise UserError(f"augmentation.{name}: 'augmentation.pipeline' is given, which says it all; leave one out.")
    side = augmentation.crop_size or 256
    found = import_pipeline(augmentation.pipeline)
    if isinstance(found, Pipeline):
        return replace(found, margin=margin)
    own = found if isinstance(found, AlbumentationsTransform) else _compose(found, augmentation.pipeline, (side, side))
    if augmentation.balance:
        raise UserError(
            "augmentation.balance: an albumentations pipeline chooses its crops itself, so that they cannot be centred on "
            "classes; set it to 0."
        )
    return own


def training_pipeline(augmentation: AugmentationConfig, channels: int, *, objects: bool = False) -> Pipeline:
    """The preset at the crop size, with the zoom and the operations of the configuration where it gives them.

    `augmentation.scale` is the zoom of the random crops, those in `augmentation.geometric` included that say none of their own.

    Args:
        objects: the targets are objects or segments. What lies beyond the image is ignored in a label map, so that it may be
            mirrored; mirrored objects, which nobody outlined, would be learnt as background.
    """
    side = augmentation.crop_size or 256
    pipeline = preset(cast(Any, augmentation.preset or "none"), (side, side), channels=channels)
    zoom = augmentation.scale
    changes: dict[str, Any] = {"mixing": operations("mixing", augmentation.mixing, "augmentation.mixing")}
    if objects:
        changes["border"] = "mean"
    if zoom is not None:
        changes["geometric"] = tuple(
            replace(operation, zoom=zoom) if isinstance(operation, RandomCrop) else operation
            for operation in pipeline.geometric
        )
    if augmentation.geometric is not None:
        named = [_zoomed(item, zoom) for item in augmentation.geometric]
        changes["geometric"] = operations("geometric", named, "augmentation.geometric")
    if augmentation.photometric is not None:
        changes["photometric"] = operations("photometric", augmentation.photometric, "augmentation.photometric")
    return replace(pipeline, **changes)


def try_pipeline(augmentation: AugmentationConfig, data: DataSet, split: str, *, margin: int) -> None:
    """Build what augments, and put the smallest training image (of some, evenly spread) through an albumentations pipeline.

    It is the smallest that crops most often fail on.

    Raises:
        UserError: as `training_augmentation` and `AlbumentationsTransform`.
    """
    own = training_augmentation(augmentation, data.channels, margin=margin)
    if not isinstance(own, AlbumentationsTransform):
        return
    smallest = min(spread(data.records(split), MOST_HEADERS), key=lambda record: min(image_header(record.image).size))
    sample = data.read(smallest)
    own(sample, np.random.default_rng(0))
    if sample.image.dtype == np.float32 and (sample.image.min() < 0 or sample.image.max() > 1):
        warnings.warn(
            f"albumentations clips float images to 0..1 wherever it changes values, and '{sample.name}' reaches from "
            f"{sample.image.min():g} to {sample.image.max():g}: keep to steps of geometry there, or use nuriwake's own operations, "
            "which clip nothing.",
            stacklevel=2,
        )


def takes_scale(augmentation: AugmentationConfig) -> bool:
    """Is there a random crop whose zoom `augmentation.scale` could be? Every preset has one."""
    if augmentation.pipeline is not None:
        return False
    return augmentation.geometric is None or any(_is_open_crop(item) for item in augmentation.geometric)


def operation_name(named: Named) -> str:
    """Of an entry of a list of operations."""
    return named if isinstance(named, str) else str(next(iter(named), ""))


def _is_open_crop(named: Named) -> bool:
    """A random crop that says nothing of its zoom."""
    alone = isinstance(named, str) or len(named) == 1
    return alone and operation_name(named) == "random_crop" and "zoom" not in _fields(named)


def _fields(named: Named) -> Mapping[str, Any]:
    return {} if isinstance(named, str) else next(iter(named.values())) or {}


def _zoomed(named: Named, zoom: tuple[float, float] | None) -> Named:
    if zoom is None or not _is_open_crop(named):
        return named
    return {"random_crop": {**_fields(named), "zoom": zoom}}


def import_pipeline(path: str) -> Any:
    """The object at `module:name`, where the module may also be a file of the current working folder.

    Raises:
        UserError: as `import_here`; or no colon in `path`.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise UserError(
            f"augmentation.pipeline: expected 'module:name', such as 'my_augmentation:train', found '{path}'."
        )
    return import_here(path)


def _compose(found: Any, path: str, size: Size) -> AlbumentationsTransform:
    # Asked of the module's own name: albumentations is never imported for it.
    if not any(kind.__module__.partition(".")[0] == "albumentations" for kind in type(found).__mro__):
        raise UserError(
            f"augmentation.pipeline: '{path}' is a {type(found).__name__}; expected a nuriwake Pipeline or an "
            "albumentations.Compose (the object itself, not a function or class)."
        )
    return from_albumentations(found, size=size)
