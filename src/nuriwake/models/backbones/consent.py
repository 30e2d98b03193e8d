"""Consent to the licence of weights that forbid commercial use, asked for before anything is fetched."""

from nuriwake.core.errors import UserError
from nuriwake.models.backbones import BACKBONES, MIX_TRANSFORMER_LICENCE
from nuriwake.models.backbones.timm import hub_licence

_FORBIDDING = ("cc-by-nc", "noncommercial", "apple-amlr", "seer-license")
"""Parts of the licences that timm states."""

_HUB = "https://huggingface.co/"
_SEGFORMER = "nvidia/segformer-"


def require_consent(name: str, terms: str, *, accept_license: bool) -> None:
    """Raise a UserError with the licence `terms`, which forbids commercial use of the weights `name`, unless it is accepted."""
    if not accept_license:
        raise UserError(
            f"The weights '{name}' forbid commercial use ({terms}); repeat with --accept-license (accept_license=True in "
            "Python) if you accept that."
        )


def forbidding_licence(source: str, who: str) -> str | None:
    """The licence of the weights at `source`, where it is known to forbid commercial use.

    Args:
        source: an https address or a Hugging Face id.
        who: the backbone that they are to fill; timm's names tell the licence of weights kept elsewhere.
    """
    hub = "/".join(source.removeprefix(_HUB).split("/")[:2])
    for entry in BACKBONES.values():
        if entry.published in (source, hub):
            return None if entry.commercial else entry.licence
    if hub.startswith(_SEGFORMER):  # a whole SegFormer fills its encoder too
        return MIX_TRANSFORMER_LICENCE
    stated = hub_licence(hub, who)
    return stated if stated is not None and any(part in stated for part in _FORBIDDING) else None
