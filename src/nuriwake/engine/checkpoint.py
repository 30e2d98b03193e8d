"""Checkpoints: everything that moves during a run, written atomically and read without executing anything."""

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.files import atomic_path

FORMAT = 1


@dataclass
class Best:
    """The best evaluation so far: the file of its weights, its headline score, its step and thresholds."""

    file: str
    score: float
    step: int
    thresholds: list[float] = field(default_factory=list[float])


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        step: optimiser steps done; with the seed it gives the epoch, the next image and all randomness.
        elapsed: seconds worked, over all resumptions.
        evaluated: progress at the last evaluation.
        evaluated_step: step of the last evaluation; a resumed run does not repeat it.
        evaluation_seconds: of the slowest evaluation.
        reached: progress of a run with a time budget.
        stale: evaluations since the best one.
        rate_scale: 1, or less after a retreat from a loss that was not finite.
        retreats: how often the run went back.
        log_bytes: length of metrics.jsonl.
        stopped: ended before its planned length (early stop).
        best: the best evaluation.
    """

    step: int = 0
    elapsed: float = 0.0
    evaluated: float = 0.0
    evaluated_step: int = 0
    evaluation_seconds: float = 0.0
    reached: float = 0.0
    stale: int = 0
    rate_scale: float = 1.0
    retreats: int = 0
    log_bytes: int = 0
    stopped: bool = False
    best: Best | None = None


def save_checkpoint(path: Path, position: Position, parts: Mapping[str, Any]) -> None:
    """Write `position` and the state dicts in `parts` to `path`, whole or not at all.

    Raises:
        RunError: the disk is full or read-only.
    """
    write_torch(path, {"format": FORMAT, "position": asdict(position), **parts})


def keep_as(path: Path, other: Path) -> None:
    """Give the content of `path` the name `other` as well; later writes to either name leave the other alone.

    Raises:
        RunError: the disk is full or read-only.
    """
    link = other.with_name(f".{other.stem}-link{other.suffix}")
    try:
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(path)
            link.replace(other)
        except OSError:  # some file systems have no links
            with atomic_path(other) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        raise RunError(f"{other}: the checkpoint cannot be written ({error.strerror}); is the disk full?") from error


def load_checkpoint(path: Path, device: torch.device) -> tuple[Position, dict[str, Any]]:
    """The position and the state dicts in `path`, tensors on `device`.

    Raises:
        UserError: not a file of `save_checkpoint`, cut off, or of another version.
    """
    content = read_torch(path, device)
    if content.get("format") != FORMAT or "position" not in content:
        raise UserError(
            f"{path}: this is no checkpoint of a run of this version; start the run again in another folder."
        )
    values = dict(content.pop("position"))
    content.pop("format")
    best = values.pop("best")
    return Position(**values, best=None if best is None else Best(**best)), content


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save, atomically. Raises RunError when it cannot be written."""
    try:
        with atomic_path(path) as temporary:
            torch.save(dict(content), temporary)
    except (OSError, RuntimeError) as error:  # PyTorch's writer reports a full disk as a RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path}: the checkpoint cannot be written ({reason}); is the disk full or read-only?"
        ) from error


def read_torch(path: Path, device: torch.device) -> dict[str, Any]:
    """torch.load of tensors and plain containers only. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: the checkpoint is damaged or not one of ours ({type(error).__name__}); delete it to start the run "
            "from its beginning, or restore the file."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a checkpoint, found a {type(content).__name__}.")
    return content
