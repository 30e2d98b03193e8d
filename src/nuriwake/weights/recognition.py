"""Which published source and architecture a checkpoint is of, from the names and shapes of its arrays."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.models import build_model
from nuriwake.models.state import Misfit, listed
from nuriwake.weights.bundle import ModelSpec
from nuriwake.weights.contents import Contents
from nuriwake.weights.published.base import Published
from nuriwake.weights.sources import all_sources, title


class Fit(NamedTuple):
    """Published arrays under our names.

    Attributes:
        arrays: {our key: tensor}, cut and turned as we keep them.
        left_out: {published key: why}.
        misfit: how the arrays differ from the model's, under the published names; a missing one under ours where the others
            of the file do not tell its published name.
        unusable: "key (why)" of arrays whose numbers no model can use.
    """

    arrays: dict[str, Tensor]
    left_out: dict[str, str]
    misfit: Misfit
    unusable: tuple[str, ...] = ()


def recognise(
    contents: Contents, architecture: str | None = None, task: str | None = None
) -> tuple[Published, ModelSpec]:
    """The only source that knows `contents`, and the model for it.

    Args:
        architecture: a key of `MODELS` or a family: only sources of it count, and the arrays must be of it.
        task: what the weights were trained for, where the file does not say it; None: as told from its numbers.

    Raises:
        UserError: no source fits (says what was looked for and the nearest), several do, the arrays do not say enough, or
            they are of a model for another task.
    """
    sources = _candidates(architecture)
    found = [source for source in sources if source.recognise(contents.shapes)]
    if not found:
        raise UserError(_unknown(contents, sources))
    if len(found) > 1:
        names = " and ".join(title(source) for source in found)
        raise UserError(
            f"{contents.file}: the arrays could be of {names}; say which architecture it is with --architecture."
        )
    task = task or task_told(found[0], contents)
    source = found[0] if task is None else _for_task(found[0], task, sources, contents)
    spec = spec_of(source, contents)
    if architecture is not None and architecture not in (source.architecture, spec.name):
        raise UserError(f"{contents.file}: the arrays are of '{spec.name}', not of '{architecture}'.")
    return source, spec


def task_told(source: Published, contents: Contents) -> str | None:
    """The task that a configuration beside the file says; None where none does."""
    return None if source.told is None else source.told(contents.config)


def _for_task(found: Published, task: str, sources: list[Published], contents: Contents) -> Published:
    """The source like `found` whose weights were trained for `task`."""
    like = [found]
    if found.guessed:
        like = [item for item in sources if (item.source, item.architecture) == (found.source, found.architecture)]
    for source in like:
        if source.task == task:
            return source
    tasks = [source.task for source in like]
    known = f"it answers {tasks[0]}" if len(tasks) == 1 else f"known tasks are {', '.join(tasks)}"
    raise UserError(f"{contents.file}: recognised as {title(found)}; {known}, not '{task}'.{did_you_mean(task, tasks)}")


def spec_of(source: Published, contents: Contents) -> ModelSpec:
    """How to build the model for `contents`. Raises UserError that names the file and what the arrays lack."""
    try:
        return source.spec(contents.shapes, contents.config)
    except KeyError as error:
        name = published_name(source, str(error.args[0]), _own_names(source, contents.arrays))
        raise UserError(
            f"{contents.file}: recognised as {title(source)}, but the array '{name}' is missing."
        ) from error
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        why = (
            str(error) if isinstance(error, UserError) else f"an array has another shape than its name asks ({error})."
        )
        raise UserError(f"{contents.file}: recognised as {title(source)}. {why}") from error


def fit(source: Published, spec: ModelSpec, contents: Contents) -> Fit:
    """The arrays of `contents` as the model of `spec` wants them: `arrange`, `rename`, `transform`, in this order."""
    with torch.device("meta"):
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    expected = {key: (tuple(item.shape), item.dtype) for key, item in model.state_dict().items()}
    known: dict[str, str] = {}
    unusable: list[str] = []
    arrays: dict[str, Tensor] = {}
    left_out = {key: why for key in contents.others if (why := source.why_left_out(key))} | dict(contents.left_out)
    unexpected = [f"{key} ({kind})" for key, kind in contents.others.items() if key not in left_out]
    misshapen: list[str] = []
    for key, item in _arranged(source, contents.arrays).items():
        own = source.rename(key)
        if own is None:
            left_out[key] = source.why_left_out(key) or "not used"
        elif own not in expected or own in arrays:
            unexpected.append(key)
        else:
            arrays[own] = item = _transformed(source, own, item)
            known[own] = key
            shape, dtype = expected[own]
            if tuple(item.shape) != shape:
                misshapen.append(f"{key} (expected {_size(shape)}, found {_size(tuple(item.shape))})")
            if why := _unusable(item, dtype):
                unusable.append(f"{key} ({why})")
    absent = [key for key in expected if key not in arrays and not key.endswith("num_batches_tracked")]
    missing = tuple(published_name(source, key, known) for key in absent)
    return Fit(arrays, left_out, Misfit(missing, tuple(unexpected), tuple(misshapen)), tuple(unusable))


def published_name(source: Published, own: str, known: Mapping[str, str]) -> str:
    """The published key of the array that we call `own`, as told by its like among `known`; `own` where none tells it.

    Args:
        known: {our key: published key} of the arrays that are there.
    """
    like: defaultdict[str, list[str]] = defaultdict(list)
    for ours in known:
        like[_shape_of(ours)].append(ours)
    for ours in like[_shape_of(own)]:
        for candidate in _guesses(ours, own, known[ours]):
            if source.rename(candidate) == own:
                return candidate
    return own


def _own_names(source: Published, arrays: Mapping[str, Tensor]) -> dict[str, str]:
    return {own: key for key in _arranged(source, arrays) if (own := source.rename(key)) is not None}


def _shape_of(key: str) -> str:
    """What a key has in common with its like: all but its numbers and its last word."""
    return re.sub(r"\d+", "#", key.rpartition(".")[0])


def _guesses(ours: str, own: str, published: str) -> Iterator[str]:
    """`published`, the key of `ours`, changed as `ours` would have to be to become `own`."""
    end = own.rpartition(".")[2]
    stem, _, its_end = published.rpartition(".")
    changed = f"{stem}.{end}" if ours.rpartition(".")[2] != end else f"{stem}.{its_end}"
    there, wanted = (re.findall(r"\d+", key.rpartition(".")[0]) for key in (ours, own))
    steps = [int(b) - int(a) for a, b in zip(there, wanted, strict=True) if a != b]
    if not steps:
        yield changed
    elif len(steps) == 1:
        for number in re.finditer(r"\d+", changed):
            yield f"{changed[: number.start()]}{int(number[0]) + steps[0]}{changed[number.end() :]}"


def _unusable(item: Tensor, wanted: torch.dtype) -> str:
    """Why the numbers of `item` cannot stand where `wanted` do; empty when they can."""
    found = str(item.dtype).removeprefix("torch.")
    if item.is_complex() or (wanted.is_floating_point and not item.is_floating_point()):
        return f"{found} where {str(wanted).removeprefix('torch.')} belongs"
    if not item.is_floating_point() or not item.numel() or item.is_meta:
        return ""
    # The least and the largest in one pass and without a copy; a single NaN makes both NaN.
    low, high = torch.aminmax(item.float() if item.element_size() == 1 else item)
    return "" if low.isfinite() and high.isfinite() else "NaN or infinite numbers, as a diverged training leaves them"


def _candidates(architecture: str | None) -> list[Published]:
    """The sources of `architecture`; a complete name ("hrnet_ocr_w48") stands for the longest architecture it begins with."""
    sources = all_sources()
    if architecture is None:
        return list(sources)
    known = dict.fromkeys(source.architecture for source in sources)
    family = max((name for name in known if f"{architecture}_".startswith(f"{name}_")), key=len, default=None)
    if family is None:
        raise UserError(
            f"No published checkpoints of an architecture '{architecture}' can be read.{did_you_mean(architecture, known)}"
        )
    return [source for source in sources if source.architecture == family]


def _arranged(source: Published, arrays: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if source.arrange is None:
        return arrays
    try:
        return source.arrange(arrays)
    except (LookupError, RuntimeError, ValueError):
        return arrays  # arrays that cannot be cut or joined: strict fitting names what is wrong with them


def _transformed(source: Published, own: str, item: Tensor) -> Tensor:
    if source.transform is None:
        return item
    try:
        return source.transform(own, item)
    except (LookupError, RuntimeError, ValueError):
        return item  # of another shape: strict fitting says so


def _unknown(contents: Contents, sources: list[Published]) -> str:
    looked = ", ".join(dict.fromkeys(title(source) for source in sources))
    text = (
        f"{contents.file}: its {len(contents.arrays)} arrays ({listed(contents.arrays)}) are of no published checkpoint that "
        f"can be read; looked for: {looked}."
    )
    best = max(sources, key=lambda source: _likeness(source, contents))
    if _likeness(best, contents) < 0.1:
        return text
    return f"{text} The nearest is {title(best)}{_difference(best, contents)}."


def _difference(source: Published, contents: Contents) -> str:
    """How `contents` differs from a checkpoint of `source`; empty where that cannot be told."""
    try:
        spec = source.spec(contents.shapes, contents.config)
        return f": {fit(source, spec, contents).misfit}"
    except KeyError as error:
        return f", but the array '{error.args[0]}' is missing"
    except (IndexError, ValueError, TypeError, AttributeError):
        return ""


def _likeness(source: Published, contents: Contents) -> float:
    """The share of the arrays that the source's rules know; those that keep their name (smp's encoder) count half."""
    known = 0.0
    for key in contents.arrays:
        own = source.rename(key)
        if own == key:
            known += 0.5 if key.startswith("encoder.") else 0.0
        else:
            known += own not in (None, f"published.{key}")
    return known / max(len(contents.arrays), 1)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
