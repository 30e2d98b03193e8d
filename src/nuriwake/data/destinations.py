"""Whether something can be written somewhere, asked before the work is done that it is the result of."""

import tempfile
from pathlib import Path

from nuriwake.core.errors import UserError


def refuse_unwritable_folder(folder: Path) -> None:
    """Raises UserError where no file can be made in `folder`; what is not there is made for the try, and taken away again."""
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: nothing can be written there ({error.strerror or error}); choose another folder."
        ) from error
    finally:
        for part in made:
            if part.is_dir() and not any(part.iterdir()):
                part.rmdir()


def refuse_unwritable_file(path: Path) -> None:
    """Raises UserError where `path` is a folder, or no file can be made beside it."""
    if path.is_dir():
        raise UserError(f"{path}: this is a folder; give the name of a file to write.")
    refuse_unwritable_folder(path.parent)
