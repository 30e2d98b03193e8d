"""`nuriwake recommend`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def recommend(
    data: Path,
    *,
    for_: Annotated[
        Literal["balance", "accuracy", "speed", "small", "few-images"], Parameter(name="--for")
    ] = "balance",
    task: str | None = None,
    format: str | None = None,  # noqa: A002 (the contract's word)
    device: str = "auto",
) -> None:
    """Look at the data and the machine and name three models that suit, each with its reasons, its cost and its command.

    Args:
        data: a folder whose format is recognised, or a YAML file that describes the data.
        for_: what counts most: a balance for this machine, the best score, fast answers, a small file, or few images.
        task: semantic, instance or panoptic; what the classes of the data tell, where it is not given.
        format: of the data, where it is not to be recognised.
        device: auto, cpu or gpu; where it is not here, nothing is timed.
    """
    from nuriwake.api import recommend as recommend_models

    for line in recommend_models(data, goal=for_, task=task, format=format, device=device).lines():
        print(line)
