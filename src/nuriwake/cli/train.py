"""`nuriwake train`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nuriwake.cli.options import given, partial
from nuriwake.engine.config import RunConfig

Fields = partial(RunConfig, ("out", "data.path", "model.name"))
_NOTHING_TYPED = Fields()


def train(
    data: Path,
    *,
    model: str | None = None,
    out: Path = Path("runs/latest"),
    format: str | None = None,  # noqa: A002 (the contract's word)
    config: Path | None = None,
    resume: bool = False,
    accept_license: bool = False,
    fields: Annotated[Fields, Parameter(name="*")] = _NOTHING_TYPED,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train a model on a folder of images and masks; what is not given is chosen, and said.

    Args:
        data: a folder whose format is recognised, or a YAML file that describes the data.
        model: one of 'nuriwake models'.
        out: the run folder.
        format: of the data, where several fit; the same as --data.format.
        config: a YAML file with fields of the configuration; options on the command line win over it.
        resume: go on with the run in the folder; on the CPU the result is the same to the bit.
        accept_license: consent to the licence of backbone weights that forbid commercial use; not kept in the run.
        fields: of the configuration.
    """
    from nuriwake.api import configure, read_overrides, train_config

    layers = (read_overrides(config) if config else {}, given(fields), {"data.format": format} if format else {})
    settled = configure(data, model=model, out=out, layers=layers, resume=resume)
    train_config(settled, resume=resume, accept_license=accept_license, say=lambda line: print(line, flush=True))
