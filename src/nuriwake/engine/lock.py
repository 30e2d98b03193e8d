"""One process at a time works on a run folder."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from nuriwake.core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Lock:
    """Held from `take` to `release` or the end of the process, however it ends.

    Nothing is locked where files cannot be (Windows, some network disks). Processes that were forked do not inherit it, so that
    workers which outlive a killed run for a moment do not hold up its resumption.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Make the folder, if need be, and lock it.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="ascii")
        except OSError as error:
            raise UserError(
                f"{folder}: the run folder cannot be written ({error.strerror}); choose another folder."
            ) from error
        if fcntl is None:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._file.seek(0)
            holder = self._file.read(32).strip()
            self.release()
            raise UserError(
                f"{folder}: another process{f' ({holder})' if holder else ''} is working on this run; wait until it ends, or stop it "
                "first."
            ) from error
        except OSError:  # a file system without locks
            return
        with suppress(OSError):  # of a full disk: the number is only for the message above
            self._file.truncate(0)
            os.write(self._file.fileno(), str(os.getpid()).encode())

    def release(self) -> None:
        """Let another process have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
