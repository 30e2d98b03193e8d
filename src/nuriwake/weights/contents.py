"""What is in a published file or folder: the arrays by name, and what lies beside them. Nothing in it is executed."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.models.state import CONTAINERS, listed
from nuriwake.weights.detectron2_config import FILE_NAME, read_detectron2_config
from nuriwake.weights.mmseg_config import read_mmseg_config
from nuriwake.weights.pickles import read_pickle
from nuriwake.weights.processor import PROCESSOR

FOREIGN = (
    "meta", "message_hub", "optimizer", "optimizers", "optimizer_states", "param_schedulers", "scheduler", "lr_scheduler",
    "lr_schedulers", "callbacks", "loops", "hyper_parameters", "args", "config", "cfg", "opt", "scaler", "amp",
)  # fmt: skip
"""Top-level entries in which training programs keep objects of their own; those come back as placeholders, unread."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The weights in a folder, the first that is there; beside them lies `config.json`."""

_DETECTRON2_SUFFIXES = (".pkl", ".pth")
_AUGMENTATIONS = "albumentations_config_eval.json"

_CONTAINERS = (*CONTAINERS, "net", "params", "state_dict_ema", "model_ema")
"""Keys under which training programs wrap the arrays, in the order they are looked for. Averages of the weights come last:
beside the weights themselves they are left, which the report says."""

_PREFIXES = ("module.", "model.", "_orig_mod.")
_NEARLY_ALL = 0.9
"""The share of the arrays that a wrapper's prefix has; the rest stays as it is, so that strict fitting names it."""

_OWN_PREFIX = "model.pixel_level_module."
"""Of transformers' Mask2Former, whose arrays but the last few begin with `model.` by themselves."""

_TRAINING = {
    r"n_averaged": "how many models were averaged",
    r"(loss|loss_fn|criterion)\..+": "part of the training loss",
}
"""What wrappers hold beside the model: {regular expression of the whole key: why it is left out}."""


@dataclass(frozen=True)
class Contents:
    """A published checkpoint as its file has it.

    Attributes:
        file: where the arrays come from.
        arrays: {published key: tensor}, wrappers and the prefixes of training programs taken off.
        others: {key among the arrays: what stands there that is no array}.
        config: `config.json`, or Detectron2's `config.yaml` with its bases; empty when there is none. Besides, as "mmseg", the
            `MmsegConfig` that the file itself holds.
        processor: `preprocessor_config.json` of transformers; empty when there is none.
        names: of the classes, where the file or `config.json` tells them.
        beside: entries of the file beside the arrays (`meta`, `optimizer`), which are not used.
        left_out: {key: why} of arrays that a wrapper had beside the model's.
        unread: files beside the file that say something of the model and are not used.
    """

    file: Path
    arrays: Mapping[str, Tensor]
    others: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    processor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    names: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    unread: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{published key: shape}."""
        return {key: tuple(item.shape) for key, item in self.arrays.items()}


def read_contents(path: str | Path) -> Contents:
    """The checkpoint in the file or folder `path`.

    Raises:
        UserError: none there; cut off or damaged; a pickle that wants more than arrays; no named arrays; an unreadable
            configuration beside it.
    """
    path = Path(path)
    file = _find(path)
    beside = file.parent if file.name in HUB_FILES else None
    config = _json(beside, "config.json") or _detectron2(file)
    processor = _json(beside, PROCESSOR)
    unread = (_AUGMENTATIONS,) if beside is not None and (beside / _AUGMENTATIONS).is_file() else ()
    if _is_safetensors(file):
        arrays, left_out = _bare(_read_safetensors(file))
        names = _config_names(config)
        return Contents(file, arrays, {}, config, processor, names, left_out=left_out, unread=unread)
    loaded = read_pickle(file, placeholders_under=FOREIGN)
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{file}: holds no named arrays; expected a state dict, found {_kind(loaded)}.")
    key = next((key for key in _CONTAINERS if _holds_arrays(loaded.get(key))), None)
    state = loaded if key is None else loaded[key]
    rest = () if key is None else tuple(str(name) for name in loaded if name != key)
    arrays = {str(name): found for name, item in state.items() if (found := _tensor(item)) is not None}
    others = {str(name): _kind(item) for name, item in state.items() if _tensor(item) is None}
    if not arrays:
        raise UserError(f"{file}: holds no named arrays; found {listed(others)}.")
    names = _meta_names(loaded.get("meta")) or _config_names(config)
    config = {**config, **_meta_config(loaded.get("meta"))}
    arrays, left_out = _bare(arrays)
    return Contents(file, arrays, others, config, processor, names, rest, left_out, unread)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: there is no such file or folder.")
    for name in HUB_FILES:
        if (path / name).is_file():
            return path / name
    if (path / FILE_NAME).is_file():
        found = sorted(item for item in path.iterdir() if item.suffix in _DETECTRON2_SUFFIXES)
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"{path}: expected one weights file beside {FILE_NAME}, found {listed([item.name for item in found])}; name it."
        )
    shards = sorted(path.glob("*.index.json"))
    if shards:
        raise UserError(f"{path}: the weights are cut into several files ({shards[0].name}); join them into one first.")
    raise UserError(f"{path}: this folder has neither {' nor '.join(HUB_FILES)}; give the file itself.")


def _detectron2(file: Path) -> Mapping[str, Any]:
    config = file.parent / FILE_NAME
    return read_detectron2_config(config) if config.is_file() and file.suffix in _DETECTRON2_SUFFIXES else {}


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        return file.suffix == ".safetensors" or stream.read(9)[8:] == b"{"


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stream:
            if "nuriwake" in (stream.metadata() or {}):
                raise UserError(f"{file}: this is a bundle of nuriwake already; use it as it is.")
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file}: no readable safetensors file; it is cut off, damaged or of another format ({error})."
        ) from error


def _json(folder: Path | None, name: str) -> Mapping[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / name}: no readable JSON ({error}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{folder / name}: expected a mapping, found {_kind(value)}.")
    return value


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor | np.ndarray) for item in value.values())


def _bare(arrays: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`arrays` without the prefixes that wrappers put before the model's keys, and {key: why} of what they had beside it."""
    found, left_out = dict(arrays), dict[str, str]()
    while True:
        prefix = next((item for item in _PREFIXES if _wrapped(found, item)), None)
        if prefix is None:
            return found, left_out
        left_out |= {key: why for key, item in found.items() if (why := _of_training(key, item))}
        found = {key.removeprefix(prefix): item for key, item in found.items() if key not in left_out}


def _wrapped(arrays: Mapping[str, Tensor], prefix: str) -> bool:
    own = [key for key, item in arrays.items() if not _of_training(key, item)]
    inside = sum(key.startswith(prefix) for key in own)
    if not inside or any(key.startswith(_OWN_PREFIX) for key in own):
        return False
    return inside >= _NEARLY_ALL * len(own) and len({key.removeprefix(prefix) for key in own}) == len(own)


def _of_training(key: str, item: Tensor) -> str | None:
    """Why an array beside a wrapped model is left out; None for one that has no known purpose."""
    if key in ("mean", "std") and item.ndim in (3, 4) and item.numel() == item.shape[-3]:
        values = " ".join(f"{value:.3g}" for value in item.flatten().tolist()[:16])
        return f"the {key} by which the training program normalised images, {values}, which is not taken over"
    return next((why for pattern, why in _TRAINING.items() if re.fullmatch(pattern, key)), None)


def _tensor(item: Any) -> Tensor | None:
    if not isinstance(item, np.ndarray):
        return item if isinstance(item, Tensor) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of views that cannot be written to; they are only read
        return torch.from_numpy(item)


def _meta_names(meta: Any) -> tuple[str, ...]:
    """mm*: `meta["CLASSES"]`, and `meta["dataset_meta"]["classes"]` since its version 1."""
    if not isinstance(meta, Mapping):
        return ()
    newer = meta.get("dataset_meta")
    names = newer.get("classes", newer.get("CLASSES")) if isinstance(newer, Mapping) else meta.get("CLASSES")
    return _texts(names)


def _meta_config(meta: Any) -> dict[str, Any]:
    """mm*: the configuration as Python text, `meta["config"]`, and `meta["cfg"]` since its version 1."""
    texts = (meta.get("cfg"), meta.get("config")) if isinstance(meta, Mapping) else ()
    found = (read_mmseg_config(text) for text in texts if isinstance(text, str))
    return next(({"mmseg": config} for config in found if config is not None), {})


def _config_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """transformers: `id2label`, where it says more than LABEL_0, LABEL_1, ..."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or set(names) != {str(label) for label in range(len(names))}:
        return ()
    found = _texts([names[str(label)] for label in range(len(names))])
    return () if all(name == f"LABEL_{label}" for label, name in enumerate(found)) else found


def _texts(names: Any) -> tuple[str, ...]:
    """`names` as stripped texts, each once ("door", "door (2)"); none when they are anything else."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    found: list[str] = []
    for name in (str(each).strip() for each in names):
        same = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({same + 1})" if name in found else name)
    return tuple(found)


def _kind(value: Any) -> str:
    return "an empty dict" if value == {} else f"a value of type {type(value).__name__}"
