"""Text files read whole: what is no text is said with its name and place."""

from pathlib import Path

from nuriwake.core.errors import UserError


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`, without a byte order mark. Raises UserError where it cannot be read, or is no such text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: this is no UTF-8 text at byte {error.start:,} ({error.reason}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
