"""`nuriwake models`."""

import torch


def models(begins_with: str = "", *, weights: bool = False) -> None:
    """List the models: what they answer, parameters for 3 channels and 2 classes, and the licence of their published backbone weights.

    Args:
        begins_with: only names that begin so.
        weights: list the published segmentation weights that `nuriwake import NAME` fetches instead.
    """
    if weights:
        _print_weights(begins_with)
        return
    from rich.console import Console
    from rich.table import Table

    from nuriwake.models import FAMILIES, MODELS, build_model, count_parameters, list_models
    from nuriwake.models.backbones import BACKBONES

    table = Table("model", "task", "M param.", "what", "pretrained weights", "paper", box=None, pad_edge=False)
    for name in list_models(begins_with):
        entry = MODELS[name]
        with torch.device("meta"):
            count = count_parameters(build_model(name, in_channels=3, classes=2))
        backbone = BACKBONES.get(entry.backbone or "")
        licence = "none" if entry.backbone is None else backbone.licence if backbone else f"timm: {entry.backbone}"
        task = "all three" if entry.task == "any" else entry.task
        table.add_row(name, task, f"{count / 1e6:.2f}", entry.summary, licence or "none", entry.paper)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width to fit into
    console.print(table)
    families = ", ".join(f"{family}_<backbone>" for family in FAMILIES)
    console.print(
        f"Also {families}, with a backbone of ours ({', '.join(BACKBONES)}) or any of timm's with feature maps."
    )


def _print_weights(begins_with: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from nuriwake.weights.catalogue import WEIGHTS

    table = Table("weights", "MB", "score", "licence", "verified by", "address", box=None, pad_edge=False)
    for name, item in WEIGHTS.items():
        if name.startswith(begins_with):
            licence = item.licence if item.commercial else f"{item.licence} (--accept-license)"
            table.add_row(name, f"{item.megabytes:.0f}", item.score, licence, item.verified_by, item.address)
    console = Console()
    if not console.is_terminal:
        console = Console(width=400)
    console.print(table)
    console.print("nuriwake import NAME --out bundle.safetensors fetches one; other files are imported by their path.")
