"""SIGTERM and SIGINT: the run finishes its step, saves and leaves. A second signal ends it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from nuriwake.core.errors import RunError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(RunError):  # noqa: N818 (it is no error: the user asked for it)
    """The run was asked to stop and has saved everything; `exit_code` is 128 + the signal (143 or 130), as in a shell."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interrupts:
    """While open, remembers a signal instead of dying from it. Does nothing outside the main thread."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
