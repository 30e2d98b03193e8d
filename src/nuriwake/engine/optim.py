"""The optimiser and its parameter groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.engine.config import OptimConfig
from nuriwake.models.backbones.base import Backbone
from nuriwake.models.base import Model


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate and a decay; `scale` is the factor on the run's learning rate, `backbone` whether they are the
    backbone's."""

    scale: float
    decay: float
    backbone: bool
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]


def build_optimiser(model: Model, config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`; each group holds its `scale` and whether it is the `backbone`'s, for `set_rate`.

    Raises:
        UserError: nothing is left to learn.
    """
    groups = [
        {
            "params": list(group.parameters),
            "weight_decay": group.decay,
            "scale": group.scale,
            "backbone": group.backbone,
        }
        for group in parameter_groups(model, config)
    ]
    if not groups:
        raise UserError("optim.freeze: every parameter is frozen, so nothing can be trained; freeze less.")
    # One kernel for all parameters, on the CPU too; SGD has the same on both.
    fused = device.type in ("cpu", "cuda")
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float, *, backbone: float = 1.0) -> None:
    """Every group learns at `rate` times its scale, those of the backbone at `backbone` times that."""
    for group in optimiser.param_groups:
        # A checkpoint of an earlier version does not say whose its groups are; no schedule of it asked for that.
        group["lr"] = rate * group["scale"] * (backbone if group.get("backbone", False) else 1.0)


def parameter_groups(model: Model, config: OptimConfig) -> list[Group]:
    """The learning parameters by (scale of the rate, decay, whether they are the backbone's), in a fixed order.

    Parameters of one dimension (biases, norms) and embeddings (Mask2Former's queries, whose authors spare them too) have no
    weight decay. The scale is `backbone_rate` inside the backbone,
    times `layer_decay` per stage that has parameters, counted from the output.
    """
    scales = _scales(model, config)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    backbone = model.backbone()
    own = set() if backbone is None else {id(parameter) for parameter in backbone.parameters()}
    found: dict[tuple[float, float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 and id(parameter) not in embeddings else 0.0
            found.setdefault((scales[id(parameter)], decay, id(parameter) in own), []).append((name, parameter))
    return [
        Group(*kind, tuple(name for name, _ in items), tuple(parameter for _, parameter in items))
        for kind, items in sorted(found.items(), key=lambda item: item[0])
    ]


def _scales(model: Model, config: OptimConfig) -> dict[int, float]:
    scales = {id(parameter): 1.0 for parameter in model.parameters()}
    stages = [stage for stage in model.stages() if next(stage.parameters(), None) is not None]
    for depth, stage in enumerate(reversed(stages)):
        for parameter in stage.parameters():
            scales[id(parameter)] = config.layer_decay**depth
    backbone = model.backbone()
    for parameter in () if backbone is None else backbone.parameters():
        scales[id(parameter)] *= config.backbone_rate
    return scales


def freeze(model: Model, what: Sequence[str]) -> list[nn.Module]:
    """Stop the named parts from learning.

    Args:
        what: "backbone"; "early", the backbone's layers up to stride 4; or module names ("decoder.0").

    Returns:
        The frozen modules; `training_mode` keeps them in eval mode, so that their running statistics stay too.

    Raises:
        UserError: a name that no module has.
    """
    frozen: list[nn.Module] = []
    modules = dict(model.named_modules())
    for name in what:
        backbone = model.backbone()
        module = backbone if name == "backbone" and backbone is not None else modules.get(name)
        if name == "early" and (early := early_modules(model)):
            module = nn.ModuleList(early)
        if module is None:
            raise UserError(
                f"optim.freeze: the model has no module '{name}'.{did_you_mean(name, filter(None, modules))}"
            )
        module.requires_grad_(requires_grad=False)
        frozen.append(module)
    return frozen


def early_modules(model: Model) -> list[nn.Module]:
    """The backbone's layers up to stride 4; empty where there is no backbone, or they do not stand apart."""
    backbone = model.backbone()
    return list(backbone.early()) if isinstance(backbone, Backbone) else []


def seen_channels(model: Model) -> int:
    """Of the images that the backbone of `model` looks at; 0 where there is none."""
    backbone = model.backbone()
    if not isinstance(backbone, Backbone):
        return 0
    published = backbone.published()
    return max((published.shapes[name][1] for name in published.first_convolutions), default=0)


def training_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Train mode for all but the frozen parts."""
    model.train()
    for module in frozen:
        module.eval()


def learning(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that learn."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
