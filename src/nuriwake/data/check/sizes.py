"""Findings about sizes: of images, of values, of objects."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.survey import Survey
from nuriwake.data.headers import ImageHeader

STRIDE = 8
"""An object narrower than half of this (the finest stride that our larger models predict at) has hardly a cell of its own."""

CROP = 512
"""The usual crop in training: objects much larger are never seen whole."""

_READ_AS = {"float64": "float32", "float16": "float32", "bool": "uint8"}


def small_objects(survey: Survey) -> Finding | None:
    """A large share of objects is smaller than the stride."""
    areas = survey.objects[:, 0]
    small = int((areas < (STRIDE / 2) ** 2).sum())
    if len(areas) < 10 or small < 0.1 * len(areas):
        return None
    found = [facts for facts in survey.facts if len(facts.objects) and (facts.objects[:, 1] < (STRIDE / 2) ** 2).any()]
    return Finding(
        "small_objects", "note", small, some([facts.image for facts in found]),
        f"Models predict on a grid of {STRIDE // 2} to {STRIDE} pixels: an object of less than {STRIDE // 2} x {STRIDE // 2} "
        "pixels has hardly a cell of its own. Specks are often slips of the brush.",
        "Enlarge the images or take a larger crop scale if these objects matter; remove specks if they are none.",
        what=f"{small:,} of {len(areas):,} objects or regions [is|are] smaller than {STRIDE // 2} x {STRIDE // 2} pixels.",
        samples=tuple(facts.name for facts in found[:10]),
    )  # fmt: skip


def large_objects(survey: Survey) -> Finding | None:
    """Objects several times the crop."""
    if survey.space is None or not any(survey.space.things):
        return None
    large = int((survey.objects[:, 0] > (2 * CROP) ** 2).sum())
    if not large or large < 0.05 * len(survey.objects):
        return None
    found = [facts for facts in survey.facts if len(facts.objects) and (facts.objects[:, 1] > (2 * CROP) ** 2).any()]
    return Finding(
        "large_objects", "note", large, some([facts.image for facts in found]),
        f"Training looks at crops of about {CROP} pixels: these objects are never seen whole.",
        "Resize the images so that most objects fit into a crop.",
        what=f"{large:,} of {len(survey.objects):,} objects [is|are] larger than {2 * CROP} x {2 * CROP} pixels.",
        samples=tuple(facts.name for facts in found[:10]),
    )  # fmt: skip


def image_sizes(survey: Survey) -> Finding | None:
    """The largest image has many times the pixels of the smallest."""
    if len(survey.sizes) < 2:
        return None
    pixels = survey.sizes.prod(axis=1)
    low, high = int(pixels.argmin()), int(pixels.argmax())
    if pixels[high] < 16 * pixels[low]:
        return None
    images = [facts for facts in survey.facts if facts.header is not None]
    return Finding(
        "image_sizes", "doubtful", 2, (f"{images[low].image}: {_size(survey, low)}", f"{images[high].image}: {_size(survey, high)}"),
        "The same thing is seen at very different scales, and small ones are padded or enlarged to the crop.",
        "Bring the images to one scale, where the pixel size is known.",
        what=f"Images go from {_size(survey, low)} to {_size(survey, high)} (height x width).",
        samples=(images[low].name, images[high].name),
    )  # fmt: skip


def bit_depths(survey: Survey) -> Finding | None:
    """Images of several types of values."""
    return _mixed(survey, "bit_depths", lambda header: _READ_AS.get(header.dtype, header.dtype), "types of values",
        "The same brightness is another number: normalisation is right for one kind only.")  # fmt: skip


def channels(survey: Survey) -> Finding | None:
    """Images of several numbers of channels; 1 among 3 is fine, grey is read as RGB."""
    found = {facts.header.channels for facts in survey.facts if facts.header is not None}
    if found <= {1, 3}:
        return None
    return _mixed(survey, "channels", lambda header: f"{header.channels} channels", "numbers of channels",
        "A model has one number of channels.")  # fmt: skip


def grey_among_colour(survey: Survey) -> Finding | None:
    """Some grey images, among coloured ones."""
    images = [facts for facts in survey.facts if facts.header is not None and facts.header.channels in (1, 3)]
    grey = [facts for facts in images if facts.grey or (facts.header is not None and facts.header.channels == 1)]
    if not grey or len(grey) == len(images):
        return None
    return Finding(
        "grey_among_colour", "note", len(grey), some([facts.image for facts in grey]),
        "They are read as RGB of equal channels; a model that relies on colour does worse on them.",
        "Nothing is needed if such images will also come later.",
        what=f"{len(grey):,} of {len(images):,} images [is|are] grey.", samples=tuple(facts.name for facts in grey[:10]),
    )  # fmt: skip


def _mixed(survey: Survey, kind: str, key: Callable[[ImageHeader], str], what: str, why: str) -> Finding | None:
    images = [facts for facts in survey.facts if facts.header is not None]
    kinds = Counter(_of(facts, key) for facts in images)
    if len(kinds) < 2:
        return None
    usual = kinds.most_common(1)[0][0]
    found = [facts for facts in images if _of(facts, key) != usual]
    text = ", ".join(f"{number:,} of {name}" for name, number in kinds.most_common())
    return Finding(
        kind, "harmful", len(found), some([f"{facts.image}: {_of(facts, key)}" for facts in found]),
        why + " Opening the data set refuses them.", "Convert the images to one kind, or take out those that differ.",
        what=f"Images have different {what}: {text}.", samples=tuple(facts.name for facts in found[:10]),
    )  # fmt: skip


def _of(facts: Facts, key: Callable[[ImageHeader], str]) -> str:
    return key(facts.header) if facts.header is not None else ""


def _size(survey: Survey, row: int) -> str:
    height, width = np.asarray(survey.sizes[row]).tolist()
    return f"{height}x{width}"
