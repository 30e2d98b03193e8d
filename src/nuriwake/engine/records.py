"""What a run writes about itself while it works: metrics.jsonl, and TensorBoard events where that is installed."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from nuriwake.engine.checkpoint import Position
from nuriwake.engine.evaluate import Evaluation
from nuriwake.engine.progress import Events
from nuriwake.engine.run import Log, Run


class Records:
    """Open from `position` on; nothing happens where `wanted` is False, in the processes that do not write.

    Attributes:
        lost: bytes of the history that a power cut or the like took.
    """

    def __init__(self, run: Run, position: Position, *, wanted: bool) -> None:
        self._log = Log(run.folder / "metrics.jsonl", position.log_bytes) if wanted else None
        self._events = Events(run.folder, position.step, wanted=wanted)
        self.lost = 0 if self._log is None else self._log.lost

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        if self._log is not None:
            self._log.close()

    @property
    def length(self) -> int:
        """Bytes of metrics.jsonl, for the checkpoint."""
        return 0 if self._log is None else self._log.length

    def train(self, step: int, line: Mapping[str, Any]) -> None:
        """The training of the steps before `step`."""
        self._write({"kind": "train", "step": step, **line})
        self._events.write("train", step, line)

    def evaluation(self, step: int, seconds: float, found: Evaluation) -> None:
        """An evaluation after `step` steps and `seconds`."""
        iou = {name: row.get("iou") for name, row in found.per_class.items()}
        line = {"metric": found.metric, "took": round(found.seconds, 3), "scores": found.scores, "class_iou": iou}
        self._write({"kind": "evaluation", "step": step, "seconds": round(seconds, 3), **line})
        self._events.write("val", step, found.scores)

    def retreat(self, position: Position, reason: str) -> None:
        """The run goes back to `position`: what was written later is taken away."""
        if self._log is not None:
            self._log.cut(position.log_bytes)
        self._events.back_to(position.step)
        self._write({"kind": "event", "step": position.step, "event": "retreat", "reason": reason})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(line)
