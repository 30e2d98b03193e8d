"""The bundle: one trained model in one safetensors file, with everything that predicting needs in its header.

The header's only entry of ours is `nuriwake`: JSON with the fields of `Bundle`, the format's version and the versions of
the programs that wrote it. Reading builds tensors and plain values; nothing in the file is executed.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.files import atomic_path
from nuriwake.core.labels import LabelSpace
from nuriwake.core.lookup import import_object
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.inference.predictor import Precision, Predictor
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import Changes, PredictSettings, change_settings
from nuriwake.models.base import Model, built_class
from nuriwake.models.state import load_strictly

FORMAT = 1
"""The version of this layout. A reader refuses a higher one."""

FILE_NAME = "bundle.safetensors"
"""The bundle of a run, in its folder."""

OTHER_SETTINGS = "The scores were measured before the settings were changed."
"""The note of a bundle whose settings are no longer those of its evaluation."""

SHOWN_SCORE = 0.5
"""Objects of a lower score are left out of what is shown, unless somebody says otherwise: what is likelier right than wrong."""

_HEADER = "nuriwake"


@dataclass(frozen=True)
class ModelSpec:
    """How to build the network: the arguments of `build_model`."""

    name: str
    in_channels: int
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Bundle:
    """All that is known of a trained model besides its arrays.

    Args:
        task: "semantic".
        model: how to build the network, every option resolved; `classes` are its output channels.
        space: the classes.
        preprocessing: what the network expects of an image.
        settings: how it is used: tiles, thresholds, post-processing.
        metrics: headline scores on validation data; None for what is not defined.
        licence: of the weights, as an SPDX name or a sentence; empty when nobody said and none were given to start from.
        config: the resolved configuration of the run, as plain values.
        notes: what a user should know (source of the weights, arrays left out).

    Raises:
        UserError: the preprocessing is for images of another number of channels than the network's.
    """

    task: str
    model: ModelSpec
    space: LabelSpace
    preprocessing: Preprocessing
    settings: PredictSettings = field(default_factory=PredictSettings)
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    licence: str = ""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preprocessing.channels != self.model.in_channels:
            raise UserError(
                f"A bundle's preprocessing is for as many channels as its model has, {self.model.in_channels}, found "
                f"{self.preprocessing.channels}."
            )


def save_bundle(path: str | Path, bundle: Bundle, model: Model, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write `bundle` with the arrays of `model`, atomically.

    Args:
        state: other arrays of the same names instead (averaged weights). Arrays that share memory (tied weights) are
            written once and tied again when read.

    Raises:
        OSError: the disk is full or read-only; an earlier file stays.
    """
    _write(path, bundle, model.state_dict() if state is None else state)


def change_bundle(path: str | Path, settings: Changes) -> Bundle:
    """Keep other settings in the bundle of a file or run folder, atomically; see `load_predictor`. Returns the new bundle.

    Raises:
        UserError: as `load_predictor`; the bundle then stays as it is.
        OSError: as `save_bundle`.
    """
    file = find_bundle(path)
    bundle, state = read_bundle(file)
    changed = replace(bundle, settings=change_settings(bundle.settings, settings))
    if changed == bundle:
        return bundle
    _predictor(file, changed, state)
    if changed.metrics and OTHER_SETTINGS not in changed.notes:
        changed = replace(changed, notes=(*changed.notes, OTHER_SETTINGS))
    _write(file, changed, state)
    return changed


def _write(path: str | Path, bundle: Bundle, state: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    arrays, aliases = _untie(state)
    header = {
        "format": FORMAT,
        "nuriwake": version("nuriwake"),
        "torch": torch.__version__,
        "bundle": to_plain(bundle),
        "aliases": aliases,
    }
    try:
        text = json.dumps(header, ensure_ascii=False, allow_nan=False, default=_plain_number)
    except ValueError as error:
        raise UserError(
            f"{path}: the bundle's header is not JSON ({error}); write undefined metrics as None."
        ) from error
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={_HEADER: text})
        except SafetensorError as error:
            raise _system_error(error, path) from error


def _system_error(error: Exception, path: str | Path) -> OSError:
    """What the system said when safetensors could not write, such as ENOSPC; of that it leaves the number in its text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else str(error), str(path))


def read_bundle(path: str | Path) -> tuple[Bundle, dict[str, Tensor]]:
    """The bundle at `path` and its arrays, on the CPU.

    Raises:
        UserError: no such file, cut off or damaged, not a bundle of ours, or written by a newer nuriwake.
    """
    header, state = _read(Path(path), arrays=True)
    for name, original in header["aliases"].items():
        if original not in state:
            raise UserError(f"{path}: the array '{original}', shared with '{name}', is missing; the bundle is damaged.")
        state[name] = state[original]
    return _bundle(path, header), state


def describe_bundle(path: str | Path) -> Bundle:
    """As `read_bundle`, without its arrays, which are not read."""
    return _bundle(path, _read(Path(path), arrays=False)[0])


def _bundle(path: str | Path, header: Mapping[str, Any]) -> Bundle:
    try:
        return from_plain(Bundle, header["bundle"])
    except UserError as error:
        raise UserError(f"{path}: the bundle's header does not fit this nuriwake. {error}") from error


def _read(path: Path, *, arrays: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: there is no such bundle file.")
    try:
        with safe_open(path, "pt") as file:
            header = _header(path, file.metadata() or {})
            names: list[str] = list(file.keys()) if arrays else []
            return header, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: no readable safetensors file; it is damaged, cut off or of another format ({error})."
        ) from error


def load_predictor(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    settings: Changes = None,
    task: str | None = None,
    read: Callable[[Path], np.ndarray] | None = None,
) -> Predictor:
    """A predictor from a bundle file or a run folder.

    Args:
        task: what to answer, where the model can answer more than what it was trained for (query models answer all three
            tasks); thresholds and options of decoding in the bundle are for its own task and do not count then.
        settings: None takes the bundle's, a mapping changes some fields of them, `PredictSettings` replaces them.

    Raises:
        UserError: as `read_bundle`; or the arrays are not those of the model that the header names.
    """
    file = find_bundle(path)
    bundle, state = read_bundle(file)
    if task is not None and task != bundle.task:
        bundle = replace(bundle, task=task, settings=_for_task(bundle.settings, task))
    bundle = replace(bundle, settings=change_settings(bundle.settings, settings))
    return _predictor(file, bundle, state, device=device, precision=precision, read=read)


def _for_task(settings: PredictSettings, task: str) -> PredictSettings:
    shown = SHOWN_SCORE if task == "instance" else None
    return replace(settings, decoding={}, thresholds=(), score_threshold=shown)


def _predictor(
    file: Path,
    bundle: Bundle,
    state: Mapping[str, Tensor],
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    read: Callable[[Path], np.ndarray] | None = None,
) -> Predictor:
    model = _build(file, bundle.model)
    load_strictly(model, state, str(file))
    return Predictor(
        model.eval(),
        space=bundle.space,
        preprocessing=bundle.preprocessing,
        task=bundle.task,
        settings=bundle.settings,
        device=device,
        precision=precision,
        read=read,
    )


def find_bundle(path: str | Path) -> Path:
    """`path`, or the bundle in it when it is a run folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / FILE_NAME).is_file():
        raise UserError(f"{path}: this folder has no {FILE_NAME}; is it a run that has not finished its first epoch?")
    return path / FILE_NAME


def resolved_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model `name` as it is built with `given`, for `ModelSpec`: defaults change, a bundle does not.

    A default that JSON cannot hold (a class, in somebody's own constructor) is left to the constructor.
    """
    from nuriwake.models.catalogue import merged_options, model_options

    defaults = {key: to_plain(value) for key, value in model_options(name).items()}
    plain = {key: value for key, value in defaults.items() if _is_plain(value)}
    return merged_options(plain, to_plain(given))


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _build(file: Path, spec: ModelSpec) -> Model:
    from nuriwake.models import build_model

    if ":" in spec.name:
        _check_own(file, spec.name)
    return build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)


def _check_own(file: Path, name: str) -> None:
    """Refuse whatever can do more than build a model. An import path may lead anywhere: `os:kill` takes two numbers as well."""
    try:
        constructor = import_object(name)
    except UserError as error:
        raise UserError(
            f"{file}: the bundle's model is code that does not come with nuriwake. {error} It is not looked for in the current "
            "folder, since the name comes from a file: where you trust that code, install it or put its folder on PYTHONPATH."
        ) from error
    if built_class(constructor) is None:
        raise UserError(
            f"{file}: the bundle's model '{name}' is neither a class derived from nuriwake's Model nor a function that is "
            "annotated to return one; nothing else is called, since the name comes from a file."
        )


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise UserError(f"{path}: a safetensors file, but no nuriwake bundle; `nuriwake import` reads foreign weights.")
    try:
        header = json.loads(metadata[_HEADER])
        found, complete = (
            int(header["format"]),
            isinstance(header["bundle"], dict) and isinstance(header["aliases"], dict),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the bundle's header is damaged ({type(error).__name__}: {error}).") from error
    if found > FORMAT:
        raise UserError(
            f"{path}: written by nuriwake {header.get('nuriwake', '?')} in format {found}; this nuriwake reads up to "
            f"format {FORMAT}. Upgrade it: pip install -U nuriwake."
        )
    if not complete:
        raise UserError(f"{path}: the bundle's header is damaged; 'bundle' and 'aliases' must be mappings.")
    return header


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Arrays that own their memory, and {name: name of the equal array that shares its memory}."""
    arrays: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        # A fresh copy: safetensors refuses views of one storage, and channels_last arrays.
        arrays[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return arrays, aliases


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise UserError(f"A bundle's header holds numbers, texts, lists and mappings, found {type(value).__name__}.")
