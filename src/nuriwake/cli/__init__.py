"""The command line: one typed function per verb, one file each; imported only when its verb is called."""

import errno
import sys
import warnings
from importlib.metadata import version
from keyword import iskeyword

from cyclopts import App, CycloptsError
from rich.console import Console

from nuriwake.core.errors import RunError, UserError

app = App(
    name="nuriwake",
    help="Image segmentation: train, evaluate, predict.",
    version=version("nuriwake"),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `run` says a sentence
)
VERBS = {
    "recommend": "Name models that suit a data set and this machine.",
    "train": "Train a model on a folder of images and masks.",
    "evaluate": "Score a run or bundle on a split of a data set.",
    "predict": "Predict images: label PNG, overlay, predictions.json.",
    "convert": "Write a data set in another format.",
    "import": "Turn published weights of another library into a bundle.",
    "settings": "Say what a bundle is and how it answers, and change how.",
    "plot": "Draw a run's history, classes, confusion matrix and report.",
    "models": "List the models there are.",
    "check": "Find what is wrong with a data set, before it is trained on.",
    "demo-data": "Draw a small data set to try everything on.",
}
"""Verb -> help; the verb `some-verb` is the function `some_verb` in the file of that name; `import`, a keyword, `import_`."""

for verb, summary in VERBS.items():
    function = verb.replace("-", "_") + "_" * iskeyword(verb)
    app.command(f"nuriwake.cli.{function}:{function}", name=verb, help=summary)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and leave with its exit code.

    0 done, 1 the work failed, 2 what the user gave is wrong, 128 + signal when a signal stopped it (130: Ctrl-C; 143:
    SIGTERM, after a training has saved itself).
    """
    warnings.formatwarning = _warning
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> str:
    """Our own warnings are sentences for users; where in the code they arose is for those of others."""
    if category is UserWarning:
        return f"Note: {message}\n"
    return _PYTHONS_WARNING(message, category, *place, **more)  # pyright: ignore


_PYTHONS_WARNING = warnings.formatwarning


def run(arguments: list[str]) -> int:
    """Run one verb; every failure a user can cause or mend is one sentence on standard error. Returns the exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (UserError, RunError) as error:
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        return _fail(f"{error} See 'nuriwake {arguments[0] if arguments else ''} --help'.".replace("  ", " "), 2)
    except OSError as error:
        return _fail(_sentence(error), 1)
    except KeyboardInterrupt:
        return _fail("Stopped.", 130)
    return 0


def _fail(message: str, code: int) -> int:
    # No markup: a file name may hold brackets.
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"nuriwake: {message}", markup=False)
    return code


def _sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hints = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again (a training goes on with --resume).",
        errno.EROFS: "the file system is read-only; choose another folder with --out.",
        errno.EACCES: "no permission; choose another folder or change its permissions.",
        errno.EPERM: "not permitted; choose another folder or change its permissions.",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again.",
    }
    return where + hints.get(error.errno or 0, f"{error.strerror or error}.")
