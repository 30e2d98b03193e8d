"""The losses by name, and weighted sums of them: "dice+bce", "0.5*dice+1.0*bce" or a mapping."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from math import isfinite
from typing import Any

from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean, lookup
from nuriwake.core.serial import from_plain
from nuriwake.losses.pixels import PixelBatch

PixelLoss = Callable[[PixelBatch], Tensor]
"""A scalar from a prepared batch; the built-in ones are frozen dataclasses of their options."""

LOSSES: dict[str, str] = {
    "cross_entropy": "nuriwake.losses.cross_entropy:CrossEntropy",
    "bce": "nuriwake.losses.binary_cross_entropy:BinaryCrossEntropy",
    "focal": "nuriwake.losses.focal:Focal",
    "dice": "nuriwake.losses.overlap:Dice",
    "jaccard": "nuriwake.losses.overlap:Jaccard",
    "tversky": "nuriwake.losses.overlap:Tversky",
    "focal_tversky": "nuriwake.losses.overlap:FocalTversky",
    "lovasz": "nuriwake.losses.lovasz:Lovasz",
}


def parse_terms(terms: str | Mapping[str, float]) -> dict[str, float]:
    """Name -> weight from "dice+bce", "0.5*dice+1.0*bce" or a mapping.

    Raises:
        UserError: no term, an unknown name (with the nearest), a name twice, or a weight that is not above 0.
    """
    pairs = [_term(part, terms) for part in terms.split("+")] if isinstance(terms, str) else list(terms.items())
    if not pairs:
        raise UserError("A loss needs at least one term, such as 'dice+bce'; found none.")
    for index, (name, weight) in enumerate(pairs):
        lookup(name, LOSSES, "loss", here=True)
        if not (isfinite(weight) and weight > 0):
            raise UserError(f"The weight of the loss '{name}' is a number above 0, found {weight}.")
        if name in dict(pairs[:index]):
            raise UserError(f"The loss '{name}' stands twice; give it once with the summed weight.")
    return {name: float(weight) for name, weight in pairs}


def check_weights(weights: Mapping[str, float], published: Mapping[str, float], whose: str) -> None:
    """Are `weights`, given in place of some of the `published`, those of terms that the loss of `whose` has?

    Raises:
        UserError: an unknown term (with the nearest), or a weight that is no number from 0 on.
    """
    for name, weight in weights.items():
        if name not in published:
            raise UserError(f"The loss of {whose} has no term '{name}'.{did_you_mean(name, published)}")
        if not (isfinite(weight) and weight >= 0):
            raise UserError(f"The weight of the term '{name}' is a number from 0 on, found {weight}.")


def build_loss(name: str, options: Mapping[str, Any]) -> PixelLoss:
    """The loss `name` (a key of `LOSSES`, an import path or an entry point) with its options.

    Raises:
        UserError: an unknown loss or option, with the nearest; or a value out of range.
    """
    kind = lookup(name, LOSSES, "loss", here=True)
    if is_dataclass(kind):
        return from_plain(kind, options, name)
    if options:
        raise UserError(f"The loss '{name}' is no dataclass, so it takes no options; found {', '.join(options)}.")
    return kind()


def _term(part: str, whole: str) -> tuple[str, float]:
    weight, star, name = part.rpartition("*")
    if not name.strip():
        raise UserError(
            f"The loss '{whole}' has an empty term; expected something like 'dice+bce' or '0.5*dice+1.0*bce'."
        )
    try:
        return name.strip(), float(weight) if star else 1.0
    except ValueError:
        raise UserError(
            f"The loss '{whole}': the weight of '{name.strip()}' is no number, found '{weight.strip()}'."
        ) from None
