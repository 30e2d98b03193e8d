"""Text files read whole: what is no text is said with its name and place; names in one form; and sentences that count."""

import re
import unicodedata
from pathlib import Path

from nuriwake.core.errors import UserError

_ONE_OR_MANY = re.compile(r"\[([^|\[\]]*)\|([^|\[\]]*)\]")


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


def composed(name: str) -> str:
    """`name` in the form in which it is compared (NFC): a Mac writes "ガ" as two characters, most others as one."""
    return unicodedata.normalize("NFC", name)


def on_disk(path: Path) -> Path | None:
    """`path` if there is such a file, else the same name in its other form (see `composed`) if that is one."""
    for form in (None, "NFC", "NFD"):
        found = path if form is None else path.with_name(unicodedata.normalize(form, path.name))
        if found.is_file():
            return found
    return None


def counted(text: str, count: int) -> str:
    """`text` where "[box does|boxes do]" stands for the first words when `count` is 1, and else for the second."""
    return _ONE_OR_MANY.sub(lambda found: found[1] if count == 1 else found[2], text)
