"""The run folder.

config.yaml         the resolved configuration; its presence makes the folder a run
choices.json        what was chosen, and why
data.json           fingerprint, classes, names of the images of every split, preprocessing
metrics.jsonl       one JSON object per line: {"kind": "train" | "evaluation" | "event", "step": ...}
checkpoints/        last.pt, best-<step>.pt, and steady.pt: where the run goes back to when its loss is not finite
bundle.safetensors  the bundle of the best weights
evaluation.json     the final evaluation of that bundle: scores, classes, images
plots/              the history and the scores as PNG
report.html         all of it on one page
tensorboard/        events, when TensorBoard is installed
.lock               held by the process that works on the run
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.files import write_json, write_text
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.data.dataset import DataSet, listed
from nuriwake.engine.config import RunConfig, differences, fill, flatten, override
from nuriwake.weights.bundle import FILE_NAME

# What may differ between a run and its resumption: none of it changes the weights on the CPU.
FREE_FIELDS = frozenset(
    {
        "out",
        "data.path",
        "data.workers",
        "data.cache_mib",
        "data.mask_cache",
        "device",
        "checkpoint_seconds",
        "licence",
        "evaluation.metrics",
        "evaluation.tolerance",
    }
)


_RESULTS = ("metrics.jsonl", "checkpoints", FILE_NAME, "evaluation.json")
"""What a new run would take for its own."""


@dataclass(frozen=True)
class Choice:
    """A value that was chosen for the user, and why, in one line."""

    field: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Run:
    """A training folder."""

    folder: Path

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return from_plain(RunConfig, _read_yaml(self.folder / "config.yaml"))

    @property
    def choices(self) -> list[Choice]:
        """What was chosen for the data and the machine."""
        return [Choice(**item) for item in read_json(self.folder / "choices.json")]

    @property
    def data(self) -> dict[str, Any]:
        """Fingerprint, classes, splits."""
        return read_json(self.folder / "data.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that is cut off is left out."""
        return read_lines(self.folder / "metrics.jsonl")

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The final evaluation; None before the run has ended."""
        path = self.folder / "evaluation.json"
        return read_json(path) if path.is_file() else None

    @property
    def scores(self) -> dict[str, Any]:
        """The headline scores of the final evaluation; empty before the run has ended."""
        return (self.evaluation or {}).get("scores", {})

    @property
    def bundle(self) -> Path:
        """The file of the best model."""
        return self.folder / FILE_NAME

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def steady(self) -> Path:
        """The checkpoint to which a run goes back; written at moments that the steps decide, not the clock."""
        return self.folder / "checkpoints" / "steady.pt"

    @property
    def finished(self) -> bool:
        """The final evaluation is written, which is the last thing a run does."""
        return (self.folder / "evaluation.json").is_file() and self.bundle.is_file()


def holds_run(folder: Path) -> bool:
    """True when `folder` is the folder of a run."""
    return (folder / "config.yaml").is_file()


def open_run(folder: str | Path) -> Run:
    """The run in `folder`. Raises UserError when there is none."""
    folder = Path(folder)
    if not holds_run(folder):
        raise UserError(f"{folder}: this folder holds no run (there is no config.yaml in it).")
    return Run(folder)


def create_run(config: RunConfig, *, choices: Sequence[Choice], data: Mapping[str, Any]) -> Run:
    """A new run folder at `config.out`.

    Raises:
        UserError: the folder holds a run already, or cannot be written.
    """
    folder = config.out
    check_free(folder)
    try:
        write_json(folder / "choices.json", to_plain(list(choices)))
        write_json(folder / "data.json", dict(data))
        keep_config(config)
    except OSError as error:
        raise UserError(
            f"{folder}: the run folder cannot be written ({error.strerror}); choose another folder."
        ) from error
    return Run(folder)


def keep_config(config: RunConfig) -> None:
    """Write `config` as that of the run at `config.out`. Raises OSError when it cannot be written."""
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    write_text(config.out / "config.yaml", text)


def check_free(folder: Path) -> None:
    """Raises UserError when `folder` holds a run, is a file, or holds a run's files without its configuration."""
    if holds_run(folder):
        raise UserError(
            f"{folder}: this folder already holds a run; continue it with resume, or choose another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the run, found a file; choose another name.")
    left = [name for name in _RESULTS if (folder / name).exists()]
    if left:
        raise UserError(
            f"{folder}: this folder holds files of a run ({', '.join(left)}) without its config.yaml; choose another folder, or move "
            "them away."
        )


def resumed_config(config: RunConfig) -> RunConfig:
    """The configuration with which the run at `config.out` goes on: its own, with the free fields of `config`.

    Gaps (None, "auto") in `config` take the run's values.

    Raises:
        UserError: there is no run, or `config` says something else; the fields are named with both values.
    """
    stored = open_run(config.out).config
    asked = fill(config, flatten(to_plain(stored)))
    changed = {name: pair for name, pair in differences(stored, asked).items() if name not in FREE_FIELDS}
    if changed:
        listed = "; ".join(f"{name} is {old!r} there and {new!r} now" for name, (old, new) in changed.items())
        raise UserError(f"{config.out}: the run cannot be resumed with another configuration: {listed}.")
    free = {name: value for name, value in flatten(to_plain(asked)).items() if name in FREE_FIELDS}
    return override(stored, free)


def check_data(run: Run, data: DataSet) -> None:
    """Raises UserError when the run was started with other data; it says what changed, as far as the run remembers."""
    found, now = run.data.get("fingerprint"), data.fingerprint()
    if found != now:
        raise UserError(
            f"{run.folder}: the run cannot be resumed with other data: {_changed(run.data, data)} since it started (fingerprint "
            f"{found} there, {now} now). Put the data back as they were, or start anew with another --out."
        )


def _changed(before: Mapping[str, Any], data: DataSet) -> str:
    if before.get("space") != to_plain(data.space):
        return "the classes changed"
    names = {split: {record.name for record in records} for split, records in data.splits.items()}
    was = {split: set(found) for split, found in before.get("splits", {}).items()}
    for split in sorted({*names, *was}):
        gone = sorted(was.get(split, set()) - names.get(split, set()))
        new = sorted(names.get(split, set()) - was.get(split, set()))
        if gone or new:
            parts = [f"{len(part)} {word} ({listed(part)})" for part, word in ((gone, "gone"), (new, "new")) if part]
            return f"images of the split '{split}' changed, {' and '.join(parts)},"
    return "the contents of image, mask or annotation files, or how they are read, changed"


def check_world(run: Run, world: int) -> None:
    """Raises UserError when the run was started with another number of processes."""
    found = run.data.get("processes")
    if found != world:
        raise UserError(
            f"{run.folder}: the run was started with {found} processes and cannot be resumed with {world}: the steps would "
            "not be the same; start as many."
        )


def sweep(run: Run) -> None:
    """Remove the temporary files that a killed process left in the folder of `run` (see `core.files.atomic_path`)."""
    for pattern in _LEFT:
        for path in run.folder.glob(pattern):
            path.unlink(missing_ok=True)


_LEFT = (
    "checkpoints/.last-*.pt",
    "checkpoints/.steady-*.pt",
    "checkpoints/.best-*.pt",
    ".bundle-*.safetensors",
    ".evaluation-*.json",
    ".report-*.html",
)


class Log:
    """metrics.jsonl, opened for appending.

    Attributes:
        length: what a checkpoint remembers.
        lost: bytes that were missing or damaged when it was opened, for instance after a power cut.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Open `path` and cut it to `length` bytes, so that nothing of a lost future stays in it."""
        self._path, self.length = path, 0
        try:
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}).") from error
        self.cut(length)
        self.lost = length - self.length

    def cut(self, length: int) -> None:
        """Keep the whole lines among the first `length` bytes."""
        try:
            self._file.seek(0)
            self.length = _sound(self._file.read(length))
            self._file.truncate(self.length)
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror}).") from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one JSON line."""
        data = (json.dumps(dict(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror}); is the disk full?") from error
        self.length += len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file; [] when there is none. Raises UserError naming a damaged line."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}: line {number} of the history is damaged; delete that line.") from error
    return found


def _sound(data: bytes) -> int:
    """The bytes of `data` up to its first line that is cut off or no JSON object."""
    length = 0
    for line in data.splitlines(keepends=True):
        try:
            whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            break
        length += len(line)
    return length


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run. Raises UserError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this file of the run is missing or damaged.") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: this file of the run is missing or damaged.") from error
